//! `mbclient`: nothing but the call into the library, so that everything can be tested there.

use std::process::ExitCode;

fn main() -> ExitCode {
    messagebase_client::run::run()
}
