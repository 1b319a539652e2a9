# Sourced by the scripts beside it: a directory of one's own, nodes that end with the script, and comparing trees.
# shellcheck shell=bash

exec 3>&2 # where messages go, whatever a step does with its own output
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
program=${SHADOWVAULT:-${CARGO_TARGET_DIR:-$root/target}/release/shadowvault}
[ -x "$program" ] || { echo "$program is not there: run \`make build\`, or set SHADOWVAULT=/path" >&2; exit 2; }
program=$(cd "$(dirname "$program")" && pwd)/$(basename "$program")

# Nothing of the caller's own node may take part.
for name in $(compgen -e SHADOWVAULT_) RUNTIME_DIRECTORY CREDENTIALS_DIRECTORY; do unset "$name"; done

work=$(mktemp -d "${TMPDIR:-/tmp}/shadowvault-$(basename "$0" .sh).XXXXXX")
export XDG_CONFIG_HOME=$work/config XDG_RUNTIME_DIR=$work SHADOWVAULT_PASSPHRASE_FILE=$work/passphrase
export SHADOWVAULT_LISTEN_PORT=0 SHADOWVAULT_METRICS_PORT=0 SHADOWVAULT_MONITORING__HEALTH_CHECK_PORT=0 SHADOWVAULT_REPLICATION__COPIES="${copies:-2}"
export SHADOWVAULT_NAT_TRAVERSAL__ENABLE_MDNS=false SHADOWVAULT_NAT_TRAVERSAL__ENABLE_UPNP=false
export SHADOWVAULT_MONITORING__LOG_LEVEL=warn SHADOWVAULT_MONITORING__LOG_FORMAT=text
(umask 077 && echo 'correct horse battery staple' >"$work/passphrase")
declare -A pids=()
# A command that a node runs under, by its name.
declare -A under=()
# Network namespaces that end with the script.
tag=sv$$
spaces=()

cleanup() {
    local status=$? name
    trap - EXIT
    for name in "${!pids[@]}"; do kill -9 "${pids[$name]}" 2>/dev/null || true; done
    wait 2>/dev/null || true
    for name in "${spaces[@]}"; do ip netns del "$name" 2>/dev/null || true; done
    if [ -n "${KEEP:-}" ]; then echo "kept: $work" >&2; else chmod -R u+rwX "$work" 2>/dev/null; rm -rf "$work"; fi
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# die MESSAGE: says what went wrong, with the end of every log.
die() {
    local log
    {
        echo
        echo "FAILED: $*"
        for log in "$work"/*.log; do
            [ -s "$log" ] || continue
            echo "--- end of $(basename "$log")"
            tail -n 15 "$log"
        done
    } >&3
    exit 1
}

# need COMMAND...: ends the script where one is not there, or where network namespaces are not permitted.
need() {
    local command
    for command in ip "$@"; do
        command -v "$command" >/dev/null || { echo "skipped: $command is not there" >&2; exit 77; }
    done
    ip netns add "$tag-try" 2>/dev/null || { echo 'skipped: network namespaces are not permitted here' >&2; exit 77; }
    ip netns del "$tag-try"
}

# space NAME: a machine of its own on the network.
space() { ip netns add "$tag-$1" && spaces+=("$tag-$1") && ip -n "$tag-$1" link set lo up; }
in_space() { ip netns exec "$tag-$1" "${@:2}"; }

# node NAME ARGUMENT...: one command of a node, with its own data directory and configuration.
node() {
    local name=$1
    shift
    # shellcheck disable=SC2086
    ${under[$name]:-} "$program" -c "$work/$name.yaml" --repo "$work/$name" --no-input "$@"
}

# start NAME: runs a node's daemon until the script ends.
start() {
    local name=$1
    # One that a killed daemon left behind says nothing about the next.
    rm -f "$work/$name/control.sock"
    # The pid must be the daemon's own, not that of a shell around it, and the daemon must not hold our messages open.
    # shellcheck disable=SC2086
    (exec ${under[$name]:-} "$program" -c "$work/$name.yaml" --repo "$work/$name" --no-input daemon) </dev/null >"$work/$name-daemon.log" 2>&1 3>&- &
    pids[$name]=$!
    for _ in $(seq 200); do
        kill -0 "${pids[$name]}" 2>/dev/null || die "the daemon of $name ended"
        # Only once there is a socket: a command that finds none opens the store itself.
        if [ -S "$work/$name/control.sock" ] && node "$name" id >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    die "the daemon of $name did not come up within 20 s"
}

# stop NAME [SIGNAL]: ends a node's daemon, by TERM where nothing else is said, and waits for its end.
stop() {
    kill "-${2:-TERM}" "${pids[$1]}" 2>/dev/null || true
    wait "${pids[$1]}" 2>/dev/null || true
    unset "pids[$1]"
}

# where NAME [PATTERN]: the first of a node's addresses that looks like that, once there is one; the one on loopback.
where() {
    local found pattern=${2:-'^/ip4/127\.0\.0\.1/tcp/[0-9]*/p2p/[A-Za-z0-9]*$'}
    for _ in $(seq 100); do
        found=$(node "$1" id --json | grep -o '"/ip4/[^"]*"' | tr -d '"' | grep -e "$pattern" | head -n 1) || true
        if [ -n "$found" ]; then
            echo "$found"
            return
        fi
        sleep 0.1
    done
    die "$1 has no address like $pattern after 10 s"
}

# field NAME: a value of the last JSON document on stdin that has it.
field() {
    grep -o "\"$1\": *[^,}]*" | tail -n 1 | sed 's/^[^:]*: *//; s/[" ]//g'
}

# compare A B: fails and shows the first differences unless both trees are equal, byte for byte and in metadata.
compare() {
    local differences=$work/differences.log owners=-og
    [ "$(id -u)" = 0 ] || owners=--no-owner
    if command -v rsync >/dev/null; then
        rsync -rlptD $owners -HAXn --numeric-ids --delete --checksum --itemize-changes "$1/" "$2/" >"$differences" 2>&1
    else
        echo 'note: rsync is not there, so contents are compared and metadata is not' >&2
        diff -r --no-dereference "$1" "$2" >"$differences" 2>&1
    fi && [ ! -s "$differences" ]
}

now() { date +%s%N; }
