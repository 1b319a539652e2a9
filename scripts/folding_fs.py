#!/usr/bin/env python3
"""A file system in memory to which README and readme are one name, and so are the forms of Unicode: mounts itself on a directory.

usage: scripts/folding_fs.py DIR      returns once it is mounted; ends when it is unmounted. Needs root and /dev/fuse.

A name that is taken keeps its spelling when something is renamed over it, as with ext4 (casefold). Nothing is ever cached, so that
the kernel asks for each name; there are no extended attributes.
"""
import ctypes
import errno
import os
import stat
import struct
import sys
import time
import unicodedata

HEAD, ATTR = struct.Struct("<IIQQIIIHH"), struct.Struct("<6Q3I7I")
NOREPLACE, EXCHANGE = 1, 2
NO_REPLY = object()


def fold(name):
    text = unicodedata.normalize("NFD", name.decode("utf-8", "surrogateescape")).casefold()
    return unicodedata.normalize("NFD", text)


def names(data):
    return data.rstrip(b"\0").split(b"\0")


class Node:
    def __init__(self, number, mode, owner, rdev=0, content=b""):
        now = time.time_ns()
        self.number, self.mode, self.owner, self.rdev = number, mode, list(owner), rdev
        self.content, self.children = bytearray(content), {}
        self.links = 2 if stat.S_ISDIR(mode) else 1
        self.atime = self.mtime = self.ctime = now

    def attributes(self):
        times = [self.atime, self.mtime, self.ctime]
        return ATTR.pack(
            self.number, len(self.content), (len(self.content) + 511) // 512, *(t // 10**9 for t in times),
            *(t % 10**9 for t in times), self.mode, self.links, *self.owner, self.rdev, 4096, 0)

    def entry(self):
        return struct.pack("<4Q2I", self.number, 0, 0, 0, 0, 0) + self.attributes()

    def child(self, name):
        if fold(name) not in self.children:
            raise OSError(errno.ENOENT, "")
        return self.children[fold(name)][1]

    def put(self, name, node):
        """Under the spelling that is there, if one is."""
        spelling = self.children.get(fold(name), (name, None))[0]
        self.children[fold(name)] = (spelling, node)
        self.touched()

    def touched(self):
        self.mtime = self.ctime = time.time_ns()


class FileSystem:
    def __init__(self):
        self.nodes = {1: Node(1, stat.S_IFDIR | 0o755, (0, 0))}

    def make(self, parent, name, mode, owner, rdev=0, content=b""):
        if fold(name) in parent.children:
            raise OSError(errno.EEXIST, "")
        node = Node(len(self.nodes) + 1, mode, owner, rdev, content)
        self.nodes[node.number] = node
        parent.put(name, node)
        return node

    def rename(self, parent, data, to, flags):
        old, new = names(data)
        node, there = parent.child(old), to.children.get(fold(new))
        if there and flags & NOREPLACE:
            raise OSError(errno.EEXIST, "")
        if flags & EXCHANGE:
            raise OSError(errno.EINVAL, "")
        if there and there[1].children:
            raise OSError(errno.ENOTEMPTY, "")
        if there and there[1] is not node:
            there[1].links -= 1
        del parent.children[fold(old)]
        to.put(new, node)
        return b""

    def set(self, node, data):
        valid, _, _, size, _, *times, mode, _, uid, gid, _ = struct.unpack("<IIQQQ3Q3I5I", data)
        now = time.time_ns()
        if valid & 1:
            node.mode = mode
        node.owner = [uid if valid & 2 else node.owner[0], gid if valid & 4 else node.owner[1]]
        if valid & 8:
            node.content[size:] = b"\0" * max(0, size - len(node.content))
            node.mtime = now
        if valid & 16:
            node.atime = now if valid & 128 else times[0] * 10**9 + times[3]
        if valid & 32:
            node.mtime = now if valid & 256 else times[1] * 10**9 + times[4]
        node.ctime = now
        return struct.pack("<QII", 0, 0, 0) + node.attributes()

    def remove(self, parent, name, directory):
        node = parent.child(name)
        if directory and node.children:
            raise OSError(errno.ENOTEMPTY, "")
        node.links -= 2 if directory else 1
        del parent.children[fold(name)]
        parent.touched()
        return b""

    def listing(self, node, offset, size):
        entries, out = list(node.children.values()), b""
        for at in range(offset, len(entries)):
            name, child = entries[at]
            entry = struct.pack("<QQII", child.number, at + 1, len(name), stat.S_IFMT(child.mode) >> 12) + name
            entry += b"\0" * (-len(entry) % 8)
            if len(out) + len(entry) > size:
                break
            out += entry
        return out

    def answer(self, opcode, node, owner, data):
        if opcode == 1:  # LOOKUP
            return node.child(names(data)[0]).entry()
        if opcode in (2, 42, 36):  # FORGET, BATCH_FORGET, INTERRUPT
            return NO_REPLY
        if opcode == 3:  # GETATTR
            return struct.pack("<QII", 0, 0, 0) + node.attributes()
        if opcode == 4:
            return self.set(node, data)
        if opcode == 5:  # READLINK
            return bytes(node.content)
        if opcode == 6:  # SYMLINK
            name, target = names(data)
            return self.make(node, name, stat.S_IFLNK | 0o777, owner, 0, target).entry()
        if opcode == 8:  # MKNOD
            mode, rdev, umask, _ = struct.unpack_from("<4I", data)
            return self.make(node, names(data[16:])[0], mode & ~umask, owner, rdev).entry()
        if opcode == 9:  # MKDIR
            mode, umask = struct.unpack_from("<2I", data)
            return self.make(node, names(data[8:])[0], stat.S_IFDIR | mode & ~umask, owner).entry()
        if opcode in (10, 11):  # UNLINK, RMDIR
            return self.remove(node, names(data)[0], opcode == 11)
        if opcode == 12:
            return self.rename(node, data[8:], self.nodes[struct.unpack_from("<Q", data)[0]], 0)
        if opcode == 45:  # RENAME2
            to, flags = struct.unpack_from("<QI", data)
            return self.rename(node, data[16:], self.nodes[to], flags)
        if opcode == 13:  # LINK
            old = self.nodes[struct.unpack_from("<Q", data)[0]]
            name = names(data[8:])[0]
            if fold(name) in node.children:
                raise OSError(errno.EEXIST, "")
            old.links += 1
            node.put(name, old)
            return old.entry()
        if opcode in (14, 27):  # OPEN, OPENDIR
            return struct.pack("<QII", 0, 0, 0)
        if opcode == 35:  # CREATE
            _, mode, umask, _ = struct.unpack_from("<4I", data)
            made = self.make(node, names(data[16:])[0], stat.S_IFREG | mode & ~umask, owner)
            return made.entry() + struct.pack("<QII", 0, 0, 0)
        if opcode == 15:  # READ
            _, offset, size = struct.unpack_from("<QQI", data)
            return bytes(node.content[offset : offset + size])
        if opcode == 16:  # WRITE
            _, offset, size = struct.unpack_from("<QQI", data)
            if len(node.content) < offset:
                node.content.extend(b"\0" * (offset - len(node.content)))
            node.content[offset : offset + size] = data[40 : 40 + size]
            node.touched()
            return struct.pack("<II", size, 0)
        if opcode == 17:  # STATFS
            return struct.pack("<5Q4I6I", 1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 4096, 255, 4096, 0, *[0] * 6)
        if opcode == 28:  # READDIR
            _, offset, size = struct.unpack_from("<QQI", data)
            return self.listing(node, offset, size)
        if opcode in (18, 20, 25, 29, 30, 34, 38, 50):  # RELEASE, FSYNC, FLUSH, ..., ACCESS, DESTROY, SYNCFS
            return b""
        if opcode in (21, 22, 23, 24):  # extended attributes
            raise OSError(errno.EOPNOTSUPP, "")
        raise OSError(errno.ENOSYS, "")

    def serve(self, device):
        while True:
            try:
                request = os.read(device, 1 << 18)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT):
                    continue
                return
            _, opcode, unique, number, uid, gid, _, _, _ = HEAD.unpack_from(request)
            code = 0
            try:
                if opcode == 26:  # INIT
                    reply = struct.pack("<4I2HIIHHI7I", 7, 31, 1 << 17, 0, 16, 12, 1 << 17, 1, 0, 0, 0, *[0] * 7)
                else:
                    reply = self.answer(opcode, self.nodes.get(number), (uid, gid), request[HEAD.size :])
            except OSError as error:
                reply, code = b"", -error.errno
            if reply is not NO_REPLY:
                try:
                    os.write(device, struct.pack("<IiQ", 16 + len(reply), code, unique) + reply)
                except OSError:
                    pass  # Whoever asked is gone.


def main():
    directory = sys.argv[1]
    device = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions".encode()
    if libc.mount(b"folding", os.fsencode(directory), b"fuse.folding", ctypes.c_ulong(2 | 4), options):
        sys.exit(f"{directory} cannot be mounted: {os.strerror(ctypes.get_errno())}")
    if os.fork() == 0:
        os.setsid()
        os.chdir("/")
        for out in range(3):
            os.dup2(os.open(os.devnull, os.O_RDWR), out)
        FileSystem().serve(device)


if __name__ == "__main__":
    main()
