//! Ports that stay ours for the life of a cluster, also while a node is down and nothing listens on them.
//!
//! A port that the OS hands out for `:0` lies in the ephemeral range: while a killed node is down, some other test's
//! outgoing connection may take it, and the restart fails once in a thousand runs. So the ports come from below that
//! range, in blocks; the owner of the listener on a block's first port owns the block. The OS arbitrates between test
//! processes and frees the block when its owner ends, however it ends.

use std::net::TcpListener;

/// First port of the first block, and the end of the last one: below Linux' ephemeral range (32768).
const RANGE: std::ops::Range<u16> = 10_000..32_000;
/// Ports of a block: its guard and the ports of at most twelve nodes.
const BLOCK: u16 = 50;
const PORTS_PER_NODE: u16 = 4;

/// The ports of one node.
#[derive(Debug, Clone, Copy)]
pub struct NodePorts {
    /// Clients over TLS.
    pub client: u16,
    /// Nodes and admins.
    pub peer: u16,
    /// HTTP.
    pub http: u16,
    /// Clients without TLS.
    pub plain: u16,
}

/// A block of ports, given back when dropped.
#[derive(Debug)]
pub(crate) struct PortBlock {
    _guard: TcpListener,
    first: u16,
}

impl PortBlock {
    /// Takes a free block. Begins at a place that differs between processes, so that they seldom collide.
    pub(crate) fn take() -> PortBlock {
        let blocks = (RANGE.end - RANGE.start) / BLOCK;
        let start = u16::try_from(std::process::id() % u32::from(blocks)).unwrap_or(0);
        for n in 0..blocks {
            let first = RANGE.start + (start + n) % blocks * BLOCK;
            let Ok(guard) = TcpListener::bind(("127.0.0.1", first)) else {
                continue;
            };
            let free = (first + 1..first + BLOCK)
                .all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok());
            if free {
                return PortBlock {
                    _guard: guard,
                    first,
                };
            }
        }
        panic!(
            "no {BLOCK} free ports in a row between {} and {}",
            RANGE.start, RANGE.end
        );
    }

    /// The ports of node `n` (1-based).
    pub(crate) fn node(&self, n: u16) -> NodePorts {
        let base = self.first + 1 + (n - 1) * PORTS_PER_NODE;
        assert!(
            n >= 1 && base + PORTS_PER_NODE <= self.first + BLOCK,
            "a block has no room for node {n}"
        );
        NodePorts {
            client: base,
            peer: base + 1,
            http: base + 2,
            plain: base + 3,
        }
    }
}
