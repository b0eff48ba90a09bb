//! The example of RFC 7677 §3, and what clients may get wrong.

use super::*;
use crate::proto::access::{Proof, Refusal};
use crate::proto::time::Timestamp;
use ring::pbkdf2;

const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const SERVER_FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                            s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                            p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

fn verifier() -> Verifier {
    let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    let iterations = NonZeroU32::new(4_096).unwrap();
    let mut salted = [0; KEY_BYTES];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, b"pencil", &mut salted);
    Verifier::new(&salt, iterations, &salted)
}

fn account() -> Authentication {
    Ok(Arc::new(Identity {
        user_name: Some("user".into()),
        mountpoint: None,
        acl: None,
        proof: Proof::Password(1),
        expires_at: Timestamp::NEVER,
    }))
}

fn challenge(account: Option<Authentication>) -> Challenge {
    let first = ClientFirst::parse(CLIENT_FIRST.as_bytes()).unwrap();
    Challenge::new(&first, &verifier(), account, SERVER_NONCE)
}

/// Source: RFC 7677 §3.
#[test]
fn speaks_as_in_the_example_of_the_standard() {
    let challenge = challenge(Some(account()));
    assert_eq!(challenge.server_first(), SERVER_FIRST);
    let proven = challenge.clone().finish(CLIENT_FINAL.as_bytes()).unwrap();
    assert_eq!(&*proven.server_final, SERVER_FINAL);
    assert_eq!(SERVER_FINAL.len(), SERVER_FINAL_BYTES);
    assert_eq!(proven.account, account());
    let shown = format!("{:?} {challenge:?}", verifier());
    for secret in [verifier().stored_key, verifier().server_key] {
        assert!(!shown.contains(&format!("{secret:?}")), "no secret is shown");
    }
}

#[test]
fn no_proof_shows_who_nobody_is() {
    let nobody = challenge(None);
    assert_eq!(nobody.server_first(), SERVER_FIRST, "it hears the same");
    assert_eq!(nobody.finish(CLIENT_FINAL.as_bytes()), Err(ScramFault::WrongProof));
    let mut gone = challenge(Some(account()));
    gone.identify(None);
    assert_eq!(gone.finish(CLIENT_FINAL.as_bytes()), Err(ScramFault::WrongProof));
    let banned = challenge(Some(Err(Refusal::Banned)));
    let proven = banned.finish(CLIENT_FINAL.as_bytes()).unwrap();
    assert_eq!(proven.account, Err(Refusal::Banned), "only who has proven it hears of it");
}

#[test]
fn every_changed_bit_of_a_proof_is_wrong() {
    let (signed, proof) = CLIENT_FINAL.rsplit_once(",p=").unwrap();
    let proof = STANDARD.decode(proof).unwrap();
    for bit in 0..proof.len() * 8 {
        let mut other = proof.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        let message = format!("{signed},p={}", STANDARD.encode(&other));
        let answer = challenge(Some(account())).finish(message.as_bytes());
        assert_eq!(answer, Err(ScramFault::WrongProof), "bit {bit}");
    }
}

#[test]
fn a_second_message_belongs_to_its_first() {
    let proof = "p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    let nonces = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    for (message, fault) in [
        (String::new(), ScramFault::Malformed),
        (format!("c=biws,{nonces}"), ScramFault::Malformed),
        (format!("{nonces},c=biws,{proof}"), ScramFault::Malformed),
        (format!("c=biws,{proof}"), ScramFault::Malformed),
        (format!("c=biw,{nonces},{proof}"), ScramFault::Malformed),
        (format!("c=biws,{nonces},p=AAAA"), ScramFault::Malformed),
        (format!("c=biws,{nonces},p=?"), ScramFault::Malformed),
        (format!("c=biws,{nonces},{proof},x=1"), ScramFault::Malformed),
        // Another header than at first: the client would have bound a channel.
        (format!("c=eSws,{nonces},{proof}"), ScramFault::OtherExchange),
        (format!("c=biws,{nonces}0,{proof}"), ScramFault::OtherExchange),
        (format!("c=biws,r=rOprNGfwEbeRWgbNEkqO,{proof}"), ScramFault::OtherExchange),
        // Signed, so that it changes the proof.
        (format!("c=biws,{nonces},x=1,{proof}"), ScramFault::WrongProof),
    ] {
        let answer = challenge(Some(account())).finish(message.as_bytes());
        assert_eq!(answer, Err(fault), "{message}");
    }
    let answer = challenge(Some(account())).finish(b"c=\xFF");
    assert_eq!(answer, Err(ScramFault::Malformed));
}

#[test]
fn a_first_message_names_user_and_nonce() {
    for (message, user_name, header) in [
        ("n,,n=user,r=abc", "user", "n,,"),
        ("y,,n=user,r=abc,x=ignored", "user", "y,,"),
        ("n,a=user,n=user,r=abc", "user", "n,a=user,"),
        ("n,,n=a=2Cb=3Dc=3D2C,r=abc", "a,b=c=2C", "n,,"),
        ("n,,n=\u{fc}\u{4e16},r=abc", "\u{fc}\u{4e16}", "n,,"),
    ] {
        let first = ClientFirst::parse(message.as_bytes()).unwrap();
        assert_eq!((&*first.user_name, first.header), (user_name, header), "{message}");
        assert_eq!(first.nonce, "abc");
    }
    for (message, fault) in [
        ("", ScramFault::Malformed),
        ("n", ScramFault::Malformed),
        ("n,", ScramFault::Malformed),
        ("n,,", ScramFault::Malformed),
        ("n,,n=user", ScramFault::Malformed),
        ("n,,n=,r=abc", ScramFault::Malformed),
        ("n,,n=user,r=", ScramFault::Malformed),
        ("n,,n=user,r=a b", ScramFault::Malformed),
        ("n,,r=abc,n=user", ScramFault::Malformed),
        ("n,,n=us=er,r=abc", ScramFault::Malformed),
        ("n,,n=us=2cer,r=abc", ScramFault::Malformed),
        ("n,,n=us\0er,r=abc", ScramFault::Malformed),
        ("n,user,n=user,r=abc", ScramFault::Malformed),
        ("x,,n=user,r=abc", ScramFault::Malformed),
        ("p=tls-exporter,,n=user,r=abc", ScramFault::ChannelBinding),
        ("n,a=root,n=user,r=abc", ScramFault::OtherUser),
        ("n,,m=new,n=user,r=abc", ScramFault::Extension),
    ] {
        assert_eq!(ClientFirst::parse(message.as_bytes()), Err(fault), "{message:?}");
    }
    assert_eq!(ClientFirst::parse(b"n,,n=\xFF,r=abc"), Err(ScramFault::Malformed));
}

#[test]
fn messages_are_bounded() {
    let longest = format!("n,,n={},r=abc", "u".repeat(MESSAGE_BYTES_MAX - 11));
    assert_eq!(longest.len(), MESSAGE_BYTES_MAX);
    assert!(ClientFirst::parse(longest.as_bytes()).is_ok());
    let longer = format!("{longest}d");
    let got_bytes = MESSAGE_BYTES_MAX + 1;
    let fault = ScramFault::TooLong { got_bytes };
    assert_eq!(ClientFirst::parse(longer.as_bytes()), Err(fault));
    let answer = challenge(Some(account())).finish(longer.as_bytes());
    assert_eq!(answer, Err(fault));
}

proptest::proptest! {
    /// Whatever a stranger sends, and however a good message is changed: an answer, and none that
    /// lets it in.
    #[test]
    fn no_message_but_the_right_one_proves_anything(
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
        place in 0..CLIENT_FINAL.len(),
        other in proptest::prelude::any::<u8>(),
    ) {
        let _ = ClientFirst::parse(&bytes);
        proptest::prop_assert!(challenge(Some(account())).finish(&bytes).is_err());
        let mut changed = CLIENT_FINAL.as_bytes().to_vec();
        if changed[place] != other {
            changed[place] = other;
            proptest::prop_assert!(challenge(Some(account())).finish(&changed).is_err());
        }
        let mut first = CLIENT_FIRST.as_bytes().to_vec();
        if let Some(byte) = first.get_mut(place) {
            *byte = other;
        }
        let _ = ClientFirst::parse(&first);
    }
}
