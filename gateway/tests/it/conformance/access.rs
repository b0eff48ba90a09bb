//! Who may connect, and what they may touch. Source: MQTT 5.0 §3.1.4, §3.3.5, §3.9.3, §5.4; MQTT
//! 3.1.1 §3.1.4, §3.3.5, §3.9.3, §5.4.

use super::scene::{Scene, Speaks, everywhere_with};
use crate::packets::{framed, sized};
use crate::sim::{START_MS, SimClient, SimSettings};
use gateway::auth::AclFile;
use gateway::proto::access::{
    Authentication, AuthenticationRequest, Identity, Proof, Recheck, Refusal,
};
use gateway::proto::limits::Limits;
use gateway::proto::time::Timestamp;
use gateway::upstream::embedded::log::Durability;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// What clients may touch here.
const RULES: &str = "\
    topic read open/#\n\
    user anna\n\
    topic open/#\n\
    topic readwrite of/anna/#\n\
    topic deny of/anna/secret/#\n\
    topic read jobs/#\n\
    user otto\n\
    topic #\n\
    user anna-less\n\
    topic read open/#\n\
    pattern readwrite id/%c/#\n\
    pattern readwrite user/%u/#\n";

/// Every user has the password `pw`; with `less` anna may do what the user `anna-less` may.
fn who(request: &AuthenticationRequest) -> Authentication {
    let (user_name, rules_of) = match (&request.user_name, request.password.as_deref()) {
        (None, None) if &*request.client_id == "?" => return Err(Refusal::NoCredentials),
        (None, None) => (None, None),
        (Some(user_name), Some(b"pw" | b"brief")) => (Some(user_name), Some(&**user_name)),
        (Some(user_name), Some(b"less")) => (Some(user_name), Some("anna-less")),
        _ => return Err(Refusal::BadCredentials),
    };
    let is_brief = request.password.as_deref() == Some(b"brief");
    Ok(Arc::new(Identity {
        user_name: user_name.cloned(),
        mountpoint: None,
        acl: Some(rules().rules_of(rules_of)),
        proof: Proof::None,
        expires_at: if is_brief { Timestamp(START_MS + 5_000) } else { Timestamp::NEVER },
    }))
}

fn rules() -> &'static AclFile {
    static FILE: LazyLock<AclFile> = LazyLock::new(|| {
        let mut faults = Vec::new();
        let file = AclFile::parse(RULES, Path::new("rules"), &mut faults);
        assert_eq!(faults, []);
        file
    });
    &FILE
}

fn settings() -> SimSettings {
    let limits = Limits { authenticate: true, ..Limits::default() };
    SimSettings { limits, authenticate: Some(who), ..SimSettings::default() }
}

fn everywhere(play: impl Fn(Scene)) {
    everywhere_with(settings(), play);
}

/// How a client connects.
#[derive(Clone, Copy)]
pub(super) struct As<'a> {
    pub(super) client_id: &'a str,
    pub(super) user: Option<(&'a str, &'a str)>,
    pub(super) kept: bool,
    pub(super) will: Option<&'a str>,
}

const ANNA: As<'static> =
    As { client_id: "a", user: Some(("anna", "pw")), kept: false, will: None };
const OTTO: As<'static> = As { client_id: "o", user: Some(("otto", "pw")), ..ANNA };
const NOBODY: As<'static> = As { client_id: "n", user: None, ..ANNA };

/// CONNECT.
pub(super) fn connect(scene: &Scene, who: As<'_>) -> Vec<u8> {
    let is_v5 = scene.speaks == Speaks::V5;
    let mut flags = if who.kept { 0 } else { 2 };
    flags |= if who.user.is_some() { 0xC0 } else { 0 };
    flags |= if who.will.is_some() { 4 } else { 0 };
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', if is_v5 { 5 } else { 4 }, flags, 0, 0];
    match (is_v5, who.kept) {
        (true, true) => body.extend_from_slice(&[5, 0x11, 0xFF, 0xFF, 0xFF, 0xFF]),
        (true, false) => body.push(0),
        (false, _) => {}
    }
    body.extend(sized(who.client_id));
    if let Some(topic) = who.will {
        body.extend_from_slice(if is_v5 { &[0] } else { &[] });
        body.extend([sized(topic), sized("gone")].concat());
    }
    if let Some((user_name, password)) = who.user {
        body.extend([sized(user_name), sized(password)].concat());
    }
    framed(0x10, &body)
}

/// A client that is let in, and whether it had a session. What comes behind CONNACK stays to be looked at.
#[track_caller]
pub(super) fn enter(scene: &mut Scene, who: As<'_>) -> (SimClient, bool) {
    let client = scene.node.connect();
    let packet = connect(scene, who);
    let connack = scene.node.exchange(client, &packet);
    assert_eq!((connack[0], connack[3]), (0x20, 0), "{}", scene.label());
    assert_eq!(connack.len(), 2 + usize::from(connack[1]), "{}", scene.label());
    (client, connack[2] == 1)
}

/// A client that is refused, in the words of its version.
#[track_caller]
pub(super) fn refused(scene: &mut Scene, who: As<'_>, v311: u8, v5: u8) {
    let client = scene.node.connect();
    let packet = connect(scene, who);
    let connack = scene.node.exchange(client, &packet);
    let expected = refusal(scene, v311, v5);
    assert_eq!(connack, expected, "{}", scene.label());
    assert!(scene.node.is_closed(client), "{}", scene.label());
}

fn refusal(scene: &Scene, v311: u8, v5: u8) -> Vec<u8> {
    match scene.speaks {
        Speaks::V311 => vec![0x20, 2, 0, v311],
        Speaks::V5 => vec![0x20, 3, 0, v5, 0],
    }
}

/// SUBSCRIBE at QoS 1, answered by `code`; 0x87 is 0x80 before 5.0.
#[track_caller]
pub(super) fn subscribe(scene: &mut Scene, client: SimClient, filter: &str, code: u8) {
    let tail = [sized(filter), vec![1]].concat();
    let packet = scene.packet(0x82, &[0, 1], &tail);
    let code = if scene.speaks == Speaks::V311 && code > 2 { 0x80 } else { code };
    let suback = scene.packet(0x90, &[0, 1], &[code]);
    scene.check(client, &packet, &suback);
}

/// PUBLISH that is not allowed, at each QoS; with RETAIN if `retain`.
#[track_caller]
pub(super) fn publish_in_vain(scene: &mut Scene, client: SimClient, topic: &str, retain: u8) {
    let acknowledged = [sized(topic), vec![0, 9]].concat();
    let publish = scene.packet(0x30 | retain, &sized(topic), b"0");
    scene.check(client, &publish, &[]);
    let publish = scene.packet(0x32 | retain, &acknowledged, b"1");
    let puback = scene.either(&[0x40, 2, 0, 9], &[0x40, 3, 0, 9, 0x87]).to_vec();
    scene.check(client, &publish, &puback);
    let publish = scene.packet(0x34 | retain, &acknowledged, b"2");
    let pubrec = scene.either(&[0x50, 2, 0, 9], &[0x50, 3, 0, 9, 0x87]).to_vec();
    scene.check(client, &publish, &pubrec);
    if scene.speaks == Speaks::V311 {
        scene.check(client, &[0x62, 2, 0, 9], &[0x70, 2, 0, 9]);
    }
}

/// MQTT 5.0 [MQTT-3.1.4-2], [MQTT-3.2.2-7]; MQTT 3.1.1 [MQTT-3.2.2-5].
#[test]
fn a_stranger_hears_the_same_whatever_is_wrong() {
    everywhere(|mut scene| {
        for user in [("anna", "wrong"), ("nobody", "wrong"), ("anna", ""), ("", "pw ")] {
            refused(&mut scene, As { user: Some(user), ..ANNA }, 4, 0x86);
        }
        refused(&mut scene, As { client_id: "?", ..NOBODY }, 5, 0x87);
        enter(&mut scene, ANNA);
        enter(&mut scene, NOBODY);
        let denied = scene.node.shard(0).state().counters().connects_denied;
        assert!(scene.node.settings.shards > 1 || denied == 5, "{}", scene.label());
    });
}

#[test]
fn nothing_of_a_stranger_counts_before_it_is_known() {
    everywhere(|mut scene| {
        let (listener, _) = enter(&mut scene, OTTO);
        subscribe(&mut scene, listener, "#", 1);
        scene.node.holds_answers = true;
        let mut sent = connect(&scene, ANNA);
        sent.extend(scene.packet(0x30, &sized("open/x"), b"early"));
        let accepted = scene.node.connect();
        scene.check(accepted, &sent, &[]);
        let mut sent = connect(&scene, As { user: Some(("anna", "?")), client_id: "b", ..ANNA });
        sent.extend(scene.packet(0x30, &sized("open/x"), b"never"));
        let stranger = scene.node.connect();
        scene.check(stranger, &sent, &[]);
        scene.expect(listener, &[]);
        scene.node.answer_questions();
        let connack = scene.node.take(accepted);
        assert_eq!((connack[0], connack[3]), (0x20, 0));
        let expected = refusal(&scene, 4, 0x86);
        scene.expect(stranger, &expected);
        assert!(scene.node.is_closed(stranger));
        let early = scene.packet(0x30, &sized("open/x"), b"early");
        scene.expect(listener, &early);
    });
}

#[test]
fn whoever_cannot_be_asked_about_is_told_so_after_a_while() {
    everywhere(|mut scene| {
        scene.node.holds_answers = true;
        let client = scene.node.connect();
        let packet = connect(&scene, ANNA);
        scene.check(client, &packet, &[]);
        scene.node.advance(Duration::from_secs(11));
        let expected = refusal(&scene, 3, 0x88);
        scene.expect(client, &expected);
        assert!(scene.node.is_closed(client), "{}", scene.label());
        // The answer comes too late, and finds another client in the same place or nobody.
        scene.node.answer_questions();
        scene.expect(client, &[]);
        enter(&mut scene, ANNA);
    });
}

#[test]
fn no_more_strangers_wait_than_may() {
    let mut settings = settings();
    settings.limits.authentications_waiting_max = 1;
    for speaks in [Speaks::V311, Speaks::V5] {
        let mut scene = Scene::with(speaks, settings.clone());
        scene.node.holds_answers = true;
        let first = scene.node.connect();
        let packet = connect(&scene, ANNA);
        scene.check(first, &packet, &[]);
        refused(&mut scene, OTTO, 3, 0x89);
        scene.node.drop_connection(first);
        let second = scene.node.connect();
        let packet = connect(&scene, OTTO);
        scene.check(second, &packet, &[]);
        scene.node.answer_questions();
        assert_eq!(scene.node.take(second)[3], 0, "{}", scene.label());
        assert!(scene.node.take(first).is_empty());
    }
}

/// MQTT 5.0 [MQTT-4.3.3-9]; MQTT 3.1.1 [MQTT-3.3.5-2].
#[test]
fn a_publish_that_is_not_allowed_goes_nowhere() {
    everywhere(|mut scene| {
        let (listener, _) = enter(&mut scene, OTTO);
        subscribe(&mut scene, listener, "#", 1);
        let (anna, _) = enter(&mut scene, ANNA);
        for topic in ["jobs/1", "of/otto/x", "of/anna/secret/x", "id/b/x", "user/otto/x", "$SYS/x"]
        {
            for retain in [0, 1] {
                publish_in_vain(&mut scene, anna, topic, retain);
            }
        }
        scene.expect(listener, &[]);
        // The packet id is free, for a message that is.
        let publish = scene.packet(0x34, &[sized("of/anna/x"), vec![0, 9]].concat(), b"2");
        scene.check(anna, &publish, &[0x50, 2, 0, 9]);
        scene.check(anna, &[0x62, 2, 0, 9], &[0x70, 2, 0, 9]);
        let delivery = scene.delivery(0x32, "of/anna/x", 1, b"2");
        scene.check(listener, &[], &delivery);
        for topic in ["id/a/x", "user/anna/x"] {
            scene.publish(anna, topic, b"own");
        }
        let (late, _) = enter(&mut scene, As { client_id: "l", ..OTTO });
        subscribe(&mut scene, late, "#", 1);
        scene.expect(late, &[]);
    });
}

#[test]
fn what_is_denied_is_answered_in_its_turn() {
    for speaks in [Speaks::V311, Speaks::V5] {
        let settings = SimSettings { durability: Durability::Fsync, ..settings() };
        let mut scene = Scene::with(speaks, settings);
        let (anna, _) = enter(&mut scene, ANNA);
        scene.node.holds_io = true;
        let mut sent = Vec::new();
        for (topic, id) in [("of/anna/x", 1), ("jobs/1", 2), ("of/anna/x", 3)] {
            sent.extend(scene.packet(0x32, &[sized(topic), vec![0, id]].concat(), b"m"));
        }
        scene.check(anna, &sent, &[]);
        scene.node.holds_io = false;
        while scene.node.perform_one() {}
        let denied = scene.either(&[0x40, 2, 0, 2], &[0x40, 3, 0, 2, 0x87]).to_vec();
        scene.expect(anna, &[&[0x40, 2, 0, 1], &denied[..], &[0x40, 2, 0, 3]].concat());
    }
}

#[test]
fn a_topic_alias_leads_nowhere_else() {
    let mut scene = Scene::with(Speaks::V5, settings());
    let (listener, _) = enter(&mut scene, OTTO);
    subscribe(&mut scene, listener, "#", 1);
    let (anna, _) = enter(&mut scene, ANNA);
    let with_alias = |topic: &str| {
        framed(0x32, &[sized(topic), vec![0, 5, 3, 0x23, 0, 1], b"m".to_vec()].concat())
    };
    let denied = [0x40, 3, 0, 5, 0x87];
    scene.check(anna, &with_alias("jobs/1"), &denied);
    scene.check(anna, &with_alias(""), &denied);
    scene.expect(listener, &[]);
    scene.check(anna, &with_alias("open/x"), &[0x40, 2, 0, 5]);
    scene.check(anna, &with_alias(""), &[0x40, 2, 0, 5]);
    scene.check(anna, &with_alias("jobs/1"), &denied);
    scene.check(anna, &with_alias(""), &denied);
    let twice: Vec<u8> =
        [1, 2].iter().flat_map(|id| scene.delivery(0x32, "open/x", *id, b"m")).collect();
    scene.expect(listener, &twice);
}

/// MQTT 5.0 §3.9.3; MQTT 3.1.1 §3.9.3.
#[test]
fn a_filter_of_which_nothing_may_be_read_is_refused() {
    everywhere(|mut scene| {
        let (anna, _) = enter(&mut scene, ANNA);
        for filter in
            ["of/otto/#", "of/anna/secret/#", "of/anna/secret", "$SYS/#", "id/b", "user/otto/#"]
        {
            subscribe(&mut scene, anna, filter, 0x87);
        }
        for filter in ["#", "+/+/+", "of/anna/#", "jobs/1", "id/a/#", "id/+/x", "user/anna/#"] {
            subscribe(&mut scene, anna, filter, 1);
        }
        // A group's messages are for whoever may read all of them.
        for filter in ["$share/g/#", "$share/g/of/anna/#", "$share/g/of/otto/#", "$share/g/id/+/x"]
        {
            subscribe(&mut scene, anna, filter, 0x87);
        }
        subscribe(&mut scene, anna, "$share/g/jobs/#", 1);
        let (nobody, _) = enter(&mut scene, NOBODY);
        subscribe(&mut scene, nobody, "open/+", 1);
        for filter in ["id/n/#", "user//#", "jobs/#"] {
            subscribe(&mut scene, nobody, filter, 0x87);
        }
    });
}

#[test]
fn what_may_not_be_read_is_not_sent() {
    everywhere(|mut scene| {
        let (otto, _) = enter(&mut scene, OTTO);
        let kept = As { kept: true, ..ANNA };
        let topics =
            ["open/1", "of/otto/1", "of/anna/secret/1", "of/anna/1", "user/otto/1", "jobs/1"];
        let readable = ["jobs/1", "of/anna/1", "open/1"];
        // Retained, live at each QoS, and while it was away.
        for topic in topics {
            let publish = scene.packet(0x31, &sized(topic), b"retained");
            scene.check(otto, &publish, &[]);
        }
        let (anna, _) = enter(&mut scene, kept);
        let tail = [sized("#"), vec![1]].concat();
        let packet = scene.packet(0x82, &[0, 1], &tail);
        let mut expected = scene.packet(0x90, &[0, 1], &[1]);
        for topic in readable {
            expected.extend(scene.packet(0x31, &sized(topic), b"retained"));
        }
        scene.check(anna, &packet, &expected);
        for topic in topics {
            let publish = scene.packet(0x30, &sized(topic), b"0");
            scene.check(otto, &publish, &[]);
            scene.publish(otto, topic, b"1");
        }
        let mut expected = Vec::new();
        for (id, topic) in (1..).zip(["open/1", "of/anna/1", "jobs/1"]) {
            expected.extend(scene.packet(0x30, &sized(topic), b"0"));
            expected.extend(scene.delivery(0x32, topic, id, b"1"));
        }
        scene.expect(anna, &expected);
        for id in 1..=3 {
            scene.check(anna, &[0x40, 2, 0, id], &[]);
        }
        scene.node.drop_connection(anna);
        for topic in topics {
            scene.publish(otto, topic, b"away");
        }
        let anna = scene.node.connect();
        let packet = connect(&scene, kept);
        let got = scene.node.exchange(anna, &packet);
        assert_eq!((got[0], got[2]), (0x20, 1), "{}", scene.label());
        let mut expected = Vec::new();
        for (id, topic) in (4..).zip(["open/1", "of/anna/1", "jobs/1"]) {
            expected.extend(scene.delivery(0x32, topic, id, b"away"));
        }
        assert_eq!(got[2 + usize::from(got[1])..], expected, "{}", scene.label());
    });
}

#[test]
fn who_may_do_less_than_before_loses_those_subscriptions() {
    everywhere(|mut scene| {
        let (otto, _) = enter(&mut scene, OTTO);
        let kept = As { kept: true, ..ANNA };
        let (anna, _) = enter(&mut scene, kept);
        for filter in ["open/#", "of/anna/#", "$share/g/jobs/#"] {
            subscribe(&mut scene, anna, filter, 1);
        }
        for offline in [false, true] {
            if offline {
                scene.node.drop_connection(anna);
            }
            let less = As { user: Some(("anna", "less")), ..kept };
            let (anna, session_present) = enter(&mut scene, less);
            assert!(session_present);
            for topic in ["of/anna/1", "jobs/1", "open/1"] {
                scene.publish(otto, topic, b"m");
            }
            let id = if offline { 2 } else { 1 };
            let expected = scene.delivery(0x32, "open/1", id, b"m");
            scene.check(anna, &[], &expected);
            scene.check(anna, &[0x40, 2, 0, id as u8], &[]);
            scene.node.drop_connection(anna);
        }
    });
}

#[test]
fn a_will_that_may_not_be_published_is_refused_with_its_connect() {
    everywhere(|mut scene| {
        let (listener, _) = enter(&mut scene, OTTO);
        subscribe(&mut scene, listener, "#", 1);
        refused(&mut scene, As { will: Some("jobs/1"), ..ANNA }, 5, 0x87);
        refused(&mut scene, As { will: Some("user/otto/x"), ..ANNA }, 5, 0x87);
        scene.expect(listener, &[]);
        let denied = scene.sum(|counters| counters.will_denied);
        assert_eq!(denied, 2, "{}", scene.label());
        let (anna, _) = enter(&mut scene, As { will: Some("of/anna/will"), ..ANNA });
        scene.node.drop_connection(anna);
        let will = scene.packet(0x30, &sized("of/anna/will"), b"gone");
        scene.expect(listener, &will);
    });
}

#[test]
fn a_session_is_for_the_user_that_made_it() {
    everywhere(|mut scene| {
        let kept = As { kept: true, ..ANNA };
        let (anna, _) = enter(&mut scene, kept);
        subscribe(&mut scene, anna, "of/anna/#", 1);
        let thieves = [
            As { client_id: "a", ..OTTO },
            As { client_id: "a", kept: true, ..OTTO },
            As { client_id: "a", ..NOBODY },
        ];
        for thief in thieves {
            refused(&mut scene, thief, 5, 0x87);
        }
        assert!(!scene.node.is_closed(anna), "{}", scene.label());
        scene.node.drop_connection(anna);
        for thief in thieves {
            refused(&mut scene, thief, 5, 0x87);
        }
        let (anna, session_present) = enter(&mut scene, kept);
        assert!(session_present, "{}", scene.label());
        if scene.node.settings.durability == Durability::Memory {
            return;
        }
        assert!(!scene.node.is_closed(anna));
        let mut scene = scene.crash();
        for thief in thieves {
            refused(&mut scene, thief, 5, 0x87);
        }
        let (anna, session_present) = enter(&mut scene, kept);
        assert!(session_present, "{}", scene.label());
        // The user may end it, and then it is nobody's.
        scene.node.drop_connection(anna);
        let (anna, session_present) = enter(&mut scene, ANNA);
        assert!(!session_present);
        scene.node.drop_connection(anna);
        let (_, session_present) = enter(&mut scene, As { client_id: "a", kept: true, ..OTTO });
        assert!(!session_present, "{}", scene.label());
    });
}

/// MQTT 5.0 §3.2.2.2; MQTT 3.1.1 §3.2.2.3.
#[test]
fn a_client_id_is_the_user_name_where_that_is_asked_for() {
    let mut settings = settings();
    settings.limits.client_id_is_user_name = true;
    everywhere_with(settings, |mut scene| {
        for client_id in ["a", "Anna", "anna ", "otto", ""] {
            refused(&mut scene, As { client_id, ..ANNA }, 2, 0x85);
        }
        let (anna, _) = enter(&mut scene, As { client_id: "anna", ..ANNA });
        for topic in ["id/anna/x", "user/anna/x"] {
            scene.publish(anna, topic, b"own");
        }
        publish_in_vain(&mut scene, anna, "id/otto/x", 0);
        // Who proves nothing has no name, and gets nothing by the one of another.
        let (nobody, _) = enter(&mut scene, As { client_id: "otto", ..NOBODY });
        publish_in_vain(&mut scene, nobody, "id/otto/x", 0);
        let (otto, _) = enter(&mut scene, As { client_id: "otto", ..OTTO });
        assert!(scene.node.is_closed(nobody) && !scene.node.is_closed(otto));
        assert_eq!(scene.sum(|counters| counters.client_ids_denied), 5, "{}", scene.label());
    });
}

#[test]
fn sessions_are_everybodys_where_that_is_wanted() {
    let mut settings = settings();
    settings.limits.sessions_bound = false;
    everywhere_with(settings, |mut scene| {
        let kept = As { kept: true, ..ANNA };
        let (anna, _) = enter(&mut scene, kept);
        let (_, session_present) = enter(&mut scene, As { client_id: "a", kept: true, ..OTTO });
        assert!(session_present && scene.node.is_closed(anna), "{}", scene.label());
    });
}

/// Otto is gone, and everybody else may do what the user `anna-less` may.
#[derive(Debug)]
struct Lessened;

impl Recheck for Lessened {
    fn recheck(&self, former: &Identity) -> Option<Arc<Identity>> {
        let acl = Some(rules().rules_of(Some("anna-less")));
        let is_otto = former.user_name.as_deref() == Some("otto");
        (!is_otto).then(|| Arc::new(Identity { acl, ..former.clone() }))
    }
}

#[test]
fn those_who_are_connected_are_looked_at_again_when_rules_change() {
    everywhere(|mut scene| {
        let (otto, _) = enter(&mut scene, OTTO);
        let (anna, _) = enter(&mut scene, As { kept: true, will: Some("of/anna/w"), ..ANNA });
        for filter in ["open/#", "of/anna/#", "$share/g/jobs/#"] {
            subscribe(&mut scene, anna, filter, 1);
        }
        let (publisher, _) = enter(&mut scene, As { client_id: "p", ..ANNA });
        scene.publish(publisher, "of/anna/x", b"m");
        let delivery = scene.delivery(0x32, "of/anna/x", 1, b"m");
        scene.expect(anna, &delivery);
        scene.check(anna, &[0x40, 2, 0, 1], &[]);

        let source: Arc<dyn Recheck> = Arc::new(Lessened);
        scene.node.change_access(&source);
        let goodbye = scene.either(&[], &[0xE0, 1, 0x87]).to_vec();
        scene.expect(otto, &goodbye);
        assert!(scene.node.is_closed(otto) && !scene.node.is_closed(anna), "{}", scene.label());
        publish_in_vain(&mut scene, publisher, "of/anna/x", 0);
        subscribe(&mut scene, publisher, "jobs/#", 0x87);
        let (otto, _) = enter(&mut scene, OTTO);
        for topic in ["of/anna/1", "jobs/1", "open/1"] {
            scene.publish(otto, topic, b"m");
        }
        let delivery = scene.delivery(0x32, "open/1", 2, b"m");
        scene.check(anna, &[], &delivery);
        // The will is no longer one it may have.
        assert_eq!(scene.sum(|counters| counters.will_denied), 1, "{}", scene.label());
        subscribe(&mut scene, otto, "#", 1);
        scene.node.drop_connection(anna);
        scene.expect(otto, &[]);
    });
}

#[test]
fn a_connection_ends_with_the_proof_it_rests_on() {
    everywhere(|mut scene| {
        let (brief, _) = enter(&mut scene, As { user: Some(("anna", "brief")), ..ANNA });
        let (otto, _) = enter(&mut scene, OTTO);
        scene.node.advance(Duration::from_secs(4));
        scene.check(brief, &[0xC0, 0], &[0xD0, 0]);
        scene.node.advance(Duration::from_secs(2));
        let goodbye = scene.either(&[], &[0xE0, 1, 0x87]).to_vec();
        scene.expect(brief, &goodbye);
        assert!(scene.node.is_closed(brief) && !scene.node.is_closed(otto), "{}", scene.label());
    });
}

/// The wall clock is set while a client is connected: forward beyond the end of its proof, and back.
#[test]
fn a_proof_ends_by_the_wall_clock_also_when_that_is_set() {
    everywhere(|mut scene| {
        let brief = As { user: Some(("anna", "brief")), ..ANNA };
        let (first, _) = enter(&mut scene, brief);
        scene.node.set_wall_clock(-3_000);
        scene.node.advance(Duration::from_secs(7));
        scene.check(first, &[0xC0, 0], &[0xD0, 0]);
        scene.node.advance(Duration::from_secs(2));
        let goodbye = scene.either(&[], &[0xE0, 1, 0x87]).to_vec();
        scene.expect(first, &goodbye);
        assert!(scene.node.is_closed(first), "{}", scene.label());

        let mut scene = Scene::with(scene.speaks, scene.node.settings.clone());
        let (brief, _) = enter(&mut scene, brief);
        let (otto, _) = enter(&mut scene, OTTO);
        scene.node.set_wall_clock(3_600_000);
        scene.node.advance(Duration::from_secs(1));
        scene.expect(brief, &goodbye);
        assert!(scene.node.is_closed(brief) && !scene.node.is_closed(otto), "{}", scene.label());
    });
}

#[test]
fn names_that_could_widen_a_pattern_get_nothing_by_it() {
    everywhere(|mut scene| {
        for client_id in ["+", "#", "a/b", "$x", "a+b"] {
            let (client, _) = enter(&mut scene, As { client_id, ..ANNA });
            for filter in ["id/#", "id/+/x", "id/a/x", "user/anna/#"] {
                subscribe(&mut scene, client, filter, 0x87);
            }
            publish_in_vain(&mut scene, client, "id/a/x", 0);
        }
        for (client_id, user) in [("1", "+"), ("2", "#"), ("3", "anna/x"), ("4", "$x"), ("5", "x#")]
        {
            let user = Some((user, "pw"));
            let (client, _) = enter(&mut scene, As { client_id, user, ..ANNA });
            for filter in ["user/#", "user/+/x", "user/anna/x", "id/a/x"] {
                subscribe(&mut scene, client, filter, 0x87);
            }
            publish_in_vain(&mut scene, client, "user/anna/x", 0);
        }
    });
}

/// Nothing that looks like a topic is taken for it, and nothing that is one is taken for another.
#[test]
fn what_only_looks_like_a_topic_is_another() {
    everywhere(|mut scene| {
        let (listener, _) = enter(&mut scene, OTTO);
        subscribe(&mut scene, listener, "#", 1);
        let (anna, _) = enter(&mut scene, ANNA);
        for topic in [
            // Letters that look the same, or would be the same if they were composed or lowered.
            "of/\u{430}nna/x",
            "of/anna\u{301}/x",
            "OF/anna/x",
            "of/Anna/x",
            "of/\u{FF41}nna/x",
            // What is not seen, and what others might drop. MQTT 5.0 [MQTT-1.5.4-3].
            "\u{FEFF}of/anna/x",
            "of/anna\u{200B}/x",
            "of/anna\u{AD}/x",
            " of/anna/x",
            "of/anna /x",
            // Levels that are empty, and paths as file systems have them.
            "/of/anna/x",
            "of//anna/x",
            "of/otto/../anna/x",
            "./of/anna/x",
            "of\\anna\\x",
            "of%2Fanna%2Fx",
        ] {
            publish_in_vain(&mut scene, anna, topic, 0);
        }
        scene.expect(listener, &[]);
        // Only what the rule has is denied, and all of it.
        let mut expected = Vec::new();
        for (id, topic) in
            (1..).zip(["of/anna/Secret", "of/anna/secret\u{200B}", "of/anna//secret"])
        {
            scene.publish(anna, topic, b"m");
            expected.extend(scene.delivery(0x32, topic, id, b"m"));
        }
        scene.expect(listener, &expected);
        for topic in ["of/anna/secret", "of/anna/secret/", "of/anna/secret//x"] {
            publish_in_vain(&mut scene, anna, topic, 1);
        }
        scene.expect(listener, &[]);
    });
}

/// MQTT 5.0 [MQTT-1.5.4-1], [MQTT-1.5.4-2]; MQTT 3.1.1 [MQTT-1.5.3-1], [MQTT-1.5.3-2].
#[test]
fn bytes_that_are_no_text_are_no_way_around_a_rule() {
    everywhere(|mut scene| {
        for topic in [
            // `/` written with two bytes, half of a pair, a zero behind the name.
            &b"of\xC0\xAFanna\xC0\xAFx"[..],
            b"of/anna/\xED\xA0\x80",
            b"of/anna/x\0jobs",
        ] {
            let (anna, _) = enter(&mut scene, ANNA);
            let length = u16::try_from(topic.len()).unwrap().to_be_bytes();
            let publish = scene.packet(0x30, &[&length[..], topic].concat(), b"m");
            scene.check_closed(anna, &publish, 0x81);
        }
    });
}

/// A wider filter, several that overlap, a group beside them: what is denied does not come by any.
#[test]
fn no_set_of_filters_reads_what_is_denied() {
    everywhere(|mut scene| {
        let (anna, _) = enter(&mut scene, ANNA);
        for filter in
            ["#", "+/#", "of/#", "of/+/+/#", "of/anna/#", "of/anna/+/+", "+/+/+/x", "+/anna/#"]
        {
            subscribe(&mut scene, anna, filter, 1);
        }
        for filter in [
            "$share/g/#",
            "$share/g/of/anna/+/x",
            "$share/g/+/anna/secret/x",
            "$share/jobs/of/anna/secret/#",
            "of/anna/secret/x",
        ] {
            subscribe(&mut scene, anna, filter, 0x87);
        }
        let (otto, _) = enter(&mut scene, OTTO);
        for (first, payload) in [(0x30, &b"live"[..]), (0x31, b"retained")] {
            for topic in ["of/anna/secret/x", "of/anna/secret", "of/otto/secret/x"] {
                let publish = scene.packet(first, &sized(topic), payload);
                scene.check(otto, &publish, &[]);
            }
        }
        scene.expect(anna, &[]);
        // Neither does what was retained come to a subscription that is made anew.
        subscribe(&mut scene, anna, "of/#", 1);
        subscribe(&mut scene, anna, "of/anna/+/x", 1);
        scene.expect(anna, &[]);
    });
}
