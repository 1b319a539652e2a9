#!/usr/bin/env python3
"""Runs one backup tool over one corpus, and tabulates such runs.

usage: peers.py run TOOL CORPUS --corpora DIR --work DIR --out FILE.jsonl [--cold]
       peers.py table FILE.jsonl

TOOL is shadowvault, restic, rustic, borg or borg-lz4; CORPUS is src, random, small or vm (see corpus.py). A tool's
program can be given as SHADOWVAULT=/path, RESTIC=/path and so on.

Steps: init, backup1, backup2 (nothing changed), backup3 (about 1 % changed), restore (the latest, into an empty
directory), check (reads and verifies everything). Of each: wall time, processor time, peak resident memory of the
largest single process, and the repository's size after it. The restored tree is compared with the data. The page
cache is warm, or dropped before every step with --cold; what was written is synced before every step.

Machines are noisy: compare ratios within one run of the whole set, tools alternating (run.sh does that).
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import corpus  # noqa: E402

MIB = 1 << 20
STEPS = ("init", "backup1", "backup2", "backup3", "restore", "check")
TOOLS = ("shadowvault", "restic", "rustic", "borg", "borg-lz4")
PASSPHRASE = "correct horse battery staple"


def program(tool):
    name = tool.split("-")[0]
    given = os.environ.get(name.upper())
    built = os.path.abspath(os.path.join(os.environ.get("CARGO_TARGET_DIR", "target"), "release/shadowvault"))
    found = given or (built if name == "shadowvault" else shutil.which(name))
    if not found or not os.access(found, os.X_OK):
        sys.exit(f"{name} is not there; set {name.upper()}=/path")
    return found


def commands(tool, repo, data, out, state):
    """The environment for `tool`, and its command for each step (`{n}` is the number of the backup)."""
    call = program(tool)
    env = dict(os.environ)
    if tool == "shadowvault":
        with open(f"{state}/passphrase", "w") as file:
            file.write(PASSPHRASE)
        env.update(SHADOWVAULT_REPO_PATH=repo, SHADOWVAULT_PASSPHRASE_FILE=f"{state}/passphrase",
                   XDG_CONFIG_HOME=state, XDG_RUNTIME_DIR=state)
        quiet = [call, "--no-input", "-q"]
        init = quiet + ["init", "--phrase-out", f"{state}/phrase"]
        backup = quiet + ["backup", data]
        restore = quiet + ["restore", f"latest:{data}", "--target", out]
        check = quiet + ["verify"]
    elif tool == "restic":
        env.update(RESTIC_PASSWORD=PASSPHRASE, RESTIC_REPOSITORY=repo, RESTIC_CACHE_DIR=state)
        init = [call, "-q", "init"]
        backup = [call, "-q", "backup", data]
        restore = [call, "-q", "restore", "latest", "--target", out]
        check = [call, "-q", "check", "--read-data"]
    elif tool == "rustic":
        env.update(RUSTIC_PASSWORD=PASSPHRASE, RUSTIC_REPOSITORY=repo, RUSTIC_CACHE_DIR=state,
                   RUSTIC_NO_PROGRESS="true", RUSTIC_LOG_LEVEL="error")
        init = [call, "init"]
        backup = [call, "backup", data]
        restore = [call, "restore", f"latest:{data}", out]
        check = [call, "check", "--read-data"]
    else:
        env.update(BORG_PASSPHRASE=PASSPHRASE, BORG_REPO=repo, BORG_BASE_DIR=state,
                   BORG_RELOCATED_REPO_ACCESS_IS_OK="yes", BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK="yes")
        compression = "lz4" if tool == "borg-lz4" else "zstd,3"
        init = [call, "init", "-e", "repokey-blake2"]
        backup = [call, "create", "-C", compression, "::a{n}", data]
        restore = ["sh", "-c", f"cd '{out}' && exec '{call}' extract ::a3"]
        check = [call, "check", "--verify-data"]
    steps = {"init": init, "restore": restore, "check": check}
    for number in "123":
        steps[f"backup{number}"] = [argument.replace("{n}", number) for argument in backup]
    return env, steps


def repository_size(path):
    """Bytes on disk and number of files."""
    blocks = [os.lstat(file).st_blocks for file in corpus.sorted_files(path)]
    return sum(blocks) * 512, len(blocks)


def timed(argv, env, log, cold):
    os.sync()
    if cold:
        with open("/proc/sys/vm/drop_caches", "w") as switch:
            switch.write("3")
    began = time.monotonic()
    process = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    return {
        "wall": round(wall, 3),
        "cpu": round(usage.ru_utime + usage.ru_stime, 3),
        "rss_mib": usage.ru_maxrss // 1024,
        "rc": process.returncode,
    }


def run(tool, name, corpora, work, cold):
    """All steps of one tool over one corpus; rows for the table."""
    home = f"{work}/{tool}-{name}"
    shutil.rmtree(home, ignore_errors=True)
    data, repo, out, state = (f"{home}/{part}" for part in ("data", "repo", "out", "state"))
    os.makedirs(out)
    os.makedirs(state)
    subprocess.run(["cp", "-a", f"{corpora}/{name}", data], check=True)
    env, steps = commands(tool, repo, data, out, state)
    rows = []
    with open(f"{home}/log", "wb") as log:
        for step in STEPS:
            if step == "backup3":
                corpus.change(data, name, corpora)
            log.write(f"\n$ {steps[step]}\n".encode())
            log.flush()
            load = round(os.getloadavg()[0], 2)
            row = {"tool": tool, "corpus": name, "step": step, "cold": cold, "load": load}
            row.update(timed(steps[step], env, log, cold))
            size, files = repository_size(repo)
            row.update(repo_mib=round(size / MIB, 1), repo_files=files)
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    restored = out + data if os.path.isdir(out + data) else out
    difference = subprocess.run(["diff", "-rq", "--no-dereference", data, restored], capture_output=True, text=True)
    sound = difference.returncode == 0
    for row in rows:
        row["restore_ok"] = sound
    if sound and all(row["rc"] == 0 for row in rows):
        shutil.rmtree(home)
    else:
        shutil.rmtree(out, ignore_errors=True)
        print(f"{tool} failed on {name}; see {home}/log\n{difference.stdout[:500]}", file=sys.stderr)
    return rows


MEASURES = (("wall", "wall s", 2), ("cpu", "cpu s", 2), ("rss_mib", "peak RSS MiB", 0), ("repo_mib", "repo MiB", 0))


def table(path):
    """Medians of every tool, then shadowvault ÷ restic."""
    with open(path) as file:
        rows = [json.loads(line) for line in file]
    groups = {}
    for row in rows:
        groups.setdefault((row["corpus"], row["step"], row["tool"]), []).append(row)
    median = {
        key: {name: statistics.median(row[name] for row in group) for name, _, _ in MEASURES}
        for key, group in groups.items()
    }
    cells = [(c, s) for c in corpus.NAMES for s in STEPS if any((c, s, t) in groups for t in TOOLS)]

    print(f"| corpus | step | tool | runs | {' | '.join(title for _, title, _ in MEASURES)} |")
    print("|---|---|---|--:|--:|--:|--:|--:|")
    for name, step in cells:
        for tool in TOOLS:
            group = groups.get((name, step, tool))
            if group:
                good = all(row["rc"] == 0 and row.get("restore_ok", True) for row in group)
                values = " | ".join(f"{median[name, step, tool][m]:.{digits}f}" for m, _, digits in MEASURES)
                print(f"| {name} | {step} | {tool}{'' if good else ' **failed**'} | {len(group)} | {values} |")

    pairs = [cell for cell in cells if (*cell, "shadowvault") in median and (*cell, "restic") in median]
    if pairs:
        print("\nshadowvault ÷ restic (below 1 is better):\n")
        print("| corpus | step | wall | cpu | peak RSS | repo |\n|---|---|--:|--:|--:|--:|")
        for cell in pairs:
            ours, theirs = median[*cell, "shadowvault"], median[*cell, "restic"]
            ratios = (f"{ours[m] / theirs[m]:.2f}" if theirs[m] else "–" for m, _, _ in MEASURES)
            print(f"| {cell[0]} | {cell[1]} | {' | '.join(ratios)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    runs = verbs.add_parser("run")
    runs.add_argument("tool", choices=TOOLS)
    runs.add_argument("corpus", choices=corpus.NAMES)
    runs.add_argument("--corpora", required=True)
    runs.add_argument("--work", required=True)
    runs.add_argument("--out", required=True)
    runs.add_argument("--cold", action="store_true")
    verbs.add_parser("table").add_argument("file")
    given = parser.parse_args()
    if given.verb == "table":
        return table(given.file)
    rows = run(given.tool, given.corpus, os.path.abspath(given.corpora), os.path.abspath(given.work), given.cold)
    with open(given.out, "a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
