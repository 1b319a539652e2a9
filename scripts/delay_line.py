#!/usr/bin/env python3
"""A line that takes time: passes TCP connections on, each byte after a delay, in both directions.

usage: delay_line.py LISTEN_ADDRESS:PORT TARGET_ADDRESS:PORT MILLISECONDS

The delay is for one way; a round trip takes twice as long. At most 64 MiB are on their way in each direction.
"""
import collections
import socket
import sys
import threading
import time

CHUNK = 256 << 10
ON_THE_WAY = 64 << 20


def address(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


def pass_on(source, target, delay):
    """Starts moving bytes from one socket to the other."""
    line = collections.deque()
    changed = threading.Condition()
    state = {"bytes": 0, "over": False}

    def read():
        while True:
            try:
                data = source.recv(CHUNK)
            except OSError:
                data = b""
            with changed:
                while state["bytes"] > ON_THE_WAY and not state["over"]:
                    changed.wait()
                line.append((time.monotonic() + delay, data))
                state["bytes"] += len(data)
                changed.notify_all()
                if not data or state["over"]:
                    return

    def write():
        while True:
            with changed:
                while not line:
                    changed.wait()
                due, data = line.popleft()
            wait = due - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            try:
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    return
                target.sendall(data)
            except OSError:
                with changed:
                    state["over"] = True
                    changed.notify_all()
                source.close()
                return
            with changed:
                state["bytes"] -= len(data)
                changed.notify_all()

    for work in (read, write):
        threading.Thread(target=work, daemon=True).start()


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    listen, target, delay = address(sys.argv[1]), address(sys.argv[2]), float(sys.argv[3]) / 1000
    server = socket.create_server(listen)
    print("ready", flush=True)
    while True:
        caller, _ = server.accept()
        try:
            called = socket.create_connection(target, timeout=10)
        except OSError:
            caller.close()
            continue
        called.settimeout(None)
        for side in (caller, called):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pass_on(caller, called, delay)
        pass_on(called, caller, delay)


if __name__ == "__main__":
    main()
