"""A paho-mqtt client that one can wait for, and the loop that runs scenarios.

A scenario is a function that takes nothing and fails by an exception. Nothing sleeps: what
should come is waited for with PATIENCE_S, what should not come is shown by a message that is sent
after it and arrives.
"""

import queue
import sys
import traceback

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

PATIENCE_S = 60
PORT = int(sys.argv[1])
# mqtt, mqtts, ws or wss; with TLS the file of the authority to trust comes behind it.
SCHEME = sys.argv[2] if len(sys.argv) > 2 else "mqtt"
AUTHORITY = sys.argv[3] if len(sys.argv) > 3 else None
# A certificate is for a name.
HOST = "localhost" if AUTHORITY else "127.0.0.1"

_names = iter(range(1_000_000))


def unique(name):
    """A client id or topic that no other scenario has."""
    return f"{name}-{next(_names)}"


def properties(packet, **values):
    """Properties of a packet, by their names in MQTT 5.0 without spaces."""
    made = Properties(getattr(PacketTypes, packet))
    for name, value in values.items():
        setattr(made, name, value)
    return made


class Client:
    """One client, connected when made; leaving a `with` block disconnects it."""

    def __init__(self, client_id=None, version=paho.MQTTv5, clean=True, **options):
        self.version = version
        self.client_id = unique("client") if client_id is None else client_id
        self.connacks = queue.Queue()
        self.messages = queue.Queue()
        self.disconnects = queue.Queue()
        self.subacks = queue.Queue()
        self.unsubacks = queue.Queue()
        self.published = queue.Queue()
        v5 = version == paho.MQTTv5
        extra = {} if v5 else {"clean_session": clean}
        self.paho = paho.Client(
            paho.CallbackAPIVersion.VERSION2,
            client_id=self.client_id,
            protocol=version,
            reconnect_on_failure=False,
            transport="websockets" if SCHEME.startswith("ws") else "tcp",
            **extra,
        )
        if AUTHORITY:
            self.paho.tls_set(ca_certs=AUTHORITY)
        for name, value in options.pop("attributes", {}).items():
            setattr(self.paho, name, value)
        if "will" in options:
            self.paho.will_set(**options.pop("will"))
        if "prepare" in options:
            options.pop("prepare")(self.paho)
        self.paho.on_connect = lambda _c, _u, flags, code, props: self.connacks.put((flags, code, props))
        self.paho.on_message = lambda _c, _u, message: self.messages.put(message)
        self.paho.on_disconnect = lambda _c, _u, _f, code, props: self.disconnects.put((code, props))
        self.paho.on_subscribe = lambda _c, _u, mid, codes, props: self.subacks.put(codes)
        self.paho.on_unsubscribe = lambda _c, _u, mid, codes, props: self.unsubacks.put(codes)
        self.paho.on_publish = lambda _c, _u, mid, code, props: self.published.put((mid, code))
        if v5:
            options.setdefault("clean_start", clean)
            made = properties("CONNECT", **options.pop("connect", {}))
            options["properties"] = made
        options.setdefault("keepalive", 60)
        self.paho.connect(HOST, PORT, **options)
        self.paho.loop_start()
        self.flags, self.code, self.connack = self.connacks.get(timeout=PATIENCE_S)

    def __enter__(self):
        assert not self.code.is_failure, self.code
        return self

    def __exit__(self, *_):
        self.disconnect()

    def subscribe(self, *filters, **options):
        """Subscribes to (filter, QoS or SubscribeOptions) pairs and returns the answers."""
        made = properties("SUBSCRIBE", **options) if options else None
        self.paho.subscribe(list(filters), properties=made)
        return [code.value for code in self.subacks.get(timeout=PATIENCE_S)]

    def unsubscribe(self, *filters):
        self.paho.unsubscribe(list(filters))
        return [code.value for code in self.unsubacks.get(timeout=PATIENCE_S)]

    def publish(self, topic, payload="", qos=0, retain=False, **options):
        """Publishes and, from QoS 1 on, waits for the whole exchange; returns the reason code."""
        made = properties("PUBLISH", **options) if options else None
        info = self.paho.publish(topic, payload, qos, retain, properties=made)
        while True:
            mid, code = self.published.get(timeout=PATIENCE_S)
            if mid == info.mid:
                return code.value

    def message(self):
        return self.messages.get(timeout=PATIENCE_S)

    def texts(self, count):
        """The next `count` messages as (topic, payload)."""
        return [text(self.message()) for _ in range(count)]

    def nothing_more(self):
        """Fails if a message is on its way: one of our own comes after it."""
        marker = unique("marker")
        assert self.subscribe((marker, 2)) in ([2], [1], [0])
        self.publish(marker, qos=1)
        found = self.message()
        assert found.topic == marker, f"unexpected: {text(found)}"
        self.unsubscribe(marker)

    def disconnect(self, **options):
        if self.paho.is_connected():
            if self.version == paho.MQTTv5:
                reason = options.pop("reason", None)
                self.paho.disconnect(reason, properties("DISCONNECT", **options))
            else:
                self.paho.disconnect()
        self.paho.loop_stop()

    def vanish(self):
        """Ends the connection without DISCONNECT."""
        self.paho.loop_stop()
        self.paho.socket().close()


def text(message):
    return (message.topic, message.payload.decode())


def equal(found, expected):
    assert found == expected, f"found {found!r}, expected {expected!r}"


def run(scenarios):
    """Runs every scenario, says how each went, and exits."""
    failed = 0
    for scenario in scenarios:
        try:
            scenario()
            print("ok", scenario.__name__, flush=True)
        except Exception:  # noqa: BLE001, a scenario fails by any of them
            failed += 1
            print("FAILED", scenario.__name__, flush=True)
            traceback.print_exc()
    # Threads of a failed scenario's clients are daemons: they do not keep the process.
    sys.exit(1 if failed else 0)
