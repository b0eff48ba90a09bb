#!/usr/bin/env python3
"""Compares QoS 1 publishes through a gateway with those of a NATS client, and with nats-server's own MQTT.

Usage: bench-results/jetstream-publish.py OUTPUT_FOLDER [MESSAGES [GATEWAY]]

Needs `make build` and `make tools`. One nats-server, one stream on disk without replicas, one client on
one connection with up to 256 publishes unacknowledged, over 1,000 topics in turn, 100 bytes each. Cases:

  nats     the client speaks NATS and waits for JetStream's acknowledgements
  headers  the same, with the headers that the gateway gives each message: a name, by which it can be found again,
           and who published it
  named    the same with Nats-Msg-Id, by which the server stores it once: what the gateway gives QoS 2 and wills
  gateway  the client speaks MQTT 3.1.1 to a gateway with one shard
  mqtt     the same client speaks to nats-server's MQTT listener, which keeps a message only where a session
           wants it: one that is offline does

Each case runs as fast as it goes, and at 50,000 messages a second: a server that waits between messages takes more CPU
for each than one that never does, so CPU is to be compared at the same rate. Counts CPU seconds of nats-server and the
gateway, nats-server's memory, and messages a second. The client is this script, which encodes each message once
and shares the cores: rates compare cases, and say little of what a server can do. MESSAGES (default
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
MESSAGE_ID = b"@" * 32
# Messages until topics and packet ids begin anew.
ROUND = 60_000
RATES = (0, 50_000)
CASES = ("nats", "headers", "named", "gateway", "mqtt")


class Reader:
    """Counts acknowledgements in what comes on a connection."""

    def __init__(self, connection):
        self.connection, self.rest = connection, b""

    def count_pubacks(self):
        self.rest += self.connection.recv(65_536)
        count, self.rest = len(self.rest) // 4, self.rest[len(self.rest) // 4 * 4:]
        return count

    def count_stored(self):
        """Answers of JetStream that name a place: what comes in lines of which the last may not be there yet."""
        whole, end, self.rest = (self.rest + self.connection.recv(65_536)).rpartition(b"\r\n")
        if b'"error"' in whole:
            raise SystemExit(f"refused: {whole}")
        if b"PING" in whole:
            self.connection.sendall(b"PONG\r\n")
        return whole.count(b'"seq":')


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


def nats_publish_with_headers(number, name=b"Mqtt-Message-Id"):
    """With MESSAGE_ID in place of what is never the same twice."""
    headers = b"NATS/1.0\r\n%s: %s\r\nMqtt-Client-Id: publisher\r\n\r\n" % (name, MESSAGE_ID)
    size = len(headers)
    return b"HPUB mqtt.t.%d _I.%d %d %d\r\n%s%s\r\n" % (
        number % TOPICS, number, size, size + len(PAYLOAD), headers, PAYLOAD)


def mqtt_publish(number):
    packet_id = number + 1
    return common.packet(0x32, common.text(f"t/{number % TOPICS}") + packet_id.to_bytes(2, "big") + PAYLOAD)


def nats_publish_named(number):
    return nats_publish_with_headers(number, b"Nats-Msg-Id")


NATS_CASES = {"nats": nats_publish, "headers": nats_publish_with_headers, "named": nats_publish_named}


def once(encode):
    """Encodes each message of a round once, so that the client costs little: what to send from one number to another."""
    packets = [encode(number) for number in range(ROUND)] * 2
    if MESSAGE_ID not in packets[0]:
        return lambda begin, count: b"".join(packets[begin:begin + count])
    parts = [packet.split(MESSAGE_ID) for packet in packets]
    return lambda begin, count: b"".join(
        part for head, tail in parts[begin:begin + count] for part in (head, b"%032x" % next(IDS), tail))


def publish(connection, count, messages, acknowledged, rate):
    """Publishes `count` messages, at most a window of them unacknowledged, and `rate` a second if that is not 0."""
    sent = done = 0
    began = time.monotonic()
    while done < count:
        last = min(count, done + WINDOW)
        if last > sent:
            connection.sendall(messages(sent % ROUND, last - sent))
            sent = last
        if rate and (ahead := sent / rate - (time.monotonic() - began)) > 0.000_2:
            time.sleep(ahead)
        done += acknowledged()


def run(case, count, rate, gateway):
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
                acknowledged = Reader(connection).count_stored
            else:
                common.wait_until_listening(mqtt_port)
                leave_session(mqtt_port)
                connection, encode = connect_mqtt(mqtt_port), mqtt_publish
                acknowledged = Reader(connection).count_pubacks
            messages = once(encode)
            publish(connection, count // 10, messages, acknowledged, rate)
            before = [common.cpu_seconds(process.pid) for process in processes]
            began = time.monotonic()
            publish(connection, count, messages, acknowledged, rate)
            seconds = time.monotonic() - began
            cpu = [common.cpu_seconds(process.pid) - was for process, was in zip(processes, before)]
            return {"case": case, "at": rate, "messages": count, "seconds": seconds, "nats_cpu_s": cpu[0],
                    "gateway_cpu_s": sum(cpu[1:]), "nats_rss": common.rss_bytes(processes[0].pid)}
        finally:
            for process in reversed(processes):
                process.send_signal(signal.SIGTERM)
                process.wait(60)


def table(rows):
    lines = ["| case | nats-server | gateway | together | nats-server, MiB | messages a second | against nats |",
             "|---" * 7 + "|"]
    base = rows[0]["messages"] / rows[0]["seconds"]
    for row in rows:
        million = row["messages"] / 1e6
        nats, gateway, rate = (row["nats_cpu_s"] / million, row["gateway_cpu_s"] / million,
                               row["messages"] / row["seconds"])
        lines.append(f"| {row['case']} | {nats:.1f} | {gateway:.1f} | {nats + gateway:.1f} "
                     f"| {row['nats_rss'] / 2**20:,.0f} | {rate:,.0f} | {rate / base:.2f} |")
    return "\n".join(lines) + "\n"


def summary(rows):
    text = "CPU seconds a million messages, and memory of nats-server at the end.\n"
    for rate in RATES:
        at = f"At {rate:,} messages a second" if rate else "As fast as it goes"
        text += f"\n{at}:\n\n" + table([row for row in rows if row["at"] == rate])
    return text


def main():
    output = pathlib.Path(sys.argv[1])
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    gateway = sys.argv[3] if len(sys.argv) > 3 else common.ROOT / "target/release/gateway"
    output.mkdir(parents=True, exist_ok=True)
    rows = []
    with (output / "raw.jsonl").open("w") as lines:
        for rate, case in itertools.product(RATES, CASES):
            rows.append(run(case, count, rate, gateway))
            lines.write(json.dumps(rows[-1]) + "\n")
            lines.flush()
    (output / "summary.md").write_text(summary(rows))
    print((output / "summary.md").read_text())


if __name__ == "__main__":
    main()
