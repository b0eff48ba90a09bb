//! The engine over real sockets and io_uring, with a handler that speaks one letter commands.

use gateway::proto::handler::{CloseReason, FileDone, FileOp, Handler, Io, Sender};
use gateway::proto::output::{Action, ConnectionId, ShardIndex};
use gateway::proto::time::Timestamp;
use gateway::shard::{BoundNode, EngineConfig, EngineCounters, Node};
use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
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

    fn opened(&mut self, id: ConnectionId, peer: SocketAddr, io: &mut Io<Word>) {
        assert!(peer.ip().is_loopback());
        assert!(self.open.insert(id, 0).is_none(), "opened once");
        self.tell(Told::Opened(io.shard));
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
            if line == b"!hold" {
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
        listen: vec!["127.0.0.1:0".parse().unwrap()],
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
