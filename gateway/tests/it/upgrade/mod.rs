//! `gateway upgrade`: another process takes over, and plain clients do not notice.

pub(crate) mod fleet;

use crate::packets::framed;
use crate::process::gateway::{Gateway, PATIENCE, TempDirectory, gateway_command};
use crate::process::raw_client::{RawClient, V5, connect, publish, push_text, subscribe};
use fleet::Fleet;
use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

/// The process that has taken over; it ends with the test.
pub(crate) struct Heir(Pid);

impl Heir {
    /// It has ended by itself, for another: its number may be anybody's by now.
    pub(crate) fn was_replaced_by(self, other: &Self) {
        assert_ne!(self.0, other.0);
        std::mem::forget(self);
    }
}

impl Drop for Heir {
    fn drop(&mut self) {
        let program = fs::read_link(format!("/proc/{}/exe", self.0.as_raw_nonzero()));
        if program.is_ok_and(|program| program == Path::new(env!("CARGO_BIN_EXE_gateway"))) {
            let _ = kill_process(self.0, Signal::TERM);
        }
    }
}

/// `gateway upgrade`, while the test goes on.
fn begin_upgrade(data: &Path, flags: &[&str]) -> Child {
    let mut command = gateway_command();
    command.arg("upgrade").arg("--data").arg(data).args(flags);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn upgrade(data: &Path, flags: &[&str]) -> Output {
    begin_upgrade(data, flags).wait_with_output().unwrap()
}

#[track_caller]
pub(crate) fn heir_of(output: &Output) -> Heir {
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    let id = text.split("upgraded: process ").nth(1).and_then(|rest| rest.split(' ').next());
    let id = id.unwrap_or_else(|| panic!("not upgraded: {text}\n{error}"));
    Heir(Pid::from_raw(id.parse().unwrap()).unwrap())
}

#[track_caller]
pub(crate) fn why_not(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Upgrades while the fleet publishes.
pub(crate) fn upgrade_under(fleet: &mut Fleet, data: &Path, flags: &[&str]) -> Output {
    let mut asked = begin_upgrade(data, flags);
    fleet.publish_until(|_| asked.try_wait().unwrap().is_some());
    asked.wait_with_output().unwrap()
}

/// A program for `/bin/sh`, to be started in place of a gateway.
fn program(directory: &Path, text: &str) -> PathBuf {
    let path = directory.join("program");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Ends the gateway by its last process, and checks that all of them ended well.
pub(crate) fn finish(gateway: Gateway, heir: Heir) {
    drop(heir);
    gateway.finish();
}

#[test]
fn clients_do_not_notice_two_upgrades() {
    let data = TempDirectory::new();
    let gateway = Gateway::start_on(data.path(), &["--shards", "2"]);
    let mut fleet = Fleet::gather(gateway.address(), 16, 0..3);
    fleet.publish_until(|fleet| fleet.done_by_all() > 5);
    let first = heir_of(&upgrade_under(&mut fleet, data.path(), &[]));
    let done = fleet.done_by_all();
    fleet.publish_until(|fleet| fleet.done_by_all() > done + 5);
    let second = heir_of(&upgrade_under(&mut fleet, data.path(), &[]));
    first.was_replaced_by(&second);
    let done = fleet.done_by_all();
    fleet.publish_until(|fleet| fleet.done_by_all() > done + 5);
    fleet.all_arrived();
    // Whoever comes now is served, too.
    RawClient::connected(gateway.address(), V5, "new");
    finish(gateway, second);
}

#[test]
fn the_new_process_may_have_other_shards() {
    let directory = TempDirectory::new();
    let (data, file) = (directory.path().join("data"), directory.path().join("gateway.toml"));
    fs::write(&file, "shards = 1\n").unwrap();
    let flags = ["--config", file.to_str().unwrap()];
    let gateway = Gateway::start_on(&data, &flags);
    let mut fleet = Fleet::gather(gateway.address(), 4, 0..3);
    let mut heir: Option<Heir> = None;
    for shards in [3, 2] {
        fs::write(&file, format!("shards = {shards}\n")).unwrap();
        let done = fleet.done_by_all();
        fleet.publish_until(|fleet| fleet.done_by_all() > done + 5);
        let next = heir_of(&upgrade_under(&mut fleet, &data, &[]));
        if let Some(former) = heir.replace(next) {
            former.was_replaced_by(heir.as_ref().unwrap());
        }
        let done = fleet.done_by_all();
        fleet.publish_until(|fleet| fleet.done_by_all() > done + 5);
    }
    fleet.all_arrived();
    RawClient::connected(gateway.address(), V5, "new");
    finish(gateway, heir.unwrap());
}

/// Every way in which the new process can fail before it has anything.
#[test]
fn the_old_process_goes_on_if_the_new_one_does_not_start() {
    let directory = TempDirectory::new();
    let (data, file) = (directory.path().join("data"), directory.path().join("gateway.toml"));
    fs::write(&file, "shards = 2\n").unwrap();
    let limits = ["--limit", "upgrade_start_max_s=5"];
    let flags = [&["--config", file.to_str().unwrap()], &limits[..]].concat();
    let gateway = Gateway::start_on(&data, &flags);
    let mut fleet = Fleet::gather(gateway.address(), 4, 0..3);
    for (text, expected) in [
        ("exit 3", "exit code 3"),
        ("exec sleep 600", "took too long to start"),
        // As one of another version would: a message of kind 3.
        (r"head -c 13 >/dev/null; printf '\003\005\000\000\000never' >&0; sleep 5", "never"),
    ] {
        let binary = program(directory.path(), text);
        let why =
            why_not(&upgrade_under(&mut fleet, &data, &["--binary", binary.to_str().unwrap()]));
        assert!(why.contains(expected) && why.contains("the old process goes on"), "{text}: {why}");
        let done = fleet.done_by_all();
        fleet.publish_until(|fleet| fleet.done_by_all() > done + 3);
    }
    let binary = directory.path().join("program");
    fs::write(&binary, "no program").unwrap();
    let why = why_not(&upgrade_under(&mut fleet, &data, &["--binary", binary.to_str().unwrap()]));
    assert!(why.contains("cannot start"), "{why}");
    fs::write(&file, "shards = 2\nshardz = 3\n").unwrap();
    let why = why_not(&upgrade_under(&mut fleet, &data, &[]));
    assert!(why.contains("shardz"), "{why}");
    fleet.all_arrived();
    drop(fleet);
    gateway.terminate();
    let mut gateway = gateway;
    assert_eq!(gateway.wait().code(), Some(0), "{}", gateway.log());
}

/// It says that it can take over, and then does `rest`: it may have the sockets, and the old process has
/// given its data directory away.
fn after_ready(directory: &Path, rest: &str) -> PathBuf {
    let ready = r"head -c 13 >/dev/null; printf '\002\001\000\000\0007' >&0;";
    program(directory, &format!("{ready} {rest}"))
}

#[test]
fn the_old_process_goes_on_if_the_new_one_hangs_with_everything() {
    let directory = TempDirectory::new();
    let data = directory.path().join("data");
    let mut gateway =
        Gateway::start_on(&data, &["--shards", "2", "--limit", "upgrade_take_max_s=1"]);
    let mut fleet = Fleet::gather(gateway.address(), 8, 0..3);
    fleet.publish_until(|fleet| fleet.done_by_all() > 5);
    let binary = after_ready(directory.path(), "exec sleep 600");
    let why = why_not(&upgrade_under(&mut fleet, &data, &["--binary", binary.to_str().unwrap()]));
    assert!(why.contains("took too long"), "{why}");
    let done = fleet.done_by_all();
    fleet.publish_until(|fleet| fleet.done_by_all() > done + 5);
    fleet.all_arrived();
    drop(fleet);
    gateway.terminate();
    assert_eq!(gateway.wait().code(), Some(0), "{}", gateway.log());
}

#[test]
fn the_old_process_goes_on_if_the_new_one_ends_with_everything() {
    let directory = TempDirectory::new();
    let data = directory.path().join("data");
    let mut gateway = Gateway::start_on(&data, &["--shards", "2"]);
    let mut fleet = Fleet::gather(gateway.address(), 8, 0..3);
    fleet.publish_until(|fleet| fleet.done_by_all() > 5);
    let binary = after_ready(directory.path(), "exit 1");
    let why = why_not(&upgrade_under(&mut fleet, &data, &["--binary", binary.to_str().unwrap()]));
    assert!(why.contains("exit code 1"), "{why}");
    let done = fleet.done_by_all();
    fleet.publish_until(|fleet| fleet.done_by_all() > done + 5);
    // And then one that can.
    let heir = heir_of(&upgrade_under(&mut fleet, &data, &[]));
    fleet.all_arrived();
    drop((fleet, heir));
    assert_eq!(gateway.wait().code(), Some(0), "{}", gateway.log());
}

/// The gateway that goes on is made anew, of the configuration at start and of what SIGHUP has put in
/// force since.
#[test]
fn what_was_reloaded_stays_when_the_old_process_goes_on() {
    let directory = TempDirectory::new();
    let (data, file) = (directory.path().join("data"), directory.path().join("gateway.toml"));
    fs::write(&file, "").unwrap();
    let flags = ["--shards", "2", "--config", file.to_str().unwrap()];
    let mut gateway = Gateway::start_on(&data, &flags);
    fs::write(&file, "banned_client_ids = \"bad\"\n").unwrap();
    gateway.hang_up();
    gateway.wait_for_lines("configuration reloaded", 1);
    // What stands there and nobody has asked to be read does not count.
    fs::write(&file, "banned_client_ids = \"good\"\n").unwrap();
    let binary = after_ready(directory.path(), "exit 1");
    let why = why_not(&upgrade(&data, &["--binary", binary.to_str().unwrap()]));
    assert!(why.contains("exit code 1"), "{why}");
    drop(RawClient::connected(gateway.address(), V5, "good"));
    let mut bad = RawClient::open(gateway.address());
    bad.send(&connect(V5, "bad", &[]));
    assert_eq!(bad.packet().1[1], 0x8a, "Banned");
    drop(bad);
    gateway.terminate();
    assert_eq!(gateway.wait().code(), Some(0), "{}", gateway.log());
}

/// Members of groups cannot move: they are told, wait in the backlog, and find their session.
#[test]
fn clients_that_cannot_move_are_told_and_come_back() {
    let data = TempDirectory::new();
    let gateway = Gateway::start_on(data.path(), &["--shards", "2"]);
    let lasting = [0x11, 0, 0, 0, 60];
    let connect = |clean: bool| {
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', V5, if clean { 2 } else { 0 }, 0, 0, 5];
        body.extend_from_slice(&lasting);
        push_text(&mut body, "member");
        framed(0x10, &body)
    };
    let mut member = RawClient::open(gateway.address());
    member.send(&connect(true));
    assert_eq!(member.packet().0, 0x20);
    member.send(&subscribe(V5, &["$share/g/work"], 1));
    assert_eq!(member.packet().0, 0x90);
    let mut publisher = RawClient::connected(gateway.address(), V5, "publisher");
    let heir = heir_of(&upgrade(data.path(), &[]));
    let packets = member.packets_to_the_end();
    assert!(matches!(&packets[..], [(0xe0, body)] if body[0] == 0x8b), "{packets:x?}");
    publisher.send(&publish(V5, "work", Some(1), &[], b"to do"));
    assert_eq!(publisher.packet().0, 0x40, "it moved");
    let mut member = RawClient::open(gateway.address());
    member.send(&connect(false));
    assert_eq!(member.packet().1[0], 1, "Session Present");
    let (kind, body) = member.packet();
    assert!(kind & 0xf0 == 0x30 && body.ends_with(b"to do"), "{kind:x} {body:x?}");
    finish(gateway, heir);
}

/// What a connection was promised for its end is kept by the next process: its time of silence, and
/// its will.
#[test]
fn silence_and_wills_go_along() {
    let data = TempDirectory::new();
    let gateway = Gateway::start_on(data.path(), &["--shards", "2"]);
    let mut mourner = RawClient::connected(gateway.address(), V5, "mourner");
    mourner.send(&subscribe(V5, &["last"], 1));
    assert_eq!(mourner.packet().0, 0x90);
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', V5, 0x06, 0, 2, 0];
    push_text(&mut body, "silent");
    body.push(0);
    push_text(&mut body, "last");
    push_text(&mut body, "words");
    let mut silent = RawClient::open(gateway.address());
    silent.send(&framed(0x10, &body));
    assert_eq!(silent.packet().0, 0x20);
    let heir = heir_of(&upgrade(data.path(), &[]));
    let packets = silent.packets_to_the_end();
    assert!(matches!(&packets[..], [(0xe0, body)] if body[0] == 0x8d), "{packets:x?}");
    let (kind, body) = mourner.packet();
    assert!(kind & 0xf0 == 0x30 && body.ends_with(b"words"), "{kind:x} {body:x?}");
    finish(gateway, heir);
}

/// The new process reads the files anew: who is still in them stays.
#[test]
fn users_stay_as_long_as_they_are_in_the_file() {
    let directory = TempDirectory::new();
    let (data, users) = (directory.path().join("data"), directory.path().join("users"));
    let path = users.to_str().unwrap();
    for name in ["ann", "bob"] {
        let mut command = gateway_command();
        command.args(["passwd", "-b", path, name, "secret"]);
        assert!(command.status().unwrap().success());
    }
    let gateway = Gateway::start_on(&data, &["--shards", "2", "--password-file", path]);
    let connected = |name: &str| {
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', V5, 0xc2, 0, 0, 0];
        for text in [name, name, "secret"] {
            push_text(&mut body, text);
        }
        let mut client = RawClient::open(gateway.address());
        client.send(&framed(0x10, &body));
        assert_eq!(client.packet().1[1], 0, "CONNACK");
        client
    };
    let (mut ann, mut bob) = (connected("ann"), connected("bob"));
    let mut command = gateway_command();
    command.args(["passwd", "-D", path, "bob"]);
    assert!(command.status().unwrap().success());
    let heir = heir_of(&upgrade(&data, &[]));
    let packets = bob.packets_to_the_end();
    assert!(matches!(&packets[..], [(0xe0, body)] if body[0] == 0x87), "{packets:x?}");
    ann.send(&[0xc0, 0]);
    assert_eq!(ann.packet().0, 0xd0, "PINGRESP");
    finish(gateway, heir);
}

/// systemd follows the main process by what it hears: of the new one's id before that says that it is
/// ready, from the old one, as only the main process may say it (`NotifyAccess=main`).
#[test]
fn the_service_manager_hears_which_process_is_the_main_one() {
    let directory = TempDirectory::new();
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    set_socket_passcred(&manager, true).unwrap();
    let environment = [("NOTIFY_SOCKET", path.to_str().unwrap())];
    let gateway = Gateway::start_with(&["--shards", "2"], &environment);
    let mut client = RawClient::connected(gateway.address(), V5, "client");
    let (former, text) = hear(&manager);
    assert_eq!(text, "READY=1");
    let heir = heir_of(&upgrade(gateway.data(), &[]));
    let new = heir.0;
    assert_ne!(former, new);
    assert_eq!(hear(&manager), (former, format!("MAINPID={new}")));
    // It may have told that it stops; the new one is ready in any case.
    assert_eq!(hear(&manager), (new, "READY=1".to_owned()));
    client.send(&[0xc0, 0]);
    assert_eq!(client.packet().0, 0xd0, "PINGRESP");
    finish(gateway, heir);
}

/// The next word to the service manager, and which process says it.
#[track_caller]
fn hear(manager: &UnixDatagram) -> (Pid, String) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let (mut words, mut control) = ([0; 256], RecvAncillaryBuffer::new(&mut space));
    let mut into = [IoSliceMut::new(&mut words)];
    let received = recvmsg(manager, &mut into, &mut control, RecvFlags::empty()).unwrap();
    let mut said_by = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(credentials) => Some(credentials.pid),
        _ => None,
    });
    let by = said_by.next().unwrap();
    drop(said_by);
    (by, String::from_utf8(words[..received.bytes].to_vec()).unwrap())
}

#[test]
fn what_is_in_memory_only_cannot_be_handed_over() {
    let data = TempDirectory::new();
    let gateway = Gateway::start_on(data.path(), &["--shards", "1", "--durability", "memory"]);
    let mut client = RawClient::connected(gateway.address(), V5, "client");
    let why = why_not(&upgrade(data.path(), &[]));
    assert!(why.contains("durability") && why.contains("drain"), "{why}");
    client.send(&[0xc0, 0]);
    assert_eq!(client.packet().0, 0xd0, "PINGRESP");
    gateway.terminate();
    let mut gateway = gateway;
    assert_eq!(gateway.wait().code(), Some(0));
    let why = why_not(&upgrade(data.path(), &[]));
    assert!(why.contains("no gateway can be asked"), "{why}");
}
