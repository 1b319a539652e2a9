#!/usr/bin/env python3
"""Puts deliberate faults into a copy of the program, one at a time, and looks whether the tests notice each.

usage: sabotage.py [--check | --units] [--jobs N] [NAME...]      (default: all faults of tests/sabotage.toml)

--check only compares texts; --units passes over faults that only tests of the whole program notice, which spares building it.

The sources stay as they are. A copy of the tree gets all faults at once, each asleep until the environment says SABOTAGE=NAME,
and is built once, into a target directory of its own. All tests that the table names must pass there with no fault awake; then
each fault is woken and its tests are run, and at least one must fail. A fault that makes its tests hang counts as noticed only
where the table says `hang = true`. Prints a table for docs/RELIABILITY.md; exit code 1 if a fault was not noticed.
"""
import argparse
import concurrent.futures
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TABLE = "tests/sabotage.toml"
# Longer than any of the named tests takes on a busy machine, and than all of them together.
LIFE = 300
LIFE_OF_ALL = 1200
SWITCH = '''
/// Whether that fault is awake.
pub fn sabotaged(name: &str) -> bool {
    static NAME: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    NAME.get_or_init(|| std::env::var("SABOTAGE").ok()).as_deref() == Some(name)
}
'''
# Nodes of tests get a clean environment; the fault goes with them.
PASSED_ON = (
    "command.env_clear()",
    'command.env_clear().envs(std::env::vars_os().filter(|(name, _)| name == "SABOTAGE"))',
)


def say(text):
    print(text, file=sys.stderr, flush=True)


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def put(text, edits, path):
    """Replaces each old text, which must stand exactly once and overlap no other."""
    places = []
    for name, old, new in edits:
        if text.count(old) != 1:
            sys.exit(f"{name}: its text occurs {text.count(old)} times in {path}")
        places.append((text.index(old), old, new, name))
    places.sort()
    for (start, old, _, name), (following, _, _, other) in zip(places, places[1:]):
        if start + len(old) > following:
            sys.exit(f"{name} and {other} overlap in {path}")
    for start, old, new, _ in reversed(places):
        text = text[:start] + new + text[start + len(old):]
    return text


def sabotaged(faults):
    """The files with faults, by path."""
    edits = {}
    for fault in faults:
        name = fault["name"]
        new = fault["new"].replace("SABOTAGED", f'crate::sabotaged("{name}")')
        if new == fault["new"]:
            sys.exit(f"{name}: its new text does not ask whether it is SABOTAGED")
        edits.setdefault(fault["file"], []).append((name, fault["old"], new))
    files = {path: put(read(path), of, path) for path, of in edits.items()}
    files["src/lib.rs"] = files.get("src/lib.rs", read("src/lib.rs")) + SWITCH
    node = "tests/it/node.rs"
    files[node] = put(read(node), [("the switch", *PASSED_ON)], node)
    return files


def copy(files, to):
    """The tree with these files, written only where it differs, so that little is built again."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, check=True, capture_output=True)
    paths = {path for path in listed.stdout.decode().split("\0") if path and os.path.isfile(os.path.join(ROOT, path))}
    for path in sorted(paths):
        with open(os.path.join(ROOT, path), "rb") as file:
            content = files[path].encode() if path in files else file.read()
        target = os.path.join(to, path)
        try:
            with open(target, "rb") as file:
                if file.read() == content:
                    continue
        except FileNotFoundError:
            os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as file:
            file.write(content)
    for directory, _, names in os.walk(to):
        for name in names:
            path = os.path.join(directory, name)
            if os.path.relpath(path, to) not in paths:
                os.unlink(path)


def build(tree, target, whole):
    """Paths of the test binaries: `lib`, and `it` where the whole program is tested."""
    command = [os.environ.get("CARGO", "cargo"), "test", "--release", "--locked", "--no-run", "--lib"]
    command += (["--bins", "--test", "it"] if whole else []) + ["--message-format=json-render-diagnostics"]
    done = subprocess.run(command, cwd=tree, env={**os.environ, "CARGO_TARGET_DIR": target}, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit("the tree with faults does not build")
    binaries = {}
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["profile"]["test"]:
            kind = message["target"]["kind"][0]
            binaries["it" if kind == "test" else kind] = message["executable"]
    return binaries


class Hung(Exception):
    pass


def run(binary, tests, fault, tree, life):
    """How many of the tests ran, and which failed."""
    environment = {name: value for name, value in os.environ.items() if name != "SABOTAGE"}
    if fault:
        environment["SABOTAGE"] = fault
    command = [binary, "--exact", "--test-threads=2", *tests]
    with subprocess.Popen(command, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace", start_new_session=True) as process:
        try:
            said, _ = process.communicate(timeout=life)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise Hung from None
    failed = set(re.findall(r"^test (\S+) (?:- should panic )?\.\.\. FAILED$", said, re.M))
    ran = re.search(r"^running (\d+) tests?$", said, re.M)
    if process.returncode != 0 and not failed:
        # It was ended by a signal, or ended itself: whichever test it was did not pass.
        failed = {f"(ended with {process.returncode})"}
    return int(ran.group(1)) if ran else 0, failed


def of_kind(tests, kind):
    return [test.removeprefix("it::") for test in tests if test.startswith("it::") == (kind == "it")]


def all_of(binaries, tests, fault, tree, life=LIFE):
    ran, failed = 0, set()
    for kind, binary in binaries.items():
        some = of_kind(tests, kind)
        if some:
            count, bad = run(binary, some, fault, tree, life)
            ran, failed = ran + count, failed | bad
    return ran, failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--units", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("names", nargs="*", metavar="NAME")
    arguments = parser.parse_args()
    faults = tomllib.loads(read(TABLE))["fault"]
    files = sabotaged(faults)
    unknown = set(arguments.names) - {fault["name"] for fault in faults}
    if unknown:
        sys.exit(f"no such fault: {', '.join(sorted(unknown))}")
    if arguments.check:
        say(f"{len(faults)} faults fit the sources")
        return
    target = os.path.join(os.path.abspath(os.environ.get("CARGO_TARGET_DIR") or os.path.join(ROOT, "target")), "sabotage")
    tree = os.path.join(target, "tree")
    os.makedirs(tree, exist_ok=True)
    copy(files, tree)
    chosen = [fault for fault in faults if not arguments.names or fault["name"] in arguments.names]
    if arguments.units:
        chosen = [fault for fault in chosen if not any(test.startswith("it::") for test in fault["tests"])]
    tests = sorted({test for fault in chosen for test in fault["tests"]})
    began = time.monotonic()
    binaries = build(tree, target, any(test.startswith("it::") for test in tests))
    say(f"built in {time.monotonic() - began:.0f} s; {len(tests)} tests without a fault …")
    try:
        ran, failed = all_of(binaries, tests, None, tree, LIFE_OF_ALL)
    except Hung:
        sys.exit("without a fault the tests hang")
    if failed or ran != len(tests):
        sys.exit(f"without a fault {ran} of {len(tests)} tests ran, and failed: {', '.join(sorted(failed)) or 'none'}")

    def look(fault):
        began = time.monotonic()
        try:
            _, failed = all_of(binaries, fault["tests"], fault["name"], tree)
            noticed = ", ".join(f"`{test.split('::')[-1]}`" for test in sorted(failed))
        except Hung:
            noticed = f"no end in {LIFE} s" if fault.get("hang") else ""
        return noticed, time.monotonic() - began

    survived = []
    print("| fault | what it breaks | noticed by | s |\n|---|---|---|--:|", flush=True)
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for fault, (noticed, seconds) in zip(chosen, pool.map(look, chosen)):
            print(f"| {fault['name']} | {fault['breaks']} | {noticed or '**nothing**'} | {seconds:.0f} |", flush=True)
            if not noticed:
                survived.append(fault["name"])
    print(f"\n{len(chosen)} faults, {len(chosen) - len(survived)} noticed, in {time.monotonic() - began:.0f} s "
          "with the build.", flush=True)
    if survived:
        sys.exit(f"not noticed: {', '.join(survived)}")


if __name__ == "__main__":
    main()
