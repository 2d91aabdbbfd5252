"""Runs the cells of the option matrix (matrix_cases.py) and draws the table.

matrix.py run TREES REGEX ROUNDS RECORDS
    Runs the cells whose "row [compiler]" REGEX finds, each ROUNDS times in the same folder below TREES.
matrix.py judge PLAIN PROXIED
    PLAIN holds two plain runs of each cell, PROXIED one through ranks. Prints the table, then "ok CELLS" or lines of
    "FAIL CELL" with how it differs.

A cell passes if its run through ranks left and said what the plain ones did. Where those differ from each other, it may
differ in the same things (the same stream, the same property of the same file) and in nothing else. And it must have run
where it is expected to.
"""

import pickle
import re
import sys

import differential
import matrix_cases

SAME, UNSTEADY, DIFFERENT = "identical", "differs plain vs plain", "DIFFERENT"


def verdict(case, plain, proxied):
    """How the cell came out, and complaints."""
    first, second = plain
    found = [f"plain: {run.trouble}" for run in plain if run.trouble]
    if not first.effects:
        found.append("nothing is said or left behind: there is nothing to compare")
    if proxied.trouble:
        found.append(f"proxied: {proxied.trouble}")
    if proxied.where != set(case.where.split()):
        ran = " ".join(sorted(proxied.where)) or "nothing"
        found.append(f"expected to run as [{case.where}], but ran as [{ran}]")
    unsteady = differential.differing(first, second)
    if differential.differing(first, proxied) - unsteady:
        return DIFFERENT, found + differential.differences(first, proxied)
    return (UNSTEADY if unsteady else SAME), found



def judge(plain_records, proxied_records):
    with open(plain_records, "rb") as file:
        plain = pickle.load(file)
    with open(proxied_records, "rb") as file:
        proxied = pickle.load(file)
    outcomes, failures = {}, []
    for case in matrix_cases.cells():
        if case.title not in plain:
            continue
        if len(plain[case.title]) != 2 or not proxied.get(case.title):
            failures.append((case.title, ["it was not run"]))
            continue
        run = proxied[case.title][0]
        outcome, complaints = verdict(case, plain[case.title], run)
        outcomes[case.title] = outcome, run.where
        if complaints:
            failures.append((case.title, complaints))
    draw(outcomes)
    counts = {what: sum(outcome == what for outcome, _ in outcomes.values()) for what in (SAME, UNSTEADY, DIFFERENT)}
    print(", ".join(f"{count} {what}" for what, count in counts.items()) + f", of {len(outcomes)} cells")
    if len(outcomes) > len(failures):
        print(f"ok {len(outcomes) - len(failures)}")
    for title, complaints in failures:
        print(f"FAIL {title}")
        for line in complaints:
            print(f"      {line}")


def draw(outcomes):
    """Rows times compilers. r: remote, l: local, each identical; lower case with ~: differs plain vs plain."""
    print("r identical (remote)   l identical (local: reason below)   rl identical (some of each)")
    print("~ differs plain vs plain   X DIFFERENT   . does not concern this compiler\n")
    width = max((len(row.name) for row in matrix_cases.ROWS), default=0)
    width = min(width, 70)
    print(" " * width, *(f"{compiler:>10}" for compiler in matrix_cases.COMPILERS))
    for row in matrix_cases.ROWS:
        marks, reasons = [], set()
        for compiler in matrix_cases.COMPILERS:
            outcome, where = outcomes.get(f"{row.name} [{compiler}]", (None, set()))
            local = where - {"remote"}
            mark = ("r" if "remote" in where else "") + ("l" if local else "")
            reasons |= local
            marks.append({None: ".", SAME: mark, UNSTEADY: mark + "~", DIFFERENT: "X"}[outcome])
        if set(marks) != {"."}:
            name = row.name if len(row.name) <= width else row.name[: width - 3] + "..."
            print(f"{name:<{width}}", *(f"{mark:>10}" for mark in marks), " ", " ".join(sorted(reasons)))


def main():
    match sys.argv[1:]:
        case ["run", trees, pattern, rounds, records]:
            cases = [case for case in matrix_cases.cells() if re.search(pattern, case.title)]
            differential.run_all(cases, trees, records, int(rounds))
        case ["judge", plain, proxied]:
            judge(plain, proxied)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
