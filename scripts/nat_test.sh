#!/usr/bin/env bash
# Two nodes behind routers of their own, and one member that both reach: a backup goes through that member, and the two find a
# direct way where their routers let them. Network namespaces stand for the machines, masquerading ones for the routers.
#
# usage: scripts/nat_test.sh        (root, `ip`, `nft`; exit code 77 where namespaces are not permitted)
#   SHADOWVAULT=/path     the program (default: target/release/shadowvault)
#   KEEP=1                leaves the working directory in place
set -euo pipefail
copies=1
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

need nft

# cable SPACE NAME SPACE NAME: a line between two machines.
cable() { ip link add "$2" netns "$tag-$1" type veth peer name "$4" netns "$tag-$3"; }
address() { ip -n "$tag-$1" address add "$3" dev "$2" && ip -n "$tag-$1" link set "$2" up; }

# The relay's machine is the public network: a bridge with a port for each router.
space relay
ip -n "$tag-relay" link add public type bridge
address relay public 10.99.0.1/24
number=1
for side in owner holder; do
    number=$((number + 1))
    space "$side"
    space "router-$side"
    cable "router-$side" out relay "port$number"
    ip -n "$tag-relay" link set "port$number" master public up
    address "router-$side" out "10.99.0.$number/24"
    cable "$side" home "router-$side" in
    address "router-$side" in "192.168.$number.1/24"
    address "$side" home "192.168.$number.2/24"
    ip -n "$tag-$side" route add default via "192.168.$number.1"
    in_space "router-$side" sysctl -qw net.ipv4.ip_forward=1
    # As routers at home do: hides what is behind, and lets in only what answers.
    in_space "router-$side" nft -f - <<'NFT'
table ip home {
    chain hide { type nat hook postrouting priority srcnat; oifname "out" masquerade; }
    chain own { type filter hook input priority filter; iifname "out" ct state new drop; }
    chain pass {
        type filter hook forward priority filter; policy drop;
        iifname "in" accept
        iifname "out" ct state established,related accept
    }
}
NFT
done

for name in owner holder relay; do under[$name]="ip netns exec $tag-$name"; done
# via NAME PEER: how NAME is connected to PEER.
via() { node "$1" peers --json | tr '{' '\n' | grep "\"name\": *\"$2\"" | grep -o '"via": *"[a-z]*"' | sed 's/.*"\([a-z]*\)"/\1/'; }

node owner init --phrase-out "$work/phrase" >"$work/init.log" 2>&1
node holder init --storage-only --lend 1GiB >>"$work/init.log" 2>&1
node relay init --storage-only --lend 0 >>"$work/init.log" 2>&1
# A call back that a router drops ends after this time.
SHADOWVAULT_P2P__CONNECTION_TIMEOUT=3s SHADOWVAULT_NAT_TRAVERSAL__SERVE_RELAY=true start relay
SHADOWVAULT_NAT_TRAVERSAL__ENABLE_HOLE_PUNCHING=false start owner
start holder
relay=$(where relay /10.99.0.1/tcp/)
for side in owner holder; do
    node relay peers add "$(where "$side" /192.168.)" --name "$side" >/dev/null 2>&1
    node "$side" peers add "$relay" --name relay >/dev/null 2>&1
done
hidden_owner=$(where owner p2p-circuit)
hidden_holder=$(where holder p2p-circuit)
echo "behind their routers they are reachable through the relay: $hidden_holder"
node holder peers add "$hidden_owner" --name owner >/dev/null 2>&1
node owner peers add "$hidden_holder" --name holder >/dev/null 2>&1

mkdir "$work/source"
back_up() {
    head -c 20000000 /dev/urandom >"$work/source/data"
    node owner backup --wait copies --wait-timeout 60s "$work/source" >"$work/backup.log" 2>&1 || die 'no copy within a minute'
    echo "backed up with a copy at the holder; connected: $(via owner holder)"
}
back_up
[ "$(via owner holder)" = relay ] || die 'without hole punching there is no direct way'

for _ in $(seq 150); do
    reached=$(node owner status | grep '^reached ') || true
    [ -z "$reached" ] || break
    sleep 0.1
done
grep -q 'through a relay only' <<<"${reached:-}" || die "the owner does not know that nobody outside reaches it: ${reached:-nothing}"
echo "the owner is told: $reached"

stop owner
start owner
for _ in $(seq 150); do
    [ "$(via owner holder)" != direct ] || break
    sleep 0.1
done
[ "$(via owner holder)" = direct ] || die 'no direct connection after 15 s'
echo 'a direct way was found'
back_up
node owner verify >"$work/verify.log" 2>&1 || die 'the vault is not sound'
