//! `mbctl bench`: its own cluster, what it reports, and that it leaves nothing behind. Never looks at times: those of a
//! busy machine say nothing.

use std::path::Path;

use messagebase_harness::{LONG, Place, Signal, wait_for};
use serde_json::{Value, json};

use crate::place;

/// The states of the processes that have a path below `directory` in their arguments, by process id.
fn processes_of(directory: &Path) -> Vec<(u32, char)> {
    let wanted = directory.to_str().expect("UTF-8");
    let numbers = std::fs::read_dir("/proc")
        .expect("proc")
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let arguments = std::fs::read(entry.path().join("cmdline")).ok()?;
            String::from_utf8_lossy(&arguments)
                .contains(wanted)
                .then_some(pid)
        });
    let state = |pid: u32| {
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .ok()?
            .rsplit(") ")
            .next()?
            .chars()
            .next()
    };
    numbers.filter_map(|pid| Some((pid, state(pid)?))).collect()
}

/// A directory for the benchmark's own clusters.
fn ground(place: &Place) -> std::path::PathBuf {
    let ground = place.path().join("ground");
    std::fs::create_dir(&ground).expect("a new directory");
    ground
}

#[track_caller]
fn nothing_is_left(ground: &Path) {
    assert_eq!(processes_of(ground), [], "processes");
    let left: Vec<_> = std::fs::read_dir(ground)
        .expect("a directory")
        .flatten()
        .map(|entry| entry.path())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

fn bench(place: &Place, ground: &Path, arguments: &[&str]) -> messagebase_harness::Command {
    place
        .bare_mbctl(&["bench", "failover"])
        .args(arguments)
        .arg("--dir")
        .arg(ground)
}

#[test]
fn failover_loses_and_doubles_nothing_and_leaves_nothing_behind() {
    let place = place(1);
    let ground = ground(&place);
    for (fault, measure) in [("kill", "recovery"), ("transfer", "longest_send")] {
        let ran = bench(
            &place,
            &ground,
            &["--rounds", "2", "--json", "--fault", fault],
        )
        .within(LONG * 3)
        .run();
        let report: Value = ran.expect_code(0).json();
        let told = [
            &report["fault"],
            &report["client_on"],
            &report["measure"],
            &report["rounds"],
            &report["body_bytes"],
        ];
        assert_eq!(
            told,
            [
                &json!(fault),
                &json!("leader"),
                &json!(measure),
                &json!(2),
                &json!(256)
            ],
            "{report}"
        );
        for figure in [
            "min_ms",
            "median_ms",
            "p90_ms",
            "p99_ms",
            "max_ms",
            "undisturbed_send_median_ms",
        ] {
            assert!(
                report[figure].as_f64().is_some_and(|ms| ms > 0.0),
                "{figure} of {report}"
            );
        }
        let times = report["times_ms"].as_array().expect("a list").clone();
        let mut sorted: Vec<f64> = times.iter().filter_map(Value::as_f64).collect();
        sorted.sort_by(f64::total_cmp);
        assert_eq!(sorted.len(), 2, "{report}");
        assert_eq!(
            [&json!(sorted[0]), &json!(sorted[1])],
            [&report["min_ms"], &report["max_ms"]],
            "{report}"
        );
        for count in ["lost", "doubled", "out_of_order", "strange", "errors"] {
            assert_eq!(report[count], 0, "{count} of {report}");
        }
        assert!(
            report["acknowledged"]
                .as_u64()
                .is_some_and(|sends| sends > 40),
            "{report}"
        );
        let rounds = report["detail"].as_array().expect("a list");
        assert!(
            rounds
                .iter()
                .all(|round| round["struck"] != round["leader"]),
            "leadership moved: {report}"
        );
        if fault == "kill" {
            assert!(
                report["failovers"]
                    .as_u64()
                    .is_some_and(|failovers| failovers >= 2),
                "{report}"
            );
        }
        nothing_is_left(&ground);
    }
}

#[test]
fn idle_sessions_all_hear_their_message() {
    let place = place(1);
    let ground = ground(&place);
    let bench = place.bare_mbctl(&[
        "bench",
        "connections",
        "--sessions",
        "7",
        "--accounts",
        "3",
        "--json",
    ]);
    let report: Value = bench
        .arg("--dir")
        .arg(&ground)
        .within(LONG * 3)
        .run()
        .expect_code(0)
        .json();
    assert_eq!(
        [
            &report["sessions"],
            &report["accounts"],
            &report["deliveries"]
        ],
        [7, 3, 7],
        "{report}"
    );
    for figure in [
        "before_mib",
        "open_mib",
        "after_messages_mib",
        "closed_mib",
        "p50_ms",
        "p99_ms",
        "max_ms",
    ] {
        assert!(
            report[figure].as_f64().is_some_and(|value| value > 0.0),
            "{figure} of {report}"
        );
    }
    nothing_is_left(&ground);
}

#[test]
fn a_storm_of_logins_is_measured_beside_the_same_load() {
    let place = place(1);
    let ground = ground(&place);
    let shape = [
        "--senders",
        "2",
        "--storming",
        "2",
        "--rounds",
        "1",
        "--warm-up",
        "0",
        "--seconds",
        "1",
        "--json",
    ];
    let bench = place
        .bare_mbctl(&["bench", "logins"])
        .args(&shape)
        .arg("--dir")
        .arg(&ground);
    let report: Value = bench.within(LONG * 3).run().expect_code(0).json();
    for point in [&report["calm"], &report["storm"]] {
        assert!(
            point["median"]["per_second"]
                .as_f64()
                .is_some_and(|rate| rate > 0.0),
            "{report}"
        );
    }
    let answers = &report["answers"][0];
    assert!(
        answers["logged_in"]
            .as_u64()
            .zip(answers["wrong"].as_u64())
            .is_some(),
        "{report}"
    );
    assert_eq!(
        [&answers["rate_limited"], &answers["failed"]],
        [0, 0],
        "{report}"
    );
    nothing_is_left(&ground);
}

#[test]
fn reads_and_sends_are_measured_on_a_filled_cluster_beside_a_small_one() {
    let place = place(1);
    let ground = ground(&place);
    let size = [
        "--messages",
        "6000",
        "--users",
        "30",
        "--askers",
        "20",
        "--questions",
        "2",
        "--senders",
        "2",
    ];
    let shape = [
        "--rounds",
        "1",
        "--warm-up",
        "0",
        "--seconds",
        "1",
        "--json",
    ];
    let bench = place
        .bare_mbctl(&["bench", "growth"])
        .args(&size)
        .args(&shape)
        .arg("--dir")
        .arg(&ground);
    let ran = bench.within(LONG * 3).run();
    let filled_by = std::process::Command::new("sqlite3")
        .arg("--version")
        .output();
    if filled_by.is_err() {
        assert_eq!(ran.expect_code(1).json()["error"]["code"], "no_sqlite3");
        return;
    }
    let report: Value = ran.expect_code(0).json();
    assert_eq!(
        [&report["large"]["users"], &report["small"]["messages"]],
        [30, 4_000],
        "{report}"
    );
    let lines = report["lines"].as_array().expect("a list");
    let requests: Vec<_> = lines
        .iter()
        .filter_map(|line| line["request"].as_str())
        .collect();
    assert_eq!(
        requests,
        ["inbox", "sync", "history", "search", "send", "login"],
        "{report}"
    );
    for point in lines
        .iter()
        .flat_map(|line| [&line["large"], &line["small"]])
    {
        assert!(
            point["median"]["per_second"]
                .as_f64()
                .is_some_and(|rate| rate > 0.0),
            "{report}"
        );
    }
    nothing_is_left(&ground);
}

#[test]
fn an_interruption_ends_hung_nodes_as_well() {
    let place = place(1);
    let ground = ground(&place);
    let bench = bench(&place, &ground, &["--fault", "hang", "--rounds", "1000"]).start();
    wait_for("a node that hangs", LONG * 2, || {
        processes_of(&ground)
            .iter()
            .any(|(_, state)| *state == 'T')
            .then_some(())
    });
    bench.signal(Signal::SIGTERM);
    bench.end().expect_code(1).expect_err("interrupted");
    nothing_is_left(&ground);
}

#[test]
fn an_existing_cluster_is_left_as_it_was_found() {
    let place = place(3);
    place
        .mbctl(&["bench", "failover", "--existing", "--rounds", "1"])
        .expect_code(3);
    place.mbctl(&["up"]).expect_code(0);
    for fault in ["stop", "hang"] {
        let ran = place.mbctl_command(&[
            "bench",
            "failover",
            "--existing",
            "--rounds",
            "1",
            "--fault",
            fault,
        ]);
        ran.within(LONG * 3)
            .run()
            .expect_code(0)
            .expect_out("lost 0, doubled 0");
        let status: Value = place.mbctl(&["status", "--json"]).expect_code(0).json();
        let nodes = status["nodes"].as_array().expect("a list");
        assert!(
            nodes.iter().all(|node| node["reachable"] == true),
            "{status}"
        );
    }
    place
        .mbctl(&["bench", "failover", "--existing", "--keep"])
        .expect_code(2);
    place.mbctl(&["down"]).expect_code(0);
}
