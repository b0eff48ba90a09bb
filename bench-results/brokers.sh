#!/usr/bin/env bash
# Compares the gateway with other brokers: deliveries, latency, connections, memory.
#
# Usage: bench-results/brokers.sh OUTPUT_FOLDER [REPETITIONS] [SECONDS]
#
# Needs `make build` and `make tools`. Takes mosquitto and nats-server from there, and rumqttd if
# target/tools/bin/rumqttd is there:
#   cargo install rumqttd --version 0.20.0 --locked --root target/tools
# Each broker is started anew for each run, on the same loopback port, and runs alone. `loadgen
# compare` writes report.html, summary.md, compare.json and raw.jsonl; what it leaves of single
# runs (result.json, histograms) is removed. The README is written by hand.
set -euo pipefail
cd "$(dirname "$0")/.."

output=${1:?usage: bench-results/brokers.sh OUTPUT_FOLDER [REPETITIONS] [SECONDS]}
repetitions=${2:-5}
seconds=${3:-5}
connections=${CONNECTIONS:-10000}
export PATH="$PATH:/usr/sbin:$PWD/.tools/python/bin"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# A port nobody uses: the kernel's choice for a socket that is closed again.
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
address=127.0.0.1:$port

cat >"$scratch/mosquitto.conf" <<CONF
listener $port 127.0.0.1
allow_anonymous true
persistence false
max_inflight_messages 1000
max_queued_messages 100000
CONF

cat >"$scratch/nats.conf" <<CONF
listen: 127.0.0.1:-1
server_name: peer
max_connections: 100000
jetstream { store_dir: "$scratch/nats" }
mqtt { listen: "$address" }
CONF

cat >"$scratch/rumqttd.toml" <<CONF
id = 0
[router]
id = 0
max_connections = 20000
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v4.1]
name = "v4-1"
listen = "$address"
next_connection_delay_ms = 0
[v4.1.connections]
connection_timeout_ms = 60000
max_payload_size = 20480
max_inflight_count = 1000
dynamic_filters = true
CONF

# A fresh data folder each time: what a run stored is not the next one's.
gateway="target/release/gateway --listen mqtt://$address --log error"
brokers=(
    --broker "mosquitto=$address,start=mosquitto -c $scratch/mosquitto.conf"
    --broker "nats-server=$address,start=nats-server -c $scratch/nats.conf"
    --broker "gateway, memory=$address,start=$gateway --durability memory --data \$(mktemp -d $scratch/g.XXXX)"
    --broker "gateway, fsync=$address,start=$gateway --durability fsync --data \$(mktemp -d $scratch/g.XXXX)"
)
if [ -x target/tools/bin/rumqttd ]; then
    brokers+=(--broker "rumqttd=$address,start=target/tools/bin/rumqttd -c $scratch/rumqttd.toml")
fi

bench="bench --payload-bytes 256 --seconds $seconds --warmup 1"
status=0
target/release/loadgen compare --out "$output" --repetitions "$repetitions" "${brokers[@]}" \
    --scenario "one to one, QoS 0, 10,000/s: $bench --qos 0 --rate 10000" \
    --scenario "one to one, QoS 1, 10,000/s: $bench --qos 1 --rate 10000" \
    --scenario "fan-in, QoS 1, 10,000/s: $bench --qos 1 --rate 10000 --pattern fan-in --subscribers 1" \
    --scenario "fan-out, QoS 1, 200/s to 50: $bench --qos 1 --rate 200 --pattern fan-out --publishers 1" \
    --scenario "one to one, QoS 1, saturated: $bench --qos 1 --saturate" \
    --scenario "idle: idle --connections $connections --subscribe own --rounds 1 --seconds 3" \
    --scenario "storm: storm --connections $connections --rounds 1" || status=$?
rm -rf "$output/runs"
# Runs that broke the contract or say nothing are in the summary: they are findings, not a failure of this script.
case $status in 0 | 2 | 3) ;; *) exit "$status" ;; esac
