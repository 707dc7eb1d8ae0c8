//! `mbd`: one node of a MessageBase cluster. Everything is in the library.

fn main() -> std::process::ExitCode {
    messagebase_daemon::cli::main(messagebase_daemon::hooks::Hooks::default())
}
