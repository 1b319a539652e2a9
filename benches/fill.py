#!/usr/bin/env python3
"""Runs a command and puts what it prints between two markers of a document.

usage: fill.py FILE NAME COMMAND [ARGUMENT...]

The markers are lines `<!-- NAME BEGIN … -->` and `<!-- NAME END -->`. The output is shown as it comes. When the command
fails the document stays as it is, and fill.py ends with the command's exit code.
"""
import subprocess
import sys


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    path, name, command = sys.argv[1], sys.argv[2], sys.argv[3:]
    with open(path) as file:
        lines = file.read().splitlines()
    begin = [at for at, line in enumerate(lines) if line.startswith(f"<!-- {name} BEGIN")]
    end = [at for at, line in enumerate(lines) if line.startswith(f"<!-- {name} END")]
    if len(begin) != 1 or len(end) != 1 or begin > end:
        sys.exit(f"{path} has no place for {name}")
    said = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            said.append(line.rstrip("\n"))
    if process.returncode != 0:
        sys.exit(process.returncode)
    with open(path, "w") as file:
        file.write("\n".join(lines[: begin[0] + 1] + said + lines[end[0] :]) + "\n")


if __name__ == "__main__":
    main()
