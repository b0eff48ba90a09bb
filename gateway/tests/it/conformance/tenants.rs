//! Tenants: two customers with equal client ids and equal topics, who never see each other, and somebody
//! without a mountpoint who sees both.

use super::access::{As, connect, enter, publish_in_vain, refused, subscribe};
use super::scene::{Scene, Speaks, everywhere_with};
use crate::allocations;
use crate::packets::{framed, sized};
use crate::sim::{SimClient, SimSettings};
use gateway::auth::AclFile;
use gateway::config::MOUNTPOINT_BYTES_MAX;
use gateway::proto::access::{
    Authentication, AuthenticationRequest, Identity, Proof, Recheck, Refusal,
};
use gateway::proto::limits::Limits;
use gateway::proto::shard_state::inspect::{Around, SessionsQuery};
use gateway::proto::time::Timestamp;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The user name says which tenant: all behind a `-` is somebody else there. `app` has no mountpoint.
fn who(request: &AuthenticationRequest) -> Authentication {
    let Some(user_name) = request.user_name.as_deref() else {
        return Err(Refusal::NoCredentials);
    };
    Ok(Arc::new(Identity {
        user_name: Some(user_name.into()),
        mountpoint: match user_name.split('-').next() {
            Some("app") => None,
            Some("long") => Some("x".repeat(MOUNTPOINT_BYTES_MAX).into()),
            tenant => tenant.map(Box::from),
        },
        acl: user_name.ends_with("-guest").then(|| {
            let rules = "user acme-guest\ntopic readwrite open/#\ntopic readwrite of/acme-guest/+\n\
                         pattern readwrite id/%c/#\n";
            let mut faults = Vec::new();
            let file = AclFile::parse(rules, Path::new("rules"), &mut faults);
            assert_eq!(faults, []);
            file.rules_of(Some(user_name))
        }),
        proof: Proof::None,
        expires_at: Timestamp::NEVER,
    }))
}

fn settings() -> SimSettings {
    let limits = Limits { authenticate: true, ..Limits::default() };
    SimSettings { limits, authenticate: Some(who), ..SimSettings::default() }
}

fn everywhere(play: impl Fn(Scene)) {
    everywhere_with(settings(), play);
}

const ACME: As<'static> =
    As { client_id: "c", user: Some(("acme", "pw")), kept: false, will: None };
const ZEN: As<'static> = As { user: Some(("zen", "pw")), ..ACME };
const APP: As<'static> = As { user: Some(("app", "pw")), ..ACME };
const BOTH: [As<'static>; 2] = [ACME, ZEN];

fn named(who: As<'static>, client_id: &'static str) -> As<'static> {
    As { client_id, ..who }
}

fn kept(who: As<'static>) -> As<'static> {
    As { kept: true, ..who }
}

/// PUBLISH at each QoS, acknowledged to its end.
#[track_caller]
fn publish_all(scene: &mut Scene, client: SimClient, topic: &str, payload: &str) {
    let acknowledged = [sized(topic), vec![0, 7]].concat();
    let at = |qos: u8| format!("{payload}{qos}").into_bytes();
    let publish = scene.packet(0x30, &sized(topic), &at(0));
    scene.check(client, &publish, &[]);
    scene.publish(client, topic, &at(1));
    let publish = scene.packet(0x34, &acknowledged, &at(2));
    scene.check(client, &publish, &[0x50, 2, 0, 7]);
    scene.check(client, &[0x62, 2, 0, 7], &[0x70, 2, 0, 7]);
}

/// A client whose will names a topic it cannot have, which only 5.0 has words for.
#[track_caller]
fn will_refused(scene: &mut Scene, who: As<'_>) {
    let client = scene.node.connect();
    let packet = connect(scene, who);
    let expected = scene.either(&[], &[0x20, 3, 0, 0x90, 0]).to_vec();
    scene.check(client, &packet, &expected);
    assert!(scene.node.is_closed(client), "{}", scene.label());
}

/// What a subscriber at QoS 1 gets of [`publish_all`], with packet ids from this one on.
fn deliveries(scene: &Scene, topic: &str, payload: &str, id: u16) -> Vec<u8> {
    let at = |qos: u8| format!("{payload}{qos}").into_bytes();
    let mut expected = scene.packet(0x30, &sized(topic), &at(0));
    expected.extend(scene.delivery(0x32, topic, id, &at(1)));
    expected.extend(scene.delivery(0x32, topic, id + 1, &at(2)));
    expected
}

#[test]
fn equal_client_ids_and_topics_of_two_tenants_never_meet() {
    everywhere(|mut scene| {
        let clients = BOTH.map(|who| enter(&mut scene, who).0);
        let (app, _) = enter(&mut scene, APP);
        for client in clients {
            assert!(!scene.node.is_closed(client), "{}", scene.label());
            subscribe(&mut scene, client, "a/+", 1);
        }
        subscribe(&mut scene, app, "#", 1);
        let publishers = BOTH.map(|who| enter(&mut scene, named(who, "p")).0);
        publish_all(&mut scene, publishers[0], "a/b", "acme");
        publish_all(&mut scene, publishers[1], "a/b", "zen");
        let expected = deliveries(&scene, "a/b", "acme", 1);
        scene.check(clients[0], &[], &expected);
        let expected = deliveries(&scene, "a/b", "zen", 1);
        scene.check(clients[1], &[], &expected);
        let mut expected = deliveries(&scene, "acme/a/b", "acme", 1);
        expected.extend(deliveries(&scene, "zen/a/b", "zen", 3));
        scene.check(app, &[], &expected);
        // Who sees all may speak to one.
        let (app, _) = enter(&mut scene, named(APP, "p"));
        publish_all(&mut scene, app, "zen/a/b", "go");
        scene.check(clients[0], &[], &[]);
        let expected = deliveries(&scene, "a/b", "go", 3);
        scene.check(clients[1], &[], &expected);
    });
}

/// A message that goes to many is encoded once in full and once for its tenant.
#[test]
fn a_fan_out_goes_to_each_in_its_own_words() {
    everywhere(|mut scene| {
        let ids = ["1", "2", "3"];
        let at = |scene: &mut Scene, who: As<'static>| {
            ids.map(|id| {
                let (client, _) = enter(scene, named(who, id));
                subscribe(scene, client, if who.user == APP.user { "acme/a" } else { "a" }, 1);
                client
            })
        };
        let (apps, acme, zen) = (at(&mut scene, APP), at(&mut scene, ACME), at(&mut scene, ZEN));
        let (publisher, _) = enter(&mut scene, named(ACME, "p"));
        publish_all(&mut scene, publisher, "a", "m");
        for place in 0..3 {
            let expected = deliveries(&scene, "acme/a", "m", 1);
            scene.check(apps[place], &[], &expected);
            let expected = deliveries(&scene, "a", "m", 1);
            scene.check(acme[place], &[], &expected);
            scene.check(zen[place], &[], &[]);
        }
    });
}

#[test]
fn a_client_id_is_taken_over_in_its_tenant_only() {
    everywhere(|mut scene| {
        let (acme, _) = enter(&mut scene, kept(ACME));
        let (zen, present) = enter(&mut scene, kept(ZEN));
        assert!(!present && !scene.node.is_closed(acme), "{}", scene.label());
        let (_, present) = enter(&mut scene, kept(ACME));
        assert!(present && scene.node.is_closed(acme), "{}", scene.label());
        assert!(!scene.node.is_closed(zen), "{}", scene.label());
        // Nor does a clean start end the other's session.
        enter(&mut scene, ACME);
        let (_, present) = enter(&mut scene, kept(ZEN));
        assert!(present && scene.node.is_closed(zen), "{}", scene.label());
    });
}

/// The wildcards of a tenant match nothing beside its own, and nothing that begins with `$` (MQTT 5.0
/// [MQTT-4.7.2-1]; MQTT 3.1.1 [MQTT-4.7.2-1]).
#[test]
fn a_tenant_has_its_own_everything() {
    everywhere(|mut scene| {
        let clients = ["#", "+", "+/#", "+/+", "$share/g/#"].map(|filter| {
            let (client, _) = enter(&mut scene, As { client_id: filter, ..ACME });
            subscribe(&mut scene, client, filter, 1);
            client
        });
        let (app, _) = enter(&mut scene, APP);
        for topic in ["acme", "acme/", "acme/$a", "acme/$SYS/a", "acmee", "acmee/a", "a", "zen/a"] {
            publish_all(&mut scene, app, topic, "m");
        }
        for client in clients {
            scene.check(client, &[], &[]);
        }
        // What must not be sent is done, and holds nothing up.
        publish_all(&mut scene, app, "acme/a", "m");
        let expected = deliveries(&scene, "a", "m", 1);
        for place in [0, 1, 2, 4] {
            scene.check(clients[place], &[], &expected);
        }
        publish_all(&mut scene, app, "acme//", "m");
        let expected = deliveries(&scene, "/", "m", 3);
        for place in [0, 2, 4] {
            scene.check(clients[place], &[], &expected);
        }
        let expected = deliveries(&scene, "/", "m", 1);
        scene.check(clients[3], &[], &expected);
    });
}

#[test]
fn what_begins_with_a_dollar_is_not_the_tenants() {
    everywhere(|mut scene| {
        let (acme, _) = enter(&mut scene, ACME);
        for filter in ["$SYS/#", "$SYS/broker/uptime", "$a", "$share/g/$SYS/#", "$sharegroup/a"] {
            subscribe(&mut scene, acme, filter, 0x8F);
        }
        for topic in ["$SYS/a", "$a", "$share/g/a"] {
            publish_in_vain(&mut scene, acme, topic, 0);
            publish_in_vain(&mut scene, acme, topic, 1);
        }
        assert_eq!(scene.sum(|counters| counters.publish_denied), 18, "{}", scene.label());
        will_refused(&mut scene, As { will: Some("$SYS/a"), ..named(ACME, "w") });
    });
}

#[test]
fn retained_messages_are_each_tenants() {
    everywhere(|mut scene| {
        let clients = BOTH.map(|who| enter(&mut scene, named(who, "p")).0);
        let retain = |scene: &mut Scene, client, payload: &[u8]| {
            let publish = scene.packet(0x33, &[sized("a"), vec![0, 7]].concat(), payload);
            scene.check(client, &publish, &[0x40, 2, 0, 7]);
        };
        retain(&mut scene, clients[0], b"acme");
        retain(&mut scene, clients[1], b"zen");
        let got = |scene: &mut Scene, who: As<'static>, filter: &str, expected: &[(&str, &str)]| {
            let (client, _) = enter(scene, named(who, "s"));
            scene.subscribe_loosely(client, filter);
            let mut bytes = scene.packet(0x90, &[0, 1], &[1]);
            for (id, (topic, payload)) in (1..).zip(expected) {
                bytes.extend(scene.delivery(0x33, topic, id, payload.as_bytes()));
            }
            scene.check(client, &[], &bytes);
        };
        got(&mut scene, ACME, "#", &[("a", "acme")]);
        got(&mut scene, ACME, "a", &[("a", "acme")]);
        got(&mut scene, ZEN, "+", &[("a", "zen")]);
        got(&mut scene, APP, "+/a", &[("acme/a", "acme"), ("zen/a", "zen")]);
        got(&mut scene, APP, "a", &[]);
        retain(&mut scene, clients[0], b"");
        got(&mut scene, ACME, "#", &[]);
        got(&mut scene, ZEN, "#", &[("a", "zen")]);
    });
}

#[test]
fn groups_of_tenants_are_apart() {
    everywhere(|mut scene| {
        let mut members = BOTH.map(|who| {
            ["1", "2"].map(|id| {
                let (client, _) = enter(&mut scene, named(who, id));
                subscribe(&mut scene, client, "$share/g/a/#", 1);
                client
            })
        });
        let publishers = BOTH.map(|who| enter(&mut scene, named(who, "p")).0);
        for (place, payload) in [(0, b"acme"), (1, b"zen_")] {
            scene.publish(publishers[place], "a/b", payload);
            scene.publish(publishers[place], "a/b", payload);
            // Each member gets one of the two.
            for member in members[place] {
                let expected = scene.delivery(0x32, "a/b", 1, payload);
                scene.check(member, &[], &expected);
                scene.check(member, &[0x40, 2, 0, 1], &[]);
            }
            for member in members[1 - place] {
                scene.check(member, &[], &[]);
            }
        }
        // The group goes by what is stored: who sees all may help a tenant.
        let (app, _) = enter(&mut scene, APP);
        subscribe(&mut scene, app, "$share/g/acme/a/#", 1);
        for member in members[0] {
            let unsubscribe = scene.packet(0xA2, &[0, 2], &sized("$share/g/a/#"));
            let unsuback = scene.packet(0xB0, &[0, 2], scene.either(&[], &[0]));
            scene.check(member, &unsubscribe, &unsuback);
        }
        scene.publish(publishers[0], "a/b", b"more");
        let expected = scene.delivery(0x32, "acme/a/b", 1, b"more");
        scene.check(app, &[], &expected);
        members[0].reverse();
        for member in members.concat() {
            scene.check(member, &[], &[]);
        }
    });
}

#[test]
fn unsubscribe_takes_the_tenants_own_words() {
    everywhere(|mut scene| {
        let (acme, _) = enter(&mut scene, ACME);
        subscribe(&mut scene, acme, "a", 1);
        let unsubscribe = |scene: &mut Scene, client, filter: &str, code: u8| {
            let packet = scene.packet(0xA2, &[0, 2], &sized(filter));
            let code = [code];
            let answer = scene.packet(0xB0, &[0, 2], scene.either(&[], &code));
            scene.check(client, &packet, &answer);
        };
        let (zen, _) = enter(&mut scene, ZEN);
        unsubscribe(&mut scene, zen, "a", 0x11);
        unsubscribe(&mut scene, acme, "acme/a", 0x11);
        unsubscribe(&mut scene, acme, "$a", 0x11);
        let (publisher, _) = enter(&mut scene, named(ACME, "p"));
        scene.publish(publisher, "a", b"m");
        let expected = scene.delivery(0x32, "a", 1, b"m");
        scene.check(acme, &[], &expected);
        unsubscribe(&mut scene, acme, "a", 0);
        scene.publish(publisher, "a", b"m");
        scene.check(acme, &[], &[]);
    });
}

/// At once, and after a delay, with the gateway ending in between.
#[test]
fn wills_stay_in_their_tenant() {
    everywhere(|mut scene| {
        let listeners = BOTH.map(|who| {
            let (client, _) = enter(&mut scene, named(who, "l"));
            subscribe(&mut scene, client, "#", 1);
            client
        });
        for (place, who) in BOTH.into_iter().enumerate() {
            let (client, _) = enter(&mut scene, As { will: Some("w"), ..who });
            scene.node.drop_connection(client);
            let expected = scene.packet(0x30, &sized("w"), b"gone");
            scene.check(listeners[place], &[], &expected);
            scene.check(listeners[1 - place], &[], &[]);
        }
    });
}

#[test]
fn a_delayed_will_outlives_the_process_in_its_tenant() {
    for durability in [gateway::upstream::embedded::log::Durability::Fsync] {
        let mut scene = Scene::with(Speaks::V5, SimSettings { durability, ..settings() });
        // Session Expiry Interval 60; Will Delay Interval 5.
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 5, 0xC6, 0, 0, 5, 0x11, 0, 0, 0, 60];
        body.extend(sized("c"));
        body.extend([5, 0x18, 0, 0, 0, 5]);
        body.extend([sized("w"), sized("gone"), sized("acme"), sized("pw")].concat());
        let client = scene.node.connect();
        let connack = scene.node.exchange(client, &framed(0x10, &body));
        assert_eq!((connack[0], connack[3]), (0x20, 0));
        scene.node.drop_connection(client);
        scene.node.advance(Duration::from_secs(2));
        let mut scene = scene.crash();
        let listeners = [ACME, ZEN, APP].map(|who| {
            let (client, _) = enter(&mut scene, named(who, "l"));
            subscribe(&mut scene, client, "#", 1);
            client
        });
        scene.node.advance(Duration::from_secs(10));
        let own = scene.packet(0x30, &sized("w"), b"gone");
        let full = scene.packet(0x30, &sized("acme/w"), b"gone");
        for (listener, expected) in listeners.into_iter().zip([&own[..], &[], &full]) {
            scene.expect(listener, expected);
        }
    }
}

#[test]
fn what_came_meanwhile_is_each_tenants() {
    everywhere(|mut scene| {
        for who in BOTH {
            let (client, _) = enter(&mut scene, kept(who));
            subscribe(&mut scene, client, "#", 1);
            scene.node.drop_connection(client);
        }
        let publishers = BOTH.map(|who| enter(&mut scene, named(who, "p")).0);
        for (place, payload) in [(0, b"acme"), (1, b"zen_")] {
            for _ in 0..3 {
                scene.publish(publishers[place], "a/b", payload);
            }
        }
        let is_kept =
            scene.node.settings.durability != gateway::upstream::embedded::log::Durability::Memory;
        let mut scene = if is_kept { scene.crash() } else { scene };
        for (who, payload) in BOTH.into_iter().zip([b"acme", b"zen_"]) {
            let client = scene.node.connect();
            let packet = connect(&scene, kept(who));
            let mut expected = scene.packet(0x20, &[1, 0], &[]);
            let got = scene.node.exchange(client, &packet);
            if scene.speaks == Speaks::V5 {
                expected = got[..2 + usize::from(got[1])].to_vec();
                assert_eq!(expected[2], 1, "{}", scene.label());
            }
            expected.extend([1, 2, 3].map(|id| scene.delivery(0x32, "a/b", id, payload)).concat());
            assert_eq!(got, expected, "{}", scene.label());
        }
        // Nobody of that name has a session where there is no mountpoint.
        let (_, present) = enter(&mut scene, kept(APP));
        assert!(!present, "{}", scene.label());
    });
}

/// MQTT 5.0 [MQTT-4.3.3-10]; MQTT 3.1.1 [MQTT-4.3.3-2].
#[test]
fn an_exchange_goes_on_with_its_own_client_after_a_crash() {
    for speaks in [Speaks::V311, Speaks::V5] {
        let durability = gateway::upstream::embedded::log::Durability::Fsync;
        let mut scene = Scene::with(speaks, SimSettings { durability, ..settings() });
        let (app, _) = enter(&mut scene, kept(APP));
        subscribe(&mut scene, app, "#", 1);
        let publish = |scene: &Scene, dup: u8, payload: &[u8]| {
            scene.packet(0x34 | dup, &[sized("a"), vec![0, 9]].concat(), payload)
        };
        for (who, payload) in BOTH.into_iter().zip([b"acme", b"zen_"]) {
            let (client, _) = enter(&mut scene, kept(who));
            let packet = publish(&scene, 0, payload);
            scene.check(client, &packet, &[0x50, 2, 0, 9]);
        }
        let mut expected = scene.delivery(0x32, "acme/a", 1, b"acme");
        expected.extend(scene.delivery(0x32, "zen/a", 2, b"zen_"));
        scene.check(app, &[], &expected);
        scene.check(app, &[0x40, 2, 0, 1, 0x40, 2, 0, 2], &[]);
        scene.node.advance(Duration::from_secs(3));
        let mut scene = scene.crash();
        let (acme, _) = enter(&mut scene, kept(ACME));
        scene.check(acme, &publish(&scene, 8, b"acme"), &[0x50, 2, 0, 9]);
        scene.check(acme, &[0x62, 2, 0, 9], &[0x70, 2, 0, 9]);
        // That of the other is still open.
        let (zen, _) = enter(&mut scene, kept(ZEN));
        scene.check(zen, &publish(&scene, 8, b"zen_"), &[0x50, 2, 0, 9]);
        let (app, _) = enter(&mut scene, kept(APP));
        let got = scene.node.take(app);
        let counts_again =
            |payload: &[u8]| got.windows(4).filter(|bytes| *bytes == payload).count();
        assert_eq!((counts_again(b"acme"), counts_again(b"zen_")), (0, 0), "{}", scene.label());
    }
}

#[test]
fn aliases_stand_for_the_tenants_topics() {
    let mut scene = Scene::with(Speaks::V5, settings());
    // Topic Alias Maximum 2 for what is sent to it.
    let subscribers = BOTH.map(|who| {
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 5, 0xC2, 0, 0, 3, 0x22, 0, 2];
        body.extend([sized("c"), sized(who.user.unwrap().0), sized("pw")].concat());
        let client = scene.node.connect();
        let connack = scene.node.exchange(client, &framed(0x10, &body));
        assert_eq!((connack[0], connack[3]), (0x20, 0));
        subscribe(&mut scene, client, "#", 1);
        client
    });
    let publishers = BOTH.map(|who| enter(&mut scene, named(who, "p")).0);
    let with_alias = |first: u8, topic: &str, id: u8, payload: &[u8]| {
        framed(first, &[sized(topic), vec![0, id, 3, 0x23, 0, 1], payload.to_vec()].concat())
    };
    for (place, payload) in [(0, b"acme"), (1, b"zen_")] {
        scene.check(publishers[place], &with_alias(0x32, "a/b", 5, payload), &[0x40, 2, 0, 5]);
    }
    for (place, payload) in [(0, b"acme"), (1, b"zen_")] {
        scene.check(publishers[place], &with_alias(0x32, "", 5, payload), &[0x40, 2, 0, 5]);
        let mut expected = with_alias(0x32, "a/b", 1, payload);
        expected.extend(with_alias(0x32, "", 2, payload));
        scene.check(subscribers[place], &[], &expected);
    }
}

/// MQTT 5.0 [MQTT-3.8.3-3]: who has the same client id in another tenant is another client.
#[test]
fn no_local_knows_who_published() {
    let mut scene = Scene::with(Speaks::V5, settings());
    let (acme, _) = enter(&mut scene, ACME);
    let tail = [sized("#"), vec![5]].concat();
    let packet = scene.packet(0x82, &[0, 1], &tail);
    let suback = scene.packet(0x90, &[0, 1], &[1]);
    scene.check(acme, &packet, &suback);
    scene.publish(acme, "a", b"own");
    scene.check(acme, &[], &[]);
    let (app, _) = enter(&mut scene, APP);
    scene.publish(app, "acme/a", b"m");
    let expected = scene.delivery(0x32, "a", 1, b"m");
    scene.check(acme, &[], &expected);
}

#[test]
fn rules_are_in_the_tenants_own_words() {
    everywhere(|mut scene| {
        let guest = As { user: Some(("acme-guest", "pw")), ..ACME };
        let (guest, _) = enter(&mut scene, guest);
        for filter in ["acme/open/#", "id/b/#", "acme/id/c/#", "zen/#"] {
            subscribe(&mut scene, guest, filter, 0x87);
        }
        for filter in ["#", "id/c/#", "of/acme-guest/x"] {
            subscribe(&mut scene, guest, filter, 1);
        }
        publish_in_vain(&mut scene, guest, "acme/open/x", 0);
        let (other, _) = enter(&mut scene, named(ACME, "o"));
        scene.publish(other, "secret", b"m");
        scene.check(guest, &[], &[]);
        for (id, topic) in [(1, "open/x"), (2, "id/c/x"), (3, "of/acme-guest/x")] {
            scene.publish(other, topic, b"m");
            let expected = scene.delivery(0x32, topic, id, b"m");
            scene.check(guest, &[], &expected);
            scene.check(guest, &[0x40, 2, 0, id as u8], &[]);
        }
        subscribe(&mut scene, other, "id/e/x", 1);
        let second = As { user: Some(("acme-guest", "pw")), ..named(ACME, "e") };
        let (second, _) = enter(&mut scene, second);
        scene.publish(second, "id/e/x", b"m");
        let expected = scene.delivery(0x32, "id/e/x", 1, b"m");
        scene.check(other, &[], &expected);
        let denied = As { will: Some("secret"), user: Some(("acme-guest", "pw")), ..ACME };
        refused(&mut scene, denied, 5, 0x87);
        enter(&mut scene, As { will: Some("open/w"), ..denied });
    });
}

/// Limits count what is stored.
#[test]
fn a_long_mountpoint_leaves_less_room() {
    let mut settings = settings();
    settings.limits.topic_bytes_max = 200;
    settings.limits.topic_levels_max = 3;
    settings.limits.client_id_bytes_max = 135;
    everywhere_with(settings, |mut scene| {
        let long = As { user: Some(("long", "pw")), ..ACME };
        let (client, _) = enter(&mut scene, long);
        // 128 bytes and a slash.
        let (fits, is_too_long) = ("x".repeat(71), "x".repeat(72));
        subscribe(&mut scene, client, &fits, 1);
        subscribe(&mut scene, client, &is_too_long, 0x8F);
        subscribe(&mut scene, client, "a/b", 1);
        subscribe(&mut scene, client, "a/b/c", 0x8F);
        let (publisher, _) = enter(&mut scene, As { client_id: "p", ..long });
        scene.publish(publisher, &fits, b"m");
        let expected = scene.delivery(0x32, &fits, 1, b"m");
        scene.check(client, &[], &expected);
        for topic in [&is_too_long[..], "a/b/c"] {
            let (client, _) = enter(&mut scene, As { client_id: "d", ..long });
            let head = [sized(topic), vec![0, 7]].concat();
            let publish = scene.packet(0x32, &head, b"m");
            scene.check_closed(client, &publish, 0x90);
            will_refused(&mut scene, As { will: Some(topic), client_id: "d", ..long });
        }
        // And 128 bytes and one more.
        enter(&mut scene, As { client_id: "123456", ..long });
        refused(&mut scene, As { client_id: "1234567", ..long }, 2, 0x85);
    });
}

/// Users of acme are of another tenant now.
#[derive(Debug)]
struct Moved;

impl Recheck for Moved {
    fn recheck(&self, former: &Identity) -> Option<Arc<Identity>> {
        let moved = former.mountpoint.as_deref().filter(|tenant| *tenant != "acme");
        Some(Arc::new(Identity { mountpoint: moved.map(Box::from), ..former.clone() }))
    }
}

#[test]
fn who_gets_another_mountpoint_is_another_client() {
    everywhere(|mut scene| {
        let clients = [ACME, ZEN, APP].map(|who| enter(&mut scene, who).0);
        let source: Arc<dyn Recheck> = Arc::new(Moved);
        scene.node.change_access(&source);
        let goodbye = scene.either(&[], &[0xE0, 1, 0x87]).to_vec();
        for (client, expected) in clients.into_iter().zip([&goodbye[..], &[], &[]]) {
            scene.expect(client, expected);
            assert_eq!(scene.node.is_closed(client), !expected.is_empty() || client == clients[0]);
        }
    });
}

/// A ban is on a client id, whoever has it.
#[test]
fn a_banned_client_id_is_banned_in_every_tenant() {
    let mut settings = settings();
    settings.limits.banned_client_ids = vec!["c".to_owned()];
    everywhere_with(settings, |mut scene| {
        for who in [ACME, ZEN, APP] {
            refused(&mut scene, who, 5, 0x8A);
            enter(&mut scene, named(who, "d"));
        }
    });
}

#[test]
fn a_client_that_sends_no_client_id_gets_one_without_the_mountpoint() {
    let mut scene = Scene::with(Speaks::V5, settings());
    let client = scene.node.connect();
    let packet = connect(&scene, named(ACME, ""));
    let connack = scene.node.exchange(client, &packet);
    let at = connack.windows(5).position(|bytes| bytes == b"auto-").unwrap();
    assert_eq!(connack[at - 3..at], [0x12, 0, 37], "Assigned Client Identifier");
    assert!(!connack.contains(&b'\0') || !connack[at..].contains(&b'\0'));
}

#[test]
fn an_operator_sees_tenants_and_client_ids_apart() {
    let mut scene = Scene::with(Speaks::V5, settings());
    for who in [ACME, ZEN, APP] {
        let (client, _) = enter(&mut scene, who);
        subscribe(&mut scene, client, "a/#", 1);
    }
    let outbox = gateway::proto::output::Outbox::default();
    let around = Around { outbox: &outbox, peer: &|_| None };
    let state = scene.node.shard(0).state();
    let mut query = SessionsQuery { rows_max: 10, ..SessionsQuery::default() };
    let rows = |query: &SessionsQuery| -> Vec<(String, Option<String>)> {
        let page = state.sessions_page(query, &around);
        page.rows.into_iter().map(|row| (row.client_id, row.mountpoint)).collect()
    };
    let of = |tenant: Option<&str>| ("c".to_owned(), tenant.map(str::to_owned));
    assert_eq!(rows(&query), [of(Some("acme")), of(Some("zen")), of(None)]);
    query.mountpoint = Some("zen".to_owned());
    assert_eq!(rows(&query), [of(Some("zen"))]);
    query.prefix = "zen".to_owned();
    assert_eq!(rows(&query), []);
    let now = scene.node.now();
    let view = state.session_view("acme\0c", now, &around).unwrap();
    assert_eq!((&*view.row.client_id, &*view.filters[0].filter), ("c", "acme/a/#"));
    let page = state.subscribers("acme/a");
    assert_eq!((page.count, page.subscribers[0].mountpoint.as_deref()), (1, Some("acme")));
}

/// What is told apart is told apart without memory: for each message as much is allocated as without a
/// mountpoint.
#[test]
fn a_mountpoint_allocates_nothing() {
    let allocated = |who: As<'static>, filter: &str, topic: &str, alias: &[u8]| {
        let mut scene = Scene::with(Speaks::V5, settings());
        let subscribers = ["1", "2", "3"].map(|id| {
            let (client, _) = enter(&mut scene, named(who, id));
            subscribe(&mut scene, client, filter, 1);
            client
        });
        let (publisher, _) = enter(&mut scene, named(who, "p"));
        let body =
            |topic: &str| [&sized(topic), &[alias.len() as u8][..], alias, b"payload"].concat();
        scene.node.send(publisher, &framed(0x30, &body(topic)));
        let again = if alias.is_empty() { topic } else { "" };
        let publish = framed(0x30, &body(again));
        let mut round = || {
            for _ in 0..64 {
                scene.node.send(publisher, &publish);
                for subscriber in subscribers {
                    assert!(!scene.node.take(subscriber).is_empty());
                }
            }
        };
        round();
        allocations::count(round).1
    };
    for alias in [&[][..], &[0x23, 0, 1]] {
        let plain = allocated(APP, "acme/+", "acme/topic", alias);
        let mounted = allocated(ACME, "+", "acmetopics", alias);
        assert_eq!(mounted, plain, "alias {alias:?}");
    }
}
