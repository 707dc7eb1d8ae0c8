//! The program `mbbench`; everything is in the library beside it.

fn main() -> std::process::ExitCode {
    messagebase_bench::main()
}
