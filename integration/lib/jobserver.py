"""Runs a build under a deadline, strikes at it if wanted, and counts what runs at once.

usage: jobserver.py FOLDER SECONDS REPORT STRIKE COMMAND...

Jobs are processes of FOLDER/step and FOLDER/slow/cc1, as /proc shows them every few ms; those below a rank are remote, the
others local. Nothing that mpicc-proxy says of itself goes into the report, which is one line, "STATUS LOCAL REMOTE
SECONDS STRUCK": the command's exit status (or "late"), the most that ran at once of each, and how many blows fell.

STRIKE: none, int or term (the signal, to the command and all in its process group, or to it alone, when all is in full
swing), rank:PID (SIGKILL, likewise), stop:PID (SIGTERM), clients:SEED (SIGKILL to clients of FOLDER's builds at random, ten in all).
"""

import os
import random
import signal
import subprocess
import sys
import time

SAMPLE_S = 0.005
FULL_SWING = 4  # remote jobs at once
CLIENTS_STRUCK = 10


def program_of(pid):
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


def parent_of(pid):
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return int(stat.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def is_below_a_rank(pid):
    while pid > 1:
        pid = parent_of(pid)
        if program_of(pid).endswith("/mpicc-proxy-rank"):
            return True
    return False


class Sample:
    """What runs now."""

    def __init__(self, folder, session):
        self.local, self.remote, self.clients = 0, 0, []
        jobs = {os.path.join(folder, name) for name in ("step", "slow/cc1")}
        for name in os.listdir("/proc"):
            program = program_of(name) if name.isdigit() else ""
            if program in jobs:
                if is_below_a_rank(int(name)):
                    self.remote += 1
                # One that ended while it was looked at is no orphan.
                elif program_of(name) == program:
                    self.local += 1
            elif program.endswith("/mpicc-proxy-client"):
                try:
                    if os.getsid(int(name)) == session:
                        self.clients.append(int(name))
                except ProcessLookupError:
                    pass


class Strike:
    """Blows that fall during a build."""

    def __init__(self, kind):
        self.kind, _, argument = kind.partition(":")
        self.pid = int(argument) if self.kind in ("rank", "stop") else 0
        self.random = random.Random(int(argument)) if self.kind == "clients" else None
        self.left = {"none": 0, "clients": CLIENTS_STRUCK}.get(self.kind, 1)
        self.struck = 0

    def consider(self, sample, process):
        if self.left == 0 or (self.kind != "clients" and sample.remote < FULL_SWING):
            return
        if self.kind == "int":
            os.killpg(process.pid, signal.SIGINT)
        elif self.kind == "term":
            process.terminate()
        elif self.kind == "rank":
            os.kill(self.pid, signal.SIGKILL)
        elif self.kind == "stop":
            os.kill(self.pid, signal.SIGTERM)
        else:
            # Clients that wait for a slot, those that lent, and those that wait for their token: whoever is there.
            if not sample.clients or self.random.random() > 0.05:
                return
            try:
                os.kill(self.random.choice(sample.clients), signal.SIGKILL)
            except ProcessLookupError:
                return
        self.left -= 1
        self.struck += 1


def main():
    folder, seconds, report, strike, *command = sys.argv[1:]
    strike = Strike(strike)
    local = remote = 0
    start = time.monotonic()
    process = subprocess.Popen(command, start_new_session=True)
    status = None
    while status is None and time.monotonic() - start < float(seconds):
        sample = Sample(folder, process.pid)
        local, remote = max(local, sample.local), max(remote, sample.remote)
        strike.consider(sample, process)
        time.sleep(SAMPLE_S)
        status = process.poll()
    if status is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    with open(report, "w") as out:
        took = time.monotonic() - start
        print("late" if status is None else status, local, remote, f"{took:.1f}", strike.struck, file=out)


main()
