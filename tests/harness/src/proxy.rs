//! A TCP proxy on one link that can hold bytes back (a cut), delay them, or reset what is open.
//!
//! A cut loses nothing: as with a network that comes back, TCP delivers afterwards. What a node must notice is silence.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

const READ_BYTES: usize = 16 * 1024;
const DIAL_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
struct State {
    cut: bool,
    delay: Duration,
    ended: bool,
    open: Vec<TcpStream>,
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

    /// Holds back everything from now on, on open connections and new ones.
    pub fn cut(&self) {
        self.link.change(|state| state.cut = true);
    }

    /// Lets everything through again, also what was held back.
    pub fn heal(&self) {
        self.link.change(|state| {
            state.cut = false;
            state.delay = Duration::ZERO;
        });
    }

    /// Delays what comes from now on.
    pub fn delay(&self, by: Duration) {
        self.link.change(|state| state.delay = by);
    }

    /// Ends what is open; new connections are accepted.
    pub fn sever(&self) {
        self.link.change(|state| {
            for stream in state.open.drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
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

impl Link {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding it")
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until bytes that came at `came` may go on; false when the proxy has ended.
    fn may_pass(&self, came: Instant) -> bool {
        let mut state = self.lock();
        loop {
            if state.ended {
                return false;
            }
            let due = came + state.delay;
            let now = Instant::now();
            state = if state.cut {
                self.changed.wait(state).expect("not poisoned")
            } else if now < due {
                self.changed.wait_timeout(state, due - now).expect("not poisoned").0
            } else {
                return true;
            };
        }
    }
}

/// One connection: dials on, then pumps both ways until either side ends.
fn pass(link: &Arc<Link>, near: TcpStream, target: u16) {
    if !link.may_pass(Instant::now()) {
        return;
    }
    // A target that is down looks to the dialer like a connection that closes before the handshake.
    let Ok(far) = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], target)), DIAL_WITHIN) else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (Ok(near_too), Ok(far_too)) = (near.try_clone(), far.try_clone()) else { return };
    if let (Ok(a), Ok(b)) = (near.try_clone(), far.try_clone()) {
        link.lock().open.extend([a, b]);
    }
    let back = Arc::clone(link);
    std::thread::spawn(move || pump(&back, far_too, near_too));
    pump(link, near, far);
}

fn pump(link: &Link, mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = vec![0; READ_BYTES];
    loop {
        let read = from.read(&mut bytes);
        // The end of a connection does not pass a cut either.
        if !link.may_pass(Instant::now()) {
            break;
        }
        match read {
            Ok(n) if n > 0 => {
                if to.write_all(&bytes[..n]).is_err() {
                    break;
                }
            }
            _ => break,
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

    use super::Proxy;

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
        far.set_read_timeout(Some(Duration::from_millis(150))).expect("a timeout");
        let held = far.read(&mut byte).expect_err("held back").kind();
        assert!(matches!(held, ErrorKind::WouldBlock | ErrorKind::TimedOut));
        proxy.heal();
        far.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        far.read_exact(&mut byte).expect("delivered");
        assert_eq!(byte, *b"b");
        proxy.sever();
        assert_eq!(far.read(&mut byte).unwrap_or(0), 0, "severed");
    }
}
