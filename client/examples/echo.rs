//! A bot that sends back what it is sent, once, though nodes and the bot itself are killed:
//!
//! ```text
//! MESSAGEBASE_PASSWORD='a password' cargo run --package messagebase-client --example echo -- messagebase.toml echo
//! ```
//!
//! A message counts as answered when it is acknowledged, which is after its echo was sent. A bot that was killed
//! between the two is given the message again and sends the echo again, under the same key: it is delivered once.

use std::path::PathBuf;

use messagebase_client::{Client, ClientError, ClientEvent, Options};
use messagebase_config::Config;
use messagebase_protocol::code::{Code, Failure};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(config), Some(user), Ok(password)) = (
        arguments.next().map(PathBuf::from),
        arguments.next(),
        std::env::var("MESSAGEBASE_PASSWORD"),
    ) else {
        return Err("usage: MESSAGEBASE_PASSWORD=PASSWORD echo CONFIG USER".into());
    };
    let options = Options {
        receive: true,
        ..Options::default()
    };
    let (client, mut events) = Client::start(&Config::load(&config)?, options)?;
    log_in(&client, &user, &password).await?;
    while let Some(event) = events.recv().await {
        let ClientEvent::Message(message) = event else {
            continue;
        };
        if message.from != message.to {
            let key = format!("echo-{}", message.id);
            // Waits in the outbox, however long the cluster is away.
            let mut echo = client
                .enqueue_keyed(&message.from, &message.body, &key)
                .await?;
            match echo.answer().await {
                // The sender was deleted, or has too much waiting: no later try would do better.
                Ok(_) | Err(ClientError::Refused(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        client.acknowledge(message.id).await?;
    }
    Ok(())
}

/// The first run makes the account.
async fn log_in(client: &Client, user: &str, password: &str) -> Result<(), ClientError> {
    match client.register(user, password).await {
        Ok(_)
        | Err(ClientError::Refused(Failure {
            code: Code::NameTaken,
            ..
        })) => client.login(user, password).await.map(|_| ()),
        Err(error) => Err(error),
    }
}
