#!/usr/bin/env python3
"""Measures what idle connections cost the gateway: memory, CPU, and what is left when they are gone.

Usage: bench-results/idle.py OUTPUT_FOLDER [CONNECTIONS]

Needs `make build` and `ulimit -n` above CONNECTIONS (default 19,000). Starts a fresh gateway for each
case, with 1 and 2 shards, without and with a QoS 1 subscription a connection, and has `loadgen idle`
connect, hold and disconnect twice: in the second round freed memory is used again. The gateway runs
in its default configuration. Writes raw.jsonl
(one loadgen result a line, with its case) and summary.md into OUTPUT_FOLDER.
"""

import json
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
GATEWAY = ROOT / "target/release/gateway"
LOADGEN = ROOT / "target/release/loadgen"
CASES = [(shards, subscribe) for subscribe in ("none", "own") for shards in (1, 2)]
LIMIT_BYTES = {"none": 512, "own": 1_024}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_listening(port):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"nothing listens on port {port}")


def start_gateway(folder, shards):
    port = free_port()
    command = [GATEWAY, "--listen", f"mqtt://127.0.0.1:{port}", "--data", f"{folder}/gateway-{shards}",
               "--shards", str(shards), "--log", "error"]
    process = subprocess.Popen(command)
    wait_until_listening(port)
    return process, port


def run(shards, subscribe, connections):
    with tempfile.TemporaryDirectory() as folder:
        process, port = start_gateway(folder, shards)
        output = pathlib.Path(folder) / "result.json"
        try:
            subprocess.run(
                [LOADGEN, "idle", "--target", f"127.0.0.1:{port}", "--watch-pid", str(process.pid),
                 "--connections", str(connections), "--subscribe", subscribe, "--seconds", "5",
                 "--rounds", "2", "--json", output],
                stdout=subprocess.DEVNULL, timeout=300, check=False)
            return json.loads(output.read_text())
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def mebibytes(count):
    return f"{count / (1 << 20):.1f}"


def summary(rows, connections):
    text = [f"{connections:,} connections. RSS in MiB; bytes a connection are RSS held less RSS empty.", "",
            "| shards | subscription | empty | held | after | held, round 2 | after, round 2 "
            "| bytes a connection | limit | idle CPU % | descriptors before / after |",
            "|---" * 11 + "|"]
    for (shards, subscribe), result in rows:
        first, second = result["rounds"]
        text.append("| " + " | ".join([
            str(shards), subscribe,
            *(mebibytes(usage["rss_bytes"]) for usage in
              (first["before"], first["held"], first["after"], second["held"], second["after"])),
            f"{first['rss_bytes_per_connection']:.0f}", str(LIMIT_BYTES[subscribe]),
            f"{first['idle_cpu_percent']:.2f} / {second['idle_cpu_percent']:.2f}",
            f"{first['before']['fds']} / {second['after']['fds']}"]) + " |")
    return "\n".join(text) + "\n"


def main():
    output = pathlib.Path(sys.argv[1])
    connections = int(sys.argv[2]) if len(sys.argv) > 2 else 19_000
    output.mkdir(parents=True, exist_ok=True)
    rows = []
    with (output / "raw.jsonl").open("w") as lines:
        for case in CASES:
            result = run(*case, connections)
            rows.append((case, result))
            lines.write(json.dumps({"shards": case[0], "subscribe": case[1], "result": result}) + "\n")
            lines.flush()
    (output / "summary.md").write_text(summary(rows, connections))
    print((output / "summary.md").read_text())


if __name__ == "__main__":
    main()
