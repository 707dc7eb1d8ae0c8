//! Cuts a byte stream into lines, within the protocol's limits. Pure: the caller reads the socket.

use crate::limits::{LINE_ABANDON_BYTES, LINE_MAX_BYTES};

/// What [`LineBuffer::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A whole line without its `\n` or `\r\n`. Not yet checked to be UTF-8.
    Whole(Vec<u8>),
    /// A line over [`LINE_MAX_BYTES`]. Reported once; its bytes up to the newline are skipped.
    TooLong,
    /// An unfinished line over [`LINE_ABANDON_BYTES`]: the caller closes the connection.
    Abandon,
}

/// Bytes that were received and not consumed: at most [`LINE_MAX_BYTES`] plus one read.
#[derive(Debug, Default)]
pub struct LineBuffer {
    bytes: Vec<u8>,
    /// End of the lines that were returned; their bytes are removed by the next `extend`.
    consumed: usize,
    /// End of the bytes that were searched for a newline: each byte of a slow sender is searched once.
    searched: usize,
    /// Length so far of a line that is too long and being skipped.
    skipping: Option<usize>,
}

impl LineBuffer {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds received bytes.
    pub fn extend(&mut self, read: &[u8]) {
        if self.consumed > 0 {
            self.bytes.drain(..self.consumed);
            self.searched -= self.consumed;
            self.consumed = 0;
        }
        self.bytes.extend_from_slice(read);
    }

    /// The next line that is complete or too long.
    #[allow(
        clippy::should_implement_trait,
        reason = "a buffer that refills is not an iterator that ends"
    )]
    pub fn next(&mut self) -> Option<Line> {
        loop {
            let found = self.bytes[self.searched..]
                .iter()
                .position(|b| *b == b'\n')
                .map(|at| self.searched + at);
            if let Some(skipped) = self.skipping {
                match found {
                    Some(at) => {
                        self.skipping = None;
                        self.consume_to(at + 1);
                        continue;
                    }
                    None => {
                        let total = skipped + self.bytes.len() - self.consumed;
                        self.consume_to(self.bytes.len());
                        self.skipping = Some(total);
                        return (total > LINE_ABANDON_BYTES).then_some(Line::Abandon);
                    }
                }
            }
            return match found {
                Some(at) if at + 1 - self.consumed > LINE_MAX_BYTES => {
                    self.consume_to(at + 1);
                    Some(Line::TooLong)
                }
                Some(at) => {
                    let mut end = at;
                    if end > self.consumed && self.bytes[end - 1] == b'\r' {
                        end -= 1;
                    }
                    let line = self.bytes[self.consumed..end].to_vec();
                    self.consume_to(at + 1);
                    Some(Line::Whole(line))
                }
                None if self.bytes.len() - self.consumed >= LINE_MAX_BYTES => {
                    self.skipping = Some(self.bytes.len() - self.consumed);
                    self.consume_to(self.bytes.len());
                    Some(Line::TooLong)
                }
                None => {
                    self.searched = self.bytes.len();
                    None
                }
            };
        }
    }

    /// The received part of the line that is not complete; empty while a line that is too long is skipped.
    pub fn unfinished(&self) -> &[u8] {
        &self.bytes[self.consumed..]
    }

    /// Takes the unfinished bytes as a line (the pipe dialect's first clients send no newline).
    pub fn take_unfinished(&mut self) -> Vec<u8> {
        let line = self.unfinished().to_vec();
        self.consume_to(self.bytes.len());
        line
    }

    fn consume_to(&mut self, end: usize) {
        self.consumed = end;
        self.searched = end;
        if self.consumed == self.bytes.len() {
            self.bytes.clear();
            self.consumed = 0;
            self.searched = 0;
        }
    }
}
