//! The demo without a person: two users, a message, the sender's node killed, a message through another node, the
//! node restarted, the files compared. A line for each step.

use std::io::Read;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::atomic_file;
use crate::cluster::Cluster;
use crate::command::demo::client::{Client, Stage};
use crate::command::demo::say;
use crate::command::{kill, name_nodes, up, verify};
use crate::error::CtlError;
use crate::exit::Exit;
use crate::output::Output;

/// With fewer voters, killing one leaves no majority.
const VOTERS_MIN: usize = 3;
/// Tables that every node must hold row for row.
const COMPARED: [&str; 3] = ["users", "messages", "sessions"];

/// Plays on nodes of this machine, `here`.
///
/// # Errors
/// A step failed; the error says which and why (exit 1).
pub async fn play(cluster: &Cluster, here: &[u16], output: &Output) -> Result<Exit, CtlError> {
    let (stage, directory) = stage(cluster)?;
    let played = scenes(cluster, here, &stage, output).await;
    // The clients' tokens are of no further use. A leftover is no failure of the demo.
    let _ = std::fs::remove_dir_all(&directory);
    played?;
    say(output, "The demo is done: nothing was lost.");
    Ok(Exit::Done)
}

/// Names and a password that no earlier demo on this cluster used, and a directory for the clients' tokens.
fn stage(cluster: &Cluster) -> Result<(Stage, std::path::PathBuf), CtlError> {
    let failed = |e| CtlError::failed("io", "failed to prepare the demo").because(e);
    let state = std::env::temp_dir().join(format!("messagebase-demo-{}", unique()));
    atomic_file::directory(&state).map_err(failed)?;
    let stage = Stage {
        config: cluster.config.path.clone(),
        state: state.clone(),
        password: password().map_err(failed)?,
    };
    Ok((stage, state))
}

fn unique() -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format!("{:x}-{}", now.as_millis(), std::process::id())
}

/// 128 random bits: the cluster may be one that others reach.
fn password() -> std::io::Result<String> {
    let mut bytes = [0_u8; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

async fn scenes(
    cluster: &Cluster,
    here: &[u16],
    stage: &Stage,
    output: &Output,
) -> Result<(), CtlError> {
    let cast = cast(cluster, here).await?;
    let node = cast.sender_node;
    stage.register(&cast.sender).await?;
    stage.register(&cast.receiver).await?;
    let (ann, ben) = (&cast.sender, &cast.receiver);
    say(output, &format!("1. Registered {ann} and {ben}."));
    let mut pair = Pair::log_in(stage, &cast)?;
    pair.deliver("Hello, are you there?").await?;
    say(
        output,
        &format!(
            "2. {ann} on node {node} sent a message; {ben} on node {} has it.",
            cast.receiver_node
        ),
    );
    kill::kill(cluster, node, output).await?;
    let killed = Instant::now();
    say(output, &format!("3. Killed node {node}, as by SIGKILL."));
    pair.deliver("I lost my node and found another.").await?;
    let took = killed.elapsed().as_millis();
    let told = pair.sender.told();
    let told = told.map_or_else(String::new, |told| format!("\n   {ann} was told: {told}"));
    say(
        output,
        &format!("4. A second message went through another node, {took} ms after the kill.{told}"),
    );
    pair.end().await?;
    up::bring_up(cluster, here, output).await?;
    say(
        output,
        &format!("5. Node {node} is back and has caught up."),
    );
    compare(cluster, output).await
}

/// Who plays on which node.
struct Cast {
    sender: String,
    receiver: String,
    sender_node: u16,
    receiver_node: u16,
}

/// The two clients, logged in.
struct Pair<'a> {
    cast: &'a Cast,
    sender: Client,
    receiver: Client,
}

impl<'a> Pair<'a> {
    fn log_in(stage: &Stage, cast: &'a Cast) -> Result<Self, CtlError> {
        let receiver_node = cast.receiver_node.to_string();
        let sender_node = cast.sender_node.to_string();
        Ok(Pair {
            cast,
            receiver: stage.log_in(&cast.receiver, &["--node", &receiver_node, "listen"])?,
            sender: stage.log_in(&cast.sender, &["--node", &sender_node])?,
        })
    }

    /// One message, acknowledged to the sender and seen by the receiver.
    async fn deliver(&mut self, body: &str) -> Result<(), CtlError> {
        let (from, to) = (&self.cast.sender, &self.cast.receiver);
        self.sender.say(&format!("d|{to}|{body}")).await?;
        loop {
            // `OK logged in` and the like may come before.
            let line = self.sender.expect("OK").await?;
            if line.starts_with("OK sent") || line.starts_with("OK queued") {
                break;
            }
        }
        let line = self.receiver.expect("MSG").await?;
        if line.starts_with(&format!("MSG {from} ")) && line.ends_with(body) {
            return Ok(());
        }
        Err(CtlError::failed(
            "demo",
            format!("{to} expected `{body}` from {from} and got: {line}"),
        ))
    }

    /// Ends both clients. A copy of a message is in the receiver's pipe by now, or comes before the receiver ends.
    async fn end(self) -> Result<(), CtlError> {
        self.receiver.interrupt();
        let extra = self.receiver.finish().await;
        if let Some(line) = extra.iter().find(|line| line.starts_with("MSG")) {
            let ben = &self.cast.receiver;
            return Err(CtlError::failed(
                "demo",
                format!("{ben} got a message twice: {line}"),
            ));
        }
        self.sender.finish().await;
        Ok(())
    }
}

/// The sender goes to the leader if it can be restarted from here, because its death is the harder case.
async fn cast(cluster: &Cluster, here: &[u16]) -> Result<Cast, CtlError> {
    let survey = cluster.survey().await;
    let verdict = survey.quorum_view();
    if verdict.agreeing < VOTERS_MIN {
        let message = format!(
            "the demo kills a node, and with {} of {} voters there none can be spared",
            verdict.agreeing, verdict.voters
        );
        return Err(CtlError::failed("demo", message)
            .hint("a cluster of three nodes that all run is enough"));
    }
    let leader = verdict.leader.filter(|leader| here.contains(leader));
    let sender_node = leader.or_else(|| here.first().copied()).ok_or_else(|| {
        CtlError::failed(
            "demo",
            "no node of this machine can be killed and started again",
        )
    })?;
    let other = survey
        .reports()
        .into_iter()
        .find(|report| report.node != sender_node && report.ready);
    let receiver_node = other.map_or(sender_node, |report| report.node);
    Ok(Cast {
        sender: format!("ann-{}", unique()),
        receiver: format!("ben-{}", unique()),
        sender_node,
        receiver_node,
    })
}

async fn compare(cluster: &Cluster, output: &Output) -> Result<(), CtlError> {
    let verified = verify::compare(cluster).await?;
    if !verified.missing.is_empty() {
        return Err(CtlError::failed(
            "demo",
            format!("{} could not be compared", name_nodes(&verified.missing)),
        ));
    }
    if let Some((table, nodes)) = verified.differing.iter().next() {
        return Err(CtlError::failed(
            "demo",
            format!("`{table}` differs on {}", name_nodes(nodes)),
        )
        .hint("`mbctl verify` shows the digests"));
    }
    let tables = verified.nodes.values().next();
    if let Some(absent) = COMPARED
        .iter()
        .find(|name| tables.is_none_or(|tables| !tables.contains_key(**name)))
    {
        return Err(CtlError::failed(
            "demo",
            format!("`{absent}` was not compared"),
        ));
    }
    let nodes: Vec<u16> = verified.nodes.keys().copied().collect();
    let what = COMPARED.join(", ");
    say(
        output,
        &format!(
            "6. {what}: the same rows on {} at applied index {}.",
            name_nodes(&nodes),
            verified.applied
        ),
    );
    Ok(())
}
