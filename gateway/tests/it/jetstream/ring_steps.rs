//! Who changes the ring, stopped at each step: what it asks servers for goes through proxies, which hold
//! the first request of a step until the test lets it go.

use super::party::Party;
use super::ring_site::Command;
use gateway::proto::bridge::ring_table::RingTable;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Thread, park};

/// What has been done when it is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// Gateways are registered and can use who takes over; nothing was looked at that is retained.
    Planned = 1,
    /// A retained message was copied, or cleared where it comes back to.
    Copying,
    /// What is retained was copied, and the change is about to be written.
    Copied,
    /// The change is written; whether gateways know of it nobody has asked yet.
    Written,
    /// All gateways hold what moves, and have drained.
    Drained,
    /// A mark is about to be stored where there are replicas.
    Marking,
    /// It is known where the streams end.
    EndsKnown,
    /// What was retained meanwhile was copied.
    CopiedAgain,
    /// A group was made where topics go.
    MakingGroups,
    /// Groups were made, and the ends are about to be written.
    GroupsMade,
    /// The ends are written; whether gateways know of it nobody has asked yet.
    EndsWritten,
    /// All gateways have closed their gates, and the takeover is about to be written.
    GatesClosed,
    /// The takeover is written, which has not been answered.
    TakenOver,
}

impl Step {
    fn is_reached(self, last: u8) -> bool {
        last >= self as u8
    }
}

/// Stopped at a step. Dropped, the request that is held never gets to its server.
pub(super) struct Halt {
    pub(super) step: Step,
    go_on: Sender<()>,
}

impl Halt {
    pub(super) fn go_on(self) {
        let _ = self.go_on.send(());
    }
}

/// `gateway ring add` or `gateway ring remove`, stopped at each step.
pub(super) struct Stepping {
    pub(super) command: Command,
    halts: Receiver<Halt>,
    _proxies: Vec<Proxy>,
}

impl Stepping {
    /// `start` is given where the proxies are, in the order of the servers: some of each sub-cluster.
    pub(super) fn start(
        sub_clusters: impl Iterator<Item = Vec<SocketAddr>>,
        start: impl FnOnce(&[Vec<SocketAddr>]) -> Command,
    ) -> Self {
        let (tell, halts) = channel();
        let steps = Steps { progress: Arc::default(), tell };
        let (mut proxies, mut addresses) = (Vec::new(), Vec::new());
        for servers in sub_clusters {
            let made = servers.iter().map(|server| Proxy::start(*server, steps.clone()));
            let made: Vec<Proxy> = made.collect();
            addresses.push(made.iter().map(|proxy| proxy.address).collect());
            proxies.extend(made);
        }
        Self { command: start(&addresses), halts, _proxies: proxies }
    }

    /// Publishes until it stops at the next step, or ends.
    pub(super) fn next_halt(&mut self, party: &mut Party) -> Option<Halt> {
        let mut halt = None;
        party.go_on("the next step of a change of the ring", true, |_| {
            halt = self.halts.try_recv().ok();
            halt.is_some() || self.command.has_ended()
        });
        halt
    }

    /// The same at this step or behind it; what is before is gone through.
    pub(super) fn halt_at(&mut self, party: &mut Party, step: Step) -> Option<Halt> {
        while let Some(halt) = self.next_halt(party) {
            if halt.step >= step {
                return Some(halt);
            }
            halt.go_on();
        }
        None
    }

    /// Goes on from where it is stopped, and stops no more.
    pub(super) fn let_go(&mut self, halt: Halt) {
        self.halts = channel().1;
        halt.go_on();
    }

    /// Publishes until it ends, and stops it no more. Whether it went well, and what it said.
    pub(super) fn end(mut self, party: &mut Party) -> (bool, String) {
        self.halts = channel().1;
        party.go_on("a change of the ring ends", true, |_| self.command.has_ended());
        self.command.end()
    }
}

/// How far all of it has come: it asks for one thing at a time.
#[derive(Debug, Default)]
struct Progress {
    last: AtomicU8,
    copied: AtomicUsize,
    groups_made: AtomicUsize,
    takeovers: AtomicUsize,
}

impl Progress {
    /// Which step is reached with this request, if one is.
    fn reach(&self, subject: &str, body: &[u8]) -> Option<Step> {
        let last = self.last.load(Ordering::SeqCst);
        let step = if subject == RING {
            self.about_to_write(std::str::from_utf8(body).unwrap())?
        } else if subject.starts_with(RETAINED_INFO) {
            if Step::Copied.is_reached(last) { Step::EndsKnown } else { Step::Planned }
        } else if subject == REGISTRATIONS && Step::Copied.is_reached(last) {
            if Step::GroupsMade.is_reached(last) { Step::EndsWritten } else { Step::Written }
        } else if subject.starts_with(STREAM_INFO) && Step::Written.is_reached(last) {
            Step::Drained
        } else if subject == MARK {
            Step::Marking
        } else if subject.starts_with(CONSUMERS) {
            Step::CopiedAgain
        } else if subject.starts_with(MAKE_CONSUMER) {
            // The first one is made.
            (self.groups_made.fetch_add(1, Ordering::SeqCst) == 1).then_some(Step::MakingGroups)?
        } else if subject.starts_with(RETAINED) {
            (self.copied.fetch_add(1, Ordering::SeqCst) == 1).then_some(Step::Copying)?
        } else {
            return None;
        };
        (self.last.fetch_max(step as u8, Ordering::SeqCst) < step as u8).then_some(step)
    }

    fn about_to_write(&self, text: &str) -> Option<Step> {
        let table = RingTable::decode(text).unwrap();
        let takeovers = table.takeovers().len();
        match (table.change(), table.coming()) {
            (Some(_), None) => {
                self.takeovers.store(takeovers, Ordering::SeqCst);
                Some(Step::Copied)
            }
            (Some(_), Some(_)) => Some(Step::GroupsMade),
            // Or it calls off what it has begun.
            (None, _) => {
                (takeovers > self.takeovers.load(Ordering::SeqCst)).then_some(Step::GatesClosed)
            }
        }
    }
}

/// What all proxies have in common.
#[derive(Clone)]
struct Steps {
    progress: Arc<Progress>,
    tell: Sender<Halt>,
}

impl Steps {
    /// Waits at a step until the test lets go; false when it never does.
    fn halt(&self, step: Step) -> bool {
        let (go_on, let_go) = channel();
        // Nobody listens any more: then nobody wants to stop it.
        self.tell.send(Halt { step, go_on }).is_err() || let_go.recv().is_ok()
    }
}

/// Between a client and one server.
struct Proxy {
    address: SocketAddr,
    has_ended: Arc<AtomicBool>,
}

impl Proxy {
    fn start(server: SocketAddr, steps: Steps) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let has_ended = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&has_ended);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(server) = TcpStream::connect(server) else { continue };
                connect(client, server, steps.clone());
            }
        });
        Self { address, has_ended }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.has_ended.store(true, Ordering::SeqCst);
        // Wakes whoever accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn connect(client: TcpStream, server: TcpStream, steps: Steps) {
    for end in [&client, &server] {
        end.set_nodelay(true).unwrap();
    }
    let is_quiet = Arc::new(AtomicBool::new(false));
    let (from, to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    let answers = std::thread::spawn({
        let is_quiet = Arc::clone(&is_quiet);
        move || forward_answers(from, to, &is_quiet)
    });
    let quiet = Quiet { is_quiet, answers: answers.thread().clone() };
    std::thread::spawn(move || {
        let ends = [client.try_clone().unwrap(), server.try_clone().unwrap()];
        forward_requests(client, server, &steps, &quiet);
        ends.iter().for_each(|end| drop(end.shutdown(Shutdown::Both)));
        quiet.end();
    });
}

/// No answer is forwarded for now.
struct Quiet {
    is_quiet: Arc<AtomicBool>,
    answers: Thread,
}

impl Quiet {
    fn begin(&self) {
        self.is_quiet.store(true, Ordering::SeqCst);
    }

    fn end(&self) {
        self.is_quiet.store(false, Ordering::SeqCst);
        self.answers.unpark();
    }
}

fn forward_answers(mut from: TcpStream, mut to: TcpStream, is_quiet: &AtomicBool) {
    let mut bytes = [0; 65_536];
    while let Ok(count) = from.read(&mut bytes) {
        while is_quiet.load(Ordering::SeqCst) {
            park();
        }
        if count == 0 || to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// Until one end is gone, or a request is never let go.
fn forward_requests(client: TcpStream, mut server: TcpStream, steps: &Steps, quiet: &Quiet) {
    let mut client = BufReader::new(client);
    while let Some(operation) = Operation::read(&mut client) {
        let step = operation.subject().and_then(|one| steps.progress.reach(one, operation.body()));
        let is_let_go = step.is_none_or(|step| steps.halt(step));
        let is_last = step == Some(Step::GatesClosed);
        if is_last {
            quiet.begin();
        }
        if !is_let_go || server.write_all(&operation.bytes).is_err() {
            return;
        }
        if is_last {
            if !steps.halt(Step::TakenOver) {
                return;
            }
            quiet.end();
        }
    }
}

/// What a client sends.
struct Operation {
    bytes: Vec<u8>,
    /// Where its line ends.
    line: usize,
}

impl Operation {
    fn read(from: &mut impl BufRead) -> Option<Self> {
        let mut bytes = Vec::new();
        let line = from.read_until(b'\n', &mut bytes).ok().filter(|count| *count > 0)?;
        let mut operation = Self { bytes, line };
        if operation.subject().is_some() {
            let total: usize = operation.words().next_back()?.parse().ok()?;
            operation.bytes.resize(line + total + LINE_END, 0);
            from.read_exact(&mut operation.bytes[line..]).ok()?;
        }
        Some(operation)
    }

    fn words(&self) -> std::str::SplitAsciiWhitespace<'_> {
        std::str::from_utf8(&self.bytes[..self.line]).unwrap_or_default().split_ascii_whitespace()
    }

    /// Of a message.
    fn subject(&self) -> Option<&str> {
        let mut words = self.words();
        words.next().filter(|name| ["PUB", "HPUB"].contains(name))?;
        words.next()
    }

    /// Behind its headers.
    fn body(&self) -> &[u8] {
        let all = &self.bytes[self.line..self.bytes.len() - LINE_END];
        let has_headers = self.bytes.starts_with(b"H");
        let headers = self.words().rev().nth(1).filter(|_| has_headers);
        &all[headers.map_or(0, |bytes| bytes.parse().unwrap())..]
    }
}

const LINE_END: usize = 2;
const RING: &str = "$KV.gateway_ring.ring";
const REGISTRATIONS: &str = "$JS.API.STREAM.INFO.KV_gateway_ring";
const RETAINED_INFO: &str = "$JS.API.STREAM.INFO.MQTT_RETAINED_";
const MARK: &str = "mqtt$.%mark";
const STREAM_INFO: &str = "$JS.API.STREAM.INFO.MQTT_";
const CONSUMERS: &str = "$JS.API.CONSUMER.LIST.MQTT_";
const MAKE_CONSUMER: &str = "$JS.API.CONSUMER.CREATE.MQTT_";
const RETAINED: &str = "retained.";
