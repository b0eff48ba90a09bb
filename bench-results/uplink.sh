#!/bin/bash
# What nats-server spends on messages that only applications read: with `uplink` and without, with a
# client that is subscribed to "#" and without.
#
#   bench-results/uplink.sh DIR [RUNS]
#
# Needs mosquitto_pub and mosquitto_sub, and target/release/gateway (or GATEWAY).
set -euo pipefail
out=$1; runs=${2:-5}
root=$(cd "$(dirname "$0")/.." && pwd)
gateway=${GATEWAY:-$root/target/release/gateway}
nats=$root/.tools/python/bin/nats-server
publishers=64; messages=1500; padding=$(printf 'x%.0s' $(seq 200))
mkdir -p "$out"; : > "$out/raw.jsonl"

cpu_ticks() { awk '{print $14 + $15}' "/proc/$1/stat"; }

one_run() { # uplink: on or off; subscriber: 0 or 1
    local dir port mqtt flags=() watcher="" pids=() before after from to
    dir=$(mktemp -d); port=$((20000 + RANDOM % 5000)); mqtt=$((26000 + RANDOM % 4000))
    "$nats" --addr 127.0.0.1 --port "$port" --jetstream --store_dir "$dir/nats" >/dev/null 2>&1 &
    local server=$!
    for _ in $(seq 100); do (: < "/dev/tcp/127.0.0.1/$port") 2>/dev/null && break; sleep 0.1; done
    [ "$1" = on ] && flags=(--uplink 'telemetry/#')
    "$gateway" --listen "mqtt://127.0.0.1:$mqtt" --data "$dir/data" --admin none --shards 1 \
        --gateway-id bench --nats "a=nats://127.0.0.1:$port" "${flags[@]}" >"$dir/log" 2>&1 &
    local process=$!
    for _ in $(seq 300); do grep -q "feed: live" "$dir/log" && break; sleep 0.1; done
    if [ "$2" = 1 ]; then
        mosquitto_sub -p "$mqtt" -i wide -t '#' -q 0 >/dev/null & watcher=$!
        sleep 0.5
    fi
    before=$(cpu_ticks "$server"); from=$(date +%s.%N)
    for number in $(seq "$publishers"); do
        seq "$messages" | sed "s/\$/ $padding/" \
            | mosquitto_pub -p "$mqtt" -i "d$number" -t "telemetry/$number" -q 1 -l &
        pids+=($!)
    done
    wait "${pids[@]}"
    to=$(date +%s.%N); after=$(cpu_ticks "$server")
    awk -v uplink="$1" -v wide="$2" -v ticks=$((after - before)) -v seconds="$(echo "$to - $from" | bc)" \
        -v count=$((publishers * messages)) -v hz="$(getconf CLK_TCK)" 'BEGIN {
            printf "{\"uplink\":\"%s\",\"wide_subscribers\":%d,\"messages\":%d,", uplink, wide, count
            printf "\"server_cpu_s_per_million\":%.2f,", ticks / hz / count * 1e6
            printf "\"messages_per_s\":%.0f}\n", count / seconds }' | tee -a "$out/raw.jsonl"
    kill "$process" "$server" $watcher; wait "$process" "$server" $watcher 2>/dev/null || true
    rm -rf "$dir"
}

for _ in $(seq "$runs"); do
    for wide in 0 1; do one_run off "$wide"; one_run on "$wide"; done
done

{
    echo "| subscribers to \`#\` | uplink | runs | server CPU-s per million: median | lowest | highest |"
    echo "|---|---|---|---|---|---|"
    for wide in 0 1; do
        for uplink in off on; do
            grep "\"uplink\":\"$uplink\",\"wide_subscribers\":$wide" "$out/raw.jsonl" \
                | sed 's/.*per_million":\([0-9.]*\).*/\1/' | sort -n \
                | awk -v wide="$wide" -v uplink="$uplink" '{ all[NR] = $1 } END {
                    printf "| %d | %s | %d | %.1f | %.1f | %.1f |\n", wide, uplink, NR, all[int((NR + 1) / 2)], all[1], all[NR] }'
        done
    done
} > "$out/summary.md"
