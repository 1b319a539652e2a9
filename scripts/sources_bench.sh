#!/usr/bin/env bash
# How much faster a restore is from three holders at once than from one; prints Markdown. Each holder is in a network namespace of
# its own, all joined by a bridge; what a holder sends is shaped with `tc tbf`.
#
# usage: scripts/sources_bench.sh     (root, `ip`, `tc`; exit code 77 where namespaces are not permitted)
#   MIB=160               incompressible data that is restored
#   RATES="80mbit none"   what each holder's line gives (80mbit are 10 MB/s), `none` for as much as the machine does
#   SHADOWVAULT=/path     the program (default: target/release/shadowvault)
#   KEEP=1                leaves the working directory in place
set -euo pipefail
copies=3
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

mib=${MIB:-160}
rates=${RATES:-80mbit none}
need tc
space switch
ip -n "$tag-switch" link add br0 type bridge
ip -n "$tag-switch" link set br0 up

holders=(one two three)
number=0
for name in owner "${holders[@]}"; do
    number=$((number + 1))
    space "$name"
    ip -n "$tag-$name" link add eth0 type veth peer name "port$number" netns "$tag-switch"
    ip -n "$tag-switch" link set "port$number" master br0 up
    ip -n "$tag-$name" address add "10.98.0.$number/24" dev eth0
    ip -n "$tag-$name" link set eth0 up
    under[$name]="ip netns exec $tag-$name"
done

# shape RATE: what each holder may send from now on.
shape() {
    local name
    for name in "${holders[@]}"; do
        in_space "$name" tc qdisc del dev eth0 root 2>/dev/null || true
        [ "$1" = none ] || in_space "$name" tc qdisc add dev eth0 root tbf rate "$1" burst 64kb latency 100ms
    done
}

connected() { node owner status --json 2>/dev/null | tr '{' '\n' | grep -c '"connected": *true' || true; }

node owner init --phrase-out "$work/phrase" >"$work/init.log" 2>&1
export SHADOWVAULT_LISTEN_PORT=9000
start owner
for name in "${holders[@]}"; do
    node "$name" init --storage-only --lend 100GiB >>"$work/init.log" 2>&1
    start "$name"
    node owner peers add "$(where "$name" '/ip4/10\.98\.')" --name "$name" >/dev/null 2>&1
    node "$name" peers add "$(where owner '/ip4/10\.98\.')" --name owner >/dev/null 2>&1
done
mkdir "$work/data"
for file in 1 2 3 4; do head -c $((mib * 262144)) /dev/urandom >"$work/data/$file"; done
node owner backup --wait copies --wait-timeout 300s "$work/data" >"$work/backup.log" 2>&1 || die 'no three copies within five minutes'
stop owner
for name in "${holders[@]}"; do stop "$name"; done

# restored COUNT: restores everything from so many holders, nothing being left here; sets `seconds`, and `peak` to the most memory
# that the restoring node took, in MiB.
restored() {
    local count=$1 began name
    find "$work/owner/packs" -type f -delete
    # All holders' packs are in memory, or the first restore would warm the disk of one of them for the next.
    for name in "${holders[@]}"; do find "$work/$name/packs" -type f -exec cat {} +; done >/dev/null
    for name in "${holders[@]:0:$count}"; do start "$name"; done
    start owner
    for _ in $(seq 200); do
        [ "$(connected)" != "$count" ] || break
        sleep 0.1
    done
    [ "$(connected)" = "$count" ] || die "not $count holders are connected"
    began=$(now)
    node owner restore latest --target "$work/target" >"$work/restore.log" 2>&1 || die 'the restore failed'
    seconds=$(awk -v ns=$(($(now) - began)) 'BEGIN { printf "%.2f", ns / 1e9 }')
    peak=$(awk '/^VmHWM:/ { printf "%.0f", $2 / 1024 }' "/proc/${pids[owner]}/status")
    diff -r "$work/data" "$work/target$work/data" >/dev/null || die 'something else came back'
    rm -rf "$work/target"
    stop owner
    for name in "${holders[@]:0:$count}"; do stop "$name"; done
}

printf 'Measured %s on %s cores, all nodes on the same machine; %s MiB that do not compress.\n\n' "$(date +%F)" "$(nproc)" "$mib"
echo '| each line | from one, s | from three, s | MB/s | times faster | peak memory, MiB |'
echo '|---|--:|--:|--:|--:|--:|'
for rate in $rates; do
    shape "$rate"
    restored 1
    one=$seconds
    restored 3
    awk -v rate="$rate" -v one="$one" -v three="$seconds" -v mib="$mib" -v peak="$peak" \
        'BEGIN { printf "| %s | %s | %s | %.0f | %.2f | %s |\n", rate, one, three, mib * 1.048576 / three, one / three, peak }'
done
