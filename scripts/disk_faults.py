#!/usr/bin/env python3
"""Disks that fail, and disks that go away, under real nodes.

usage: disk_faults.py [rebuild] [flush] [pages] [unmount]      (default: all four)

rebuild   `rebuild-index` of an owner and of a holder is killed at each of its flushes and renames in turn: what is in
          place afterwards is the old index or the whole new one, and the same command goes on.
flush     one EIO in a flush of a daemon, at many moments: nothing that was acknowledged is lost, the daemon ends by
          itself and not with 0; the same for a holder that is just taking packs.
pages     every page of the index zeroed, one by one: each command works or ends with 5 and names the cure, none panics;
          a daemon makes its index anew, or ends when it lacks the keys for that.
unmount   a holder's disk is unmounted under its daemon: it counts as away, nothing as lost, and all is well once it is
          mounted again.

Needs root (for mounts) and strace. Exit code 1 and the reason when a claim does not hold.
"""
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from nodes import Failed, Node, differences, pair, picture, working_directory  # noqa: E402

PAGE = 4096
ONE_COPY = {"SHADOWVAULT_REPLICATION__COPIES": "1"}


def faults(what):
    """Words before a command: strace, which injects a fault and leaves the process to us."""
    return ["strace", "-D", "-f", "-qqq", "-o", "/dev/null", "-e", what]


def fill(top, count, length):
    os.makedirs(top, exist_ok=True)
    for number in range(count):
        with open(os.path.join(top, f"{number:04}"), "wb") as file:
            file.write(os.urandom(length))


def change(top, text):
    with open(os.path.join(top, "changing"), "w") as file:
        file.write(text)


def start_under(node, words):
    """Whether the daemon came up; one that did not must have said so."""
    plain = node.base
    node.base = [*words, *plain]
    try:
        node.start()
        return True
    except Failed:
        if not node.process.poll():
            raise
        return False
    finally:
        node.base = plain


def ended(node, timeout=60):
    """The exit code of a daemon that has to end by itself."""
    try:
        code = node.process.wait(timeout)
    except subprocess.TimeoutExpired:
        raise Failed(f"{node.name}: the daemon goes on{node.tail()}") from None
    node.process = None
    return code


def storage(node):
    status = node.json("status", want=(0, 1, 13))["storage"]
    return {name: status[name] for name in ("own_packs", "foreign_packs", "foreign_bytes", "chunks")}


def wait_until(what, condition, node, timeout=60):
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        found = condition()
        if found:
            return found
        time.sleep(0.2)
    raise Failed(f"waited in vain: {what}{node.tail()}")


def meet(owner):
    wait_until("owner and holder are connected", lambda: owner.json("peers")[0]["connected"], owner)


def owner_and_holder(work, holder_repo=None):
    owner = Node(work, "owner", ONE_COPY)
    holder = Node(work, "holder", ONE_COPY)
    if holder_repo:
        holder.repo = holder_repo
        holder.base[holder.base.index("--repo") + 1] = holder_repo
    owner.run("init", "--phrase-out", os.path.join(work, "phrase"))
    holder.run("init", "--storage-only", "--lend", "1GiB")
    owner.start()
    holder.start()
    pair(owner, holder)
    source = os.path.join(work, "source")
    fill(source, 40, 200_000)
    owner.run("backup", source, "--wait", "copies", "--wait-timeout", "60s")
    return owner, holder, source


def rebuild(work):
    owner, holder, source = owner_and_holder(work)
    owner.stop()
    holder.stop()
    for node in (holder, owner):
        want, index = storage(node), os.path.join(node.repo, "index.redb")
        for damaged in (False, True):
            if damaged:
                os.unlink(index)
            kills = 0
            while True:
                words = faults(f"inject=fdatasync,fsync,rename:signal=KILL:when={kills + 1}")
                process = subprocess.run([*words, *node.base, "rebuild-index"], env=node.env, capture_output=True)
                if process.returncode == 0:
                    break
                kills += 1
                if not damaged or os.path.exists(index):
                    found = storage(node)
                    if found != want:
                        raise Failed(f"{node.name}: killed at flush {kills} of a rebuild: {found}, not {want}")
                elif "rebuild-index" not in node.command("status").communicate()[1]:
                    raise Failed(f"{node.name}: a lost index is not named after kill {kills}")
            if storage(node) != want or kills < 4:
                raise Failed(f"{node.name}: {storage(node)} after {kills} kills, not {want}")
            print(f"rebuild: {node.name}, index {'lost' if damaged else 'whole'}: {kills} kills, then whole: {want}")
    owner.start()
    holder.start()
    target = os.path.join(work, "target")
    owner.run("restore", f"latest:{source}", "--target", target)
    wrong = differences(picture(source), picture(target))
    if wrong:
        raise Failed(wrong)
    for node in (owner, holder):
        node.run("verify")
        node.stop()


def flush(work):
    owner, holder, source = owner_and_holder(work)
    owner.stop()
    done = []
    for moment in range(1, 41, 3):
        if not start_under(owner, faults(f"inject=fdatasync,fsync:error=EIO:when={moment}")):
            print(f"flush: owner, flush {moment}: it did not start, and ended with {owner.process.poll()}")
            continue
        for round in range(30):
            change(source, f"{moment} {round}")
            backup = owner.command("--json", "backup", source)
            out, _ = backup.communicate()
            if backup.returncode != 0:
                break
            done.append(json.loads(out.strip().splitlines()[-1])["snapshot_id"])
        code = ended(owner)
        if code == 0:
            raise Failed(f"after a failed flush the daemon ended with 0{owner.tail()}")
        listed = {snapshot["id"] for snapshot in owner.json("snapshots")}
        lost = [one for one in done if one not in listed]
        if lost:
            raise Failed(f"acknowledged and not listed: {lost}")
        owner.run("verify")
        print(f"flush: owner, flush {moment}: ended with {code}; all of {len(done)} acknowledged snapshots are there")
    owner.start()
    # Both have new ports at every start: one must be there while the other comes back.
    meet(owner)
    holder.stop()
    for moment in (4, 8, 12, 16, 24, 32):
        if not start_under(holder, faults(f"inject=fdatasync,fsync:error=EIO:when={moment}")):
            print(f"flush: holder, flush {moment}: it did not start, and ended with {holder.process.poll()}")
            continue
        meet(owner)
        for round in range(40):
            fill(os.path.join(source, "more"), 3, 200_000)
            owner.run("backup", source, "--wait", "copies", "--wait-timeout", "3s", want=(0, 4))
            if holder.process.poll() is not None:
                break
        code = ended(holder)
        if code == 0:
            raise Failed(f"after a failed flush the holder ended with 0{holder.tail()}")
        holder.start()
        wait_until("copies after the holder's restart",
                   lambda: owner.json("status", want=(0, 1))["snapshots_safe"] ==
                   owner.json("status", want=(0, 1))["snapshots"], owner)
        audits = owner.json("verify", "--peers")["audits"]
        if any(audit["wrong"] or audit["packs_lost"] for audit in audits):
            raise Failed(f"the holder confirmed what it has not: {audits}")
        holder.run("verify")
        meet(owner)
        holder.stop()
        print(f"flush: holder, flush {moment}: ended with {code}; what it confirmed it has")
    owner.stop()


def pages(work):
    node = Node(work, "owner", ONE_COPY)
    node.run("init", "--phrase-out", os.path.join(work, "phrase"))
    source = os.path.join(work, "source")
    fill(source, 200, 30_000)
    node.run("backup", source)
    index = os.path.join(node.repo, "index.redb")
    with open(index, "rb") as file:
        sound = file.read()
    used = [page for page in range(len(sound) // PAGE) if any(sound[page * PAGE:(page + 1) * PAGE])]
    aside = os.path.join(work, "aside")
    shutil.copytree(node.repo, aside)

    def spoil(page):
        """The whole store as it was, but for one page: an older index beside newer snapshots would be damage as well."""
        shutil.rmtree(node.repo)
        shutil.copytree(aside, node.repo)
        bad = bytearray(sound)
        bad[page * PAGE:(page + 1) * PAGE] = bytes(PAGE)
        with open(index, "wb") as file:
            file.write(bad)

    refused = 0
    for page in used:
        target = os.path.join(work, "target")
        change(source, str(page))
        for command in (["snapshots"], ["verify"], ["restore", f"latest:{source}", "--target", target],
                        ["backup", source], ["gc"]):
            spoil(page)
            process = node.command("--json", *command)
            _, err = process.communicate()
            if "panicked" in err or process.returncode not in (0, 5):
                raise Failed(f"page {page}: {command} ended with {process.returncode}: {err[-1000:]}")
            if process.returncode == 5:
                refused += 1
                if "rebuild-index" not in err:
                    raise Failed(f"page {page}: {command} does not name the cure: {err[-1000:]}")
        shutil.rmtree(target, ignore_errors=True)
    print(f"pages: {len(used)} pages zeroed one by one, 5 commands each: {refused} named the cure, "
          f"{5 * len(used) - refused} worked, none did anything else")
    spoil(used[0])
    node.run("rebuild-index")
    node.run("verify")
    for page in used:
        spoil(page)
        node.start()
        change(source, f"daemon {page}")
        node.run("backup", source)
        node.run("verify")
        node.stop()
    print(f"pages: a daemon with all keys made its index anew or did not need to, {len(used)} of {len(used)}")
    # Without the passphrase it cannot: then it does not run as if all were well.
    spoil(used[0])
    kept = node.env.pop("SHADOWVAULT_PASSPHRASE_FILE")
    locked = node.command("daemon")
    _, err = locked.communicate(timeout=60)
    node.env["SHADOWVAULT_PASSPHRASE_FILE"] = kept
    if locked.returncode != 5 or "rebuild-index" not in err:
        raise Failed(f"a locked daemon with a damaged index ended with {locked.returncode}: {err[-1000:]}")
    print("pages: a locked daemon with a damaged index ends with 5 and names the cure")


def health(port):
    try:
        with urllib.request.urlopen(f"http://{port}/health", timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def unmount(work):
    real, place = os.path.join(work, "real"), os.path.join(work, "place")
    os.makedirs(real)
    os.makedirs(place)
    subprocess.run(["mount", "--bind", real, place], check=True)
    try:
        owner, holder, source = owner_and_holder(work, place)
        port = holder.json("status", want=(0, 1))["listeners"]["health"]
        before = owner.json("snapshots")
        if health(port)[0] != 200:
            raise Failed(f"health before: {health(port)}")
        subprocess.run(["umount", "-l", place], check=True)
        code, told = health(port)
        if code != 503 or told["components"]["storage"] != "unavailable":
            raise Failed(f"health of a holder without its disk: {code} {told}")
        for _ in range(3):
            audits = owner.json("verify", "--peers", want=(0, 5, 14))["audits"]
            if any(audit["wrong"] or audit["packs_lost"] or audit["ok"] for audit in audits):
                raise Failed(f"audits of a holder without its disk: {audits}")
        slices = sum(audit["offline"] for audit in audits)
        fill(os.path.join(source, "more"), 3, 200_000)
        owner.run("backup", source, "--wait", "copies", "--wait-timeout", "3s", want=(4,))
        after = owner.json("snapshots")
        if [one["copies"] for one in after[:len(before)]] != [one["copies"] for one in before] or after[-1]["copies"]:
            raise Failed(f"copies while the disk is away: {before} became {after}")
        if os.listdir(place):
            raise Failed(f"something was written to the empty mount point: {os.listdir(place)}")
        process = holder.command("--json", "snapshots")
        _, err = process.communicate()
        if process.returncode != 1 or "STORAGE_UNAVAILABLE" not in err:
            raise Failed(f"a command without the disk ended with {process.returncode}: {err}")
        subprocess.run(["mount", "--bind", real, place], check=True)
        wait_until("the holder's health", lambda: health(port)[0] == 200, holder)
        owner.run("backup", source, "--wait", "copies", "--wait-timeout", "60s")
        audits = owner.json("verify", "--peers")["audits"]
        if any(audit["ok"] != audit["slices"] or audit.get("lost_at") for audit in audits):
            raise Failed(f"audits after the remount: {audits}")
        holder.stop()
        owner.stop()
        print(f"unmount: {slices} slices asked for, all told as offline, none as wrong; after the remount all "
              f"{sum(audit['ok'] for audit in audits)} right, no black mark; nothing in the mount point")
    finally:
        subprocess.run(["umount", "-l", place], check=False, stderr=subprocess.DEVNULL)


def main():
    parts = {"rebuild": rebuild, "flush": flush, "pages": pages, "unmount": unmount}
    chosen = sys.argv[1:] or list(parts)
    if not set(chosen) <= set(parts):
        sys.exit(__doc__)
    try:
        for name in chosen:
            parts[name](working_directory(f"disk-{name}"))
    except Failed as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        sys.exit(1)
    print("all claims hold")


main()
