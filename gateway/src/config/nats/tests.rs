//! Sub-clusters, sessions and the gateway's id.

use std::time::Duration;

use super::{
    GATEWAY_ID_BYTES_MAX, NATS_SERVERS_MAX, NatsIdentity, REPLICAS_MAX, SUB_CLUSTER_NAME_BYTES_MAX,
    SUB_CLUSTERS_MAX, SubClusterConfig,
};
use crate::config::tests::{
    TemporaryFile, check_file_refused, check_refused, environment, request, resolve_file, running,
};
use crate::config::{ClientEvent, Environment, Request, UPLINK_MAX};

/// A user's nkey and a server's, made for this test.
fn seeds() -> (String, String) {
    let seed = |key: nkeys::KeyPair| key.seed().expect("a new key has a seed");
    (seed(nkeys::KeyPair::new_user()), seed(nkeys::KeyPair::new_server()))
}

fn creds_of(seed: &str) -> String {
    format!(
        "-----BEGIN NATS USER JWT-----\neyJ0.a.b\n------END NATS USER JWT------\n\n\
         *** IMPORTANT ***\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
}

fn table(name: &str, more: &str) -> String {
    format!("[[nats]]\nname = \"{name}\"\nservers = [\"nats://h\"]\n{more}\n")
}

#[track_caller]
fn one(text: &str) -> SubClusterConfig {
    let mut all = resolve_file(text).expect("the file is sound").nats;
    assert_eq!(all.len(), 1);
    all.remove(0)
}

#[test]
fn without_sub_clusters_the_upstream_is_embedded() {
    let config = running(&[]);
    assert_eq!(config.nats, []);
    assert_eq!(config.gateway_id, "host-example");
}

#[test]
fn flags_name_sub_clusters_with_the_defaults_of_the_documentation() {
    let config = running(&[
        "--nats",
        "a=nats://127.0.0.1:1,nats://[::1]",
        "--nats",
        "b=nats://u:p%2C@example.org",
        "--sessions",
        "local",
        "--gateway-id",
        "g-1",
        "--limit",
        "retention_age_s=100",
    ]);
    assert_eq!(config.gateway_id, "g-1");
    let [a, b] = config.nats.as_slice() else { panic!("{:?}", config.nats) };
    let servers: Vec<String> = a.servers.iter().map(ToString::to_string).collect();
    assert_eq!((a.name.as_str(), servers), ("a", vec!["127.0.0.1:1".into(), "[::1]:4222".into()]));
    assert_eq!((a.replicas, a.max_bytes), (1, None));
    assert_eq!(a.max_age, Duration::from_secs(100));
    assert_eq!(a.duplicate_window, Duration::from_secs(100), "not above max_age");
    assert_eq!(a.identity, NatsIdentity::None);
    let (user, password) = ("u".to_owned(), "p,".to_owned());
    assert_eq!(b.identity, NatsIdentity::Password { user, password });
    assert_eq!(running(&["--nats", "a=nats://h"]).nats[0].duplicate_window.as_secs(), 120);
}

#[test]
fn flags_replace_the_sub_clusters_of_the_file() {
    let file = TemporaryFile::new("nats-precedence", &table("a", "replicas = 3"));
    let config = running(&["--config", &file.flag(), "--nats", "b=nats://h"]);
    assert_eq!(config.nats.len(), 1);
    assert_eq!((config.nats[0].name.as_str(), config.nats[0].replicas), ("b", 1));
}

#[test]
fn a_table_says_all_of_a_sub_cluster() {
    let a = one(&table(
        "a",
        "token = \"t\"\nreplicas = 3\nmax_bytes = 1_000\nmax_age_s = 60\nduplicate_window_s = 60",
    ));
    assert_eq!((a.replicas, a.max_bytes), (3, Some(1_000)));
    assert_eq!((a.max_age.as_secs(), a.duplicate_window.as_secs()), (60, 60));
    assert_eq!(a.identity, NatsIdentity::Token("t".to_owned()));
    let a = one("[[nats]]\nname = \"a\"\nservers = \"nats://one\"\n");
    assert_eq!(a.servers.len(), 1, "one string is a server, too");
}

#[test]
fn keys_are_read_from_files() {
    let (seed, _) = seeds();
    let bare = TemporaryFile::new("nats-bare", &format!("{seed}\n"));
    let decorated = TemporaryFile::new("nats-creds", &creds_of(&seed));
    for file in [&bare, &decorated] {
        let a = one(&table("a", &format!("nkey_seed_file = '{}'", file.flag())));
        assert_eq!(a.identity, NatsIdentity::Nkey { file: file.0.clone(), seed: seed.clone() });
    }
    let a = one(&table("a", &format!("creds_file = '{}'", decorated.flag())));
    let (file, jwt) = (decorated.0.clone(), "eyJ0.a.b".to_owned());
    assert_eq!(a.identity, NatsIdentity::Creds { file, jwt, seed });
}

#[test]
fn files_without_the_key_of_a_user_are_refused_by_name() {
    let (seed, of_server) = seeds();
    let damaged = seed.replace(['A', 'B'], "C");
    for (text, nkey, creds) in [
        ("", "with the seed of an nkey", "BEGIN NATS USER JWT"),
        (&creds_of(&of_server), "a user's nkey", "a user's nkey"),
        (&creds_of(&damaged), "it is damaged", "it is damaged"),
        (&seed, "", "BEGIN NATS USER JWT"),
        ("-----BEGIN NATS USER JWT-----\n", "seed of an nkey", "BEGIN NATS USER JWT"),
        (&format!("{}{seed}", " ".repeat(65_536)), "at most 65536 bytes", "at most 65536 bytes"),
    ] {
        let file = TemporaryFile::new("nats-refused", text);
        for (key, expected) in [("nkey_seed_file", nkey), ("creds_file", creds)] {
            let table = table("a", &format!("{key} = '{}'", file.flag()));
            if expected.is_empty() {
                assert!(resolve_file(&table).is_ok());
                continue;
            }
            let faults = resolve_file(&table).expect_err("refused");
            let line = faults[0].to_string();
            assert!(line.contains(&file.flag()) && line.contains(expected), "{line}");
            assert!(!line.contains(&damaged), "{line}");
        }
    }
    let gone = table("a", "creds_file = '/nowhere/a.creds'");
    check_file_refused(
        &gone,
        &[
            "nats.creds_file = \"/nowhere/a.creds\" (file, line 4): expected a file that can be read",
        ],
    );
}

#[test]
fn all_faults_of_sub_clusters_are_reported_at_once() {
    check_file_refused(
        "sessions = \"both\"\ngateway_id = \"a b\"\n\
         [[nats]]\nname = \"a.b\"\nservers = []\nreplica = 1\n\
         [[nats]]\nname = \"c\"\nservers = [\"nats://h:0\", \"nats://h\", \"nats://h:4222\"]\n\
         user = \"u\"\nmax_age_s = 59\n\
         [[nats]]\nname = \"c\"\nservers = [\"nats://x\"]\ntoken = \"t\"\ncreds_file = 5\n",
        &[
            "sessions = \"both\" (file, line 1): expected local or shared",
            "gateway_id = \"a b\" (file, line 2): expected 1 to 64 letters",
            "nats.servers (file, line 3): expected at least one server",
            "nats.name = \"a.b\" (file, line 4): expected 1 to 32 letters",
            "nats.replica (file, line 6): expected a key that exists",
            "nats.servers = \"nats://h:0\" (file, line 9): expected nats://HOST:PORT",
            "nats.servers = \"nats://h:4222\" (file, line 9): expected each server once",
            "nats.user = \"u\" (file, line 10): expected a password with it",
            "nats.max_age_s = \"59\" (file, line 11): expected a whole number from 60",
            "nats.name = \"c\" (file, line 13): expected each sub-cluster once",
            "nats.creds_file = 5 (file, line 16): expected a string",
        ],
    );
    check_file_refused("nats = 5\n", &["nats (file, line 1): expected an array of tables"]);
    check_file_refused("nats = [5]\n", &["nats (file, line 1): expected a table"]);
    check_file_refused("[[nats]]\nservers = \"nats://h\"", &["nats.name (file, line 1)"]);
    check_refused(&["--nats", "nats://a:b@h"], &["nats = \"***\" (flag): expected NAME=nats://"]);
    check_refused(&["--nats", "a="], &["nats.servers (flag): expected at least one server"]);
}

#[test]
fn an_identity_is_one_and_the_same() {
    let expected = "expected the same user, password or token";
    check_refused(&["--nats", "a=nats://u:p@h,nats://i"], &[expected]);
    check_refused(&["--nats", "a=nats://u:p@h,nats://u:q@i,nats://u:p@j"], &[expected]);
    running(&["--nats", "a=nats://u:p@h,nats://u:p@i", "--nats", "b=nats://t@h"]);
    for more in ["token = \"t\"", "user = \"u\"\npassword = \"q\""] {
        let text = format!("[[nats]]\nname = \"a\"\nservers = \"nats://u:p@h\"\n{more}");
        check_file_refused(&text, &["expected one identity, but servers is given, too"]);
    }
    check_file_refused(&table("a", "password = \"p\""), &["expected a user with it"]);
}

#[test]
fn tls_is_for_servers_with_tls_urls() {
    let table = |servers: &str, more: &str| {
        format!("[[nats]]\nname = \"a\"\nservers = [{servers}]\n{more}\n")
    };
    assert_eq!(one(&table("'nats://h'", "")).tls, None);
    let mut params = rcgen::CertificateParams::new([]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let ca = TemporaryFile::new("nats-ca", &params.self_signed(&key).unwrap().pem());
    let key = TemporaryFile::new("nats-key", &key.serialize_pem());
    let (ca, key) = (ca.flag(), key.flag());
    let pair = format!("client_certificate_file = '{ca}'\nclient_key_file = '{key}'\n");
    let all = table("'tls://h'", &format!("ca_file = '{ca}'\ntls_first = true\n{pair}"));
    let tls = one(&all).tls.expect("it is configured");
    assert_eq!((tls.ca, tls.first, tls.client.is_some()), (Some(ca.clone().into()), true, true));
    let config = resolve_file(&all).expect("it is sound");
    assert_eq!(resolve_file(&config.to_toml()), Ok(config), "it reads back as the same");

    let refused = |servers: &str, more: &str, expected: &str| {
        check_file_refused(&table(servers, more), &[expected]);
    };
    refused("'tls://h', 'nats://i'", "", "expected tls:// at all servers");
    refused("'nats://h'", "tls_first = false", "nats.tls_first = \"false\"");
    refused("'nats://h'", &format!("ca_file = '{ca}'"), "expected servers with tls:// with it");
    let with_ca = |more: &str| format!("ca_file = '{ca}'\n{more}");
    let alone = with_ca(&format!("client_key_file = '{key}'"));
    refused("'tls://h'", &alone, "expected client_certificate_file with it");
    let alone = with_ca(&format!("client_certificate_file = '{ca}'"));
    refused("'tls://h'", &alone, "expected client_key_file with it");
    refused("'tls://h'", &format!("ca_file = '{key}'"), "nats.ca_file");
    refused("'tls://h'", "ca_file = '/nowhere/ca'", "a file that can be read");
    let wrong = with_ca(&format!("client_certificate_file = '{key}'\nclient_key_file = '{key}'"));
    refused("'tls://h'", &wrong, "nats.client_certificate_file");
}

#[test]
fn sessions_are_a_choice_only_with_sub_clusters() {
    check_refused(&["--sessions", "local"], &["expected sub-clusters with it"]);
    check_refused(&["--sessions", "shared"], &["expected sub-clusters with it"]);
    check_refused(&["--nats", "a=nats://h", "--sessions", "both"], &["expected local or shared"]);
}

#[test]
fn topics_for_applications_only_need_applications() {
    let config = running(&["--nats", "a=nats://h", "--uplink", "a/#", "--uplink", "+/b"]);
    assert_eq!(config.uplink, ["a/#", "+/b"]);
    assert_eq!(resolve_file(&config.to_toml()), Ok(config));
    check_refused(&["--uplink", "a/#"], &["expected sub-clusters with it"]);
    let fault = "uplink = \"a#\" (flag): expected a topic filter";
    check_refused(&["--nats", "a=nats://h", "--uplink", "a#"], &[fault]);
    let many = |count: usize| {
        let filters: Vec<String> = (0..count).map(|number| format!("\"f/{number}\"")).collect();
        let table = "[[nats]]\nname = \"a\"\nservers = [\"nats://h\"]";
        resolve_file(&format!("uplink = [{}]\n{table}", filters.join(", ")))
    };
    assert_eq!(many(UPLINK_MAX).expect("as many as may be").uplink.len(), UPLINK_MAX);
    assert!(many(UPLINK_MAX + 1).is_err());
}

#[test]
fn events_are_told_to_servers_and_to_nobody_else() {
    let config =
        running(&["--nats", "a=nats://h", "--events", "disconnect", "--events", "connect"]);
    assert_eq!(config.events, [ClientEvent::Disconnect, ClientEvent::Connect]);
    assert!(config.to_toml().contains("\nevents = [\"disconnect\", \"connect\"]\n"));
    assert_eq!(resolve_file(&config.to_toml()), Ok(config));
    assert_eq!(running(&["--nats", "a=nats://h"]).events, []);
    check_refused(&["--events", "connect"], &["expected sub-clusters with it"]);
    for (events, expected) in [
        (["connect", "connect"], "expected each event once"),
        (["connect", "publish"], "expected connect, disconnect, subscribe or unsubscribe"),
    ] {
        let flags = ["--nats", "a=nats://h", "--events", events[0], "--events", events[1]];
        check_refused(&flags, &[expected]);
    }
}

#[test]
fn limits_of_sub_clusters_hold_at_their_edges() {
    let is_sound = |text: &str| resolve_file(text).is_ok();
    for (key, min, max) in [
        ("replicas", 1, i128::from(REPLICAS_MAX)),
        ("max_bytes", 1, i64::MAX.into()),
        ("max_age_s", 60, u32::MAX.into()),
        ("duplicate_window_s", 1, 86_400),
    ] {
        for (value, fits) in [(min - 1, false), (min, true), (max, true), (max + 1, false)] {
            assert_eq!(is_sound(&table("a", &format!("{key} = {value}"))), fits, "{key} {value}");
        }
    }
    let window = |seconds| format!("max_age_s = 60\nduplicate_window_s = {seconds}");
    assert!(is_sound(&table("a", &window(60))) && !is_sound(&table("a", &window(61))));
    let name = |length| is_sound(&table(&"x".repeat(length), ""));
    assert!(!name(0) && name(1));
    assert!(name(SUB_CLUSTER_NAME_BYTES_MAX) && !name(SUB_CLUSTER_NAME_BYTES_MAX + 1));
    let id = |length| is_sound(&format!("gateway_id = \"{}\"", "x".repeat(length)));
    assert!(!id(0) && id(1) && id(GATEWAY_ID_BYTES_MAX) && !id(GATEWAY_ID_BYTES_MAX + 1));
    let tables = |count| (0..count).map(|n| table(&n.to_string(), "")).collect::<String>();
    assert!(is_sound(&tables(SUB_CLUSTERS_MAX)) && !is_sound(&tables(SUB_CLUSTERS_MAX + 1)));
    let servers = |count| {
        let all: Vec<String> = (0..count).map(|n| format!("nats://h{n}")).collect();
        matches!(request(&["--nats", &format!("a={}", all.join(","))]), Request::Run(_))
    };
    assert!(servers(NATS_SERVERS_MAX) && !servers(NATS_SERVERS_MAX + 1));
}

#[test]
fn a_host_without_a_name_that_fits_is_still_called_something() {
    for (host, id) in [("", "gateway"), ("ä.b", "---b"), (&"x".repeat(65), &"x".repeat(64))] {
        let environment = Environment { host_name: host.to_owned(), ..environment() };
        let Request::Run(config) = Request::from_command_line(["gateway"], &environment) else {
            panic!("{host}");
        };
        assert_eq!(config.gateway_id, id);
    }
}

#[test]
fn what_check_config_prints_of_sub_clusters_reads_back_as_the_same() {
    let (seed, _) = seeds();
    let file = TemporaryFile::new("nats-printed", &creds_of(&seed));
    let text = format!(
        "gateway_id = \"g\"\n{}{}{}",
        table("a", &format!("creds_file = '{}'\nmax_bytes = 5", file.flag())),
        table("b", &format!("nkey_seed_file = '{}'", file.flag())),
        table("c", "replicas = 5"),
    );
    let config = resolve_file(&text).expect("it is sound");
    assert_eq!(resolve_file(&config.to_toml()), Ok(config));
}

#[test]
fn secrets_are_not_shown() {
    let secret = "topsecret";
    let config = resolve_file(&format!(
        "[[nats]]\nname = \"a\"\nservers = \"nats://u:{secret}@h\"\n\
         [[nats]]\nname = \"b\"\nservers = \"nats://{secret}@h\"\n{}",
        table("c", &format!("user = \"u\"\npassword = \"{secret}\"")),
    ))
    .expect("it is sound");
    let printed = config.to_toml();
    assert!(!printed.contains(secret) && printed.contains("password = \"***\""), "{printed}");
    let shown = format!("{config:?}");
    assert!(!shown.contains(secret) && shown.contains("***"), "{shown}");
    for text in [
        format!("[[nats]]\nname = \"a\"\nservers = [[\"nats://{secret}@h\"]]\n"),
        format!("[[nats]]\nname = \"a\"\nservers = [\"tls://u:{secret}@h:0\"]\n"),
        format!("[[nats]]\nname = \"a\"\nservers = \"nats://h\"\npassword = [\"{secret}\"]\n"),
        format!("[[nats]]\nname = \"a\"\nservers = \"nats://h\"\npassword = \"{secret}\"\n"),
        format!("nats = [\"nats://u:{secret}@h\"]"),
    ] {
        for fault in resolve_file(&text).expect_err("it is refused") {
            assert!(!fault.to_string().contains(secret), "{fault}");
        }
    }
}
