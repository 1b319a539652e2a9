#!/usr/bin/env bash
# What checks and repair cost on this machine; prints Markdown.
#
# usage: scripts/checks_bench.sh
#   MIB=2048              incompressible data in the store
#   RANGES=100            places that are damaged, each in another spot of the owner's packs
#   SCRUB_SECONDS=150     how long a scrub without a pause between its rounds is watched
#   SHADOWVAULT=/path     the program (default: target/release/shadowvault)
#   TMPDIR=/dir           where all of it goes: about three times MIB
set -euo pipefail
copies=1
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

mib=${MIB:-2048}
ranges=${RANGES:-100}
scrub_seconds=${SCRUB_SECONDS:-150}

# timed COMMAND...: runs it and sets `seconds`; its output goes to $work/out.
timed() {
    local began
    began=$(now)
    "$@" >"$work/out" 2>"$work/timed.log" || die "$* ended with $?"
    seconds=$(awk -v ns=$(($(now) - began)) 'BEGIN { printf "%.2f", ns / 1e9 }')
}
# quickest COMMAND...: the same, of three runs the quickest.
quickest() {
    local best=''
    for _ in 1 2 3; do
        timed "$@"
        best=$(printf '%s\n' "$seconds" ${best:+"$best"} | sort -n | head -n 1)
    done
    seconds=$best
}
rate() { awk -v bytes="$1" -v s="$2" 'BEGIN { printf "%.0f", bytes / 1e6 / s }'; }
cpu_ticks() { awk '{ print $14 + $15 }' "/proc/${pids[$1]}/stat"; }

node owner init --phrase-out "$work/phrase" >"$work/init.log" 2>&1
node holder init --storage-only --lend 100GiB >"$work/init.log" 2>&1
start owner
start holder
node owner peers add "$(where holder)" --name holder >"$work/init.log" 2>&1
node holder peers add "$(where owner)" --name owner >"$work/init.log" 2>&1
head -c "$((mib << 20))" /dev/urandom >"$work/data"
node owner backup --wait copies --wait-timeout 10m "$work/data" >"$work/backup.log" 2>&1 || die 'no copy within ten minutes'
# Repair is to come from the holder, not from the file.
rm "$work/data"
mapfile -t packs < <(find "$work/owner/packs" -type f ! -name '*.cells' | sort)
bytes=$(cat "${packs[@]}" | wc -c)

echo "| what | result |"
echo "|---|---|"
quickest node owner verify --quick
echo "| \`verify --quick\` of $((bytes / 1000000)) MB in ${#packs[@]} packs, command and all | $seconds s |"
quickest node owner verify
echo "| \`verify\`: every byte read, opened, its id recomputed | $seconds s, $(rate "$bytes" "$seconds") MB/s |"

python3 - "$ranges" "${packs[@]}" <<'PYTHON'
import os, random, sys
count, packs = int(sys.argv[1]), sys.argv[2:]
dice = random.Random(7)
for number in range(count):
    pack = packs[number % len(packs)]
    at = dice.randrange(os.path.getsize(pack))
    with open(pack, "r+b") as file:
        file.seek(at)
        old = file.read(1)
        file.seek(at)
        file.write(bytes([old[0] ^ 0x10]))
PYTHON
timed node owner verify --repair --yes --json
fetched=$(field bytes_fetched <"$work/out")
mended=$(field repaired_chunks <"$work/out")
echo "| $ranges bytes changed all over it: \`verify --repair\` | $seconds s, $mended chunks mended, $(awk -v b="$fetched" -v n="$ranges" 'BEGIN { printf "%.2f MiB", b / n / 1048576 }') fetched for each |"
timed node owner verify
stop owner
stop holder

# A round over everything within the shortest interval that there is, so that the scrub has always something to do.
SHADOWVAULT_STORAGE__SCRUB_INTERVAL=1h start holder
sleep 5
before=$(cpu_ticks holder)
sleep "$scrub_seconds"
used=$(($(cpu_ticks holder) - before))
echo "| a holder that scrubs these packs within an hour, watched for $scrub_seconds s | $(awk -v t="$used" -v hz="$(getconf CLK_TCK)" -v s="$scrub_seconds" 'BEGIN { printf "%.1f %%", 100 * t / hz / s }') of one core |"
