#!/usr/bin/env python3
"""Measures the gateway beside mosquitto on the same load, in turns, in one run.

Usage: bench-results/peers.py OUTPUT_FOLDER [REPETITIONS]

Needs `make build` and mosquitto (`make tools`). Starts both brokers on loopback ports, runs every
scenario against each in turn, and writes raw.jsonl (one loadgen result a line, with the scenario and
the broker) and summary.md (medians, minimum and maximum) into OUTPUT_FOLDER.
"""

import json
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
GATEWAY = ROOT / "target/release/gateway"
LOADGEN = ROOT / "target/release/loadgen"

# name, pattern, publishers, subscribers, QoS, load
SCENARIOS = [
    (f"{pattern} QoS {qos} {label}", pattern, publishers, subscribers, qos, load)
    for pattern, publishers, subscribers, rate in [
        ("one-to-one", 50, 50, 10_000),
        ("fan-in", 50, 1, 10_000),
        ("fan-out", 1, 50, 200),
    ]
    for qos in (0, 1)
    for label, load in [("saturated", ["--saturate"]), (f"{rate}/s", ["--rate", str(rate)])]
]


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


def start_gateway(folder, shards, durability="memory"):
    port = free_port()
    command = [GATEWAY, "--listen", f"mqtt://127.0.0.1:{port}", "--data", f"{folder}/gateway-{shards}",
               "--shards", str(shards), "--durability", durability, "--log", "error"]
    process = subprocess.Popen(command)
    wait_until_listening(port)
    return process, port


def start_mosquitto(folder):
    port = free_port()
    config = pathlib.Path(folder) / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
                      "max_inflight_messages 1000\nmax_queued_messages 100000\n")
    process = subprocess.Popen(["mosquitto", "-c", config], stderr=subprocess.DEVNULL)
    wait_until_listening(port)
    return process, port


def run(scenario, process, port):
    name, pattern, publishers, subscribers, qos, load = scenario
    with tempfile.NamedTemporaryFile(suffix=".json") as output:
        subprocess.run(
            [LOADGEN, "bench", "--target", f"127.0.0.1:{port}", "--watch-pid", str(process.pid),
             "--pattern", pattern, "--publishers", str(publishers), "--subscribers", str(subscribers),
             "--qos", str(qos), "--payload-bytes", "256", "--seconds", "3", "--warmup", "1",
             "--json", output.name, *load],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120, check=False)
        return json.loads(pathlib.Path(output.name).read_text())


def main():
    output = pathlib.Path(sys.argv[1])
    repetitions = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        brokers = {
            "mosquitto": start_mosquitto(folder),
            "gateway, 1 shard": start_gateway(folder, 1),
            "gateway, 2 shards": start_gateway(folder, 2),
        }
        try:
            rows = measure(brokers, repetitions, output / "raw.jsonl")
        finally:
            for process, _ in brokers.values():
                process.send_signal(signal.SIGTERM)
                process.wait(20)
    (output / "summary.md").write_text(summary(rows, list(brokers)))
    print((output / "summary.md").read_text())


def measure(brokers, repetitions, raw):
    rows = {}
    with raw.open("w") as lines:
        for scenario in SCENARIOS:
            for repetition in range(repetitions):
                for broker, (process, port) in brokers.items():
                    result = run(scenario, process, port)
                    line = {"scenario": scenario[0], "broker": broker, "repetition": repetition,
                            "load_average": os.getloadavg()[0], "result": result}
                    lines.write(json.dumps(line) + "\n")
                    lines.flush()
                    rows.setdefault((scenario[0], broker), []).append(result)
    return rows


def summary(rows, brokers):
    def figure(results):
        rates = [r["broker"]["deliveries_per_cpu_s"] for r in results]
        return statistics.median(rates), min(rates), max(rates)

    text = ["Deliveries per CPU-second of the broker: median (minimum to maximum); in brackets the",
            "median beside mosquitto's. p99 is the median of the runs, from the intended send time.", "",
            "| scenario | " + " | ".join(brokers) + " | verdicts | p99 ms |",
            "|---" * (len(brokers) + 3) + "|"]
    for scenario, *_ in SCENARIOS:
        base = figure(rows[scenario, brokers[0]])[0]
        cells, verdicts, latency = [], set(), []
        for broker in brokers:
            results = rows[scenario, broker]
            middle, low, high = figure(results)
            cells.append(f"{middle / 1e3:,.0f}k ({low / 1e3:,.0f}-{high / 1e3:,.0f}) [{middle / base:.2f}x]")
            verdicts |= {json.dumps(r["verdict"]).strip('"') for r in results}
            latency.append(f"{statistics.median(r['latency']['p99_us'] for r in results) / 1e3:.1f}")
        text.append(f"| {scenario} | " + " | ".join(cells) + f" | {', '.join(sorted(verdicts))} | {' / '.join(latency)} |")
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    main()
