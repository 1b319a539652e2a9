#!/usr/bin/env bash
# Memory does not grow with what is backed up: peak resident memory of backup, restore and verify over three extremes.
#
# usage: scripts/memory.sh [CASE...]     (default: directory sparse image)
#   directory   1,000,000 small files in one directory (FILES=N for another number)
#   sparse      one file of 100 GiB with 16 MiB of data scattered in it (needs a file system with holes)
#   image       a disk image of 2 GiB: zeros, repeated blocks, text, random (benches/peers/corpus.py)
#   LIMIT_MIB=128         a step that takes more fails the script, once all have run
#   SHADOWVAULT=/path     the program (default: target/release/shadowvault)
#   TMPDIR=/dir           where all of it goes: about 10 GiB, and 2.1 million inodes for `directory`
#   KEEP=1                leaves the working directory in place
#
# Peak resident memory is what `/usr/bin/time -v` says of the one process; the key derivation of `init` and of every
# unlocking takes 64 MiB of it. Every restore is compared with its source.
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
[ -x /usr/bin/time ] || die '/usr/bin/time is not there: install the package `time`'

limit_mib=${LIMIT_MIB:-128}
files=${FILES:-1000000}
cases=("$@")
((${#cases[@]})) || cases=(directory sparse image)
over=()

# measured CASE STEP ARGUMENT...: one command of the case's node, and a row of the table.
measured() {
    local case=$1 step=$2 peak seconds got=0
    shift 2
    /usr/bin/time -v -o "$work/time" "$program" -c "$work/$case.yaml" --repo "$work/$case-repo" --no-input "$@" \
        >"$work/step.out" 2>"$work/step.log" || got=$?
    [ "$got" = 0 ] || die "$case: $step: exit code $got"
    peak=$(awk -F': ' '/Maximum resident set size/ { print int(($2 + 1023) / 1024) }' "$work/time")
    seconds=$(awk '/Elapsed/ { n = split($NF, part, ":"); s = 0; for (i = 1; i <= n; i++) s = s * 60 + part[i]; print s }' "$work/time")
    local verdict=ok
    [ "$peak" -le "$limit_mib" ] || { verdict=OVER && over+=("$case $step: $peak MiB"); }
    printf '| %s | %s | %s | %s | %s |\n' "$case" "$step" "$seconds" "$peak" "$verdict"
}

# Small contents, all different, so that every file has a chunk of its own.
make_directory() {
    python3 - "$1" "$files" <<'PYTHON'
import os, sys
top = os.open(sys.argv[1], os.O_RDONLY)
for number in range(int(sys.argv[2])):
    file = os.open(f"file-{number:07}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=top)
    os.write(file, b"%d\n" % number)
    os.close(file)
PYTHON
}

# The same offsets and bytes at every run: 1,024 pieces of 16 KiB in 100 GiB.
make_sparse() {
    python3 - "$1/file" <<'PYTHON'
import random, sys
dice = random.Random(11)
with open(sys.argv[1], "wb") as file:
    file.truncate(100 << 30)
    for _ in range(1024):
        file.seek(dice.randrange((100 << 30) // 4096 - 4) * 4096)
        file.write(dice.randbytes(16384))
PYTHON
}

make_image() {
    python3 "$root/benches/peers/corpus.py" "$work/corpus" vm >/dev/null
    mv "$work/corpus/vm/disk.img" "$1/"
    rm -r "$work/corpus"
}

# Names, sizes and contents. Reading 100 GiB of holes twice takes longer than all else, so of a sparse file the data
# ranges and what is in them are compared.
same_directory() {
    python3 - "$1" "$2" <<'PYTHON'
import os, sys
def names(top):
    return {entry.name: entry.stat().st_size for entry in os.scandir(top)}
want, got = names(sys.argv[1]), names(sys.argv[2])
read = lambda top, name: open(os.path.join(top, name), "rb").read()
sys.exit(not (want == got and all(read(sys.argv[1], name) == read(sys.argv[2], name) for name in want)))
PYTHON
}

same_sparse() {
    python3 - "$1/file" "$2/file" <<'PYTHON'
import os, sys
def pieces(path):
    file = os.open(path, os.O_RDONLY)
    size, at = os.fstat(file).st_size, 0
    while at < size:
        try:
            at = os.lseek(file, at, os.SEEK_DATA)
        except OSError:
            break
        end = os.lseek(file, at, os.SEEK_HOLE)
        yield at, os.pread(file, end - at, at)
        at = end
    yield size, b""
sys.exit(list(pieces(sys.argv[1])) != list(pieces(sys.argv[2])))
PYTHON
}

same_image() { cmp "$1/disk.img" "$2/disk.img"; }

echo "Peak resident memory, MiB; at most $limit_mib are allowed. $(date -u +%F), $(nproc) cores, $(uname -sr)."
echo
echo '| case | step | seconds | peak RSS MiB | |'
echo '|---|---|--:|--:|---|'
for case in "${cases[@]}"; do
    case $case in directory | sparse | image) ;; *) die "there is no case $case" ;; esac
    mkdir "$work/$case"
    "make_$case" "$work/$case"
    measured "$case" init init --phrase-out "$work/$case-phrase"
    measured "$case" backup backup "$work/$case"
    measured "$case" 'backup, unchanged' backup "$work/$case"
    measured "$case" verify verify
    measured "$case" restore restore "latest:$work/$case" --target "$work/$case-out"
    "same_$case" "$work/$case" "$work/$case-out" || die "$case: what came back is not what went in"
    rm -rf "${work:?}/$case" "$work/$case-out" "$work/$case-repo"
done
if ((${#over[@]})); then
    echo
    printf 'over the limit: %s\n' "${over[@]}"
    exit 1
fi
