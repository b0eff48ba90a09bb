#!/usr/bin/env bash
# Settings of a host that carries many connections: shows them, applies them, takes them back.
#
#   tuning/host.sh --show      what is set, what should be, and why; changes nothing
#   tuning/host.sh --apply     sets them now and at each boot; needs root
#   tuning/host.sh --revert    puts back what was there before the first --apply; needs root
#
# The kernel's settings and their reasons are in sysctl.conf beside this file; with them go the CPU
# frequency governor and, for network interfaces with one receive queue, packet steering. Those two
# last until the next boot. `gateway doctor` tells which of them matter for a configuration.
#
# ROOT=DIR works on a copy of /proc, /sys and /etc below DIR instead of the host's own.
set -euo pipefail

readonly HERE="$(cd "$(dirname "$0")" && pwd)"
readonly ROOT="${ROOT:-}"
readonly BEFORE="$ROOT/var/lib/gateway-tuning/before"
readonly AT_BOOT="$ROOT/etc/sysctl.d/90-gateway.conf"

fail() {
    echo "host.sh: $*" >&2
    exit 1
}

# Every setting as a line: path, wanted value, reason, separated by tabs.
settings() {
    sysctls
    local governor queue
    for governor in "$ROOT"/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor; do
        [ -e "$governor" ] || continue
        printf '%s\t%s\t%s\n' "$governor" performance \
            "a core that has slowed down between two messages wakes late"
    done
    for queue in $(single_queues); do
        printf '%s\t%s\t%s\n' "$queue/rps_cpus" "$(all_cores)" \
            "one queue brings all packets to one core: steering spreads them"
    done
}

# The keys of sysctl.conf, each with the comment above it. A minus in front forgives a key that the
# kernel does not have, and so do we.
sysctls() {
    local line reason="" key value
    while IFS= read -r line; do
        case "$line" in
            "#"[a-z]*=*) reason="" ;;
            "#"*) reason+="${reason:+ }$(sed 's/^# *//' <<<"$line")" ;;
            "") reason="" ;;
            *=*)
                key=$(sed 's/^-//; s/ *=.*//' <<<"$line")
                value=$(sed 's/^[^=]*= *//' <<<"$line")
                [ -e "$ROOT/proc/sys/${key//.//}" ] || continue
                printf '%s\t%s\t%s\n' "$ROOT/proc/sys/${key//.//}" "$value" "$reason"
                ;;
        esac
    done <"$HERE/sysctl.conf"
}

# Receive queues of interfaces that have a device and only this one.
single_queues() {
    local nic queues
    for nic in "$ROOT"/sys/class/net/*; do
        [ -e "$nic/device" ] && [ "$(cat "$nic/operstate")" = up ] || continue
        queues=("$nic"/queues/rx-*)
        if [ "${#queues[@]}" -eq 1 ] && [ -e "${queues[0]}/rps_cpus" ]; then
            echo "${queues[0]}"
        fi
    done
}

# The mask of all cores, as the kernel writes sets: 32 cores a group.
all_cores() {
    local left groups=""
    left=$(nproc --all)
    while [ "$left" -gt 32 ]; do
        groups=",ffffffff$groups"
        left=$((left - 32))
    done
    printf '%x%s\n' $(((1 << left) - 1)) "$groups"
}

# As the kernel prints them: blanks and leading zeros mean nothing.
same() {
    [ "$(tr '\t' ' ' <<<"$1" | sed 's/^0*\([0-9a-f]\)/\1/')" = "$(sed 's/^0*\([0-9a-f]\)/\1/' <<<"$2")" ]
}

# A setting that is higher than wanted is as good.
is_enough() {
    same "$1" "$2" && return 0
    [[ "$3" == */proc/sys/* && "$1" =~ ^[0-9]+$ && "$2" =~ ^[0-9]+$ && "$2" -gt 0 ]] || return 1
    [ "$1" -ge "$2" ]
}

show() {
    local path wanted reason now mark
    while IFS=$'\t' read -r path wanted reason; do
        now=$(cat "$path")
        if is_enough "$now" "$wanted" "$path"; then mark="good"; else mark="CHANGE to $wanted"; fi
        printf '%s = %s: %s\n    %s\n' "${path#"$ROOT"}" "$now" "$mark" "$reason"
    done < <(settings)
}

apply() {
    local path wanted reason now
    mkdir -p "$(dirname "$BEFORE")" "$(dirname "$AT_BOOT")" || fail "--apply needs root"
    [ -e "$BEFORE" ] || : >"$BEFORE"
    while IFS=$'\t' read -r path wanted reason; do
        now=$(cat "$path")
        is_enough "$now" "$wanted" "$path" && continue
        grep -qF "$path"$'\t' "$BEFORE" || printf '%s\t%s\n' "$path" "$now" >>"$BEFORE"
        echo "$wanted" >"$path" || fail "cannot write $path; --apply needs root"
        echo "${path#"$ROOT"} = $wanted (was $now)"
    done < <(settings)
    install --mode 644 "$HERE/sysctl.conf" "$AT_BOOT"
}

revert() {
    local path before
    [ -e "$BEFORE" ] || fail "nothing to revert: --apply was not run, or was reverted"
    while IFS=$'\t' read -r path before; do
        [ -e "$path" ] || continue
        echo "$before" >"$path" || fail "cannot write $path; --revert needs root"
        echo "${path#"$ROOT"} = $before"
    done <"$BEFORE"
    rm -f "$AT_BOOT" "$BEFORE"
}

case "${1:-}" in
    --show) show ;;
    --apply) apply ;;
    --revert) revert ;;
    *) fail "give --show, --apply or --revert; the head of this file says what they do" ;;
esac
