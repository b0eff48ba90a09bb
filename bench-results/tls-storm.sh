#!/usr/bin/env bash
# A fleet on TLS loses all its connections and comes back at once: how long, what it costs, and what those
# notice who stayed.
#
# Usage: bench-results/tls-storm.sh OUTPUT_FOLDER [DEVICES] [REPETITIONS]
#
# Needs `make build`, openssl, and `ulimit -n` above DEVICES (default 15,000) by 1,000. BROKERS names others than
# "gateway" (mosquitto is the other one), TLS_VERSION 1.2 instead of 1.3, STORM_S the seconds from the reset in
# which those who stay are looked at (DEVICES / 1,000, at least 5). Each broker is started anew for each run.
#
# Every device has a session and a subscription, and is sent messages, 200 a second over all. All are reset in
# the same moment, and dial half a second later; who is refused comes back after 1, 2, 4, ... s. Beside them, from
# another loadgen, so that the handshakes of the fleet are not in its way, 20 clients write to each other, 200
# messages a second, and stay. Three kinds of run: over TCP, over TLS with full handshakes, over TLS with the sessions
# resumed. Devices do not check the certificate: that would be CPU of the generator, which is on the same
# machine and does more than the broker for a handshake as it is; its CPU is in the table, and where it is the larger
# the times are as much its own. CPU of the storm is what was used until everybody was back, and a second more, less
# what was used in the same time before. Writes raw.jsonl and summary.md; the README is written by hand.
set -euo pipefail
cd "$(dirname "$0")/.."
output=${1:?usage: bench-results/tls-storm.sh OUTPUT_FOLDER [DEVICES] [REPETITIONS]}
devices=${2:-15000}
repetitions=${3:-5}
source bench-results/tls-brokers.sh

ulimit -n "$(ulimit -Hn)"
mkdir -p "$output"
make_certificates

# As short as it can be: what those who stayed notice is looked at while it lasts.
storm_s=${STORM_S:-$((devices / 1000 > 5 ? devices / 1000 : 5))}

cat >"$scratch/profile.toml" <<'TOML'
name = "storm-device"
about = "a device on a wire that comes back half a second after it was cut off"
[session]
keep_alive_s = 600.0
clean_start = 0.0
expiry_s = 3600.0
life_s = 0
away_s = 0
disconnect = 1.0
reset = 0.0
[retry]
law = "exponential"
base_s = 0.5
most_s = 30.0
TOML
# phases KIND LINE: those of the run; KIND and LINE are the storm's.
phases() {
    cat <<TOML
[[phase]]
kind = "ramp"
duration_s = $((devices / 1000 + 5))
[[phase]]
kind = "steady"
duration_s = 15
[[phase]]
name = "storm"
kind = "$1"
$2
duration_s = $storm_s
[[phase]]
name = "behind"
kind = "recover"
duration_s = $((3 * storm_s + 15))
TOML
}
cat >"$scratch/storm.toml" <<TOML
name = "tls-storm"
profile = "$scratch/profile.toml"
workload = "commands"
devices = $devices
back_ends = 1
probes = 0
qos = 1
mqtt = "5"
payload_bytes = 64
rate_per_s = 200
connect_per_s = 1000
quiet_s = 20.0
$(phases fault 'fault = "reset"')
TOML
cat >"$scratch/stay.toml" <<TOML
name = "tls-storm, those who stay"
profile = "$scratch/profile.toml"
workload = "p2p"
devices = 20
probes = 0
qos = 1
mqtt = "5"
payload_bytes = 64
rate_per_s = 200
quiet_s = 5.0
$(phases steady '')
TOML

: >"$output/raw.jsonl"
for repetition in $(seq "$repetitions"); do
    for broker in ${BROKERS:-gateway}; do
        for kind in tcp full resumed; do
            flags=()
            case $kind in
            tcp) start_broker "$broker" mqtt ;;
            full | resumed)
                start_broker "$broker" mqtts
                resume=on
                [ $kind = resumed ] || resume=off
                flags=(--tls-insecure --tls-version "${TLS_VERSION:-1.3}" --tls-resume $resume)
                ;;
            esac
            target/release/loadgen run "$scratch/stay.toml" --quiet --broker "$broker_url" "${flags[@]}" \
                --late-share 1 --out "$scratch/stay" >"$scratch/stay.said" &
            stay_pid=$!
            status=0 stay_status=0
            target/release/loadgen run "$scratch/storm.toml" --quiet --broker "$broker_url" "${flags[@]}" \
                --watch-pid "$broker_pid" --late-share 1 --out "$scratch/run" >"$scratch/said" || status=$?
            wait "$stay_pid" || stay_status=$?
            stop_broker
            # A broken contract (2) or a storm that nobody came back from (3) is a finding.
            case $status$stay_status in [023][023]) ;; *) exit 1 ;; esac
            python3 - "$scratch/run/result.json" "$scratch/stay/result.json" "$broker" "$kind" "$repetition" \
                >>"$output/raw.jsonl" <<'PYTHON'
import json
import sys

fleet_path, stay_path, broker, kind, repetition = sys.argv[1:]
result, stayed = json.load(open(fleet_path)), json.load(open(stay_path))
phases = {phase["name"]: phase for phase in result["fleet"]["phases"]}
steady, storm, behind = phases["steady"], phases["storm"], phases["behind"]
stay_phases = {phase["name"]: phase for phase in stayed["fleet"]["phases"]}
times = result["storms"][0]


def cpu_s(points, at_s):
    """CPU-seconds of a process up to a moment, between samples a second apart."""
    before = max((point for point in points if point["at_s"] <= at_s), key=lambda point: point["at_s"])
    after = min((point for point in points if point["at_s"] > at_s), key=lambda point: point["at_s"], default=before)
    if after is before:
        return before["cpu_s"]
    share = (at_s - before["at_s"]) / (after["at_s"] - before["at_s"])
    return before["cpu_s"] + share * (after["cpu_s"] - before["cpu_s"])


def milliseconds(of, what):
    return of[what] / 1000 if of["count"] else None


row = {"broker": broker, "kind": kind, "repetition": int(repetition),
       "verdicts": [result["verdict"], stayed["verdict"]], "hit": storm["counts"]["hit"], "back": storm["counts"]["recovered"],
       **{key: times[key] for key in ("t50_s", "t90_s", "t99_s", "t100_s")},
       "full": sum(phase["tls_full"]["count"] for phase in (storm, behind)),
       "resumed": sum(phase["tls_resumed"]["count"] for phase in (storm, behind)),
       "refused": result["fleet"]["counts"]["refused"], "layer_faults": result["fleet"]["counts"]["layer_faults"],
       "lost": result["ledger"]["lost"] + stayed["ledger"]["lost"],
       "stayed_late_p99_ms": milliseconds(stay_phases["storm"]["lag"], "p99_us")}
for name in ("steady", "storm"):
    for what in ("p50", "p99", "max"):
        row[f"stayed_{name}_{what}_ms"] = milliseconds(stay_phases[name]["latency"], f"{what}_us")
for what in ("tls_full", "tls_resumed", "connack", "connect"):
    for quantile in ("p50", "p99", "max"):
        row[f"{what}_{quantile}_ms"] = milliseconds(storm[what], f"{quantile}_us")
# CPU is sampled once a second: the storm, and a second more, so that what it left to do is in it.
start_s = storm["start_s"]
idle_s = min(10.0, start_s - steady["start_s"] - 1.0)
for role, key in (("broker", "cpu_s_per_1000"), ("generator", "generator_cpu_s_per_1000")):
    points = next(process["points"] for process in result["processes"] if process["role"] == role)
    took_s = points[-1]["at_s"] - start_s
    if times["t100_s"] is not None:
        took_s = min(took_s, times["t100_s"] + 1.0)
    load = (cpu_s(points, start_s) - cpu_s(points, start_s - idle_s)) / idle_s
    used = cpu_s(points, start_s + took_s) - cpu_s(points, start_s)
    row[key] = (used - load * took_s) / max(storm["counts"]["recovered"], 1) * 1000
print(json.dumps(row))
PYTHON
            tail -n 1 "$output/raw.jsonl" | cut -c 1-200 >&2
        done
    done
done

python3 - "$output" "$devices" "${TLS_VERSION:-1.3}" <<'PYTHON'
import json
import pathlib
import statistics
import sys

output, devices, version = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
runs = {}
for line in (output / "raw.jsonl").read_text().splitlines():
    run = json.loads(line)
    runs.setdefault((run["broker"], run["kind"]), []).append(run)


def spread(group, key, digits):
    values = [run[key] for run in group if run[key] is not None]
    if len(values) < len(group):
        return f"never in {len(group) - len(values)}"
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f} .. {max(values):.{digits}f}]"


names = {"tcp": "TCP", "full": f"TLS {version}, full", "resumed": f"TLS {version}, resumed"}
text = [f"{devices:,} devices come back at once, half a second after their connections were reset; the half second is in "
        "the times. ECDSA P-256. Median [lowest .. highest].", "",
        "| broker | kind | runs | t50 s | t90 s | t99 s | t100 s | CPU-s per 1,000 back | the generator's | not back | lost |",
        "|---" * 11 + "|"]
for (broker, kind), group in runs.items():
    text.append(f"| {broker} | {names[kind]} | {len(group)} | "
                + " | ".join(spread(group, key, 2) for key in ("t50_s", "t90_s", "t99_s", "t100_s"))
                + f" | {spread(group, 'cpu_s_per_1000', 3)} | {spread(group, 'generator_cpu_s_per_1000', 3)} | {sum(run['hit'] - run['back'] for run in group)} "
                f"| {sum(run['lost'] for run in group)} |")
text += ["", "Those who stayed, from when a message was due to its delivery, before and in the storm; and what the "
         "handshakes were.", "",
         "| broker | kind | p99 before, ms | p50 in it, ms | p99 in it, ms | longest in it, ms | handshakes full, resumed "
         "| refused, failed | their generator late, p99 ms |", "|---" * 9 + "|"]
for (broker, kind), group in runs.items():
    total = lambda key: f"{sum(run[key] for run in group):,}"
    text.append(f"| {broker} | {names[kind]} | {spread(group, 'stayed_steady_p99_ms', 1)} "
                f"| {spread(group, 'stayed_storm_p50_ms', 1)} | {spread(group, 'stayed_storm_p99_ms', 1)} "
                f"| {spread(group, 'stayed_storm_max_ms', 1)} | {total('full')}, {total('resumed')} "
                f"| {total('refused')}, {total('layer_faults')} | {spread(group, 'stayed_late_p99_ms', 1)} |")
broken = [f"{run['broker']}, {run['kind']}, run {run['repetition']}: {'; '.join(verdict['reasons'])}"
          for group in runs.values() for run in group for verdict in run["verdicts"] if verdict["outcome"] != "held"]
if broken:
    text += ["", "Runs that did not hold:", "", *(f"- {line}" for line in broken)]
(output / "summary.md").write_text("\n".join(text) + "\n")
print("\n".join(text))
PYTHON
