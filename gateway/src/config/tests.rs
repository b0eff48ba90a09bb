use std::path::PathBuf;

use super::*;

const MEMORY_BYTES: u64 = 8 << 30;

pub(super) fn environment() -> Environment {
    Environment {
        cores: 2,
        memory_bytes: MEMORY_BYTES,
        state_directory: None,
        host_name: "host.example".to_owned(),
    }
}

/// A file in the temporary directory that is removed when the test ends.
pub(super) struct TemporaryFile(pub(super) PathBuf);

impl TemporaryFile {
    pub(super) fn new(name: &str, text: &str) -> Self {
        let name = format!("gateway-config-{}-{name}.toml", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).expect("the temporary directory can be written");
        Self(path)
    }

    pub(super) fn flag(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _gone_already = std::fs::remove_file(&self.0);
    }
}

pub(super) fn request(flags: &[&str]) -> Request {
    let arguments = std::iter::once("gateway").chain(flags.iter().copied());
    Request::from_command_line(arguments, &environment())
}

#[track_caller]
pub(super) fn running(flags: &[&str]) -> Config {
    match request(flags) {
        Request::Run(config) => *config,
        other => panic!("{flags:?}: {other:?}"),
    }
}

/// The lines a refused command line prints.
#[track_caller]
fn refusals(flags: &[&str]) -> Vec<String> {
    match request(flags) {
        Request::Refuse(text) => text.lines().map(str::to_owned).collect(),
        other => panic!("{flags:?}: {other:?}"),
    }
}

#[track_caller]
pub(super) fn check_refused(flags: &[&str], expected: &[&str]) {
    let lines = refusals(flags);
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, part) in lines.iter().zip(expected) {
        assert!(line.contains(part), "{line}\ndoes not contain\n{part}");
    }
}

/// What a file with `text` resolves to on the test machine.
pub(super) fn resolve_file(text: &str) -> Result<Config, Vec<ConfigError>> {
    let mut faults = Vec::new();
    let given = file::parse(text, &mut faults);
    let config = Config::resolve(&given, &environment(), &mut faults);
    faults.sort_by_key(|fault| fault.origin);
    if faults.is_empty() { Ok(config) } else { Err(faults) }
}

#[track_caller]
pub(super) fn check_file_refused(text: &str, expected: &[&str]) {
    let faults = resolve_file(text).expect_err("the file is refused");
    let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, part) in lines.iter().zip(expected) {
        assert!(line.contains(part), "{line}\ndoes not contain\n{part}");
    }
}

#[test]
fn nothing_given_resolves_to_the_documented_defaults() {
    let config = running(&[]);
    assert_eq!(config.listen, [Listen::DEFAULT]);
    assert_eq!(config.listen[0].to_string(), "mqtt://127.0.0.1:1883");
    assert_eq!(config.data, PathBuf::from("gateway-data"));
    assert_eq!(config.shards, 2);
    assert_eq!(config.durability, Durability::Fsync);
    assert_eq!(config.sync_interval.as_millis(), 1_000);
    assert!(!config.allow_anonymous);
    assert_eq!(config.subscribe_refused, [""; 0]);
    assert_eq!(config.log, LogLevel::Info);
    assert_eq!(config.limits, Limits::default());
}

#[test]
fn defaults_follow_the_machine() {
    let mut environment = environment();
    environment.cores = 500;
    environment.state_directory = Some("/var/lib/gateway".into());
    environment.memory_bytes = 64 << 30;
    let Request::Run(config) = Request::from_command_line(["gateway"], &environment) else {
        panic!("the defaults run");
    };
    assert_eq!(config.shards, SHARDS_MAX);
    assert_eq!(config.data, PathBuf::from("/var/lib/gateway"));
}

#[test]
fn a_log_in_memory_takes_a_quarter_of_it_by_default() {
    let config = running(&["--durability", "memory"]);
    assert_eq!(config.limits.retention_bytes, MEMORY_BYTES / 4);
    assert_eq!(config.limits.segment_bytes, 8 << 20);
    let config = running(&["--durability", "memory", "--limit", "retention_bytes=1_000_000_000"]);
    assert_eq!(config.limits.retention_bytes, 1_000_000_000);
}

#[test]
fn a_log_in_memory_starts_on_a_small_machine() {
    let mut environment = environment();
    (environment.cores, environment.memory_bytes) = (16, 1 << 30);
    let request = Request::from_command_line(["gateway", "--durability", "memory"], &environment);
    let Request::Run(config) = request else { panic!("{request:?}") };
    assert_eq!(config.limits.segment_bytes, 4 << 20, "256 MiB in 64 segments");
}

#[test]
fn flags_win_over_the_file() {
    let file = TemporaryFile::new(
        "precedence",
        "shards = 3\nlog = \"warn\"\nlisten = [\"mqtt://127.0.0.1:2000\"]\n\
         subscribe_refused = [\"from/file\"]\n\
         allow_anonymous = false\n\
         [limits]\nreceive_maximum = 7\ninflight_max = 8\n",
    );
    let config = running(&[
        "--config",
        &file.flag(),
        "--shards",
        "4",
        "--listen",
        "mqtt://127.0.0.1:3000",
        "--listen",
        "mqtt://[::1]:3000",
        "--allow-anonymous",
        "--subscribe-refused",
        "#",
        "--subscribe-refused",
        "+/#",
        "--limit",
        "receive_maximum=9",
    ]);
    assert_eq!(config.shards, 4, "the flag");
    assert_eq!(config.log, LogLevel::Warn, "the file, where no flag speaks");
    let listen: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["mqtt://127.0.0.1:3000", "mqtt://[::1]:3000"]);
    assert!(config.allow_anonymous);
    assert_eq!(config.subscribe_refused, ["#", "+/#"], "a list is not added to");
    assert_eq!(config.limits.receive_maximum, 9);
    assert_eq!(config.limits.inflight_max, 8);
}

#[test]
fn files_of_users_and_rules_are_named_by_flag_or_file() {
    let text = "password_file = \"users\"\nacl_file = \"rules\"\nsessions_bound_to_user = false\n\
                client_id_is_user_name = true\n";
    let config = resolve_file(text).unwrap();
    assert_eq!(config.auth.password_file, Some(PathBuf::from("users")));
    assert_eq!(config.auth.acl_file, Some(PathBuf::from("rules")));
    assert!(!config.auth.sessions_bound_to_user && config.auth.is_needed());
    assert!(config.auth.client_id_is_user_name);
    assert!(config.to_toml().contains(text), "{}", config.to_toml());
    assert_eq!(config.auth.methods, [AuthMethod::Password]);
    let config = running(&["--acl-file", "rules"]);
    assert!(config.auth.is_needed() && !config.auth.knows_users());
    assert!(config.auth.sessions_bound_to_user && !config.auth.client_id_is_user_name);
    check_refused(&["--password-file", ""], &["password_file = \"\" (flag): expected a file"]);
}

#[test]
fn methods_are_those_for_which_there_are_files_or_those_that_are_named() {
    let text = "jwt_jwks_file = \"keys\"\njwt_issuer = \"us\"\n\
                auth_methods = [\"jwt\", \"certificate\"]\nbanned_addresses = \"192.0.2.0/24\"\n";
    let config = resolve_file(text).unwrap();
    assert_eq!(config.auth.methods, [AuthMethod::Jwt, AuthMethod::Certificate]);
    let again = resolve_file(&config.to_toml()).unwrap();
    assert_eq!(again, config);
    let both = resolve_file("jwt_key_file = \"key\"\npassword_file = \"users\"\n").unwrap();
    assert_eq!(both.auth.methods, [AuthMethod::Password, AuthMethod::Jwt]);
    check_file_refused(
        "auth_methods = [\"password\", \"jwt\", \"nobody\"]\njwt_algorithm = \"none\"\n\
         banned_addresses = [\"here\"]\nbanned_users = [\"\"]\n",
        &[
            "auth_methods = \"password\" (file, line 1): expected password_file",
            "auth_methods = \"jwt\" (file, line 1): expected jwt_key_file or",
            "auth_methods = \"nobody\" (file, line 1): expected certificate, password, jwt or http",
            "jwt_algorithm = \"none\" (file, line 2): expected HS256",
            "banned_addresses = \"here\" (file, line 3): expected an address",
            "banned_users = \"\" (file, line 4): expected a user name",
        ],
    );
}

#[test]
fn passwords_are_sent_over_tls_or_to_this_machine_only() {
    for url in [
        "https://example.org/auth",
        "http://127.0.0.1:8080/auth",
        "http://localhost/auth",
        "http://[::1]:8080/",
    ] {
        let config = resolve_file(&format!("http_auth_url = \"{url}\"\n")).unwrap();
        assert_eq!(config.auth.methods, [AuthMethod::Http]);
        assert_eq!(resolve_file(&config.to_toml()).unwrap(), config);
    }
    for url in ["http://example.org/auth", "https://me:secret@example.org/", "example.org", ""] {
        check_file_refused(
            &format!("http_auth_url = \"{url}\"\n"),
            &["http_auth_url = \"***\" (file, line 1): expected https://HOST/PATH"],
        );
    }
}

#[test]
fn passwd_takes_what_mosquitto_passwd_takes() {
    let asked = |arguments: &[&str]| match request(arguments) {
        Request::Passwd(passwd) => passwd,
        other => panic!("{other:?}"),
    };
    let passwd = asked(&["passwd", "-b", "-c", "users", "anna", "pw"]);
    assert_eq!((passwd.user_name.as_str(), passwd.password.as_deref()), ("anna", Some("pw")));
    assert!(passwd.create && !passwd.delete && !passwd.scram);
    assert_eq!(passwd.iterations, 101);
    let scram = asked(&["passwd", "--scram", "users", "anna"]);
    assert!(scram.scram && scram.iterations == 4_096);
    assert_eq!(asked(&["passwd", "--scram", "-I", "15000", "users", "anna"]).iterations, 15_000);
    assert_eq!(asked(&["passwd", "--scram", "-I", "101", "users", "anna"]).iterations, 4_096);
    assert!(!format!("{passwd:?}").contains("pw"), "no secret is shown");
    assert!(asked(&["passwd", "-D", "users", "anna"]).delete);
    assert_eq!(asked(&["passwd", "users", "anna"]).password, None);
    for wrong in [
        &["passwd", "users"][..],
        &["passwd", "users", "anna", "pw"],
        &["passwd", "-b", "users", "anna"],
        &["passwd", "-D", "-b", "users", "anna", "pw"],
    ] {
        assert!(matches!(request(wrong), Request::Refuse(_)), "{wrong:?}");
    }
}

#[test]
fn check_config_takes_the_same_flags_on_either_side() {
    let before = request(&["--shards", "5", "check-config"]);
    let after = request(&["check-config", "--shards", "5"]);
    let Request::Check(config) = &before else { panic!("{before:?}") };
    assert!(config.to_toml().contains("\nshards = 5\n"));
    assert_eq!(before, after);
    check_refused(&["check-config", "--shards", "0"], &["shards = \"0\" (flag): expected"]);
}

#[test]
fn what_check_config_prints_reads_back_as_the_same() {
    let config = running(&[
        "--listen",
        "mqtt://0.0.0.0:1",
        "--listen",
        "mqtt://[::1]:2",
        "--data",
        "a \"quoted\\dir",
        "--durability",
        "interval",
        "--sync-interval-ms",
        "17",
        "--allow-anonymous",
        "--subscribe-refused",
        "a \"quoted\\level/+/#",
        "--subscribe-refused",
        "#",
        "--log",
        "trace",
        "--limit",
        "pending_max=0",
    ]);
    assert_eq!(resolve_file(&config.to_toml()), Ok(config));
}

#[test]
fn version_and_help_are_printed() {
    let version = concat!("gateway ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(request(&["--version"]), Request::Print(version.to_owned()));
    let Request::Print(help) = request(&["--help"]) else { panic!("help is printed") };
    for flag in ["--listen", "--data", "--shards", "--durability", "--config", "--log", "--limit"] {
        assert!(help.contains(flag), "{flag}");
    }
    assert!(help.contains("--subscribe-refused"));
    assert!(help.contains(&format!("At most {SUBSCRIBE_REFUSED_MAX}.")));
}

#[test]
fn a_flag_that_does_not_exist_is_refused() {
    assert!(refusals(&["--sharts", "2"])[0].contains("--sharts"));
}

#[test]
fn every_fault_is_reported_at_once() {
    let file = TemporaryFile::new(
        "faults",
        "shards = 65\nlgo = \"info\"\ndurability = \"disk\"\n[limits]\nconnections = 5\n\
         receive_maximum = 0\n",
    );
    check_refused(
        &["--config", &file.flag(), "--listen", "tcp://a", "--log", "loud", "--limit", "nonsense"],
        &[
            "gateway: limit = \"nonsense\" (flag): expected KEY=NUMBER",
            "gateway: listen = \"tcp://a\" (flag): expected mqtt://ADDRESS:PORT",
            "gateway: log = \"loud\" (flag): expected error or warn or info or debug or trace",
            "gateway: shards = \"65\" (file, line 1): expected a whole number from 1 to 64",
            "gateway: lgo (file, line 2): expected a key that exists",
            "gateway: durability = \"disk\" (file, line 3): expected fsync or interval or memory",
            "gateway: limits.connections (file, line 5): expected a key that exists",
            "gateway: limits.receive_maximum = \"0\" (file, line 6): expected a whole number from",
        ],
    );
}

#[test]
fn bad_toml_is_refused_with_its_line() {
    check_file_refused("shards = 2\nlog = info\n", &["config (file, line 2): expected TOML, but:"]);
    check_file_refused("shards = 2\nshards = 3\n", &["config (file, line 2): expected TOML, but:"]);
}

#[test]
fn values_of_the_wrong_kind_are_refused_with_their_line() {
    check_file_refused(
        "shards = \"2\"\nlog = 5\nallow_anonymous = \"yes\"\nlisten = [1]\n[limits]\n\
         backlog = 1.5\ngather_wait_us = 0xffff_ffff_ffff_ffff_ffff_ffff_ffff_ffff_ff\n",
        &[
            "shards = \"2\" (file, line 1): expected a whole number without quotes",
            "log = 5 (file, line 2): expected a string in quotes",
            "allow_anonymous = \"yes\" (file, line 3): expected true or false",
            "listen = 1 (file, line 4): expected a string in quotes",
            "limits.backlog = 1.5 (file, line 6): expected a whole number without quotes",
            "limits.gather_wait_us = 0xffff_ffff_ffff_ffff_ffff_ffff_ffff_ffff_ff (file, line 7)",
        ],
    );
    check_file_refused("limits = 5\n", &["limits = 5 (file, line 1): expected a table"]);
}

#[test]
fn a_file_that_cannot_be_read_is_refused() {
    check_refused(
        &["--config", "/nowhere/gateway.toml"],
        &["config = \"/nowhere/gateway.toml\" (flag): expected a file that can be read"],
    );
}

#[test]
fn listen_is_one_string_or_several() {
    let one = resolve_file("listen = \"mqtt://127.0.0.1:5\"").expect("one is fine");
    let several = resolve_file("listen = [\"mqtt://127.0.0.1:5\"]").expect("an array is fine");
    assert_eq!(one, several);
    check_file_refused("listen = []", &["listen = []: expected at least one address"]);
    check_file_refused(
        "listen = [\"mqtt://localhost\", \"mqtt://127.0.0.1:1883\"]",
        &["expected each address once"],
    );
}

#[test]
fn refused_filters_are_one_string_or_several_or_none() {
    let one = resolve_file("subscribe_refused = \"#\"").expect("one is fine");
    let several = resolve_file("subscribe_refused = [\"#\"]").expect("an array is fine");
    assert_eq!(one, several);
    assert_eq!(one.subscribe_refused, ["#"]);
    let none = resolve_file("subscribe_refused = []").expect("none is fine");
    assert_eq!(none, resolve_file("").expect("nothing is fine"));
    assert!(none.to_toml().contains("\nsubscribe_refused = []\n"));
    assert!(one.to_toml().contains("\nsubscribe_refused = [\"#\"]\n"));
}

#[test]
fn refused_filters_are_checked_each_for_itself() {
    check_file_refused(
        "subscribe_refused = [\n\"#\",\n\"a#\",\n\"\",\n\"$share/g/#\",\n\"#\",\n5,\n]\n",
        &[
            "subscribe_refused = \"a#\" (file, line 3): expected a topic filter with + and # alone",
            "subscribe_refused = \"\" (file, line 4): expected a topic filter of 1 to 65535 bytes",
            "subscribe_refused = \"$share/g/#\" (file, line 5): expected only the filter of a shared",
            "subscribe_refused = \"#\" (file, line 6): expected each topic filter once",
            "subscribe_refused = 5 (file, line 7): expected a string in quotes",
        ],
    );
    check_refused(
        &["--subscribe-refused", "#/a", "--shards", "0"],
        &["shards = \"0\" (flag)", "subscribe_refused = \"#/a\" (flag): expected a topic filter"],
    );
}

#[test]
fn refused_filters_are_limited_in_number() {
    let with = |count: usize| {
        let filters: Vec<String> = (0..count).map(|number| format!("\"f/{number}\"")).collect();
        format!("subscribe_refused = [{}]", filters.join(", "))
    };
    let most = resolve_file(&with(SUBSCRIBE_REFUSED_MAX)).expect("as many as may be");
    assert_eq!(most.subscribe_refused.len(), SUBSCRIBE_REFUSED_MAX);
    check_file_refused(
        &with(SUBSCRIBE_REFUSED_MAX + 1),
        &["subscribe_refused = \"f/64\" (file, line 1): expected at most 64 topic filters, not 65"],
    );
}

#[test]
fn an_address_others_can_reach_needs_a_word() {
    check_refused(
        &["--listen", "mqtt://0.0.0.0:1883", "--listen", "mqtt://127.0.0.1:1883"],
        &["allow_anonymous = true or give --allow-anonymous"],
    );
    let config = running(&["--listen", "mqtt://0.0.0.0:1883", "--allow-anonymous"]);
    assert!(config.allow_anonymous);
    let config = running(&["--listen", "mqtt://0.0.0.0:1883", "--password-file", "users"]);
    assert!(!config.allow_anonymous && config.auth.knows_users());
    check_refused(
        &["--listen", "mqtt://0.0.0.0:1883", "--acl-file", "rules"],
        &[
            "give one of --password-file, jwt_key_file, jwt_jwks_file, http_auth_url, or auth_methods",
        ],
    );
    for way in [
        "jwt_key_file = \"key\"",
        "jwt_jwks_file = \"keys\"",
        "http_auth_url = \"https://auth.example.org/\"",
        "auth_methods = [\"certificate\"]",
    ] {
        let file = format!("listen = \"mqtt://[::]:1883\"\n{way}");
        assert!(resolve_file(&file).is_ok(), "{way}");
    }
    assert!(resolve_file("listen = \"mqtt://[::]:1883\"\nallow_anonymous = true").is_ok());
}

#[test]
fn single_values_are_checked_at_their_bounds() {
    for (key, min, max) in [("shards", 1, 64), ("sync_interval_ms", 1, 60_000)] {
        for (value, fits) in [(min - 1, false), (min, true), (max, true), (max + 1, false)] {
            // Memory for 64 shards; this is about the range.
            let mut environment = environment();
            environment.memory_bytes = 1 << 40;
            let flag = format!("--{}", key.replace('_', "-"));
            let request =
                Request::from_command_line(["gateway", &flag, &value.to_string()], &environment);
            assert_eq!(matches!(request, Request::Run(_)), fits, "{key} = {value}");
        }
    }
    for text in ["", "-1", "+1", "1.0", "x", "0x10", "18446744073709551616"] {
        assert_eq!(refusals(&[&format!("--shards={text}")]).len(), 1, "{text}");
    }
    assert_eq!(refusals(&["--data", ""]).len(), 1);
}

/// Faults of one limit, without those of its relations to others.
fn limit_faults(limit: &LimitSpec, value: &str) -> usize {
    let text = format!("[limits]\n{} = {value}\n", limit.key);
    let faults = resolve_file(&text).err().unwrap_or_default();
    faults.iter().filter(|fault| fault.origin == Origin::File { line: 2 }).count()
}

#[test]
fn every_limit_is_checked_at_its_bounds() {
    for limit in LIMITS {
        let below = i128::from(limit.min) - 1;
        let above = i128::from(limit.max) + 1;
        assert_eq!(limit_faults(limit, &below.to_string()), 1, "{} = {below}", limit.key);
        assert_eq!(limit_faults(limit, &limit.min.to_string()), 0, "{} min", limit.key);
        assert_eq!(limit_faults(limit, &limit.default.to_string()), 0, "{} default", limit.key);
        assert_eq!(limit_faults(limit, &limit.max.to_string()), 0, "{} max", limit.key);
        assert_eq!(limit_faults(limit, &above.to_string()), 1, "{} = {above}", limit.key);
    }
}

#[test]
fn some_limits_are_powers_of_two() {
    let powers: Vec<&LimitSpec> = LIMITS.iter().filter(|limit| limit.power_of_two).collect();
    assert_eq!(powers.len(), 3);
    for limit in powers {
        assert_eq!(limit_faults(limit, &(limit.default + 1).to_string()), 1, "{}", limit.key);
    }
}

#[test]
fn relations_name_both_keys() {
    check_file_refused(
        "[limits]\nmaximum_packet_size_bytes = 67_108_864\n",
        &[
            "limits.segment_bytes = 67108864: expected at least 2 x \
             limits.maximum_packet_size_bytes = 134217728",
            "limits.append_bytes_max = 16777216: expected at least \
             limits.maximum_packet_size_bytes = 67108864",
            "limits.tail_bytes_max = 8388608",
            "limits.client_write_bytes_max = 1048576",
        ],
    );
    check_file_refused(
        "[limits]\nconnect_packet_bytes_max = 1_048_577\n",
        &["limits.maximum_packet_size_bytes = 1048576: expected at least \
           limits.connect_packet_bytes_max = 1048577"],
    );
    check_file_refused(
        "shards = 2\n[limits]\nretention_bytes = 268_435_455\n",
        &["limits.retention_bytes = 268435455: expected at least \
           2 x limits.segment_bytes x shards = 268435456"],
    );
    assert!(resolve_file("shards = 2\n[limits]\nretention_bytes = 268_435_456\n").is_ok());
    check_file_refused(
        "[limits]\nsession_lease_timeout_s = 14\n",
        &["limits.session_lease_timeout_s = 14: expected at least \
           3 x limits.session_lease_renew_s = 15"],
    );
    assert!(resolve_file("[limits]\nsession_lease_timeout_s = 15\n").is_ok());
}

#[test]
fn buffers_that_do_not_fit_memory_are_refused() {
    let mut small = environment();
    small.memory_bytes = 128 << 20;
    let resolve = |append: u64| {
        let mut faults = Vec::new();
        let text = format!("[limits]\nappend_bytes_max = {append}\n");
        let given = file::parse(&text, &mut faults);
        Config::resolve(&given, &small, &mut faults);
        faults
    };
    // 96 MiB may be fixed: 2 x (4 + append + 8) + 8 + 4, and 2 x 32 KiB for the queues between shards.
    let append = (30 << 20) - (32 << 10);
    assert_eq!(resolve(append), []);
    let faults = resolve(append + 1);
    assert_eq!(faults.len(), 1);
    assert!(faults[0].to_string().starts_with("limits: expected fixed buffers of at most"));
}

#[test]
fn idle_connections_beyond_memory_give_a_warning() {
    let bounds = running(&["--limit", "connections_max=1000"]).memory_bounds();
    let queues = 2 * 1_024 * 32;
    assert_eq!(bounds.fixed_bytes, 2 * ((4 << 20) + (16 << 20) + (8 << 20)) + (12 << 20) + queues);
    assert_eq!(bounds.mesh_bytes, 2 * (16 << 20), "each of two shards for the other");
    assert_eq!(bounds.stranger_bytes, 65_536);
    assert_eq!(bounds.strangers_bytes, 512 << 20);
    assert_eq!(bounds.idle_connections_bytes, 1_000 * (3_900 + 512));
    assert_eq!(bounds.busy_connection_bytes, 2 << 20);
    let gathering = bounds.mesh_bytes + bounds.strangers_bytes;
    let needed = bounds.fixed_bytes + gathering + bounds.idle_connections_bytes;
    assert_eq!(bounds.warning(needed), None);
    assert!(bounds.warning(needed - 1).is_some_and(|line| line.contains("connections_max")));
}

#[test]
fn what_a_stranger_may_make_us_hold_is_told() {
    let bounds = |flags: &[&str]| running(flags).memory_bounds();
    let connect = ["--limit", "connect_packet_bytes_max=300000"];
    assert_eq!(bounds(&connect).stranger_bytes, 300_000);
    let with_tls = bounds(&[]).with_tls(&running(&[]).limits);
    assert_eq!(with_tls.stranger_bytes, 65_536 + 12_288, "a handshake is more than a CONNECT");
    assert_eq!(bounds(&connect).with_tls(&running(&[]).limits).stranger_bytes, 300_000);
    let printed = running(&[]).to_toml();
    assert!(printed.contains("# at most 65536 bytes for a connection whose client is not known"));
    assert!(printed.contains("536870912 for all of these;"));
    assert!(printed.contains("# at most 33554432 bytes more that gather between shards"));
}

#[test]
fn every_limit_says_what_it_is_and_what_it_costs() {
    for limit in LIMITS {
        let paragraphs: Vec<String> = limit.paragraphs().collect();
        let [first, .., last] = &paragraphs[..] else { panic!("{}: {paragraphs:?}", limit.key) };
        assert!(first.len() > 20 && first.ends_with('.'), "{}: {first}", limit.key);
        assert!(last.starts_with("Cost: ") && last.ends_with('.'), "{}: {last}", limit.key);
    }
}

#[test]
fn the_manual_page_says_of_every_limit_what_it_costs() {
    let directory = std::env::temp_dir().join(format!("gateway-documents-{}", std::process::id()));
    documents::write_own_documents(&directory, &["limits.connect_timeout_s"]).unwrap();
    let page = std::fs::read_to_string(directory.join("gateway.1")).unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    assert_eq!(page.matches("\nCost: ").count(), LIMITS.len());
    assert_eq!(page.matches("; SIGHUP puts a change in force").count(), 1);
    for limit in LIMITS {
        assert!(page.contains(&limit.key.to_string()), "{}", limit.key);
    }
}

#[test]
fn what_is_held_while_topics_move_counts_with_sub_clusters() {
    let fixed = |more: &str| {
        let text = format!("shards = 2\n[limits]\nheld_bytes_max = 1_000_000\n{more}");
        resolve_file(&text).expect("the file is sound").memory_bounds().fixed_bytes
    };
    let nats = "[[nats]]\nname = \"a\"\nservers = [\"nats://h\"]\n";
    assert_eq!(fixed(nats) - fixed(""), 2_000_000);
}
