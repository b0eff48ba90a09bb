#!/usr/bin/env bash
# A million devices at once, each with its own subscription, on one machine: as many gateways and
# load generator processes as the limit of open files asks for, all on one set of sub-clusters.
#
# Usage: bench-results/million.sh OUTPUT_FOLDER [DEVICES] [SECONDS] [RATE] [CONNECTS_PER_S]
#
# Needs `make build` and `make tools`, and some 16 KiB of memory a device. The fleet is
# `tracker-ltem` at its own pace; back ends send RATE commands a second, QoS 1. Writes the
# run's result (result.json, times.hlog), memory.tsv (a line every ten seconds: where the bytes are)
# and the gateways' logs. The README is written by hand.
set -euo pipefail
cd "$(dirname "$0")/.."

output=${1:?usage: bench-results/million.sh OUTPUT_FOLDER [DEVICES] [SECONDS] [RATE] [CONNECTS_PER_S]}
devices=${2:-1000000}
seconds=${3:-600}
rate=${4:-500}
connects=${5:-3000}
files=$(ulimit -Hn)
ulimit -n "$files"
# A process keeps some for its own use; half-open connections of devices that vanished need theirs.
per_process=$((files * 93 / 100))
gateways=$(((devices + per_process - 1) / per_process))
first_port=20000

scratch=$(mktemp -d)
pids=()
stop() {
    trap - EXIT INT TERM
    [ "${#pids[@]}" -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
    wait
    rm -rf "$scratch"
}
trap stop EXIT
trap 'exit 1' INT TERM

wait_for() {
    for _ in $(seq 300); do
        if (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then return 0; fi
        sleep 0.1
    done
    echo "nothing answers on port $1" >&2
    exit 1
}

mkdir -p "$output"
# Go's collector lets a heap grow to twice what is in use; with a third of a million subscriptions on
# each server that is what this machine does not have.
export GOGC=40 GOMEMLIMIT=1300MiB
DATA="$scratch/cluster" .ci/cluster >"$scratch/cluster.log" 2>&1 &
pids+=("$!")
for port in 4222 4322 4422; do wait_for "$port"; done
mapfile -t servers < <(pgrep -P "${pids[0]}" -x nats-server)

others=()
for number in $(seq 0 $((gateways - 1))); do
    port=$((first_port + number))
    target/release/gateway --data "$scratch/g$number" --gateway-id "g$number" --shards 1 \
        --listen "mqtt://127.0.0.1:$port" --nats a=nats://127.0.0.1:4222 \
        --nats b=nats://127.0.0.1:4322 --nats c=nats://127.0.0.1:4422 \
        >"$output/gateway-$number.log" 2>&1 &
    pids+=("$!")
    wait_for "$port"
    [ "$number" = 0 ] || others+=(--and-broker "mqtt://127.0.0.1:$port")
done

# Private bytes of processes, kB.
private() {
    local sum=0 pid
    for pid in "$@"; do
        sum=$((sum + $(awk '/^Private_(Clean|Dirty)/ {s += $2} END {print s + 0}' \
            "/proc/$pid/smaps_rollup" 2>/dev/null || echo 0)))
    done
    echo "$sum"
}

sample() {
    printf 'at_s\tsockets\ttcp_inuse\ttcp_mem_kB\tslab_kB\tgateways_kB\tloadgen_kB\tnats_kB\tfree_kB\n'
    local began=$SECONDS
    while sleep 10; do
        mapfile -t load < <(pgrep -f '^target/release/loadgen run|^.*/loadgen run .*--worker ' || true)
        printf '%d\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\n' "$((SECONDS - began))" \
            "$(awk '/^sockets/ {print $3}' /proc/net/sockstat)" \
            "$(awk '/^TCP/ {print $3}' /proc/net/sockstat)" \
            "$(awk '/^TCP/ {print $11 * 4}' /proc/net/sockstat)" \
            "$(awk '/^Slab/ {print $2}' /proc/meminfo)" \
            "$(private "${pids[@]:1}")" "$(private "${load[@]}")" "$(private "${servers[@]}")" \
            "$(awk '/^MemAvailable/ {print $2}' /proc/meminfo)"
    done
}
sample >"$output/memory.tsv" &
pids+=("$!")

status=0
target/release/loadgen run --broker "mqtt://127.0.0.1:$first_port" "${others[@]}" \
    --workers "$gateways" --profile tracker-ltem --workload commands --devices "$devices" \
    --qos 1 --rate "$rate" --connect-rate "$connects" --back-ends "$gateways" \
    --duration "${seconds}s" --quiet --out "$output" | tee "$output/said.txt" || status=$?
for log in "$output"/gateway-*.log; do [ -s "$log" ] || rm "$log"; done
exit "$status"
