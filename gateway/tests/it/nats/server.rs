//! A nats-server of a test's own, and a connection to it that speaks through the gateway's codec.

use gateway::proto::nats::{
    ConnectOptions, Credentials, DecodeLimits, Headers, Info, Operation, Progress, Subject, decode,
    encode_connect, encode_ping, encode_pong, encode_publish, encode_subscribe,
};
use gateway::upstream::jetstream::{Inbox, Token};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::process::gateway::{PATIENCE, TempDirectory};
use crate::process::tools::tools_folder;

/// What `.ci/tools` installs.
const VERSION: &str = "2.15.1";
/// The oldest that is supported, which it installs, too.
const OLDEST_VERSION: &str = "2.12.2";

/// Whether tests run on the oldest nats-server: `make oldest`.
fn is_oldest() -> bool {
    std::env::var_os("GATEWAY_OLDEST_NATS").is_some()
}

/// Whether they take fast-ingest batches, since 2.14.
pub(crate) fn has_batches() -> bool {
    !is_oldest()
}

/// Of the servers that tests run on.
pub(crate) fn version() -> &'static str {
    if is_oldest() { OLDEST_VERSION } else { VERSION }
}

/// A running nats-server with JetStream, killed and forgotten when dropped.
pub(crate) struct NatsServer {
    process: Child,
    address: SocketAddr,
    flags: Vec<String>,
    data: TempDirectory,
}

impl NatsServer {
    /// Starts a server on a free loopback port. Returns once it accepts connections.
    ///
    /// # Panics
    ///
    /// When there is no nats-server: these tests are worth nothing without one.
    pub(crate) fn start() -> Self {
        Self::start_with(&["--port", "-1"])
    }

    /// The same on a port that the caller knows, see [`free_ports`].
    pub(crate) fn start_on(port: u16) -> Self {
        Self::start_with(&["--port", &port.to_string()])
    }

    /// The same with more flags; a port is one of them.
    pub(crate) fn start_with(flags: &[&str]) -> Self {
        let mut server = Self::spawn(flags);
        server.wait_until_ready();
        server
    }

    /// Starts three servers n0, n1, n2 that are one cluster.
    pub(crate) fn start_cluster() -> [Self; 3] {
        Self::start_cluster_with(|_| Vec::new())
    }

    /// The same with more flags for each.
    pub(crate) fn start_cluster_with(more: impl Fn(usize) -> Vec<String>) -> [Self; 3] {
        let ports: [u16; 3] = free_ports();
        Self::start_cluster_of(ports, |number| {
            let routes = ports.map(|port| format!("nats://127.0.0.1:{port}")).join(",");
            [vec!["--routes".to_owned(), routes], more(number)].concat()
        })
    }

    /// The same, in which a server reaches the others by the addresses `route(from, to, address of to)` only.
    pub(crate) fn start_cluster_through(
        mut route: impl FnMut(usize, usize, SocketAddr) -> SocketAddr,
    ) -> [Self; 3] {
        let ports: [u16; 3] = free_ports();
        Self::start_cluster_of(ports, |from| {
            let others = (0..3).filter(|to| *to != from);
            let routes: Vec<String> = others
                .map(|to| route(from, to, SocketAddr::from(([127, 0, 0, 1], ports[to]))))
                .map(|address| format!("nats://{address}"))
                .collect();
            // What a server hears of others from the third is an address where nobody is.
            let flags = ["--cluster_advertise", "127.0.0.1:1", "--routes"].map(str::to_owned);
            [&flags[..], &[routes.join(",")]].concat()
        })
    }

    fn start_cluster_of(ports: [u16; 3], mut flags: impl FnMut(usize) -> Vec<String>) -> [Self; 3] {
        let mut servers = [0, 1, 2].map(|number| {
            let (name, route) =
                (format!("n{number}"), format!("nats://127.0.0.1:{}", ports[number]));
            let own = flags(number);
            let own: Vec<&str> = own.iter().map(String::as_str).collect();
            let flags =
                ["--port", "-1", "--server_name", &name, "--cluster_name", "c", "--cluster"];
            Self::spawn(&[&flags[..], &[&route], &own[..]].concat())
        });
        // A server of a cluster is ready only with the others.
        servers.iter_mut().for_each(Self::wait_until_ready);
        servers
    }

    fn spawn(flags: &[&str]) -> Self {
        let data = TempDirectory::new();
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let process = Self::process(&data, &flags);
        Self { process, address: SocketAddr::from(([127, 0, 0, 1], 0)), flags, data }
    }

    fn process(data: &TempDirectory, flags: &[String]) -> Child {
        let folder = if is_oldest() { "nats-server-oldest" } else { "python" };
        let program = tools_folder().join(folder).join("bin/nats-server");
        Command::new(&program)
            .args(["--addr", "127.0.0.1", "--jetstream", "--store_dir"])
            .arg(data.path())
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}: run `make tools`", program.display()))
    }

    /// SIGKILL. Its store stays.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again where it was, on what it stored, without waiting until it is ready: that is
    /// for [`NatsServer::wait_until_ready`].
    pub(crate) fn start_again(&mut self) {
        // The last of several flags counts.
        let port = self.address.port().to_string();
        let flags = [&self.flags[..], &["--port".to_owned(), port]].concat();
        self.process = Self::process(&self.data, &flags);
    }

    /// What it has stored by now, while it stands still.
    pub(crate) fn copy_store(&self) -> TempDirectory {
        let copy = TempDirectory::new();
        self.signal(Signal::STOP);
        copy_folder(self.data.path(), copy.path());
        self.signal(Signal::CONT);
        copy
    }

    /// Puts a copy back, while it is not running: what was stored since is lost, as if it had not been
    /// synced when the power went.
    pub(crate) fn put_store_back(&mut self, copy: &TempDirectory) {
        std::fs::remove_dir_all(self.data.path()).unwrap();
        copy_folder(copy.path(), self.data.path());
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    pub(crate) fn wait_until_ready(&mut self) {
        let log = BufReader::new(self.process.stderr.take().expect("it is piped"));
        let mut lines = log.lines().map_while(Result::ok);
        let address = lines
            .find_map(|line| line.split_once("client connections on ").map(|(_, at)| at.to_owned()))
            .expect("it says where it listens");
        self.address = address.parse().unwrap();
        assert!(lines.any(|line| line.contains("Server is ready")), "it starts");
        // Read on, or the server blocks once the pipe is full.
        std::thread::spawn(move || lines.for_each(drop));
    }

    /// Where it accepts clients.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::new(self.address)
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (from, to) = entry.map(|entry| (entry.path(), to.join(entry.file_name()))).unwrap();
        match from.is_dir() {
            true => copy_folder(&from, &to),
            false => drop(std::fs::copy(&from, &to).unwrap()),
        }
    }
}

/// Ports that were free a moment ago.
pub(crate) fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let listeners = [(); COUNT].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A message as it came, kept.
#[derive(Clone, Debug)]
pub(crate) struct Delivered {
    pub(crate) subject: Vec<u8>,
    pub(crate) sid: u64,
    pub(crate) block: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Delivered {
    pub(crate) fn headers(&self) -> Headers<'_> {
        Headers::from_block(&self.block)
    }
}

/// A blocking connection.
pub(crate) struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    /// To be sent; whoever adds to it calls [`Connection::exchange`].
    pub(crate) out: Vec<u8>,
    pub(crate) inbox: Inbox,
    pub(crate) info: Info,
    next_token: u64,
}

/// The subscription to the inbox.
pub(crate) const INBOX_SID: u64 = 1;

impl Connection {
    fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let inbox = Inbox::new("_GW.test").unwrap();
        let mut connection = Self {
            stream,
            received: Vec::new(),
            out: Vec::new(),
            inbox,
            info: Info::default(),
            next_token: 0,
        };
        let options = ConnectOptions {
            name: "test",
            version: "0",
            tls_required: false,
            echo: true,
            credentials: Credentials::None,
        };
        encode_connect(&options, &mut connection.out);
        encode_subscribe(connection.inbox.filter(), None, INBOX_SID, &mut connection.out);
        assert!(connection.exchange().is_empty());
        connection
    }

    pub(crate) fn subscribe(&mut self, subject: Subject<'_>, sid: u64) {
        encode_subscribe(subject, None, sid, &mut self.out);
    }

    /// The next token and its reply subject, in a buffer of the caller's.
    pub(crate) fn reply_to<'o>(&mut self, out: &'o mut Vec<u8>) -> (Token, Subject<'o>) {
        let token = Token(self.next_token);
        self.next_token += 1;
        (token, self.inbox.reply_to(token, out))
    }

    /// Sends what is in `out` and PING, and returns what is delivered before PONG.
    ///
    /// # Panics
    ///
    /// When the server says `-ERR`.
    pub(crate) fn exchange(&mut self) -> Vec<Delivered> {
        let mut delivered = Vec::new();
        encode_ping(&mut self.out);
        self.read(&mut delivered, |_, pongs| pongs == 1);
        delivered
    }

    /// Sends what is in `out`, waits for nothing, and is gone.
    pub(crate) fn send_and_leave(mut self) {
        self.stream.write_all(&self.out).unwrap();
    }

    /// Sends what is in `out`, and returns what is delivered until `count` answers are there.
    pub(crate) fn answers(&mut self, count: usize) -> Vec<Delivered> {
        self.until(|delivered| {
            delivered.iter().filter(|message| message.sid == INBOX_SID).count() >= count
        })
    }

    /// Sends what is in `out`, and returns what is delivered until that is enough.
    pub(crate) fn until(&mut self, is_enough: impl Fn(&[Delivered]) -> bool) -> Vec<Delivered> {
        let mut delivered = Vec::new();
        self.read(&mut delivered, |delivered, _| is_enough(delivered));
        delivered
    }

    /// One request of the JetStream API; returns the JSON of its answer.
    pub(crate) fn api(&mut self, subject: &str, body: &str) -> String {
        let text = self.request(subject, body);
        assert!(!text.contains("\"error\""), "{text}");
        text
    }

    /// One request; returns the payload of its answer.
    pub(crate) fn request(&mut self, subject: &str, body: &str) -> String {
        let mut reply = Vec::new();
        let (_, reply_to) = self.reply_to(&mut reply);
        let subject = Subject::literal(subject).unwrap();
        encode_publish(subject, Some(reply_to), body.as_bytes(), &mut self.out);
        let answer = self.answers(1).pop().unwrap();
        String::from_utf8(answer.payload).unwrap()
    }

    fn read(
        &mut self,
        delivered: &mut Vec<Delivered>,
        is_done: impl Fn(&[Delivered], u32) -> bool,
    ) {
        let mut progress = Progress::default();
        let mut pongs = 0;
        loop {
            self.stream.write_all(&self.out).unwrap();
            self.out.clear();
            let mut consumed = 0;
            let limits = DecodeLimits::default();
            while let Some((operation, taken)) =
                decode(&self.received[consumed..], &limits, &mut progress).unwrap()
            {
                match operation {
                    Operation::Info(text) => self.info = Info::parse(text).unwrap(),
                    Operation::Message(message) => delivered.push(Delivered {
                        subject: message.subject.to_vec(),
                        sid: message.sid,
                        block: message.headers.block().to_vec(),
                        payload: message.payload.to_vec(),
                    }),
                    Operation::Ping => encode_pong(&mut self.out),
                    Operation::Pong => pongs += 1,
                    Operation::Ok => {}
                    Operation::Err(text) => panic!("-ERR {}", text.escape_ascii()),
                }
                consumed += taken;
            }
            self.received.drain(..consumed);
            if is_done(delivered, pongs) {
                return;
            }
            let mut chunk = [0; 65_536];
            let count = self.stream.read(&mut chunk).expect("the server answers in time");
            assert!(count > 0, "the server closed the connection");
            self.received.extend_from_slice(&chunk[..count]);
        }
    }
}
