#!/usr/bin/env python3
"""Measures what a fleet with subscriptions of its own costs nats-server and the gateway on JetStream.

Usage: bench-results/jetstream-idle.py OUTPUT_FOLDER [CONNECTIONS [GATEWAY LOADGEN]]

Needs `make build`, `make tools` and `ulimit -n` above CONNECTIONS (default 19,000). Starts, for each case,
fresh nats-servers (three sub-clusters of one) and a gateway with one shard, and has `loadgen idle` connect,
hold for 15 seconds (the second look for retained messages comes after 10) and disconnect, twice. Cases:
no subscription, a QoS 1 subscription of its own a connection, and that with 10,000 messages retained on
other topics. CPU of nats-server is counted over all of it and divided by the subscriptions of both
rounds; its memory is the largest seen. Writes raw.jsonl and summary.md into OUTPUT_FOLDER.
"""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SERVER = ROOT / ".tools/python/bin/nats-server"
CASES = [("none", 0), ("own", 0), ("own", 10_000)]
ROUNDS = 2
TICKS = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_listening(port):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"nothing listens on port {port}")


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_bytes(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def start_server(folder, name):
    port = free_port()
    process = subprocess.Popen(
        [SERVER, "--addr", "127.0.0.1", "--port", str(port), "--server_name", name, "--jetstream",
         "--store_dir", f"{folder}/{name}", "--log", f"{folder}/{name}.log"])
    wait_until_listening(port)
    return process, port


def start_gateway(gateway, folder, servers, *flags):
    port = free_port()
    command = [gateway, "--listen", f"mqtt://127.0.0.1:{port}", "--data", f"{folder}/gateway",
               "--shards", "1", "--log", "error", *flags]
    for name, (_, nats_port) in servers.items():
        command += ["--nats", f"{name}=nats://127.0.0.1:{nats_port}"]
    process = subprocess.Popen(command)
    wait_until_listening(port)
    return process, port


def text(value):
    return len(value).to_bytes(2, "big") + value.encode()


def packet(first, body):
    length, digits = len(body), b""
    while True:
        length, digit = divmod(length, 128)
        digits += bytes([digit | (128 if length else 0)])
        if not length:
            return bytes([first]) + digits + body


def retain(port, count):
    """Publishes messages to be retained, QoS 1, and waits for all PUBACKs."""
    with socket.create_connection(("127.0.0.1", port), 60) as client:
        client.settimeout(120)
        client.sendall(packet(0x10, text("MQTT") + bytes([4, 2, 0, 0]) + text("retainer")))
        assert client.recv(4)[3] == 0
        answered = 0
        for first in range(0, count, 500):
            numbers = range(first, min(first + 500, count))
            client.sendall(b"".join(
                packet(0x33, text(f"state/{number:06}") + (number % 60_000 + 1).to_bytes(2, "big") + b"on")
                for number in numbers))
            expected = 4 * len(numbers)
            while expected:
                expected -= len(client.recv(expected))
            answered += len(numbers)
        return answered


def run(gateway, loadgen, subscribe, retained, connections):
    with tempfile.TemporaryDirectory() as folder:
        servers = {name: start_server(folder, name) for name in "abc"}
        node, port = start_gateway(gateway, folder, servers)
        pids = [process.pid for process, _ in servers.values()]
        peak, is_over = [0], threading.Event()

        def watch():
            while not is_over.wait(0.5):
                peak[0] = max(peak[0], sum(map(rss_bytes, pids)))

        try:
            time.sleep(3)
            retain(port, retained)
            time.sleep(3)
            before, rss_before = sum(map(cpu_seconds, pids)), sum(map(rss_bytes, pids))
            threading.Thread(target=watch, daemon=True).start()
            began = time.monotonic()
            output = pathlib.Path(folder) / "result.json"
            subprocess.run(
                [loadgen, "idle", "--target", f"127.0.0.1:{port}", "--watch-pid", str(node.pid),
                 "--connections", str(connections), "--subscribe", subscribe, "--seconds", "15",
                 "--rounds", str(ROUNDS), "--quiet", "--json", output],
                stdout=subprocess.DEVNULL, timeout=500, check=False)
            seconds = time.monotonic() - began
            after = sum(map(cpu_seconds, pids))
            # What the servers take while nothing happens.
            time.sleep(5)
            idle = (sum(map(cpu_seconds, pids)) - after) / 5
            return {
                "subscribe": subscribe, "retained": retained, "connections": connections,
                "nats_cpu_s": after - before - idle * seconds, "nats_idle_cpu": idle, "seconds": seconds,
                "nats_rss_before": rss_before, "nats_rss_peak": peak[0],
                "loadgen": json.loads(output.read_text()),
            }
        finally:
            is_over.set()
            for process in [node] + [process for process, _ in servers.values()]:
                process.send_signal(signal.SIGTERM)
                process.wait(60)


def summary(rows, connections):
    lines = [f"{connections:,} connections, twice. Memory in MiB, of the gateway at the first and second hold.", "",
             "| subscription | retained elsewhere | nats-server CPU, ms a 1,000 SUBSCRIBE | nats-server, before "
             "| at most | gateway, empty | held | after | held, 2 | bytes a connection | 2 |", "|---" * 11 + "|"]
    for row in rows:
        first, second = row["loadgen"]["rounds"]
        count = ROUNDS * connections
        sizes = (row["nats_rss_before"], row["nats_rss_peak"], first["before"]["rss_bytes"],
                 first["held"]["rss_bytes"], first["after"]["rss_bytes"], second["held"]["rss_bytes"])
        lines.append("| " + " | ".join([
            row["subscribe"], f"{row['retained']:,}", f"{row['nats_cpu_s'] / count * 1e6:.1f}",
            *(f"{size / (1 << 20):.1f}" for size in sizes),
            f"{first['rss_bytes_per_connection']:.0f}", f"{second['rss_bytes_per_connection']:.0f}"]) + " |")
    return "\n".join(lines) + "\n"


def main():
    output = pathlib.Path(sys.argv[1])
    connections = int(sys.argv[2]) if len(sys.argv) > 2 else 19_000
    gateway, loadgen = sys.argv[3:5] if len(sys.argv) > 4 else (
        ROOT / "target/release/gateway", ROOT / "target/release/loadgen")
    output.mkdir(parents=True, exist_ok=True)
    rows = []
    with (output / "raw.jsonl").open("w") as lines:
        for subscribe, retained in CASES:
            rows.append(run(gateway, loadgen, subscribe, retained, connections))
            lines.write(json.dumps(rows[-1]) + "\n")
            lines.flush()
    (output / "summary.md").write_text(summary(rows, connections))
    print((output / "summary.md").read_text())


if __name__ == "__main__":
    main()
