"""What a compile costs on a rank: user and system CPU of the driver and all below it, through the virtual tree over
plain. And what it costs the head: CPU of dispatcher and client, while this compile is all there is.

worker_cost.py ROUNDS COMMANDS
    Run inside a session of one rank. COMMANDS has one compile a line: folder, tab, command. Each compile is run ROUNDS
    times plainly and as often on the rank, in turn, after one of each that does not count (the rank knows its inputs
    then, and the page cache is warm); the minimum of each counts. Plain CPU is what wait4(2) says here; the rank's is
    what wait4(2) said there. The head's is the minimum as well, without what asking for the figures costs.
"""

import json
import os
import shlex
import statistics
import subprocess
import sys

PROGRAM = os.environ["MPICC_PROXY_PROGRAM"]


def figures():
    """So far: CPU seconds on the rank and on the head, and compiles on the rank."""
    status = json.loads(subprocess.run([PROGRAM, "status", "--json"], check=True, stdout=subprocess.PIPE).stdout)
    return status["compile_cpu_s"], status["dispatcher_cpu_s"] + status["client_cpu_s"], status["actions"]["remote"]


def asking_s():
    """CPU seconds of the head for one question for the figures."""
    before = figures()[1]
    for _ in range(50):
        after = figures()[1]
    return (after - before) / 50


def run(folder, command, remote):
    """CPU seconds of the driver, wherever it ran, and of the head."""
    env = dict(os.environ)
    if not remote:
        # Without the switch the library, which is in this process, would put itself back.
        env.pop("LD_PRELOAD")
        env["MPICC_PROXY"] = "off"
    before = figures()
    process = subprocess.Popen(
        command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"status {process.returncode}: {shlex.join(command)}")
    after = figures()
    if after[2] - before[2] != int(remote):
        sys.exit(f"{'not ' if remote else ''}on the rank: {shlex.join(command)}")
    return (after[0] - before[0] if remote else usage.ru_utime + usage.ru_stime), after[1] - before[1]


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    rounds = int(sys.argv[1])
    with open(sys.argv[2]) as file:
        compiles = [line.rstrip("\n").split("\t") for line in file]
    rows = []
    question = asking_s()
    for folder, line in compiles:
        command = shlex.split(line)
        best = {False: float("inf"), True: float("inf")}
        head = float("inf")
        for number in range(rounds + 1):
            for remote in (number % 2 == 0, number % 2 != 0):
                cost, on_head = run(folder, command, remote)
                if number > 0:
                    best[remote] = min(best[remote], cost)
                if number > 0 and remote:
                    head = min(head, on_head - question)
        source = next((word for word in reversed(command) if word.endswith((".c", ".cc", ".cpp"))), command[-1])
        rows.append((best[True] / best[False], best[False], best[True], head))
        times = "  ".join(f"{seconds * 1000:8.2f} ms" for seconds in rows[-1][1:])
        print(f"  {rows[-1][0]:.3f}  {times}  {os.path.basename(source)}", flush=True)
    ratios = sorted(row[0] for row in rows)
    total = sum(row[2] for row in rows) / sum(row[1] for row in rows)
    p90 = ratios[min(len(ratios) - 1, int(len(ratios) * 0.9))]
    added = statistics.median((row[2] - row[1]) * 1000 for row in rows)
    print(
        f"{len(rows)} TUs: median {statistics.median(ratios):.4f}, p90 {p90:.4f}, worst {ratios[-1]:.4f}; "
        f"all together {total:.4f}; added, median {added:.2f} ms; "
        f"head, median {statistics.median(row[3] for row in rows) * 1000:.2f} ms"
    )


main()
