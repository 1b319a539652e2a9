#!/usr/bin/env bash
# What comes back equals what went in: backs up trees, restores them, and lets other tools compare.
#
# usage: scripts/fidelity.sh [DIR...]       (default: /usr/share /etc ~/.cargo/registry/src, and a tree of oddities)
#        scripts/fidelity.sh --loop [ext4|xfs|btrfs|overlay]...
#                                           the oddities on images of their own (ext4, and what else there are tools for),
#                                           where every attribute works, compared by rsync, find, stat, getfacl, getfattr,
#                                           filefrag and du; and restored from a repository that can be read only
#        scripts/fidelity.sh --matrix       13 kinds of entries, 4 rules of --overwrite, 6 states of what is there
#        scripts/fidelity.sh --fold         names that are one to the target's file system (scripts/folding_fs.py): the second
#                                           is named and left out, whatever is overwritten
#        scripts/fidelity.sh --self-test    whether that comparison sees each difference between a tree and a copy
#   SHADOWVAULT=/path     the program (default: target/release/shadowvault)
#   KEEP=1                leaves the working directory (below TMPDIR) in place
#
# The image is mounted in a mount namespace of its own, so it goes with the script however that ends. Exit code 77,
# with the reason, where this machine or user cannot do that.
set -euo pipefail

skip() { echo "skipped: $*" >&2 && exit 77; }

mode=directories
case ${1:-} in
--loop | --self-test | --matrix)
    mode=${1#--}
    if [ -z "${FIDELITY_NAMESPACE:-}" ]; then
        [ "$(id -u)" = 0 ] || skip 'only root can mount an image'
        for tool in unshare mkfs.ext4 mount rsync getfacl setfacl getfattr setfattr filefrag python3; do
            command -v "$tool" >/dev/null || skip "$tool is not installed"
        done
        unshare --mount true 2>/dev/null || skip 'mount namespaces are not permitted'
        FIDELITY_NAMESPACE=1 exec unshare --mount --propagation private "$0" "$@"
    fi
    shift
    ;;
--fold)
    mode=fold
    if [ -z "${FIDELITY_NAMESPACE:-}" ]; then
        [ "$(id -u)" = 0 ] || skip 'only root can mount a file system'
        [ -c /dev/fuse ] || skip '/dev/fuse is not there'
        command -v python3 >/dev/null || skip 'python3 is not installed'
        unshare --mount true 2>/dev/null || skip 'mount namespaces are not permitted'
        FIDELITY_NAMESPACE=1 exec unshare --mount --propagation private "$0" "$@"
    fi
    ;;
esac
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

note() { echo "note: $*" >&2; }

# Names, types and attributes that copying tools get wrong. Last come the times, which everything before would move.
make_odd() {
    local dir=$1
    mkdir -p "$dir/deep/$(printf 'd/%.0s' {1..60})" "$dir/empty" "$dir/other/side" "$dir/shared"
    make_odd_names "$dir"
    make_odd_links "$dir"
    make_odd_holes "$dir"
    make_odd_modes "$dir"
    make_odd_attributes "$dir"
    [ "$(id -u)" != 0 ] || make_odd_as_root "$dir"
    touch -h -d '1901-12-14 01:02:03.123456789 UTC' "$dir/dangling"
    touch -d '1969-12-31 23:59:59.999999999 UTC' "$dir/before the epoch"
    touch -d '2099-01-02 03:04:05.987654321 UTC' "$dir/empty file"
    touch -d '2038-01-19 03:14:08.000000001 UTC' "$dir/fifo"
    touch -d '2001-02-03 04:05:06.000000007 UTC' "$dir/deep" "$dir/read only" "$dir"
}

make_odd_names() {
    local dir=$1
    printf 'x' >"$dir/$(printf 'not\xffutf8')"
    printf 'x' >"$dir/$(printf 'line\nbreak')"
    printf 'x' >"$dir/ leading and trailing "
    printf 'x' >"$dir/-option"
    printf 'x' >"$dir/\\back*slash?[a]"
    printf 'x' >"$dir/$(printf 'n%.0s' {1..255})"
    printf 'x' >"$dir/deep/$(printf 'd/%.0s' {1..60})leaf"
    printf 'x' >"$dir/before the epoch"
    : >"$dir/empty file"
    # Large enough for many chunks; the same bytes every time.
    awk 'BEGIN { for (i = 0; i < 400000; i++) printf "%d %d %d\n", i, i * 7919 % 104729, i * i % 1299709 }' >"$dir/large"
}

make_odd_links() {
    local dir=$1
    ln -s nowhere "$dir/dangling"
    ln -s "$(printf 'l%.0s' {1..1000})" "$dir/long link"
    ln -s "$(printf 'not\xffutf8')" "$dir/$(printf 'link\nbreak')"
    ln -s /etc/passwd "$dir/absolute"
    printf 'linked' >"$dir/first"
    ln "$dir/first" "$dir/second"
    ln "$dir/first" "$dir/other/side/third"
    ln "$dir/dangling" "$dir/second dangling"
    mkfifo "$dir/fifo"
    ln "$dir/fifo" "$dir/other/fifo too"
    ! command -v python3 >/dev/null ||
        (cd "$dir" && python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")')
}

# Offsets and lengths are whole blocks, so that what is a hole does not depend on the file system's block size.
make_odd_holes() {
    local dir=$1 data=("$1/large" bs=64K count=1 conv=notrunc status=none)
    truncate -s 100M "$dir/hole only" "$dir/hole first" "$dir/hole last" "$dir/holes around" "$dir/hole between"
    dd if="${data[@]}" of="$dir/hole first" oseek=1599
    dd if="${data[@]}" of="$dir/hole last"
    dd if="${data[@]}" of="$dir/holes around" oseek=800
    dd if="${data[@]}" of="$dir/hole between"
    dd if="${data[@]}" of="$dir/hole between" oseek=1599
    # Zeros that are no hole.
    head -c 1M /dev/zero >"$dir/zeros"
}

make_odd_modes() {
    local dir=$1
    chmod 0755 "$dir/first"
    chmod 0400 "$dir/-option"
    chmod 0711 "$dir/large"
    chmod 1777 "$dir/empty"
    mkdir "$dir/read only"
    printf 'x' >"$dir/read only/file"
    chmod 0400 "$dir/read only/file"
    chmod 0500 "$dir/read only"
}

make_odd_attributes() {
    local dir=$1
    if command -v setfattr >/dev/null; then
        setfattr -n user.note -v "$(printf 'v%.0s' {1..3000})" "$dir/first" "$dir/empty"
        setfattr -n user.empty "$dir/large"
        setfattr -n user.binary -v 0x00ff0a0d "$dir/large"
    fi
    if command -v setfacl >/dev/null; then
        setfacl -m u:1:r,g:2:rx,m::r "$dir/first"
        setfacl -m u:12345:rw "$dir/large"
        setfacl -d -m u:1:rwx,g:54321:- "$dir/empty"
        setfacl -m u:1:rx "$dir/shared"
        setfacl -d -m u:2:rwx "$dir/shared"
    fi
}

make_odd_as_root() {
    local dir=$1
    chmod 0000 "$dir/-option"
    # Nobody else gets these bits back.
    chmod u+s "$dir/first"
    chmod ug+s "$dir/large"
    chmod g+s "$dir/shared"
    chown 12345:54321 "$dir/zeros" "$dir/read only"
    chown 4294967294:4294967294 "$dir/empty file"
    chown -h 7:8 "$dir/long link"
    chown 9:10 "$dir/fifo"
    mknod -m 0620 "$dir/null" c 1 3 2>/dev/null && mknod "$dir/block" b 7 200 && mknod "$dir/wide" c 4095 1048575 ||
        note 'no device nodes here'
    setfattr -n trusted.note -v x "$dir/empty file" "$dir/deep" 2>/dev/null || note 'no trusted attributes here'
    setfattr -h -n trusted.link -v y "$dir/dangling" 2>/dev/null || note 'no attributes of symlinks here'
    setfattr -n security.note -v z "$dir/zeros" 2>/dev/null || note 'no security attributes here'
    ! command -v setcap >/dev/null || setcap cap_net_raw+ep "$dir/$(printf 'not\xffutf8')"
}

# facts DIR INTO: what each tool says about a tree, a file for each tool.
facts() {
    local dir=$1 into=$2
    mkdir -p "$into"
    sync -f "$dir"
    (
        cd "$dir"
        # The size of a directory, and how many links it has, are the file system's affair.
        find . -print0 | sort -z >"$work/names"
        find . ! -type d -printf '%p: %y %m %U:%G links %n size %s modified %T@ accessed %A@ to %l\n' \
            -o -printf '%p: %y %m %U:%G modified %T@\n' | sort >"$into/find"
        xargs -0 stat -c '%n: %F %f %u %g device %t:%T modified %y' <"$work/names" >"$into/stat"
        shared_inodes >"$into/inodes"
        find . ! -type l -print0 | sort -z | xargs -0 getfacl --absolute-names --numeric >"$into/getfacl"
        xargs -0 getfattr --no-dereference -d -m - --encoding=hex <"$work/names" >"$into/getfattr"
        find . -type f -print0 | sort -z | xargs -0 filefrag -s -e | data_ranges >"$into/filefrag"
        find . -type f -print0 | sort -z | xargs -0 du --block-size=1 --count-links >"$into/du"
    )
}

# Each entry with several names: the first of them before the others.
shared_inodes() {
    local inode name
    local -A first=()
    while read -r -d '' inode name; do
        : "${first[$inode]:=$name}"
        printf '%q is %q\n' "$name" "${first[$inode]}"
    done < <(find . ! -type d -links +1 -printf '%p/%i\0' | sort -z | sed -z 's|^\(.*\)/\([0-9]*\)$|\2 \1|')
}

# From what filefrag says of extents: which blocks of each file hold data, wherever they lie on the disk.
data_ranges() {
    awk '
        function flush() { if (from != "") print "    " from ".." to; from = "" }
        /^File size of / { flush(); print; next }
        /^ *[0-9]+: / {
            line = $0; sub(/^ *[0-9]+: */, "", line); sub(/:.*/, "", line); split(line, at, /\.\. */)
            if (from != "" && at[1] == to + 1) { to = at[2] + 0; next }
            flush(); from = at[1] + 0; to = at[2] + 0
        }
        END { flush() }'
}

# same_to_all A B: whether two trees are the same to every tool; what is not is in $work/differences.log.
same_to_all() {
    local tool
    compare "$1" "$2" || true
    sed -i 's/^/rsync: /' "$work/differences.log"
    facts "$1" "$work/facts-a"
    facts "$2" "$work/facts-b"
    for tool in "${tools[@]}"; do
        diff --text -U 0 "$work/facts-a/$tool" "$work/facts-b/$tool" | sed -n "s/^[-+][^-+]/$tool: &/p" | cut -c -300
    done >>"$work/differences.log"
    [ ! -s "$work/differences.log" ]
}

# Who compares: where blocks lie is told by ext4 alone as it was asked for (xfs takes more ahead, btrfs keeps small files elsewhere).
all_tools=(find stat inodes getfacl getfattr filefrag du)
tools=("${all_tools[@]}")

# mount_image [KIND]: a file system in a file, mounted as $disk until the script ends or umount_image. Fails where it cannot be.
mount_image() {
    local kind=${1:-ext4} below=$work/below
    disk=$work/disk
    rm -f "$work/disk.img"
    mkdir -p "$disk" "$below"
    truncate -s 1G "$work/disk.img"
    tools=(find stat inodes getfacl getfattr)
    case $kind in
    ext4 | overlay)
        mkfs.ext4 -q -F -I 256 "$work/disk.img"
        [ "$kind" = overlay ] || tools=("${all_tools[@]}")
        ;;
    xfs) mkfs.xfs -q -f "$work/disk.img" ;;
    btrfs) mkfs.btrfs -q -f "$work/disk.img" ;;
    esac >"$work/mount.log" 2>&1 || return 1
    trap 'leave' EXIT
    if [ "$kind" != overlay ]; then
        mount -o loop,noatime "$work/disk.img" "$disk" 2>"$work/mount.log"
        return
    fi
    mount -o loop,noatime "$work/disk.img" "$below" 2>"$work/mount.log" || return 1
    mkdir "$below/lower" "$below/upper" "$below/work"
    make_odd "$below/lower/odd"
    mount -t overlay overlay -o "noatime,lowerdir=$below/lower,upperdir=$below/upper,workdir=$below/work" "$disk" 2>"$work/mount.log"
}

umount_image() {
    umount "$disk"
    ! mountpoint -q "$work/below" || umount "$work/below"
}

leave() {
    local status=$?
    set +e
    for mounted in "$disk" "$work/below" "$work/local"; do
        ! mountpoint -q "$mounted" || umount "$mounted" 2>/dev/null || umount --lazy "$mounted"
    done
    (exit "$status")
    cleanup
}

# round_trip DIR OUT: backs up and restores.
round_trip() {
    local options=()
    [ "$(id -u)" = 0 ] || options=(--no-owner --no-privileged)
    node local backup --json "$1" >"$work/backup.out" 2>"$work/backup.log" || die "backup of $1: exit code $?"
    node local restore "latest:$1" --target "$2" "${options[@]}" --json >"$work/restore.out" 2>"$work/restore.log" ||
        die "restore of $1: exit code $?"
}

check_loop() {
    local kind
    (($#)) || set -- ext4 xfs btrfs overlay
    for kind in "$@"; do
        if [ "$kind" != overlay ] && ! command -v "mkfs.$kind" >/dev/null; then
            echo "skipped: mkfs.$kind is not installed"
            continue
        fi
        if ! mount_image "$kind"; then
            [ "$kind" != ext4 ] || skip "no loop mounts: $(cat "$work/mount.log")"
            echo "skipped: $kind: $(head -n 1 "$work/mount.log")"
            continue
        fi
        # Some of it lies below an overlay, some above it.
        [ "$kind" = overlay ] && touch -d '2001-02-03 UTC' "$disk/odd/above" || make_odd "$disk/odd"
        round_trip "$disk/odd" "$disk/out"
        same_or_die "$kind"
        check_read_only
        same_or_die "$kind, from a repository that can be read only"
        umount_image
    done
}

same_or_die() {
    if ! same_to_all "$disk/odd" "$disk/out"; then
        head -n 60 "$work/differences.log"
        die "$1: what came back is not what went in"
    fi
    echo "equal:   $(tr -cd '\0' <"$work/names" | wc -c) odd entries on $1, to rsync and ${tools[*]}"
}

# Restores once more while nothing can be written where the repository is.
check_read_only() {
    local before
    chmod -R u+rwX "$disk/out"
    rm -rf "$disk/out"
    before=$(find "$work/local" -type f -exec sha256sum {} + | sort | sha256sum)
    mount --bind "$work/local" "$work/local"
    mount -o remount,bind,ro "$work/local"
    node local restore "latest:$disk/odd" --target "$disk/out" --json >"$work/restore.out" 2>"$work/restore.log" ||
        die "restore from a repository that can be read only: exit code $?"
    node local verify >"$work/verify.log" 2>&1 || die "verify of a repository that can be read only: exit code $?"
    node local dump "latest:$disk/odd" >"$work/dump.tar" 2>"$work/dump.log" || die "dump: exit code $?"
    rm "$work/dump.tar"
    umount "$work/local"
    [ "$before" = "$(find "$work/local" -type f -exec sha256sum {} + | sort | sha256sum)" ] || die 'the repository was changed'
}

kinds=(file empty large sparse inner/file link dangling fifo socket character block hard listed)

# make_kinds DIR: 13 kinds of entries, the directory of one of them among them.
make_kinds() {
    local dir=$1
    mkdir -p "$dir/inner"
    echo 'a file' >"$dir/file"
    : >"$dir/empty"
    awk 'BEGIN { for (i = 0; i < 300000; i++) print i * 7919 % 104729 }' >"$dir/large"
    truncate -s 3M "$dir/sparse" && printf 'x' >>"$dir/sparse"
    echo 'in a directory' >"$dir/inner/file"
    ln -s file "$dir/link" && ln -s nowhere "$dir/dangling"
    mkfifo "$dir/fifo"
    (cd "$dir" && python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")')
    mknod "$dir/character" c 1 3 && mknod "$dir/block" b 7 200
    echo 'two names' >"$dir/hard" && ln "$dir/hard" "$dir/inner/hard too"
    echo 'listed' >"$dir/listed" && setfacl -m u:1:r "$dir/listed" && setfattr -n user.note -v x "$dir/listed"
    find "$dir" -exec touch -h -d '2010-01-01 UTC' {} +
}

# alter DIR STATE: what is there before a restore.
alter() {
    local dir=$1 state=$2 kind
    # Its other name is what it is: under the rules that may leave it, that would not be linked.
    case $state in absent | older | newer) rm "$dir/inner/hard too" ;; esac
    for kind in "${kinds[@]}"; do
        case $state in
        absent) rm "$dir/$kind" ;;
        directory) rm "$dir/$kind" && mkdir "$dir/$kind" ;;
        same) ;;
        dressed)
            [ -L "$dir/$kind" ] || chmod 0604 "$dir/$kind"
            chown -h 1:2 "$dir/$kind"
            [ ! -f "$dir/$kind" ] || [ -L "$dir/$kind" ] || setfattr -n user.theirs -v y "$dir/$kind"
            ;;
        older | newer)
            rm "$dir/$kind"
            echo "something else" >"$dir/$kind"
            touch -d "$([ "$state" = older ] && echo 2005 || echo 2015)-01-01 UTC" "$dir/$kind"
            ;;
        esac
    done
    case $state in older | newer) ln "$dir/hard" "$dir/inner/hard too" ;; esac
    find "$dir" -type d -exec touch -d '2010-01-01 UTC' {} +
}

# The times of directories do not count: with all rules but never they get the snapshot's.
check_matrix() {
    local rule state expected from wanted status
    mount_image || skip "no loop mounts: $(cat "$work/mount.log")"
    from=$disk/odd
    make_kinds "$from"
    node local backup --json "$from" >"$work/backup.out" 2>"$work/backup.log" || die "backup: exit code $?"
    for state in absent same dressed older newer directory; do
        for rule in never if-changed if-newer always; do
            rm -rf "$disk/out" "$disk/before"
            cp -a "$from" "$disk/out"
            alter "$disk/out" "$state"
            cp -a "$disk/out" "$disk/before"
            case $state-$rule in
            directory-*) expected=$disk/before ;;
            absent-* | same-* | *-if-changed | *-always | older-if-newer) expected=$from ;;
            *) expected=$disk/before ;;
            esac
            node local restore "latest:$from" --target "$disk/out" --overwrite "$rule" --json >"$work/restore.out" \
                2>"$work/restore.log" && status=0 || status=$?
            # A directory makes room for nothing, which is told.
            wanted=0
            case $state-$rule in directory-if-changed | directory-always) wanted=3 ;; esac
            [ "$status" = "$wanted" ] || die "$state, $rule: exit code $status"
            [ "$status" = 0 ] || [ "$(grep -c 'is in the way' "$work/restore.out")" = ${#kinds[@]} ] || die "$state, $rule: not all is told"
            find "$disk/out" "$expected" -type d -exec touch -d '2010-01-01 UTC' {} +
            same_to_all "$expected" "$disk/out" || { head -n 30 "$work/differences.log" && die "$state, $rule: not as expected"; }
        done
    done
    echo "equal:   ${#kinds[@]} kinds in 6 states under 4 rules"
}

# Pairs of names that a file system may take for one, of each kind.
make_twins() {
    local dir=$1
    mkdir -p "$dir/Sub" "$dir/sub"
    echo 'upper' >"$dir/README" && echo 'lower, later' >"$dir/readme"
    echo 'alike' >"$dir/SAME" && cp -a "$dir/SAME" "$dir/same"
    echo 'composed' >"$dir/$(printf 'caf\xc3\xa9')" && echo 'in parts' >"$dir/$(printf 'cafe\xcc\x81')"
    awk 'BEGIN { for (i = 0; i < 200000; i++) print i }' >"$dir/LARGE" && (cat "$dir/LARGE" && echo more) >"$dir/large"
    echo 'in Sub' >"$dir/Sub/one" && echo 'in sub' >"$dir/sub/two"
    ln -s there "$dir/Link" && ln -s elsewhere "$dir/link"
    mkfifo "$dir/Fifo" && echo 'no fifo' >"$dir/fifo"
    echo 'one file' >"$dir/Hard" && ln "$dir/Hard" "$dir/hard"
    # Not one of the small files that are written together, later: whether this one is there is seen at once.
    cat "$dir/large" "$dir/large" >"$dir/other"
}
twins=8

# same_names SOURCE OUT: what OUT lists has the content that SOURCE has under that very name.
same_names() {
    local name
    (cd "$2" && find . ! -type d -print0) | while read -r -d '' name; do
        case $(stat -c %F "$1/$name" 2>&1) in
        regular*) cmp "$1/$name" "$2/$name" || die "$name has another content" ;;
        symbolic*) [ "$(readlink "$1/$name")" = "$(readlink "$2/$name")" ] || die "$name leads elsewhere" ;;
        fifo) [ -p "$2/$name" ] || die "$name is no fifo" ;;
        *) die "$name was not in the source" ;;
        esac
    done
}

check_fold() {
    local from=$work/from out=$work/fold rule status round told options
    disk=$out
    mkdir -p "$out" "$from/inner"
    python3 "$(dirname "$0")/folding_fs.py" "$out" 2>"$work/mount.log" || skip "no mount: $(cat "$work/mount.log")"
    trap 'leave' EXIT
    make_twins "$from"
    make_twins "$from/inner"
    node local backup --json "$from" >"$work/backup.out" 2>"$work/backup.log" || die "backup: exit code $?"
    for rule in never if-changed if-newer always; do
        mkdir "$out/$rule"
        # Where nothing was, then where all of it is, then where one file has another spelling.
        for round in new again spelt; do
            [ "$round" != spelt ] || { mv "$out/$rule/other" "$out/moved" && mv "$out/moved" "$out/$rule/OTHER"; }
            options=(--overwrite "$rule")
            [ "$round" != spelt ] || options+=(--delete)
            status=0
            node local restore "latest:$from" --target "$out/$rule" "${options[@]}" --json >"$work/restore.out" \
                2>"$work/restore.log" || status=$?
            [ "$status" = 3 ] || die "$rule, $round: exit code $status"
            told=$(grep -c 'is the same as .* to this file system' "$work/restore.out" || true)
            [ "$told" = $((2 * twins)) ] || die "$rule, $round: $told of $((2 * twins)) twins are told"
            [ "$round" = spelt ] || same_names "$from" "$out/$rule"
            [ "$(find "$out/$rule" -maxdepth 1 -mindepth 1 | wc -l)" = $((twins + 2)) ] || die "$rule, $round: $(ls "$out/$rule")"
            cmp "$from/other" "$out/$rule/other" || die "$rule, $round: the file with another spelling is gone"
        done
    done
    echo "told:    $twins pairs of names in each of 2 directories, in 4 modes"
}

# Alters one thing each in a copy that was the same, and wants every change named by the tools that can see it.
check_self() {
    local sights sight
    mount_image || skip "no loop mounts: $(cat "$work/mount.log")"
    make_odd "$disk/odd"
    cp -a "$disk/odd" "$disk/copy"
    same_to_all "$disk/odd" "$disk/copy" || { cat "$work/differences.log" && die 'an unaltered copy is not the same'; }
    (
        cd "$disk/copy"
        touch -r large "$work/large-time"
        printf 'X' | dd of=large bs=1 oseek=77777 conv=notrunc status=none
        touch -r "$work/large-time" large
        touch -h -d '1901-12-14 01:02:03.123456788 UTC' dangling
        chmod 0100 ./-option
        chown 12345:54322 zeros
        setfattr -n trusted.note -v X 'empty file'
        setfattr -x trusted.note deep
        setfacl -d -m u:2:rx shared
        head -c 4096 /dev/zero | dd of='hole only' bs=4096 oseek=99 conv=notrunc status=none
        touch -r "$disk/odd/hole only" 'hole only'
        cp -a first "$work/third" && rm other/side/third && cp -a "$work/third" other/side/third
        ln -sfn elsewhere absolute
        rm wide && mknod wide c 4095 1048574
        rm -r empty
        printf 'x' >new
    )
    ! same_to_all "$disk/odd" "$disk/copy" || die 'nothing was noticed'
    sights=('rsync: .*large' 'find: .*\./dangling: ' 'stat: .*\./dangling: ' 'stat: .*\./-option: ' 'find: .*\./zeros: '
        'getfattr: .*trusted.note=0x58' 'getfattr: -trusted.note=0x78' 'getfacl: .*default:user:2:r-x'
        'filefrag: +    99..99' 'du: .*\./hole only' 'inodes: .*other/side/third' 'find: .* to elsewhere'
        'stat: .*\./wide: ' 'rsync: .*new' 'find: .*\./empty: ')
    for sight in "${sights[@]}"; do
        grep -q --text -e "^$sight" "$work/differences.log" || { cat "$work/differences.log" && die "not noticed: $sight"; }
    done
    echo "noticed: ${#sights[@]} of ${#sights[@]}"
}

check_directories() {
    local dir from files bytes seconds failed=0
    (($#)) || set -- /usr/share /etc "${CARGO_HOME:-$HOME/.cargo}/registry/src"
    make_odd "$work/odd"
    for dir in "$@" "$work/odd"; do
        if [ ! -d "$dir" ]; then
            echo "skipped: $dir is not there"
            continue
        fi
        dir=$(cd "$dir" && pwd -P)
        from=$(now)
        round_trip "$dir" "$work/out"
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
    return "$failed"
}

node local init --phrase-out "$work/phrase" >"$work/init.log" 2>&1 || die 'init'
case $mode in
loop) check_loop "$@" ;;
matrix) check_matrix ;;
fold) check_fold ;;
self-test) check_self ;;
directories) check_directories "$@" ;;
esac
