//! Tokens that count, and those that somebody made up.

use super::*;
use crate::config::Tenant;
use crate::proto::access::Names;
use crate::proto::output::ConnectionId;
use jsonwebtoken::{EncodingKey, Header, encode};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::json;

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const NOW_S: u64 = 1_800_000_000;

/// Of a key pair that nobody has any more.
const RSA_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEApuomoGmaLIfTAupVHimU
V07HevFDcTZsZZmhrpFD0trRzs1Ny3Z4Q8CpJnJTTihVamhpgBsk/7zk02/OaAnT
Z3YagDqeWtIhtBort1uVV6l/87A2V4HHsk91PacaMAz3Qhzfd5A8QN/AbIg5zMg7
FscAl8Wetl5HuhQNq7sh7Wm02XUfWr83LOtIvxFIby3B8cBehLNN4+i+IQDk1l7E
AWgo/5MAh6bLo4Bg/BrIjiV5ov1pZqAEAr1CZ6cIIH9K18O5C2m95BXoJol6+EwX
UzBtKYFlAu0gjMDqrBO0HvbdsT5E40cPyjgn58julq0XlNK/9o2hDQdrWuVoqYT5
wwIDAQAB
-----END PUBLIC KEY-----
";

/// Signed by it: anna, until 2100.
const RSA_TOKEN: &str = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbm5hIiwiZXhwIjo0MTAyNDQ0ODAwfQ.ebH9iWySJr_DPG2AymP7MTwVmZ0fEe5HqVzYUHaMv2Pm5HImnJx71PoRNybXej-HvUSa1hU9erv94sbdWyfivDd417Q-9gcVc4CY55ynYXkojMgCCRvYHMNNyBfroJEOAMgKClCZiuNLE2Pxar-G1VPvXUBPR-v-wWqz9lYU74DFP-7pOqcLo2KJVGeMpk-gRM2PICYYYOTC6wO-IFFPh7l8pGCRGeo7QxG4vD8zzFF-TZb-ycYaj2W8hCETvyKdvBq2rgIu7bOierO8W2QIG65xxLJw_rSwwgw8May25uLjXbQTCU_e71cabFmkr7VcMfX8Dkm8kKgafBLbw1c_CA";

fn tokens(text: &str, algorithm: Algorithm) -> Tokens {
    let key = single_key(text, algorithm).unwrap();
    let keys = vec![Key { id: None, algorithm, key, tag: 7 }];
    let user_claim = "sub".to_owned();
    let (client_id_claim, mountpoint_claim) = (None, None);
    Tokens { keys, user_claim, client_id_claim, mountpoint_claim, issuer: None, audience: None }
}

fn hs256() -> Tokens {
    tokens("a secret of some length\n", Algorithm::HS256)
}

fn signed(claims: &Value) -> String {
    let key = EncodingKey::from_secret(b"a secret of some length");
    encode(&Header::new(Algorithm::HS256), claims, &key).unwrap()
}

fn request(user_name: Option<&str>, token: &str) -> AuthenticationRequest {
    AuthenticationRequest {
        connection: ConnectionId { index: 0, generation: 0 },
        origin: None,
        client_id: "c".into(),
        user_name: user_name.map(Box::from),
        password: Some(token.as_bytes().into()),
        client_first: None,
    }
}

fn check(tokens: &Tokens, user_name: Option<&str>, token: &str) -> Said {
    let tenants = Tenants::new(vec![Tenant { user: "anna".into(), mountpoint: "acme".into() }]);
    tokens.check(&request(user_name, token), NOW, &tenants, |_| None)
}

#[track_caller]
fn check_known(tokens: &Tokens, token: &str) -> Arc<Identity> {
    match check(tokens, None, token) {
        Said::Known(identity) => identity,
        Said::Wrong | Said::NoToken => panic!("{token} counts"),
    }
}

#[track_caller]
fn check_wrong(tokens: &Tokens, token: &str) {
    assert!(matches!(check(tokens, None, token), Said::Wrong), "{token} does not count");
}

#[test]
fn a_token_is_its_user_until_it_ends() {
    let token = signed(&json!({"sub": "anna", "exp": NOW_S + 60}));
    let identity = check_known(&hs256(), &token);
    assert_eq!(identity.user_name.as_deref(), Some("anna"));
    assert_eq!(identity.expires_at, NOW.after_seconds(60));
    assert_eq!(identity.proof, Proof::Token { key: 7, own_rules: false, own_mountpoint: false });
    assert!(matches!(check(&hs256(), Some("anna"), &token), Said::Known(_)));
    assert!(matches!(check(&hs256(), Some("otto"), &token), Said::Wrong), "another name");
    for no_token in ["", "pw", "a.b", "a.b.c", "...", "\u{e4}.b.c"] {
        assert!(matches!(check(&hs256(), Some("anna"), no_token), Said::NoToken), "{no_token}");
    }
}

#[test]
fn claims_that_are_missing_or_over_do_not_count() {
    for claims in [
        json!({"sub": "anna"}),
        json!({"exp": NOW_S + 60}),
        json!({"sub": "", "exp": NOW_S + 60}),
        json!({"sub": 5, "exp": NOW_S + 60}),
        json!({"sub": "anna", "exp": NOW_S}),
        json!({"sub": "anna", "exp": "tomorrow"}),
        json!({"sub": "anna", "exp": NOW_S + 60, "nbf": NOW_S + 1}),
        json!({"sub": "anna", "exp": NOW_S + 60, "acl": {"pub": ["a/#/b"]}}),
        json!({"sub": "anna", "exp": NOW_S + 60, "acl": {"may": ["a"]}}),
        json!({"sub": "anna", "exp": NOW_S + 60, "acl": ["a"]}),
    ] {
        check_wrong(&hs256(), &signed(&claims));
    }
}

#[test]
fn a_token_names_the_client_id_where_that_is_asked_for() {
    let bound = Tokens { client_id_claim: Some("cid".to_owned()), ..hs256() };
    let claims = |cid: Value| json!({"sub": "anna", "exp": NOW_S + 60, "cid": cid});
    check_known(&bound, &signed(&claims("c".into())));
    for wrong in [json!("d"), json!(""), json!("C"), json!(["c"]), Value::Null] {
        check_wrong(&bound, &signed(&claims(wrong)));
    }
    check_wrong(&bound, &signed(&json!({"sub": "anna", "exp": NOW_S + 60})));
}

/// A token that does not say whose its client is does not let it see all tenants.
#[test]
fn a_claim_can_name_the_mountpoint() {
    let plain = signed(&json!({"sub": "anna", "exp": NOW_S + 60, "tenant": "zen"}));
    assert_eq!(check_known(&hs256(), &plain).mountpoint.as_deref(), Some("acme"), "the user's");
    let claimed = Tokens { mountpoint_claim: Some("tenant".to_owned()), ..hs256() };
    let claims = |tenant: Value| json!({"sub": "anna", "exp": NOW_S + 60, "tenant": tenant});
    let identity = check_known(&claimed, &signed(&claims("zen".into())));
    assert_eq!(identity.mountpoint.as_deref(), Some("zen"));
    assert_eq!(identity.proof, Proof::Token { key: 7, own_rules: false, own_mountpoint: true });
    assert_eq!(check_known(&claimed, &signed(&claims(Value::Null))).mountpoint, None);
    for wrong in [json!(""), json!("a/b"), json!("#"), json!("$SYS"), json!(["zen"]), json!(7)] {
        check_wrong(&claimed, &signed(&claims(wrong)));
    }
    check_wrong(&claimed, &signed(&json!({"sub": "anna", "exp": NOW_S + 60})));
}

#[test]
fn issuer_and_audience_are_as_configured() {
    let strict = Tokens {
        issuer: Some("us".to_owned()),
        audience: Some("mqtt".to_owned()),
        user_claim: "name".to_owned(),
        ..hs256()
    };
    let exp = NOW_S + 60;
    check_known(&strict, &signed(&json!({"name": "a", "exp": exp, "iss": "us", "aud": "mqtt"})));
    for claims in [
        json!({"name": "a", "exp": exp, "aud": "mqtt"}),
        json!({"name": "a", "exp": exp, "iss": "us"}),
        json!({"name": "a", "exp": exp, "iss": "them", "aud": "mqtt"}),
        json!({"name": "a", "exp": exp, "iss": "us", "aud": ["http"]}),
        json!({"sub": "a", "exp": exp, "iss": "us", "aud": "mqtt"}),
    ] {
        check_wrong(&strict, &signed(&claims));
    }
}

#[test]
fn the_rules_of_a_token_are_for_its_client() {
    let acl =
        json!({"pub": ["up/%c"], "sub": ["down/%u/#"], "all": ["both"], "deny": ["down/anna/x"]});
    let identity =
        check_known(&hs256(), &signed(&json!({"sub": "anna", "exp": NOW_S + 60, "acl": acl})));
    assert_eq!(identity.proof, Proof::Token { key: 7, own_rules: true, own_mountpoint: false });
    let acl = identity.acl.as_ref().unwrap();
    let names =
        Names { client_id: "c", user_name: Some("anna"), taken: acl.takes("c", Some("anna")) };
    assert!(acl.may_publish("up/c", names) && !acl.may_read("up/c", names));
    assert!(acl.may_read("down/anna/y", names) && !acl.may_read("down/anna/x", names));
    assert!(acl.may_publish("both", names) && acl.may_read("both", names));
    assert!(!acl.may_publish("other", names));
}

#[test]
fn signatures_of_each_kind_are_verified() {
    check_known(&tokens(RSA_PUBLIC, Algorithm::RS256), RSA_TOKEN);
    check_wrong(&tokens(RSA_PUBLIC, Algorithm::RS512), RSA_TOKEN);

    let random = ring::rand::SystemRandom::new();
    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let private = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, private.as_ref(), &random).unwrap();
    let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
    let text = |bytes: &[u8]| {
        use base64::Engine as _;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
    };
    let ec = json!({"kty": "EC", "crv": "P-256", "kid": "k1", "x": text(x), "y": text(y)});
    let oct = json!({"kty": "oct", "kid": "k2", "alg": "HS512", "k": text(b"secret")});
    let mut faults = Vec::new();
    let set = json!({"keys": [ec, oct]}).to_string();
    let keys = key_set(&set, Path::new("keys"), &Fingerprints::default(), &mut faults);
    assert_eq!(faults, []);
    let set = Tokens { keys, ..hs256() };
    let claims = json!({"sub": "anna", "exp": NOW_S + 60});
    let es256 = EncodingKey::from_ec_der(private.as_ref());
    let sign = |kid: Option<&str>, algorithm, key: &EncodingKey| {
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
        encode(&header, &claims, key).unwrap()
    };
    check_known(&set, &sign(Some("k1"), Algorithm::ES256, &es256));
    check_known(&set, &sign(None, Algorithm::ES256, &es256));
    check_wrong(&set, &sign(Some("k2"), Algorithm::ES256, &es256));
    check_wrong(&set, &sign(Some("k3"), Algorithm::ES256, &es256));
    let secret = EncodingKey::from_secret(b"secret");
    check_known(&set, &sign(Some("k2"), Algorithm::HS512, &secret));
    check_wrong(&set, &sign(Some("k2"), Algorithm::HS256, &secret));
}

#[test]
fn what_a_token_says_of_its_algorithm_is_not_believed() {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    // Signed with the public key as if it were a secret.
    let claims = json!({"sub": "anna", "exp": NOW_S + 60});
    let public = EncodingKey::from_secret(RSA_PUBLIC.as_bytes());
    let confused = encode(&Header::new(Algorithm::HS256), &claims, &public).unwrap();
    check_wrong(&tokens(RSA_PUBLIC, Algorithm::RS256), &confused);
    // Not signed at all.
    let none = format!(
        "{}.{}.",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    assert!(!matches!(check(&hs256(), None, &none), Said::Known(_)));
    // Changed after it was signed.
    let token = signed(&claims);
    let mut parts: Vec<&str> = token.split('.').collect();
    let other = URL_SAFE_NO_PAD.encode(json!({"sub": "root", "exp": NOW_S + 60}).to_string());
    parts[1] = &other;
    check_wrong(&hs256(), &parts.join("."));
}

#[test]
fn says_what_is_wrong_with_a_key_file() {
    assert!(single_key("no pem", Algorithm::RS256).is_err());
    assert!(single_key(RSA_PUBLIC, Algorithm::ES256).is_err());
    assert!(single_key(RSA_PUBLIC, Algorithm::HS256).is_err(), "a public key is no secret");
    assert!(single_key("\n", Algorithm::HS256).is_err());
    for (text, expected) in [
        ("{\n\"keys\":\n", "keys, line 3: expected JSON"),
        ("{}", "keys: expected an object with an array of keys"),
        (r#"{"keys": []}"#, "keys: expected at least one key"),
        (r#"{"keys": [{"kty": "RSA"}]}"#, "as key 1"),
        (
            r#"{"keys": [{"kty": "oct", "alg": "RSA-OAEP", "k": "AAAA"}]}"#,
            "keys: expected an alg for",
        ),
    ] {
        let mut faults = Vec::new();
        key_set(text, Path::new("keys"), &Fingerprints::default(), &mut faults);
        let said: String = faults.iter().map(ToString::to_string).collect();
        assert!(faults.len() == 1 && said.contains(expected), "{said}");
    }
}
