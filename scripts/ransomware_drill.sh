#!/usr/bin/env bash
# Ransomware drill: somebody has the owner's unlocked device for ten minutes, and everything comes back from two holders.
#
# An owner with two holders makes backups of a tree that changes. Then the attacker, with the device's keys, forgets every
# snapshot and collects at once, writes junk, and signs two branches of heads, until the time is over. The machine is
# destroyed. A new one recovers the vault as it was before the attack, from each of the holders alone, and every snapshot
# is restored and compared byte for byte. The new machine revokes the stolen device with the phrase and carries on what it
# had; the attacker, who still has a copy of the device, signs on: no holder takes it, and its own status says why. After
# that a recovery brings everything back again, whether or not it names a time. Anything that is missed ends this with
# a message and exit code 1.
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

# until_so WHAT SECONDS COMMAND...: waits until a command succeeds; WHAT says what did not come about.
until_so() {
    local what=$1 left=$(($2 * 5))
    shift 2
    until "$@"; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || die "$what"
        sleep 0.2
    done
}

# The id of the device that a list of devices begins with: that of the node which was asked.
first_id() { tr -d ' \n' | grep -o '"id":"[0-9a-f]*"' | sed -n '1s/.*"\([0-9a-f]*\)"$/\1/p'; }

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

stolen=$(node owner device list --json | first_id)
[ -n "$stolen" ] || die 'the owner does not list its own device'
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
rm -rf "$work/owner" "$source"
said 'the machine is destroyed; the attacker keeps the copy'

# restored NAME HOLDER: every snapshot is listed by a node and comes back as it was backed up.
restored() {
    local name=$1 holder=$2 id count=0
    for id in "${!version_of[@]}"; do
        ids "$name" | grep -q "^$id$" || die "snapshot $id did not come back from $holder"
        quiet node "$name" restore "$id:$source" --target "$work/out-$name-$id"
        diff -r "$work/version-${version_of[$id]}" "$work/out-$name-$id" >>"$work/steps.log" 2>&1 ||
            die "snapshot $id from $holder is not what was backed up"
        rm -rf "$work/out-$name-$id"
        count=$((count + 1))
    done
    [ "$count" = "$snapshots" ] || die "$count of $snapshots snapshots came back from $holder"
}

# recovered NAME HOLDER [OPTION...]: a new machine takes the vault from one holder alone, and restores everything.
recovered() {
    local name=$1 holder=$2 other=holder1
    shift 2
    [ "$holder" = holder1 ] && other=holder2
    stop "$other" KILL
    quiet node "$name" recover --peer "$(where "$holder")" --phrase-file "$work/phrase" "$@"
    restored "$name" "$holder"
    said "from $holder alone, \`recover${*:+ $*}\`: $snapshots of $snapshots snapshots, every byte the same"
    start "$other"
}
recovered new1 holder1 --at "$before"
recovered new2 holder2 --at "$before"

# heads_of HOLDER: heads of the stolen device that a holder has.
heads_of() { find "$work/$1/heads" -path "*/$stolen/*" -type f | sort; }
both_connected() { [ "$(node new1 peers --json | tr -d ' \n' | grep -o '"connected":true' | wc -l)" -ge 2 ]; }
carried_on() { node new1 device list --json | tr -d ' \n' | grep -q '"carried_on_by":"'; }
has_heard() { grep -q 'a device was revoked' "$work/$1-daemon.log"; }
says_revoked() { node clone status --json 2>/dev/null | grep -q 'this device was revoked'; }
start new1
for name in holder1 holder2; do quiet node new1 peers add "$(where "$name")"; done
heir=$(node new1 device list --json | first_id)
until_so 'the holders do not connect' 60 both_connected
quiet node new1 device revoke "$stolen" --heir "$heir" --before "$before" --phrase-file "$work/phrase"
for name in holder1 holder2; do until_so "$name was not told of the revocation" 60 has_heard "$name"; done
until_so 'the new device does not carry on what the stolen one had' 60 carried_on
said 'the stolen device is revoked with the phrase, both holders know, and the new machine carries on what it had'

# What the attacker signs before the copy has heard of it, and after.
heads_of holder1 >"$work/heads-holder1"
heads_of holder2 >"$work/heads-holder2"
mkdir -p "$source"
head -c 100000 /dev/urandom >"$source/junk"
quiet node clone backup "$source"
start clone
for name in holder1 holder2; do node clone peers add "$(where "$name")" >>"$work/steps.log" 2>&1 || true; done
until_so 'the stolen device does not say that it is revoked' 60 says_revoked
! node clone backup "$source" >>"$work/steps.log" 2>&1 || die 'the stolen device still makes backups'
sleep 2
for name in holder1 holder2; do
    heads_of "$name" | comm -13 "$work/heads-$name" - >"$work/new-heads"
    [ ! -s "$work/new-heads" ] || die "$name took a head that the revoked device signed"
done
stop clone KILL
rm -rf "$source"
said 'what the stolen device signs is refused by both holders, and its status says why'

recovered new3 holder2
recovered new4 holder1 --at "$before"
said "RESULT: 100 % of $snapshots snapshots came back from each of two holders, four times, and the stolen device is out"
