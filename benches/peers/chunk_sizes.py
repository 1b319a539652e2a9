#!/usr/bin/env python3
"""Compares chunk sizes: size of the repository, its growth by a changed version, and time, over two corpora.

usage: chunk_sizes.py [CORPUS...]      (default: src vm)

Corpora and repositories go below BENCH_DIR (default /var/tmp/shadowvault-bench), 6 GiB. SHADOWVAULT=/path names the
program. One run of each: sizes hardly vary, and times are only there to show what more chunks cost.
"""
import os
import sys

import peers
from corpus import make

# Least, average and largest chunk, in KiB.
SIZES = ((4, 16, 64), (8, 32, 128), (16, 64, 256), (32, 128, 512), (64, 256, 1024), (256, 1024, 4096))


def main():
    names = sys.argv[1:] or ["src", "vm"]
    base = os.environ.get("BENCH_DIR", "/var/tmp/shadowvault-bench")
    corpora, work = f"{base}/corpora", f"{base}/work"
    os.makedirs(work, exist_ok=True)
    for name in names:
        if not os.path.exists(f"{corpora}/{name}.made"):
            make(corpora, name)
            open(f"{corpora}/{name}.made", "w").close()
    print("One run of each.\n")
    peers.head("corpus", "chunk sizes, KiB", "first backup, MiB", "growth, MiB", "first backup, s", "check, s", words=2)
    for name in names:
        for sizes in SIZES:
            for key, kib in zip(("MIN", "AVG", "MAX"), sizes):
                os.environ[f"SHADOWVAULT_SNAPSHOT__{key}_CHUNK_SIZE"] = f"{kib}KiB"
            rows = {row["step"]: row for row in peers.run("shadowvault", name, corpora, work, cold=False)}
            if not all(row["rc"] == 0 and row["restore_ok"] for row in rows.values()):
                sys.exit(f"{name} failed with {sizes}")
            growth = rows["backup3"]["repo_mib"] - rows["backup2"]["repo_mib"]
            shown = (f"{rows['backup1']['repo_mib']:.1f}", f"{growth:.1f}",
                     f"{rows['backup1']['wall']:.2f}", f"{rows['check']['wall']:.2f}")
            peers.row(name, " / ".join(map(str, sizes)), *shown)
            sys.stdout.flush()


if __name__ == "__main__":
    main()
