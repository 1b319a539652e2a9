#!/usr/bin/env bash
# How fast packs reach a holder on this machine, beside what bare libp2p moves in the same run; prints Markdown.
#
# usage: scripts/mesh_bench.sh       (its last two parts need root and network namespaces)
#   MIB=2048              incompressible data to be pulled; half of it over a line that takes time (far_bench.py)
#   FILES=100000          files of 4 KiB that are pulled as well, and the same bytes in one file
#   RAW="COMMAND"         prints the raw rate in bytes/s (default: cargo bench --bench wire)
#   SHADOWVAULT=/path     the program (default: target/release/shadowvault)
#   TMPDIR=/dir           where all of it goes: about four times MIB
#
# The owner has made its backup before the holder starts, so that only pulling is timed: from the holder's start until the
# owner has receipts for everything. A holder verifies and flushes each pack before it signs.
set -euo pipefail
copies=1
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

mib=${MIB:-2048}
files=${FILES:-100000}

# make_data DIR KIND: `large` (MIB in four files), `many` (FILES of 4 KiB), `one` (the same bytes as `many`).
make_data() {
    python3 - "$1" "$2" "$mib" "$files" <<'PYTHON'
import os, random, sys
top, kind, mib, files = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
os.makedirs(top)
dice = random.Random(5)
if kind == "large":
    for number in range(4):
        with open(f"{top}/{number}", "wb") as file:
            for _ in range(mib // 4):
                file.write(dice.randbytes(1 << 20))
elif kind == "many":
    for number in range(files):
        if number % 1000 == 0:
            os.makedirs(f"{top}/{number // 1000}")
        with open(f"{top}/{number // 1000}/{number}", "wb") as file:
            file.write(dice.randbytes(4096))
else:
    with open(f"{top}/all", "wb") as file:
        for _ in range(files):
            file.write(dice.randbytes(4096))
PYTHON
}

# pulled KIND: backs the data up, then times how long a holder takes to have and confirm all of it. Sets `seconds`,
# `bytes` and `peak`.
pulled() {
    local kind=$1 began owner=owner-$1 holder=holder-$1
    make_data "$work/data-$kind" "$kind"
    node "$owner" init --phrase-out "$work/phrase-$kind" >"$work/init.log" 2>&1
    node "$holder" init --storage-only --lend 100GiB >"$work/init.log" 2>&1
    start "$owner"
    start "$holder"
    node "$owner" peers add "$(where "$holder")" --name holder >/dev/null
    node "$holder" peers add "$(where "$owner")" --name owner >/dev/null
    stop "$holder"
    # Stored here, not yet at enough peers.
    node "$owner" backup "$work/data-$kind" >"$work/backup.log" 2>&1 || true
    rm -rf "$work/data-$kind"
    bytes=$(find "$work/$owner/packs" -type f ! -name '*.cells' -printf '%s\n' | awk '{ sum += $1 } END { printf "%d", sum }')
    sync
    began=$(now)
    start "$holder"
    node "$holder" peers list >/dev/null
    for _ in $(seq 3000); do
        [ "$(node "$owner" snapshots --json | field copies)" != 1 ] || break
        sleep 0.1
    done
    seconds=$(awk -v ns=$(($(now) - began)) 'BEGIN { printf "%.2f", ns / 1e9 }')
    [ "$(node "$owner" snapshots --json | field copies)" = 1 ] || die "$kind: the holder does not have everything after 5 minutes"
    peak=$(awk '/VmHWM/ { print int(($2 + 1023) / 1024) }' "/proc/${pids[$holder]}/status")
    for name in "$owner" "$holder"; do
        stop "$name"
        rm -rf "${work:?}/$name"
    done
}

rate() { awk -v bytes="$1" -v seconds="$2" 'BEGIN { printf "%.0f", bytes / seconds / 1e6 }'; }

raw=$(cd "$root" && ${RAW:-cargo bench -q --locked --bench wire})
printf 'Measured %s on %s cores, both nodes on the same machine.\n\n' "$(date +%F)" "$(nproc)"
echo '| what | MB | s | MB/s | ÷ raw | peak memory of the holder, MiB |'
echo '|---|--:|--:|--:|--:|--:|'
printf '| bare libp2p, 1 MiB answers, 8 in flight | %d | %s | %s | 1.00 | |\n' 2147 \
    "$(awk -v raw="$raw" 'BEGIN { printf "%.2f", 2147483648 / raw }')" "$(rate "$raw" 1)"
declare -A took=()
for kind in large many one; do
    pulled "$kind"
    took[$kind]=$seconds
    case $kind in
    large) what="$mib MiB that do not compress" ;;
    many) what="$files files of 4 KiB" ;;
    one) what='the same bytes in one file' ;;
    esac
    printf '| %s | %d | %s | %s | %s | %s |\n' "$what" $((bytes / 1000000)) "$seconds" "$(rate "$bytes" "$seconds")" \
        "$(awk -v mine="$bytes" -v s="$seconds" -v raw="$raw" 'BEGIN { printf "%.2f", mine / s / raw }')" "$peak"
done
# Where network namespaces are not permitted there is no such row.
MIB=$((mib / 2)) RAW=$raw "$root/scripts/far_bench.py" || [ $? = 77 ]
awk -v many="${took[many]}" -v one="${took[one]}" \
    'BEGIN { printf "\nMany small files ÷ the same bytes in one file, time: %.2f\n", many / one }'
if idle=$("$root/scripts/idle_mesh.py"); then
    printf '\nA mesh with nothing to do, bytes a second over each node'"'"'s network card, sent and received:\n\n'
    printf '| nodes | mean | highest |\n|--:|--:|--:|\n%s\n' "$idle"
fi
