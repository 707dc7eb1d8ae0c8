//! Sends one message under a key that stays the same, from a job that may run twice:
//!
//! ```text
//! MESSAGEBASE_PASSWORD='a password' cargo run --package messagebase-client --example send -- \
//!     messagebase.toml anna ben backup-2026-12-01 'the backup is done'
//! ```
//!
//! The second run under the same key delivers nothing and says so.
#![allow(clippy::print_stdout, reason = "an example shows what it did")]

use std::path::Path;

use messagebase_client::{Client, Options};
use messagebase_config::Config;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let ([config, from, to, key, text], Ok(password)) =
        (arguments.as_slice(), std::env::var("MESSAGEBASE_PASSWORD"))
    else {
        return Err("usage: MESSAGEBASE_PASSWORD=PASSWORD send CONFIG FROM TO KEY TEXT".into());
    };
    let (client, _events) = Client::start(&Config::load(Path::new(config))?, Options::default())?;
    client.login(from, &password).await?;
    let sent = client.send_keyed(to, text, key).await?;
    if sent.duplicate {
        println!("{key} was sent before, as message {}", sent.id);
    } else {
        println!("sent as message {}", sent.id);
    }
    // Each run would leave a session behind.
    client.logout().await?;
    Ok(())
}
