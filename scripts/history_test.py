#!/usr/bin/env python3
"""Puts old images of a disk back, copies it, and spoils the newest head: nothing that was acknowledged may vanish.

usage: history_test.py [rollback|lapse|rot|clone]...      (default: all)

- rollback: an owner's data directory is copied, more is backed up, the copy is put back, and with the holder away fewer, as many
  or more backups are made than were lost. After the two met, every snapshot is listed and restorable at the owner and by a
  fresh recovery, and the owner says what happened.
- lapse: after the copy the first snapshot is forgotten, and the holder lets go what only that one needed; then the copy is put
  back. What the copy says of that holder is not true any more: no count rests on it, and what is gone is stored there again, be
  it that a backup needs its content, or that a backup without the holder made the old list count again.
- rot: one bit of the newest head file is flipped, and a backup follows, with the holder there or away.
- clone: a copy of the data directory runs beside the original; both back up. Once one is stopped, everything that both made
  is listed and has a copy.

Exit code 1 and the reason on any loss.
"""
import os
import shutil
import socket
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from nodes import Failed, Node, pair, picture, differences, working_directory  # noqa: E402

SETTINGS = {"SHADOWVAULT_REPLICATION__COPIES": "1"}


def port():
    """One that is free now, for nodes that are to be found again after both were away."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return {"SHADOWVAULT_LISTEN_PORT": str(probe.getsockname()[1])}


class Story:
    """An owner, a holder, and what every acknowledged snapshot must give back."""

    def __init__(self, work, name):
        self.work = os.path.join(work, name)
        os.makedirs(self.work)
        self.owner = Node(self.work, "owner", SETTINGS | port())
        self.holder = Node(self.work, "holder", {"SHADOWVAULT_REPLICATION__LEND": "1GiB"} | port())
        self.phrase = os.path.join(self.work, "phrase")
        self.owner.run("init", "--phrase-out", self.phrase)
        self.holder.run("init", "--storage-only")
        self.owner.start()
        self.holder.start()
        pair(self.owner, self.holder)
        self.source = os.path.join(self.work, "source")
        os.makedirs(self.source)
        self.made = {}

    def backup(self, node=None, wait="copies"):
        node = node or self.owner
        with open(os.path.join(self.source, f"file-{len(self.made)}"), "wb") as file:
            file.write(os.urandom(300_000))
        done = node.json("backup", "--wait", wait, self.source)
        self.made[done["snapshot_id"]] = picture(self.source)
        return done["snapshot_id"]

    def listed(self, node):
        return {snapshot["id"]: snapshot for snapshot in node.json("snapshots")}

    def settle(self, node=None, seconds=60):
        """Waits until every snapshot is listed and has a copy."""
        node = node or self.owner
        until = time.monotonic() + seconds
        while True:
            listed = self.listed(node)
            lacking = [short for short in self.made if listed.get(short, {}).get("copies", 0) < 1]
            if not lacking:
                return
            if time.monotonic() > until:
                raise Failed(f"{node.name} lists {len(listed)} of {len(self.made)} snapshots; without a copy, or gone: "
                             f"{[short[:8] for short in lacking]}{node.tail()}")
            time.sleep(0.3)

    def restores(self, node):
        for number, (snapshot, want) in enumerate(self.made.items()):
            target = os.path.join(self.work, f"out-{node.name}-{number}")
            node.run("restore", f"{snapshot}:{self.source}", "--target", target)
            wrong = differences(want, picture(target))
            if wrong:
                raise Failed(f"{node.name}: snapshot {snapshot[:8]}: {wrong}")
            shutil.rmtree(target)

    def recovers(self):
        """A new machine with the phrase and the holder has it all."""
        fresh = Node(self.work, "fresh", SETTINGS)
        fresh.run("recover", "--peer", self.holder.address(), "--phrase-file", self.phrase)
        missing = set(self.made) - set(self.listed(fresh))
        if missing:
            raise Failed(f"a recovery does not list {[short[:8] for short in missing]}")
        self.restores(fresh)

    def image(self):
        """Stops the owner, copies its directory, starts it again."""
        self.owner.stop()
        shutil.copytree(self.owner.repo, self.owner.repo + ".image")
        self.owner.start()

    def put_back(self):
        self.owner.stop()
        shutil.rmtree(self.owner.repo)
        shutil.copytree(self.owner.repo + ".image", self.owner.repo)
        self.owner.start()

    def end(self):
        self.owner.kill()
        self.holder.kill()


def rollback(work):
    for after in (0, 1, 2, 3):
        story = Story(work, f"rollback-{after}")
        story.backup()
        story.backup()
        story.image()
        story.backup()
        story.backup()
        story.holder.stop()
        story.put_back()
        for _ in range(after):
            story.backup(wait="local")
        story.holder.start()
        story.settle()
        if "old image" not in story.owner.run("status", want=(0, 1)):
            raise Failed("status does not say that an old image was in use")
        story.restores(story.owner)
        story.recovers()
        story.owner.run("repair", want=(0,))
        story.owner.run("verify")
        story.owner.run("gc", "--now")
        print(f"rollback, {after} backups after it: {len(story.made)} of {len(story.made)} snapshots at the owner, "
              "at the holder, and after a recovery")
        story.end()


def lapse(work):
    for away in (False, True):
        story = Story(work, f"lapse-{'away' if away else 'there'}")
        first = story.backup()
        story.backup()
        story.image()
        before = len(pack_files(story.holder))
        story.owner.run("forget", first, "--yes")
        story.owner.run("gc", "--now")
        story.backup()
        story.owner.run("forget", "--release-holds", "--phrase-file", story.phrase, "--yes")
        until = time.monotonic() + 60
        while len(pack_files(story.holder)) != len(pack_files(story.owner)):
            if time.monotonic() > until:
                raise Failed(f"the holder keeps {len(pack_files(story.holder))} files of packs, {before} before")
            time.sleep(0.3)
        if away:
            story.holder.stop()
            story.put_back()
            story.backup(wait="local")
            story.holder.start()
        else:
            story.put_back()
            until = time.monotonic() + 60
            while first in story.listed(story.owner):
                if time.monotonic() > until:
                    raise Failed("the owner does not take over what it had")
                time.sleep(0.3)
            story.made.pop(first)
            # The same content as the first one had, and a little more.
            story.backup()
        story.settle()
        story.restores(story.owner)
        story.recovers()
        print(f"lapse, holder {'away' if away else 'there'}: {len(story.made)} of {len(story.made)} snapshots at the owner, "
              "at the holder, and after a recovery")
        story.end()


def files_below(node, folder):
    files = []
    for top, _, names in os.walk(os.path.join(node.repo, folder)):
        files += [os.path.join(top, name) for name in names]
    return sorted(files, key=os.path.basename)


def head_files(node):
    return files_below(node, "heads")


def pack_files(node):
    return files_below(node, "packs")


def rot(work):
    for away in (False, True):
        story = Story(work, f"rot-{'away' if away else 'there'}")
        story.backup()
        story.backup()
        story.owner.stop()
        if away:
            story.holder.stop()
        newest = head_files(story.owner)[-1]
        with open(newest, "r+b") as file:
            file.seek(100)
            byte = file.read(1)
            file.seek(100)
            file.write(bytes([byte[0] ^ 1]))
        story.owner.start()
        story.backup(wait="local")
        if away:
            story.owner.run("forget", "latest~2")
            story.made.pop(next(iter(story.made)))
            packs = pack_files(story.owner)
            story.owner.run("gc", "--now", want=(1, 5))
            if pack_files(story.owner) != packs:
                raise Failed("gc deleted packs although a head cannot be read")
            if "cannot be read" not in story.owner.run("status", want=(1,)):
                raise Failed("status does not say that a head cannot be read")
            story.holder.start()
        story.settle()
        story.restores(story.owner)
        story.recovers()
        story.owner.run("verify")
        story.owner.run("gc", "--now")
        print(f"rot, holder {'away' if away else 'there'}: {len(story.made)} of {len(story.made)} snapshots at the owner, "
              "at the holder, and after a recovery")
        story.end()


def clone(work):
    for stopped in ("copy", "original"):
        story = Story(work, f"clone-{stopped}")
        story.backup()
        story.image()
        copy = Node(story.work, "owner.image", SETTINGS | port())
        shutil.copy(os.path.join(story.work, "owner.yaml"), os.path.join(story.work, "owner.image.yaml"))
        copy.start()
        for _ in range(2):
            story.backup(wait="local")
            story.backup(copy, wait="local")
        until = time.monotonic() + 60
        while not any("copied" in node.run("status", want=(0, 1)) for node in (story.owner, copy)):
            if time.monotonic() > until:
                raise Failed("neither of the two says that there is another one")
            time.sleep(0.5)
        time.sleep(10)
        left = copy if stopped == "original" else story.owner
        (story.owner if left is copy else copy).stop()
        story.settle(left)
        story.restores(left)
        story.recovers()
        print(f"clone, {stopped} stopped: {len(story.made)} of {len(story.made)} snapshots at the other one, "
              "at the holder, and after a recovery")
        copy.kill()
        story.end()


STORIES = {"rollback": rollback, "lapse": lapse, "rot": rot, "clone": clone}


def main():
    wanted = sys.argv[1:] or list(STORIES)
    if any(name not in STORIES for name in wanted):
        sys.exit(__doc__)
    work = working_directory("history")
    try:
        for name in wanted:
            STORIES[name](work)
    except Failed as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
