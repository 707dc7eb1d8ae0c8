//! A blocking connection to a node that exchanges lines, over TLS or plain; for the pipe dialect and for everything a
//! client should not send. [`crate::TestClient`] speaks JSON on top.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use messagebase_protocol::line::{Line, LineBuffer};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConnection, StreamOwned};

use crate::wait::SHORT;

const CONNECT_WITHIN: Duration = Duration::from_secs(30);
const READ_BYTES: usize = 64 * 1024;

/// Something to read from with a time limit, and to write to.
trait Stream: Read + Write + Send {
    fn socket(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Stream for StreamOwned<ClientConnection, TcpStream> {
    fn socket(&self) -> &TcpStream {
        &self.sock
    }
}

/// What came, or did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A line.
    Line(String),
    /// The other side closed, in order or not.
    Closed,
    /// Nothing in the given time.
    Nothing,
}

/// A connection; closed when dropped.
pub struct Connection {
    stream: Box<dyn Stream>,
    buffer: LineBuffer,
    closed: bool,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// To a `plain` port (or, to see what happens, to any other).
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn plain(port: u16) -> std::io::Result<Connection> {
        Ok(Connection::on(Box::new(tcp(port, CONNECT_WITHIN)?)))
    }

    /// To a node of this machine, over TLS with the keys of this `pki/` or plain, in limited time: a node that is stopped
    /// accepts connections and says nothing.
    ///
    /// # Errors
    /// When nobody listens there, the handshake fails, or it takes too long.
    pub fn dial(port: u16, pki: Option<&Path>, within: Duration) -> std::io::Result<Connection> {
        match pki {
            Some(pki) => Connection::handshake(port, pki, "127.0.0.1", within),
            None => Ok(Connection::on(Box::new(tcp(port, within)?))),
        }
    }

    /// Over TLS, trusting `ca.pem` of this `pki/`, to the server that calls itself `name`.
    ///
    /// # Errors
    /// When nobody listens there or the handshake fails.
    pub fn tls(port: u16, pki: &Path, name: &str) -> std::io::Result<Connection> {
        Connection::handshake(port, pki, name, SHORT)
    }

    fn handshake(
        port: u16,
        pki: &Path,
        name: &str,
        within: Duration,
    ) -> std::io::Result<Connection> {
        let config = messagebase_config::pki::client_tls(pki)
            .map_err(|e| std::io::Error::other(e.to_string()))?;
        let name = ServerName::try_from(name.to_owned()).map_err(std::io::Error::other)?;
        let session = ClientConnection::new(config, name).map_err(std::io::Error::other)?;
        let mut stream = StreamOwned::new(session, tcp(port, CONNECT_WITHIN)?);
        stream.sock.set_read_timeout(Some(within))?;
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Connection::on(Box::new(stream)))
    }

    fn on(stream: Box<dyn Stream>) -> Connection {
        Connection {
            stream,
            buffer: LineBuffer::new(),
            closed: false,
        }
    }

    /// Writes bytes as they are. That the other side has closed shows when reading.
    pub fn write(&mut self, bytes: &[u8]) {
        let _ = self
            .stream
            .write_all(bytes)
            .and_then(|()| self.stream.flush());
    }

    /// Writes a line.
    pub fn say(&mut self, line: &str) {
        self.write(format!("{line}\n").as_bytes());
    }

    /// Waits for the next line.
    pub fn hear(&mut self, within: Duration) -> Heard {
        let until = Instant::now() + within;
        loop {
            match self.buffer.next() {
                Some(Line::Whole(line)) => {
                    return Heard::Line(String::from_utf8(line).expect("a node writes UTF-8"));
                }
                Some(other) => panic!("a node wrote a line over the limit: {other:?}"),
                None if self.closed => return Heard::Closed,
                None => {}
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Heard::Nothing;
            }
            self.fill(left);
        }
    }

    fn fill(&mut self, within: Duration) {
        let mut bytes = vec![0; READ_BYTES];
        // A timeout of zero would mean none at all.
        let _ = self
            .stream
            .socket()
            .set_read_timeout(Some(within.max(Duration::from_millis(1))));
        match self.stream.read(&mut bytes) {
            Ok(0) => self.closed = true,
            Ok(n) => self.buffer.extend(&bytes[..n]),
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(_) => self.closed = true,
        }
    }

    /// The next line; fails the test when none comes.
    #[track_caller]
    pub fn line(&mut self, what: &str) -> String {
        match self.hear(SHORT) {
            Heard::Line(line) => line,
            other => panic!("expected {what}, but heard {other:?}"),
        }
    }

    /// Lines up to and including `END`.
    #[track_caller]
    pub fn list(&mut self, what: &str) -> Vec<String> {
        let mut lines = Vec::new();
        while lines.last().map(String::as_str) != Some("END") {
            lines.push(self.line(what));
        }
        lines
    }

    /// The lines until the other side closes, which it must do soon.
    #[track_caller]
    pub fn last_words(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            match self.hear(SHORT) {
                Heard::Line(line) => lines.push(line),
                Heard::Closed => return lines,
                Heard::Nothing => {
                    panic!("the node did not close the connection; it said {lines:?}")
                }
            }
        }
    }

    /// Ends our side in order and waits until the other has closed too.
    #[track_caller]
    pub fn close(mut self) -> Vec<String> {
        let _ = self.stream.socket().shutdown(std::net::Shutdown::Write);
        self.last_words()
    }
}

fn tcp(port: u16, within: Duration) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), within)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(SHORT))?;
    Ok(stream)
}
