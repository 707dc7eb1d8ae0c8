//! Writes users and messages into the file of a node that does not run, with the `sqlite3` program: through the front
//! door, ten million messages would take a quarter of an hour.

use std::path::Path;
use std::process::Stdio;

use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::load::LoadError;

/// The program, as Debian's `sqlite3` installs it.
pub const PROGRAM: &str = "sqlite3";
/// What all users log in with.
pub const PASSWORD: &str = "the crowd of the growth benchmark";
/// Its argon2id hash with the cost that the configuration has by default.
const PASSWORD_HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$y99YfdUVDUdK3VCT6N3owg$FC9YBHfy5kiHbJla2mpLj/4xve4g6EbWDxZirCqhOg0";
const SCRIPT: &str = include_str!("fill.sql");

/// How much a file is filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Users, who wrote and received the same number of messages each.
    pub users: u32,
    /// Messages.
    pub messages: u32,
}

/// The name of the user in that place; counted from 0.
pub fn user(at: u32) -> String {
    format!("User-{at:06}")
}

/// Whether the program is there.
pub async fn is_possible() -> bool {
    let asked = Command::new(PROGRAM)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .await;
    asked.is_ok_and(|answer| answer.status.success())
}

/// Fills one file. `at` is when all messages were sent, Unix ms: in the past, and the same for all nodes of a cluster.
///
/// # Errors
/// There is no such program, or it failed: the file is worthless then.
pub async fn fill(file: &Path, size: Size, at: u64) -> Result<(), LoadError> {
    let failed = |why: String| {
        LoadError::Refused(format!(
            "failed to fill {} with {PROGRAM}: {why}",
            file.display()
        ))
    };
    let mut filling = Command::new(PROGRAM)
        .args(["-batch", "-bail"])
        .arg(file)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    let Size { users, messages } = size;
    let script = format!(
        "PRAGMA temp_store = MEMORY;\n.parameter set :users {users}\n.parameter set :messages {messages}\n\
         .parameter set :at {at}\n.parameter set :password_hash \"'{PASSWORD_HASH}'\"\n{SCRIPT}"
    );
    if let Some(mut input) = filling.stdin.take() {
        // One that ends early says why.
        let _ = input.write_all(script.as_bytes()).await;
    }
    let ended = filling
        .wait_with_output()
        .await
        .map_err(|e| failed(e.to_string()))?;
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    Err(failed(format!(
        "{}: {}",
        ended.status,
        said.lines().last().unwrap_or_default()
    )))
}
