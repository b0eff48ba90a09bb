"""What MQTT 3.1.1 conformance suites try, with paho-mqtt. Usage: paho_v3.py PORT [SCHEME [AUTHORITY]]"""

import paho.mqtt.client as paho
from paho_client import Client, equal, run, text, unique


def client(client_id=None, clean=True, **options):
    return Client(client_id, paho.MQTTv311, clean, **options)


def basic():
    topic = unique("basic")
    with client() as a, client() as b:
        equal(a.subscribe((f"{topic}/+", 2)), [2])
        for qos in (0, 1, 2):
            b.publish(f"{topic}/{qos}", f"qos {qos}", qos)
        found = sorted((m.qos, m.retain, *text(m)) for m in (a.message() for _ in range(3)))
        equal(found, [(q, False, f"{topic}/{q}", f"qos {q}") for q in (0, 1, 2)])


def granted_qos_limits_delivery():
    topic = unique("granted")
    for granted in (0, 1, 2):
        with client() as a:
            equal(a.subscribe((topic, granted)), [granted])
            for qos in (0, 1, 2):
                a.publish(topic, str(qos), qos)
            found = sorted((m.payload.decode(), m.qos) for m in (a.message() for _ in range(3)))
            equal(found, [(str(qos), min(qos, granted)) for qos in (0, 1, 2)])


def large_payloads_arrive_whole():
    topic = unique("large")
    with client() as a:
        a.subscribe((topic, 2))
        for length in (0, 1, 127, 128, 16_384, 65_535, 1_000_000):
            payload = bytes(i % 251 for i in range(length))
            a.publish(topic, payload, 1)
            assert a.message().payload == payload, f"{length} bytes"


def retained_messages():
    topic = unique("retained")
    topics = [f"{topic}/a", f"{topic}/a/b", f"{topic}/c", f"{topic}//d"]
    with client() as publisher:
        for qos, name in enumerate(topics):
            publisher.publish(name, "old", qos % 3, retain=True)
            publisher.publish(name, name, 1, retain=True)
        for wildcard, expected in [
            (f"{topic}/+", [topics[0], topics[2]]),
            (f"{topic}/+/+", [topics[1], topics[3]]),
            (f"{topic}/#", topics),
            (f"{topic}/a/#", topics[:2]),
            (f"{topic}/+/d", [topics[3]]),
            (topics[2], [topics[2]]),
        ]:
            with client() as a:
                a.subscribe((wildcard, 2))
                found = [a.message() for _ in expected]
                equal(sorted(m.topic for m in found), sorted(expected))
                assert all(m.retain and m.payload.decode() == m.topic for m in found)
                a.nothing_more()
        for name in topics:
            publisher.publish(name, "", 1, retain=True)
        with client() as a:
            a.subscribe((f"{topic}/#", 2))
            a.nothing_more()


def retained_arrives_again_with_every_subscribe():
    topic = unique("again")
    with client() as a:
        a.publish(topic, "kept", 1, retain=True)
        for _ in range(3):
            a.subscribe((topic, 1))
            message = a.message()
            equal((message.retain, text(message)), (True, (topic, "kept")))
        a.publish(topic, "live", 1, retain=True)
        message = a.message()
        equal((message.retain, text(message)), (False, (topic, "live")))
        a.publish(topic, "", 1, retain=True)


def offline_messages_are_queued():
    topic, name = unique("offline"), unique("sleeper")
    with client(name, clean=False) as a:
        a.subscribe((f"{topic}/#", 2))
    with client() as b:
        for number in range(100):
            b.publish(f"{topic}/1", str(number), 1)
        for number in range(10):
            b.publish(f"{topic}/2", str(number), 2)
    with client(name, clean=False) as a:
        assert a.flags.session_present
        found = a.texts(110)
        equal([p for t, p in found if t == f"{topic}/1"], [str(n) for n in range(100)])
        equal([p for t, p in found if t == f"{topic}/2"], [str(n) for n in range(10)])
        a.nothing_more()
    with client(name, clean=True) as a:
        assert not a.flags.session_present
        a.nothing_more()
    with client(name, clean=False) as a:
        assert not a.flags.session_present, "a clean session leaves none"
    client(name, clean=True).disconnect()


def will_message():
    topic = unique("will")
    with client() as watcher:
        watcher.subscribe((topic, 2))
        client(will={"topic": topic, "payload": "left", "qos": 1}).disconnect()
        watcher.nothing_more()
        client(will={"topic": topic, "payload": "gone", "qos": 2}).vanish()
        message = watcher.message()
        equal((message.qos, text(message)), (2, (topic, "gone")))
        client(will={"topic": topic, "payload": "kept", "qos": 1, "retain": True}).vanish()
        equal(watcher.texts(1), [(topic, "kept")])
    with client() as late:
        late.subscribe((topic, 1))
        assert late.message().retain
        late.publish(topic, "", 1, retain=True)


def overlapping_subscriptions():
    topic = unique("overlap")
    with client() as a:
        equal(a.subscribe((f"{topic}/#", 2), (f"{topic}/+", 1)), [2, 1])
        a.publish(f"{topic}/x", "one", 2)
        message = a.message()
        equal((message.qos, text(message)), (2, (f"{topic}/x", "one")))
        a.unsubscribe(f"{topic}/#", f"{topic}/+")
        while not a.messages.empty():
            equal(a.message().payload, b"one")


def keep_alive():
    topic = unique("keepalive")
    with client() as watcher:
        watcher.subscribe((topic, 1))
        will = {"topic": topic, "payload": "silent", "qos": 1}
        silent = client(keepalive=1, will=will)
        # The thread that would ping ends; the socket stays open.
        silent.paho.loop_stop()
        equal(watcher.texts(1), [(topic, "silent")])


def redelivery_on_reconnect():
    topic, name = unique("redelivery"), unique("forgetful")
    a = client(name, clean=False, prepare=lambda p: p.manual_ack_set(True))
    a.subscribe((topic, 1))
    with client() as b:
        b.publish(topic, "again", 1)
    first = a.message()
    assert not first.dup
    a.vanish()
    with client(name, clean=False) as a:
        second = a.message()
        assert second.dup, "sent before"
        equal((second.mid, second.payload), (first.mid, first.payload))
        a.nothing_more()
    client(name, clean=True).disconnect()


def zero_length_client_id():
    with client("", clean=True) as a:
        topic = unique("anonymous")
        a.subscribe((topic, 1))
        a.publish(topic, "hello", 1)
        equal(a.texts(1), [(topic, "hello")])


def dollar_topics_are_not_matched_by_wildcards():
    rest = unique("dollar")
    with client() as a:
        a.subscribe(("#", 1), (f"+/{rest}", 1))
        a.publish(f"$own/{rest}", "hidden", 1)
        a.publish(f"own/{rest}", "seen", 1)
        found = a.message()
        while found.retain or rest not in found.topic:
            found = a.message()
        equal(text(found), (f"own/{rest}", "seen"))


def unsubscribe():
    topics = [unique("unsubscribe") for _ in range(3)]
    with client() as a:
        a.subscribe(*[(topic, 2) for topic in topics])
        a.unsubscribe(topics[0])
        a.unsubscribe(unique("never"))
        for topic in topics:
            a.publish(topic, topic, 1)
        equal([t for t, _ in a.texts(2)], topics[1:])
        a.nothing_more()


def takeover():
    name = unique("same")
    first = client(name)
    with client(name):
        first.disconnects.get(timeout=60)
    first.paho.loop_stop()


def order_is_kept():
    topic = unique("order")
    with client() as a, client() as b:
        a.subscribe((topic, 2))
        for qos in (1, 2):
            infos = [b.paho.publish(topic, str(n), qos) for n in range(500)]
            for info in infos:
                info.wait_for_publish(60)
            equal([p for _, p in a.texts(500)], [str(n) for n in range(500)])


if __name__ == "__main__":
    run([
        basic, granted_qos_limits_delivery, large_payloads_arrive_whole, retained_messages,
        retained_arrives_again_with_every_subscribe, offline_messages_are_queued, will_message,
        overlapping_subscriptions, keep_alive, redelivery_on_reconnect, zero_length_client_id,
        dollar_topics_are_not_matched_by_wildcards, unsubscribe, takeover, order_is_kept,
    ])
