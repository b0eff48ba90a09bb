//! Brokers as processes, each with a directory of its own: the gateway of this workspace, mosquitto.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

/// Ports are the system's choice, and taken by others now and then before they are used.
const TRIES: u32 = 5;

/// A broker that ends with the test.
pub(crate) struct Broker {
    process: Child,
    /// By scheme.
    addresses: Vec<(&'static str, SocketAddr)>,
    admin: Option<SocketAddr>,
    data: PathBuf,
}

impl Broker {
    /// Starts a gateway and waits until it listens.
    pub(crate) fn start() -> Self {
        Self::start_with(&["mqtt"], &[])
    }

    /// Starts a gateway that listens for these schemes, with an admin server.
    pub(crate) fn start_with(schemes: &[&'static str], flags: &[&str]) -> Self {
        let mut said = String::new();
        for _ in 0..TRIES {
            match Self::try_start(schemes, flags) {
                Ok(broker) => return broker,
                Err(text) => said = text,
            }
        }
        panic!("the gateway ended before it listened: {said}");
    }

    fn try_start(schemes: &[&'static str], flags: &[&str]) -> Result<Self, String> {
        let addresses: Vec<_> = schemes.iter().map(|scheme| (*scheme, free_address())).collect();
        let data = new_folder();
        let mut command = Command::new(program());
        for (scheme, address) in &addresses {
            command.args(["--listen", &format!("{scheme}://{address}")]);
        }
        let mut process = command
            .args(["--shards", "2", "--durability", "interval", "--admin", "127.0.0.1:0", "--data"])
            .arg(&data)
            .args(flags)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut broker = Self { process, addresses, admin: None, data };
        let (mut said, mut listening) = (String::new(), 0);
        while listening < schemes.len() || broker.admin.is_none() {
            let mut line = String::new();
            if log.read_line(&mut line).unwrap() == 0 {
                return Err(said);
            }
            listening += usize::from(line.contains("listening"));
            if line.contains("admin server") {
                let text = line.rsplit_once("address=").unwrap().1;
                broker.admin = Some(text.trim().parse().unwrap());
            }
            said.push_str(&line);
        }
        // Somebody has to read what it says.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Ok(broker)
    }

    /// Starts a mosquitto that speaks TLS; `None` where there is none.
    pub(crate) fn mosquitto(cert: &Path, key: &Path) -> Option<Self> {
        let program = ["mosquitto", "/usr/sbin/mosquitto"].into_iter().find(|name| {
            let shown = Command::new(name).arg("-h").stdout(Stdio::null()).status();
            shown.is_ok()
        });
        let Some(program) = program else {
            let is_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
            assert!(!is_ci, "mosquitto is missing: run `make tools`");
            eprintln!("\n*** SKIPPED: mosquitto is missing: run `make tools` ***\n");
            return None;
        };
        let (address, data) = (free_address(), new_folder());
        let text = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\npersistence false\ncertfile {}\n\
             keyfile {}\nmax_inflight_messages 1000\nmax_queued_messages 100000\n",
            address.port(),
            cert.display(),
            key.display()
        );
        fs::create_dir_all(&data).unwrap();
        let path = data.join("mosquitto.conf");
        fs::write(&path, text).unwrap();
        let mut process = Command::new(program)
            .arg("-c")
            .arg(&path)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains(" running") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "mosquitto ended before it ran");
        }
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Some(Self { process, addresses: vec![("mqtts", address)], admin: None, data })
    }

    /// Where it listens first.
    pub(crate) fn address(&self) -> SocketAddr {
        self.addresses[0].1
    }

    /// Where it listens for a scheme.
    pub(crate) fn url(&self, scheme: &str) -> String {
        let (_, address) = self.addresses.iter().find(|(known, _)| *known == scheme).unwrap();
        format!("{scheme}://{address}")
    }

    /// The sum over all shards of the metric `name` with this label.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str, label: &str) -> u64 {
        let mut admin = TcpStream::connect(self.admin()).unwrap();
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        admin.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        admin.read_to_string(&mut text).unwrap();
        let lines: Vec<_> =
            text.lines().filter(|line| line.starts_with(name) && line.contains(label)).collect();
        assert!(!lines.is_empty(), "{name}, {label} in {text}");
        lines.iter().map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
    }

    /// Where its admin server listens.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin.unwrap()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.data);
    }
}

/// A path that nobody else uses.
pub(crate) fn new_folder() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("loadgen-it-data-{}-{number}", std::process::id()))
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The gateway's program. `cargo test --workspace` builds it; where only this package is tested, the
/// one that is there is good enough, and one is built if there is none.
fn program() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let find = || {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_loadgen")).with_file_name("gateway");
        if !program.exists() {
            let status = Command::new(env!("CARGO"))
                .args(["build", "--quiet", "--locked", "--package", "gateway"])
                .status()
                .unwrap();
            assert!(status.success(), "the gateway does not build");
        }
        program
    };
    PROGRAM.get_or_init(find).clone()
}
