#!/bin/sh
# Peers that mean harm, each for SECONDS, against real daemons; prints the table of how each went. usage: evil.sh SEED SECONDS [NAME]
set -eu
cd "$(dirname "$0")/.."
table=$(mktemp)
trap 'rm -f "$table"' EXIT
SEED=$1 EVIL_SECONDS=$2 EVIL_ONLY=${3:-} EVIL_TABLE=$table \
	${CARGO:-cargo} test --release --locked --test it evil:: -- --nocapture --test-threads=1 >&2
echo '| behaviour | done | peak MiB | descriptors | a member gets, undisturbed, MiB/s | meanwhile, MiB/s | stores again after s |'
echo '|---|--:|--:|--:|--:|--:|--:|'
cat "$table"
echo
echo "Seed $1, each for $2 s."
