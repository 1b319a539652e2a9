#!/usr/bin/env python3
"""Runs one backup tool over one corpus, and tabulates such runs.

usage: peers.py run TOOL CORPUS --corpora DIR --work DIR --out FILE.jsonl [--cold]
       peers.py report FILE.jsonl

TOOL is shadowvault, restic, rustic, borg or borg-lz4; CORPUS is src, random, small, vm or tiny (see corpus.py). A tool's
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
    """Bytes on disk and number of files, without the file that ShadowVault sets aside for full disks (8 MiB)."""
    files = (file for file in corpus.sorted_files(path) if file != f"{path}/reserve")
    blocks = [os.lstat(file).st_blocks for file in files]
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
            measured = {"tool": tool, "corpus": name, "step": step, "cold": cold, "load": load}
            measured.update(timed(steps[step], env, log, cold))
            size, files = repository_size(repo)
            measured.update(repo_mib=round(size / MIB, 2), repo_files=files)
            rows.append(measured)
            print(json.dumps(measured), file=sys.stderr, flush=True)
    restored = out + data if os.path.isdir(out + data) else out
    difference = subprocess.run(["diff", "-rq", "--no-dereference", data, restored], capture_output=True, text=True)
    sound = difference.returncode == 0
    for measured in rows:
        measured["restore_ok"] = sound
    if sound and all(measured["rc"] == 0 for measured in rows):
        shutil.rmtree(home)
    else:
        shutil.rmtree(out, ignore_errors=True)
        print(f"{tool} failed on {name}; see {home}/log\n{difference.stdout[:500]}", file=sys.stderr)
    return rows


# What shadowvault ÷ restic may be at most, by corpus and step. Names of steps stand for
# wall time; `size` is the repository after the first backup, `growth` what the changed version adds.
TARGETS = {
    "src": {"backup1": 0.45, "backup2": 0.25, "backup3": 0.35, "restore": 0.60, "check": 0.55, "size": 1.0},
    "random": {"backup1": 0.50, "backup2": 0.60, "backup3": 0.60, "restore": 0.55, "check": 0.55, "size": 1.0},
    "small": {"backup1": 0.45, "backup2": 0.20, "backup3": 0.30, "restore": 0.50, "check": 0.40, "size": 1.0},
    "vm": {"backup1": 0.45, "backup2": 0.60, "backup3": 0.45, "restore": 0.60, "check": 0.65, "size": 1.0, "growth": 0.5},
}
# Peak resident memory of any step, in MiB.
RSS_MIB_MAX = 128

TIMED = STEPS[1:]  # making a repository is done once
WORDS = {
    "backup1": "first backup",
    "backup2": "backup, unchanged",
    "backup3": "backup, 1 % changed",
    "restore": "restore",
    "check": "check",
    "size": "repository after the first backup",
    "growth": "growth by the changed version",
}
MEASURES = (("wall", "wall s", 2), ("cpu", "cpu s", 2), ("rss_mib", "peak RSS MiB", 0), ("repo_mib", "repo MiB", 1))


class Results:
    """Medians of all runs, by tool, corpus and step."""

    def __init__(self, path):
        with open(path) as file:
            rows = [json.loads(line) for line in file]
        self.groups = {}
        for measured in rows:
            key = measured["tool"], measured["corpus"], measured["step"]
            self.groups.setdefault(key, []).append(measured)
        self.tools = [tool for tool in TOOLS if any(key[0] == tool for key in self.groups)]
        self.corpora = [name for name in corpus.ALL_NAMES if any(key[1] == name for key in self.groups)]
        self.runs = max(len(group) for group in self.groups.values())

    def good(self, tool, name):
        """Whether every step of every run succeeded and what was restored equals the data."""
        groups = [self.groups.get((tool, name, step), []) for step in STEPS]
        return all(group and all(one["rc"] == 0 and one["restore_ok"] for one in group) for group in groups)

    def median(self, tool, name, step, measure):
        return statistics.median(one[measure] for one in self.groups[tool, name, step])

    def value(self, tool, name, what):
        """Seconds of a step, or MiB of `size` and `growth`."""
        if what == "size":
            return self.median(tool, name, "backup1", "repo_mib")
        if what == "growth":
            before, after = (self.median(tool, name, step, "repo_mib") for step in ("backup2", "backup3"))
            return after - before
        return self.median(tool, name, what, "wall")

    def ratio(self, name, what):
        """shadowvault ÷ restic; None where one of them is absent, failed, or has nothing to divide by."""
        if not (self.good("shadowvault", name) and self.good("restic", name)):
            return None
        theirs = self.value("restic", name, what)
        return self.value("shadowvault", name, what) / theirs if theirs > 0 else None

    def peak(self, tool, name):
        return max(self.median(tool, name, step, "rss_mib") for step in TIMED)


def row(*cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def head(*titles, words=1):
    """The first `words` columns are text."""
    row(*titles)
    row(*["---"] * words, *["--:"] * (len(titles) - words))


def shown(ratio):
    return "–" if ratio is None else f"{ratio:.2f}"


def report(path):
    """Ratios first, then targets, then everything that was measured."""
    results = Results(path)
    print(f"Medians of {results.runs}.\n\n**shadowvault ÷ restic, wall time** (below 1 is better):\n")
    head("corpus", *(WORDS[step] for step in TIMED))
    for name in results.corpora:
        row(name, *(shown(results.ratio(name, step)) for step in TIMED))
    print("\n**Peak resident memory**, MiB, of the largest process:\n")
    head("corpus", "tool", *(WORDS[step] for step in TIMED), words=2)
    for name, tool in ((name, tool) for name in results.corpora for tool in results.tools):
        if results.good(tool, name):
            row(name, tool, *(f"{results.median(tool, name, step, 'rss_mib'):.0f}" for step in TIMED))
    print("\n**Size of the repository**, MiB:\n")
    head("corpus", "tool", "after the first backup", "growth by the changed version", words=2)
    for name, tool in ((name, tool) for name in results.corpora for tool in results.tools):
        if results.good(tool, name):
            row(name, tool, *(f"{results.value(tool, name, what):.1f}" for what in ("size", "growth")))
    targets(results)
    details(results)


def targets(results):
    print("\n**Targets**:\n")
    head("corpus", "what", "at most", "measured", "", words=2)
    for name in results.corpora:
        for what, limit in TARGETS.get(name, {}).items():
            ratio = results.ratio(name, what)
            verdict = "not measured" if ratio is None else "ok" if ratio <= limit else "**missed**"
            row(name, f"{WORDS[what]}, ÷ restic", f"{limit:.2f}", shown(ratio), verdict)
        if results.good("shadowvault", name):
            peak = results.peak("shadowvault", name)
            verdict = "ok" if peak <= RSS_MIB_MAX else "**missed**"
            row(name, "peak resident memory, MiB", RSS_MIB_MAX, f"{peak:.0f}", verdict)


def details(results):
    print("\n**All of it**:\n")
    head("corpus", "step", "tool", *(title for _, title, _ in MEASURES), words=3)
    for name in results.corpora:
        for step in STEPS:
            for tool in (tool for tool in results.tools if (tool, name, step) in results.groups):
                failed = "" if results.good(tool, name) else " **failed**"
                values = (f"{results.median(tool, name, step, m):.{digits}f}" for m, _, digits in MEASURES)
                row(name, step, tool + failed, *values)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    runs = verbs.add_parser("run")
    runs.add_argument("tool", choices=TOOLS)
    runs.add_argument("corpus", choices=corpus.ALL_NAMES)
    runs.add_argument("--corpora", required=True)
    runs.add_argument("--work", required=True)
    runs.add_argument("--out", required=True)
    runs.add_argument("--cold", action="store_true")
    verbs.add_parser("report").add_argument("file")
    given = parser.parse_args()
    if given.verb == "report":
        return report(given.file)
    rows = run(given.tool, given.corpus, os.path.abspath(given.corpora), os.path.abspath(given.work), given.cold)
    with open(given.out, "a") as file:
        file.writelines(json.dumps(measured) + "\n" for measured in rows)


if __name__ == "__main__":
    main()
