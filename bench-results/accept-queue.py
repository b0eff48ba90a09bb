#!/usr/bin/env python3
"""What net.core.somaxconn and net.ipv4.tcp_max_syn_backlog are worth in a reconnect storm.

Usage: bench-results/accept-queue.py OUTPUT_FOLDER [GATEWAY] [DEVICES] [REPETITIONS]

Needs `make build` (or a GATEWAY), root for a network namespace of its own, where the settings are, and
`ulimit -n` above DEVICES (default 12,000). All devices connect at once, as after a power cut: none waits for
another, which `loadgen storm` does. The gateway stands still (SIGSTOP) until two seconds after the last
has begun, as one does that starts or is busy with others. Settings alternate. Counted by the kernel: connections
that found a queue full, and SYN cookies; by the devices: how long until CONNACK from when the gateway goes on. Writes raw.jsonl and summary.md.
"""

import errno
import json
import os
import pathlib
import resource
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PORT = 1883
STILL_S = 2.0
PATIENCE_S = 60.0
# Name, somaxconn, tcp_max_syn_backlog; the first line is what Debian has.
SETTINGS = (("default", 4096, 2048), ("syn_backlog", 4096, 65535), ("somaxconn", 65535, 2048), ("both", 65535, 65535))
COUNTERS = ("ListenOverflows", "ListenDrops", "SyncookiesSent", "TCPReqQFullDrop")


def set_kernel(key, value):
    pathlib.Path("/proc/sys", *key.split(".")).write_text(f"{value}\n")


def counters():
    lines = pathlib.Path("/proc/net/netstat").read_text().splitlines()
    names, values = next((a.split(), b.split()) for a, b in zip(lines[::2], lines[1::2]) if a.startswith("TcpExt:"))
    found = dict(zip(names[1:], map(int, values[1:])))
    return {name: found[name] for name in COUNTERS}


def connect_packet(number):
    name = f"device-{number}".encode()
    body = b"\0\4MQTT\4\2\0\0" + len(name).to_bytes(2, "big") + name
    return bytes([0x10, len(body)]) + body


class Device:
    def __init__(self, number, selector):
        self.number, self.selector, self.socket = number, selector, None
        self.open()

    def open(self):
        self.socket = socket.socket()
        self.socket.setblocking(False)
        result = self.socket.connect_ex(("127.0.0.1", PORT))
        assert result in (0, errno.EINPROGRESS), os.strerror(result)
        self.selector.register(self.socket, selectors.EVENT_WRITE, self)

    def step(self):
        """Goes on as far as it can; whether CONNACK is there."""
        try:
            if self.selector.get_key(self.socket).events == selectors.EVENT_WRITE:
                self.socket.send(connect_packet(self.number))
                self.selector.modify(self.socket, selectors.EVENT_READ, self)
                return False
            answer = self.socket.recv(4)
        except OSError:
            answer = b""
        self.selector.unregister(self.socket)
        if answer == b"\x20\x02\0\0":
            return True
        # Refused or reset: again, as devices do.
        self.socket.close()
        self.open()
        return False


def storm(gateway, devices):
    """Seconds from when the gateway goes on to each CONNACK."""
    selector = selectors.EpollSelector()
    gateway.send_signal(signal.SIGSTOP)
    all_devices = [Device(number, selector) for number in range(devices)]
    opened, began = time.monotonic(), None
    times = []
    while len(times) < devices and time.monotonic() - opened < PATIENCE_S:
        if began is None and time.monotonic() - opened >= STILL_S:
            gateway.send_signal(signal.SIGCONT)
            began = time.monotonic()
        for key, _ in selector.select(0.05):
            if key.data.step():
                times.append(time.monotonic() - began)
    for device in all_devices:
        device.socket.close()
    return times


def run(binary, name, somaxconn, syn_backlog, devices):
    set_kernel("net.core.somaxconn", somaxconn)
    set_kernel("net.ipv4.tcp_max_syn_backlog", syn_backlog)
    with tempfile.TemporaryDirectory() as folder:
        gateway = subprocess.Popen(
            [binary, "--listen", f"mqtt://127.0.0.1:{PORT}", "--admin", "none", "--data", f"{folder}/data",
             "--durability", "memory", "--log", "error", "--limit", f"connections_max={devices + 1000}"],
            stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 30
            while socket.socket().connect_ex(("127.0.0.1", PORT)) != 0 and time.monotonic() < deadline:
                time.sleep(0.05)
            before = counters()
            times = storm(gateway, devices)
            counted = {key: value - before[key] for key, value in counters().items()}
        finally:
            gateway.kill()
            gateway.wait()
    at = lambda share: round(times[min(len(times) - 1, int(share * len(times)))], 2) if times else None
    return {"setting": name, "somaxconn": somaxconn, "syn_backlog": syn_backlog, "connected": len(times),
            "median_s": at(0.5), "p99_s": at(0.99), "last_s": at(1.0), **counted}


def summary(rows, devices):
    text = [f"{devices:,} devices connect at once to a gateway that stands still until {STILL_S:.0f} s after the last has begun. Medians of the runs, lowest "
            "and highest in parentheses.", "",
            "| somaxconn | tcp_max_syn_backlog | found the accept queue full | SYN cookies | connected | CONNACK median, s | p99, s | last, s |",
            "|---:|---:|---:|---:|---:|---:|---:|---:|"]

    def spread(values):
        return f"{statistics.median(values):g} ({min(values):g} to {max(values):g})"

    for name, somaxconn, syn_backlog in SETTINGS:
        some = [row for row in rows if row["setting"] == name]
        cells = [spread([row[key] for row in some]) for key in
                 ("ListenOverflows", "SyncookiesSent", "connected", "median_s", "p99_s", "last_s")]
        text.append(f"| {somaxconn} | {syn_backlog} | " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def main():
    if os.environ.get("IN_NAMESPACE") != "1":
        os.environ["IN_NAMESPACE"] = "1"
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    set_kernel("net.ipv4.ip_local_port_range", "1024 65535")
    output = pathlib.Path(sys.argv[1])
    binary = sys.argv[2] if len(sys.argv) > 2 else ROOT / "target/release/gateway"
    devices = int(sys.argv[3]) if len(sys.argv) > 3 else 12_000
    repetitions = int(sys.argv[4]) if len(sys.argv) > 4 else 5
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    output.mkdir(parents=True, exist_ok=True)
    rows = []
    with open(output / "raw.jsonl", "w") as raw:
        for _ in range(repetitions):
            for setting in SETTINGS:
                rows.append(run(binary, *setting, devices))
                print(json.dumps(rows[-1]), file=raw, flush=True)
                print(json.dumps(rows[-1]), flush=True)
    (output / "summary.md").write_text(summary(rows, devices))


if __name__ == "__main__":
    main()
