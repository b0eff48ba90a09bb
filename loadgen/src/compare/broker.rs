//! A broker to compare: one that runs, or one that is started for each run.

use std::{
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    sync::mpsc::channel,
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};

/// How long a broker may take until it listens, in steps of [`LOOK`].
const START_LOOKS: u32 = 600;
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How long it may take to end after SIGTERM.
const END: Duration = Duration::from_secs(30);

/// A broker, as given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broker {
    /// What it is called in tables.
    pub(crate) name: String,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    /// It runs, and its process is not known or not here.
    Elsewhere,
    /// It runs as this process.
    Process(u32),
    /// A shell starts it with this.
    Command(String),
}

/// A broker during a run.
pub(super) struct Running {
    pid: Option<u32>,
    child: Option<Child>,
    name: String,
}

impl Broker {
    /// Reads `NAME=ADDRESS`, `NAME=ADDRESS,pid=PID` or `NAME=ADDRESS,start=COMMAND`; the address may
    /// have `mqtt://` in front. The command takes the rest, commas and all.
    ///
    /// # Errors
    ///
    /// A sentence.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let expected = "expected NAME=ADDRESS, NAME=ADDRESS,pid=PID or NAME=ADDRESS,start=COMMAND";
        let (name, rest) = text.split_once('=').ok_or(expected)?;
        let (address, origin) = match rest.split_once(',') {
            None => (rest, Origin::Elsewhere),
            Some((address, origin)) => (address, Self::parse_origin(origin).ok_or(expected)?),
        };
        let address = address.strip_prefix("mqtt://").unwrap_or(address);
        let address =
            address.parse().map_err(|_| format!("{address:?} is no address with a port"))?;
        if name.is_empty() {
            return Err(expected.to_owned());
        }
        Ok(Self { name: name.to_owned(), address, origin })
    }

    fn parse_origin(text: &str) -> Option<Origin> {
        match text.split_once('=')? {
            ("pid", pid) => pid.parse().ok().map(Origin::Process),
            ("start", command) if !command.trim().is_empty() => {
                Some(Origin::Command(command.to_owned()))
            }
            _ => None,
        }
    }

    /// Starts it, if it is to be started, and waits until it listens.
    ///
    /// # Errors
    ///
    /// When something else listens there already, it ends at once, or it does not listen in time.
    pub(super) fn start(&self) -> anyhow::Result<Running> {
        let name = self.name.clone();
        let command = match &self.origin {
            Origin::Elsewhere => return Ok(Running { pid: None, child: None, name }),
            Origin::Process(pid) => return Ok(Running { pid: Some(*pid), child: None, name }),
            Origin::Command(command) => command,
        };
        if TcpStream::connect(self.address).is_ok() {
            bail!("{name}: something listens on {} already", self.address);
        }
        // `exec`, so that the process watched is the broker and not the shell; a group of its own,
        // so that ctrl-C ends the comparison first.
        let mut child = Command::new("sh")
            .args(["-c", &format!("exec {command}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("{name}: cannot start {command:?}"))?;
        for _ in 0..START_LOOKS {
            if let Some(status) = child.try_wait().context("cannot look at a child")? {
                bail!("{name}: {command:?} ended before it listened, {status}");
            }
            if TcpStream::connect(self.address).is_ok() {
                return Ok(Running { pid: Some(child.id()), child: Some(child), name });
            }
            // Nothing tells when another process begins to listen.
            thread::park_timeout(LOOK);
        }
        let running = Running { pid: None, child: Some(child), name };
        let ended = running.stop();
        bail!("{}: does not listen on {}: {ended:?}", self.name, self.address)
    }
}

impl Running {
    /// Its process, if it is known.
    pub(super) fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Ends it, if it was started here, and waits for its end.
    ///
    /// # Errors
    ///
    /// When it cannot be told to. One that does not listen to SIGTERM is killed.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let pid = child.id().to_string();
        let signal = |name: &str| Command::new("kill").args([name, &pid]).status();
        signal("-TERM").context("cannot run `kill`")?;
        let (sender, ended) = channel();
        thread::spawn(move || drop(sender.send(child.wait())));
        if ended.recv_timeout(END).is_err() {
            eprintln!("{} does not end on SIGTERM, so it is killed", self.name);
            signal("-KILL").context("cannot run `kill`")?;
            let _ = ended.recv();
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A comparison that ends early leaves no broker behind.
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_read_in_each_form() {
        let address = "127.0.0.1:1883".parse().unwrap();
        let broker = |name: &str, origin| Broker { name: name.to_owned(), address, origin };
        assert_eq!(Broker::parse("a=mqtt://127.0.0.1:1883"), Ok(broker("a", Origin::Elsewhere)));
        assert_eq!(Broker::parse("a=127.0.0.1:1883,pid=7"), Ok(broker("a", Origin::Process(7))));
        let command = "mosquitto -c 'a,b=c'".to_owned();
        assert_eq!(
            Broker::parse("m=127.0.0.1:1883,start=mosquitto -c 'a,b=c'"),
            Ok(broker("m", Origin::Command(command)))
        );
        for wrong in ["", "a", "a=b", "=127.0.0.1:1", "a=127.0.0.1:1,pid=x", "a=127.0.0.1:1,start="]
        {
            assert!(Broker::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_command_that_ends_at_once_is_a_clear_fault() {
        let broker = Broker::parse("x=127.0.0.1:1,start=false").unwrap();
        let fault = broker.start().err().unwrap().to_string();
        assert!(fault.contains("ended before it listened"), "{fault}");
    }

    #[test]
    fn what_was_started_ends_with_sigterm() {
        // A shell listens to nothing, so it is put together here.
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id();
        let running = Running { pid: Some(pid), child: Some(child), name: "sleep".to_owned() };
        running.stop().unwrap();
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
