#!/bin/sh
# A million devices, each with its own subscription, on one gateway process: where is the memory?
#
# Usage: bench-results/one-process.sh [CONNECTIONS]
#
# Needs a limit of open files above CONNECTIONS (`ulimit -n`, fs.nr_open), some 13 KiB of memory a
# connection, and nothing but /bin/sh and the two programs (GATEWAY, LOADGEN in the environment, or in
# the PATH), so that it also runs in an emulated Linux. Prints key=value lines on standard output.
set -eu

connections=${1:-1000000}
gateway=${GATEWAY:-gateway}
loadgen=${LOADGEN:-loadgen}
folder=$(mktemp -d)

facts() {
    echo "at=$1 uptime_s=$(cut -d. -f1 /proc/uptime)"
    sed -n 's/^\(Rss\|Pss_Anon\|Private_Dirty\): *\([0-9]*\) kB/gateway_\1_kB=\2/p' "/proc/$pid/smaps_rollup"
    sed -n 's/^\(MemFree\|MemAvailable\|Slab\|SUnreclaim\|KernelStack\|PageTables\): *\([0-9]*\) kB/\1_kB=\2/p' /proc/meminfo
    awk '/^(sockets|TCP)/ {print "sockstat=" $0}' /proc/net/sockstat
    awk 'NR > 2 && $2 * $4 > 50000000 {printf "slab_%s objects=%d bytes=%d kB=%d\n", $1, $2, $4, $2 * $4 / 1024}' /proc/slabinfo
    awk '{print "gateway_cpu_ticks user=" $14 " system=" $15}' "/proc/$pid/stat"
}

# Where everything is emulated, every turn is late, and connecting takes longer than tcp_keepalive_s:
# the kernel then asks all peers in the same moment, more than the loopback's queue takes, and gives up
# who has not heard it.
printf '[limits]\noverload_lag_ms = 0\nconnect_timeout_s = 600\ntcp_keepalive_s = 0\n' >"$folder/gateway.toml"
"$gateway" --config "$folder/gateway.toml" --data "$folder/data" --durability memory --shards 1 \
    --listen mqtt://127.0.0.1:1883 --log warn &
pid=$!
trap 'kill $pid 2>/dev/null; wait; rm -rf "$folder"' EXIT
sleep 20
facts empty
"$loadgen" idle --target 127.0.0.1:1883 --connections "$connections" --subscribe own --seconds 90 --rounds 1 \
    --concurrency 500 --connect-timeout-s 86400 --watch-pid $pid --quiet --json "$folder/result.json" &
load=$!
# Both ends of a connection are sockets here. Looking into /proc/PID/fd would cost memory itself.
sockets() {
    awk '/^TCP/ {print $3}' /proc/net/sockstat
}
last=0
still=0
step=$((connections / 10))
next=$step
# Those that were refused never come: who does not grow any more holds what there is.
while kill -0 $load 2>/dev/null; do
    now=$(sockets)
    echo "sockets=$now uptime_s=$(cut -d. -f1 /proc/uptime)"
    if [ "$now" -eq "$last" ]; then still=$((still + 1)); else still=0; fi
    if [ "$now" -ge "$((2 * connections))" ] || [ $still -ge 6 ]; then
        break
    fi
    if [ "$now" -ge "$((2 * next))" ]; then
        facts "$next"
        next=$((next + step))
    fi
    last=$now
    sleep 10
done
sleep 5
facts held
status=0
wait $load || status=$?
facts gone
cat "$folder/result.json"
exit $status
