"""Runs make under a deadline, and counts what runs at once.

usage: jobserver.py FOLDER SECONDS REPORT COMMAND...

Local jobs are processes of FOLDER/step, remote ones those of FOLDER/slow/cc1, as /proc shows them every few ms: nothing
that mpicc-proxy says of itself goes into the report, which is one line, "STATUS LOCAL REMOTE SECONDS": the command's exit
status (or "late") and the most that ran at once of each.
"""

import os
import signal
import subprocess
import sys
import time

SAMPLE_S = 0.005


def running(programs):
    """How many processes run each of these programs."""
    counts = dict.fromkeys(programs, 0)
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                program = os.readlink(f"/proc/{name}/exe")
            except OSError:
                continue
            if program in counts:
                counts[program] += 1
    return [counts[program] for program in programs]


def main():
    folder, seconds, report, *command = sys.argv[1:]
    programs = [os.path.join(folder, name) for name in ("step", "slow/cc1")]
    most = [0, 0]
    start = time.monotonic()
    process = subprocess.Popen(command, start_new_session=True)
    status = None
    while status is None and time.monotonic() - start < float(seconds):
        most = [max(pair) for pair in zip(most, running(programs))]
        time.sleep(SAMPLE_S)
        status = process.poll()
    if status is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    with open(report, "w") as out:
        print("late" if status is None else status, *most, f"{time.monotonic() - start:.1f}", file=out)


main()
