//! The grammar of `mbctl`. One definition feeds the parser, the help, the manual pages and the completions.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use clap_complete::Shell;

/// Make, run, watch and change a MessageBase cluster.
#[derive(Debug, Parser)]
#[command(
    name = "mbctl",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
#[command(
    after_help = "Exit codes: 0 done, 1 refused or failed, 2 usage or configuration, 3 no node or no quorum."
)]
pub struct Cli {
    /// The configuration; else $MESSAGEBASE_CONFIG, else ./messagebase.toml
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print data and errors as JSON on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a configuration and make the CA, node and admin keys; overwrites nothing
    Init(InitArgs),
    /// Start this machine's nodes in the background and wait until the cluster serves
    Up(SomeNodes),
    /// Stop this machine's nodes gracefully
    Down(SomeNodes),
    /// A cluster and a chat in one step; without a terminal it plays itself
    Demo(DemoArgs),
    /// Every node, dead and hung ones included
    Status(StatusArgs),
    /// Let nodes die at once, as by SIGKILL
    Kill(Nodes),
    /// Stop nodes gracefully, wherever they run
    Stop(Nodes),
    /// Hand leadership to a node
    Transfer(OneNode),
    /// Change the replica set of a running cluster
    #[command(subcommand)]
    Member(MemberCommand),
    /// Accounts
    #[command(subcommand)]
    User(UserCommand),
    /// Read-only SQL on a node's file, limited in time and rows
    Sql(SqlArgs),
    /// The change log, readable
    Changes(ChangesArgs),
    /// The daemon's log of a node on this machine
    Logs(LogsArgs),
    /// Compare the nodes' states at one applied index
    Verify,
    /// A consistent copy of the state from a live node, wherever it runs, into a new file
    Backup(BackupArgs),
    /// Begin a new cluster with what is in a backup, as one node of this machine; its data directory must be empty
    Restore(BackupArgs),
    /// Measure a cluster, by the program `mbbench`
    #[command(disable_help_flag = true)]
    Bench(BenchArgs),
    /// Shell completions, to standard output
    Completions {
        /// For which shell.
        shell: Shell,
    },
    /// Manual pages
    Man {
        /// Write a page for each command into this directory instead of one page to standard output
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Arguments of mbbench; `mbctl bench --help` shows them
    #[arg(
        value_name = "ARGUMENT",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub arguments: Vec<OsString>,
}

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// How many nodes a new configuration names [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=99))]
    pub nodes: Option<u16>,
    /// Where messagebase.toml and pki/ go [default: the current directory]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Node N of a new configuration gets the ports P+N (client), P+100+N (peer), P+200+N (http), P+300+N (plain)
    /// [default: 7100]
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1024..=65_100))]
    pub base_port: Option<u16>,
    /// The cluster's name, for people [default: messagebase]
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
}

/// Nodes, all of this machine when none is named.
#[derive(Debug, Args)]
pub struct SomeNodes {
    /// Numbers of nodes [default: those of this machine]
    #[arg(value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub nodes: Vec<u16>,
}

/// Nodes, at least one.
#[derive(Debug, Args)]
pub struct Nodes {
    /// Numbers of nodes
    #[arg(value_name = "N", required = true, value_parser = clap::value_parser!(u16).range(1..))]
    pub nodes: Vec<u16>,
}

/// Arguments of `backup` and `restore`.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The backup; `backup` never replaces a file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Which node [default: `backup` a follower that keeps up, `restore` the first one of this machine]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub node: Option<u16>,
}

/// A node.
#[derive(Debug, Args)]
pub struct OneNode {
    /// Number of the node
    #[arg(value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub node: u16,
}

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Where the demo's cluster is or goes [default: a messagebase.toml in ./, else where the last demo was, else
    /// ./messagebase-demo]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Show it again every second, until interrupted
    #[arg(long)]
    pub watch: bool,
}

/// `member …`
#[derive(Debug, Subcommand)]
pub enum MemberCommand {
    /// The replicated membership
    List,
    /// Take a new node in as a learner; it must be in the configuration
    Add(OneNode),
    /// Take a node out
    Remove(OneNode),
    /// Make a learner a voter
    Promote(OneNode),
    /// Take a node that lost its disk in again: a new identity, the same number and certificate
    Replace(OneNode),
}

/// `user …`
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Accounts by name
    List {
        /// A glob with `*` and `?` [default: all]
        pattern: Option<String>,
    },
    /// One account
    Show(UserName),
    /// Make an account, also when registration is closed
    Add(UserPassword),
    /// Lock an account and end its sessions
    Lock(UserName),
    /// Unlock an account
    Unlock(UserName),
    /// Set a new password and end the sessions
    ResetPassword(UserPassword),
    /// Delete an account; its name stays reserved
    Delete(UserName),
    /// Release the reserved name of a deleted account
    Free(UserName),
}

/// A user.
#[derive(Debug, Args)]
pub struct UserName {
    /// Name of the user
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// A user and where their password comes from.
#[derive(Debug, Args)]
pub struct UserPassword {
    /// Name of the user
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Take the password from the first line of this file; else from $MESSAGEBASE_PASSWORD, else it is asked
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
}

/// Arguments of `sql`.
#[derive(Debug, Args)]
pub struct SqlArgs {
    /// On which node's file [default: the leader's, else of any node that answers]
    #[arg(long, value_name = "N")]
    pub node: Option<u16>,
    /// One SELECT
    #[arg(value_name = "SELECT")]
    pub text: String,
}

/// Arguments of `changes`.
#[derive(Debug, Args)]
pub struct ChangesArgs {
    /// Of which node [default: the leader, else any node that answers]
    #[arg(long, value_name = "N")]
    pub node: Option<u16>,
    /// First log index; 0: from the oldest kept
    #[arg(long, value_name = "I", default_value_t = 0)]
    pub from: u64,
    /// Go on with what comes, until interrupted
    #[arg(long)]
    pub follow: bool,
}

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Number of the node
    #[arg(value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub node: u16,
    /// Go on with what comes, until interrupted
    #[arg(long)]
    pub follow: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn config_and_json_are_taken_before_and_after_a_command() {
        for line in [
            ["mbctl", "--config", "x", "--json", "status"],
            ["mbctl", "status", "--json", "--config", "x"],
        ] {
            let cli = Cli::try_parse_from(line).expect("valid");
            assert_eq!((cli.config, cli.json), (Some("x".into()), true));
        }
        assert!(
            Cli::try_parse_from(["mbctl", "kill"]).is_err(),
            "kill names its nodes"
        );
        assert!(Cli::try_parse_from(["mbctl", "transfer", "0"]).is_err());
    }
}
