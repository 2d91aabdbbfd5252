"""Runs a configure script in several ways, each beside a plain run, and prints what each cost over plain.

configure_cost.py WORK ROUNDS WAYS MPICC_PROXY LIBRARY COMMAND...
    WORK/source is the tree that COMMAND configures, WAYS are words. CPU is user and system time of COMMAND and all below
    it, as wait4(2) says; wall is the time that COMMAND took, without the ranks' start. A way and the plain run that it is
    compared with run at the same time, each with all it starts on one CPU, and then once more with CPUs exchanged: what
    else a machine does, and how fast it is just now, is the same for both.
configure_cost.py below FILE COMMAND...
    Runs COMMAND and writes its CPU seconds and its wall time to FILE.
"""

import collections
import concurrent.futures
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


class Side:
    """A CPU, and the folder in which one configuration at a time runs on it."""

    def __init__(self, work, number, cpu, program, library, command):
        self.cpu, self.program, self.library, self.command = cpu, program, library, command
        # Names of one length, so that what was found out differs in nothing else.
        self.folder = os.path.join(work, f"side{number}")
        self.source = os.path.join(work, "source")
        self.tree = self.path("tree")
        os.mkdir(self.folder)

    def path(self, name):
        return os.path.join(self.folder, name)

    def configure(self, name):
        """Figures of one configuration: CPU seconds by whose they are, counts of the clients' log."""
        shutil.rmtree(self.tree, ignore_errors=True)
        shutil.copytree(self.source, self.tree, symlinks=True)
        for path in [self.path("log"), self.path("cpu"), self.path("stats")]:
            if os.path.exists(path):
                os.unlink(path)
        measured = [sys.executable, "-B", __file__, "below", self.path("cpu"), *self.command]
        env = dict(os.environ)
        if name != "plain":
            env.update(MPICC_PROXY_LOG=self.path("log"))
        if name == "session":
            measured = [self.program, "run", "--workers", "2", "--slots", "1", "--stats", self.path("stats"), "--", *measured]
        elif name != "plain":
            env.update(LD_PRELOAD=self.library, MPICC_PROXY_SOCKET=self.path("nobody"))
            if name == "library":
                env.update(MPICC_PROXY="off")
        measured = ["taskset", "--cpu-list", str(self.cpu), *measured]
        with open(self.path("said"), "wb") as said:
            whole, code = cpu_s(measured, cwd=self.tree, env=env, stdout=said, stderr=subprocess.STDOUT)
        if code != 0:
            sys.exit(f"{name}: status {code}, see {self.path('said')}")
        with open(self.path("cpu")) as file:
            figures = dict(zip(["build", "wall"], map(float, file.read().split())), whole=whole)
        if name == "session":
            with open(self.path("stats")) as file:
                stats = json.load(file)
            figures.update(
                dispatcher=stats["dispatcher_cpu_s"], clients=stats["client_cpu_s"], compilers=stats["compile_cpu_s"]
            )
        if os.path.exists(self.path("log")):
            with open(self.path("log"), errors="replace") as file:
                lines = [line.split("\t") for line in file]
            figures["counts"] = collections.Counter(
                line[0] if line[0] == "remote" else f"{line[0]} {line[1]}" for line in lines if len(line) > 1
            )
        return figures

    def results(self):
        """What was found out: contents by path, headers and the rest."""
        found = {}
        for folder, _, files in os.walk(self.tree):
            for file in files:
                if file in RESULTS or file.endswith("config.h"):
                    path = os.path.join(folder, file)
                    with open(path, "rb") as content:
                        content = content.read().replace(self.folder.encode(), b"SIDE")
                    found[os.path.relpath(path, self.tree)] = content
        return found


def pair(plain, other, name):
    """Figures of a plain run and of another way beside it, which must find out the same."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        runs = [pool.submit(plain.configure, "plain"), pool.submit(other.configure, name)]
        figures = [run.result() for run in runs]
    expected, found = plain.results(), other.results()
    if len(expected) < 2:
        sys.exit("no result of the configuration was compared")
    for path in expected.keys() | found.keys():
        if expected.get(path) != found.get(path):
            sys.exit(f"{name}: {path} is not what it is without us")
    return figures


# What is printed of each way: its sum over what the plain builds beside it took.
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
    cpus = sorted(os.sched_getaffinity(0))[:2]
    if len(cpus) < 2:
        sys.exit("this needs two CPUs")
    sides = [Side(work, number, cpu, program, library, sys.argv[6:]) for number, cpu in enumerate(cpus)]
    found = collections.defaultdict(list)
    for number in range(rounds):
        for name in wanted:
            for plain, other in (sides, reversed(sides)):
                pairs = pair(plain, other, name)
                found[name].append(pairs)
                for way, figures in zip(["plain", name], pairs):
                    seconds = "  ".join(f"{key} {value:.2f} s" for key, value in figures.items() if key != "counts")
                    print(f"round {number + 1}: {way:8} {seconds}", flush=True)
    print("what ran where:")
    for name in wanted:
        counts = found[name][-1][1].get("counts", {})
        print(f"  {name:8} " + (", ".join(f"{count} {what}" for what, count in sorted(counts.items())) or "nothing"))
    print("over plain, median (and range), CPU if it does not say wall:")
    for name, title, parts, base in RATIOS:
        # Both halves of a round together: CPUs differ.
        ratios = []
        for halves in zip(found[name][::2], found[name][1::2]):
            ours = sum(figures[part] for _, figures in halves for part in parts)
            ratios.append(ours / sum(plain[base] for plain, _ in halves))
        if ratios:
            print(f"  {title:58} {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    if sys.argv[1:2] == ["below"]:
        below(sys.argv[2], sys.argv[3:])
    else:
        main()
