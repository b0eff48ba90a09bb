//! Which shard's log should take a message? Two shards, the real engine, sockets and mesh.
//!
//! `publisher`: the log of the shard it was published on takes it: the acknowledgement is local,
//! the delivery hops when the subscriber is on the other shard. `topic`: the log by topic hash: the
//! publish hops half of the time, the acknowledgement hops back with it, and the delivery hops half
//! of the time. Then one shard's echo beside a plain epoll loop, and bytes an idle connection.
//!
//! CPU is that of the shards' threads alone (`/proc/self/task/*/schedstat`).
//! `--test` runs tiny inputs and checks that every message was acknowledged and delivered.
#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on stops")]

use gateway::config::Listen;
use gateway::proto::handler::{CloseReason, FileDone, Handler, Io, Origin, Sender};
use gateway::proto::output::{Action, ConnectionId, ShardIndex};
use gateway::proto::time::Timestamp;
use gateway::shard::{EngineConfig, EngineCounters, Node};
use rustix::event::epoll;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Bytes of a message, of its acknowledgement and of its delivery.
const FRAME_BYTES: usize = 16;
/// First byte of a frame: what it is.
const PUBLISH: u8 = 0;
const SUBSCRIBE: u8 = 1;
const ECHO: u8 = 2;
const SHARDS: u16 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LogOf {
    Publisher,
    Topic,
}

/// Hops between shards.
enum Hop {
    Publish { from: ConnectionId, frame: [u8; FRAME_BYTES] },
    Acknowledge { to: ConnectionId },
    Deliver { frame: [u8; FRAME_BYTES] },
}

/// Acknowledges and delivers messages as either choice would.
struct Emulated {
    log_of: LogOf,
    subscribers: Vec<ConnectionId>,
}

impl Emulated {
    fn publish(&mut self, from: ConnectionId, frame: [u8; FRAME_BYTES], io: &mut Io<Hop>) {
        let log = ShardIndex(u16::from(frame[1] & 1));
        if self.log_of == LogOf::Publisher || log == io.shard {
            acknowledge(from, io);
            self.route(frame, io);
        } else {
            io.mesh.send(log, Hop::Publish { from, frame });
        }
    }

    fn route(&self, frame: [u8; FRAME_BYTES], io: &mut Io<Hop>) {
        let subscriber = ShardIndex(u16::from(frame[1] >> 1 & 1));
        if subscriber == io.shard {
            self.deliver(frame, io);
        } else {
            io.mesh.send(subscriber, Hop::Deliver { frame });
        }
    }

    fn deliver(&self, frame: [u8; FRAME_BYTES], io: &mut Io<Hop>) {
        let at = usize::from(frame[2]) % self.subscribers.len();
        let subscriber = self.subscribers.get(at).expect("taken modulo");
        io.outbox.buffer(subscriber.index).extend_from_slice(&frame);
    }
}

fn acknowledge(to: ConnectionId, io: &mut Io<Hop>) {
    io.outbox.buffer(to.index).extend_from_slice(&[b'a'; FRAME_BYTES]);
}

impl Handler for Emulated {
    type Message = Hop;

    fn opened(&mut self, id: ConnectionId, _origin: Origin, io: &mut Io<Hop>) {
        io.actions.push(Action::Adopt(id));
        let shard = u8::try_from(io.shard.0).unwrap();
        io.outbox.buffer(id.index).extend_from_slice(&[shard; FRAME_BYTES]);
    }

    fn received(&mut self, id: ConnectionId, bytes: &[u8], io: &mut Io<Hop>) -> usize {
        let (frames, _) = bytes.as_chunks::<FRAME_BYTES>();
        for &frame in frames {
            match frame[0] {
                PUBLISH => self.publish(id, frame, io),
                SUBSCRIBE => self.subscribers.push(id),
                _ => io.outbox.buffer(id.index).extend_from_slice(&frame),
            }
        }
        frames.len() * FRAME_BYTES
    }

    fn closed(&mut self, _: ConnectionId, _: CloseReason, _: &mut Io<Hop>) {}
    fn writable(&mut self, _: ConnectionId, _: &mut Io<Hop>) {}

    fn message(&mut self, from: Sender, hop: Hop, io: &mut Io<Hop>) {
        let Sender::Shard(shard) = from else { return };
        match hop {
            Hop::Publish { from, frame } => {
                io.mesh.send(shard, Hop::Acknowledge { to: from });
                self.route(frame, io);
            }
            Hop::Acknowledge { to } => acknowledge(to, io),
            Hop::Deliver { frame } => self.deliver(frame, io),
        }
    }

    fn file_done(&mut self, _: u64, _: io::Result<FileDone>, _: &mut Io<Hop>) {}
    fn swept(&mut self, _: &mut Io<Hop>) {}
    fn timeout(&mut self, _: &mut Io<Hop>) {}
    fn next_timeout(&self) -> Timestamp {
        Timestamp::NEVER
    }
    fn shutdown(&mut self, _: &mut Io<Hop>) {}
}

fn node(log_of: LogOf, shards: u16) -> Node<Hop> {
    let config = EngineConfig {
        shards,
        listen: vec![Listen::tcp("127.0.0.1:0".parse().unwrap())],
        connections_max: 8_000,
        stop_deadline: Duration::from_millis(200),
        ..EngineConfig::default()
    };
    Node::start(config, move |_| Emulated { log_of, subscribers: Vec::new() }).unwrap()
}

/// A connection and the shard it is on.
fn connect(node: &Node<Hop>) -> (TcpStream, u8) {
    let mut stream = TcpStream::connect(node.addresses().first().unwrap()).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut hello = [0; FRAME_BYTES];
    stream.read_exact(&mut hello).unwrap();
    (stream, hello[0])
}

/// `count` connections on each shard.
fn spread(node: &Node<Hop>, count: usize) -> Vec<TcpStream> {
    let mut streams: [Vec<TcpStream>; SHARDS as usize] = Default::default();
    while streams.iter().any(|streams| streams.len() < count) {
        let (stream, shard) = connect(node);
        let mine = streams.get_mut(usize::from(shard)).unwrap();
        if mine.len() < count {
            mine.push(stream);
        }
    }
    streams.into_iter().flatten().collect()
}

/// Publishes `messages` over connections of both shards, `burst` at a time and one burst a `pace`.
/// Returns the shards' CPU seconds.
fn run(log_of: LogOf, messages: usize, burst: usize, pace: Option<Duration>) -> Measured {
    let node = node(log_of, SHARDS);
    let mut publishers = spread(&node, 4);
    let mut subscribers = spread(&node, 4);
    for subscriber in &mut subscribers {
        subscriber.write_all(&[SUBSCRIBE; FRAME_BYTES]).unwrap();
    }
    std::thread::park_timeout(Duration::from_millis(100));
    let sinks: Vec<_> = subscribers.into_iter().map(sink).collect();

    let before = shard_cpu_s();
    let start = now();
    let per_publisher = messages / publishers.len();
    let mut sent = 0_usize;
    let mut random = 88_172_645_463_325_252_u64;
    for round in 0..per_publisher / burst {
        for (at, publisher) in publishers.iter_mut().enumerate() {
            let mut frames = Vec::with_capacity(burst * FRAME_BYTES);
            for _ in 0..burst {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let bytes = random.to_le_bytes();
                let mut frame = [0; FRAME_BYTES];
                frame[1] = bytes[3];
                frame[2] = bytes[5];
                frames.extend_from_slice(&frame);
            }
            publisher.write_all(&frames).unwrap();
            sent += burst;
            if let Some(pace) = pace {
                let due = pace * u32::try_from(round * 8 + at + 1).unwrap();
                std::thread::park_timeout(due.saturating_sub(start.elapsed()));
            }
        }
        for publisher in &mut publishers {
            publisher.read_exact(&mut vec![0; burst * FRAME_BYTES]).unwrap();
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    std::thread::park_timeout(Duration::from_millis(200));
    let cpu_s = shard_cpu_s() - before;
    drop(publishers);
    node.shutdown();
    let counters = node.join().unwrap();
    let delivered: usize = sinks.into_iter().map(|sink| sink.join().unwrap()).sum();
    assert_eq!(delivered, sent, "every message is delivered once");
    Measured { messages: sent, cpu_s, seconds, counters }
}

struct Measured {
    messages: usize,
    cpu_s: f64,
    seconds: f64,
    counters: Vec<EngineCounters>,
}

/// Reads until the end; how many frames came.
fn sink(mut stream: TcpStream) -> std::thread::JoinHandle<usize> {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        let mut bytes = 0;
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            bytes += count;
        }
        bytes / FRAME_BYTES
    })
}

/// CPU seconds of threads named `shard-*`.
fn shard_cpu_s() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let nanoseconds: u64 = tasks
        .filter(|task| {
            let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            name.starts_with("shard-")
        })
        .filter_map(|task| {
            let stat = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
            stat.split_whitespace().next()?.parse::<u64>().ok()
        })
        .sum();
    nanoseconds as f64 / 1e9
}

/// Echoes between `count` connections and a server at `address`, each with one frame on its way.
fn ping(streams: &mut [TcpStream], rounds: usize) {
    for _ in 0..rounds {
        for stream in streams.iter_mut() {
            stream.write_all(&[ECHO; FRAME_BYTES]).unwrap();
        }
        for stream in streams.iter_mut() {
            stream.read_exact(&mut [0; FRAME_BYTES]).unwrap();
        }
    }
}

fn echo_on_engine(count: usize, rounds: usize) -> (f64, u64) {
    let node = node(LogOf::Publisher, 1);
    let mut streams: Vec<_> = (0..count).map(|_| connect(&node).0).collect();
    ping(&mut streams, 1);
    let before = shard_cpu_s();
    ping(&mut streams, rounds);
    let cpu_s = shard_cpu_s() - before;
    drop(streams);
    node.shutdown();
    let enters = node.join().unwrap().first().unwrap().enters;
    (cpu_s, enters)
}

/// The same echo by the plainest loop: level-triggered epoll, one receive and one send a message.
fn echo_on_epoll(count: usize, rounds: usize) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let name = std::thread::Builder::new().name("shard-epoll".into());
    let server = name
        .spawn(move || {
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
            let streams: Vec<TcpStream> = (0..count)
                .map(|n| {
                    let stream = listener.accept().unwrap().0;
                    stream.set_nodelay(true).unwrap();
                    let data = epoll::EventData::new_u64(n as u64);
                    epoll::add(&epoll, &stream, data, epoll::EventFlags::IN).unwrap();
                    stream
                })
                .collect();
            let mut events = Vec::with_capacity(512);
            let mut buffer = [0; 2_048];
            loop {
                events.clear();
                epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None).unwrap();
                for event in &events {
                    let mut stream = streams.get(event.data.u64() as usize).unwrap();
                    match stream.read(&mut buffer) {
                        Ok(count @ 1..) => stream.write_all(buffer.get(..count).unwrap()).unwrap(),
                        _ => return,
                    }
                }
            }
        })
        .unwrap();
    let mut streams: Vec<_> = (0..count)
        .map(|_| {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_nodelay(true).unwrap();
            stream
        })
        .collect();
    ping(&mut streams, 1);
    let before = shard_cpu_s();
    ping(&mut streams, rounds);
    let cpu_s = shard_cpu_s() - before;
    drop(streams);
    server.join().unwrap();
    cpu_s
}

/// Resident bytes this process gained a connection, beyond the client's ends.
fn idle_bytes(count: usize) -> f64 {
    let node = node(LogOf::Publisher, 1);
    let warm: Vec<_> = (0..64).map(|_| connect(&node)).collect();
    let mut streams = Vec::with_capacity(count);
    let before = anonymous_bytes();
    streams.extend((0..count).map(|_| connect(&node)));
    let gained = anonymous_bytes() - before;
    drop((warm, streams));
    node.shutdown();
    node.join().unwrap();
    gained / count as f64
}

fn anonymous_bytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1_024.0
}

#[expect(clippy::disallowed_methods, reason = "a measurement paces itself by the clock")]
fn now() -> Instant {
    Instant::now()
}

fn report(name: &str, log_of: LogOf, measured: &Measured) {
    let sum = |pick: fn(&EngineCounters) -> u64| measured.counters.iter().map(pick).sum::<u64>();
    let per = |count: u64| count as f64 / measured.messages as f64;
    println!(
        "{name:>9} {:>9} {:>6.2} CPU-s/M {:>7.0} msg/s {:>5.2} enters/msg {:>5.2} doorbells/msg {:>5.2} parks/msg",
        format!("{log_of:?}"),
        measured.cpu_s / measured.messages as f64 * 1e6,
        measured.messages as f64 / measured.seconds,
        per(sum(|shard| shard.enters)),
        per(sum(|shard| shard.doorbells)),
        per(sum(|shard| shard.parks)),
    );
}

fn main() {
    let test = std::env::args().any(|argument| argument == "--test");
    let (repeats, scale) = if test { (1, 100) } else { (3, 1) };
    for _ in 0..repeats {
        for log_of in [LogOf::Publisher, LogOf::Topic] {
            let paced = run(log_of, 40_000 / scale, 1, Some(Duration::from_micros(100)));
            report("10k/s", log_of, &paced);
        }
        for log_of in [LogOf::Publisher, LogOf::Topic] {
            report("saturated", log_of, &run(log_of, 1_600_000 / scale, 50, None));
        }
        let (count, rounds) = if test { (10, 2) } else { (1_000, 300) };
        let messages = (count * rounds) as f64 / 1e6;
        let (engine, enters) = echo_on_engine(count, rounds);
        let epoll = echo_on_epoll(count, rounds);
        println!(
            "echo {count} active: engine {:.2} CPU-s/M ({:.3} enters/msg), epoll {:.2} CPU-s/M",
            engine / messages,
            enters as f64 / messages / 1e6,
            epoll / messages
        );
    }
    let count = if test { 100 } else { 7_000 };
    println!("idle: {:.0} bytes a connection", idle_bytes(count));
}
