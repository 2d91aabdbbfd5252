"""Builds a small project again and again, and strikes at each build in another way.

usage: fault_matrix.py PROGRAMS FOLDER MARK MPI FIRST BUILDS

Each seed is a build: its fault, its moment, the number of workers, slots and jobs follow from it. A build passes if make
ends with status 0 (where it was struck itself: when it is run again), every file is what the plain build makes, what is
printed is what the plain build prints, and nothing is left of the session after a while. Prints a line for each build that fails, and a
table of seconds by fault and moment; ends with status 1 if any failed. MARK: a variable that all processes carry, so that
they are found. PROGRAMS: where mpicc-proxy is.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

SOURCES = 14
BUILD_S = 240  # deadline of one build; the longest trouble takes 30 s to be noticed
LEFT_S = 80  # after which nothing is left; a keeper waits 60 s for ranks that may return
STRIKE_S = 60  # until the moment must have come

KILL, STOP = signal.SIGKILL, signal.SIGSTOP


def write_project(folder):
    os.makedirs(folder)
    for number in range(8):
        with open(f"{folder}/h{number}.h", "w") as header:
            header.write(f"#pragma once\n#include <map>\n#include <string>\ninline int h{number}(int x) {{ return x + {number}; }}\n")
    for number in range(SOURCES):
        with open(f"{folder}/s{number}.cc", "w") as source:
            source.write(f'#include "h{number % 8}.h"\n#include "h{(number * 3 + 1) % 8}.h"\n')
            source.write(f"int f{number}(int x) {{ std::map<std::string, int> m; m[\"a\"] = x; int unused; return h{number % 8}(m.size()); }}\n")
    objects = " ".join(f"s{number}.o" for number in range(SOURCES))
    with open(f"{folder}/Makefile", "w") as makefile:
        makefile.write(f"liball.so: {objects}\n\tg++ -shared -o $@ $^\n")
        makefile.write("%.o: %.cc\n\tg++ -O1 -g -fPIC -Wall -MMD -c $< -o $@\n")


def files_of(folder):
    found = {}
    for name in os.listdir(folder):
        with open(f"{folder}/{name}", "rb") as file:
            found[name] = file.read()
    return found


def lines_of(log):
    """What was printed, in an order that does not depend on who was faster."""
    with open(log, errors="replace") as file:
        return sorted(file)


class Session:
    """What runs now, of all that carries the mark."""

    def __init__(self, mark):
        self.ranks, self.clients, self.compilers, self.all = {}, [], [], []
        wanted = f"FAULT_RUN={mark}".encode()
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            try:
                with open(f"/proc/{pid}/environ", "rb") as file:
                    environment = file.read().split(b"\0")
                if wanted not in environment:
                    continue
                program = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
                with open(f"/proc/{pid}/stat") as file:
                    parent = int(file.read().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            self.all.append(pid)
            rank = [entry for entry in environment if entry.startswith((b"OMPI_COMM_WORLD_RANK=", b"PMI_RANK="))]
            if program.startswith("mpicc-proxy-rank") and rank:
                self.ranks[pid] = (int(rank[0].split(b"=")[1]), parent)
            elif program.startswith("mpicc-proxy-client"):
                self.clients.append(pid)
            elif program.startswith("cc1") and any(entry.startswith(b"MPICC_PROXY_WORKER=") for entry in environment):
                self.compilers.append(pid)
        # A child that has not executed its program yet still looks like its rank.
        self.ranks = {pid: of for pid, of in self.ranks.items() if of[1] not in self.ranks}

    def rank(self, wanted):
        return [pid for pid, (rank, _) in self.ranks.items() if rank == wanted]

    def workers(self):
        return [pid for pid, (rank, _) in self.ranks.items() if rank > 0]

    def launcher(self):
        return [parent for rank, parent in self.ranks.values() if rank == 0]


# Whom a fault hits, and how.
FAULTS = {
    "worker killed": (lambda session, choose: [choose(session.workers())], KILL),
    "worker stopped": (lambda session, choose: [choose(session.workers())], STOP),
    "all workers killed": (lambda session, choose: session.workers(), KILL),
    "rank 0 killed": (lambda session, choose: session.rank(0), KILL),
    "rank 0 stopped": (lambda session, choose: session.rank(0), STOP),
    "launcher killed": (lambda session, choose: session.launcher(), KILL),
    "all killed": (lambda session, choose: session.launcher() + list(session.ranks), KILL),
    "compiler killed": (lambda session, choose: [choose(session.compilers)], KILL),
    "client killed": (lambda session, choose: [choose(session.clients)], KILL),
}
# These strike the build itself: make fails, as it does without us, and is run again.
AT_MAKE = {"client killed"}


def objects_in(folder):
    return sum(name.endswith(".o") for name in os.listdir(folder))


# When: the state of the session that is waited for. `seen`: remote compilers at the last look.
MOMENTS = {
    "before": lambda session, seen, objects: session.ranks,
    "transfer": lambda session, seen, objects: session.clients and session.ranks,
    "compile": lambda session, seen, objects: session.compilers,
    "result": lambda session, seen, objects: seen - set(session.compilers),
    "end": lambda session, seen, objects: objects >= SOURCES - 3,
}


def strike(build, folder, mark, fault, moment, choose):
    """Waits for the moment and strikes; what was hit, empty if the build was over first."""
    victims, how = FAULTS[fault]
    seen, end = set(), time.monotonic() + STRIKE_S
    while time.monotonic() < end and build.poll() is None:
        session = Session(mark)
        if MOMENTS[moment](session, seen, objects_in(folder)):
            hit = [pid for pid in victims(session, lambda some: choose(some) if some else 0) if pid]
            for pid in hit:
                try:
                    os.kill(pid, how)
                except ProcessLookupError:
                    hit = []
            if hit:
                return hit
        seen = set(session.compilers)
        time.sleep(0.003)
    return []


def left_of(mark, runtime):
    """What there is of a session. (Where ranks died, their log is kept, and nothing else.)"""
    left = [f"process {pid}" for pid in Session(mark).all]
    for folder in os.listdir(runtime):
        left += [f"{folder}/{name}" for name in os.listdir(f"{runtime}/{folder}") if name != "log"]
    return left


def stores():
    return {name for name in os.listdir("/dev/shm") if name.startswith("mpicc-proxy-")}


class Ended:
    """Sessions that are over, of which nothing is left after LEFT_S."""

    def __init__(self):
        self.stores, self.sessions, self.wrong = stores(), [], 0

    def add(self, mark, runtime):
        self.sessions.append((time.monotonic() + LEFT_S, mark, runtime))

    def look(self):
        """At those of which nothing should be left now."""
        while self.sessions and time.monotonic() >= self.sessions[0][0]:
            _, mark, runtime = self.sessions.pop(0)
            left = left_of(mark, runtime)
            self.judge(f"session {mark}", left)
            end_all(mark)
            shutil.rmtree(runtime)

    def wait(self):
        while self.sessions:
            self.look()
            time.sleep(0.1)
        self.judge("all sessions", [f"/dev/shm/{name}" for name in sorted(stores() - self.stores)])

    def judge(self, whose, left):
        self.wrong += bool(left)
        if left:
            print(f"FAIL left behind by {whose}: " + "; ".join(left[:5]), flush=True)


def end_all(mark):
    for pid in Session(mark).all:
        try:
            os.kill(pid, KILL)
        except ProcessLookupError:
            pass


def main():
    programs, work, mark, mpi, first, builds = sys.argv[1:5] + [int(word) for word in sys.argv[5:7]]
    tree, ended = f"{work}/tree", Ended()
    write_project(tree)
    shutil.copytree(tree, f"{work}/sources")
    with open(f"{work}/plain.log", "w") as log:
        subprocess.run(["make"], cwd=tree, stdout=log, stderr=log, check=True, timeout=BUILD_S)
    expected, printed = files_of(tree), lines_of(f"{work}/plain.log")
    table, failed, missed = {}, 0, 0
    for seed in range(first, first + builds):
        random_ = random.Random(f"{mpi} {seed}")
        fault, moment = random_.choice(list(FAULTS)), random_.choice(list(MOMENTS))
        workers, slots, jobs = random_.randint(2, 4), random_.randint(1, 2), random_.choice(["-j2", "-j4", "-j8", "-j"])
        ended.look()
        own, runtime = f"{mark}.{seed}", f"{work}/runtime.{seed}"
        shutil.rmtree(tree, ignore_errors=True)
        shutil.copytree(f"{work}/sources", tree)
        os.mkdir(runtime, 0o700)
        environment = dict(os.environ, FAULT_RUN=own, XDG_RUNTIME_DIR=runtime)
        command = [f"{programs}/mpicc-proxy", "run", "--workers", str(workers), "--slots", str(slots), "--"]
        inner = ["sh", "-c", f'exec make {jobs} >"$0" 2>&1', f"{work}/build.log"]
        wrong, started = [], time.monotonic()
        with open(f"{work}/session.log", "w") as log:
            build = subprocess.Popen(command + inner, cwd=tree, env=environment, stdout=log, stderr=log)
            try:
                hit = strike(build, tree, own, fault, moment, random_.choice)
                status = build.wait(BUILD_S)
            except subprocess.TimeoutExpired:
                wrong.append(f"make has not ended after {BUILD_S} s")
                end_all(own)
                status = build.wait()
        seconds = time.monotonic() - started
        again = bool(hit) and fault in AT_MAKE
        if again:
            # Half a build: what is there is whole.
            some = {name: content for name, content in files_of(tree).items() if name.endswith(".o")}
            wrong += [f"{name} is half-written" for name in some if some[name] != expected[name]]
            with open(f"{work}/again.log", "w") as log:
                status = subprocess.run(["make"], cwd=tree, stdout=log, stderr=log, timeout=BUILD_S).returncode
        if status != 0:
            wrong.append(f"status {status}")
        made = files_of(tree)
        wrong += [f"{name} differs" for name in sorted(expected | made) if made.get(name) != expected.get(name)]
        if not again and lines_of(f"{work}/build.log") != printed:
            wrong.append("the build printed something else")
        ended.add(own, runtime)
        missed += not hit
        row = table.setdefault((fault if hit else "nothing", moment if hit else ""), [])
        row.append(seconds)
        if wrong:
            failed += 1
            print(f"FAIL seed {seed} ({mpi}, {workers} workers of {slots}, make {jobs}; {fault}, {moment}): " + "; ".join(wrong[:5]))
            with open(f"{work}/session.log") as log:
                print("    " + log.read().strip()[-600:])
        sys.stdout.flush()
    ended.wait()
    print(f"{mpi}: {builds} builds from seed {first}, {failed} wrong; {missed} were over before they could be struck")
    print(f"{'fault':<20}{'moment':<10}{'builds':>7}{'median s':>10}{'worst s':>9}")
    for (fault, moment), seconds in sorted(table.items()):
        seconds.sort()
        print(f"{fault:<20}{moment:<10}{len(seconds):>7}{seconds[len(seconds) // 2]:>10.1f}{seconds[-1]:>9.1f}")
    sys.exit(failed + ended.wrong > 0)


main()
