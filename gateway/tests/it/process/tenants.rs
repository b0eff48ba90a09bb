//! Tenants as the binary has them: who is which, an upgrade under them, and a user that moves.

use super::gateway::{Gateway, TempDirectory, gateway_command};
use super::http_auth::{Oracle, connect};
use super::raw_client::{RawClient, V5, publish, subscribe};
use crate::upgrade::{finish, heir_of};
use std::fs;
use std::net::SocketAddr;

/// Users with the password `pw`, and tables for tenants.
pub(crate) fn configuration(
    folder: &TempDirectory,
    users: &[&str],
    tables: &[(&str, &str)],
) -> String {
    let hash = gateway::auth::PasswordHash::new(b"pw", std::num::NonZeroU32::MIN).unwrap();
    let file = folder.path().join("users");
    let lines: Vec<_> = users.iter().map(|user| format!("{user}:{hash}\n")).collect();
    if !file.exists() {
        fs::write(&file, lines.concat()).unwrap();
    }
    let table = |(user, mountpoint): &(&str, &str)| {
        format!("[[tenant]]\nuser = \"{user}\"\nmountpoint = \"{mountpoint}\"\n")
    };
    let tables: Vec<_> = tables.iter().map(table).collect();
    format!("password_file = {file:?}\n{}", tables.concat())
}

/// The code of CONNACK.
fn knock(address: SocketAddr, user: &str, client_id: &str) -> (RawClient, u8) {
    let mut client = RawClient::open(address);
    client.send(&connect(client_id, user, "pw"));
    let code = client.packet().1[1];
    (client, code)
}

#[track_caller]
pub(crate) fn enter(address: SocketAddr, user: &str, client_id: &str) -> RawClient {
    let (client, code) = knock(address, user, client_id);
    assert_eq!(code, 0, "{user}");
    client
}

/// Subscribes to everything.
fn listen(client: &mut RawClient) {
    client.send(&subscribe(V5, &["#"], 0));
    assert_eq!(client.packet(), (0x90, vec![0, 1, 0, 0]));
}

/// A client says something to itself: nothing else is before it.
#[track_caller]
fn hears_itself_only(client: &mut RawClient, text: &str) {
    let said = publish(V5, "a", None, &[], text.as_bytes());
    client.send(&said);
    let (first, body) = client.packet();
    assert_eq!((first, &body[..]), (said[0], &said[2..]), "{text}");
}

#[test]
fn clients_of_tenants_do_not_notice_an_upgrade() {
    let oracle = Oracle::start();
    let folder = TempDirectory::new();
    let (data, file) = (folder.path().join("data"), folder.path().join("gateway.toml"));
    let tables = [("anna", "acme"), ("otto", "zen")];
    let text = |tables: &[(&str, &str)]| {
        format!(
            "http_auth_url = \"http://{}/\"\nauth_methods = [\"password\", \"http\"]\n{}",
            oracle.address,
            configuration(&folder, &["anna", "otto", "app"], tables)
        )
    };
    fs::write(&file, text(&tables)).unwrap();
    let flags = ["--config", file.to_str().unwrap(), "--shards", "2"];
    let gateway = Gateway::start_on(&data, &flags);
    let address = gateway.address();
    // Those that the answer over HTTP puts somewhere, by its word or as their user.
    let clients = [("anna", "c"), ("otto", "c"), ("mounted-zen2", "c"), ("app", "c")];
    let mut clients = clients.map(|(user, client_id)| {
        let mut client = enter(address, user, client_id);
        listen(&mut client);
        client
    });
    assert_eq!(knock(address, "mounted-nowhere/", "c").1, 0x88, "no topic level");
    let (tenants, app) = clients.split_at_mut(3);
    let speak = |tenants: &mut [RawClient], app: &mut RawClient, text: &str| {
        for (tenant, mountpoint) in tenants.iter_mut().zip(["acme", "zen", "zen2"]) {
            hears_itself_only(tenant, text);
            let full = publish(V5, &format!("{mountpoint}/a"), None, &[], text.as_bytes());
            assert_eq!(app.packet(), (full[0], full[2..].to_vec()));
        }
    };
    speak(tenants, &mut app[0], "before");
    let mut command = gateway_command();
    command.arg("upgrade").arg("--data").arg(&data);
    let heir = heir_of(&command.output().unwrap());
    speak(tenants, &mut app[0], "after");
    // Whoever comes under the same name takes over who has it in its tenant.
    let mut anna = enter(address, "anna", "c");
    assert_eq!(tenants[0].packet(), (0xE0, vec![0x8E]));
    listen(&mut anna);
    hears_itself_only(&mut tenants[1], "still");
    finish(gateway, heir);
}

#[test]
fn a_user_of_another_tenant_is_let_go_at_hang_up() {
    let folder = TempDirectory::new();
    let file = folder.path().join("gateway.toml");
    let write = |tables: &[(&str, &str)]| {
        fs::write(&file, configuration(&folder, &["anna", "otto"], tables)).unwrap();
    };
    write(&[("anna", "acme"), ("otto", "zen")]);
    let mut gateway = Gateway::start(&["--config", file.to_str().unwrap()]);
    let address = gateway.address();
    let mut clients = ["anna", "otto"].map(|user| enter(address, user, "c"));
    write(&[("anna", "other"), ("otto", "zen")]);
    gateway.hang_up();
    gateway.wait_for_lines("users and rules are read anew", 1);
    assert_eq!(clients[0].packet(), (0xE0, vec![0x87]));
    listen(&mut clients[1]);
    hears_itself_only(&mut clients[1], "stays");
    let log = gateway.log();
    assert!(!log.contains("only a restart"), "{log}");
    gateway.stop();
}
