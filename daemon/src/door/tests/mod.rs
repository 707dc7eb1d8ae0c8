//! The door as its clients meet it: bytes in, bytes out, over in-memory streams; the store and the state are real.

mod bounds;
mod delivery;
mod json_ops;
mod json_refusals;
mod pipe_ops;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, ReadHalf, WriteHalf};
use tokio_util::sync::CancellationToken;

use super::{Door, Timeouts, connection};
use crate::service::Service;
use crate::service::testing::TestNode;

/// Nothing in these tests takes this long unless it is broken.
const DEADLINE: Duration = Duration::from_secs(20);
const PASSWORD: &str = "correct horse";
/// Bytes that an in-memory stream holds each way.
const STREAM_BYTES: usize = 64 * 1024;

/// Awaits a future; names what was missing when it takes too long.
async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not come within {DEADLINE:?}"),
    }
}

/// Polls until a condition holds. No other test code polls.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    within(what, async {
        let mut tick = tokio::time::interval(Duration::from_millis(2));
        while !condition().await {
            tick.tick().await;
        }
    })
    .await;
}

/// A client on an in-memory stream.
struct Client {
    reader: BufReader<ReadHalf<DuplexStream>>,
    writer: WriteHalf<DuplexStream>,
    next_id: u64,
    /// Lines that arrived while another one was awaited.
    aside: Vec<Value>,
}

impl Client {
    fn connect(service: &Arc<Service>) -> Self {
        Self::connect_with(service, Timeouts::default(), STREAM_BYTES)
    }

    fn connect_with(service: &Arc<Service>, timeouts: Timeouts, stream_bytes: usize) -> Self {
        let (ours, theirs) = tokio::io::duplex(stream_bytes);
        let door = Door::new(service.clone(), 1, timeouts, None);
        tokio::spawn(async move {
            connection::run(&door, theirs, None, CancellationToken::new()).await
        });
        let (reader, writer) = tokio::io::split(ours);
        Client {
            reader: BufReader::new(reader),
            writer,
            next_id: 0,
            aside: Vec::new(),
        }
    }

    async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        within("room to write", self.writer.write_all(bytes.as_ref()))
            .await
            .expect("the stream is open");
    }

    /// The next line without its newline; empty at the end of the stream.
    async fn line(&mut self) -> String {
        let mut line = String::new();
        within("a line", self.reader.read_line(&mut line))
            .await
            .expect("lines are text");
        if !line.is_empty() {
            assert_eq!(
                line.pop(),
                Some('\n'),
                "a line that ends the stream must be whole: {line:?}"
            );
        }
        line
    }

    async fn lines(&mut self, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        for _ in 0..count {
            lines.push(self.line().await);
        }
        lines
    }

    async fn value(&mut self) -> Value {
        let line = self.line().await;
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line:?} is not JSON: {e}"))
    }

    /// Sends a request without waiting; its id.
    async fn ask(&mut self, op: &str, mut fields: Value) -> u64 {
        self.next_id += 1;
        fields["id"] = self.next_id.into();
        fields["op"] = op.into();
        self.write(format!("{fields}\n")).await;
        self.next_id
    }

    /// The reply to a request; other lines are put aside.
    async fn reply(&mut self, id: u64) -> Value {
        let is_it = |value: &Value| value["id"] == id;
        if let Some(at) = self.aside.iter().position(is_it) {
            return self.aside.remove(at);
        }
        loop {
            let value = self.value().await;
            if is_it(&value) {
                return value;
            }
            self.aside.push(value);
        }
    }

    /// The next event of that kind.
    async fn event(&mut self, kind: &str) -> Value {
        let is_it = |value: &Value| value["event"] == kind;
        if let Some(at) = self.aside.iter().position(is_it) {
            return self.aside.remove(at);
        }
        loop {
            let value = self.value().await;
            if is_it(&value) {
                return value;
            }
            self.aside.push(value);
        }
    }

    async fn call(&mut self, op: &str, fields: Value) -> Value {
        let id = self.ask(op, fields).await;
        self.reply(id).await
    }

    async fn ok(&mut self, op: &str, fields: Value) -> Value {
        let reply = self.call(op, fields).await;
        assert!(reply.get("error").is_none(), "{op}: {reply}");
        reply["ok"].clone()
    }

    /// The code and outcome of a refusal.
    async fn refused(&mut self, op: &str, fields: Value) -> (String, String) {
        let reply = self.call(op, fields).await;
        refusal(&reply)
    }

    async fn expect_end(&mut self) {
        assert_eq!(self.line().await, "", "the connection must have ended");
    }
}

fn refusal(reply: &Value) -> (String, String) {
    let error = reply
        .get("error")
        .unwrap_or_else(|| panic!("not a refusal: {reply}"));
    let text = |field: &str| error[field].as_str().unwrap_or_default().to_owned();
    assert!(!text("message").is_empty(), "a refusal says why: {reply}");
    (text("code"), text("outcome"))
}

fn not_done(code: &str) -> (String, String) {
    (code.into(), "not_done".into())
}

fn unknown(code: &str) -> (String, String) {
    (code.into(), "unknown".into())
}

/// Makes an account.
async fn register(node: &TestNode, user: &str) {
    let mut client = Client::connect(&node.service);
    client
        .ok(
            "register",
            json!({"user": user, "password": PASSWORD, "key": format!("register {user}")}),
        )
        .await;
}

/// A connection that is logged in, with its token.
async fn login(node: &TestNode, user: &str) -> (Client, String) {
    let mut client = Client::connect(&node.service);
    let ok = client
        .ok("login", json!({"user": user, "password": PASSWORD}))
        .await;
    (client, ok["token"].as_str().expect("a token").to_owned())
}

/// A node with these accounts.
async fn node_with(users: &[&str]) -> TestNode {
    let node = TestNode::start();
    for user in users {
        register(&node, user).await;
    }
    node
}
