//! A TCP proxy on one link that can hold bytes back (a cut), lose them, delay them, or reset what is open, each way on
//! its own.
//!
//! A cut loses nothing: as with a network that comes back, TCP delivers afterwards. What a node must notice is silence.
//! A connection that lost bytes can't go on: it is reset when the loss ends, and stays open, silent, until then.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

const READ_BYTES: usize = 16 * 1024;
const DIAL_WITHIN: Duration = Duration::from_secs(2);

/// What happens to the bytes of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DirectionState {
    /// They wait until this is over.
    pub held: bool,
    /// They are gone.
    pub lost: bool,
    /// They come so much later.
    pub delay: Duration,
}

/// What a link is like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkState {
    /// From who dialed to who was dialed.
    pub forth: DirectionState,
    /// From who was dialed to who dialed.
    pub back: DirectionState,
}

/// Which way a pump carries.
#[derive(Debug, Clone, Copy)]
enum Direction {
    Forth,
    Back,
}

#[derive(Debug, Default)]
struct State {
    link_state: LinkState,
    ended: bool,
    /// Both ends of each open connection, and whether bytes of it were lost.
    open: HashMap<u64, Open>,
    next: u64,
}

#[derive(Debug)]
struct Open {
    ends: [TcpStream; 2],
    holed: bool,
}

impl Open {
    fn reset(&self) {
        for end in &self.ends {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

#[derive(Debug, Default)]
struct Link {
    state: Mutex<State>,
    changed: Condvar,
}

/// The proxy. Everything through it ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    link: Arc<Link>,
}

impl Proxy {
    /// Listens on a port of the OS's choice and passes on to `target` on this machine.
    pub fn to(target: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let link = Arc::new(Link::default());
        let accepting = Arc::clone(&link);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if accepting.lock().ended {
                    return;
                }
                let link = Arc::clone(&accepting);
                std::thread::spawn(move || pass(&link, near, target));
            }
        });
        Proxy { port, link }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Makes the link like this from now on. What was held back and no longer is goes on; what lost bytes and no longer
    /// does is reset.
    pub fn set(&self, link_state: LinkState) {
        self.link.change(|state| {
            state.link_state = link_state;
            if !link_state.forth.lost && !link_state.back.lost {
                state
                    .open
                    .values()
                    .filter(|open| open.holed)
                    .for_each(Open::reset);
            }
        });
    }

    /// Holds back everything from now on, on open connections and new ones.
    pub fn cut(&self) {
        let held = DirectionState {
            held: true,
            ..DirectionState::default()
        };
        self.set(LinkState {
            forth: held,
            back: held,
        });
    }

    /// Lets everything through again, also what was held back.
    pub fn heal(&self) {
        self.set(LinkState::default());
    }

    /// Delays what comes from now on.
    pub fn delay(&self, by: Duration) {
        let late = DirectionState {
            delay: by,
            ..DirectionState::default()
        };
        self.set(LinkState {
            forth: late,
            back: late,
        });
    }

    /// Ends what is open; new connections are accepted.
    pub fn sever(&self) {
        self.link
            .change(|state| state.open.values().for_each(Open::reset));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.link.change(|state| state.ended = true);
        self.sever();
        // Wakes the accepting thread, which then sees that it is over.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// What becomes of bytes that came.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Pass,
    Vanish,
    /// The proxy has ended.
    End,
}

impl Link {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding it")
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until it is clear what becomes of bytes of connection `id` that came at `came`.
    fn fate(&self, id: Option<u64>, direction: Direction, came: Instant) -> Fate {
        let mut state = self.lock();
        loop {
            if state.ended {
                return Fate::End;
            }
            let way = match direction {
                Direction::Forth => state.link_state.forth,
                Direction::Back => state.link_state.back,
            };
            let due = came + way.delay;
            let now = Instant::now();
            state = if way.held {
                self.changed.wait(state).expect("not poisoned")
            } else if now < due {
                self.changed
                    .wait_timeout(state, due - now)
                    .expect("not poisoned")
                    .0
            } else if way.lost {
                if let Some(open) = id.and_then(|id| state.open.get_mut(&id)) {
                    open.holed = true;
                }
                return Fate::Vanish;
            } else {
                return Fate::Pass;
            };
        }
    }

    /// Keeps the ends of a connection, to reset it.
    fn enter(&self, ends: [TcpStream; 2]) -> u64 {
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        state.open.insert(id, Open { ends, holed: false });
        id
    }
}

/// One connection: dials on, then pumps both ways until either side ends.
fn pass(link: &Arc<Link>, near: TcpStream, target: u16) {
    // A loss does not keep the dialer from waiting for an answer that can't come.
    if link.fate(None, Direction::Forth, Instant::now()) == Fate::End {
        return;
    }
    // A target that is down looks to the dialer like a connection that closes before the handshake.
    let Ok(far) =
        TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], target)), DIAL_WITHIN)
    else {
        return;
    };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (Ok(near_too), Ok(far_too)) = (near.try_clone(), far.try_clone()) else {
        return;
    };
    let (Ok(a), Ok(b)) = (near.try_clone(), far.try_clone()) else {
        return;
    };
    let id = link.enter([a, b]);
    let back = Arc::clone(link);
    let returning = std::thread::spawn(move || pump(&back, id, Direction::Back, far_too, near_too));
    pump(link, id, Direction::Forth, near, far);
    let _ = returning.join();
    link.lock().open.remove(&id);
}

fn pump(link: &Link, id: u64, direction: Direction, mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = vec![0; READ_BYTES];
    loop {
        let read = from.read(&mut bytes);
        // The end of a connection does not pass a cut either, and a loss swallows it until it is over.
        let fate = link.fate(Some(id), direction, Instant::now());
        match (read, fate) {
            (_, Fate::End) => break,
            (Ok(n), Fate::Pass) if n > 0 => {
                if to.write_all(&bytes[..n]).is_err() {
                    break;
                }
            }
            (Ok(n), Fate::Vanish) if n > 0 => {}
            // Both ends are reset when the loss is over.
            (_, Fate::Vanish) => return,
            (_, Fate::Pass) => break,
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::{DirectionState, LinkState, Proxy};

    #[test]
    fn a_loss_in_one_direction_lets_the_other_pass_and_resets_the_connection_when_it_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let proxy = Proxy::to(listener.local_addr().expect("bound").port());
        let mut near = TcpStream::connect(("127.0.0.1", proxy.port())).expect("the proxy");
        let (mut far, _) = listener.accept().expect("the proxy dials");
        proxy.set(LinkState {
            forth: DirectionState {
                lost: true,
                ..DirectionState::default()
            },
            back: DirectionState::default(),
        });
        near.write_all(b"a").expect("open");
        far.set_read_timeout(Some(Duration::from_millis(150)))
            .expect("a timeout");
        let mut byte = [0];
        let lost = far.read(&mut byte).expect_err("lost").kind();
        assert!(matches!(lost, ErrorKind::WouldBlock | ErrorKind::TimedOut));
        far.write_all(b"b").expect("open");
        near.read_exact(&mut byte).expect("the way back is open");
        assert_eq!(byte, *b"b");
        proxy.heal();
        near.set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a timeout");
        assert_eq!(near.read(&mut byte).unwrap_or(0), 0, "reset");
    }

    #[test]
    fn a_cut_holds_bytes_back_and_healing_delivers_them() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let proxy = Proxy::to(listener.local_addr().expect("bound").port());
        let mut near = TcpStream::connect(("127.0.0.1", proxy.port())).expect("the proxy");
        let (mut far, _) = listener.accept().expect("the proxy dials");
        near.write_all(b"a").expect("open");
        let mut byte = [0];
        far.read_exact(&mut byte).expect("passed on");
        proxy.cut();
        near.write_all(b"b").expect("open");
        far.set_read_timeout(Some(Duration::from_millis(150)))
            .expect("a timeout");
        let held = far.read(&mut byte).expect_err("held back").kind();
        assert!(matches!(held, ErrorKind::WouldBlock | ErrorKind::TimedOut));
        proxy.heal();
        far.set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a timeout");
        far.read_exact(&mut byte).expect("delivered");
        assert_eq!(byte, *b"b");
        proxy.sever();
        assert_eq!(far.read(&mut byte).unwrap_or(0), 0, "severed");
    }
}
