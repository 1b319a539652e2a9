#!/usr/bin/env bash
# Compares ShadowVault with other backup tools and prints the tables of docs/BENCHMARKS.md.
#
# usage: benches/peers/run.sh [CORPUS...]        (src random small vm; default: those four; tiny for a trial)
#   TOOLS="shadowvault restic"   tools, alternating within a round; also rustic, borg, borg-lz4
#   RUNS=3                       rounds
#   BENCH_DIR=/var/tmp/...       where corpora and repositories go: about 12 GiB with all corpora
#   RESULTS=/file.jsonl          adds to earlier results
#   COLD=1                       drop the page cache before every step (needs root)
#   SHADOWVAULT=/path            the program to measure (default: target/release/shadowvault)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."

read -ra tools <<<"${TOOLS:-shadowvault restic}"
runs=${RUNS:-3}
dir=${BENCH_DIR:-/var/tmp/shadowvault-bench}
corpora=("$@")
((${#corpora[@]})) || corpora=(src random small vm)

for tool in "${tools[@]}"; do
    case $tool in
    restic) package=restic ;;
    borg*) package=borgbackup ;;
    *) continue ;;
    esac
    if ! command -v "${tool%%-*}" >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && apt-get install -y -qq "$package" >/dev/null
    fi
done </dev/null >&2

for corpus in "${corpora[@]}"; do
    # Made in full or not at all.
    if [ ! -e "$dir/corpora/$corpus.made" ]; then
        python3 "$here/corpus.py" "$dir/corpora" "$corpus" >&2
        touch "$dir/corpora/$corpus.made"
    fi
done

# The tools' versions, as each tells its own.
versions() {
    local tool name
    for tool in "${tools[@]}"; do
        name=${tool%%-*}
        case $name in
        shadowvault) "${SHADOWVAULT:-${CARGO_TARGET_DIR:-target}/release/shadowvault}" version ;;
        restic) "${RESTIC:-restic}" version ;;
        *) "$name" --version ;;
        esac 2>/dev/null | head -n 1 | cut -d ' ' -f 1-2
    done | sort -u | paste -sd ',' | sed 's/,/, /g'
}

cache=warm
[ -z "${COLD:-}" ] || cache=dropped
out=${RESULTS:-$dir/$(date -u +%Y%m%dT%H%M%SZ).jsonl}
mkdir -p "$dir/work"
for ((round = 1; round <= runs; round++)); do
    for corpus in "${corpora[@]}"; do
        for tool in "${tools[@]}"; do
            python3 "$here/peers.py" run "$tool" "$corpus" --corpora "$dir/corpora" --work "$dir/work" \
                --out "$out" ${COLD:+--cold}
        done
    done
done
echo "Measured $(date -u +%F) on $(nproc) cores, $(uname -sr), with $(versions), their defaults and encryption; page cache $cache."
python3 "$here/peers.py" report "$out"
