#!/usr/bin/env bash
# Restarts two gateways in turn while a fleet uses them: nothing may be lost, everybody has to come back.
#
# Usage: bench-results/rolling-restart.sh OUTPUT_FOLDER [DEVICES] [SECONDS]
#
# Needs `make build` and `make tools`; BINARIES=target/debug takes others. Sessions and messages are in
# nats-server (--sessions shared); HAProxy stands before the gateways, a process for each 4,500 devices,
# for it has two descriptors a connection. Each gateway is drained and started again, and gets half of
# the other's clients by `gateway rebalance`. Devices are pairs on a wire that nothing else disturbs,
# QoS 1 and then 2, RATE messages a second. Writes raw.jsonl, a line a run, and summary.md; ends with an
# error if the ledger is not clean. The README is written by hand.
set -euo pipefail
cd "$(dirname "$0")/.."

output=${1:?usage: bench-results/rolling-restart.sh OUTPUT_FOLDER [DEVICES] [SECONDS]}
devices=${2:-9000}
seconds=${3:-90}
binaries=${BINARIES:-target/release}
rate=${RATE:-$((devices / 20 + 1))}
export PATH="$PATH:/usr/sbin:$PWD/.tools/python/bin"
mkdir -p "$output"

scratch=$(mktemp -d)
declare -A gateways
others=()
stop() {
    trap - EXIT
    kill "${gateways[@]}" "${others[@]}" 2>/dev/null || true
    wait || true
    rm -rf "$scratch"
}
trap stop EXIT

port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

ready() {
    curl --silent --fail --max-time 5 "http://127.0.0.1:$1/readyz" >/dev/null
}

connected() {
    local port sum=0 part
    for port in "${admin[@]}"; do
        part=$(curl --silent --max-time 5 "http://127.0.0.1:$port/metrics" \
            | awk '/^gateway_connections\{.*state="connected"/ { sum += $NF } END { print sum + 0 }')
        sum=$((sum + part))
    done
    echo "$sum"
}

# Until all devices are somewhere, or for a while.
wait_for_all() {
    local began=$SECONDS
    until [ "$(connected)" -ge "$devices" ] || [ $((SECONDS - began)) -ge 60 ]; do
        kill -0 "$load" 2>/dev/null || return 0
        sleep 0.2
    done
}

start() {
    "$binaries/gateway" --listen "mqtt://127.0.0.1:${listen[$1]}" --admin "127.0.0.1:${admin[$1]}" \
        --gateway-id "$1" --sessions shared --nats "n=nats://127.0.0.1:$nats" \
        --data "$scratch/data-$1" 2>>"$scratch/log-$1" &
    gateways[$1]=$!
    until ready "${admin[$1]}"; do
        kill -0 "${gateways[$1]}" || { cat "$scratch/log-$1" >&2; exit 1; }
        sleep 0.1
    done
}

"$binaries/loadgen" profiles factory-wired \
    | awk '/^\[/ { skip = /outage|site/ } !skip' | sed 's/^keep_alive_s = .*/keep_alive_s = 30.0/' \
    > "$scratch/profile.toml"

: > "$output/raw.jsonl"
for qos in 1 2; do
    nats=$(port) front=$(port)
    declare -A listen=([a]=$(port) [b]=$(port)) admin=([a]=$(port) [b]=$(port))
    nats-server --addr 127.0.0.1 --port "$nats" --jetstream --store_dir "$scratch/nats-$qos" \
        --log "$scratch/nats.log" &
    others=("$!")
    until (: <"/dev/tcp/127.0.0.1/$nats") 2>/dev/null; do sleep 0.1; done
    start a
    start b
    cat > "$scratch/haproxy.cfg" <<CONF
global
    maxconn 9000
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    retries 3
    option redispatch
frontend mqtt
    bind 127.0.0.1:$front
    default_backend gateways
backend gateways
    balance leastconn
    option httpchk GET /readyz
    server a 127.0.0.1:${listen[a]} check port ${admin[a]} inter 200ms
    server b 127.0.0.1:${listen[b]} check port ${admin[b]} inter 200ms
CONF
    for _ in $(seq 0 $((devices / 4500))); do
        haproxy -q -f "$scratch/haproxy.cfg" &
        others+=("$!")
    done
    until (: <"/dev/tcp/127.0.0.1/$front") 2>/dev/null; do sleep 0.1; done
    "$binaries/loadgen" run --broker "mqtt://127.0.0.1:$front" --profile "$scratch/profile.toml" \
        --workload p2p --devices "$devices" --qos "$qos" --rate "$rate" --duration "${seconds}s" \
        --connect-rate 500 --wills --out "$scratch/run-$qos" > "$scratch/said-$qos" 2>&1 &
    load=$!
    others+=("$load")
    wait_for_all
    sleep "$((seconds / 10))"
    times=()
    for name in a b; do
        other=$([ "$name" = a ] && echo b || echo a)
        began=$(date +%s%N)
        "$binaries/gateway" drain --admin "127.0.0.1:${admin[$name]}"
        wait "${gateways[$name]}" || { echo "gateway $name did not end well" >&2; exit 1; }
        drained=$(date +%s%N)
        wait_for_all
        back=$(date +%s%N)
        start "$name"
        "$binaries/gateway" rebalance --admin "127.0.0.1:${admin[$other]}" --share 50% \
            --rate "$((devices / 10 + 1))/s" >/dev/null
        times+=("$(((drained - began) / 1000000)):$(((back - began) / 1000000))")
        sleep "$((seconds / 10 + 10))"
    done
    verdict=0
    wait "$load" || verdict=$?
    kill "${gateways[@]}" "${others[@]}" 2>/dev/null || true
    wait "${gateways[@]}" 2>/dev/null || true
    python3 - "$scratch/run-$qos/result.json" "$qos" "$devices" "$verdict" "${times[@]}" \
        >> "$output/raw.jsonl" <<'PYTHON' || { cat "$scratch/said-$qos" >&2; exit 1; }
import json, sys
times = [list(map(int, pair.split(":"))) for pair in sys.argv[5:]]
print(json.dumps({
    "qos": int(sys.argv[2]), "devices": int(sys.argv[3]), "exit_code": int(sys.argv[4]),
    "drained_ms": [one for one, _ in times], "all_back_ms": [two for _, two in times],
    "result": json.load(open(sys.argv[1])),
}))
PYTHON
    [ "$verdict" -eq 0 ] || tail -n 40 "$scratch/said-$qos" >&2
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
    print("| QoS | devices | drained, ms | all back, ms | owed | lost, duplicated | exit code |", file=out)
    print("|---|---|---|---|---|---|---|", file=out)
    for row in rows:
        owed, *books = [find(row["result"], key) for key in ("owed", "lost", "duplicated")]
        print(f'| {row["qos"]} | {row["devices"]} | {row["drained_ms"]} | {row["all_back_ms"]} | {owed} | {books} | {row["exit_code"]} |', file=out)
print(open(f"{sys.argv[1]}/summary.md").read())
sys.exit(0 if all(row["exit_code"] == 0 for row in rows) else 1)
PYTHON
