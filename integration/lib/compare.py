"""Compares a plain build with one that went through the ranks. The judge of the invariant: it excuses nothing that
is not named on its command line, and comparing nothing is a failure.

compare.py trees PLAIN PROXIED [--except GLOB]... [--at-least SUFFIX=N]...
    Names, kinds, permission bits, link targets and contents of everything below both folders.
compare.py logs PLAIN PROXIED [--block REGEX]
    What the builds printed. Parallel builds finish in any order, so blocks are compared as a multiset: a block
    begins at every line that REGEX matches (the echoed command) and holds the diagnostics behind it, in order.

One line of counts on success; status 1 and the differences otherwise.
"""

import argparse
import collections
import fnmatch
import os
import re
import stat
import sys

SHOWN_MAX = 20


def entries(top, excepted):
    """Relative path -> what a build could have made different."""
    found = {}
    for folder, dirs, files in os.walk(top):
        for name in dirs + files:
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, top)
            if any(fnmatch.fnmatchcase(relative, glob) for glob in excepted):
                continue
            status = os.lstat(path)
            kind = stat.S_IFMT(status.st_mode)
            value = {"kind": kind, "mode": oct(stat.S_IMODE(status.st_mode))}
            if stat.S_ISLNK(kind):
                value = {"kind": kind, "target": os.readlink(path)}
            elif stat.S_ISREG(kind):
                with open(path, "rb") as file:
                    value["content"] = file.read()
            found[relative] = value
    return found


def trees(arguments):
    plain = entries(arguments.plain, arguments.excepted)
    proxied = entries(arguments.proxied, arguments.excepted)
    differences = [f"only in the plain build: {name}" for name in sorted(plain.keys() - proxied.keys())]
    differences += [f"only in the proxied build: {name}" for name in sorted(proxied.keys() - plain.keys())]
    counts = collections.Counter()
    for name in sorted(plain.keys() & proxied.keys()):
        mine, other = plain[name], proxied[name]
        if "content" in mine:
            counts["files"] += 1
            counts[os.path.splitext(name)[1]] += 1
        for what in sorted(mine.keys() | other.keys()):
            if mine.get(what) != other.get(what):
                differences.append(f"different {what}: {name}{offset(what, mine, other)}")
    for requirement in arguments.at_least:
        suffix, least = requirement.rsplit("=", 1)
        if counts[suffix] < int(least):
            differences.append(f"only {counts[suffix]} files {suffix} compared, expected {least} or more")
    if not counts["files"]:
        differences.append("no file was compared")
    return differences, f"{counts['.o']} .o, {counts['.d']} .d, {counts['files']} files in all identical"


def offset(what, mine, other):
    if what != "content" or "content" not in mine or "content" not in other:
        return f" ({mine.get(what)!s:.60} / {other.get(what)!s:.60})" if what != "content" else ""
    a, b = mine[what], other[what]
    first = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return f" ({len(a)} / {len(b)} bytes, first difference at {first})"


def blocks(path, begins):
    found = collections.Counter()
    block = []
    with open(path, "rb") as file:
        for line in file:
            if begins is None or begins.search(line):
                if block:
                    found[b"".join(block)] += 1
                block = []
            block.append(line)
    if block:
        found[b"".join(block)] += 1
    return found


def shown(block):
    lines = block.decode(errors="replace").splitlines()
    more = [f"    ... {len(lines) - 6} more lines"] if len(lines) > 6 else []
    return "\n".join(lines[:6] + more)


def logs(arguments):
    begins = re.compile(arguments.block.encode()) if arguments.block else None
    plain, proxied = blocks(arguments.plain, begins), blocks(arguments.proxied, begins)
    differences = [f"only in the plain log: {shown(block)}" for block in (plain - proxied)]
    differences += [f"only in the proxied log: {shown(block)}" for block in (proxied - plain)]
    warnings = sum(count * len(re.findall(rb"\bwarning:", block)) for block, count in plain.items())
    if not plain:
        differences.append("no output was compared")
    return differences, f"{warnings} warnings, {sum(plain.values())} blocks of output identical"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["trees", "logs"])
    parser.add_argument("plain")
    parser.add_argument("proxied")
    parser.add_argument("--except", dest="excepted", action="append", default=[], metavar="GLOB")
    parser.add_argument("--at-least", action="append", default=[], metavar="SUFFIX=N")
    parser.add_argument("--block", metavar="REGEX")
    arguments = parser.parse_args()
    differences, counts = {"trees": trees, "logs": logs}[arguments.what](arguments)
    for difference in differences[:SHOWN_MAX]:
        print(difference)
    if len(differences) > SHOWN_MAX:
        print(f"... and {len(differences) - SHOWN_MAX} more differences")
    if differences:
        sys.exit(1)
    print(counts)


main()
