#!/usr/bin/env python3
"""What a mesh says when there is nothing to say: bytes a second over each node's network card, everything counted.

usage: scripts/idle_mesh.py        (root, `ip`; exit code 77 where network namespaces are not permitted)
  NODES=10              nodes, each a machine of its own on one switch; all know each other, and each has a small backup
  SETTLE=60             seconds from the last connection to the first count
  SECONDS=180           seconds that are counted
  SHADOWVAULT=/path     the program (default: target/release/shadowvault)

Prints a row of Markdown: nodes, mean and highest sum of bytes sent and received a second. All settings are the defaults.
"""
import os
import subprocess
import time

import nodes
from nodes import Node, ip, middle, space

COUNT, SETTLE, SECONDS = (int(os.environ.get(*name)) for name in (("NODES", "10"), ("SETTLE", "60"), ("SECONDS", "180")))
TAG = f"idle{os.getpid()}"


def machine(number):
    name = f"{TAG}-{number}"
    space(name)
    ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", f"v{number}", "netns", TAG)
    ip("-n", TAG, "link", "set", f"v{number}", "master", "br0", "up")
    ip("-n", name, "addr", "add", f"10.78.0.{number}/24", "dev", "eth0")
    ip("-n", name, "link", "set", "eth0", "up")
    return name


def counted(name):
    """Bytes that went over a machine's card, both ways."""
    read = ["ip", "netns", "exec", name, "cat", "/proc/net/dev"]
    for line in subprocess.run(read, check=True, capture_output=True, text=True).stdout.splitlines():
        if line.strip().startswith("eth0:"):
            fields = line.split(":")[1].split()
            return int(fields[0]) + int(fields[8])
    raise nodes.Failed(f"{name} has no card")


def main():
    middle(TAG)
    ip("-n", TAG, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
    ip("-n", TAG, "link", "set", "br0", "up")
    work = nodes.working_directory("idle")
    source = os.path.join(work, "source")
    os.makedirs(source)
    with open(os.path.join(source, "file"), "wb") as file:
        file.write(os.urandom(100_000))
    names = [machine(number) for number in range(1, COUNT + 1)]
    mesh = []
    for number, name in enumerate(names, 1):
        settings = {"SHADOWVAULT_REPLICATION__LEND": "1GiB"}
        node = Node(work, f"node{number}", settings, under=("ip", "netns", "exec", name))
        for key in ("P2P__RECONNECT_BACKOFF", "P2P__MAX_RECONNECT_BACKOFF", "NAT_TRAVERSAL__ENABLE_MDNS",
                    "NAT_TRAVERSAL__ENABLE_UPNP"):
            del node.env[f"SHADOWVAULT_{key}"]
        node.run("init", "--phrase-out", os.path.join(work, f"phrase{number}"))
        node.start()
        mesh.append((node, node.address(f"10.78.0.{number}")))
    for node, own in mesh:
        for _, address in mesh:
            if address != own:
                node.run("peers", "add", address)
    until = time.monotonic() + 60
    for node, _ in mesh:
        while sum(peer["connected"] for peer in node.json("peers", "list")) < COUNT - 1:
            if time.monotonic() > until:
                raise nodes.Failed(f"{node.name} does not reach all others{node.tail()}")
            time.sleep(0.2)
    for node, _ in mesh:
        node.run("backup", source, "--wait", "copies", "--wait-timeout", "60s")
    time.sleep(SETTLE)
    before = [counted(name) for name in names]
    time.sleep(SECONDS)
    rates = [(counted(name) - then) / SECONDS for name, then in zip(names, before)]
    for node, _ in mesh:
        node.stop()
    print(f"| {COUNT} | {sum(rates) / COUNT:.0f} | {max(rates):.0f} |")


if __name__ == "__main__":
    main()
