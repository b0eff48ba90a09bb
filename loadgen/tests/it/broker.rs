//! The gateway of this workspace, as a process with a directory of its own.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

/// A gateway that ends with the test.
pub(crate) struct Broker {
    process: Child,
    address: SocketAddr,
    data: PathBuf,
}

impl Broker {
    /// Starts one and waits until it listens.
    pub(crate) fn start() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("loadgen-it-data-{}-{number}", std::process::id());
        let data = std::env::temp_dir().join(name);
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut process = Command::new(program())
            .args(["--listen", &format!("mqtt://{address}"), "--shards", "2"])
            .args(["--durability", "interval", "--data"])
            .arg(&data)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("listening") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "the gateway ended before it listened");
        }
        // Somebody has to read what it says.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { process, address, data }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.data);
    }
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
