#!/usr/bin/env bash
# Measures what a gateway's work costs at several loads, and plans a fleet from it.
#
# Usage: bench-results/plan.sh OUTPUT_FOLDER [embedded|jetstream] [FLAGS OF loadgen plan...]
#   CONNECTIONS="2000 8000 15000" RATES="2000 8000" SECONDS_EACH=20 SHARDS=1 in the environment
#
# Needs `make build` and `make tools`. The gateway is started anew for each run and has one shard, so
# that a core is left to the generator. Without flags the fleet is 5,000,000 meters on NB-IoT and
# 500,000 cars on LTE. Keeps each run's result (runs/), and plan.html, plan.json and
# plan.txt; the README is written by hand. The plan counts the gateway's CPU and memory;
# nats-server's CPU for a million messages is in servers.tsv.
set -euo pipefail
cd "$(dirname "$0")/.."

output=$(realpath -m "${1:?usage: bench-results/plan.sh OUTPUT_FOLDER [embedded|jetstream] [FLAGS...]}")
broker=${2:-jetstream}
shift $(($# > 1 ? 2 : 1))
[ "$#" -gt 0 ] || set -- --fleet 5000000:meter-nbiot --fleet 500000:car-lte
read -ra connections <<<"${CONNECTIONS:-2000 8000 15000}"
read -ra rates <<<"${RATES:-2000 8000}"
seconds=${SECONDS_EACH:-20}
source bench-results/brokers-alone.sh

mkdir -p "$output/runs"
rm -rf "$output"/runs/*
printf 'run\tmessages_in\tnats_server_cpu_s\n' >"$output/servers.tsv"

# User and system time of processes, in steps of 10 ms.
cpu_s() {
    local sum=0 pid
    for pid in "$@"; do
        sum=$((sum + $(sed 's/.*) //' "/proc/$pid/stat" | awk '{print $12 + $13}')))
    done
    awk -v ticks="$sum" 'BEGIN {printf "%.2f", ticks / 100}'
}

# run NAME COMMAND...: a run of loadgen against a gateway of its own.
run() {
    local name=$1 servers=() before after
    shift
    start "$broker" --shards "${SHARDS:-1}"
    [ "$broker" = embedded ] || mapfile -t servers < <(pgrep -P "${pids[0]}" -x nats-server)
    before=$(cpu_s "${servers[@]}")
    target/release/loadgen "$@" --target "127.0.0.1:$port" --watch-pid "${pids[-1]}" --quiet \
        --out "$output/runs/$name" >"$scratch/said" || cat "$scratch/said"
    after=$(cpu_s "${servers[@]}")
    python3 -c '
import json, sys
result = json.load(open(sys.argv[1] + "/result.json"))
print(sys.argv[2], result["totals"]["published"], round(float(sys.argv[4]) - float(sys.argv[3]), 2), sep="\t")' \
        "$output/runs/$name" "$name" "$before" "$after" >>"$output/servers.tsv"
    rm -f "$output/runs/$name/times.hlog"
    stop
}

run nothing idle --connections 100 --seconds "$seconds" --rounds 1
for number in "${connections[@]}"; do
    run "idle-$number" idle --connections "$number" --seconds 10 --rounds 1
    run "idle-own-$number" idle --connections "$number" --subscribe own --seconds 10 --rounds 1
    run "pings-$number" idle --connections "$number" --keep-alive-s 2 --seconds "$seconds" --rounds 1
    run "storm-$number" storm --connections "$number"
done
for rate in "${rates[@]}"; do
    bench=(bench --qos 1 --seconds "$seconds")
    run "one-to-one-$rate" "${bench[@]}" --rate "$rate" --pattern one-to-one
    run "fan-in-$rate" "${bench[@]}" --rate "$rate" --pattern fan-in --subscribers 1
    run "fan-out-$rate" "${bench[@]}" --rate "$((rate / 5))" --pattern fan-out --publishers 1 \
        --subscribers 5
done

target/release/loadgen plan "$output"/runs/* --out "$output" "$@"
