//! Counters of a server, from its `/metrics` in Prometheus' text form. A few lines of HTTP of our own: a client
//! library for one GET on loopback would be the largest part of this crate.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A server that does not answer this long is not measured.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer that is read.
const ANSWER_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Why there are no counters.
#[derive(Debug, thiserror::Error)]
#[error("failed to read http://{address}/metrics: {why}")]
pub struct CountersError {
    /// Host and port.
    pub address: String,
    /// The reason.
    pub why: String,
}

/// One reading.
#[derive(Debug, Clone)]
pub struct Counters(String);

impl Counters {
    /// Asks `HOST:PORT`.
    ///
    /// # Errors
    /// It can't be reached, or does not answer with status 200 in time.
    pub async fn read(address: &str) -> Result<Counters, CountersError> {
        let fail = |why: String| CountersError {
            address: address.to_owned(),
            why,
        };
        let asked = async {
            let mut stream = TcpStream::connect(address).await?;
            let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream
                .take(ANSWER_MAX_BYTES)
                .read_to_string(&mut answer)
                .await?;
            std::io::Result::Ok(answer)
        };
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, asked)
            .await
            .map_err(|_| fail("no answer in time".into()))?
            .map_err(|e| fail(e.to_string()))?;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.split(' ').nth(1) == Some("200") => {
                Ok(Counters(body.to_owned()))
            }
            _ => Err(fail(format!(
                "it answered {:?}",
                answer.lines().next().unwrap_or_default()
            ))),
        }
    }

    /// The value of a series without labels.
    pub fn value(&self, name: &str) -> Option<f64> {
        let values = self
            .0
            .lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        values.filter_map(|value| value.trim().parse().ok()).next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_matched_whole() {
        let counters =
            Counters("# HELP a_total x\na_total_more 1\na_total{x=\"y\"} 2\na_total 3e2\n".into());
        assert_eq!(counters.value("a_total"), Some(300.0));
        assert_eq!(counters.value("a"), None);
    }
}
