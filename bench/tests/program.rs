//! The program starts and knows its benchmarks. That it is built by `cargo test` lets the operator tests run it.

use std::process::Command;

#[test]
fn help_names_the_benchmarks() {
    let ran = Command::new(env!("CARGO_BIN_EXE_mbbench"))
        .arg("--help")
        .output()
        .expect("mbbench starts");
    let help = String::from_utf8_lossy(&ran.stdout);
    for benchmark in [
        "failover",
        "load",
        "compare",
        "connections",
        "logins",
        "growth",
    ] {
        assert!(help.contains(benchmark), "{help}");
    }
}
