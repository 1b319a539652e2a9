#!/usr/bin/env bash
# Backup, damage, repair, loss and recovery with four nodes on this machine; compares what comes back.
#
# usage: scripts/demo.sh
#   DEMO_DIR=/usr/share   what is backed up: at least 500 MB
#   SHADOWVAULT=/path     the program (default: target/release/shadowvault)
#   KEEP=1                leaves the working directory (below TMPDIR) in place
set -euo pipefail
copies=2
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

megabytes() { { du -s --apparent-size -B1000000 "$1" 2>/dev/null || true; } | awk 'END { print $1 + 0 }'; }

source=${DEMO_DIR:-}
for candidate in /usr/share /usr/lib /usr; do
    [ -z "$source" ] || break
    [ "$(megabytes "$candidate")" -lt 500 ] || source=$candidate
done
[ -d "$source" ] || die "there is no directory of at least 500 MB: set DEMO_DIR"
source=$(cd "$source" && pwd -P)
size=$(megabytes "$source")
[ "$size" -ge 500 ] || die "$source has $size MB; the demo wants at least 500"
free=$(df -P -B1000000 "$work" | awk 'NR == 2 { print $4 }')
[ "$free" -ge $((size * 5)) ] || die "$work has $free MB free; $((size * 5)) are needed: set TMPDIR"

# step WHAT EXIT COMMAND...: runs it, expects that exit code, keeps its output and time. `result` tells what came of it.
rows=()
began=$(now)
step() {
    local what=$1 want=$2 got=0 from
    shift 2
    printf '%-62s' "$what ..."
    from=$(now)
    "$@" >"$work/step.out" 2>"$work/step.log" || got=$?
    took=$((($(now) - from) / 1000000))
    printf '%5d.%d s\n' $((took / 1000)) $((took % 1000 / 100))
    [ "$got" = "$want" ] || { cat "$work/step.out" >&2; die "$what: exit code $got instead of $want"; }
}
# result WHAT BYTES: a row of the table, with the time of the last step.
result() {
    rows+=("$(awk -v what="$step_name" -v note="$1" -v bytes="${2:-0}" -v ms="$took" 'BEGIN {
        mb = bytes / 1e6; s = ms / 1000
        printf "%-26s %-42s %8.1f %9s %8s", what, note, s, mb ? sprintf("%.1f", mb) : "",
            mb && s ? sprintf("%.0f", mb / s) : "" }')")
}

echo "ShadowVault demo: $source ($size MB), one owner and three holders on loopback, $copies copies wished"
step_name='make four nodes'
make_nodes() {
    local name
    node owner init --phrase-out "$work/phrase"
    for name in holder1 holder2 holder3; do node "$name" init --storage-only --lend 10GiB; done
}
step "$step_name" 0 make_nodes
result '24 words written down'

step_name='start and pair them'
declare -A address=()
pair_nodes() {
    local name
    for name in owner holder1 holder2 holder3; do start "$name"; done
    address[owner]=$(where owner)
    for name in holder1 holder2 holder3; do
        address[$name]=$(where "$name")
        node owner peers add "${address[$name]}" --name "$name"
        node "$name" peers add "${address[owner]}" --name owner
    done
}
step "$step_name" 0 pair_nodes
result 'each side allows the other'

step_name='back up with copies'
step "$step_name" 0 node owner backup --wait copies --wait-timeout 120s --json "$source"
bytes=$(field total_bytes_processed <"$work/step.out")
result "$(field total_files_processed <"$work/step.out") files, copies $(field copies <"$work/step.out") of $(field copies_wanted <"$work/step.out")" "$bytes"
stored=$(field data_added_packed <"$work/step.out")

step_name='look at it'
look() { node owner status && node owner snapshots; }
step "$step_name" 0 look
result "stored $((stored / 1000000)) MB at the owner"
echo
cat "$work/step.out"
echo

step_name='damage the owner'
damage() {
    local packs=() pack
    mapfile -t packs < <(find "$work/owner/packs" -type f ! -name '*.cells' | sort)
    [ "${#packs[@]}" -ge 8 ] || die "the owner has ${#packs[@]} packs only"
    for pack in "${packs[@]:0:5}"; do
        dd if=/dev/urandom of="$pack" bs=64 count=1 seek=$(($(stat -c %s "$pack") / 128)) conv=notrunc status=none
    done
    rm "${packs[6]}" "${packs[7]}"
}
step "$step_name" 0 damage
result 'bytes altered in 5 packs, 2 packs deleted'
step_name='verify'
step "$step_name: finds it" 5 node owner verify --json
result "exit 5: $(field health_percentage <"$work/step.out") % of the snapshots sound" "$stored"
step_name='verify --repair'
step "$step_name" 0 node owner verify --repair --json
fetched=$(field bytes_fetched <"$work/step.out")
result "exit 0: $(field repaired_packs <"$work/step.out") packs, $(field repaired_chunks <"$work/step.out") chunks mended" "$fetched"
step_name='verify again'
step "$step_name" 0 node owner verify --json
result "exit 0: $(field health_percentage <"$work/step.out") % sound" "$stored"

step_name='lose the owner'
lose() {
    kill -9 "${pids[owner]}"
    wait "${pids[owner]}" 2>/dev/null || true
    ! kill -0 "${pids[owner]}" 2>/dev/null || die 'the owner still runs'
    unset 'pids[owner]'
    rm -rf "$work/owner" "$work/owner.yaml"
}
step "$step_name" 0 lose
result 'kill -9, data directory deleted'

chosen=holder$((RANDOM % 3 + 1))
step_name='recover'
step "$step_name from the 24 words and $chosen" 0 node new recover --peer "${address[$chosen]}" --phrase-file "$work/phrase" --json
result "a new machine, 24 words, and $chosen"
step_name='restore'
owner_option=()
[ "$(id -u)" = 0 ] || owner_option=(--no-owner --no-privileged)
step "$step_name from the holders" 0 node new restore "latest:$source" --target "$work/out" "${owner_option[@]}" --json
restored=$(field bytes_restored <"$work/step.out")
fetched=$(field bytes_fetched <"$work/step.out")
result "$(field files_restored <"$work/step.out") files, $((fetched / 1000000)) MB pulled" "$restored"
step_name='compare'
step "$step_name with $source" 0 compare "$source" "$work/out"
result 'every byte and all metadata equal' "$bytes"

took=$((($(now) - began) / 1000000))
step_name=total
result 'nothing was lost'
echo
printf '%-26s %-42s %8s %9s %8s\n' step 'what happened' seconds MB MB/s
printf -- '-%.0s' {1..97}
echo
printf '%s\n' "${rows[@]}"
