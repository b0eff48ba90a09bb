//! A gateway process of a test's own: started, watched by its log, ended by signal.

use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// How long anything may take that a test waits for. Far beyond what it takes: only a fault gets
/// there, not a slow machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Ports tried before a free one is given up: another process may take one in between.
const PORT_TRIES: u32 = 8;

/// Stands for no flag.
const ADMIN_BY_FILE: &str = "";

/// A directory that is gone after the test.
pub(crate) struct TempDirectory(PathBuf);

impl TempDirectory {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("process-{}-{number}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        // What a former run with the same process id may have left.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The gateway's command, not started, with nothing of the environment that it would read.
pub(crate) fn gateway_command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gateway"));
    command
        .env_remove("STATE_DIRECTORY")
        .env_remove("RUST_LOG")
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null());
    command
}

/// A loopback address that was free a moment ago.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The same of IPv6.
pub(crate) fn free_address_v6() -> SocketAddr {
    TcpListener::bind("[::1]:0").unwrap().local_addr().unwrap()
}

/// A running gateway. Dropped without [`Gateway::stop`], as when a test fails, it is killed.
pub(crate) struct Gateway {
    process: Child,
    address: SocketAddr,
    log: Receiver<String>,
    seen: Vec<String>,
    data: Option<TempDirectory>,
}

impl Gateway {
    /// A gateway with an empty data directory of its own. Returns once it accepts connections.
    pub(crate) fn start(flags: &[&str]) -> Self {
        Self::start_with(flags, &[])
    }

    /// The same with variables in its environment.
    pub(crate) fn start_with(flags: &[&str], environment: &[(&str, &str)]) -> Self {
        let data = TempDirectory::new();
        let mut gateway = Self::start_in(data.path(), flags, environment);
        gateway.data = Some(data);
        gateway
    }

    /// A gateway on a data directory that outlives it.
    pub(crate) fn start_on(data: &Path, flags: &[&str]) -> Self {
        Self::start_in(data, flags, &[])
    }

    /// A gateway that has no other flags than the name of this file.
    pub(crate) fn start_configured(data: &Path, file: &Path, address: SocketAddr) -> Self {
        let mut command = gateway_command();
        command.arg("--config").arg(file).arg("--data").arg(data).args(["--admin", "none"]);
        let mut process = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let log = lines_of(process.stderr.take().expect("it is piped"));
        let mut gateway = Self { process, address, log, seen: Vec::new(), data: None };
        gateway.wait_for_lines("listening", 1);
        gateway
    }

    /// The same without `--admin`: what the file says is in force.
    pub(crate) fn start_without_admin_flag(flags: &[&str]) -> Self {
        Self::start(&[flags, &[ADMIN_BY_FILE]].concat())
    }

    fn start_in(data: &Path, flags: &[&str], environment: &[(&str, &str)]) -> Self {
        for _ in 0..PORT_TRIES {
            let address = free_address();
            let mut gateway = Self::spawn(address, data, flags, environment);
            if gateway.wait_for_line("listening") {
                TcpStream::connect(address).expect("it says that it listens");
                return gateway;
            }
            let log = gateway.seen.join("\n");
            assert!(log.contains("another process listens"), "it did not start:\n{log}");
        }
        panic!("no free port in {PORT_TRIES} tries");
    }

    fn spawn(
        address: SocketAddr,
        data: &Path,
        flags: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let mut command = gateway_command();
        command.envs(environment.iter().copied());
        command.arg("--listen").arg(format!("mqtt://{address}")).arg("--data").arg(data);
        if !flags.contains(&"--admin") && !flags.contains(&ADMIN_BY_FILE) {
            // The default address is one for the whole machine.
            command.args(["--admin", "none"]);
        }
        command
            .args(flags.iter().filter(|flag| **flag != ADMIN_BY_FILE))
            .stderr(Stdio::piped())
            .stdout(Stdio::null());
        let mut process = command.spawn().unwrap();
        let log = lines_of(process.stderr.take().expect("it is piped"));
        Self { process, address, log, seen: Vec::new(), data: None }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its data directory, if it was given one of its own.
    pub(crate) fn data(&self) -> &Path {
        self.data.as_ref().expect("it was started without one").path()
    }

    pub(crate) fn port(&self) -> String {
        self.address.port().to_string()
    }

    /// Where its admin server listens, with `--admin 127.0.0.1:0`.
    pub(crate) fn admin_address(&self) -> SocketAddr {
        let line = self.seen.iter().find(|line| line.contains("admin server"));
        // As text, or as a member of an object.
        let (_, rest) = line.and_then(|line| line.rsplit_once("address")).unwrap();
        let address = rest.trim_start_matches(['=', '"', ':']);
        address.split('"').next().unwrap().parse().unwrap()
    }

    /// Everything logged so far.
    pub(crate) fn log(&mut self) -> String {
        self.seen.extend(self.log.try_iter());
        self.seen.join("\n")
    }

    /// Waits until `count` lines with `text` have come in all.
    #[track_caller]
    pub(crate) fn wait_for_lines(&mut self, text: &str, count: usize) {
        while self.seen.iter().filter(|line| line.contains(text)).count() < count {
            let Ok(line) = self.log.recv_timeout(PATIENCE) else {
                panic!("no {count} lines with {text:?} in its log:\n{}", self.seen.join("\n"));
            };
            self.seen.push(line);
        }
    }

    /// Asks it to end, as a service manager does.
    pub(crate) fn terminate(&self) {
        let id = Pid::from_child(&self.process);
        kill_process(id, Signal::TERM).unwrap();
    }

    /// Asks it to read files anew.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    pub(crate) fn hang_up(&self) {
        kill_process(Pid::from_child(&self.process), Signal::HUP).unwrap();
    }

    /// Stops it where it is, until [`Gateway::thaw`].
    pub(crate) fn freeze(&self) {
        kill_process(Pid::from_child(&self.process), Signal::STOP).unwrap();
        let stat = format!("/proc/{}/stat", self.process.id());
        // The signal is sent before it has come to all threads.
        while !fs::read_to_string(&stat).unwrap().contains(") T ") {
            std::thread::yield_now();
        }
    }

    pub(crate) fn thaw(&self) {
        kill_process(Pid::from_child(&self.process), Signal::CONT).unwrap();
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Waits until it has ended.
    ///
    /// Its end is the end of its stderr; nothing else holds that open.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        while let Ok(line) = self.log.recv_timeout(PATIENCE) {
            self.seen.push(line);
        }
        let ended = self.process.try_wait().unwrap();
        let ended = ended.or_else(|| {
            // Between closing its files and its end.
            let is_over = self.log.try_recv() == Err(std::sync::mpsc::TryRecvError::Disconnected);
            is_over.then(|| self.process.wait().unwrap())
        });
        ended.unwrap_or_else(|| panic!("it does not end; its log:\n{}", self.seen.join("\n")))
    }

    /// Ends it and checks that it ends well.
    pub(crate) fn stop(mut self) {
        if !self.has_ended() {
            self.terminate();
        }
        self.finish();
    }

    /// Checks that it ends well, after [`Gateway::terminate`].
    pub(crate) fn finish(mut self) {
        let status = self.wait();
        let log = self.log();
        assert_eq!(status.code(), Some(0), "its log:\n{log}");
        assert!(!log.contains("ERROR"), "its log:\n{log}");
    }

    /// Descriptors it has open now.
    pub(crate) fn descriptor_count(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.process.id())).unwrap().count()
    }

    /// Memory it has in RAM now, bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kib: u64 = line.trim().strip_suffix("kB").unwrap().trim().parse().unwrap();
        kib * 1_024
    }

    /// Whether a line with `text` comes before the process ends.
    fn wait_for_line(&mut self, text: &str) -> bool {
        while let Ok(line) = self.log.recv_timeout(PATIENCE) {
            let found = line.contains(text);
            self.seen.push(line);
            if found {
                return true;
            }
        }
        false
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.process.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = self.process.kill();
            let _ = self.process.wait();
            // Only a failed test gets here: what it said may tell why.
            let log = self.log();
            #[expect(clippy::print_stderr, reason = "the test's own output")]
            {
                eprintln!("log of the gateway that was killed:\n{log}");
            }
        }
    }
}

/// The lines of `stream` as they come; the channel ends with the stream.
fn lines_of(stream: ChildStderr) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}
