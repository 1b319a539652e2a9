#!/usr/bin/env python3
"""Looks for plaintext where it must not be: at a holder, in logs, on the wire.

usage: secrecy_test.py [--no-capture]

Backs up a tree of unique names and contents three times to a holder over loopback while everything on `lo` is
captured (tcpdump if there, else a raw socket; both need root). Then no name, content, attribute, tag, passphrase or
word of the phrase may stand in the holder's data directory, the owner's own, any log or the capture: as it is, in
upper or lower hex, in base64 at any alignment, in UTF-16. Packs have at most eight sizes, snapshot records one.
Canaries prove that the search and the capture see what they should.
"""
import base64
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from nodes import PASSPHRASE, Failed, Node, pair, working_directory  # noqa: E402

PACK_SIZES = {(128 << 10) << n for n in range(8)}
RECORD_SIZE = 8192
TOKEN_BYTES = 12


def token():
    """Unique, printable, and in no other file of this machine."""
    return "mk" + secrets.token_hex(TOKEN_BYTES // 2) + "zq"


def forms(text):
    """The ways a text may stand in bytes."""
    raw = text.encode()
    out = {raw, raw.hex().encode(), raw.hex().upper().encode(), text.encode("utf-16-le"), text.encode("utf-16-be")}
    for shift in range(3):
        # Whole groups of the middle, which do not depend on what stands before and after.
        group = base64.b64encode(bytes(shift) + raw)
        whole = group[4 if shift else 0:len(group) // 4 * 4 - 4]
        out |= {whole, whole.replace(b"+", b"-").replace(b"/", b"_")}
    return {form for form in out if len(form) >= 8}


class Needles:
    def __init__(self, texts):
        self.texts = texts
        self.bytes = {form: text for text in texts for form in forms(text)}
        self.overlap = max(map(len, self.bytes)) - 1

    def search(self, path):
        """Texts that occur in a file, in any form."""
        found, before = set(), b""
        with open(path, "rb") as file:
            while part := file.read(16 << 20):
                # Every marker begins alike in each form, so one pass tells whether a closer look is needed.
                window = before + part
                found |= {text for form, text in self.bytes.items() if form in window}
                before = window[-self.overlap:]
        return found

    def search_tree(self, top):
        """(path, text) for every find below a directory, names of files included."""
        finds = []
        for directory, names, files in os.walk(top):
            for name in names + files:
                finds += [(os.path.join(directory, name), text) for text in self.texts if text in name]
            for name in files:
                path = os.path.join(directory, name)
                if os.path.isfile(path) and not os.path.islink(path):
                    finds += [(path, text) for text in self.search(path)]
        return finds


class Capture:
    """Everything on the loopback interface, into one file."""

    def __init__(self, path):
        self.path, self.process, self.socket, self.lost = path, None, None, 0
        if os.geteuid() != 0:
            raise Failed("capturing needs root; --no-capture leaves it out")
        if shutil.which("tcpdump"):
            self.process = subprocess.Popen(["tcpdump", "-i", "lo", "-s", "0", "-U", "-B", "262144", "-w", path],
                                            stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(1)
            return
        everything = 0x0003
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(everything))
        force = 33  # SO_RCVBUFFORCE
        self.socket.setsockopt(socket.SOL_SOCKET, force, 512 << 20)
        self.socket.bind(("lo", 0))
        self.socket.settimeout(0.2)
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self.copy)
        self.thread.start()

    def copy(self):
        with open(self.path, "wb") as file:
            while True:
                try:
                    # On `lo` every packet is seen twice, going out and coming in: once is enough.
                    packet, (_, _, kind, *_) = self.socket.recvfrom(1 << 17)
                    if kind != socket.PACKET_OUTGOING:
                        file.write(packet)
                except TimeoutError:
                    if self.ending.is_set():
                        return

    def stop(self):
        time.sleep(0.5)
        if self.process:
            self.process.terminate()
            self.process.wait()
        else:
            self.ending.set()
            self.thread.join()
            statistics = self.socket.getsockopt(263, 6, 8)  # SOL_PACKET, PACKET_STATISTICS
            self.lost = int.from_bytes(statistics[4:8], sys.byteorder)
            self.socket.close()


def send_canary(text):
    """The text, in clear, over a TCP connection on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as client:
            with server.accept()[0] as other:
                client.sendall(text.encode())
                other.recv(1 << 16)


class Source:
    def __init__(self, top):
        self.top, self.texts, self.dice = top, [], random.Random(7)
        os.makedirs(top)

    def mark(self):
        self.texts.append(token())
        return self.texts[-1]

    def add(self):
        """Files of many sizes, texts that compress, links, attributes: each with a marker of its own."""
        directory = os.path.join(self.top, self.mark())
        os.makedirs(directory)
        for length in [50, 3000, 70_000, 900_000, 9_000_000] + [2000] * 40:
            text = self.mark()
            with open(os.path.join(directory, self.mark()), "wb") as file:
                filler = f"{text} plain words that compress well, line after line\n".encode() * (length // 64 + 1)
                file.write(filler[:length] if length > 64 else filler)
                if length > 500_000:
                    # Incompressible in between: stored as it is, so a missing cipher would show.
                    file.write(b"".join(self.dice.randbytes(4096) + text.encode() for _ in range(200)))
        os.symlink(self.mark(), os.path.join(directory, self.mark()))
        try:
            os.setxattr(directory, f"user.{self.mark()}", self.mark().encode())
        except OSError as error:
            print(f"note: no attributes here ({error})", file=sys.stderr)


def check_sizes(holder):
    sizes = set()
    for directory, _, files in os.walk(os.path.join(holder.repo, "packs")):
        sizes |= {os.path.getsize(os.path.join(directory, name)) for name in files if "." not in name}
    if not sizes or not sizes <= PACK_SIZES:
        raise Failed(f"packs at the holder have the sizes {sorted(sizes)}")
    snapshots = os.path.join(holder.repo, "snapshots")
    records = {os.path.getsize(os.path.join(snapshots, name)) for name in os.listdir(snapshots)}
    if records != {RECORD_SIZE}:
        raise Failed(f"snapshot records at the holder have the sizes {sorted(records)}")
    return sizes


def test(work, with_capture):
    source = Source(os.path.join(work, "source"))
    owner = Node(work, "owner", {"SHADOWVAULT_REPLICATION__COPIES": "1", "SHADOWVAULT_MONITORING__LOG_LEVEL": "debug"})
    holder = Node(work, "holder", {"SHADOWVAULT_REPLICATION__LEND": "10GiB",
                                   "SHADOWVAULT_MONITORING__LOG_LEVEL": "debug"})
    phrase = os.path.join(work, "phrase")
    owner.run("init", "--phrase-out", phrase)
    holder.run("init", "--storage-only")
    with open(phrase) as file:
        words = file.read().strip()
    capture, canary = None, token()
    path = os.path.join(work, "capture")
    if with_capture:
        capture = Capture(path)
    try:
        for node in (owner, holder):
            node.start()
        pair(owner, holder)
        tag, host = source.mark(), source.mark()
        for _ in range(3):
            source.add()
            owner.run("backup", source.top, "--tag", tag, "--host", host, "--wait", "copies", "--wait-timeout", "120s")
        snapshots = owner.json("snapshots")
        if [s["copies"] for s in snapshots] != [1, 1, 1] or snapshots[0]["tags"] != [tag]:
            raise Failed(f"three snapshots with a copy each were expected: {snapshots}")
        stored = holder.json("status", want=(0, 1))["storage"]["foreign_bytes"]
        send_canary(canary)
    finally:
        if capture:
            capture.stop()
    for node in (owner, holder):
        node.stop()
    pairs = [" ".join(words.split()[at:at + 3]) for at in range(0, 24, 3)]
    needles = Needles(source.texts + pairs + [PASSPHRASE])

    if len({text for _, text in needles.search_tree(source.top)}) < len(source.texts) * 9 // 10:
        raise Failed("the search does not find the markers in the source itself")
    sizes = check_sizes(holder)
    finds = []
    for place in (holder.repo, owner.repo):
        finds += needles.search_tree(place)
    for log in (owner.log, holder.log):
        finds += [(log, text) for text in needles.search(log)]
    if capture:
        captured = os.path.getsize(path)
        if captured < stored or canary not in Needles([canary]).search(path):
            raise Failed(f"the capture is not complete: {captured} bytes for {stored}, {capture.lost} packets lost")
        finds += [(path, text) for text in needles.search(path)]
        print(f"captured {captured / 1e6:.1f} MB while {stored / 1e6:.1f} MB of packs moved, {capture.lost} packets lost")
    if finds:
        lines = "\n".join(f"  {text} in {os.path.relpath(path, work)}" for path, text in finds[:20])
        raise Failed(f"{len(finds)} finds of plaintext\n{lines}")
    print(f"{len(needles.texts)} texts in {len(needles.bytes)} forms: not at the holder, not in the owner's data "
          f"directory, not in a log{', not on the wire' if capture else ''}")
    print(f"packs at the holder have {len(sizes)} sizes, snapshot records one")


def main():
    if sys.argv[1:] not in ([], ["--no-capture"]):
        sys.exit(__doc__)
    try:
        test(working_directory("secrecy"), not sys.argv[1:])
    except Failed as error:
        sys.exit(f"FAILED: {error}")


if __name__ == "__main__":
    main()
