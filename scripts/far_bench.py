#!/usr/bin/env python3
"""How fast packs reach a holder at the other end of a line that takes time; prints a row of Markdown.

usage: scripts/far_bench.py        (root, `ip`; exit code 77 where network namespaces are not permitted)
  MIB=1024              incompressible data to be pulled
  ROUND_TRIP=20         milliseconds
  RAW=BYTES             bytes a second that bare libp2p moves on this machine without the line, for the last column but one
  SHADOWVAULT=/path     the program (default: target/release/shadowvault)
  TMPDIR=/dir           where all of it goes: about four times MIB

Owner and holder are machines of their own that reach each other through `delay_line.py` alone. As in mesh_bench.sh only the
pulling is timed: from the holder's start until the owner has receipts for everything.
"""
import atexit
import os
import random
import subprocess
import sys
import time

import nodes
from nodes import Node, ip, middle, space

MIB, ROUND_TRIP = int(os.environ.get("MIB", "1024")), float(os.environ.get("ROUND_TRIP", "20"))
TAG = f"far{os.getpid()}"


def machine(name, net):
    """A machine with a cable to the one in the middle: 10.88.NET.2 here, 10.88.NET.1 there."""
    own = f"{TAG}-{name}"
    space(own)
    ip("-n", own, "link", "add", "eth0", "type", "veth", "peer", "name", f"eth{net}", "netns", TAG)
    for where, card, last in ((own, "eth0", 2), (TAG, f"eth{net}", 1)):
        ip("-n", where, "addr", "add", f"10.88.{net}.{last}/24", "dev", card)
        ip("-n", where, "link", "set", card, "up")
    return "ip", "netns", "exec", own


def peak_mib(node):
    with open(f"/proc/{node.process.pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) // 1024


def main():
    middle(TAG)
    work = nodes.working_directory("far")
    settings = {"SHADOWVAULT_LISTEN_PORT": "7001", "SHADOWVAULT_REPLICATION__COPIES": "1"}
    owner = Node(work, "owner", settings, under=machine("owner", 1))
    holder = Node(work, "holder", settings, under=machine("holder", 2))
    here = os.path.dirname(os.path.abspath(__file__))
    line = subprocess.Popen(["ip", "netns", "exec", TAG, sys.executable, os.path.join(here, "delay_line.py"),
                             "10.88.2.1:7000", "10.88.1.2:7001", str(ROUND_TRIP / 2)], stdout=subprocess.PIPE, text=True)
    atexit.register(line.kill)
    line.stdout.readline()
    owner.run("init", "--phrase-out", os.path.join(work, "phrase"))
    holder.run("init", "--storage-only", "--lend", "100GiB")
    owner.start()
    holder.start()
    # The owner cannot dial the holder: it knows it by an address that leads nowhere.
    owner.run("peers", "add", holder.address("10.88.2.2"))
    holder.run("peers", "add", f"/ip4/10.88.2.1/tcp/7000/p2p/{owner.json('id')['peer_id']}")
    until = time.monotonic() + 30
    while not holder.json("peers", "list")[0]["connected"]:
        if time.monotonic() > until:
            raise nodes.Failed(f"the two do not meet{holder.tail()}")
        time.sleep(0.1)
    holder.stop()
    source = os.path.join(work, "data")
    os.makedirs(source)
    dice = random.Random(5)
    for number in range(4):
        with open(os.path.join(source, str(number)), "wb") as file:
            for _ in range(MIB // 4):
                file.write(dice.randbytes(1 << 20))
    owner.run("backup", source)
    packs = sum(os.path.getsize(os.path.join(top, name)) for top, _, names in os.walk(os.path.join(owner.repo, "packs"))
                for name in names if not name.endswith(".cells"))
    os.sync()
    began = time.monotonic()
    holder.start()
    until = began + 600
    while owner.json("snapshots")[0]["copies"] != 1:
        if time.monotonic() > until:
            raise nodes.Failed(f"the holder does not have everything after ten minutes{holder.tail()}")
        time.sleep(0.1)
    seconds = time.monotonic() - began
    raw = os.environ.get("RAW")
    share = f"{packs / seconds / float(raw):.2f}" if raw else ""
    print(f"| {MIB} MiB over a line with a round trip of {ROUND_TRIP:.0f} ms | {packs // 1_000_000} | {seconds:.2f} "
          f"| {packs / seconds / 1e6:.0f} | {share} | {peak_mib(holder)} |")
    for node in (holder, owner):
        node.stop()


if __name__ == "__main__":
    main()
