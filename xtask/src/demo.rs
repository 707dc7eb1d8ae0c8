//! `cargo demo`: builds the programs with the release profile and becomes `mbctl demo`.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Measured on two cores with the dependencies already downloaded. Said before the first build, so that nobody thinks it
/// hangs.
const FIRST_BUILD_MINUTES: u32 = 2;

pub fn run(root: &Path, arguments: Vec<OsString>) -> ExitCode {
    let programs = match release_directory() {
        Ok(directory) => directory,
        Err(e) => return fail(&format!("failed to find the build directory: {e}")),
    };
    if !has_c_compiler() {
        return fail(
            "no C compiler was found, and SQLite and the ciphers are written in C\n\
             Hint: install one (Debian and Ubuntu: apt-get install gcc libc6-dev) and run `cargo demo` again",
        );
    }
    if programs.join("mbctl").exists() {
        eprintln!("Bringing MessageBase up to date (seconds, unless much has changed).");
    } else {
        eprintln!(
            "Building MessageBase. The first build takes about {FIRST_BUILD_MINUTES} minutes on two cores."
        );
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // The profile and features of `cargo build --release`, so that neither builds again what the other has built.
    let mut build = Command::new(cargo);
    build.args([
        "build",
        "--release",
        "--locked",
        "--bins",
        "--package",
        "messagebase",
        "--manifest-path",
    ]);
    build.arg(root.join("Cargo.toml"));
    forget_this_package(&mut build);
    match build.status() {
        Ok(status) if status.success() => {}
        Ok(_) => return fail("the build failed; what cargo printed above says why"),
        Err(e) => return fail(&format!("failed to run cargo: {e}")),
    }
    let mut demo = Command::new(programs.join("mbctl"));
    demo.arg("demo").args(arguments);
    forget_this_package(&mut demo);
    // `exec` returns only if it failed.
    let e = demo.exec();
    fail(&format!(
        "failed to start {}: {e}",
        programs.join("mbctl").display()
    ))
}

/// Where the release binaries will be: beside the profile directory that this program itself was built into. That
/// honours `CARGO_TARGET_DIR`, `build.target-dir` and `build.target` alike.
fn release_directory() -> std::io::Result<PathBuf> {
    let this = std::env::current_exe()?;
    let target = this.parent().and_then(Path::parent);
    target
        .map(|target| target.join("release"))
        .ok_or_else(|| std::io::Error::other("it has no parent directory"))
}

/// `cargo run` describes this package in the environment. Left in, the build scripts that watch those variables (ring's)
/// run again on every start: 8.7 s instead of 0.06 s.
pub fn forget_this_package(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if is_package_variable(&name) {
            command.env_remove(name);
        }
    }
}

fn is_package_variable(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    let prefixes = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"];
    let whole = [
        "CARGO_CRATE_NAME",
        "CARGO_PRIMARY_PACKAGE",
        "CARGO_TARGET_TMPDIR",
        "OUT_DIR",
    ];
    prefixes.iter().any(|prefix| name.starts_with(prefix)) || whole.contains(&name)
}

fn has_c_compiler() -> bool {
    if std::env::vars_os()
        .any(|(name, _)| name == "CC" || name.to_string_lossy().starts_with("CC_"))
    {
        return true;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| {
        ["cc", "gcc", "clang"]
            .iter()
            .any(|name| dir.join(name).is_file())
    })
}

fn fail(message: &str) -> ExitCode {
    eprintln!("{message}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::is_package_variable;

    #[test]
    fn only_the_variables_that_describe_a_package_are_forgotten() {
        for name in [
            "CARGO_PKG_NAME",
            "CARGO_MANIFEST_DIR",
            "CARGO_MANIFEST_PATH",
            "CARGO_BIN_NAME",
        ] {
            assert!(is_package_variable(name.as_ref()), "{name} must go");
        }
        for name in [
            "CARGO",
            "CARGO_HOME",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_TARGET",
            "RUSTUP_HOME",
            "PATH",
        ] {
            assert!(!is_package_variable(name.as_ref()), "{name} must stay");
        }
    }
}
