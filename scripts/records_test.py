#!/usr/bin/env python3
"""Damages heads, pack lists and snapshot records of real daemons and looks whether they come back.

usage: records_test.py

An owner and two holders. Each kind of record is altered, emptied and deleted at the owner, where `repair` gets it from a
holder, and where the daemon does so by itself after a start; at a holder, which gets it in a scrub from the owner, or from the
other holder when the owner is away; and at a holder in silence, which the owner's audit finds. In the end a record is lost
everywhere: it is listed as damaged, keeps `gc` from deleting, and `forget ID --lost` leads out.

Every record must be what it was, byte for byte, and every snapshot must restore. Exit code 1 and the reason otherwise.
"""
import os
import random
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from nodes import Failed, Node, differences, pair, picture, working_directory  # noqa: E402

PATIENCE = 120


def until(what, condition):
    """Waits for a condition; fails after some time."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise Failed(f"not within {PATIENCE} s: {what}")
        time.sleep(0.2)


def records(node):
    """Paths of a node's records by kind: the newest head, the newest pack list, the oldest and the newest snapshot's record."""
    heads = []
    for directory, _, files in os.walk(os.path.join(node.repo, "heads")):
        heads += [os.path.join(directory, name) for name in files]
    lists = os.path.join(node.repo, "lists")
    newest = max(heads, key=os.path.basename)
    # Older lists may be of heads that were replaced.
    latest = max((os.path.join(lists, name) for name in os.listdir(lists)), key=os.path.getmtime)
    return {"head": newest, "list": latest}


def record(node, snapshot):
    return os.path.join(node.repo, "snapshots", snapshot)


def content(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def damage(path, how):
    if how == "deleted":
        return os.unlink(path)
    whole = content(path)
    with open(path, "wb") as file:
        if how == "altered":
            middle = len(whole) // 2
            file.write(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1:])


def connected(node):
    return sum(peer["connected"] for peer in node.json("status", want=(0, 1))["peers"])


def restore(owner, work, source, snapshot, want):
    target = os.path.join(work, f"target-{snapshot[:8]}-{random.randrange(1 << 30)}")
    owner.run("restore", f"{snapshot[:12]}:{source}", "--target", target)
    wrong = differences(want, picture(target))
    if wrong:
        raise Failed(f"snapshot {snapshot[:8]} came back changed:\n{wrong}")


def everything_is_well(owner, holders):
    owner.run("verify")
    for holder in holders:
        holder.run("verify")
    until("all is well", lambda: owner.json("status", want=(0, 1))["verdict"] == "ok")


def main():
    work = working_directory("records")
    source = os.path.join(work, "source")
    os.makedirs(source)
    owner = Node(work, "owner", {"SHADOWVAULT_REPLICATION__COPIES": "2"})
    holders = [Node(work, name) for name in ("anna", "bert")]
    owner.run("init", "--phrase-out", os.path.join(work, "phrase"))
    owner.start()
    for holder in holders:
        holder.run("init", "--storage-only", "--lend", "1GiB")
        holder.start()
        pair(owner, holder)
    pair(*holders)
    pictures = {}
    dice = random.Random(17)
    for number in range(3):
        with open(os.path.join(source, str(number)), "wb") as file:
            file.write(dice.randbytes(3_000_000))
        done = owner.json("backup", "--wait", "copies", source)
        pictures[done["snapshot_id"]] = picture(source)
    first, *_, last = pictures
    damaged = 0

    def kinds(node):
        return records(node) | {"record": record(node, first), "newest record": record(node, last)}

    print("at the owner, `repair`")
    for kind, path in kinds(owner).items():
        sound = content(path)
        for how in ("altered", "emptied", "deleted"):
            damage(path, how)
            # A daemon that compares heads with a holder just then has mended it already, and the lists with it.
            owner.run("verify", want=(5,) if kind.endswith("record") else (0, 5))
            if kind.endswith("record"):
                owner.run("snapshots", want=(5,))
                owner.run("gc", want=(5,))
            owner.run("repair")
            if content(path) != sound:
                raise Failed(f"at the owner: {kind} {how} was not mended")
            owner.run("verify")
            damaged += 1
    print("at the owner, by itself after a start")
    owner.stop()
    paths = list(kinds(owner).values())
    sound = [content(path) for path in paths]
    for path in paths:
        damage(path, "altered")
    owner.start()
    until("the owner mended its records", lambda: [content(path) for path in paths] == sound)
    damaged += len(paths)
    everything_is_well(owner, holders)

    anna, bert = holders
    print("at a holder, `scrub`, from the owner")
    for kind, path in kinds(anna).items():
        sound = content(path)
        for how in ("altered", "deleted"):
            if (kind, how) == ("head", "deleted"):
                continue  # that there was one is known to the owner alone: an audit finds it
            damage(path, how)
            # An offer of the owner makes it look, too.
            anna.run("verify", want=(0, 5))
            anna.run("scrub", "--now")
            if content(path) != sound:
                raise Failed(f"at a holder: {kind} {how} was not mended")
            damaged += 1
    print("at a holder, `scrub`, from the other holder")
    owner.stop()
    until("the owner is gone", lambda: connected(anna) == 1)
    for kind, path in kinds(anna).items():
        sound = content(path)
        damage(path, "altered")
        anna.run("scrub", "--now")
        if content(path) != sound:
            raise Failed(f"at a holder: {kind} was not mended from a fellow holder")
        damaged += 1
    owner.start()
    until("the holders are back", lambda: connected(owner) == 2)
    everything_is_well(owner, holders)

    print("at a holder, in silence: the owner's audit")
    for kind, path in kinds(anna).items():
        sound = content(path)
        for _ in range(3):
            damage(path, "deleted")
            report = owner.json("verify", "--peers", want=(0, 5))
            lost = sum(audit["records_lost"] for audit in report["audits"])
            # An offer of the owner just then makes the holder look.
            if lost or content(path) is None:
                break
        if lost == 0:
            raise Failed(f"the audit did not find that a holder has no {kind}: {report['audits']}")
        until(f"the holder has its {kind} again", lambda: content(path) == sound)
        everything_is_well(owner, holders)
        owner.run("verify", "--peers")
        damaged += 1

    print("lost everywhere")
    for node in (owner, *holders):
        os.unlink(record(node, first))
    owner.run("repair", want=(5,))
    listed = owner.json("snapshots", want=(5,))
    if [one["id"] for one in listed if one.get("damaged")] != [first]:
        raise Failed(f"a damaged snapshot is not listed as such: {listed}")
    owner.run("gc", want=(5,))
    owner.run("forget", last, "--lost", "--yes", want=(2,))
    owner.run("forget", first, "--lost", want=(1,))
    owner.run("forget", first, "--lost", "--yes")
    owner.run("gc", "--now")
    owner.run("verify")
    damaged += 1
    for snapshot, want in list(pictures.items())[1:]:
        restore(owner, work, source, snapshot, want)
    everything_is_well(owner, holders)
    print(f"ok: {damaged} damaged records, all found, and all mended that anyone had")


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        sys.exit(1)
