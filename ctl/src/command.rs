//! A file for each command. Each takes its arguments and the output and says how it ended.

pub mod backup;
pub mod bench;
pub mod changes;
pub mod demo;
pub mod down;
pub mod init;
pub mod kill;
pub mod logs;
pub mod manual;
pub mod member;
pub mod restore;
pub mod sql;
pub mod status;
pub mod transfer;
pub mod up;
pub mod user;
pub mod verify;

use messagebase_config::Config;

use crate::cli::{Cli, Command};
use crate::cluster::{Cluster, unknown_node};
use crate::error::CtlError;
use crate::exit::Exit;
use crate::machine;
use crate::output::Output;

/// Runs a parsed command line.
///
/// # Errors
/// What the command failed with; its exit code is in it.
pub async fn run(cli: Cli, output: &Output) -> Result<Exit, CtlError> {
    let flag = cli.config.as_deref();
    match cli.command {
        Command::Init(arguments) => init::run(flag, &arguments, output),
        Command::Demo(arguments) => demo::run(flag, &arguments, output).await,
        Command::Completions { shell } => manual::completions(shell, output),
        Command::Man { dir } => manual::man(dir.as_deref(), output),
        Command::Logs(arguments) => logs::run(&Config::find(flag)?, &arguments, output).await,
        Command::Up(some) => up::run(&Cluster::open(flag)?, &some.nodes, output).await,
        Command::Down(some) => down::run(&Cluster::open(flag)?, &some.nodes, output).await,
        Command::Stop(nodes) => down::stop(&Cluster::open(flag)?, &nodes.nodes, output).await,
        Command::Status(arguments) => status::run(&Cluster::open(flag)?, &arguments, output).await,
        Command::Kill(nodes) => kill::run(&Cluster::open(flag)?, &nodes.nodes, output).await,
        Command::Transfer(one) => transfer::run(&Cluster::open(flag)?, one.node, output).await,
        Command::Member(command) => member::run(&Cluster::open(flag)?, &command, output).await,
        Command::User(command) => user::run(&Cluster::open(flag)?, &command, output).await,
        Command::Sql(arguments) => sql::run(&Cluster::open(flag)?, arguments, output).await,
        Command::Changes(arguments) => {
            changes::run(&Cluster::open(flag)?, &arguments, output).await
        }
        Command::Bench(arguments) => bench::run(flag, &arguments, output),
        Command::Backup(arguments) => backup::run(&Cluster::open(flag)?, &arguments, output).await,
        Command::Restore(arguments) => {
            restore::run(&Cluster::open(flag)?, flag, &arguments, output).await
        }
        Command::Verify => verify::run(&Cluster::open(flag)?, output).await,
    }
}

/// The nodes that were named, else those of this machine.
fn these_or_here(config: &Config, named: &[u16]) -> Result<Vec<u16>, CtlError> {
    if let Some(unknown) = named.iter().find(|node| config.node(**node).is_none()) {
        return Err(unknown_node(config, *unknown));
    }
    if !named.is_empty() {
        let mut nodes = named.to_vec();
        nodes.sort_unstable();
        nodes.dedup();
        return Ok(nodes);
    }
    let here = machine::nodes_here(config);
    if here.is_empty() {
        let message = format!(
            "none of the nodes in {} belongs to this machine",
            config.path.display()
        );
        return Err(CtlError::usage(message)
            .hint("a node is of this machine when its node-N.key is here and its `peer` host is an address of it; numbers given by hand win"));
    }
    Ok(here)
}

/// `node 2`, `nodes 1 and 3`, `nodes 1, 2 and 3`.
pub fn name_nodes(nodes: &[u16]) -> String {
    match nodes {
        [] => "no node".into(),
        [one] => format!("node {one}"),
        [most @ .., last] => {
            let most: Vec<String> = most.iter().map(u16::to_string).collect();
            format!("nodes {} and {last}", most.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::name_nodes;

    #[test]
    fn nodes_are_named_as_people_do() {
        assert_eq!(
            [&[][..], &[2], &[1, 3], &[1, 2, 3]].map(name_nodes),
            ["no node", "node 2", "nodes 1 and 3", "nodes 1, 2 and 3"]
        );
    }
}
