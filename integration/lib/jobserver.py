"""Runs a build under a deadline, strikes at it if wanted, and counts what runs at once.

usage: jobserver.py FOLDER SECONDS REPORT STRIKE COMMAND...

Jobs are processes of FOLDER/step, FOLDER/slow/cc1 and FOLDER/fake/gcc, as /proc shows them every few ms. Those in the
command's session are local, the others remote: ranks have a session of their own, which also an orphan keeps. Nothing that
mpicc-proxy says of itself goes into the report, which is one line, "STATUS LOCAL REMOTE SECONDS STRUCK CLIENTS": the
command's exit status (or "late"), the most that ran at once of each, how many blows fell, and the most clients there were.

STRIKE: none, int or term (the signal, to the command and all in its process group, or to it alone, when all is in full
swing), rank:PID (SIGKILL, likewise), stop:PID (SIGTERM), freeze:PID (SIGSTOP, and SIGCONT when a job has been running here
in its place), clients:SEED (SIGKILL to clients of FOLDER's builds at random, ten in all).
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


class Sample:
    """What runs now."""

    def __init__(self, folder, session):
        jobs = {os.path.join(folder, name) for name in ("step", "slow/cc1", "fake/gcc")}
        local, remote, self.clients = {}, {}, []
        for name in filter(str.isdigit, os.listdir("/proc")):
            program = program_of(name)
            is_client = program.endswith("/mpicc-proxy-client")
            if program not in jobs and not is_client:
                continue
            try:
                is_local = os.getsid(int(name)) == session
            except ProcessLookupError:
                continue
            if not is_client:
                (local if is_local else remote)[name] = program
            elif is_local:
                self.clients.append(int(name))
        # Looking takes time. Those that are still there have run at the same time.
        self.compilers = sum("step" not in program for program in local.values())
        self.local, self.remote = (
            sum(program_of(name) == program for name, program in some.items()) for some in (local, remote)
        )


class Strike:
    """Blows that fall during a build."""

    def __init__(self, kind):
        self.kind, _, argument = kind.partition(":")
        self.pid = int(argument) if self.kind in ("rank", "stop", "freeze") else 0
        self.random = random.Random(int(argument)) if self.kind == "clients" else None
        self.left = {"none": 0, "clients": CLIENTS_STRUCK}.get(self.kind, 1)
        self.struck = 0

    def consider(self, sample, process):
        if self.kind == "freeze" and self.struck == 1 and sample.compilers > 0:
            os.kill(self.pid, signal.SIGCONT)
            self.struck = 2
        if self.left == 0 or (self.kind != "clients" and sample.remote < FULL_SWING):
            return
        if self.kind == "int":
            os.killpg(process.pid, signal.SIGINT)
        elif self.kind == "term":
            process.terminate()
        elif self.kind == "rank":
            os.kill(self.pid, signal.SIGKILL)
        elif self.kind == "freeze":
            os.kill(self.pid, signal.SIGSTOP)
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
    local = remote = clients = 0
    start = time.monotonic()
    # A shell starts what it runs in the background with SIGINT ignored, and nothing below would hear it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, start_new_session=True)
    status = None
    while status is None and time.monotonic() - start < float(seconds):
        looked = time.monotonic()
        sample = Sample(folder, process.pid)
        local, remote = max(local, sample.local), max(remote, sample.remote)
        clients = max(clients, len(sample.clients))
        strike.consider(sample, process)
        # Where there is much to look at, no more than half of the time goes into looking.
        time.sleep(max(SAMPLE_S, time.monotonic() - looked))
        status = process.poll()
    if strike.kind == "freeze" and strike.struck == 1:
        os.kill(strike.pid, signal.SIGCONT)
    if status is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    with open(report, "w") as out:
        took = time.monotonic() - start
        print("late" if status is None else status, local, remote, f"{took:.1f}", strike.struck, clients, file=out)


main()
