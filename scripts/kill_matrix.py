#!/usr/bin/env python3
"""Kills everything the program does at random moments with SIGKILL, and looks whether the same command goes on afterwards.

usage: kill_matrix.py SEED [ROUNDS] [KIND...]      (default: 30 rounds of every kind)

Backups and pulls run in daemons (kill_test.py). Every other kind is one command, run without a daemon of its own, begun each
time on the same data directories and killed once, somewhere in the time that it takes when nobody disturbs it; a kill counts
only if the command was still running. Then, whatever the kill left:

- right after it, what can be read must not be called sound if something is missing; acknowledged snapshots are listed;
- the same command, without any help, must end well;
- after that every acknowledged snapshot is listed and sound, and some are restored and compared.

What happens is told on stderr, a table of it on stdout. Exit code 1 if anything was lost or did not go on; the other kinds are
tried all the same.
"""
import contextlib
import json
import os
import random
import shutil
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from kill_test import Ledger, kill_holder, kill_owner, new_holder, new_owner, wait_for_copies  # noqa: E402
from nodes import Failed, Node, differences, pair, picture, working_directory  # noqa: E402

# A command that ends sooner than this leaves nothing to hit.
SHORTEST = 0.02


class Source:
    """Some large and many small files, a third of which changes each time."""

    def __init__(self, top, dice, large=12, small=120):
        self.top, self.dice, self.large, self.small = top, dice, large, small
        os.makedirs(os.path.join(top, "some"))
        self.write(range(large), range(small))

    def write(self, large, small):
        for number in large:
            self.put(f"large-{number}", self.dice.randrange(500_000, 1_500_000))
        for number in small:
            self.put(f"some/{number:03}", self.dice.randrange(100, 20_000))
        self.picture = picture(self.top)

    def put(self, name, length):
        with open(os.path.join(self.top, name), "wb") as file:
            file.write(self.dice.randbytes(length))

    def change(self):
        some = self.dice.sample
        self.write(some(range(self.large), self.large // 3), some(range(self.small), self.small // 3))


class Scene:
    """One command, and what it is run on. `nodes` begin each round as they were when the scene was set."""

    name, nodes = "", ()

    def __init__(self, work, dice):
        self.work, self.dice = work, dice
        self.phrase = os.path.join(work, "phrase")
        self.ledger = Ledger()

    def owner(self, copies=0, backups=4, **sizes):
        owner = new_owner(self.work, copies)
        self.source = Source(os.path.join(self.work, "source"), self.dice, **sizes)
        owner.start()
        for round in range(backups):
            if round:
                self.source.change()
            summary = owner.json("backup", self.source.top)
            self.ledger.snapshots[summary["snapshot_id"]] = (self.source.top, self.source.picture)
        return owner

    def holder(self, name="holder"):
        return new_holder(self.work, self.dice, name)

    def copied(self, owner, holder):
        holder.start()
        pair(owner, holder)
        wait_for_copies(owner, holder)

    def keep(self):
        for node in self.nodes:
            shutil.copytree(node.repo, node.repo + ".kept", symlinks=True)

    def fresh(self):
        """Everything as it was."""
        for node in self.nodes:
            shutil.rmtree(node.repo)
            shutil.copytree(node.repo + ".kept", node.repo, symlinks=True)

    def begin(self):
        """The command: a node and its arguments."""
        raise NotImplementedError

    def after_kill(self):
        """What must hold whatever the kill left."""

    def check(self):
        """What must hold once the command went through."""
        self.ledger.check(self.nodes[0], self.ledger.newest(1))

    def end(self):
        """Ends daemons."""


class Repair(Scene):
    name = "repair"

    def __init__(self, work, dice):
        super().__init__(work, dice)
        owner, self.peer = self.owner(copies=1), self.holder()
        self.copied(owner, self.peer)
        owner.stop()
        self.nodes = (owner,)
        self.keep()

    def fresh(self):
        super().fresh()
        packs = sorted(packs_of(self.nodes[0]))
        for path in self.dice.sample(packs, min(8, len(packs))):
            length = os.path.getsize(path)
            match self.dice.randrange(3):
                case 0:
                    os.unlink(path)
                case 1:
                    os.truncate(path, self.dice.randrange(length))
                case _:
                    with open(path, "r+b") as file:
                        file.seek(self.dice.randrange(length - 10))
                        file.write(b"rot")

    def begin(self):
        return self.nodes[0], ("repair", "--yes")

    def after_kill(self):
        listed(self.nodes[0], self.ledger)

    def end(self):
        self.peer.stop()


class Gc(Scene):
    name = "gc"

    def __init__(self, work, dice):
        super().__init__(work, dice)
        owner = self.owner(backups=8)
        gone = list(self.ledger.snapshots)[:5]
        owner.run("forget", *gone, "--yes")
        owner.stop()
        for snapshot in gone:
            del self.ledger.snapshots[snapshot]
        self.nodes = (owner,)
        self.keep()

    def begin(self):
        return self.nodes[0], ("gc", "--now")

    def after_kill(self):
        self.ledger.check(self.nodes[0], [])


class Forget(Scene):
    name = "forget"

    def __init__(self, work, dice):
        super().__init__(work, dice)
        owner = self.owner(backups=8)
        owner.stop()
        for snapshot in list(self.ledger.snapshots)[:-3]:
            del self.ledger.snapshots[snapshot]
        self.nodes = (owner,)
        self.keep()

    def begin(self):
        return self.nodes[0], ("forget", "--keep-last", "3", "--yes")

    def after_kill(self):
        self.ledger.check(self.nodes[0], [])

    def check(self):
        super().check()
        left = len(self.nodes[0].json("snapshots"))
        if left != 3:
            raise Failed(f"{left} snapshots are left of 3")


class Restore(Scene):
    name = "restore"

    def __init__(self, work, dice):
        super().__init__(work, dice)
        owner = self.owner(backups=2, large=40, small=1500)
        owner.stop()
        self.nodes, self.target = (owner,), os.path.join(work, "target")

    def fresh(self):
        shutil.rmtree(self.target, ignore_errors=True)

    def begin(self):
        return self.nodes[0], ("restore", f"latest:{self.source.top}", "--target", self.target)

    def after_kill(self):
        """No file is there under its name before it is whole."""
        got = picture(self.target) if os.path.isdir(self.target) else {}
        for path, (_, _, size, what) in got.items():
            if what and path in self.source.picture and (size, what) != self.source.picture[path][2:]:
                raise Failed(f"{path} has its name and not its content")

    def check(self):
        wrong = differences(self.source.picture, picture(self.target))
        if wrong:
            raise Failed(f"the restore that went on is not what was backed up\n{wrong}")


class Recover(Scene):
    name = "recover"

    def __init__(self, work, dice):
        super().__init__(work, dice)
        owner, self.peer = self.owner(copies=1, backups=60, large=2, small=12), self.holder()
        self.copied(owner, self.peer)
        owner.stop()
        self.new = Node(work, "new")
        self.nodes = (self.new,)

    def fresh(self):
        shutil.rmtree(self.new.repo, ignore_errors=True)

    def begin(self):
        return self.new, ("recover", "--peer", self.peer.address(), "--phrase-file", self.phrase)

    def check(self):
        listed(self.new, self.ledger)
        self.ledger.restore(self.new, self.ledger.newest(1))

    def end(self):
        self.peer.stop()


class RebuildOwner(Scene):
    name = "rebuild-index-owner"

    def __init__(self, work, dice):
        super().__init__(work, dice)
        owner = self.owner(backups=6, large=30, small=600)
        owner.stop()
        self.nodes = (owner,)
        self.keep()

    def begin(self):
        return self.nodes[0], ("rebuild-index",)

    def after_kill(self):
        """Refused with a hint, or whole."""
        owner = self.nodes[0]
        if json.loads(owner.run("--json", "verify", want=(0, 1, 3, 5)).strip().splitlines()[-1] or "{}").get("invalid_snapshots") == 0:
            listed(owner, self.ledger)


class RebuildHolder(Scene):
    name = "rebuild-index-holder"

    def __init__(self, work, dice):
        super().__init__(work, dice)
        owner, holder = self.owner(copies=1, backups=6, large=30, small=600), self.holder()
        self.copied(owner, holder)
        owner.stop()
        holder.stop()
        self.nodes = (holder,)
        self.packs = len(packs_of(holder))
        self.keep()

    def begin(self):
        return self.nodes[0], ("rebuild-index",)

    def looked(self, want):
        process = self.nodes[0].command("--json", "verify")
        out, err = process.communicate(timeout=120)
        checked = json.loads(out.strip().splitlines()[-1])["packs_checked"] if out.strip() else 0
        if process.returncode not in want or (process.returncode == 0 and checked != self.packs):
            raise Failed(f"verify ends with {process.returncode} and looked at {checked} of {self.packs} packs\n{err[-500:]}")

    def after_kill(self):
        self.looked((0, 1, 5))

    def check(self):
        self.looked((0,))


class Import(Scene):
    name = "import"

    def __init__(self, work, dice):
        super().__init__(work, dice)
        owner, holder = self.owner(backups=4, large=30, small=300), self.holder()
        self.file = os.path.join(work, "carried")
        owner.run("export", "--output", self.file)
        self.packs = len(packs_of(owner))
        owner.stop()
        self.nodes = (holder,)
        self.keep()

    def begin(self):
        return self.nodes[0], ("import", self.file)

    def check(self):
        holder = self.nodes[0]
        again = holder.json("import", self.file)
        if (again["packs"], again["held"]) != (0, self.packs):
            raise Failed(f"imported once more: {again}, of {self.packs} packs")
        holder.run("verify")


class Join(Scene):
    name = "join"

    def __init__(self, work, dice):
        super().__init__(work, dice)
        self.inviter = self.owner(backups=1, large=1, small=3)
        self.new = Node(work, "new")
        self.nodes = (self.new,)

    def fresh(self):
        shutil.rmtree(self.new.repo, ignore_errors=True)
        # Where a node was and is no more, a disk may be missing: `join` makes none there.
        shutil.rmtree(self.new.env["XDG_STATE_HOME"], ignore_errors=True)
        self.ticket = self.inviter.json("invite", "--quota", "1GiB")["ticket"]

    def begin(self):
        return self.new, ("join", self.ticket, "--yes")

    def check(self):
        peer = self.new.json("id")["peer_id"]
        if not any(known["id"] == peer for known in self.inviter.json("peers")):
            raise Failed("the inviter does not know the node that joined")
        self.inviter.run("peers", "remove", peer)

    def end(self):
        self.inviter.stop()


class Revoke(Scene):
    name = "revoke"

    def __init__(self, work, dice):
        super().__init__(work, dice)
        owner = self.owner(backups=2)
        ticket = owner.json("invite", "--role", "device")["ticket"]
        second = Node(work, "second")
        second.run("join", ticket, "--yes", "--phrase-file", self.phrase)
        second.start()
        until = time.monotonic() + 60
        while len(owner.json("device", "list")) < 2:
            if time.monotonic() > until:
                raise Failed("the owner does not hear of its second device")
            time.sleep(0.2)
        self.device = next(line["id"] for line in owner.json("device", "list") if not line["this"])
        second.stop()
        owner.stop()
        self.nodes = (owner,)
        self.keep()

    def begin(self):
        return self.nodes[0], ("device", "revoke", self.device[:12], "--phrase-file", self.phrase, "--yes")

    def after_kill(self):
        self.ledger.check(self.nodes[0], [])

    def check(self):
        super().check()
        line = next(line for line in self.nodes[0].json("device", "list") if line["id"] == self.device)
        if not line.get("revoked"):
            raise Failed(f"the device is not revoked: {line}")


def packs_of(node):
    found = os.walk(os.path.join(node.repo, "packs"))
    return [os.path.join(directory, name) for directory, _, names in found for name in names if not name.endswith(".cells")]


def listed(node, ledger):
    known = {snapshot["id"] for snapshot in node.json("snapshots")}
    lost = [number[:8] for number in ledger.snapshots if number not in known]
    if lost:
        raise Failed(f"{node.name}: acknowledged snapshots are not listed: {' '.join(lost)}")


def matrix(scene, dice, rounds):
    """So many kills of the scene's command; how many tries that took."""
    def whole():
        scene.fresh()
        node, arguments = scene.begin()
        began = time.monotonic()
        node.run(*arguments)
        took = time.monotonic() - began
        scene.check()
        return took

    usual = max(whole(), SHORTEST)
    print(f"{scene.name}: takes {usual:.2f} s when nobody disturbs it", flush=True)
    killed, tries = 0, 0
    while killed < rounds:
        tries += 1
        if tries > rounds * 20:
            raise Failed(f"only {killed} of {tries} kills met the command at work")
        scene.fresh()
        node, arguments = scene.begin()
        moment = dice.uniform(0, usual)
        process = node.command(*arguments)
        time.sleep(moment)
        if process.poll() is not None:
            out, err = process.communicate()
            if process.returncode != 0:
                raise Failed(f"{' '.join(arguments)} ended with {process.returncode}, undisturbed\n{out[-800:]}{err[-800:]}")
            continue
        process.kill()
        process.communicate()
        killed += 1
        try:
            scene.after_kill()
            node.run(*arguments)
            scene.check()
        except Failed as error:
            raise Failed(f"killed {moment:.3f} s in (kill {killed}): {error}") from None
        print(f"{scene.name} {killed:3}/{rounds}: killed {moment:6.3f} s in; the same command went on, all sound", flush=True)
    return tries


SCENES = [Repair, Gc, Forget, Restore, Recover, RebuildOwner, RebuildHolder, Import, Join, Revoke]


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    seed, rounds = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 30
    parts = {"backup": lambda work: kill_owner(work, seed, rounds), "pull": lambda work: kill_holder(work, seed, rounds)}
    for scene in SCENES:
        def part(work, scene=scene):
            dice = random.Random(f"{seed} {scene.name}")
            one = scene(work, dice)
            matrix(one, dice, rounds)
            one.end()
        parts[scene.name] = part
    chosen = sys.argv[3:] or list(parts)
    unknown = [name for name in chosen if name not in parts]
    if unknown:
        sys.exit(f"no such kind: {', '.join(unknown)}; there are {', '.join(parts)}")
    work, lines, lost = working_directory("matrix"), [], []
    for number, name in enumerate(chosen):
        place = os.path.join(work, str(number))
        os.makedirs(place)
        began = time.monotonic()
        try:
            with contextlib.redirect_stdout(sys.stderr):
                parts[name](place)
            outcome = "nothing lost, went on each time"
        except Failed as error:
            print(f"FAILED with seed {seed}: {name}: {error}", file=sys.stderr, flush=True)
            outcome = "**" + str(error).splitlines()[0] + "**"
            lost.append(name)
        lines.append(f"| {name} | {rounds} | {outcome} | {time.monotonic() - began:.0f} |")
        if not os.environ.get("KEEP"):
            shutil.rmtree(place, ignore_errors=True)
    print("| killed in | kills | outcome | s |\n|---|--:|---|--:|\n" + "\n".join(lines))
    if lost:
        sys.exit(f"seed {seed}: {', '.join(lost)}")
    print(f"\nSeed {seed}; nothing that was acknowledged was lost.")


if __name__ == "__main__":
    main()
