"""Nodes for the test scripts beside this file: each with a data directory, settings and a daemon of its own."""
import atexit
import hashlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time

PASSPHRASE = "correct horse battery staple"


class Failed(Exception):
    """A test's claim does not hold."""


def find_program():
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(root, "target"))
    program = os.path.abspath(os.environ.get("SHADOWVAULT", os.path.join(target, "release/shadowvault")))
    if not os.access(program, os.X_OK):
        sys.exit(f"{program} is not there: run `make build`, or set SHADOWVAULT=/path")
    return program


def working_directory(name):
    """A directory of one's own, removed at the end unless KEEP is set."""
    work = tempfile.mkdtemp(prefix=f"shadowvault-{name}.")
    if os.environ.get("KEEP"):
        atexit.register(print, f"kept: {work}", file=sys.stderr)
    else:
        atexit.register(shutil.rmtree, work, ignore_errors=True)
    return work


class Node:
    def __init__(self, work, name, settings=None, passphrase=PASSPHRASE, under=()):
        """`under` is what every command runs under, such as `ip netns exec NAME`."""
        self.name, self.work = name, work
        self.repo = os.path.join(work, name)
        self.log = os.path.join(work, f"{name}-daemon.log")
        self.process = None
        secret = os.path.join(work, "passphrase")
        if not os.path.exists(secret):
            with os.fdopen(os.open(secret, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
                file.write(passphrase)
        alien = ("RUNTIME_DIRECTORY", "CREDENTIALS_DIRECTORY")
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("SHADOWVAULT_") and k not in alien}
        self.env |= {
            "XDG_CONFIG_HOME": os.path.join(work, "config"),
            "XDG_RUNTIME_DIR": work,
            "XDG_STATE_HOME": os.path.join(work, "state"),
            "SHADOWVAULT_PASSPHRASE_FILE": secret,
            "SHADOWVAULT_LISTEN_PORT": "0",
            "SHADOWVAULT_METRICS_PORT": "0",
            "SHADOWVAULT_MONITORING__HEALTH_CHECK_PORT": "0",
            "SHADOWVAULT_MONITORING__LOG_FORMAT": "text",
            "SHADOWVAULT_MONITORING__LOG_LEVEL": "warn",
            "SHADOWVAULT_NAT_TRAVERSAL__ENABLE_MDNS": "false",
            "SHADOWVAULT_NAT_TRAVERSAL__ENABLE_UPNP": "false",
            "SHADOWVAULT_P2P__RECONNECT_BACKOFF": "500ms",
            "SHADOWVAULT_P2P__MAX_RECONNECT_BACKOFF": "2s",
        } | (settings or {})
        self.base = [*under, find_program(), "-c", os.path.join(work, f"{name}.yaml"), "--repo", self.repo, "--no-input"]
        atexit.register(self.kill)

    def command(self, *arguments, **options):
        """Starts a command; its output is readable text."""
        return subprocess.Popen([*self.base, *arguments], env=self.env, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", **options)

    def run(self, *arguments, want=(0,), timeout=300):
        """Runs a command to its end; its stdout. Any exit code but those in `want` fails the test."""
        process = self.command(*arguments)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise Failed(f"{self.name}: {' '.join(arguments)} took longer than {timeout} s") from None
        if process.returncode not in want:
            raise Failed(f"{self.name}: {' '.join(arguments)} ended with {process.returncode}, not {want}\n"
                         f"{out[-2000:]}{err[-2000:]}{self.tail()}")
        return out

    def json(self, *arguments, **options):
        """The (last) JSON document that a command prints."""
        out = self.run("--json", *arguments, **options).strip()
        try:
            return json.loads(out)
        except ValueError:
            return json.loads(out.splitlines()[-1])

    def start(self, timeout=30):
        """Starts the daemon and waits until it answers."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([*self.base, "daemon"], env=self.env, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log)
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise Failed(f"{self.name}: the daemon ended with {self.process.returncode}{self.tail()}")
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(os.path.relpath(os.path.join(self.repo, "control.sock")))
                    return
                except OSError:
                    time.sleep(0.02)
        raise Failed(f"{self.name}: the daemon did not come up within {timeout} s{self.tail()}")

    def kill(self):
        """kill -9, if the daemon runs."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        self.process = None

    def stop(self, timeout=30):
        """Ends the daemon in an orderly way."""
        self.process.terminate()
        code = self.process.wait(timeout)
        self.process = None
        if code != 0:
            raise Failed(f"{self.name}: the daemon ended with {code} after SIGTERM{self.tail()}")

    def address(self, place="127.0.0.1"):
        for address in self.json("id")["addresses"]:
            if address.startswith(f"/ip4/{place}/tcp/"):
                return address
        raise Failed(f"{self.name} has no address at {place}")

    def tail(self):
        try:
            with open(self.log, errors="replace") as log:
                return f"--- end of {self.name}'s log\n" + "".join(log.readlines()[-15:])
        except FileNotFoundError:
            return ""


def pair(owner, holder):
    """Each allows the other."""
    owner.run("peers", "add", holder.address(), "--name", holder.name)
    holder.run("peers", "add", owner.address(), "--name", owner.name)


def ip(*arguments, check=True):
    return subprocess.run(["ip", *arguments], check=check, stderr=subprocess.DEVNULL).returncode == 0


def space(name):
    """A machine of its own on the network, until the script ends; False where namespaces are not permitted."""
    if not ip("netns", "add", name, check=False):
        return False
    atexit.register(ip, "netns", "del", name, check=False)
    return ip("-n", name, "link", "set", "lo", "up")


def middle(name):
    """The machine that joins the others; the script ends where namespaces are not permitted."""
    if not space(name):
        print("skipped: network namespaces are not permitted here", file=sys.stderr)
        sys.exit(77)


def picture(top):
    """Every entry of a tree: type, mode, times, size, content's hash. Two equal pictures are equal trees."""
    out = {}
    for directory, names, files in os.walk(top):
        for name in names + files + ["."]:
            path = os.path.join(directory, name)
            info = os.lstat(path)
            what = ""
            if stat.S_ISREG(info.st_mode):
                with open(path, "rb") as file:
                    what = hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") \
                        else hashlib.sha256(file.read()).hexdigest()
            elif stat.S_ISLNK(info.st_mode):
                what = os.readlink(path)
            size = info.st_size if stat.S_ISREG(info.st_mode) else 0
            out[os.path.relpath(path, top)] = (info.st_mode, info.st_mtime_ns, size, what)
    return out


def differences(want, got):
    """What is not equal, in words; the first few."""
    lines = [f"missing {path}" for path in want if path not in got]
    lines += [f"unexpected {path}" for path in got if path not in want]
    lines += [f"{path}: {want[path]} became {got[path]}" for path in want if path in got and want[path] != got[path]]
    return "\n".join(lines[:10])
