//! Lines as mosquitto, PostgreSQL and we write them.

use super::*;

/// Written by `mosquitto_passwd` 2.0.11.
const FILE: &str = "\
    alice:$7$101$qKUVgiuj3qJMnJLK$ZRXClSPNF7r6ekjQ3Xi+ZISUYVwtxUgzgIbkW2pYFMSZAwtSA6ttH2tPAgP3vHiQtl0MQBNeEs166z7mNwwedA==\n\
    # a comment\n\
    \n\
    carol:$6$sZS2jguUVnTVMuHg$ekJRDdNIQxXq83ujh6fx3lpqhqDpGpJc1DRmA8HZ/A6HdVMCXpn6n9ewLGPKNGNqM9wxk5XSHDGKWLdwvG7r0A==\n";

#[test]
fn reads_both_kinds_of_hash() {
    let mut faults = Vec::new();
    let file = PasswordFile::parse(FILE, Path::new("users"), &mut faults);
    assert_eq!(faults, []);
    for (name, password) in [("alice", "secret"), ("carol", "pw3")] {
        let hash = file.get(name).unwrap();
        assert!(hash.verify(password.as_bytes()));
        assert!(!hash.verify(b"other") && !hash.verify(b""));
        assert!(FILE.contains(&format!("{name}:{hash}\n")), "written as it was read");
        assert!(!format!("{hash:?}").contains(&STANDARD.encode(&hash.hash)));
    }
    assert!(file.get("dave").is_none() && file.decoy.is_some());
}

#[test]
fn a_new_hash_is_of_its_password_only() {
    let iterations = NonZeroU32::new(2).unwrap();
    let (one, other) = (PasswordHash::new(b"a", iterations), PasswordHash::new(b"a", iterations));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert!(one.verify(b"a") && other.verify(b"a") && !one.verify(b"b"));
    assert_ne!(one, other, "each has a salt of its own");
    assert_eq!(PasswordHash::parse(&one.to_string()), Ok(one));
}

#[test]
fn says_what_is_wrong_with_each_line() {
    let text = "alice\nbob:secret\ncarol:$5$a$b\n:$6$YQ==$YQ==\ndave:$7$0$YQ==$YQ==\n\
                eve:$6$YQ==$YQ==\n";
    let text = format!("{text}{}{}", FILE, FILE);
    let mut faults = Vec::new();
    let file = PasswordFile::parse(&text, Path::new("users"), &mut faults);
    assert!(file.get("alice").is_some());
    let lines: Vec<_> = faults.iter().map(|fault| fault.line.unwrap()).collect();
    assert_eq!(lines, [1, 2, 3, 4, 5, 6, 11, 14], "{faults:#?}");
    assert!(!faults.iter().any(|fault| fault.to_string().contains("secret")));
    assert_eq!(faults[6].to_string(), "users, line 11: expected each user once");
}

/// The user of RFC 7677 §3, as PostgreSQL would write it.
const SCRAM_LINE: &str = "user:SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
                          WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
                          wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

#[test]
fn a_scram_line_serves_those_who_send_their_password_too() {
    let mut faults = Vec::new();
    let file = PasswordFile::parse(SCRAM_LINE, Path::new("users"), &mut faults);
    assert_eq!(faults, []);
    let hash = file.get("user").unwrap();
    assert!(hash.verify(b"pencil"));
    for wrong in [&b"pencils"[..], b"", b"PENCIL", b"pencil ", b"\xFF"] {
        assert!(!hash.verify(wrong), "{wrong:?}");
    }
    assert_eq!(format!("user:{hash}"), SCRAM_LINE);
    assert!(!format!("{hash:?}").contains("WG5d"), "no secret is shown");
}

#[test]
fn a_new_scram_line_is_of_its_password_only() {
    let iterations = NonZeroU32::new(2).unwrap();
    // A soft hyphen and a ligature: RFC 4013 has them be the same as nothing and two letters.
    for (password, same, other) in
        [("pw", "pw", "Pw"), ("I\u{AD}X", "IX", "ix"), ("\u{FB01}x", "fix", "fx")]
    {
        let hash = PasswordHash::new_scram(password, iterations).unwrap();
        assert!(hash.verify(password.as_bytes()) && hash.verify(same.as_bytes()), "{password}");
        assert!(!hash.verify(other.as_bytes()), "{password}");
        assert_eq!(PasswordHash::parse(&hash.to_string()).as_ref(), Ok(&hash));
        assert_ne!(PasswordHash::new_scram(password, iterations).unwrap(), hash, "a new salt");
    }
    assert!(PasswordHash::new_scram("a\u{7}b", iterations).is_err());
}

#[test]
fn says_what_is_wrong_with_a_scram_line() {
    let (_, keys) = SCRAM_LINE.split_once("==$").unwrap();
    for line in [
        "u:SCRAM-SHA-256$4096:W22Z".to_owned(),
        format!("u:SCRAM-SHA-256$0:W22Z${keys}"),
        format!("u:SCRAM-SHA-256$10000001:W22Z${keys}"),
        format!("u:SCRAM-SHA-256$4096:${keys}"),
        format!("u:SCRAM-SHA-256$4096:W2?Z${keys}"),
        format!("u:SCRAM-SHA-256$4096:W22Z${keys}AAAA"),
        "u:SCRAM-SHA-256$4096:W22Z$AAAA:AAAA".to_owned(),
        "#scram-decoy:AAAA".to_owned(),
    ] {
        let mut faults = Vec::new();
        PasswordFile::parse(&line, Path::new("users"), &mut faults);
        assert_eq!(faults.len(), 1, "{line}: {faults:?}");
    }
}

#[test]
fn who_is_not_there_looks_like_who_is() {
    let decoy_line = new_decoy_line().unwrap();
    let parse = |text: &str| {
        let mut faults = Vec::new();
        let file = PasswordFile::parse(text, Path::new("users"), &mut faults);
        assert_eq!(faults, []);
        file
    };
    let file = parse(&format!("{FILE}{decoy_line}\n{SCRAM_LINE}\n"));
    let (known, is_known) = file.verifier("user").unwrap();
    assert!(is_known);
    // Nobody, and somebody who has another kind of line.
    for name in ["nobody", "alice"] {
        let (decoy, is_known) = file.verifier(name).unwrap();
        assert!(!is_known, "{name}");
        assert_eq!(decoy.iterations, known.iterations);
        assert_eq!(decoy.salt.len(), known.salt.len());
    }
    let salt = |file: &PasswordFile, name: &str| file.verifier(name).unwrap().0.salt;
    assert_ne!(salt(&file, "nobody"), salt(&file, "somebody"));
    // Neither another start nor another user changes what a name gets.
    let more = SCRAM_LINE.replace("user", "other");
    let later = parse(&format!("{decoy_line}\n{SCRAM_LINE}\n{more}\n"));
    assert_eq!(salt(&file, "nobody"), salt(&later, "nobody"));
    let (without, again) = (parse(SCRAM_LINE), parse(SCRAM_LINE));
    assert_eq!(salt(&without, "nobody"), salt(&again, "nobody"), "after a restart");
    assert_ne!(salt(&without, "nobody"), salt(&file, "nobody"));
    assert!(parse(FILE).verifier("alice").is_none(), "not on offer");
}

#[test]
fn what_nobody_has_is_of_the_usual_kind_at_every_start() {
    let line = |name: &str, iterations: u32, salt_bytes: usize| {
        let salt = STANDARD.encode(vec![7; salt_bytes]);
        let keys = STANDARD.encode([8; KEY_BYTES]);
        format!("{name}:SCRAM-SHA-256${iterations}:{salt}${keys}:{keys}\n")
    };
    // As many with 5,000 as with 4,096, and salts of two lengths: a map has no order.
    let lines =
        [line("a", 5_000, 16), line("b", 4_096, 16), line("c", 5_000, 70), line("d", 4_096, 9)];
    for _ in 0..32 {
        let mut faults = Vec::new();
        let file = PasswordFile::parse(&lines.concat(), Path::new("users"), &mut faults);
        let (decoy, _) = file.verifier("nobody").unwrap();
        // No salt is longer than what two hashes give.
        assert_eq!((decoy.iterations.get(), decoy.salt.len()), (5_000, 64));
    }
}
