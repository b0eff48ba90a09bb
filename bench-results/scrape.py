#!/usr/bin/env python3
"""Whether what the gateway says of itself is true under a fleet and a storm, and what asking costs.

Usage: bench-results/scrape.py OUTPUT_FOLDER [DEVICES] [PAIRS]

Needs `make build` and `ulimit -n` above DEVICES (default 15,000). Runs a storm (all devices lose power and
come back) PAIRS times without and with somebody who asks for the status page and all it asks for, /metrics and
a page of clients every second, each on a gateway of its own, in turn. Of the runs with:
holds the gateway's counters, in /metrics and in the page's overview, against the load generator's, which count on
the other end of the wire. Of
all: latency of the acknowledgement and CPU of the gateway. Writes raw.jsonl and summary.md.
"""

import json
import pathlib
import re
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
GATEWAY = ROOT / "target/release/gateway"
LOADGEN = ROOT / "target/release/loadgen"
ASKED = ("/", "/metrics", "/api/v1/overview", "/api/v1/clients?limit=100", "/api/v1/slowest", "/api/v1/talkers")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return answer.read().decode()


def wait_until_ready(port):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            get(port, "/metrics")
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"nothing answers on port {port}")


class Asker(threading.Thread):
    """Asks every second, and keeps how long each answer took and the most clients it was told of."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port, self.over, self.took_ms, self.connected_max = port, threading.Event(), [], 0

    def run(self):
        while not self.over.wait(1.0):
            for path in ASKED:
                began = time.monotonic()
                answer = get(self.port, path)
                self.took_ms.append((time.monotonic() - began) * 1_000)
                if path == "/metrics":
                    self.connected_max = max(self.connected_max, total(answer, "gateway_connections"))


def total(metrics, name, **labels):
    """The sum of a metric's series that have these labels."""
    value = 0.0
    for line in metrics.splitlines():
        match = re.fullmatch(rf"{name}(?:{{(.*)}})? (\S+)", line)
        if match and all(f'{key}="{wanted}"' in (match[1] or "") for key, wanted in labels.items()):
            value += float(match[2])
    return int(value)


def run(devices, asks):
    with tempfile.TemporaryDirectory() as folder:
        port, admin = free_port(), free_port()
        gateway = subprocess.Popen(
            [GATEWAY, "--listen", f"mqtt://127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}",
             "--data", f"{folder}/data", "--log", "error"])
        try:
            wait_until_ready(admin)
            asker = Asker(admin)
            if asks:
                asker.start()
            out = f"{folder}/run"
            subprocess.run(
                [LOADGEN, "run", "--broker", f"mqtt://127.0.0.1:{port}", "--workload", "storm", "--profile",
                 "home-wifi", "--devices", str(devices), "--rate", "1500", "--connect-rate", "1500",
                 "--qos", "1", "--duration", "30s", "--wills", "--watch-pid", str(gateway.pid), "--quiet",
                 "--out", out],
                stdout=subprocess.DEVNULL, check=False)
            asker.over.set()
            if asks:
                asker.join()
            metrics, overview = get(admin, "/metrics"), json.loads(get(admin, "/api/v1/overview"))
            result = json.loads(pathlib.Path(f"{out}/result.json").read_text())
            return row(result, metrics, overview, asks, asker)
        finally:
            gateway.send_signal(signal.SIGTERM)
            gateway.wait(60)


def row(result, metrics, overview, asks, asker):
    phases = {phase["name"]: phase for phase in result["fleet"]["phases"]}
    counts = [phase["counts"] for phase in phases.values()]
    broker = next(process for process in result["processes"] if process["role"] == "broker")
    points = broker["points"]
    return {
        "asks": asks,
        "verdict": result["verdict"]["outcome"],
        "cpu_s": points[-1]["cpu_s"] - points[0]["cpu_s"],
        "acknowledgement": {name: {key: phases[name]["acknowledgement"][key]
                                   for key in ("p50_us", "p99_us", "p999_us")}
                            for name in ("steady", "recover")},
        "loadgen": {
            "connected": sum(group["devices"] for group in result["run"]["groups"]),
            "connects": sum(count["connects"] for count in counts),
            "published": sum(count["published"] for count in counts),
            "wills": result["fleet"]["counts"]["wills_owed"],
            "delivered": sum(count["delivered"] for count in counts),
            "duplicated": result["ledger"]["duplicated"],
        },
        "gateway": {
            "connected_max": asker.connected_max,
            "connects": total(metrics, "gateway_connects_total"),
            "published": total(metrics, "gateway_publish_received_total"),
            "delivered": total(metrics, "gateway_publish_sent_total"),
        },
        "page": {
            "connects": sum(shard["connects"] for shard in overview["shards"]),
            "published": sum(sum(shard["publish_received"]) for shard in overview["shards"]),
        },
        "answer_ms": {"median": statistics.median(asker.took_ms), "max": max(asker.took_ms)} if asks else None,
    }


def summary(rows):
    text = ["Medians of the runs, lowest and highest in parentheses.", "",
            "| asked every second | verdicts | gateway CPU-s | PUBACK p99, steady, ms | PUBACK p99, after the storm, ms |",
            "|---|---|---:|---:|---:|"]

    def spread(values):
        return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"

    for asks in (False, True):
        some = [one for one in rows if one["asks"] is asks]
        p99 = [[one["acknowledgement"][name]["p99_us"] / 1_000 for one in some] for name in ("steady", "recover")]
        text.append(f"| {'yes' if asks else 'no'} | {', '.join(one['verdict'] for one in some)} "
                    f"| {spread([one['cpu_s'] for one in some])} | {spread(p99[0])} | {spread(p99[1])} |")
    text += ["", "What the gateway counted, and what the load generator did, in each run with questions. A half-open "
             "connection counts until its device is back; what was sent to it nobody hears, and it is sent again.", "",
             "| connections at most, of | CONNECT in /metrics, on the page, of | PUBLISH in, on the page, of | PUBLISH out, of them heard "
             "| an answer takes, ms, median and longest |", "|---|---|---|---|---|"]
    for one in (one for one in rows if one["asks"]):
        gateway, page, loadgen, answer = one["gateway"], one["page"], one["loadgen"], one["answer_ms"]
        text.append(
            f"| {gateway['connected_max']:,} of {loadgen['connected']:,} | {gateway['connects']:,}, {page['connects']:,} of {loadgen['connects']:,} "
            f"| {gateway['published']:,}, {page['published']:,} of {loadgen['published']:,} "
            f"| {gateway['delivered']:,}, {loadgen['delivered'] + loadgen['duplicated'] + loadgen['wills']:,} "
            f"| {answer['median']:.1f}, {answer['max']:.1f} |")
    return "\n".join(text) + "\n"


def main():
    output = pathlib.Path(sys.argv[1])
    devices = int(sys.argv[2]) if len(sys.argv) > 2 else 15_000
    pairs = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    output.mkdir(parents=True, exist_ok=True)
    rows = []
    with open(output / "raw.jsonl", "w") as raw:
        for _ in range(pairs):
            for asks in (False, True):
                rows.append(run(devices, asks))
                print(json.dumps(rows[-1]), file=raw, flush=True)
                print(json.dumps(rows[-1]), flush=True)
    (output / "summary.md").write_text(summary(rows))


if __name__ == "__main__":
    main()
