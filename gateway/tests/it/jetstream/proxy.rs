//! A TCP proxy that can be cut like a cable, or swallow everything like a bad firewall.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

const FORWARDS: u8 = 0;
/// Connections end as soon as they are made.
const CUT: u8 = 1;
/// Connections stay, and nothing gets through.
const SWALLOWS: u8 = 2;
const ENDED: u8 = 3;

/// One connection through the proxy.
struct Through {
    client: TcpStream,
    server: TcpStream,
    /// Of this connection, for as long as it lives.
    swallows: Arc<AtomicBool>,
}

/// See the module.
pub(super) struct Proxy {
    address: SocketAddr,
    mode: Arc<AtomicU8>,
    made: Receiver<Through>,
    connections: Vec<Through>,
}

impl Proxy {
    /// A proxy in front of `server`, which may be down.
    pub(super) fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mode = Arc::new(AtomicU8::new(FORWARDS));
        let (tell, made) = channel();
        let seen = Arc::clone(&mode);
        std::thread::spawn(move || accept(&listener, server, &seen, &tell));
        Self { address, mode, made, connections: Vec::new() }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends all connections, and every new one at once.
    pub(super) fn cut(&mut self) {
        self.mode.store(CUT, Ordering::SeqCst);
        self.connections.extend(self.made.try_iter());
        for through in self.connections.drain(..) {
            let _ = through.client.shutdown(Shutdown::Both);
            let _ = through.server.shutdown(Shutdown::Both);
        }
    }

    /// Lets nothing through any more, on the connections that are there for good.
    pub(super) fn swallow(&mut self) {
        self.mode.store(SWALLOWS, Ordering::SeqCst);
        self.connections.extend(self.made.try_iter());
        for through in &self.connections {
            through.swallows.store(true, Ordering::SeqCst);
        }
    }

    /// New connections are forwarded again.
    pub(super) fn mend(&mut self) {
        self.mode.store(FORWARDS, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.mode.store(ENDED, Ordering::SeqCst);
        // Wakes whoever accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn accept(listener: &TcpListener, server: SocketAddr, mode: &AtomicU8, tell: &Sender<Through>) {
    for client in listener.incoming().map_while(Result::ok) {
        let now = mode.load(Ordering::SeqCst);
        if now == ENDED {
            return;
        }
        if now == CUT {
            continue;
        }
        let Ok(server) = TcpStream::connect(server) else { continue };
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        let swallows = Arc::new(AtomicBool::new(now == SWALLOWS));
        for (from, to) in [(&client, &server), (&server, &client)] {
            let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            let swallows = Arc::clone(&swallows);
            std::thread::spawn(move || forward(from, to, &swallows));
        }
        let ends = [client.try_clone().unwrap(), server.try_clone().unwrap()];
        let _ = tell.send(Through { client, server, swallows: Arc::clone(&swallows) });
        // Whoever changes the mode from here on knows this connection.
        match mode.load(Ordering::SeqCst) {
            CUT | ENDED => ends.iter().for_each(|end| drop(end.shutdown(Shutdown::Both))),
            SWALLOWS => swallows.store(true, Ordering::SeqCst),
            _ => {}
        }
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, swallows: &AtomicBool) {
    let mut bytes = [0; 65_536];
    while let Ok(count) = from.read(&mut bytes) {
        if swallows.load(Ordering::SeqCst) && count > 0 {
            continue;
        }
        if count == 0 || to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    if !swallows.load(Ordering::SeqCst) {
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }
}
