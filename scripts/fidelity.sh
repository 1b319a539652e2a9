#!/usr/bin/env bash
# What comes back equals what went in: backs up real trees and an odd one, restores them, compares everything.
#
# usage: scripts/fidelity.sh [DIR...]     (default: /usr/share /etc ~/.cargo/registry/src, and a tree of oddities)
#   SHADOWVAULT=/path     the program (default: target/release/shadowvault)
#   KEEP=1                leaves the working directory (below TMPDIR) in place
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

# Names, types and attributes that copying tools get wrong.
make_odd() {
    local dir=$1
    mkdir -p "$dir/deep/$(printf 'd/%.0s' {1..60})" "$dir/empty"
    printf 'x' >"$dir/$(printf 'not\xffutf8')"
    printf 'x' >"$dir/$(printf 'line\nbreak')"
    printf 'x' >"$dir/ leading and trailing "
    printf 'x' >"$dir/$(printf 'n%.0s' {1..255})"
    : >"$dir/empty file"
    ln -s nowhere "$dir/dangling"
    ln -s "$(printf 'l%.0s' {1..1000})" "$dir/long link"
    printf 'linked' >"$dir/first"
    ln "$dir/first" "$dir/second"
    ln "$dir/dangling" "$dir/second dangling"
    truncate -s 100M "$dir/holes"
    printf 'middle' | dd of="$dir/holes" bs=1 seek=50000000 conv=notrunc status=none
    mkfifo "$dir/fifo"
    chmod 4755 "$dir/first"
    chmod 1777 "$dir/empty"
    mkdir -m 0500 "$dir/read only"
    touch -h -d '1901-12-14 01:02:03.123456789 UTC' "$dir/dangling"
    touch -d '2099-01-02 03:04:05.987654321 UTC' "$dir/empty file"
    if command -v setfattr >/dev/null; then
        setfattr -n user.note -v "$(printf 'v%.0s' {1..3000})" "$dir/first" "$dir/empty"
    fi
    if command -v setfacl >/dev/null; then
        setfacl -m u:1:r,g:2:rx "$dir/first"
        setfacl -d -m u:1:rwx "$dir/empty"
    fi
    if [ "$(id -u)" = 0 ]; then
        chown 12345:54321 "$dir/second" "$dir/read only"
        chown -h 7:8 "$dir/long link"
        mknod "$dir/null" c 1 3 2>/dev/null && mknod "$dir/block" b 7 200 || echo 'note: no device nodes here' >&2
        setfattr -n trusted.note -v x "$dir/empty file" 2>/dev/null || echo 'note: no trusted attributes here' >&2
        ! command -v setcap >/dev/null || setcap cap_net_raw+ep "$dir/$(printf 'not\xffutf8')"
    fi
    touch -d '2001-02-03 04:05:06.000000007 UTC' "$dir/deep" "$dir"
}

dirs=("$@")
((${#dirs[@]})) || dirs=(/usr/share /etc "${CARGO_HOME:-$HOME/.cargo}/registry/src")
make_odd "$work/odd"
dirs+=("$work/odd")

options=()
[ "$(id -u)" = 0 ] || options=(--no-owner --no-privileged)
node local init --phrase-out "$work/phrase" >"$work/init.log" 2>&1 || die 'init'
failed=0
for dir in "${dirs[@]}"; do
    if [ ! -d "$dir" ]; then
        echo "skipped: $dir is not there"
        continue
    fi
    dir=$(cd "$dir" && pwd -P)
    from=$(now)
    node local backup --json "$dir" >"$work/backup.out" 2>"$work/backup.log" || die "backup of $dir: exit code $?"
    node local restore "latest:$dir" --target "$work/out" "${options[@]}" --json >"$work/restore.out" 2>"$work/restore.log" ||
        die "restore of $dir: exit code $?"
    files=$(field total_files_processed <"$work/backup.out")
    bytes=$(field total_bytes_processed <"$work/backup.out")
    seconds=$((($(now) - from) / 1000000000))
    if compare "$dir" "$work/out"; then
        echo "equal:   $dir ($files files, $((bytes / 1000000)) MB, $seconds s)"
    else
        echo "DIFFERS: $dir"
        head -n 40 "$work/differences.log"
        failed=1
    fi
    chmod -R u+rwX "$work/out"
    rm -rf "$work/out"
done
node local verify >"$work/verify.log" 2>&1 || die "verify: exit code $?"
echo 'verify:  all sound'
exit "$failed"
