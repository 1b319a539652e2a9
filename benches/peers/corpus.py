#!/usr/bin/env python3
"""Deterministic corpora for comparing backup tools.

usage: corpus.py DIR [src|random|small|vm|all|tiny]...

  src     about 1 GiB of files copied from this machine (sorted walk: the same machine image gives the same tree)
  random  1 GiB that does not compress, in 4 files of 256 MiB
  small   100,000 text-like files of 1 to 8 KiB in 1,000 directories
  vm      a 2 GiB disk image (zeros, repeated blocks, text, random); vm2 is the same with 1 % of its 4 KiB
          blocks overwritten and 1 MiB inserted
  tiny    200 files as in small: shows within seconds whether everything runs; not part of `all`

`change(root, name)` makes the small change between the second and third backup.
"""
import functools
import hashlib
import os
import random
import shutil
import stat
import subprocess
import sys

KIB = 1 << 10
MIB = 1 << 20
NAMES = ("src", "random", "small", "vm")
ALL_NAMES = (*NAMES, "tiny")


def sysroot():
    try:
        found = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "/nonexistent"
    return found.stdout.strip()


def source_roots():
    """Where `src` takes files from, and how many MiB: documents, Rust, Python, ELF libraries, headers."""
    return (
        ("/usr/share", 330),
        (os.path.expanduser("~/.cargo/registry/src"), 180),
        ("/usr/lib/python3", 60),
        ("/usr/lib/x86_64-linux-gnu", 250),
        ("/usr/lib/gcc", 60),
        (sysroot() + "/share", 100),
        ("/usr/include", 40),
        ("/usr/lib", 60),
    )


def noise(seed, length):
    """`length` bytes that do not compress, always the same for one seed."""
    parts = []
    while length > 0:
        size = min(length, MIB)
        parts.append(hashlib.shake_128(f"{seed}:{len(parts)}".encode()).digest(size))
        length -= size
    return b"".join(parts)


@functools.cache
def vocabulary():
    rng = random.Random(5)
    return ["".join(rng.choice("etaoinshrdlucmfwypvbgk") for _ in range(rng.randint(2, 9))) for _ in range(4000)]


def text(rng, length):
    """`length` bytes that look like source code and compress like it."""
    words = vocabulary()
    parts = []
    size = 0
    while size < length:
        line = " ".join(rng.choices(words, k=rng.randint(5, 14)))
        line = "    " * rng.randint(0, 3) + line + rng.choice([".\n", ";\n", "\n", " {\n", "\n\n"])
        parts.append(line)
        size += len(line)
    return "".join(parts)[:length].encode()


def sorted_files(root):
    for directory, subdirectories, files in os.walk(root):
        subdirectories.sort()
        for name in sorted(files):
            yield os.path.join(directory, name)


def make_src(target):
    for root, quota_mib in source_roots():
        left = quota_mib * MIB
        directory = None
        for path in sorted_files(root):
            # The quota is looked at between directories.
            if os.path.dirname(path) != directory:
                if left < 64 * KIB:
                    break
                directory = os.path.dirname(path)
            try:
                status = os.lstat(path)
            except OSError:
                continue
            copy = target + path
            if not stat.S_ISREG(status.st_mode) or status.st_size > min(48 * MIB, left) or os.path.exists(copy):
                continue
            os.makedirs(os.path.dirname(copy), exist_ok=True)
            shutil.copyfile(path, copy)
            shutil.copymode(path, copy)
            os.utime(copy, (1700000000, 1700000000))
            left -= status.st_size


def make_random(target):
    for number in range(4):
        with open(f"{target}/r{number}.bin", "wb") as file:
            for part in range(8):
                file.write(noise(f"random{number}.{part}", 32 * MIB))


def make_small(target, directories=1000, pool_bytes=24 * MIB):
    rng = random.Random(42)
    pool = text(random.Random(43), pool_bytes)
    for number in range(directories):
        directory = f"{target}/d{number // 50:02d}/s{number:04d}"
        os.makedirs(directory)
        for index in range(100):
            size = rng.randint(1 * KIB, 8 * KIB)
            start = rng.randrange(len(pool) - size - 1)
            # The first line makes every file unique.
            head = f"file {number} {index} {rng.getrandbits(64):016x}\n".encode()
            ending = "txt" if index % 3 else "rs"
            with open(f"{directory}/f{index:03d}.{ending}", "wb") as file:
                file.write(head + pool[start : start + size - 40])


def image_blocks():
    """The 2,048 blocks of 1 MiB of the disk image, in runs of one kind."""
    rng = random.Random(7)
    repeated = [noise(f"rep{i}", 64 * KIB) for i in range(16)]
    pool = text(random.Random(8), 16 * MIB)
    made = 0
    while made < 2048:
        kind = rng.random()
        run = min(rng.randint(1, 12), 2048 - made)
        for _ in range(run):
            if kind < 0.30:
                block = bytes(MIB)
            elif kind < 0.45:
                block = b"".join(rng.choice(repeated) for _ in range(16))
            elif kind < 0.75:
                block = numbered_slices(rng, pool)
            else:
                block = noise(f"vm{made}", MIB)
            made += 1
            yield block


def numbered_slices(rng, pool):
    """1 MiB of 4 KiB text slices, each with a serial number, so that none occurs twice."""
    parts = []
    for _ in range(256):
        start = rng.randrange(len(pool) - 4096)
        parts.append(rng.getrandbits(128).to_bytes(16, "little") + pool[start : start + 4080])
    return b"".join(parts)


def make_tiny(target):
    make_small(target, directories=2, pool_bytes=MIB)


def make_vm(target):
    changed = os.path.join(os.path.dirname(target), "vm2")
    shutil.rmtree(changed, ignore_errors=True)
    os.makedirs(changed)
    rng = random.Random(9)
    with open(f"{target}/disk.img", "wb") as before, open(f"{changed}/disk.img", "wb") as after:
        for number, block in enumerate(image_blocks()):
            before.write(block)
            if number == 1000:
                after.write(noise("insertion", MIB))
            block = bytearray(block)
            for page in range(256):
                if rng.random() < 0.01:
                    block[page * 4096 : (page + 1) * 4096] = noise(f"ow{number}.{page}", 4096)
            after.write(block)


def change(root, name, corpora):
    """The small change: a line more in 1 % of the files (src, small, tiny), 1 % of the bytes of each file (random), the
    other image (vm)."""
    rng = random.Random(1001)
    if name == "vm":
        shutil.copyfile(f"{corpora}/vm2/disk.img", f"{root}/disk.img")
    elif name == "random":
        for file in sorted(os.listdir(root)):
            with open(os.path.join(root, file), "r+b") as handle:
                for _ in range(41):
                    handle.seek(rng.randrange(256 * MIB // (64 * KIB)) * 64 * KIB)
                    handle.write(rng.randbytes(64 * KIB))
    else:
        for path in sorted_files(root):
            if rng.random() < 0.01:
                with open(path, "ab") as handle:
                    handle.write(f"\nchanged 1 {rng.getrandbits(64):x}\n".encode())


MAKERS = {"src": make_src, "random": make_random, "small": make_small, "vm": make_vm, "tiny": make_tiny}


def make(base, name):
    target = os.path.join(base, name)
    shutil.rmtree(target, ignore_errors=True)
    os.makedirs(target)
    MAKERS[name](target)
    sizes = [os.lstat(path).st_size for path in sorted_files(target)]
    print(f"{name}: {len(sizes)} files, {sum(sizes) / MIB:.0f} MiB", file=sys.stderr, flush=True)


def main():
    if len(sys.argv) < 2 or any(name not in (*ALL_NAMES, "all") for name in sys.argv[2:]):
        sys.exit(__doc__)
    wanted = sys.argv[2:] or ["all"]
    for name in NAMES if "all" in wanted else wanted:
        make(os.path.abspath(sys.argv[1]), name)


if __name__ == "__main__":
    main()
