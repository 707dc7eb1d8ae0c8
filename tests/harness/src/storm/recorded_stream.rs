//! The network under the shipped client: TLS streams to the nodes whose lines are recorded on the way. So the checker
//! judges what nodes and the client really said to each other, connection by connection.

use std::io::{Error, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use messagebase_checker::RecordingClient;
use messagebase_client::dial::{ConnectFuture, Connector, Stream};
use messagebase_config::{Address, pki};
use messagebase_protocol::json::{Op, Request};
use messagebase_protocol::line::{Line, LineBuffer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::storm::context::StormContext;
use crate::storm::tape::Tape;

/// Opens recorded streams for one client.
pub(super) struct RecordedNetwork {
    pub context: Arc<StormContext>,
    pub client: RecordingClient,
}

impl RecordedNetwork {
    async fn dial(&self, address: &Address) -> Result<Box<dyn Stream>> {
        let cluster = &self.context.cluster;
        let mut numbers = cluster.numbers().into_iter();
        let node = numbers
            .find(|n| cluster.ports(*n).client == address.port)
            .ok_or_else(|| Error::other(format!("{address} is no node's")))?;
        let tcp = TcpStream::connect((address.host.as_str(), address.port)).await?;
        tcp.set_nodelay(true)?;
        let tls = pki::client_tls(&cluster.pki()).map_err(|e| Error::other(e.to_string()))?;
        let name = ServerName::try_from(address.host.clone()).map_err(Error::other)?;
        let inner = TlsConnector::from(tls).connect(name, tcp).await?;
        Ok(Box::new(RecordedStream {
            inner: Box::new(inner),
            context: Arc::clone(&self.context),
            tape: Tape::new(&self.client, node),
            written: LineBuffer::new(),
            offered: 0,
            read: LineBuffer::new(),
        }))
    }
}

impl Connector for RecordedNetwork {
    fn connect<'a>(&'a self, address: &'a Address) -> ConnectFuture<'a> {
        Box::pin(self.dial(address))
    }
}

/// A stream whose lines are recorded: a request before it is written, an answer before the client reads it.
struct RecordedStream {
    inner: Box<dyn Stream>,
    context: Arc<StormContext>,
    tape: Tape,
    written: LineBuffer,
    /// Bytes that were recorded and not yet accepted by `inner`; the next write begins with them.
    offered: usize,
    read: LineBuffer,
}

impl RecordedStream {
    /// The program's bodies are its keys. A repetition under another key would be a second message, which no node and not
    /// the checker can tell from one that the program wanted.
    fn check_key(&self, line: &str) {
        if let Ok(Request {
            op: Op::Send { body, key, .. },
            ..
        }) = Request::parse(line)
            && body != key
        {
            let wrong = format!("the client library sent {body} under another key: {key}");
            self.context.wrong(wrong);
        }
    }
}

impl AsyncWrite for RecordedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        let this = &mut *self;
        if let Some(new) = bytes.get(this.offered..) {
            this.written.extend(new);
            this.offered = bytes.len();
            while let Some(Line::Whole(line)) = this.written.next() {
                let line = String::from_utf8_lossy(&line);
                this.check_key(&line);
                this.tape.asked_line(&line);
            }
        }
        let written = ready!(Pin::new(&mut this.inner).poll_write(cx, bytes))?;
        this.offered -= written;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl AsyncRead for RecordedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, buffer))?;
        this.read.extend(&buffer.filled()[before..]);
        while let Some(line) = this.read.next() {
            let heard = match line {
                Line::Whole(line) => this.tape.heard(&String::from_utf8_lossy(&line)).map(drop),
                Line::TooLong | Line::Abandon => Err("a node said a line that is too long".into()),
            };
            if let Err(wrong) = heard {
                this.context.wrong(wrong);
                return Poll::Ready(Err(Error::other("a line that is none")));
            }
        }
        Poll::Ready(Ok(()))
    }
}
