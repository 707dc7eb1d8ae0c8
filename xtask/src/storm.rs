//! `cargo xtask storm`: many long storms, one seed after the other. It only translates its options into the environment
//! of the test that does the work (`tests/storm/seeds.rs`), so that a storm is the same thing here and in `cargo test`.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitCode};

const USAGE: &str = "usage: cargo xtask storm --seeds FIRST-LAST [--seconds N] [--nodes 3|5] [--jobs N] [--release]";
/// Option, the variable that the test reads, and the default.
const OPTIONS: [(&str, &str, Option<&str>); 4] = [
    ("--seeds", "MESSAGEBASE_STORM_SEEDS", None),
    ("--seconds", "MESSAGEBASE_STORM_SECONDS", Some("20")),
    ("--nodes", "MESSAGEBASE_STORM_NODES", None),
    ("--jobs", "MESSAGEBASE_STORM_JOBS", None),
];

pub fn run(root: &Path, arguments: Vec<OsString>) -> ExitCode {
    // Optimized programs see other interleavings, and more of them in the same time; building them takes longer.
    let release = arguments.iter().any(|word| word == "--release");
    let arguments: Vec<OsString> = arguments
        .into_iter()
        .filter(|word| word != "--release")
        .collect();
    let Some(variables) = variables(&arguments) else {
        eprintln!("{USAGE}\nHint: cargo xtask storm --seeds 1-4");
        return ExitCode::from(2);
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut test = Command::new(cargo);
    test.args([
        "test",
        "--locked",
        "--package",
        "messagebase",
        "--test",
        "storm",
    ]);
    if release {
        test.arg("--release");
    }
    test.args([
        "--",
        "--ignored",
        "--exact",
        "--nocapture",
        "seeds::seeds_from_the_environment",
    ]);
    test.current_dir(root).envs(variables);
    crate::demo::forget_this_package(&mut test);
    match test.status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("failed to run cargo: {e}");
            ExitCode::FAILURE
        }
    }
}

/// What the options mean to the test; `None` if they mean nothing.
fn variables(arguments: &[OsString]) -> Option<Vec<(&'static str, String)>> {
    let mut variables: Vec<(&str, String)> = OPTIONS
        .iter()
        .filter_map(|(_, variable, default)| Some((*variable, (*default)?.to_owned())))
        .collect();
    let mut words = arguments.iter().map(|word| word.to_str());
    while let Some(word) = words.next() {
        let (_, variable, _) = OPTIONS.iter().find(|(option, ..)| Some(*option) == word)?;
        let value = words.next()??;
        let numbers = value
            .split('-')
            .map(|number| number.parse().ok())
            .collect::<Option<Vec<u64>>>()?;
        let makes_sense = match (*variable, numbers.as_slice()) {
            ("MESSAGEBASE_STORM_SEEDS", [first, last]) => first <= last,
            ("MESSAGEBASE_STORM_NODES", [nodes]) => [3, 5].contains(nodes),
            ("MESSAGEBASE_STORM_SECONDS" | "MESSAGEBASE_STORM_JOBS", [number]) => *number > 0,
            (variable, [_]) => variable == "MESSAGEBASE_STORM_SEEDS",
            _ => false,
        };
        if !makes_sense {
            return None;
        }
        variables.retain(|(other, _)| other != variable);
        variables.push((variable, value.to_owned()));
    }
    variables
        .iter()
        .any(|(variable, _)| *variable == OPTIONS[0].1)
        .then_some(variables)
}

#[cfg(test)]
mod tests {
    use super::variables;

    fn read(line: &str) -> Option<Vec<(&'static str, String)>> {
        let words: Vec<std::ffi::OsString> = line.split_whitespace().map(Into::into).collect();
        variables(&words)
    }

    #[test]
    fn options_become_variables_and_nonsense_is_refused() {
        let expected = vec![
            ("MESSAGEBASE_STORM_SECONDS", "20".to_owned()),
            ("MESSAGEBASE_STORM_SEEDS", "1-9".into()),
        ];
        assert_eq!(read("--seeds 1-9"), Some(expected));
        let read_all = read("--seeds 7 --seconds 5 --nodes 5 --jobs 2").expect("valid");
        assert_eq!(read_all.len(), 4);
        for line in [
            "",
            "--seconds 5",
            "--seeds",
            "--seeds x",
            "--seeds 1-9 --nodes 3-5",
            "--seed 1",
            "--seeds 9-1",
            "--seeds 1 --nodes 4",
            "--seeds 1 --jobs 0",
        ] {
            assert_eq!(read(line), None, "{line}");
        }
    }
}
