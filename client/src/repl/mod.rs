//! placeholder
use crate::{cli::Cli, error::ClientError, exit::Exit};
/// Placeholder.
pub async fn run(_: &Cli, _: &messagebase_config::Config) -> Result<Exit, ClientError> {
    Ok(Exit::Done)
}
