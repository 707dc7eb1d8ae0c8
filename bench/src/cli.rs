//! The grammar of `mbbench`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Measure a MessageBase cluster through the client library.
#[derive(Debug, Parser)]
#[command(
    name = "mbbench",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
#[command(
    after_help = "Exit codes: 0 done, 1 refused or failed, 2 usage or configuration, 3 no node or no quorum."
)]
pub struct Cli {
    /// With --existing: the configuration; else $MESSAGEBASE_CONFIG, else ./messagebase.toml
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print data and errors as JSON on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// What to measure.
    #[command(subcommand)]
    pub command: BenchCommand,
}

/// The benchmarks.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// From a fault of the leader to the next acknowledged send; proves that nothing was lost or doubled
    Failover(FailoverArgs),
    /// Sends a second, their latency and what they cost; proves that none was lost or doubled by killing all nodes
    Load(LoadArgs),
    /// The same load on this cluster and on an etcd, in alternating rounds; needs the package etcd-server
    Compare(CompareArgs),
    /// Sessions that say nothing: what each holds of a node's memory, and how soon a message reaches any of them
    Connections(ConnectionsArgs),
    /// Sends without and with connections that do nothing but log in
    Logins(LoginsArgs),
    /// Questions and sends with ten million messages stored, beside a cluster with few; needs the package sqlite3
    Growth(GrowthArgs),
}

/// Arguments of `mbbench connections`.
#[derive(Debug, Args)]
#[command(
    after_long_help = "All sessions are TLS connections to the leader. Each account gets one message, which must \
    reach all of its sessions: exit 1 if a session ends or misses it."
)]
pub struct ConnectionsArgs {
    /// Connections, each logged in
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u16).range(1..=19_000))]
    pub sessions: u16,
    /// Accounts that the sessions are spread over; a session of one account is taken up by many connections
    #[arg(long, value_name = "N", default_value_t = 250, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub accounts: u16,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub place: BenchPlace,
}

/// Arguments of `mbbench logins`.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Both use the leader. Each storming connection tries a wrong password, then the right one, \
    then begins anew. A new cluster allows any number of failed logins, so that every password is hashed; the \
    configured one (`--existing`) keeps its limits."
)]
pub struct LoginsArgs {
    /// Connections that send, a session each, one send outstanding
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub senders: u16,
    /// Connections that log in
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub storming: u16,
    /// Rounds without and with the storm, alternating; medians are shown
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rounds: u32,
    /// Seconds of load before each round that are not measured
    #[arg(long, value_name = "S", default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=3_600))]
    pub warm_up: u32,
    /// Seconds that each round measures
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub seconds: u32,
    /// Bytes of a message's body
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u16).range(20..=16_384))]
    pub body_bytes: u16,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub place: BenchPlace,
}

/// Arguments of `mbbench growth`.
#[derive(Debug, Args)]
#[command(
    after_long_help = "The nodes' files are filled before they are measured: with ten million messages that takes ten \
    minutes, 15 GB of disk and 7 GB of memory. With --keep the large cluster stays, to be started with `mbctl up` and measured again \
    with --existing, under the same --users and --messages."
)]
pub struct GrowthArgs {
    /// Messages that the large cluster holds; the newest tenth is queued
    #[arg(long, value_name = "N", default_value_t = 10_000_000, value_parser = clap::value_parser!(u32).range(1_000..=100_000_000))]
    pub messages: u32,
    /// Users whose messages they are
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(11..=1_000_000))]
    pub users: u32,
    /// Users who ask, spread over all; the small cluster holds them alone, with as many messages for each
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u16).range(11..=5_000))]
    pub askers: u16,
    /// Only these requests [default: all]
    #[arg(long, value_enum, value_name = "REQUEST,…", value_delimiter = ',')]
    pub requests: Vec<GrowthRequest>,
    /// Questions under way at a time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub questions: u16,
    /// Connections that send, one send outstanding each
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub senders: u16,
    /// Rounds of each request on each cluster, alternating; medians are shown
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rounds: u32,
    /// Seconds of load before each round that are not measured
    #[arg(long, value_name = "S", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=3_600))]
    pub warm_up: u32,
    /// Seconds that each round measures
    #[arg(long, value_name = "S", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub seconds: u32,
    /// Bytes of a sent message's body
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u16).range(20..=16_384))]
    pub body_bytes: u16,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub place: BenchPlace,
}

/// Arguments of `mbbench load`.
#[derive(Debug, Args)]
pub struct LoadArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub shape: LoadShape,
    /// Which layer of the client library sends
    #[arg(long, value_enum, value_name = "LAYER", default_value_t = ClientLayer::Connection)]
    pub through: ClientLayer,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub place: BenchPlace,
}

/// Arguments of `mbbench compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub shape: LoadShape,
    /// Let etcd do without TLS, to clients and between its nodes
    #[arg(long)]
    pub etcd_without_tls: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub place: BenchPlace,
}

/// What load is like.
#[derive(Debug, Args)]
pub struct LoadShape {
    /// Connections, a session each; several numbers are measured one after the other [default: 1,16,64,256,1024;
    /// compare: 1,64,256]
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub connections: Vec<u16>,
    /// Sends that a connection has unanswered: 1 waits for each answer, more is pipelining
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub outstanding: u16,
    /// Where the connections go
    #[arg(long, value_enum, value_name = "NODES", default_value_t = SendersOn::Leader)]
    pub clients_on: SendersOn,
    /// Bytes of a message's body
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u16).range(20..=16_384))]
    pub body_bytes: u16,
    /// Rounds of each shape; medians are shown [default: 3; compare: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rounds: Option<u32>,
    /// Seconds of load before each round that are not measured
    #[arg(long, value_name = "S", default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=3_600))]
    pub warm_up: u32,
    /// Seconds that each round measures
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub seconds: u32,
}

/// Arguments of `mbbench failover`.
#[derive(Debug, Args)]
#[command(
    after_long_help = "kill and hang are measured from just before the signal to the first acknowledgement that \
    the struck leader can't have given; stop and transfer by the longest send from the order to two seconds after it. \
    After the rounds the recipient's whole mailbox is read: exit 1 if an acknowledged message is missing, doubled or \
    out of order, or if a send failed."
)]
pub struct FailoverArgs {
    /// What happens to the leader
    #[arg(long, value_enum, default_value_t = FaultKind::Kill)]
    pub fault: FaultKind,
    /// How often
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rounds: u32,
    /// Where the sender is connected when the fault comes
    #[arg(long, value_enum, value_name = "ROLE", default_value_t = SenderOn::Leader)]
    pub client_on: SenderOn,
    /// Bytes of a message's body
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u16).range(20..=16_384))]
    pub body_bytes: u16,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub place: BenchPlace,
}

/// Where a benchmark's cluster comes from.
#[derive(Debug, Args)]
pub struct BenchPlace {
    /// Use the configured cluster, which must be up, instead of a new one that is removed afterwards
    #[arg(long, conflicts_with_all = ["dir", "keep"])]
    pub existing: bool,
    /// Where the new cluster's directory is made; its disk is part of what is measured [default: the system's
    /// directory for temporary files]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Keep the new cluster's directory, for its logs
    #[arg(long)]
    pub keep: bool,
}

/// What `mbbench failover` does to the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FaultKind {
    /// SIGKILL
    Kill,
    /// SIGSTOP, and SIGCONT once the others go on without it
    Hang,
    /// A graceful stop, as by `mbctl stop`
    Stop,
    /// Leadership is handed over, as by `mbctl transfer`
    Transfer,
}

/// Where `mbbench load` connects its senders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SendersOn {
    /// All to the leader
    Leader,
    /// In turn to all nodes
    All,
}

/// What `mbbench growth` measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GrowthRequest {
    /// The first page of what is queued
    Inbox,
    /// A page of all messages behind one of them
    Sync,
    /// The newest page of a conversation
    History,
    /// The users whose names begin alike
    Search,
    /// A send
    Send,
    /// A new connection and a login
    Login,
}

/// Which layer of the client library `mbbench load` measures through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ClientLayer {
    /// A connection, as the whole client uses it
    Connection,
    /// The whole client: outbox, health checks, failover
    Client,
}

/// Where `mbbench failover` connects its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SenderOn {
    /// The node that is struck
    Leader,
    /// The follower with the lowest number
    Follower,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }
}
