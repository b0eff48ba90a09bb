#!/usr/bin/env python3
"""Compares QoS 1 publishes through a gateway with those of a NATS client, and with nats-server's own MQTT.

Usage: bench-results/jetstream-publish.py OUTPUT_FOLDER [MESSAGES [GATEWAY]]

Needs `make build` and `make tools`. One nats-server, one stream on disk without replicas, one client on
one connection with up to 256 publishes unacknowledged, over 1,000 topics in turn, 100 bytes each. Cases:

  nats     the client speaks NATS and waits for JetStream's acknowledgements
  headers  the same, with the headers that the gateway gives each message: its id, so that it is not stored twice,
           and who published it
  gateway  the client speaks MQTT 3.1.1 to a gateway with one shard
  mqtt     the same client speaks to nats-server's MQTT listener, which keeps a message only where a session
           wants it: one that is offline does

Counts CPU seconds of nats-server and the gateway, and messages a second. The client is this script, and
takes a core by itself: rates compare cases, and say little of what a server can do. MESSAGES (default
1,000,000) follow a tenth as many that do not count. Writes raw.jsonl and summary.md into OUTPUT_FOLDER.
"""

import importlib
import itertools
import json
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

common = importlib.import_module("jetstream-idle")

WINDOW = 256
TOPICS = 1_000
PAYLOAD = b"x" * 100
IDS = itertools.count()
CASES = ("nats", "headers", "gateway", "mqtt")


class Reader:
    """Counts acknowledgements in what comes on a connection."""

    def __init__(self, connection):
        self.connection, self.rest = connection, b""

    def count_pubacks(self):
        self.rest += self.connection.recv(65_536)
        count, self.rest = len(self.rest) // 4, self.rest[len(self.rest) // 4 * 4:]
        return count

    def count_messages(self):
        """MSG with an answer of JetStream; everything else is passed over."""
        self.rest += self.connection.recv(65_536)
        count = 0
        while (end := self.rest.find(b"\r\n")) >= 0:
            line = self.rest[:end]
            size = 0
            if line.startswith(b"MSG "):
                size = int(line.rsplit(b" ", 1)[1]) + 2
                if len(self.rest) < end + 2 + size:
                    break
                assert b'"error"' not in self.rest[end + 2:end + 2 + size], self.rest
                count += 1
            elif line.startswith(b"PING"):
                self.connection.sendall(b"PONG\r\n")
            self.rest = self.rest[end + 2 + size:]
        return count


def connect_nats(port):
    connection = socket.create_connection(("127.0.0.1", port))
    connection.recv(65_536)
    connection.sendall(b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\nSUB _I.* 1\r\n')
    return connection


def api(port, operation, body):
    with connect_nats(port) as connection:
        text = json.dumps(body).encode()
        connection.sendall(b"PUB $JS.API.%s _I.api %d\r\n%s\r\n" % (operation.encode(), len(text), text))
        answer = connection.recv(65_536)
        assert b'"error"' not in answer, answer


def connect_mqtt(port, client_id="publisher", clean=True):
    connection = socket.create_connection(("127.0.0.1", port))
    head = common.text("MQTT") + bytes([4, 2 if clean else 0, 0, 0]) + common.text(client_id)
    connection.sendall(common.packet(0x10, head))
    assert connection.recv(4)[3] == 0
    return connection


def leave_session(port):
    """A session that is offline and wants everything."""
    with connect_mqtt(port, "keeper", clean=False) as connection:
        connection.sendall(common.packet(0x82, b"\0\1" + common.text("t/#") + b"\1"))
        assert connection.recv(5)[4] == 1


def nats_publish(number):
    return b"PUB mqtt.t.%d _I.%d %d\r\n%s\r\n" % (number % TOPICS, number, len(PAYLOAD), PAYLOAD)


def nats_publish_with_headers(number):
    headers = b"NATS/1.0\r\nNats-Msg-Id: %032x\r\nMqtt-Client-Id: publisher\r\n\r\n" % next(IDS)
    size = len(headers)
    return b"HPUB mqtt.t.%d _I.%d %d %d\r\n%s%s\r\n" % (
        number % TOPICS, number, size, size + len(PAYLOAD), headers, PAYLOAD)


def mqtt_publish(number):
    packet_id = number % 60_000 + 1
    return common.packet(0x32, common.text(f"t/{number % TOPICS}") + packet_id.to_bytes(2, "big") + PAYLOAD)


NATS_CASES = {"nats": nats_publish, "headers": nats_publish_with_headers}


def publish(connection, count, encode, acknowledged):
    """Publishes `count` messages, at most a window of them unacknowledged."""
    sent = done = 0
    while done < count:
        last = min(count, done + WINDOW)
        if last > sent:
            connection.sendall(b"".join(map(encode, range(sent, last))))
            sent = last
        done += acknowledged()


def run(case, count, gateway):
    with tempfile.TemporaryDirectory() as folder:
        port, mqtt_port = common.free_port(), common.free_port()
        config = pathlib.Path(folder) / "server.conf"
        mqtt = f'mqtt {{ host: "127.0.0.1", port: {mqtt_port} }}\n' if case == "mqtt" else ""
        config.write_text(
            f'server_name: a\nlisten: "127.0.0.1:{port}"\njetstream {{ store_dir: "{folder}/a" }}\n{mqtt}')
        processes = [subprocess.Popen([common.SERVER, "--config", config, "--log", f"{folder}/log"])]
        try:
            common.wait_until_listening(port)
            if case == "gateway":
                node, mqtt_port = common.start_gateway(gateway, folder, {"a": (None, port)})
                processes.append(node)
                time.sleep(3)
            if case in NATS_CASES:
                api(port, "STREAM.CREATE.MQTT_0", {
                    "name": "MQTT_0", "subjects": ["mqtt.>"], "storage": "file", "discard": "new",
                    "num_replicas": 1, "republish": {"src": ">", "dest": "live.0.>"}})
                connection, encode = connect_nats(port), NATS_CASES[case]
                acknowledged = Reader(connection).count_messages
            else:
                common.wait_until_listening(mqtt_port)
                leave_session(mqtt_port)
                connection, encode = connect_mqtt(mqtt_port), mqtt_publish
                acknowledged = Reader(connection).count_pubacks
            publish(connection, count // 10, encode, acknowledged)
            before = [common.cpu_seconds(process.pid) for process in processes]
            began = time.monotonic()
            publish(connection, count, encode, acknowledged)
            seconds = time.monotonic() - began
            cpu = [common.cpu_seconds(process.pid) - was for process, was in zip(processes, before)]
            return {"case": case, "messages": count, "seconds": seconds, "nats_cpu_s": cpu[0],
                    "gateway_cpu_s": sum(cpu[1:])}
        finally:
            for process in reversed(processes):
                process.send_signal(signal.SIGTERM)
                process.wait(60)


def summary(rows):
    lines = ["CPU seconds a million messages; the rate is against that of the NATS client.", "",
             "| case | nats-server | gateway | together | messages a second | rate |", "|---" * 6 + "|"]
    base = rows[0]["messages"] / rows[0]["seconds"]
    for row in rows:
        million = row["messages"] / 1e6
        nats, gateway, rate = (row["nats_cpu_s"] / million, row["gateway_cpu_s"] / million,
                               row["messages"] / row["seconds"])
        lines.append(f"| {row['case']} | {nats:.1f} | {gateway:.1f} | {nats + gateway:.1f} | {rate:,.0f} "
                     f"| {rate / base:.2f} |")
    return "\n".join(lines) + "\n"


def main():
    output = pathlib.Path(sys.argv[1])
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    gateway = sys.argv[3] if len(sys.argv) > 3 else common.ROOT / "target/release/gateway"
    output.mkdir(parents=True, exist_ok=True)
    rows = []
    with (output / "raw.jsonl").open("w") as lines:
        for case in CASES:
            rows.append(run(case, count, gateway))
            lines.write(json.dumps(rows[-1]) + "\n")
            lines.flush()
    (output / "summary.md").write_text(summary(rows))
    print((output / "summary.md").read_text())


if __name__ == "__main__":
    main()
