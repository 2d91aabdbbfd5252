"""A tree that changes between and during compiles; every compile must see it as it is.

coherence.py SEED STEPS TREE
    Run inside a session (LD_PRELOAD makes compiles remote). SEED decides every edit; STEPS edits, after each of which
    some sources are compiled through the ranks and then plainly, in the same state of the tree: objects, dependency
    files, diagnostics and status must be the same. In the end, headers change while they are compiled: no compile may
    mix versions. Prints one line per kind of edit, "ok ..." or "FAIL ..." with the step that shows it, which the same
    seed repeats.
"""

import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time

FOLDERS = ["first", "second", "third"]
HEADERS = [f"h{number}.h" for number in range(5)]
SOURCES = ["a.c", "b.c", "c.cc"]

# Far above what any compile here takes on a busy machine.
TIMEOUT_S = 120

# Longer than a file counts as just changed (RACY in src/dispatcher/files.rs).
RESTED_S = 2.1

# Compiles while headers change, per kind of change.
DURING = 12

DRIVERS = {".c": "gcc", ".cc": "g++"}
VARIABLE = re.compile(rb"VERSION (\d{8})")


class Tree:
    """The tree and its edits. Every choice comes from `random`, so a seed repeats them."""

    def __init__(self, seed, top):
        self.random = random.Random(seed)
        self.top = top
        self.version = 10_000_000
        # Compiles that must show up in the log of the clients; the plain ones must not.
        self.intercepted = 0
        for folder in FOLDERS:
            os.makedirs(os.path.join(top, folder))
        for header in HEADERS:
            self.write(os.path.join(self.random.choice(FOLDERS), header))
        for source in SOURCES:
            text = "".join(f'#if __has_include("{header}")\n#include "{header}"\n#endif\n' for header in HEADERS)
            self.put(source, f'{text}const char *stamp = __TIMESTAMP__;\n')
        # One that fails when a header is missing.
        self.put(SOURCES[0], '#include "h0.h"\n#include "h1.h"\n')

    def put(self, name, text):
        with open(os.path.join(self.top, name), "w") as file:
            file.write(text)

    def content(self, header):
        """Always of the same length."""
        self.version += 1
        name = os.path.splitext(os.path.basename(header))[0]
        return f'static const char {name}[] __attribute__((used)) = "VERSION {self.version} " __FILE__;\n'

    def write(self, header):
        self.put(header, self.content(header))

    def existing(self):
        return sorted(
            os.path.join(folder, header)
            for folder in FOLDERS
            for header in HEADERS
            if os.path.isfile(os.path.join(self.top, folder, header))
        )

    # --- edits: each returns what it did, or None if the tree as it is does not allow it ---

    def generate(self):
        """A header that was not there, in a folder that is searched earlier or later."""
        absent = [os.path.join(f, h) for f in FOLDERS for h in HEADERS if not os.path.lexists(os.path.join(self.top, f, h))]
        if not absent:
            return None
        header = self.random.choice(absent)
        self.write(header)
        return header

    def change(self):
        """In place: same size, same inode."""
        header = self.random.choice(self.existing())
        self.write(header)
        return header

    def change_same_times(self):
        """In place: same size, same modification time to the nanosecond."""
        header = self.random.choice(self.existing())
        path = os.path.join(self.top, header)
        status = os.stat(path)
        self.write(header)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        return header

    def replace(self):
        """Another file under the same name, with the old one's size and modification time."""
        header = self.random.choice(self.existing())
        path = os.path.join(self.top, header)
        status = os.stat(path)
        self.write(header + ".new")
        content = self.content(header)
        self.put(header + ".new", content)
        os.utime(path + ".new", ns=(status.st_atime_ns, status.st_mtime_ns))
        os.rename(path + ".new", path)
        return header

    def touch(self):
        """A source: the content stays, __TIMESTAMP__ does not."""
        source = self.random.choice(SOURCES)
        seconds = 1_500_000_000 + self.random.randrange(10**8)
        os.utime(os.path.join(self.top, source), (seconds, seconds))
        return f"{source} to {seconds}"

    def delete(self):
        header = self.random.choice(self.existing())
        if len(self.existing()) < 3:
            return None
        os.remove(os.path.join(self.top, header))
        return header

    def move_earlier(self):
        """A header to a folder that is searched before its own."""
        movable = [header for header in self.existing() if not header.startswith(FOLDERS[0])]
        if not movable:
            return None
        header = self.random.choice(movable)
        folder, name = header.split("/")
        target = os.path.join(self.random.choice(FOLDERS[: FOLDERS.index(folder)]), name)
        os.rename(os.path.join(self.top, header), os.path.join(self.top, target))
        return f"{header} to {target}"

    def link(self):
        """A symbolic link in place of a header, to another header."""
        names = self.existing()
        header, target = self.random.choice(names), self.random.choice(names)
        if os.path.realpath(os.path.join(self.top, target)) == os.path.realpath(os.path.join(self.top, header)):
            return None
        os.remove(os.path.join(self.top, header))
        os.symlink(os.path.join("..", target), os.path.join(self.top, header))
        return f"{header} to {target}"

    def hard_link(self):
        """A second name in place of a header."""
        header, target = self.random.choice(self.existing()), self.random.choice(self.existing())
        path, other = (os.path.join(self.top, name) for name in (header, target))
        if os.path.samefile(path, other):
            return None
        os.link(os.path.realpath(other), path + ".new")
        os.rename(path + ".new", path)
        return f"{header} to {target}"

    def swap_folders(self):
        """Two folders exchange their names."""
        one, two = self.random.sample(FOLDERS, 2)
        names = [os.path.join(self.top, name) for name in (one, two)]
        os.rename(names[0], os.path.join(self.top, "third-name"))
        os.rename(names[1], names[0])
        os.rename(os.path.join(self.top, "third-name"), names[1])
        return f"{one} and {two}"

    def link_folder(self):
        """A folder becomes a symbolic link to itself elsewhere, or again a folder."""
        # Most often the one whose realpath the compiler tells (see compile_all).
        folder = self.random.choice([*FOLDERS, FOLDERS[2], FOLDERS[2]])
        path = os.path.join(self.top, folder)
        if os.path.islink(path):
            real = os.path.realpath(path)
            os.remove(path)
            os.rename(real, path)
            return f"{folder} is a folder again"
        self.version += 1
        # Shorter than the link: gcc writes the shorter one of name and realpath into dependency files.
        real = folder[0] + str(self.version % 10)
        os.rename(path, os.path.join(self.top, real))
        os.symlink(real, path)
        return f"{folder} to {real}"


EDITS = [
    Tree.generate, Tree.change, Tree.change_same_times, Tree.replace, Tree.touch, Tree.delete, Tree.move_earlier,
    Tree.link, Tree.hard_link, Tree.swap_folders, Tree.link_folder,
]


def compile_all(tree, sources, remote):
    """source -> what came of it: status, diagnostics, every output."""
    env = dict(os.environ)
    if remote:
        tree.intercepted += len(sources)
    else:
        env["MPICC_PROXY"] = "off"
    started = {}
    for source in sources:
        stem, extension = os.path.splitext(source)
        driver = DRIVERS[extension]
        # The realpath of system headers is what gcc writes to dependency files.
        command = [driver, "-g", "-MD", "-Ifirst", "-Isecond", "-isystem", f"{tree.top}/third", "-c", source, "-o", f"{stem}.o"]
        for output in (f"{stem}.o", f"{stem}.d"):
            if os.path.exists(os.path.join(tree.top, output)):
                os.remove(os.path.join(tree.top, output))
        started[source] = subprocess.Popen(
            command, cwd=tree.top, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    found = {}
    for source, process in started.items():
        said = process.communicate(timeout=TIMEOUT_S)[0]
        stem = os.path.splitext(source)[0]
        outputs = {}
        for output in (f"{stem}.o", f"{stem}.d"):
            path = os.path.join(tree.top, output)
            outputs[output] = open(path, "rb").read() if os.path.exists(path) else None
        found[source] = {"status": process.returncode, "said": said, **outputs}
    return found


def versions(content):
    return sorted(match.decode() for match in VARIABLE.findall(content or b""))


def differences(plain, remote):
    for source in plain:
        for what in plain[source]:
            mine, other = plain[source][what], remote[source][what]
            if mine == other:
                continue
            if isinstance(mine, bytes) and isinstance(other, bytes) and versions(mine) != versions(other):
                yield f"{source}: {what}: plain has {versions(mine)}, remote {versions(other)}"
            else:
                yield f"{source}: {what}: plain {shown(mine)}, remote {shown(other)}"


def shown(value):
    return ascii(value)[-300:] if isinstance(value, bytes) and len(value) < 5000 else f"{len(value)} bytes" if isinstance(value, bytes) else str(value)


def between(tree, steps):
    """Edits between compiles: kind of edit -> its number and its first failure."""
    found = {}
    for step in range(steps):
        edit = EDITS[step % len(EDITS)]
        if step // len(EDITS) % 2 == 0:
            # What was changed just now is read again each time. Let it rest, so that the next edit has to be noticed.
            time.sleep(RESTED_S)
            compile_all(tree, SOURCES, True)
        what = edit(tree)
        sources = tree.random.sample(SOURCES, tree.random.randint(1, len(SOURCES)))
        if what is None:
            continue
        remote = compile_all(tree, sources, True)
        plain = compile_all(tree, sources, False)
        count, failures = found.setdefault(edit.__name__, [0, []])
        found[edit.__name__][0] = count + 1
        failures += [f"step {step}: {edit.__name__} {what}: {line}" for line in differences(plain, remote)]
    return found


# The same file read three times in one compile: twice by the compiler, with work between, and by the assembler.
MIXED = """
#define NAME one
#include "moving.h"
#include <{between}>
#undef NAME
#define NAME two
#include "moving.h"
__asm__(".section .rodata\\n.incbin \\"moving.h\\"\\n.previous\\n");
"""
MOVING = 'static const char NAME[] __attribute__((used)) = "VERSION {version}"; // {filler}\n'


def during(tree, in_place):
    """A header changes all the time while sources that read it three times are compiled."""
    path = os.path.join(tree.top, "moving.h")

    def text(version):
        return MOVING.format(version=version, filler=str(version % 10) * 20_000)

    with open(path, "w") as file:
        file.write(text(10_000_000))
    with open(os.path.join(tree.top, "mixed.cc"), "w") as file:
        file.write(MIXED.format(between="algorithm"))
    over = threading.Event()

    def change():
        version = 10_000_000
        while not over.wait(0.003):
            version += 1
            if in_place:
                with open(path, "r+") as file:
                    file.write(text(version))
            else:
                with open(path + ".new", "w") as file:
                    file.write(text(version))
                os.rename(path + ".new", path)

    thread = threading.Thread(target=change)
    thread.start()
    failures, seen = [], set()
    try:
        for number in range(DURING):
            found = compile_all(tree, ["mixed.cc"], True)["mixed.cc"]
            has = versions(found["mixed.o"])
            seen.update(has)
            # The name is part of the compile's debug information only, the string three times in the data.
            if found["status"] != 0 or len(has) != 3 or len(set(has)) != 1:
                failures.append(f"compile {number}: status {found['status']}, versions {has}: {shown(found['said'])}")
    finally:
        over.set()
        thread.join()
    if len(seen) < 2:
        failures.append("the header never changed: nothing was tried")
    return failures


def report(title, failures):
    print(f"{'FAIL' if failures else 'ok'} {title}")
    for line in failures[:3]:
        print(f"      {line}")
    sys.stdout.flush()


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    seed, steps, top = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    assert "LD_PRELOAD" in os.environ, "to be run inside a session"
    tree = Tree(seed, top)
    for kind, (count, failures) in between(tree, steps).items():
        report(f"{kind}: {count} times", failures)
    report("renamed over while it is read: no compile mixes versions", during(tree, False))
    report("written in place while it is read: no compile mixes versions", during(tree, True))
    shutil.rmtree(top)
    print(f"intercepted {tree.intercepted}")


main()
