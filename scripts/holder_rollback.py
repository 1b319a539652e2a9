#!/usr/bin/env python3
"""A holder is put back to an older image of its disk: the owner finds out as soon as it is there, and nothing rests on what
is lost.

usage: holder_rollback.py

Two holders keep two copies. One of them is copied, more is backed up, and the copy is put back while it is down. Then, at
once, unchanged files are backed up with `--wait copies`: the command must not end before the holder has everything again.
"""
import os
import random
import shutil
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from nodes import Failed, Node, pair, working_directory  # noqa: E402

KIB = 1 << 10


def grow(top, round_number):
    dice = random.Random(round_number)
    os.makedirs(os.path.join(top, str(round_number)))
    for number in range(40):
        with open(os.path.join(top, str(round_number), f"{number}"), "wb") as file:
            file.write(dice.randbytes(64 * KIB))


def packs(node):
    return sum(len(files) for _, _, files in os.walk(os.path.join(node.repo, "packs")))


def main():
    work = working_directory("holder-rollback")
    owner = Node(work, "owner", {"SHADOWVAULT_REPLICATION__COPIES": "2"})
    owner.run("init", "--phrase-out", os.path.join(work, "words"))
    owner.start()
    holders = []
    for number in range(2):
        node = Node(work, f"holder{number}")
        node.run("init", "--storage-only", "--lend", "1GiB")
        node.start()
        pair(owner, node)
        holders.append(node)
    top = os.path.join(work, "source")
    backup = ("backup", top, "--wait", "copies", "--wait-timeout", "120s")
    for round_number in range(2):
        grow(top, round_number)
        owner.run(*backup)
    victim = holders[0]
    victim.stop()
    image = os.path.join(work, "image")
    shutil.copytree(victim.repo, image, symlinks=True, ignore=lambda *_: ["control.sock"])
    before = packs(victim)
    victim.start()
    for round_number in range(2, 4):
        grow(top, round_number)
        owner.run(*backup)
    whole = packs(victim)
    if whole <= before:
        raise Failed("nothing was stored after the image was made")
    victim.stop()
    shutil.rmtree(victim.repo)
    shutil.copytree(image, victim.repo, symlinks=True)
    victim.start()
    if packs(victim) != before:
        raise Failed("the image is not what was put back")
    summary = owner.json(*backup)
    after = packs(victim)
    print(f"put back: {before} of {whole} files of packs; after the next backup: {after}; it says "
          f"{summary['copies']} of {summary['copies_wanted']} copies")
    if after < whole:
        raise Failed("the backup rests on packs that the holder does not have")
    audit = victim.json("verify", want=(0,))
    print(f"the holder's own check: {audit.get('verdict', audit.get('message_type', 'sound'))}")


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"FAILED: {failure}")
