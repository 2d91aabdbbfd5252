"""What a compile costs on a rank: user and system CPU of the driver and all below it, through the virtual tree over
plain.

worker_cost.py ROUNDS COMMANDS
    Run inside a session of one rank. COMMANDS has one compile a line: folder, tab, command. Each compile is run ROUNDS
    times plainly and as often on the rank, in turn, after one of each that does not count (the rank knows its inputs
    then, and the page cache is warm); the minimum of each counts. Plain CPU is what wait4(2) says here; the rank's is
    what wait4(2) said there.
"""

import json
import os
import shlex
import statistics
import subprocess
import sys

PROGRAM = os.environ["MPICC_PROXY_PROGRAM"]


def rank_cpu_s():
    status = json.loads(subprocess.run([PROGRAM, "status", "--json"], check=True, stdout=subprocess.PIPE).stdout)
    return status["compile_cpu_s"], status["actions"]["remote"]


def run(folder, command, remote):
    """CPU seconds of the driver, wherever it ran."""
    env = dict(os.environ)
    if not remote:
        # Without the switch the library, which is in this process, would put itself back.
        env.pop("LD_PRELOAD")
        env["MPICC_PROXY"] = "off"
    before = rank_cpu_s()
    process = subprocess.Popen(
        command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"status {process.returncode}: {shlex.join(command)}")
    after = rank_cpu_s()
    if after[1] - before[1] != int(remote):
        sys.exit(f"{'not ' if remote else ''}on the rank: {shlex.join(command)}")
    return after[0] - before[0] if remote else usage.ru_utime + usage.ru_stime


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    rounds = int(sys.argv[1])
    with open(sys.argv[2]) as file:
        compiles = [line.rstrip("\n").split("\t") for line in file]
    rows = []
    for folder, line in compiles:
        command = shlex.split(line)
        best = {False: float("inf"), True: float("inf")}
        for number in range(rounds + 1):
            for remote in (number % 2 == 0, number % 2 != 0):
                cost = run(folder, command, remote)
                if number > 0:
                    best[remote] = min(best[remote], cost)
        source = next((word for word in reversed(command) if word.endswith((".c", ".cc", ".cpp"))), command[-1])
        rows.append((best[True] / best[False], best[False], best[True], os.path.basename(source)))
        print(f"  {rows[-1][0]:.3f}  {best[False] * 1000:8.1f} ms  {best[True] * 1000:8.1f} ms  {rows[-1][3]}", flush=True)
    ratios = sorted(row[0] for row in rows)
    total = sum(row[2] for row in rows) / sum(row[1] for row in rows)
    p90 = ratios[min(len(ratios) - 1, int(len(ratios) * 0.9))]
    added = statistics.median((row[2] - row[1]) * 1000 for row in rows)
    print(
        f"{len(rows)} TUs: median {statistics.median(ratios):.4f}, p90 {p90:.4f}, worst {ratios[-1]:.4f}; "
        f"all together {total:.4f}; added, median {added:.2f} ms"
    )


main()
