//! `gateway upgrade`: a new process takes over from the one that runs.
//!
//! ```text
//! gateway upgrade ──upgrade.sock──▶ old process ──spawns──▶ new process
//!        ◀── what is being done ──────┘   └──── socket pair, its stdin ────┘    see node/hand_over.rs
//! ```
//! The socket is in the data directory: who may write there may replace the gateway anyway.

use crate::config::{Config, Durability, Sessions};
use crate::node::hand_over::{HandOver, HandOverError, Line};
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// Of the socket, in the data directory.
const NAME: &str = "upgrade.sock";
/// How long who asks may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a request: a path.
const REQUEST_BYTES_MAX: u64 = 65_536;
/// Says to a process that its stdin is the line to the one before it.
const TAKE_OVER: &str = "GATEWAY_TAKES_OVER";
/// How long the new process may take until it can be upgraded itself.
const RUNNING_WAIT: Duration = Duration::from_secs(10);

/// Why it was not upgraded.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// Nobody to ask.
    #[error(
        "no gateway can be asked at {}: {error}; give the --data (or --config) it runs with, as its \
         user or as root",
        path.display()
    )]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// The operating system's answer.
        error: io::Error,
    },
    /// The program to run.
    #[error("{}: {error}", path.display())]
    Binary {
        /// As given.
        path: PathBuf,
        /// The operating system's answer.
        error: io::Error,
    },
    /// The old process goes on.
    #[error("not upgraded, the old process goes on: {0}")]
    Refused(String),
    /// Nothing more was heard.
    #[error("the gateway says nothing more, see its log")]
    Silent,
}

/// Asks the gateway that runs with `config` to let a new process take over, tells `progress` how far it
/// is, and returns the new process's id.
///
/// # Errors
///
/// See [`UpgradeError`].
pub fn upgrade(
    config: &Config,
    binary: Option<&Path>,
    mut progress: impl FnMut(&str),
) -> Result<u32, UpgradeError> {
    let path = config.data.join(NAME);
    let binary = binary.map(|path| {
        let failed = |error| UpgradeError::Binary { path: path.to_owned(), error };
        path.canonicalize().map_err(failed)
    });
    let binary = binary.transpose()?;
    let asked = UnixStream::connect(&path).and_then(|mut socket| {
        let text = binary.as_deref().map(|path| path.display().to_string());
        writeln!(socket, "{}", text.unwrap_or_default())?;
        Ok(socket)
    });
    let socket = asked.map_err(|error| UpgradeError::Unreachable { path, error })?;
    for line in BufReader::new(socket).lines().map_while(Result::ok) {
        match line.split_once(' ') {
            Some(("doing", text)) => progress(text),
            Some(("done", id)) => return id.parse().map_err(|_| UpgradeError::Silent),
            Some(("failed", text)) => return Err(UpgradeError::Refused(text.to_owned())),
            _ => {}
        }
    }
    Err(UpgradeError::Silent)
}

/// Someone wants a new process to take over.
#[derive(Debug)]
pub struct UpgradeRequest {
    /// The program, if it is another file.
    pub binary: Option<PathBuf>,
    socket: UnixStream,
}

impl UpgradeRequest {
    /// Says what is being done. Who asked may have gone: it is done all the same.
    pub fn say(&mut self, text: &str) {
        tracing::info!("upgrade: {text}");
        let _ = writeln!(self.socket, "doing {text}");
    }

    /// It is done.
    pub fn succeed(mut self, id: u32) {
        tracing::info!(id, "upgrade: the new process has taken over");
        let _ = writeln!(self.socket, "done {id}");
    }

    /// It is not done.
    pub fn fail(mut self, why: &str) {
        tracing::error!(why, "upgrade: not done, this process goes on");
        let _ = writeln!(self.socket, "failed {}", why.replace('\n', "; "));
    }
}

/// Where one asks for an upgrade. Dropped, the file stays: it is the next process's by then.
#[derive(Debug)]
pub struct UpgradeSocket {
    path: PathBuf,
}

impl UpgradeSocket {
    /// Listens in the data directory, in place of whoever did before, and calls `wanted` with each
    /// request, from a thread of its own.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub fn listen(
        data: &Path,
        wanted: impl Fn(UpgradeRequest) + Send + 'static,
    ) -> io::Result<Self> {
        let path = data.join(NAME);
        fs::create_dir_all(data)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        let serve = move || {
            for socket in listener.incoming().flatten() {
                if let Ok(request) = read_request(socket) {
                    wanted(request);
                }
            }
        };
        std::thread::Builder::new().name("upgrade".to_owned()).spawn(serve)?;
        Ok(Self { path })
    }

    /// Nobody can be asked any more.
    pub fn remove(self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn read_request(socket: UnixStream) -> io::Result<UpgradeRequest> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    let limited = io::Read::take(&socket, REQUEST_BYTES_MAX);
    BufReader::new(limited).read_line(&mut line)?;
    let text = line.trim_end_matches('\n');
    let binary = (!text.is_empty()).then(|| PathBuf::from(text));
    Ok(UpgradeRequest { binary, socket })
}

/// Whether a gateway with this configuration can be upgraded while it runs, and why not.
///
/// # Errors
///
/// What it has and could not give to another process.
pub fn is_possible(config: &Config) -> Result<(), &'static str> {
    if config.sessions == Sessions::Shared {
        return Err(
            "with sessions = \"shared\" clients can go to any gateway: drain this one, and \
                    start it anew",
        );
    }
    if config.durability == Durability::Memory {
        return Err(
            "with durability = \"memory\" what is stored ends with the process: drain it, and \
                    start it anew",
        );
    }
    Ok(())
}

/// The file this process was started from; to be asked for at the start, before another is there.
#[must_use]
pub fn own_binary() -> PathBuf {
    let link = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"));
    // Of one that has been replaced.
    match link.to_str().and_then(|text| text.strip_suffix(" (deleted)")) {
        Some(text) => PathBuf::from(text),
        None => link,
    }
}

/// A new process that is to take over.
#[derive(Debug)]
pub struct Successor {
    process: Child,
    line: Line,
    stream: UnixStream,
}

impl Successor {
    /// Starts `binary` with the command line of this process, and waits until it says that it could
    /// take over, for at most `patience`.
    ///
    /// # Errors
    ///
    /// Why it cannot, for an operator. It has ended then.
    pub fn start(binary: &Path, patience: Duration) -> Result<Self, String> {
        let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
        let failed = |error: io::Error| format!("cannot start {}: {error}", binary.display());
        let (stream, other) = UnixStream::pair().map_err(failed)?;
        let kept = stream.try_clone().map_err(failed)?;
        set_patience(&stream, patience).map_err(failed)?;
        let mut command = Command::new(binary);
        command.args(arguments).stdin(Stdio::from(OwnedFd::from(other)));
        // Its own, should it be asked to feed the watchdog.
        command.env(TAKE_OVER, "1").env_remove("WATCHDOG_PID");
        let process = command.spawn().map_err(failed)?;
        drop(command);
        let mut successor = Self { process, line: Line::new(stream), stream: kept };
        match successor.line.offer() {
            Ok(version) => {
                tracing::info!(version, id = successor.id(), "upgrade: a new process is there");
                Ok(successor)
            }
            Err(error) => Err(successor.end(&error, "to start")),
        }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Gives it everything, and waits until it could begin, each step for at most `patience`.
    ///
    /// # Errors
    ///
    /// Why it cannot, for an operator. It has ended then.
    pub fn give(
        mut self,
        hand_over: &HandOver,
        admin: Option<(SocketAddr, BorrowedFd<'_>)>,
        patience: Duration,
    ) -> Result<Self, String> {
        let given = set_patience(&self.stream, patience).map_err(HandOverError::Socket);
        match given.and_then(|()| self.line.give(hand_over, admin)) {
            Ok(()) => Ok(self),
            Err(error) => Err(self.end(&error, "to take over")),
        }
    }

    /// Lets it begin. From here on this process has no clients.
    ///
    /// # Errors
    ///
    /// Why it cannot. It has ended then.
    pub fn go(mut self) -> Result<u32, String> {
        if let Err(error) = self.line.go() {
            return Err(self.end(&error, "to begin"));
        }
        // It runs; whether it also says so changes nothing.
        let _ = set_patience(&self.stream, RUNNING_WAIT);
        let _ = self.line.wait_until_running();
        Ok(self.id())
    }

    /// It is not wanted any more.
    pub fn dismiss(mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Ends it, and says what went wrong.
    fn end(mut self, error: &HandOverError, what: &str) -> String {
        // One that ends by itself says more by its exit code than by being killed.
        let mut status = None;
        for _ in 0..END_LOOKS {
            status = self.process.try_wait().ok().flatten();
            if status.is_some() || !matches!(error, HandOverError::Ended) {
                break;
            }
            std::thread::park_timeout(END_PAUSE);
        }
        if status.is_none() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
        match error {
            HandOverError::Refused(why) => format!("the new process says: {why}"),
            HandOverError::Ended => {
                let how = status.map_or_else(|| "it closed the line".to_owned(), describe);
                format!("the new process ended ({how}); the log says why")
            }
            HandOverError::Socket(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
            {
                format!("the new process took too long {what}, and was ended")
            }
            error => error.to_string(),
        }
    }
}

/// Looks whether a process that has closed its end has ended, and the pause between: 2 s in all.
const END_LOOKS: u32 = 100;
const END_PAUSE: Duration = Duration::from_millis(20);

fn describe(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("exit code {code}"),
        None => status.to_string(),
    }
}

fn set_patience(stream: &UnixStream, patience: Duration) -> io::Result<()> {
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))
}

/// The line to the process that this one is to take over from, if it was started for that.
///
/// # Errors
///
/// Its stdin is no such thing.
pub fn predecessor() -> io::Result<Option<Line>> {
    if std::env::var_os(TAKE_OVER).is_none() {
        return Ok(None);
    }
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    stream.peer_addr()?;
    Ok(Some(Line::new(stream)))
}
