"""Runs a configure script in several ways in turn, and prints what each cost.

configure_cost.py WORK ROUNDS WAYS MPICC_PROXY LIBRARY COMMAND...
    WORK/source is the tree that COMMAND configures, WAYS are words. CPU is user and system time of COMMAND and all below
    it, as wait4(2) says; wall is the time that COMMAND took, without the ranks' start.
configure_cost.py below FILE COMMAND...
    Runs COMMAND and writes its CPU seconds and its wall time to FILE.
"""

import collections
import filecmp
import json
import os
import shutil
import statistics
import subprocess
import sys
import time

# What a configuration writes that is a result, and knows no time and no process; and config headers.
RESULTS = ["config.status", "libtool", "Makefile"]


def cpu_s(command, **options):
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **options)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime, process.returncode


def below(file, command):
    start = time.monotonic()
    seconds, code = cpu_s(command)
    with open(file, "w") as out:
        out.write(f"{seconds} {time.monotonic() - start}")
    sys.exit(code)


class Ways:
    def __init__(self, work, program, library, command):
        self.work, self.program, self.library, self.command = work, program, library, command
        self.tree = os.path.join(work, "tree")
        self.log = os.path.join(work, "clients.log")

    def way(self, name):
        """Figures of one configuration: CPU seconds by whose they are, counts of the clients' log."""
        shutil.rmtree(self.tree, ignore_errors=True)
        shutil.copytree(os.path.join(self.work, "source"), self.tree, symlinks=True)
        for path in [self.log, self.path("cpu"), self.path("stats")]:
            if os.path.exists(path):
                os.unlink(path)
        measured = [sys.executable, "-B", __file__, "below", self.path("cpu"), *self.command]
        env = dict(os.environ)
        if name != "plain":
            env.update(MPICC_PROXY_LOG=self.log)
        if name == "session":
            measured = [self.program, "run", "--workers", "2", "--slots", "1", "--stats", self.path("stats"), "--", *measured]
        elif name != "plain":
            env.update(LD_PRELOAD=self.library, MPICC_PROXY_SOCKET=self.path("nobody"))
            if name == "library":
                env.update(MPICC_PROXY="off")
        with open(self.path(f"said.{name}"), "wb") as said:
            whole, code = cpu_s(measured, cwd=self.tree, env=env, stdout=said, stderr=subprocess.STDOUT)
        if code != 0:
            sys.exit(f"{name}: status {code}, see {self.path(f'said.{name}')}")
        with open(self.path("cpu")) as file:
            figures = dict(zip(["build", "wall"], map(float, file.read().split())), whole=whole)
        if name == "session":
            with open(self.path("stats")) as file:
                stats = json.load(file)
            figures.update(
                dispatcher=stats["dispatcher_cpu_s"], clients=stats["client_cpu_s"], compilers=stats["compile_cpu_s"]
            )
        if os.path.exists(self.log):
            with open(self.log, errors="replace") as file:
                lines = [line.split("\t") for line in file]
            figures["counts"] = collections.Counter(
                line[0] if line[0] == "remote" else f"{line[0]} {line[1]}" for line in lines if len(line) > 1
            )
        self.keep(name)
        return figures

    def path(self, name):
        return os.path.join(self.work, name)

    def keep(self, name):
        """Headers and the rest that was found out must be what the plain configuration found."""
        kept = self.path("plain")
        if name == "plain":
            shutil.rmtree(kept, ignore_errors=True)
            os.rename(self.tree, kept)
            return
        made = 0
        for folder, _, files in os.walk(self.tree):
            for file in files:
                mine = os.path.join(folder, file)
                relative = os.path.relpath(mine, self.tree)
                if file in RESULTS or file.endswith("config.h"):
                    made += 1
                    if not filecmp.cmp(mine, os.path.join(kept, relative), shallow=False):
                        sys.exit(f"{name}: {relative} is not what it is without us")
        if made < 2:
            sys.exit("no result of the configuration was compared")


# What is printed of each way: its sum over what the plain build of the same round took.
RATIOS = [
    ("library", "the library, off", ["build"], "build"),
    ("nobody", "nobody listens", ["build"], "build"),
    ("session", "session: the build", ["build"], "build"),
    ("session", "session: the head, which is the build and the dispatcher", ["build", "dispatcher"], "build"),
    ("session", "session: the head and the workers' compilers", ["build", "dispatcher", "compilers"], "build"),
    ("session", "session: all that `run` started, launcher and ranks too", ["whole"], "build"),
    ("library", "wall: the library, off", ["wall"], "wall"),
    ("session", "wall: session", ["wall"], "wall"),
]


def main():
    work, rounds, wanted, program, library = sys.argv[1], int(sys.argv[2]), sys.argv[3].split(), sys.argv[4], sys.argv[5]
    ways = Ways(work, program, library, sys.argv[6:])
    names = ["plain", *wanted]
    found = collections.defaultdict(list)
    for number in range(rounds):
        # The plain one first: what it found out is what the others are compared with.
        for name in names:
            figures = ways.way(name)
            found[name].append(figures)
            seconds = "  ".join(f"{key} {value:.2f} s" for key, value in figures.items() if key != "counts")
            print(f"round {number + 1}: {name:8} {seconds}", flush=True)
    print("what ran where:")
    for name in wanted:
        counts = found[name][-1].get("counts", {})
        print(f"  {name:8} " + (", ".join(f"{count} {what}" for what, count in sorted(counts.items())) or "nothing"))
    print("over plain, median (and range), CPU if it does not say wall:")
    for name, title, parts, base in RATIOS:
        ratios = [sum(map(figures.get, parts)) / plain[base] for figures, plain in zip(found[name], found["plain"])]
        if ratios:
            print(f"  {title:58} {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    if sys.argv[1:2] == ["below"]:
        below(sys.argv[2], sys.argv[3:])
    else:
        main()
