#!/usr/bin/env bash
# Upgrades a gateway twice while a fleet on plain TCP uses it: nobody may be disconnected, nothing lost.
#
# Usage: bench-results/upgrade.sh OUTPUT_FOLDER [DEVICES] [SECONDS]
#
# Needs `make build`; BINARIES=target/debug takes others. Devices are pairs on a wire that nothing
# disturbs, QoS 1 and then 2, RATE messages a second (a tenth of the devices). A process has a
# descriptor a device, in gateway and loadgen. Writes raw.jsonl, a line a run, and summary.md; ends with
# an error if a run was not clean. The README is written by hand.
set -euo pipefail
cd "$(dirname "$0")/.."

output=${1:?usage: bench-results/upgrade.sh OUTPUT_FOLDER [DEVICES] [SECONDS]}
devices=${2:-15000}
seconds=${3:-60}
binaries=${BINARIES:-target/release}
rate=${RATE:-$((devices / 10 + 1))}
mkdir -p "$output"

scratch=$(mktemp -d)
processes=()
stop() {
    trap - EXIT
    for process in "${processes[@]}"; do kill "$process" 2>/dev/null || true; done
    wait || true
    rm -rf "$scratch"
}
trap stop EXIT

port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# The devices of a factory without its faults.
"$binaries/loadgen" profiles factory-wired \
    | awk '/^\[/ { skip = /outage|site/ } !skip' | sed 's/^keep_alive_s = .*/keep_alive_s = 30.0/' \
    > "$scratch/profile.toml"

connected() {
    curl --silent --max-time 5 "http://127.0.0.1:$admin/metrics" \
        | awk '/^gateway_connections\{.*state="connected"/ { sum += $NF } END { print sum + 0 }'
}

upgrade() {
    local began ended said
    began=$(date +%s%N)
    said=$("$binaries/gateway" upgrade --data "$data")
    ended=$(date +%s%N)
    # From now on it is this one that has to be ended.
    processes[0]=$(sed -n 's/^upgraded: process \([0-9]*\) .*/\1/p' <<<"$said")
    whole+=("$(((ended - began) / 1000000))")
}

: > "$output/raw.jsonl"
for qos in 1 2; do
    port=$(port) admin=$(port) data="$scratch/data-$qos" whole=()
    "$binaries/gateway" --listen "mqtt://127.0.0.1:$port" --admin "127.0.0.1:$admin" --data "$data" \
        --log-format json 2>"$scratch/log" &
    processes=("$!")
    until curl --silent --fail "http://127.0.0.1:$admin/readyz" >/dev/null; do sleep 0.1; done
    "$binaries/loadgen" run --broker "mqtt://127.0.0.1:$port" --profile "$scratch/profile.toml" \
        --workload p2p --devices "$devices" --qos "$qos" --rate "$rate" --duration "${seconds}s" \
        --connect-rate 1000 --wills --out "$scratch/run-$qos" > "$scratch/said-$qos" 2>&1 &
    load=$!
    processes+=("$load")
    until [ "$(connected)" -ge "$devices" ]; do
        kill -0 "$load" || { cat "$scratch/said-$qos" >&2; exit 1; }
        sleep 0.2
    done
    sleep "$((seconds / 4))"
    upgrade
    sleep "$((seconds / 4))"
    upgrade
    verdict=0
    wait "$load" || verdict=$?
    kill "${processes[0]}"
    # How long clients waited: from when none was read to when the new process listened.
    python3 - "$scratch" "$qos" "$devices" "$verdict" "${whole[@]}" >> "$output/raw.jsonl" <<'PYTHON'
import datetime, json, sys
scratch, qos, devices, verdict = sys.argv[1], *map(int, sys.argv[2:5])
at = lambda line: datetime.datetime.fromisoformat(line["timestamp"].replace("Z", "+00:00"))
pauses, began = [], None
for line in map(json.loads, open(f"{scratch}/log")):
    text = line.get("fields", line).get("message", "")
    if "clients that cannot move" in text:
        began = at(line)
    if text == "listening" and began:
        pauses.append(round((at(line) - began).total_seconds() * 1000))
        began = None
result = json.load(open(f"{scratch}/run-{qos}/result.json"))
print(json.dumps({
    "qos": qos, "devices": devices, "exit_code": verdict, "upgrade_ms": list(map(int, sys.argv[5:])),
    "pause_ms": pauses, "result": result,
}))
PYTHON
done

python3 - "$output" <<'PYTHON'
import json, sys
rows = [json.loads(line) for line in open(f"{sys.argv[1]}/raw.jsonl")]
def find(value, key):
    if isinstance(value, dict):
        if key in value and not isinstance(value[key], (dict, list)):
            return value[key]
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            found = find(one, key)
            if found is not None:
                return found
with open(f"{sys.argv[1]}/summary.md", "w") as out:
    print("| QoS | devices | upgrade, ms | clients waited, ms | connections lost | lost, duplicated | exit code |", file=out)
    print("|---|---|---|---|---|---|---|", file=out)
    for row in rows:
        lost = find(row["result"], "connections_lost")
        books = [find(row["result"], key) for key in ("lost", "duplicated")]
        row["clean"] = row["exit_code"] == 0 and lost == 0 and len(row["pause_ms"]) == 2
        print(f'| {row["qos"]} | {row["devices"]} | {row["upgrade_ms"]} | {row["pause_ms"]} | {lost} | {books} | {row["exit_code"]} |', file=out)
print(open(f"{sys.argv[1]}/summary.md").read())
sys.exit(0 if all(row["clean"] for row in rows) else 1)
PYTHON
