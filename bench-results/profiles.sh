#!/usr/bin/env bash
# Runs a fleet of each device profile against each kind of broker, and a storm: is the contract held?
#
# Usage: bench-results/profiles.sh OUTPUT_FOLDER [embedded|jetstream|mosquitto]...
#   DEVICES=15000 SECONDS_EACH=60 RATE=1500 PROFILES="..." in the environment
#
# Needs `make build` and `make tools`. Each broker is started anew for each run and runs alone (they
# stand in brokers-alone.sh). Back ends send commands to the devices, QoS 1, each device has a will
# (WILLS=no: none); a profile's times in seconds are divided by the factor in the table, links are as
# they are. Writes a report of each run, raw.jsonl (results without what happened each second) and summary.md; the
# README is written by hand. Exits with 1 if a contract was not held.
set -euo pipefail
cd "$(dirname "$0")/.."

output=${1:?usage: bench-results/profiles.sh OUTPUT_FOLDER [embedded|jetstream|mosquitto]...}
shift
brokers=("$@")
[ "${#brokers[@]}" -gt 0 ] || brokers=(embedded jetstream mosquitto)
devices=${DEVICES:-15000}
seconds=${SECONDS_EACH:-60}
rate=${RATE:-1500}
profiles=${PROFILES:-factory-wired home-wifi car-lte tracker-ltem lorawan-gateway meter-nbiot}
wills=--wills
[ "${WILLS:-yes}" = yes ] || wills=
source bench-results/brokers-alone.sh

# The factor that brings a few sleeps, outages and power cuts of each device kind into the run.
declare -A factors=([factory-wired]=10 [home-wifi]=20 [car-lte]=20 [tracker-ltem]=20
    [lorawan-gateway]=20 [meter-nbiot]=20)

mkdir -p "$output"
: >"$output/raw.jsonl"
status=0
for broker in "${brokers[@]}"; do
    for case in $profiles storm; do
        profile=$case workload=commands
        [ "$case" != storm ] || { profile=home-wifi workload=storm; }
        start "$broker"
        target/release/loadgen run --broker "mqtt://127.0.0.1:$port" --broker-name "$broker" \
            --profile "$profile" --workload "$workload" --devices "$devices" --qos 1 \
            --rate "$rate" --connect-rate 1500 --back-ends 2 --duration "${seconds}s" \
            --compress "${factors[$profile]}" $wills --watch-pid "${pids[-1]}" --quiet \
            --out "$scratch/run" >"$scratch/said" || status=1
        tail -n 3 "$scratch/said"
        target/release/loadgen report "$scratch/run" --out "$output/$broker-$case.html"
        python3 -c '
import json, sys
result = json.load(open(sys.argv[1]))
result.pop("series", None)
result["fleet"]["phases"] = [{"name": phase.get("name"), "counts": phase["counts"]}
                             for phase in result["fleet"]["phases"]]
for host in result["hosts"]:
    host.pop("points")
for process in result["processes"]:
    points = process.pop("points")
    process["cpu_s"] = round(points[-1]["cpu_s"] - points[0]["cpu_s"], 2)
result["case"] = sys.argv[2]
print(json.dumps(result, separators=(",", ":")))' "$scratch/run/result.json" "$case" >>"$output/raw.jsonl"
        stop
    done
done

python3 - "$output" <<'PYTHON'
import json, sys
folder = sys.argv[1]
rows, storms = [], []
for line in open(f"{folder}/raw.jsonl"):
    r = json.loads(line)
    ledger, counts = r["ledger"], r["fleet"]["counts"]
    cpu_s = next(p["cpu_s"] for p in r["processes"] if p["role"] == "broker")
    storms += [(r["run"]["broker_name"], *(f"{s[t]:.2f}" for t in ("t50_s", "t90_s", "t99_s", "t100_s")))
               for s in r["storms"]]
    connects = sum(p["counts"]["connects"] for p in r["fleet"]["phases"])
    rows.append((r["run"]["broker_name"], r["case"], r["verdict"]["outcome"], connects,
                 ledger["owed"], ledger["lost"], ledger["duplicated"], ledger["reordered"],
                 ledger["sessions_lost"], counts["wills_owed"],
                 ledger["wills_missing"], ledger["wills_unexpected"], f"{cpu_s:.1f}"))
with open(f"{folder}/summary.md", "w") as out:
    head = ("broker", "fleet", "verdict", "CONNECTs", "owed", "lost", "again", "out of order",
            "sessions lost", "wills owed", "missing", "unexpected", "CPU-s of the broker")
    print("| " + " | ".join(head) + " |", file=out)
    print("|---|---|---|" + "---:|" * (len(head) - 3), file=out)
    for row in rows:
        print("| " + " | ".join(f"{c:,}" if isinstance(c, int) else str(c) for c in row) + " |", file=out)
    if storms:
        print("\nSeconds after the power is back until so many of the devices are:\n", file=out)
        print("| broker | half | 90 % | 99 % | all |\n|---|---:|---:|---:|---:|", file=out)
        for storm in storms:
            print("| " + " | ".join(storm) + " |", file=out)
PYTHON
exit "$status"
