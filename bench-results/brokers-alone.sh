# What scripts share that start one broker anew for each run. To be sourced, with -euo pipefail set.

export PATH="$PATH:/usr/sbin"
ulimit -n "$(ulimit -Hn)"
scratch=$(mktemp -d)
pids=()
stop() {
    [ "${#pids[@]}" -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
    wait
    pids=()
    rm -rf "$scratch"/*
}
trap 'stop; rm -rf "$scratch"' EXIT
# Unused a moment ago.
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')

wait_for() {
    for _ in $(seq 300); do
        if (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then return 0; fi
        sleep 0.1
    done
    echo "nothing answers on port $1" >&2
    exit 1
}

# Starts broker $1 on $port, with further arguments for the gateway; its process is the last of `pids`.
# `embedded` is the gateway with its own store, `jetstream` the gateway on three sub-clusters of one
# nats-server each, `mosquitto` Debian's.
start() {
    local broker=$1
    shift
    case "$broker" in
    embedded)
        target/release/gateway --data "$scratch/data" --listen "mqtt://127.0.0.1:$port" "$@" \
            2>"$scratch/log" >&2 &
        ;;
    jetstream)
        DATA="$scratch/cluster" .ci/cluster >"$scratch/cluster.log" 2>&1 &
        pids+=("$!")
        for server in 4222 4322 4422; do wait_for "$server"; done
        target/release/gateway --data "$scratch/data" --listen "mqtt://127.0.0.1:$port" \
            --nats a=nats://127.0.0.1:4222 --nats b=nats://127.0.0.1:4322 \
            --nats c=nats://127.0.0.1:4422 "$@" 2>"$scratch/log" >&2 &
        ;;
    mosquitto)
        cat >"$scratch/mosquitto.conf" <<CONF
listener $port 127.0.0.1
allow_anonymous true
persistence false
max_inflight_messages 1000
max_queued_messages 100000
CONF
        mosquitto -c "$scratch/mosquitto.conf" 2>"$scratch/log" >&2 &
        ;;
    *)
        echo "no broker $broker: embedded, jetstream or mosquitto" >&2
        exit 2
        ;;
    esac
    pids+=("$!")
    wait_for "$port"
}
