#!/usr/bin/env python3
"""event_log.py ACTIONS RANKS SLOTS [AGO]: an event log of a made-up session that began AGO seconds ago, or some day.

It goes to the standard output. Every compile takes its time on the first slot that is free; links follow at the end. The same numbers give the same log.
"""
import heapq
import json
import random
import sys
import time

actions, ranks, slots = map(int, sys.argv[1:4])
random.seed(actions)
began_us = int((time.time() - float(sys.argv[4])) * 1e6) if len(sys.argv) > 4 else 1_790_000_000_000_000
events = []


def tell(at_s, event, **fields):
    events.append((at_s, len(events), {"at_us": began_us + int(at_s * 1e6), "event": event, **fields}))


tell(0, "session", schema=1, version="0", id=f"made-up-{actions}", host="head", cwd="/build", command=["make", "-j"])
tell(0.5, "ranks", ranks=[{"rank": r, "host": f"node{r:03}", "slots": slots} for r in range(1, ranks + 1)])
free = [(0.6, r) for r in range(1, ranks + 1) for _ in range(slots)]
heapq.heapify(free)
end = 0
for action in range(1, actions + 1):
    at, rank = heapq.heappop(free)
    took = random.lognormvariate(0, 1)
    tell(min(at, 0.6 + action / 400), "queued", action=action)
    what = {"output": f"/build/lib{action % 37}/file{action}.o", "source": f"/src/lib{action % 37}/file{action}.cc"}
    tell(at, "started", action=action, rank=rank, expected_us=int(took * 9e5), **what)
    if action % 997 == 5:
        tell(at + took, "retried", action=action, cause=f"rank {rank} on node{rank:03}: killed")
        tell(at + took, "local", action=action, reason="rank-trouble", **what)
        tell(at + took + 1, "ended", action=action)
    else:
        status = {"code": int(action % 499 == 7)}
        tell(at + took, "finished", action=action, exit=status, cpu_us=int(took * 9e5), peak_bytes=int(took * 1e8),
             misses=action % 3, sent_bytes=4000)
    end = max(end, at + took)
    heapq.heappush(free, (at + took + 0.002, rank))
for link in range(5):
    number = actions + link + 1
    tell(end + link * 0.8, "local", action=number, reason="link", output=f"/build/prog{link}")
    tell(end + link * 0.8 + 1.5, "ended", action=number)
tell(end + 4, "counts", bytes_to_workers=actions * 40_000, bytes_from_workers=actions * 60_000, misses=actions,
     tokens_lent=actions, dispatcher_cpu_us=actions * 1500, clients_cpu_us=actions * 700)
tell(end + 6, "end", status=0, command_us=began_us + int((end + 5) * 1e6))
for _, _, event in sorted(events, key=lambda entry: entry[:2]):
    print(json.dumps(event, separators=(",", ":")))
