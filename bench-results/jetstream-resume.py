#!/usr/bin/env python3
"""Measures sessions that come back to a gateway on JetStream with messages behind.

Usage: bench-results/jetstream-resume.py OUTPUT_FOLDER [SESSIONS [BEHIND [GATEWAY]]]

Needs `make build` and `make tools`. Three nats-servers without replicas, two gateways with one shard each
and shared sessions. Cases:

  literal, wildcard   SESSIONS (default 1,000) with a filter of that kind each come back at once, to the other
                      gateway, with ten messages behind each: CPU of nats-server and gateway a 1,000 sessions
  qos1, qos2          one session with BEHIND (default 1,000,000) messages behind on 100 topics comes back to
                      the other gateway: whether every message comes, in order a topic, at QoS 2 once

Ends with an error if a message is missing, comes twice at QoS 2, or in another order than it was published.
Writes raw.jsonl and summary.md into OUTPUT_FOLDER.
"""

import collections
import importlib
import json
import pathlib
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time

common = importlib.import_module("jetstream-idle")
publishing = importlib.import_module("jetstream-publish")

TOPICS = 100
EACH = 10


class Client:
    """An MQTT 3.1.1 client that acknowledges what it gets, and notes it by topic."""

    def __init__(self, port, client_id, got):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.rest, self.got, self.count, self.subacks = b"", got, 0, 0
        head = common.text("MQTT") + bytes([4, 0, 0, 0]) + common.text(client_id)
        self.socket.sendall(common.packet(0x10, head))

    def subscribe(self, topic_filter, qos):
        self.socket.sendall(common.packet(0x82, b"\0\1" + common.text(topic_filter) + bytes([qos])))

    def receive(self):
        came = self.socket.recv(262_144)
        assert came, "the gateway closed the connection"
        self.rest += came
        at, out = 0, []
        while True:
            length, shift, end = 0, 0, at + 1
            while end < len(self.rest):
                length |= (self.rest[end] & 127) << shift
                shift, end = shift + 7, end + 1
                if self.rest[end - 1] < 128:
                    break
            else:
                break
            if len(self.rest) < end + length:
                break
            self.take(self.rest[at], self.rest[end:end + length], out)
            at = end + length
        self.rest = self.rest[at:]
        if out:
            self.socket.sendall(b"".join(out))

    def take(self, first, body, out):
        kind = first >> 4
        if kind == 2:
            assert body[1] == 0, "refused"
        elif kind == 9:
            self.subacks += 1
        elif kind == 6:
            out.append(b"\x70\x02" + body[:2])
        elif kind == 3:
            size = int.from_bytes(body[:2], "big")
            packet_id = body[2 + size:4 + size]
            self.got[body[2:2 + size]].append(int(body[4 + size:]))
            self.count += 1
            out.append((b"\x50\x02" if first & 6 == 4 else b"\x40\x02") + packet_id)


def until(clients, is_done):
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.socket, selectors.EVENT_READ, client)
        quiet = time.monotonic() + 120
        while not is_done():
            for key, _ in selector.select(1):
                key.data.receive()
                quiet = time.monotonic() + 120
            assert time.monotonic() < quiet, "nothing came for two minutes"


def publish(port, count, topic_of, qos):
    """Numbers in order, each acknowledged."""
    def encode(number):
        packet_id = (number % 60_000 + 1).to_bytes(2, "big")
        body = common.text(topic_of(number)) + packet_id + str(number).encode()
        return common.packet(0x30 | qos << 1, body)

    with publishing.connect_mqtt(port) as connection:
        reader = publishing.Reader(connection)
        publishing.publish(connection, count, encode, reader.count_pubacks)


def run(case, sessions, behind, gateway):
    count = 1 if case.startswith("qos") else sessions
    qos = 2 if case == "qos2" else 1
    filters = {"literal": "r/{}", "wildcard": "r/{}/#"}
    topic_filter = (lambda number: filters[case].format(number)) if case in filters else (lambda _: "r/#")
    total = behind if count == 1 else EACH * count
    topics = TOPICS if count == 1 else count
    with tempfile.TemporaryDirectory() as folder:
        servers = {name: common.start_server(folder, name) for name in "abc"}
        nodes = []
        try:
            for number in range(2):
                nodes.append(common.start_gateway(
                    gateway, f"{folder}/{number}", servers,
                    "--sessions", "shared", "--gateway-id", f"g{number}"))
            time.sleep(5)
            clients = [Client(nodes[0][1], f"s{number}", collections.defaultdict(list))
                       for number in range(count)]
            for number, client in enumerate(clients):
                client.subscribe(topic_filter(number), qos)
            until(clients, lambda: all(client.subacks for client in clients))
            for client in clients:
                client.socket.close()
            time.sleep(2)
            publish_all(nodes[0][1], total, topics, qos)
            pids = [process.pid for process, _ in servers.values()]
            before = sum(map(common.cpu_seconds, pids)), common.cpu_seconds(nodes[1][0].pid)
            began = time.monotonic()
            clients = [Client(nodes[1][1], client_id, client.got)
                       for client_id, client in ((f"s{number}", one) for number, one in enumerate(clients))]
            until(clients, lambda: sum(client.count for client in clients) >= total)
            seconds = time.monotonic() - began
            after = sum(map(common.cpu_seconds, pids)), common.cpu_seconds(nodes[1][0].pid)
            check(clients, total, topics, qos)
            return {"case": case, "sessions": count, "messages": total, "seconds": seconds,
                    "nats_cpu_s": after[0] - before[0], "gateway_cpu_s": after[1] - before[1]}
        finally:
            for process in [node for node, _ in nodes] + [server for server, _ in servers.values()]:
                process.send_signal(signal.SIGTERM)
                process.wait(60)


def publish_all(port, total, topics, qos):
    topic_of = (lambda number: f"r/{number % topics}")
    if qos == 1:
        publish(port, total, topic_of, 1)
        return
    with publishing.connect_mqtt(port) as connection:
        connection.settimeout(120)
        for first in range(0, total, 500):
            numbers = range(first, min(first + 500, total))
            connection.sendall(b"".join(
                common.packet(0x34, common.text(topic_of(number)) + (number - first + 1).to_bytes(2, "big")
                              + str(number).encode()) for number in numbers))
            receive(connection, 4 * len(numbers))
            connection.sendall(b"".join(
                b"\x62\x02" + (number - first + 1).to_bytes(2, "big") for number in numbers))
            receive(connection, 4 * len(numbers))


def receive(connection, count):
    while count:
        count -= len(connection.recv(count))


def check(clients, total, topics, qos):
    for number, client in enumerate(clients):
        for topic, got in client.got.items():
            # At QoS 1 one may come again; the first copies are in order.
            first = list(dict.fromkeys(got)) if qos == 1 else got
            place = int(topic[2:].split(b"/")[0])
            expected = list(range(place, total, topics))
            assert first == expected, f"session {number}, topic {topic}: {len(first)} of {len(expected)}"


def summary(rows):
    lines = ["| case | sessions | messages behind | seconds | nats-server, CPU s | gateway, CPU s |",
             "|---" * 6 + "|"]
    lines += [f"| {row['case']} | {row['sessions']:,} | {row['messages']:,} | {row['seconds']:.1f} "
              f"| {row['nats_cpu_s']:.2f} | {row['gateway_cpu_s']:.2f} |" for row in rows]
    return "\n".join(lines) + "\n"


def main():
    output = pathlib.Path(sys.argv[1])
    sessions = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000
    behind = int(sys.argv[3]) if len(sys.argv) > 3 else 1_000_000
    gateway = sys.argv[4] if len(sys.argv) > 4 else common.ROOT / "target/release/gateway"
    output.mkdir(parents=True, exist_ok=True)
    rows = []
    with (output / "raw.jsonl").open("w") as lines:
        for case in ("literal", "wildcard", "qos1", "qos2"):
            rows.append(run(case, sessions, behind, gateway))
            lines.write(json.dumps(rows[-1]) + "\n")
            lines.flush()
    (output / "summary.md").write_text(summary(rows))
    print((output / "summary.md").read_text())


if __name__ == "__main__":
    main()
