//! The engine over real sockets and io_uring, with a handler that speaks one letter commands.

use gateway::config::Listen;
use gateway::proto::handler::{CloseReason, Dial, FileDone, FileOp, Handler, Io, Origin, Sender};
use gateway::proto::output::{Action, ConnectionId, ShardIndex};
use gateway::proto::time::Timestamp;
use gateway::shard::{BoundNode, EngineConfig, EngineCounters, Node, listener};
use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender as Report, channel};
use std::time::{Duration, Instant};

/// Lines in, lines out. A line is consumed only when complete.
struct Lines {
    report: Report<Told>,
    open: HashMap<ConnectionId, u64>,
    file: Option<OwnedFd>,
    file_user: Option<ConnectionId>,
    timeout: Timestamp,
    timeout_user: Option<ConnectionId>,
    /// Who asked for `!dial`.
    dial_user: Option<ConnectionId>,
    held: Vec<ConnectionId>,
}

/// What the tests are told about the handler's view.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Opened(ShardIndex),
    Closed(CloseReason),
    Writable,
    Heard(u64),
}

/// What shards say to each other: say this to the connection.
enum Word {
    Say { back_to: Option<(ShardIndex, ConnectionId)>, number: u64 },
    Release,
}

const FILLER_BYTES: usize = 8 << 20;

impl Lines {
    fn new(report: Report<Told>) -> Self {
        Self {
            report,
            open: HashMap::new(),
            file: None,
            file_user: None,
            timeout: Timestamp::NEVER,
            timeout_user: None,
            dial_user: None,
            held: Vec::new(),
        }
    }

    fn tell(&self, told: Told) {
        let _ = self.report.send(told);
    }

    fn line(&mut self, id: ConnectionId, line: &[u8], io: &mut Io<Word>) {
        let other = ShardIndex(1 - io.shard.0.min(1));
        match line {
            b"!move" => {
                if io.shard.0 == 0 {
                    io.actions.push(Action::HandOver { connection: id, shard: other });
                }
            }
            b"!shard" => say(io, id, format!("{}", io.shard.0).as_bytes()),
            b"!close" => {
                say(io, id, b"bye");
                io.actions.push(Action::Close(id));
            }
            b"!fill" => {
                io.outbox.buffer(id.index).resize(FILLER_BYTES, b'x');
            }
            b"!abort" => io.actions.push(Action::Abort(id)),
            b"!hold" => {
                io.actions.push(Action::Hold(id));
                self.held.push(id);
            }
            b"!ask" => {
                let back_to = Some((io.shard, id));
                io.mesh.send(other, Word::Say { back_to, number: 41 });
            }
            b"!file" => self.begin_file(id, io),
            dial if dial.starts_with(b"!dial ") => {
                let [_, address, milliseconds] =
                    &dial.split(|byte| *byte == b' ').collect::<Vec<_>>()[..]
                else {
                    panic!("an address and milliseconds");
                };
                let address = std::str::from_utf8(address).unwrap().parse().unwrap();
                let wait = std::str::from_utf8(milliseconds).unwrap().parse().unwrap();
                let deadline = io.now.after(Duration::from_millis(wait));
                self.dial_user = Some(id);
                io.dials.push(Dial { token: 77, address, deadline });
            }
            b"!later" => {
                self.timeout = io.now.after(Duration::from_millis(30));
                self.timeout_user = Some(id);
            }
            echo => say(io, id, echo),
        }
    }

    fn begin_file(&mut self, id: ConnectionId, io: &mut Io<Word>) {
        let path = std::env::temp_dir().join(format!("engine-{}-{id:?}", std::process::id()));
        let mut options = std::fs::File::options();
        let file = options.read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        let file = OwnedFd::from(file);
        let bytes = bytes::Bytes::from(vec![b'f'; 100_000]);
        io.files.push(FileOp::Write { token: 1, fd: file.as_raw_fd(), offset: 7, bytes });
        self.file = Some(file);
        self.file_user = Some(id);
    }
}

fn say(io: &mut Io<Word>, id: ConnectionId, line: &[u8]) {
    let buffer = io.outbox.buffer(id.index);
    buffer.extend_from_slice(line);
    buffer.push(b'\n');
}

impl Handler for Lines {
    type Message = Word;

    fn opened(&mut self, id: ConnectionId, origin: Origin, io: &mut Io<Word>) {
        assert!(origin.peer.ip().is_loopback());
        assert!(self.open.insert(id, 0).is_none(), "opened once");
        self.tell(Told::Opened(io.shard));
    }

    fn dialed(&mut self, token: u64, result: io::Result<ConnectionId>, io: &mut Io<Word>) {
        assert_eq!(token, 77);
        let user = self.dial_user.expect("somebody asked");
        match result {
            Ok(link) => {
                assert!(self.open.insert(link, 1).is_none(), "a connection like another");
                say(io, link, b"hello");
                say(io, user, b"connected");
            }
            Err(error) => say(io, user, format!("{:?}", error.kind()).as_bytes()),
        }
    }

    fn received(&mut self, id: ConnectionId, bytes: &[u8], io: &mut Io<Word>) -> usize {
        let mut consumed = 0;
        while let Some(end) = bytes[consumed..].iter().position(|&byte| byte == b'\n') {
            let line = &bytes[consumed..consumed + end];
            consumed += end + 1;
            let lines = self.open.get_mut(&id).expect("received for an open connection only");
            *lines += 1;
            if *lines == 1 && line != b"!move" {
                io.actions.push(Action::Adopt(id));
            }
            self.line(id, line, io);
            if line == b"!move" && io.shard.0 == 0 {
                self.open.remove(&id);
                break;
            }
            if line == b"!hold" || line == b"!close" {
                break;
            }
        }
        consumed
    }

    fn closed(&mut self, id: ConnectionId, reason: CloseReason, _io: &mut Io<Word>) {
        assert!(self.open.remove(&id).is_some(), "closed once, after opened");
        self.tell(Told::Closed(reason));
    }

    fn writable(&mut self, _id: ConnectionId, _io: &mut Io<Word>) {
        self.tell(Told::Writable);
    }

    fn message(&mut self, from: Sender, word: Word, io: &mut Io<Word>) {
        match (from, word) {
            (Sender::Shard(from), Word::Say { back_to: Some((shard, id)), number }) => {
                if shard == io.shard {
                    say(io, id, format!("{number}").as_bytes());
                } else {
                    let word = Word::Say { back_to: Some((shard, id)), number: number + 1 };
                    io.mesh.send(from, word);
                }
            }
            (_, Word::Say { number, .. }) => self.tell(Told::Heard(number)),
            (_, Word::Release) => io.actions.extend(self.held.drain(..).map(Action::Resume)),
        }
    }

    fn file_done(&mut self, token: u64, result: io::Result<FileDone>, io: &mut Io<Word>) {
        let fd = self.file.as_ref().unwrap().as_raw_fd();
        match (token, result.unwrap()) {
            (1, FileDone::Written) => io.files.push(FileOp::SyncData { token: 2, fd }),
            (2, FileDone::Synced) => {
                io.files.push(FileOp::Read { token: 3, fd, offset: 100_000, length: 50 });
            }
            (3, FileDone::Read(read)) => {
                assert_eq!(read, [b'f'; 7], "the file ends at 100,007");
                say(io, self.file_user.unwrap(), b"filed");
                self.file = None;
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    fn swept(&mut self, _io: &mut Io<Word>) {}

    fn timeout(&mut self, io: &mut Io<Word>) {
        assert!(io.now >= self.timeout, "not early");
        self.timeout = Timestamp::NEVER;
        say(io, self.timeout_user.unwrap(), b"time");
    }

    fn next_timeout(&self) -> Timestamp {
        self.timeout
    }

    fn shutdown(&mut self, io: &mut Io<Word>) {
        for &id in self.open.keys() {
            say(io, id, b"shutdown");
            io.actions.push(Action::Close(id));
        }
    }
}

/// A node of [`Lines`] and what it tells.
struct Running {
    node: Node<Word>,
    told: Receiver<Told>,
}

impl Running {
    fn start(shards: u16) -> Self {
        Self::with(EngineConfig { shards, ..config() })
    }

    fn with(config: EngineConfig) -> Self {
        let (report, told) = channel();
        let node = Node::start(config, move |_| Lines::new(report.clone())).unwrap();
        Self { node, told }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.node.addresses()[0]).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    /// Connects until the connection is on `shard`: the kernel chooses.
    fn connect_to(&self, shard: u8) -> TcpStream {
        loop {
            let mut stream = self.connect();
            stream.write_all(b"!shard\n").unwrap();
            if read_line(&mut stream) == [b'0' + shard] {
                return stream;
            }
        }
    }

    /// The next thing told that `wanted` picks.
    fn told<T>(&self, wanted: impl Fn(Told) -> Option<T>) -> T {
        loop {
            let told = self.told.recv_timeout(Duration::from_secs(10)).expect("told in time");
            if let Some(wanted) = wanted(told) {
                return wanted;
            }
        }
    }

    fn closed(&self) -> CloseReason {
        self.told(|told| if let Told::Closed(reason) = told { Some(reason) } else { None })
    }

    fn stop(self) -> Vec<EngineCounters> {
        self.node.shutdown();
        self.node.join().unwrap()
    }
}

fn config() -> EngineConfig {
    EngineConfig {
        listen: vec![Listen::tcp("127.0.0.1:0".parse().unwrap())],
        pin: false,
        connections_max: 4_000,
        close_deadline: Duration::from_secs(2),
        ..EngineConfig::default()
    }
}

fn read_line(stream: &mut TcpStream) -> Vec<u8> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte).unwrap();
        if byte == *b"\n" {
            return line;
        }
        line.push(byte[0]);
    }
}

#[track_caller]
fn check(stream: &mut TcpStream, command: &[u8], expected: &[u8]) {
    stream.write_all(command).unwrap();
    assert_eq!(read_line(stream), expected);
}

#[test]
fn echoes_lines_whatever_the_split() {
    for shards in [1, 2] {
        let running = Running::start(shards);
        for split in [1, 2, 3, 7, 100, 5_000] {
            let mut stream = running.connect();
            let text: Vec<u8> = (0..400).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
            for piece in text.chunks(split) {
                stream.write_all(piece).unwrap();
            }
            let mut echoed = vec![0; text.len()];
            stream.read_exact(&mut echoed).unwrap();
            assert_eq!(echoed, text);
        }
        running.stop();
    }
}

#[test]
fn serves_a_thousand_connections_at_once() {
    let running = Running::start(2);
    let mut streams: Vec<TcpStream> = (0..1_000).map(|_| running.connect()).collect();
    for round in 0..3 {
        for (n, stream) in streams.iter_mut().enumerate() {
            stream.write_all(format!("{round} {n}\n").as_bytes()).unwrap();
        }
        for (n, stream) in streams.iter_mut().enumerate() {
            assert_eq!(read_line(stream), format!("{round} {n}").as_bytes());
        }
    }
    drop(streams);
    for _ in 0..1_000 {
        assert_eq!(running.closed(), CloseReason::PeerClosed);
    }
    let counters = running.stop();
    assert_eq!(counters.iter().map(|shard| shard.accepted).sum::<u64>(), 1_000);
}

#[test]
fn survives_storms_of_resets() {
    let running = Running::start(2);
    for _ in 0..5 {
        let mut streams: Vec<TcpStream> = (0..200).map(|_| running.connect()).collect();
        for stream in &mut streams {
            check(stream, b"served\n", b"served");
            rustix::net::sockopt::set_socket_linger(&*stream, Some(Duration::ZERO)).unwrap();
            stream.write_all(b"a\nb\nincomplete").unwrap();
        }
        drop(streams);
        for _ in 0..200 {
            assert!(matches!(running.closed(), CloseReason::PeerReset | CloseReason::PeerClosed));
        }
    }
    check(&mut running.connect(), b"still here\n", b"still here");
    running.stop();
}

#[test]
fn a_half_closed_client_gets_all_answers() {
    let running = Running::start(1);
    let mut stream = running.connect();
    let text = b"0123456789\n".repeat(20_000);
    let mut writer = stream.try_clone().unwrap();
    let copy = text.clone();
    let thread = std::thread::spawn(move || {
        writer.write_all(&copy).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut echoed = Vec::new();
    stream.read_to_end(&mut echoed).unwrap();
    thread.join().unwrap();
    assert_eq!(echoed.len(), text.len());
    assert_eq!(running.closed(), CloseReason::PeerClosed);
    running.stop();
}

#[test]
fn closes_after_a_slow_reader_took_everything() {
    let running = Running::start(1);
    let mut stream = running.connect();
    stream.write_all(b"!fill\n!close\nnot read any more\n").unwrap();
    std::thread::park_timeout(Duration::from_millis(200));
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), FILLER_BYTES + b"bye\n".len());
    assert!(all.ends_with(b"xbye\n"));
    assert_eq!(running.told(|told| (told == Told::Writable).then_some(())), ());
    drop(stream);
    assert_eq!(running.closed(), CloseReason::Requested);
    running.stop();
}

#[test]
fn gives_up_on_a_reader_that_takes_nothing() {
    let running =
        Running::with(EngineConfig { close_deadline: Duration::from_millis(100), ..config() });
    let mut stream = running.connect();
    stream.write_all(b"!fill\n!close\n").unwrap();
    assert_eq!(running.closed(), CloseReason::CloseDeadline);
    check(&mut running.connect(), b"others live\n", b"others live");
    running.stop();
}

#[test]
fn aborts_with_a_reset_while_a_send_is_blocked() {
    let running = Running::start(1);
    let mut stream = running.connect();
    stream.write_all(b"!fill\n").unwrap();
    std::thread::park_timeout(Duration::from_millis(50));
    stream.write_all(b"!abort\n").unwrap();
    assert_eq!(running.closed(), CloseReason::Requested);
    let error = io::copy(&mut stream, &mut io::sink()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    running.stop();
}

#[test]
fn a_held_connection_is_not_read_until_resumed() {
    let running = Running::start(1);
    let mut stream = running.connect();
    check(&mut stream, b"first\n", b"first");
    stream.write_all(b"!hold\nsecond\nthi").unwrap();
    std::thread::park_timeout(Duration::from_millis(50));
    stream.write_all(b"rd\n").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    // Back-pressure: the client cannot write for ever.
    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let flood = vec![b'\n'; 64 << 20];
    assert!(stream.write_all(&flood).is_err(), "held, yet 64 MiB were taken");

    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert!(running.node.senders()[0].send(Word::Release).is_ok());
    assert_eq!(read_line(&mut stream), b"second");
    assert_eq!(read_line(&mut stream), b"third");
    running.stop();
}

#[test]
fn hands_a_connection_over_with_its_bytes() {
    let running = Running::start(2);
    let mut moved = 0;
    while moved < 5 {
        let mut stream = running.connect();
        stream.write_all(b"!move\n!shard\nhalf").unwrap();
        assert_eq!(read_line(&mut stream), b"1");
        check(&mut stream, b" line\n", b"half line");
        check(&mut stream, b"more\n", b"more");
        moved +=
            usize::from(!running.told.try_iter().any(|told| told == Told::Opened(ShardIndex(1))))
                + 1;
    }
    let counters = running.stop();
    assert_eq!(counters[0].departed, counters[1].arrived);
}

#[test]
fn shards_ask_and_answer_each_other() {
    let running = Running::start(2);
    for shard in [0, 1] {
        let mut stream = running.connect_to(shard);
        for _ in 0..20 {
            check(&mut stream, b"!ask\n", b"42");
        }
        // Many at once, and after both shards have gone to sleep.
        stream.write_all(&b"!ask\n".repeat(1_000)).unwrap();
        for _ in 0..1_000 {
            assert_eq!(read_line(&mut stream), b"42");
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    running.stop();
}

#[test]
fn threads_reach_a_sleeping_shard() {
    let running = Running::start(1);
    for number in 0..50 {
        std::thread::park_timeout(Duration::from_millis(number % 4));
        assert!(running.node.senders()[0].send(Word::Say { back_to: None, number }).is_ok());
        let heard = running.told(|told| if let Told::Heard(n) = told { Some(n) } else { None });
        assert_eq!(heard, number);
    }
    running.stop();
}

#[test]
fn writes_syncs_and_reads_files() {
    let running = Running::start(1);
    let mut stream = running.connect();
    for _ in 0..3 {
        check(&mut stream, b"!file\n", b"filed");
    }
    running.stop();
}

#[test]
fn wakes_for_timeouts() {
    let running = Running::start(1);
    let mut stream = running.connect();
    for _ in 0..3 {
        let start = clock();
        check(&mut stream, b"!later\n", b"time");
        let took = start.elapsed();
        assert!((28..1_000).contains(&took.as_millis()), "took {took:?}");
    }
    running.stop();
}

#[test]
fn an_idle_shard_costs_no_cpu() {
    let running = Running::start(2);
    let mut stream = running.connect();
    check(&mut stream, b"awake\n", b"awake");
    std::thread::park_timeout(Duration::from_millis(50));
    let before = running_ticks("shard-");
    std::thread::park_timeout(Duration::from_millis(1_000));
    check(&mut stream, b"awake again\n", b"awake again");
    // Threads of other tests may have ended, and their ticks with them.
    let used = running_ticks("shard-").saturating_sub(before);
    let counters = running.stop();
    // Other tests run shards of the same name; this shard's own sweeps tell more than the ticks.
    let enters: u64 = counters.iter().map(|shard| shard.enters).sum();
    assert!(enters < 200, "{enters} enters, {used} ticks");
}

#[test]
fn refuses_more_connections_than_allowed_and_too_long_lines() {
    let limits = EngineConfig { connections_max: 2, partial_bytes_max: 1_000, ..config() };
    let running = Running::with(limits);
    let mut first = running.connect();
    check(&mut first, b"one\n", b"one");
    let mut second = running.connect();
    check(&mut second, b"two\n", b"two");
    let mut third = running.connect();
    assert!(matches!(third.read(&mut [0]), Ok(0) | Err(_)), "the third is refused");
    second.write_all(&[b'x'; 1_001]).unwrap();
    assert_eq!(running.closed(), CloseReason::PartialTooLarge);
    // Its descriptor counts until the kernel has let go of it, a moment after `closed`.
    wait_for(|| {
        let mut fourth = running.connect();
        fourth.write_all(b"room again\n").is_ok() && matches!(fourth.read(&mut [0]), Ok(1))
    });
    assert!(running.stop()[0].refused >= 1);
}

#[test]
fn a_stop_says_goodbye_and_waits_for_it() {
    let running = Running::start(2);
    let mut streams: Vec<TcpStream> = (0..20).map(|_| running.connect()).collect();
    for stream in &mut streams {
        check(stream, b"hello\n", b"hello");
    }
    running.node.shutdown();
    for stream in &mut streams {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"shutdown\n");
    }
    drop(streams);
    let counters = running.node.join().unwrap();
    assert_eq!(counters.iter().map(EngineCounters::closed_total).sum::<u64>(), 20);
}

#[test]
fn an_address_that_is_taken_is_reported_at_once() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = vec![Listen::tcp(taken.local_addr().unwrap())];
    let error = BoundNode::<Word>::bind(EngineConfig { listen, ..config() }).map(drop).unwrap_err();
    assert!(error.to_string().contains("cannot listen on 127.0.0.1"), "{error}");
}

/// Runs alone in its own process, because descriptors are counted per process.
#[test]
fn leaks_no_descriptor() {
    if std::env::var_os("ENGINE_LEAK_CHILD").is_none() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "engine::leaks_no_descriptor"])
            .env("ENGINE_LEAK_CHILD", "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let before_all = descriptors();
    let running = Running::start(2);
    check(&mut running.connect(), b"warm\n", b"warm");
    running.closed();
    // Told a moment before the descriptor is closed.
    std::thread::park_timeout(Duration::from_millis(200));
    let before = descriptors();
    for round in 0..10 {
        let mut streams: Vec<TcpStream> = (0..50).map(|_| running.connect()).collect();
        for (n, stream) in streams.iter_mut().enumerate() {
            check(stream, b"served\n", b"served");
            let words: [&[u8]; 5] =
                [b"a\nb", b"!fill\n!abort\n", b"!close\n", b"!move\nx\n", b"!fill\n"];
            stream.write_all(words[(n + round) % words.len()]).unwrap();
        }
        drop(streams);
        let mut closed = 0;
        while closed < 50 {
            running.closed();
            closed += 1;
        }
    }
    wait_for(|| descriptors() == before);
    running.stop();
    // glommio keeps one eventfd an executor for the rest of the process.
    wait_for(|| descriptors() <= before_all + 2);
}

/// Descriptors of this process.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[track_caller]
fn wait_for(condition: impl Fn() -> bool) {
    let start = clock();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "waited 10 s in vain");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

#[expect(clippy::disallowed_methods, reason = "a test measures how long the engine took")]
fn clock() -> Instant {
    Instant::now()
}

/// CPU ticks used by this process's threads whose name starts with `name`.
fn running_ticks(name: &str) -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    stats
        .filter(|stat| stat.contains(&format!("({name}")))
        .filter_map(|stat| {
            let fields: Vec<u64> = stat
                .rsplit(')')
                .next()?
                .split_whitespace()
                .map(|field| field.parse().unwrap_or(0))
                .collect();
            Some(fields.get(11)? + fields.get(12)?)
        })
        .sum()
}

/// A link to a server is a connection like another, only that the shard made it.
#[test]
fn dials_a_server_and_talks_both_ways() {
    let running = Running::start(1);
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = running.connect();
    stream.write_all(format!("!dial {} 5000\n", server.local_addr().unwrap()).as_bytes()).unwrap();
    let (mut link, _) = server.accept().unwrap();
    link.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(read_line(&mut stream), b"connected");
    assert_eq!(read_line(&mut link), b"hello");
    for split in [1, 7, 100_000] {
        let text: Vec<u8> = (0..4_000).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
        let mut reader = link.try_clone().unwrap();
        let length = text.len();
        let echoed = std::thread::spawn(move || {
            let mut echoed = vec![0; length];
            reader.read_exact(&mut echoed).unwrap();
            echoed
        });
        for piece in text.chunks(split) {
            link.write_all(piece).unwrap();
        }
        assert_eq!(echoed.join().unwrap(), text);
    }
    drop(link);
    assert_eq!(running.closed(), CloseReason::PeerClosed);
    let counters = running.stop();
    assert_eq!(counters[0].dialed, 1);
}

#[test]
fn a_server_that_refuses_or_never_answers_is_reported() {
    let running = Running::start(1);
    let mut stream = running.connect();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    check(&mut stream, format!("!dial {nobody} 5000\n").as_bytes(), b"ConnectionRefused");
    // A listener whose backlog is full answers nothing.
    let full = full_listener();
    let address = listener::local_address(&full).unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        waiting.push(stream);
    }
    check(&mut stream, format!("!dial {address} 50\n").as_bytes(), b"TimedOut");
    check(&mut stream, b"still here\n", b"still here");
    let counters = running.stop();
    assert_eq!(counters[0].dialed, 0);
}

/// A listener with room for one connection that nobody accepts.
fn full_listener() -> OwnedFd {
    listener::listen("127.0.0.1:0".parse().unwrap(), 0).unwrap()
}
