"""What MQTT 5.0 conformance suites try, with paho-mqtt. Usage: paho_v5.py PORT [SCHEME [AUTHORITY]]"""

import queue

from paho_client import Client, SubscribeOptions, equal, run, text, unique


def session(name, clean=True, expiry=3600, **options):
    return Client(name, clean=clean, connect={"SessionExpiryInterval": expiry}, **options)


def user_properties_and_request_response_pass():
    topic = unique("properties")
    sent = {
        "UserProperty": [("a", "1"), ("a", "2"), ("b", "")],
        "ResponseTopic": "answers",
        "CorrelationData": b"\x00\x01",
        "ContentType": "text/plain",
        "PayloadFormatIndicator": 1,
    }
    with Client() as a:
        a.subscribe((topic, 2))
        for qos in (0, 1, 2):
            a.publish(topic, "x", qos, **sent)
            found = a.message().properties
            for name, value in sent.items():
                equal(getattr(found, name), value)


def publication_expiry():
    topic, name = unique("expiry"), unique("sleeper")
    with session(name) as a:
        a.subscribe((topic, 1))
    with Client() as b:
        b.publish(topic, "short", 1, MessageExpiryInterval=1)
        b.publish(topic, "long", 1, MessageExpiryInterval=1000)
        # Its own time-out is the clock: nothing comes to b for two seconds.
        try:
            b.messages.get(timeout=2)
            raise AssertionError("nothing was subscribed")
        except queue.Empty:
            pass
    with session(name, clean=False) as a:
        message = a.message()
        equal(text(message), (topic, "long"))
        assert 0 < message.properties.MessageExpiryInterval <= 998
        a.nothing_more()
    session(name, expiry=0).disconnect()


def session_expiry():
    name = unique("expiring")
    session(name, expiry=0).disconnect()
    again = session(name, clean=False)
    assert not again.flags.session_present, "ended with its connection"
    again.disconnect()
    with session(name, clean=False) as kept:
        assert kept.flags.session_present
        kept.disconnect(SessionExpiryInterval=0)
    with session(name, clean=False) as gone:
        assert not gone.flags.session_present, "DISCONNECT may end it"
    session(name, expiry=0).disconnect()


def assigned_client_id():
    with Client("") as a:
        assert a.connack.AssignedClientIdentifier


def subscription_identifiers():
    topic = unique("identifiers")
    with Client() as a:
        a.subscribe((f"{topic}/#", 1), SubscriptionIdentifier=2)
        a.subscribe((f"{topic}/+", 1), SubscriptionIdentifier=3)
        a.publish(f"{topic}/x", "x", 1)
        found = a.message().properties.SubscriptionIdentifier
        while len(found) < 2:
            found = found + a.message().properties.SubscriptionIdentifier
        equal(sorted(found), [2, 3])


def no_local():
    topic = unique("local")
    with Client() as a, Client() as b:
        a.subscribe((topic, SubscribeOptions(qos=1, noLocal=True)))
        a.publish(topic, "own", 1)
        b.publish(topic, "other", 1)
        equal(text(a.message()), (topic, "other"))


def retain_as_published():
    for kept in (False, True):
        topic = unique("published")
        with Client() as a:
            a.subscribe((topic, SubscribeOptions(qos=1, retainAsPublished=kept)))
            a.publish(topic, "x", 1, retain=True)
            equal(a.message().retain, kept)
            a.publish(topic, "", 1, retain=True)


def retain_handling():
    topic = unique("handling")
    with Client() as a:
        a.publish(topic, "x", 1, retain=True)
        for handling, times in ((0, 2), (1, 1), (2, 0)):
            options = SubscribeOptions(qos=1, retainHandling=handling)
            for _ in range(2):
                a.subscribe((topic, options))
            found = a.texts(times)
            equal(found, [(topic, "x")] * times)
            a.nothing_more()
            a.unsubscribe(topic)
        a.publish(topic, "", 1, retain=True)


def client_topic_alias():
    topic = unique("alias")
    with Client() as a:
        assert a.connack.TopicAliasMaximum > 0
        a.subscribe((topic, 1))
        a.publish(topic, "first", 1, TopicAlias=1)
        a.publish("", "second", 1, TopicAlias=1)
        equal(a.texts(2), [(topic, "first"), (topic, "second")])


def flow_control():
    topic, count = unique("flow"), 200
    with Client(connect={"ReceiveMaximum": 2}) as a, Client() as b:
        a.subscribe((topic, 2))
        for number in range(count):
            b.paho.publish(topic, str(number), 1 + number % 2)
        found = sorted(int(payload) for _, payload in a.texts(count))
        equal(found, list(range(count)))


def maximum_packet_size_of_the_client():
    topic = unique("size")
    with Client(connect={"MaximumPacketSize": 200}) as a:
        a.subscribe((topic, 1))
        a.publish(topic, "x" * 400, 1)
        a.publish(topic, "small", 1)
        equal(text(a.message()), (topic, "small"))


def will_delay():
    topic, name = unique("delay"), unique("mortal")
    will = {"topic": topic, "payload": "gone", "qos": 1}
    with Client() as watcher:
        watcher.subscribe((topic, 1))
        session(name, will=will).vanish()
        equal(text(watcher.message()), (topic, "gone"))


def subscribe_failure():
    with Client() as a:
        found = a.subscribe(("/".join("a" * 1_000), 1))
        assert found[0] >= 0x80, found


def no_matching_subscribers():
    with Client() as a:
        equal(a.publish(unique("nobody"), "x", 1), 0)
        equal(a.unsubscribe(unique("nothing")), [0x11])


if __name__ == "__main__":
    run([
        user_properties_and_request_response_pass, publication_expiry, session_expiry,
        assigned_client_id, subscription_identifiers, no_local, retain_as_published,
        retain_handling, client_topic_alias, flow_control, maximum_packet_size_of_the_client,
        will_delay, subscribe_failure, no_matching_subscribers,
    ])
