#!/usr/bin/env bash
# Measures the memory of idle connections on TLS, and on TCP beside it, for the gateway and mosquitto.
#
# Usage: bench-results/tls-idle.sh OUTPUT_FOLDER [CONNECTIONS] [REPETITIONS]
#
# Needs `make build`, mosquitto, openssl, and `ulimit -n` above CONNECTIONS (default 15,000) by 100. BROKERS
# names others than "gateway mosquitto". Each broker is started anew for each run. `loadgen idle` connects
# 1,000 a second, holds for 10 s, and disconnects, twice: what is left after the first round is used again
# in the second. Writes raw.jsonl and summary.md; the README is written by hand.
set -euo pipefail
cd "$(dirname "$0")/.."
output=${1:?usage: bench-results/tls-idle.sh OUTPUT_FOLDER [CONNECTIONS] [REPETITIONS]}
connections=${2:-15000}
repetitions=${3:-5}
source bench-results/tls-brokers.sh

ulimit -n "$(ulimit -Hn)"
mkdir -p "$output"
make_certificates
: >"$output/raw.jsonl"
for repetition in $(seq "$repetitions"); do
    for broker in ${BROKERS:-gateway mosquitto}; do
        for scheme in mqtt mqtts; do
            start_broker "$broker" "$scheme"
            flags=()
            [ "$scheme" = mqtt ] || flags=(--tls-ca "$scratch/ca.pem")
            status=0
            target/release/loadgen idle --quiet --broker "$broker_url" "${flags[@]}" --watch-pid "$broker_pid" \
                --connections "$connections" --connect-rate 1000 --seconds 10 --rounds 2 \
                --connect-timeout-s 600 --json "$scratch/idle.json" >/dev/null || status=$?
            stop_broker
            # A run that lost connections (3) is a finding; what could not be made is none.
            case $status in 0 | 3) ;; *) exit "$status" ;; esac
            python3 - "$scratch/idle.json" "$broker" "$scheme" "$repetition" "$status" >>"$output/raw.jsonl" <<'PYTHON'
import json
import sys

path, broker, scheme, repetition, status = sys.argv[1:]
print(json.dumps({"broker": broker, "scheme": scheme, "repetition": int(repetition),
                  "exit_code": int(status), "result": json.load(open(path))}))
PYTHON
        done
    done
done

python3 - "$output" "$connections" <<'PYTHON'
import json
import pathlib
import statistics
import sys

output, connections = pathlib.Path(sys.argv[1]), int(sys.argv[2])
runs = {}
for line in (output / "raw.jsonl").read_text().splitlines():
    run = json.loads(line)
    runs.setdefault((run["broker"], run["scheme"]), []).append(run)


def spread(values):
    return f"{statistics.median(values):,.0f} [{min(values):,.0f} .. {max(values):,.0f}]"


def each(run, number):
    """Bytes a connection: what is resident and no file, held less before the first."""
    rounds = run["result"]["rounds"]
    grown = rounds[number]["held"]["rss_anonymous_bytes"] - rounds[0]["before"]["rss_anonymous_bytes"]
    return grown / connections


text = [f"{connections:,} idle connections without a subscription. Bytes a connection are of the broker's own memory "
        "(RssAnon), held less before the first; the kernel's sockets are not in them. Median [lowest .. highest].", "",
        "| broker | over | runs | bytes a connection | in the second round | CPU-s per 1,000 connects "
        "| handshakes full, resumed | lost |", "|---" * 8 + "|"]
for (broker, scheme), group in runs.items():
    rounds = [run["result"]["rounds"] for run in group]
    cpu = [each_round["cpu_s_per_1000_connects"] for pair in rounds for each_round in pair[:1]]
    full = sum(one["tls_full"] for pair in rounds for one in pair)
    resumed = sum(one["tls_resumed"] for pair in rounds for one in pair)
    lost = sum(one["connections_lost"] for pair in rounds for one in pair)
    text.append(f"| {broker} | {'TLS' if scheme == 'mqtts' else 'TCP'} | {len(group)} "
                f"| {spread([each(run, 0) for run in group])} | {spread([each(run, 1) for run in group])} "
                f"| {statistics.median(cpu):.3f} [{min(cpu):.3f} .. {max(cpu):.3f}] | {full:,}, {resumed:,} | {lost:,} |")
(output / "summary.md").write_text("\n".join(text) + "\n")
print("\n".join(text))
PYTHON
