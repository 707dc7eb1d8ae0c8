//! The program `mbctl`; everything is in the library beside it.

fn main() -> std::process::ExitCode {
    messagebase_ctl::main()
}
