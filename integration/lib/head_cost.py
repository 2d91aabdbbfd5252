"""Prints what each build of a session cost the head.

head_cost.py NAME FIGURES...    FIGURES: `mpicc-proxy status --json` before the first build and after each.
"""

import json
import statistics
import sys

PARTS = [("dispatcher", "dispatcher_cpu_parts_s"), ("client", "client_cpu_parts_s")]


def difference(after, before, *names):
    for name in names:
        after, before = after.get(name, {}), before.get(name, {})
    return (after or 0) - (before or 0)


def row(before, after):
    """The cells of one build's row, by heading."""
    count = difference(after, before, "actions", "remote")
    if count == 0:
        sys.exit("no compile ran on a rank")
    each = lambda *names: difference(after, before, *names) / count
    dispatcher, client, compile_s = each("dispatcher_cpu_s"), each("client_cpu_s"), each("compile_cpu_s")
    cells = {
        "TUs": str(count),
        "head ms": f"{(dispatcher + client) * 1e3:.2f}",
        "of compile": f"{(dispatcher + client) / compile_s:.2%}",
        "dispatcher ms": f"{dispatcher * 1e3:.2f}",
        "client ms": f"{client * 1e3:.2f}",
    }
    recent = after.get("per_action", {}).get("recent", [])[-count:]
    for heading, name in [("misses", "misses"), ("bytes sent", "sent_bytes")]:
        if recent:
            values = [action[name] for action in recent]
            cells[heading] = f"{statistics.median(values):.0f} (mean {statistics.mean(values):.0f})"
    cells.setdefault("misses", f"mean {each('misses'):.1f}")
    cells.setdefault("bytes sent", f"mean {each('bytes_to_workers'):.0f}")
    for title, parts in PARTS:
        split = [(name, each(parts, name) * 1e3) for name in after.get(parts, {})]
        cells[f"{title} by part, ms"] = ", ".join(f"{name} {ms:.2f}" for name, ms in split)
    return cells


def main():
    name, files = sys.argv[1], sys.argv[2:]
    figures = []
    for path in files:
        with open(path) as file:
            figures.append(json.load(file))
    rows = [row(before, after) for before, after in zip(figures, figures[1:])]
    print(f"{name}: each compile, by build")
    for heading in rows[0]:
        cells = [cells[heading] for cells in rows]
        if "by part" in heading:
            for number, cell in enumerate(cells, 1):
                print(f"  build {number}: {heading}: {cell}")
        else:
            print(f"  {heading:14}" + "".join(f"{cell:>24}" for cell in cells))


main()
