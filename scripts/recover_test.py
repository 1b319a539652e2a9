#!/usr/bin/env python3
"""Recovers a vault with many snapshots against a clock, and kills init, join and recover with SIGKILL at random moments.

usage: recover_test.py SEED [SNAPSHOTS [MOMENTS]]      (default: 1000 snapshots, 30 moments of each command)

Part 1: a vault with that many snapshots, one holder with default limits (100 requests a second, 200 at once) on loopback:
`recover` takes at most 10 s, and every snapshot is listed. A holder with a rate of 5 requests a second is waited for, too.
Part 2: a second holder that does not answer (it is stopped) is named and costs at most 5 s more.
Part 3: init, join (a holder, a device) and recover are killed at random moments. Afterwards every other command takes the
directory for whole, for empty, or says that it was cut off; the same command goes on; what the vault has is listed, and the
newest snapshot comes back as it was. Exit code 1 and the reason on any loss.
"""
import http.client
import json
import os
import random
import resource
import shutil
import signal
import socket
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from nodes import Failed, Node, differences, pair, picture, working_directory  # noqa: E402

# SECONDS_MAX allows more where other work takes the cores.
SECONDS_MAX = int(os.environ.get("SECONDS_MAX", "10"))
# Backups in the daemon's queue at one time; it holds 64.
QUEUED = 50


def write(path, content):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(content)


def fresh(work, name, settings=None):
    node = Node(work, name, settings)
    shutil.rmtree(node.repo, ignore_errors=True)
    return node


def remove(node):
    shutil.rmtree(node.repo, ignore_errors=True)
    for rest in (f"{node.name}.yaml", f"{node.name}-phrase"):
        if os.path.exists(os.path.join(node.work, rest)):
            os.unlink(os.path.join(node.work, rest))


class Socket(http.client.HTTPConnection):
    """The control socket of a daemon."""

    def __init__(self, node):
        super().__init__("localhost", timeout=60)
        self.node = node

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.path.relpath(os.path.join(self.node.repo, "control.sock")))

    def call(self, method, path, body=None):
        self.request(method, path, body and json.dumps(body), {"Content-Type": "application/json"})
        answer = self.getresponse()
        return answer.status, json.loads(answer.read())


def backups(node, source, count):
    """So many backups of the same, one after the other."""
    daemon = Socket(node)
    jobs = []
    for _ in range(count):
        status, job = daemon.call("POST", "/api/v1/backup", {"paths": [source]})
        if status != 202:
            raise Failed(f"a backup was refused: {job}")
        jobs.append(job["job_id"])
    for number in jobs:
        while (job := daemon.call("GET", f"/api/v1/jobs/{number}")[1])["state"] in ("queued", "running"):
            time.sleep(0.05)
        if job["state"] != "done":
            raise Failed(f"a backup failed: {job}")


def make(work, count):
    """A vault with so many snapshots."""
    owner = Node(work, "owner", {"SHADOWVAULT_REPLICATION__COPIES": "2"})
    phrase = os.path.join(work, "owner-phrase")
    owner.run("init", "--phrase-out", phrase)
    owner.start()
    source = os.path.join(work, "source")
    began = time.monotonic()
    # Over the socket, many in a queue: a command for each would take most of the time.
    rounds = -(-count // QUEUED)
    for number in range(rounds):
        write(os.path.join(source, "file"), f"{number}\n" * 100)
        backups(owner, source, min(QUEUED, count - number * QUEUED))
    print(f"made {count} snapshots in {time.monotonic() - began:.0f} s", flush=True)
    return owner, phrase, source


def clock(work, count, owner, phrase, source):
    """Recovers them from a holder, as it is, with a second one that does not answer, and slowed down."""
    holders = []
    for name in ("holder", "second"):
        holder = Node(work, name)
        holder.run("init", "--storage-only", "--lend", "10GiB")
        holder.start()
        pair(owner, holder)
        holders.append(holder)
    write(os.path.join(source, "file"), "the newest\n" * 100)
    owner.run("backup", source, "--wait", "copies", "--wait-timeout", "300s")
    until = time.monotonic() + 300
    while any(snapshot["copies"] < 2 for snapshot in owner.json("snapshots")):
        if time.monotonic() > until:
            raise Failed("not everything reached both holders")
        time.sleep(0.5)
    owner.kill()
    holder, second = holders

    def timed(name, at_most, stopped=False, settings=None):
        node = fresh(work, name, settings)
        peer = holder.address()
        if stopped:
            second.process.send_signal(signal.SIGSTOP)
        began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        process = node.command("--json", "recover", "--peer", peer, "--phrase-file", phrase)
        out, err = process.communicate(timeout=600)
        took, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        if stopped:
            second.process.send_signal(signal.SIGCONT)
        if process.returncode != 0:
            raise Failed(f"recover ended with {process.returncode}: {err[-2000:]}")
        found = json.loads(out)
        if found["snapshots"] != count + 1 or len(node.json("snapshots")) != count + 1:
            raise Failed(f"{found['snapshots']} of {count + 1} snapshots came back")
        print(f"{name}: {count + 1} snapshots, {found['packs']} packs, {len(found['holders'])} holders: {took:.1f} s, "
              f"{busy:.1f} s of a core", flush=True)
        if took > at_most:
            raise Failed(f"that is more than {at_most} s")
        remove(node)
        return err

    timed("default limits", SECONDS_MAX)
    said = timed("a holder is stopped", SECONDS_MAX + 5, stopped=True)
    if "going on without" not in said:
        raise Failed(f"nobody said which holder is away: {said}")
    holder.stop()
    holder.env |= {"SHADOWVAULT_SECURITY__REQUESTS_PER_SECOND": "5", "SHADOWVAULT_SECURITY__BURST_SIZE": "5"}
    holder.start()
    timed("5 requests a second", 300)
    holder.stop()
    for name in ("SHADOWVAULT_SECURITY__REQUESTS_PER_SECOND", "SHADOWVAULT_SECURITY__BURST_SIZE"):
        del holder.env[name]
    holder.start()
    return holder


def kills(dice, moments, work, name, arguments, check):
    """Kills what `arguments(node)` say at random moments, each time in a new directory."""
    node = fresh(work, name)
    began = time.monotonic()
    node.run(*arguments(node))
    life = time.monotonic() - began
    check(node)
    remove(node)
    under_way, resumed = 0, 0
    for moment in range(moments):
        given = arguments(node)
        # A second and a third kill of the same directory now and then.
        for _ in range(dice.choice((1, 1, 2, 3))):
            process = node.command(*given)
            time.sleep(dice.uniform(0, life))
            under_way += process.poll() is None
            process.kill()
            process.communicate()
            # Killed before init wrote its configuration, there is none.
            is_named = os.path.exists(os.path.join(node.work, f"{node.name}.yaml"))
            node.run("id", want=(0, 10) if is_named else (0, 10, 16))
            half_made = os.path.exists(os.path.join(node.repo, "shadowvault.making"))
            resumed += half_made
        process = node.command("--json", *given)
        _, err = process.communicate(timeout=300)
        if process.returncode != 0 and "VAULT_EXISTS" not in err:
            raise Failed(f"{name}: the same command ended with {process.returncode} after kill {moment}: {err[-2000:]}")
        check(node)
        remove(node)
    print(f"{name}: {moments} directories, {under_way} kills under way, {resumed} left something half made; all went on", flush=True)


def main():
    seed = sys.argv[1] if len(sys.argv) > 1 else sys.exit(__doc__)
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    moments = int(sys.argv[3]) if len(sys.argv) > 3 else 30
    dice = random.Random(seed)
    work = working_directory("recover")
    owner, phrase, source = make(work, count)
    holder = clock(work, count, owner, phrase, source)
    want = picture(source)
    vault = owner.json("id")["vault_id"]

    def has_everything(node):
        listed = node.json("snapshots")
        if len(listed) != count + 1:
            raise Failed(f"{node.name}: {len(listed)} of {count + 1} snapshots are listed")
        target = os.path.join(work, "target")
        node.run("restore", f"latest:{source}", "--target", target)
        wrong = differences(want, picture(target))
        shutil.rmtree(target)
        if wrong:
            raise Failed(f"{node.name}: the newest snapshot comes back different\n{wrong}")

    def has_its_phrase(node):
        words = os.path.join(work, f"{node.name}-phrase")
        other = fresh(work, "other")
        made = other.json("init", "--from-phrase", words)
        remove(other)
        if made["vault_id"] != node.json("id")["vault_id"]:
            raise Failed(f"{node.name}: the phrase in the file is another vault's")

    def has_its_peer(node):
        if len(node.json("peers", "list")) != 1:
            raise Failed(f"{node.name}: it did not join")

    def is_of_the_vault(node):
        if node.json("id")["vault_id"] != vault:
            raise Failed(f"{node.name}: it is of another vault")
        has_everything(node)

    def ticket(*more):
        return owner.json("invite", *more)["ticket"]

    kills(dice, moments, work, "init", lambda node: ("init", "--phrase-out", os.path.join(work, f"{node.name}-phrase")), has_its_phrase)
    kills(dice, moments, work, "recover", lambda _: ("recover", "--peer", holder.address(), "--phrase-file", phrase), has_everything)
    owner.start()
    kills(dice, moments, work, "join", lambda _: ("join", "-y", ticket("--quota", "1GiB")), has_its_peer)
    kills(dice, moments, work, "device", lambda _: ("join", "-y", ticket("--role", "device"), "--phrase-file", phrase), is_of_the_vault)
    print("nothing was lost")


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"FAILED: {failure}")
