# Brokers with TLS for the scripts beside this one, which source it: certificates, start, stop.
#
# Sets $scratch, a folder that goes when the script ends, with ca.pem, server.pem and server.key: ECDSA
# P-256, for 127.0.0.1. A broker is started anew for each run and runs alone.

export PATH="$PATH:/usr/sbin"
scratch=$(mktemp -d)
# Started as root, mosquitto becomes a user of its own before it reads certificate and key.
chmod 755 "$scratch"
broker_pid=

stop_broker() {
    if [ -n "$broker_pid" ]; then
        kill "$broker_pid" 2>/dev/null || true
        wait "$broker_pid" 2>/dev/null || true
        broker_pid=
    fi
}
trap 'stop_broker; rm -rf "$scratch"' EXIT

make_certificates() {
    local curve="-pkeyopt ec_paramgen_curve:P-256"
    openssl req -x509 -newkey ec $curve -nodes -days 30 -subj "/CN=bench authority" \
        -keyout "$scratch/ca.key" -out "$scratch/ca.pem" 2>/dev/null
    openssl req -newkey ec $curve -nodes -subj "/CN=bench" \
        -keyout "$scratch/server.key" -out "$scratch/server.csr" 2>/dev/null
    printf 'subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n' >"$scratch/server.ext"
    openssl x509 -req -in "$scratch/server.csr" -CA "$scratch/ca.pem" -CAkey "$scratch/ca.key" \
        -CAcreateserial -days 30 -extfile "$scratch/server.ext" -out "$scratch/server.pem" 2>/dev/null
    chmod 644 "$scratch/server.key"
}

# A port nobody uses: the kernel's choice for a socket that is closed again.
free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# start_broker gateway|mosquitto mqtt|mqtts: sets $broker_pid and $broker_url.
start_broker() {
    local name=$1 scheme=$2 port data tls=
    port=$(free_port)
    data=$(mktemp -d "$scratch/data.XXXX")
    broker_url=$scheme://127.0.0.1:$port
    case $name in
    gateway)
        [ "$scheme" = mqtt ] || tls="--tls-cert $scratch/server.pem --tls-key $scratch/server.key"
        # Its default configuration. $tls is words.
        target/release/gateway --listen "$broker_url" --data "$data" --log error --admin none $tls &
        ;;
    mosquitto)
        cat >"$data/mosquitto.conf" <<CONF
listener $port 127.0.0.1
allow_anonymous true
persistence false
max_inflight_messages 1000
max_queued_messages 100000
CONF
        [ "$scheme" = mqtt ] || cat >>"$data/mosquitto.conf" <<CONF
certfile $scratch/server.pem
keyfile $scratch/server.key
CONF
        # It says a line for each connection, on standard error.
        mosquitto -c "$data/mosquitto.conf" 2>/dev/null &
        ;;
    *)
        echo "no broker $name: gateway or mosquitto" >&2
        exit 1
        ;;
    esac
    broker_pid=$!
    for _ in $(seq 200); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then return; fi
        kill -0 "$broker_pid" 2>/dev/null || break
        sleep 0.1
    done
    echo "$name does not listen on $broker_url" >&2
    exit 1
}
