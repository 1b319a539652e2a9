#!/usr/bin/env bash
# Ransomware drill: somebody has the owner's unlocked device for ten minutes, and everything comes back from two holders.
#
# An owner with two holders makes backups of a tree that changes. Then the attacker, with the device's keys, forgets every
# snapshot and collects at once, writes junk, and signs two branches of heads, until the time is over. The machine is
# destroyed. A new one recovers the vault as it was before the attack, from each of the holders alone, and every snapshot
# is restored and compared byte for byte.
#
# usage: scripts/ransomware_drill.sh
#   ATTACK_SECONDS=600     how long the attacker has the device (30 shows within two minutes whether everything works)
#   SNAPSHOTS=6            backups before that
#   FILES=200              files in the tree, of 20 to 200 KiB
#   SHADOWVAULT=/path      the program (default: target/release/shadowvault)
#   KEEP=1                 leaves the working directory (below TMPDIR) in place
set -euo pipefail
copies=2
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

attack_seconds=${ATTACK_SECONDS:-600}
snapshots=${SNAPSHOTS:-6}
files=${FILES:-200}
source=$work/source

said() { printf '%7.1f s  %s\n' "$(awk -v ns=$(($(now) - began)) 'BEGIN { print ns / 1e9 }')" "$*"; }
# quiet COMMAND...: runs it and keeps what it says; a failure ends the drill.
quiet() { "$@" >>"$work/steps.log" 2>&1 || die "$*"; }
began=$(now)

# The tree in its version so: a third of the files change each time.
make_version() {
    local version=$1 file
    mkdir -p "$source"
    for file in $(seq "$files"); do
        if [ "$version" = 1 ] || [ $(((file + version) % 3)) = 0 ]; then
            head -c $((20000 + (file * 7919 + version * 104729) % 180000)) /dev/urandom >"$source/$file"
        fi
    done
}

ids() { node "$1" snapshots --json | grep -o '"id": *"[0-9a-f]*"' | sed 's/.*"\([0-9a-f]*\)"$/\1/'; }

quiet node owner init --phrase-out "$work/phrase"
for name in holder1 holder2; do quiet node "$name" init --storage-only --lend 20GiB; done
for name in owner holder1 holder2; do start "$name"; done
for name in holder1 holder2; do
    quiet node owner peers add "$(where "$name")" --name "$name"
    quiet node "$name" peers add "$(where owner)" --name owner
done
declare -A version_of=()
for version in $(seq "$snapshots"); do
    make_version "$version"
    node owner backup --wait copies --wait-timeout 120s --json "$source" >"$work/backup.out" 2>>"$work/steps.log" ||
        die "backup $version did not get its copies"
    version_of[$(field snapshot_id <"$work/backup.out")]=$version
    cp -a "$source" "$work/version-$version"
done
said "$snapshots snapshots, two copies of each"
# Holders go by when they received a head, to the millisecond; the attack begins later than that.
sleep 2
before=$(date -u +%FT%TZ)
sleep 1

# The attacker also takes a copy of the whole device, to sign a second branch of heads with.
stop owner KILL
cp -a "$work/owner" "$work/clone"
cp "$work/owner.yaml" "$work/clone.yaml" 2>/dev/null || true
start owner
rounds=0 end=$(($(date +%s) + attack_seconds))
while :; do
    rounds=$((rounds + 1))
    for id in $(ids owner); do quiet node owner forget "$id" --yes; done
    quiet node owner gc --now
    rm -rf "$source"
    mkdir "$source"
    for file in $(seq 20); do head -c 100000 /dev/urandom >"$source/encrypted-$file"; done
    node owner backup --wait copies --wait-timeout 30s "$source" >>"$work/steps.log" 2>&1 || true
    [ "$(date +%s)" -lt "$end" ] || break
    sleep 1
done
said "the attacker forgot, collected and wrote junk $rounds times"
# The copy goes on from the head before the attack: another branch.
stop owner KILL
for id in $(ids clone); do quiet node clone forget "$id" --yes; done
quiet node clone gc --now
quiet node clone backup "$source"
start clone
sleep 5
# It may well say that copies are missing.
node clone status --json >>"$work/steps.log" 2>&1 || true
said 'and signed a second branch of heads with a copy of the device'
stop clone KILL
rm -rf "$work/owner" "$work/clone" "$source"
said 'the machine is destroyed'

# recovered NAME HOLDER: a new machine takes the vault as it was from one holder alone, and restores everything.
recovered() {
    local name=$1 holder=$2 other=$3 id count=0
    stop "$other" KILL
    quiet node "$name" recover --peer "$(where "$holder")" --phrase-file "$work/phrase" --at "$before"
    for id in "${!version_of[@]}"; do
        ids "$name" | grep -q "^$id$" || die "snapshot $id did not come back from $holder"
        quiet node "$name" restore "$id:$source" --target "$work/out-$name-$id"
        diff -r "$work/version-${version_of[$id]}" "$work/out-$name-$id" >>"$work/steps.log" 2>&1 ||
            die "snapshot $id from $holder is not what was backed up"
        rm -rf "$work/out-$name-$id"
        count=$((count + 1))
    done
    [ "$count" = "$snapshots" ] || die "$count of $snapshots snapshots came back from $holder"
    said "from $holder alone: $count of $snapshots snapshots, every byte the same"
    start "$other"
}
recovered new1 holder1 holder2
recovered new2 holder2 holder1

said "100 % of the snapshots came back from two holders"
