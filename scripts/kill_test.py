#!/usr/bin/env python3
"""Kills daemons with SIGKILL at random moments and looks whether anything that was acknowledged is lost.

usage: kill_test.py SEED [MOMENTS]      (default: 30 moments of each kind)

Part 1 kills the owner's daemon in the middle of a backup. Part 2 kills a holder in the middle of a pull, and at the
end the owner too, whose data directory is deleted: everything must come back from the holder alone. Between rounds
the source changes, as the seed says, so that there is always work. After every restart, without any help:

- every snapshot that was acknowledged is listed, and `verify` finds no fault;
- every few rounds, and at the end, what was acknowledged is restored and compared with a picture of the source.

A kill counts only if the work was under way right before it. Exit code 1 and the reason on any loss.
"""
import json
import os
import random
import shutil
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from nodes import Failed, Node, differences, pair, picture, working_directory  # noqa: E402

MB = 1_000_000
ROUND_BYTES = 48 * MB
FILES_KEPT = 40
RESTORE_EVERY = 5


class Source:
    """A directory that changes from round to round: a few large files, many small ones, renames, deletions."""

    def __init__(self, top, seed):
        self.top, self.dice, self.round = top, random.Random(seed), 0
        os.makedirs(top)
        for _ in range(2):
            self.change()

    def write(self, name, length):
        path = os.path.join(self.top, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            while length > 0:
                part = min(length, MB)
                file.write(self.dice.randbytes(part))
                length -= part

    def change(self):
        self.round += 1
        left = ROUND_BYTES
        for number in range(4):
            length = self.dice.randrange(4 * MB, 10 * MB)
            self.write(f"large/{self.round:04}-{number}", length)
            left -= length
        for number in range(300):
            length = int(self.dice.lognormvariate(9, 1.2))
            self.write(f"small/{self.round:04}/{number:03}", min(length, MB))
            left -= length
        if left > 0:
            self.write(f"large/{self.round:04}-rest", left)
        large = sorted(os.listdir(os.path.join(self.top, "large")))
        for name in large[:-FILES_KEPT]:
            os.unlink(os.path.join(self.top, "large", name))
        small = sorted(os.listdir(os.path.join(self.top, "small")))
        for name in small[:-8]:
            shutil.rmtree(os.path.join(self.top, "small", name))
        # One old file grows at its front, so that its chunks move.
        victim = os.path.join(self.top, "large", self.dice.choice(large[-FILES_KEPT:]))
        with open(victim, "rb") as file:
            content = file.read()
        with open(victim, "wb") as file:
            file.write(self.dice.randbytes(self.dice.randrange(1, 5000)) + content)
        self.picture = picture(self.top)


def new_owner(work, copies):
    """Without a daemon yet; its phrase is in the file `phrase`."""
    owner = Node(work, "owner", {"SHADOWVAULT_REPLICATION__COPIES": str(copies)})
    owner.run("init", "--phrase-out", os.path.join(work, "phrase"))
    return owner


def new_holder(work, dice, name="holder"):
    holder = Node(work, name, {"SHADOWVAULT_REPLICATION__LEND": "100GiB"})
    holder.run("init", "--storage-only")
    # One whose port changed at every start would be found again only through Kademlia.
    holder.env["SHADOWVAULT_LISTEN_PORT"] = str(dice.randrange(20000, 30000))
    return holder


class Ledger:
    """What was acknowledged: snapshot id and the picture of the source at that time."""

    def __init__(self):
        self.snapshots = {}

    def check(self, node, restore, copies=None):
        listed = {snapshot["id"]: snapshot for snapshot in node.json("snapshots")}
        for number in self.snapshots:
            if number not in listed:
                raise Failed(f"{node.name}: acknowledged snapshot {number} is not listed")
            if copies is not None and listed[number]["copies"] < copies:
                raise Failed(f"{node.name}: snapshot {number} has {listed[number]['copies']} copies of {copies}")
        report = node.json("verify")
        if report.get("invalid_snapshots"):
            raise Failed(f"{node.name}: verify ended with 0 and reports {report['invalid_snapshots']} bad snapshots")
        self.restore(node, restore)

    def restore(self, node, numbers):
        """What comes back is what was there."""
        for number in numbers:
            path, want = self.snapshots[number]
            target = os.path.join(node.work, "restored")
            node.run("restore", f"{number}:{path}", "--target", target)
            wrong = differences(want, picture(target))
            shutil.rmtree(target)
            if wrong:
                raise Failed(f"{node.name}: snapshot {number} comes back different\n{wrong}")

    def newest(self, count):
        return list(self.snapshots)[-count:]

    def some(self, dice):
        """The newest three and up to seven others."""
        older = list(self.snapshots)[:-3]
        return dice.sample(older, min(7, len(older))) + self.newest(3)


def acknowledge(ledger, source, process):
    """Waits for a backup's client; enters its snapshot if it says that it is done. The picture was taken before."""
    out, err = process.communicate(timeout=300)
    if process.returncode == 0:
        summary = json.loads(out.strip().splitlines()[-1])
        ledger.snapshots[summary["snapshot_id"]] = (source.top, source.picture)
        return summary["snapshot_id"]
    return None


def running_backup(owner):
    """Progress of the backup that is under way, if one is."""
    for job in owner.json("jobs"):
        if job["kind"] == "backup" and job["state"] == "running":
            return job["progress"]
    return None


def kill_owner(work, seed, moments):
    dice = random.Random(seed)
    source, ledger = Source(os.path.join(work, "source"), seed), Ledger()
    owner = new_owner(work, copies=0)
    owner.start()

    def whole():
        """A backup that nobody kills; its time is the range of the moments to come."""
        source.change()
        began = time.monotonic()
        if not acknowledge(ledger, source, owner.command("--json", "backup", source.top)):
            raise Failed("a backup that nobody killed was not acknowledged" + owner.tail())
        return time.monotonic() - began

    usual = whole()
    killed, tries = 0, 0
    while killed < moments:
        tries += 1
        if tries > moments * 30:
            raise Failed(f"only {killed} of {tries} kills met a backup under way")
        # Sometimes kills follow each other, so that a backup goes on from several that were cut off.
        if tries > 1 and dice.random() < 0.7:
            usual = whole()
        source.change()
        process = owner.command("--json", "backup", source.top)
        moment = dice.uniform(0, usual)
        progress = None
        waiting = time.monotonic() + 30
        while progress is None and process.poll() is None and time.monotonic() < waiting:
            progress = running_backup(owner)
        time.sleep(moment)
        progress = running_backup(owner) if process.poll() is None else None
        if progress is not None:
            owner.kill()
            killed += 1
        snapshot = acknowledge(ledger, source, process)
        if progress is None:
            if snapshot is None:
                raise Failed("a backup that nobody killed was not acknowledged" + owner.tail())
            continue
        owner.start()
        restore = ledger.newest(1) if killed % RESTORE_EVERY == 0 else []
        ledger.check(owner, restore)
        done, total = progress["bytes_done"] / MB, progress["total_bytes"] / MB
        word = f"acknowledged {snapshot[:8]} all the same" if snapshot else "not acknowledged"
        print(f"owner {killed:3}/{moments}: killed {moment:5.2f} s in, at {done:4.0f} of {total:4.0f} MB, {word}; "
              f"{len(ledger.snapshots)} snapshots acknowledged before, all sound"
              + (", restored and equal" if restore else ""), flush=True)
    whole()
    chosen = ledger.some(dice)
    ledger.check(owner, chosen)
    owner.stop()
    print(f"owner: {killed} kills in {tries} rounds; {len(ledger.snapshots)} snapshots acknowledged, all sound; "
          f"{len(chosen)} of them restored, all equal", flush=True)


def wait_for_copies(owner, holder, timeout=120):
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        status = owner.json("status", want=(0, 1))
        if status["under_replicated_bytes"] == 0 and status["snapshots_safe"] == status["snapshots"]:
            return
        time.sleep(0.1)
    raise Failed(f"no copies within {timeout} s: {status['under_replicated_bytes']} bytes are missing, "
                 f"{status['problems']}{owner.tail()}{holder.tail()}")


def kill_holder(work, seed, moments):
    dice = random.Random(seed + 1)
    source, ledger = Source(os.path.join(work, "source"), seed + 1), Ledger()
    owner, holder = new_owner(work, copies=1), new_holder(work, dice)
    for node in (owner, holder):
        node.start()
    pair(owner, holder)

    def acknowledged():
        source.change()
        snapshot = acknowledge(ledger, source, owner.command("--json", "backup", source.top))
        if not snapshot:
            raise Failed("a backup was not acknowledged" + owner.tail())
        return snapshot, time.monotonic()

    usual, killed, tries = None, 0, 0
    while killed < moments:
        tries += 1
        if tries > moments * 30:
            raise Failed(f"only {killed} of {tries} kills met a pull under way")
        if usual is None or dice.random() < 0.3:
            # A pull that nobody disturbs; its time is the range of the moments to come.
            _, began = acknowledged()
            wait_for_copies(owner, holder)
            usual = time.monotonic() - began
        before = holder.json("status", want=(0, 1))["storage"]["foreign_bytes"]
        snapshot, _ = acknowledged()
        moment = dice.uniform(0, usual)
        time.sleep(moment)
        wants = owner.json("status", want=(0, 1))
        has = holder.json("status", want=(0, 1))["storage"]["foreign_bytes"]
        missing = wants["under_replicated_bytes"]
        if missing == 0 or not any(peer["connected"] for peer in wants["peers"]):
            wait_for_copies(owner, holder)
            continue
        holder.kill()
        killed += 1
        holder.start()
        wait_for_copies(owner, holder)
        holder.run("verify")
        ledger.check(owner, [], copies=1)
        print(f"holder {killed:3}/{moments}: killed {moment:5.2f} s after {snapshot[:8]} was acknowledged, with "
              f"{(has - before) / MB:3.0f} MB pulled and {missing / MB:3.0f} MB to go; copies complete again, "
              f"{len(ledger.snapshots)} snapshots acknowledged, all sound at both", flush=True)
    address = holder.address()
    owner.kill()
    shutil.rmtree(owner.repo)
    new = Node(work, "new")
    new.run("recover", "--peer", address, "--phrase-file", os.path.join(work, "phrase"))
    chosen = ledger.some(dice)
    ledger.restore(new, chosen)
    holder.stop()
    print(f"holder: {killed} kills in {tries} rounds; the owner deleted, {len(chosen)} of {len(ledger.snapshots)} "
          "snapshots restored from the holder, all equal", flush=True)


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    seed, moments = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 30
    work = working_directory("kill")
    try:
        for name, part in (("1", kill_owner), ("2", kill_holder)):
            os.makedirs(os.path.join(work, name))
            part(os.path.join(work, name), seed, moments)
            shutil.rmtree(os.path.join(work, name))
    except Failed as error:
        sys.exit(f"FAILED with seed {seed}: {error}")
    print(f"seed {seed}: nothing that was acknowledged was lost")


if __name__ == "__main__":
    main()
