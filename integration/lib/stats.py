"""Reads what `mpicc-proxy run --stats FILE` wrote.

stats.py judge STATS TUS LOG        So many compiles or more ran on ranks, and nothing that compiles ran on the head.
stats.py row STATS                  Figures of a project, as the cells of a table row.
stats.py get STATS NAME             One number (dotted: actions.remote).
stats.py misses LOG MEDIAN P90      Of the compiles in a clients' log, no more than that many questions each.
"""

import json
import sys

# What belongs on the head by design. Anything else in `local_reasons` is a compile that should have travelled.
LOCAL_BY_DESIGN = {"link", "query", "preprocess", "dependencies-only", "syntax-only", "no-source", "stdin"}

HEADINGS = ["TUs", "remote", "misses/TU", "head/TU", "compile/TU", "fraction", "sent/TU", "returned/TU", "local (by reason)"]


def judge(stats, tus, log):
    complaints = []
    actions = stats["actions"]
    # Beside the TUs, makefiles ask what the compiler can do; some of these compiles fail, and no object is left.
    questions = actions["remote"] - tus
    if tus == 0 or questions < 0:
        complaints.append(f"{actions['remote']} compiles ran on ranks, expected {tus} or more")
    if actions["failed"] > max(questions, 0) or stats["retries"]:
        complaints.append(f"{actions['failed']} of {actions['remote']} failed, {stats['retries']} retries")
    for reason, count in stats["local_reasons"].items():
        if reason not in LOCAL_BY_DESIGN:
            complaints.append(f"{count} invocations ran on the head: {reason}")
    if sum(stats["local_reasons"].values()) != actions["local"]:
        complaints.append(f"{actions['local']} local invocations, but the reasons are {stats['local_reasons']}")
    per_rank = {rank["rank"]: rank["actions"] for rank in stats["ranks"] if rank["slots"]}
    if sum(per_rank.values()) != actions["remote"]:
        complaints.append(f"{actions['remote']} remote compiles, but the ranks count {per_rank}")
    # The same from the clients' side, whatever the reasons are called.
    try:
        with open(log, errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return [*complaints, "no compiler was intercepted: the clients have no log"]
    remote = [line for line in lines if line.startswith("remote")]
    if len(remote) != actions["remote"]:
        complaints.append(f"the clients' log has {len(remote)} remote compiles, expected {actions['remote']}")
    for line in lines:
        verdict, reason = line.split("\t")[:2]
        if verdict != "remote" and reason not in LOCAL_BY_DESIGN:
            complaints.append(f"in the clients' log: {line}")
    return complaints


def row(stats):
    remote = stats["actions"]["remote"]
    per_tu = max(remote, 1)
    head = (stats["dispatcher_cpu_s"] + stats["client_cpu_s"]) / per_tu
    compiled = stats["compile_cpu_s"] / per_tu
    reasons = sorted(stats["local_reasons"].items(), key=lambda item: -item[1])
    return [
        str(remote + stats["actions"]["hit"]),
        str(remote),
        f"{stats['misses'] / per_tu:.1f}",
        f"{head * 1e3:.2f} ms",
        f"{compiled * 1e3:.0f} ms",
        f"{head / compiled:.2%}" if compiled else "-",
        f"{stats['bytes_to_workers'] / per_tu / 1e3:.0f} kB",
        f"{stats['bytes_from_workers'] / per_tu / 1e3:.0f} kB",
        f"{stats['actions']['local']}: " + ", ".join(f"{count} {reason}" for reason, count in reasons),
    ]


def misses(log, median, p90):
    with open(log, errors="surrogateescape") as file:
        details = [line.split("\t")[2] for line in file if line.startswith("remote")]
    counts = sorted(int(detail.removeprefix("misses=")) for detail in details)
    if not counts:
        return ["no compile ran on a rank"]
    found = [counts[(len(counts) - 1) // 2], counts[(len(counts) * 9 - 1) // 10]]
    if found[0] > median or found[1] > p90:
        return [f"median {found[0]}, 90th percentile {found[1]} of {counts}"]
    return []


def main():
    command, arguments = sys.argv[1], sys.argv[2:]
    if command == "headings":
        print("\t".join(HEADINGS))
        return
    if command == "misses":
        complaints = misses(arguments[0], int(arguments[1]), int(arguments[2]))
        for complaint in complaints:
            print(complaint)
        sys.exit(1 if complaints else 0)
    with open(arguments[0]) as file:
        stats = json.load(file)
    if command == "judge":
        complaints = judge(stats, int(arguments[1]), arguments[2])
        for complaint in complaints:
            print(complaint)
        sys.exit(1 if complaints else 0)
    elif command == "row":
        print("\t".join(row(stats)))
    elif command == "get":
        value = stats
        for name in arguments[1].split("."):
            value = value[name]
        print(value)
    else:
        sys.exit(__doc__)


main()
