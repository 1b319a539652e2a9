#!/usr/bin/env python3
"""Measures forgetting: how much space comes back, how fast, and beside `restic prune`.

usage: forgetting.py [CORPUS]          (default: src; tiny shows within a minute whether everything runs)

A tree that changes is backed up ROUNDS times (default 40) with each tool, every second time also into a second
repository that never has the others. Then the first repository forgets every other snapshot and collects (`forget`,
`gc --now`; `forget`, `prune`), both with their defaults: 5 % of what is needed may stay unused. What is left is compared
with the second repository, read back and verified. The tools alternate step by step.

Each round changes a line in 3 % of the files, and in one of a hundred files replaces everything, removes the file, or
adds one; the seed of a round says what. Sizes are those of all files on the disk, except for the file that ShadowVault
sets aside for full disks (8 MiB).

Corpora and repositories go below BENCH_DIR (default /var/tmp/shadowvault-bench), 3 GiB. SHADOWVAULT=/path and
RESTIC=/path name the programs; TOOLS="shadowvault restic" chooses.
"""
import json
import os
import random
import shutil
import subprocess
import sys

import corpus
import peers

MIB = 1 << 20


class Repository:
    """One repository of one tool over one directory."""

    def __init__(self, tool, home, data):
        self.tool, self.path, state = tool, f"{home}/repo", f"{home}/state"
        shutil.rmtree(home, ignore_errors=True)
        os.makedirs(state)
        self.env, self.steps = peers.commands(tool, self.path, data, f"{home}/out", state)
        self.call = peers.program(tool)
        self.log = open(f"{home}/log", "wb")
        self.run(self.steps["init"])

    def run(self, argv):
        self.log.write(f"\n$ {argv}\n".encode())
        self.log.flush()
        measured = peers.timed(argv, self.env, self.log, cold=False)
        if measured["rc"] != 0:
            sys.exit(f"{argv} failed; see {self.log.name}")
        return measured

    def backup(self):
        self.run(self.steps["backup1"])

    def snapshots(self):
        """Ids, oldest first."""
        listed = subprocess.run([self.call, "snapshots", "--json"], env=self.env, check=True, capture_output=True)
        return [one["id"] for one in sorted(json.loads(listed.stdout), key=lambda one: one["time"])]

    def forget(self, ids):
        return self.run([self.call, "forget", *ids])

    def collect(self):
        if self.tool == "restic":
            return self.run([self.call, "-q", "prune"])
        return self.run([self.call, "--no-input", "-q", "gc", "--now"])

    def size(self):
        return peers.repository_size(self.path)[0]


def change(root, number):
    """What one round changes."""
    rng = random.Random(number)
    for path in list(corpus.sorted_files(root)):
        chance = rng.random()
        if chance < 0.03:
            with open(path, "ab") as file:
                file.write(f"\nround {number} {rng.getrandbits(64):x}\n".encode())
        elif chance < 0.035:
            with open(path, "r+b") as file:
                size = os.fstat(file.fileno()).st_size
                file.write(corpus.text(rng, min(size, 4 * MIB)))
        elif chance < 0.04:
            with open(f"{path}.{number}", "wb") as file:
                file.write(corpus.text(rng, min(os.path.getsize(path), 4 * MIB)))
        elif chance < 0.045:
            os.remove(path)


def prepare(name, base):
    corpora, data = f"{base}/corpora", f"{base}/forgetting/data"
    if not os.path.exists(f"{corpora}/{name}.made"):
        corpus.make(corpora, name)
        open(f"{corpora}/{name}.made", "w").close()
    shutil.rmtree(f"{base}/forgetting", ignore_errors=True)
    os.makedirs(f"{base}/forgetting")
    subprocess.run(["cp", "-a", f"{corpora}/{name}", data], check=True)
    return data


def measure(tools, data, base, rounds):
    """For each tool what forgetting the half of `rounds` snapshots took, and what it left."""
    home = f"{base}/forgetting"
    all_of = {tool: Repository(tool, f"{home}/{tool}-all", data) for tool in tools}
    half_of = {tool: Repository(tool, f"{home}/{tool}-half", data) for tool in tools}
    for number in range(rounds):
        change(data, number)
        for tool in tools:
            all_of[tool].backup()
            if number % 2 == 1:
                half_of[tool].backup()
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    found = {}
    for tool in tools:
        repository = all_of[tool]
        before = repository.size()
        ids = repository.snapshots()
        forget = repository.forget(ids[0::2])
        collect = repository.collect()
        left = repository.size()
        again = repository.collect()
        check = repository.run(repository.steps["check"])
        found[tool] = {
            "before": before,
            "left": left,
            "ideal": half_of[tool].size(),
            "forget": forget["wall"],
            "collect": collect["wall"],
            "cpu": collect["cpu"],
            "rss_mib": collect["rss_mib"],
            "again": again["wall"],
            "check": check["wall"],
        }
        print(json.dumps({tool: found[tool]}), file=sys.stderr, flush=True)
    return found


def report(name, rounds, found):
    tools = list(found)
    print(f"`{name}`, {rounds} snapshots, {rounds // 2} of them forgotten; one run.\n")
    peers.head("", *tools)
    mib = lambda what: [f"{found[tool][what] / MIB:.1f}" for tool in tools]  # noqa: E731
    seconds = lambda what: [f"{found[tool][what]:.2f}" for tool in tools]  # noqa: E731
    peers.row("repository with all snapshots, MiB", *mib("before"))
    peers.row("after forgetting and collecting, MiB", *mib("left"))
    peers.row("one that only ever had those that are left, MiB", *mib("ideal"))
    peers.row("more than that one", *(f"{100 * (found[t]['left'] / found[t]['ideal'] - 1):+.1f} %" for t in tools))
    peers.row("forget, s", *seconds("forget"))
    peers.row("collect, s", *seconds("collect"))
    peers.row("collect, processor s", *seconds("cpu"))
    peers.row("collect, peak MiB", *(f"{found[tool]['rss_mib']}" for tool in tools))
    gone = {tool: (found[tool]["before"] - found[tool]["left"]) / MIB for tool in tools}
    peers.row("freed, MiB/s of collecting", *(f"{gone[tool] / found[tool]['collect']:.0f}" for tool in tools))
    looked = {tool: found[tool]["before"] / MIB for tool in tools}
    peers.row("looked through, MiB/s", *(f"{looked[tool] / found[tool]['collect']:.0f}" for tool in tools))
    peers.row("collect once more, nothing to do, s", *seconds("again"))
    if "shadowvault" in found:
        ours = found["shadowvault"]
        over = ours["left"] / ours["ideal"] - 1
        print(f"\nTarget: within 10 % of a repository that only ever had the other half: {100 * over:+.1f} %, "
              f"{'ok' if over <= 0.10 else '**missed**'}.")


def main():
    if len(sys.argv) > 2 or sys.argv[1:] in (["-h"], ["--help"]):
        sys.exit(__doc__)
    name = sys.argv[1] if len(sys.argv) > 1 else "src"
    base = os.environ.get("BENCH_DIR", "/var/tmp/shadowvault-bench")
    rounds = int(os.environ.get("ROUNDS", "40"))
    tools = os.environ.get("TOOLS", "shadowvault restic").split()
    data = prepare(name, base)
    found = measure(tools, data, base, rounds)
    report(name, rounds, found)
    shutil.rmtree(f"{base}/forgetting")


if __name__ == "__main__":
    main()
