"""Runs the cases of differential_cases.py, and judges two runs of them: what a shell command leaves behind and says
must be the same whether its compiles went to ranks or not. Knows nothing of sessions: whoever starts it decides (by
LD_PRELOAD) what becomes of a compile.

differential.py run USERS TREES REGEX RECORDS
    Runs the cases of USERS (any,root,nobody: see Theme.user) whose "theme: name" REGEX finds, in folders below TREES,
    and writes what came of them to the file RECORDS; no case, no file. The folder of a case is always the same, since
    paths are part of objects. With our library loaded a case runs more than once: the second time the inputs of its
    compiles are known beforehand, which is another way through the ranks.
differential.py judge PLAIN PROXIED
    One line a case, "ok NAME", "FAIL NAME" and how they differ, or "known NAME" for a difference that is known.

Two plain runs must be judged equal but for where they ran; a case that fails that must not be added.
"""

import concurrent.futures
import dataclasses
import os
import pickle
import re
import shutil
import signal
import stat
import subprocess
import sys

import differential_cases

# As many cases at once as the session has workers; each lane has a folder of its own.
LANES = 2

# Far above what any case takes on a busy machine; a case that reaches it has failed, whatever the others say.
CASE_TIMEOUT_S = 90

# Every file that a case begins with, so that __TIMESTAMP__ is the same.
MODIFIED_S = 1600000000

SHOWN_BYTES_MAX = 400
SHOWN_DIFFERENCES_MAX = 12

LOADED = "libmpicc" in open("/proc/self/maps").read()

# Each command that fails says with which status, so that no case has to.
PROLOGUE = "set -E; trap 'echo \"status $?\"' ERR\n"

# The same on both sides, and nothing compared: the machine lacks something that the case needs.
UNPREPARED = re.compile(rb"command not found|Traceback \(most recent")


@dataclasses.dataclass
class Record:
    """What came of a case, once."""

    status: int
    stdout: bytes
    stderr: bytes
    tree: dict  # relative path -> what a build could have made different
    where: set  # "remote", and the reasons of those that ran locally
    trouble: str  # why this run proves nothing; empty if it does
    effects: bool  # something was said or left behind


def run_all(cases, trees, records, rounds=None):
    """`rounds`: how often each case is run, if not as often as it says itself."""
    if not cases:
        return
    lanes = [cases[lane::LANES] for lane in range(LANES)]

    def run_lane(lane):
        lane_dir = os.path.join(trees, str(lane))
        os.makedirs(lane_dir, exist_ok=True)
        times = {case.title: rounds or (case.rounds if LOADED else 1) for case in lanes[lane]}
        return {case.title: [run(case, lane_dir) for _ in range(times[case.title])] for case in lanes[lane]}

    found = {}
    with concurrent.futures.ThreadPoolExecutor(LANES) as pool:
        for part in pool.map(run_lane, range(LANES)):
            found.update(part)
    with open(records, "wb") as file:
        pickle.dump(found, file)


def run(case, lane_dir):
    tree = os.path.join(lane_dir, "tree")
    log = os.path.join(lane_dir, "log")
    remove(tree)
    write_files(tree, case.files)
    with open(log, "wb"):
        os.chmod(log, 0o666)  # some cases change the user
    env = os.environ | {
        "PWD": tree,
        "TREE": tree,
        "FOREIGN": os.path.join(os.path.dirname(lane_dir), "foreign"),
        "PYTHON": sys.executable,
        "MPICC_PROXY_LOG": log,
    }
    trouble = ""
    if case.prepare:
        status, output, errors = shell("set -e\n" + case.prepare, tree, env | {"MPICC_PROXY": "off"})
        if status:
            trouble = f"the preparation failed: {shown(output + errors)}"
    before = snapshot(tree)
    status, stdout, stderr = shell(PROLOGUE + case.command, tree, env)
    after = snapshot(tree)
    if status is None:
        trouble = trouble or f"not done after {CASE_TIMEOUT_S} s"
    if missing := UNPREPARED.search(stdout + stderr):
        trouble = trouble or f"not what the case is about: {shown((stdout + stderr)[missing.start():])}"
    for pattern, replacement in case.excused:
        stdout, stderr = re.sub(pattern, replacement, stdout), re.sub(pattern, replacement, stderr)
        for entry in after.values():
            if "content" in entry:
                entry["content"] = re.sub(pattern, replacement, entry["content"])
    with open(log, errors="surrogateescape") as file:
        lines = [line.split("\t") for line in file.read().splitlines()]
    where = {"remote" if verdict == "remote" else reason for verdict, reason, *_ in lines}
    remove(tree)
    return Record(status, stdout, stderr, after, where, trouble, bool(stdout or stderr or after != before))


def shell(script, tree, env):
    child = subprocess.Popen(
        ["bash", "-c", script],
        cwd=tree,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        stdout, stderr = child.communicate(timeout=CASE_TIMEOUT_S)
        return child.returncode, stdout, stderr
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        return None, *child.communicate()


def write_files(tree, files):
    os.makedirs(tree)
    for name, content in files.items():
        path = os.path.join(os.fsencode(tree), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        content = content.encode() if isinstance(content, str) else content
        with open(path, "wb") as file:
            file.write(content.replace(b"@TREE@", os.fsencode(tree)))
        os.utime(path, (MODIFIED_S, MODIFIED_S))


def remove(tree):
    if not os.path.lexists(tree):
        return
    for name in mounted_below(tree):
        subprocess.run(["umount", "-l", name], check=True)
    if os.geteuid() == 0:
        # What a case that ended early left immutable. Fails for what has no such attribute.
        subprocess.run(["chattr", "-R", "-f", "-i", "-a", tree], stderr=subprocess.DEVNULL)
    os.chmod(tree, 0o700)
    for folder, dirs, _ in os.walk(tree):
        for name in dirs:
            if not os.path.islink(os.path.join(folder, name)):
                os.chmod(os.path.join(folder, name), 0o700)
    shutil.rmtree(tree)


def mounted_below(tree):
    with open("/proc/self/mounts") as file:
        return [line.split()[1] for line in file if line.split()[1].startswith(tree + "/")]


def snapshot(tree):
    """Everything below `tree` that a build could have made different: relative path -> its properties."""
    found, names_of = {}, {}
    top = os.fsencode(tree)

    def enter(path):
        status = os.lstat(path)
        entry = {"kind": stat.S_IFMT(status.st_mode), "mode": oct(stat.S_IMODE(status.st_mode))}
        entry["owner"] = (status.st_uid, status.st_gid)
        relative = os.path.relpath(path, top)
        found[relative] = entry
        if stat.S_ISLNK(status.st_mode):
            entry["target"] = os.readlink(path)
            return
        if os.access(path, os.R_OK | (os.X_OK if stat.S_ISDIR(status.st_mode) else 0)):
            enter_readable(path, relative, status, entry)
        else:
            os.chmod(path, 0o700)
            enter_readable(path, relative, status, entry)
            os.chmod(path, stat.S_IMODE(status.st_mode))

    def enter_readable(path, relative, status, entry):
        entry["attributes"] = sorted((name, os.getxattr(path, name)) for name in os.listxattr(path))
        if stat.S_ISREG(status.st_mode):
            with open(path, "rb") as file:
                entry["content"] = file.read()
            names_of.setdefault((status.st_dev, status.st_ino), []).append(relative)
        elif stat.S_ISDIR(status.st_mode):
            for name in sorted(os.listdir(path)):
                enter(os.path.join(path, name))

    enter(top)
    for names in names_of.values():
        for name in names:
            found[name]["links"] = sorted(names)
    return found


def differing(plain, proxied):
    """What differs, as keys: "stdout", (name, what)."""
    found = {what for what in ("status", "stdout", "stderr") if getattr(plain, what) != getattr(proxied, what)}
    for name in plain.tree.keys() | proxied.tree.keys():
        mine, other = plain.tree.get(name, {}), proxied.tree.get(name, {})
        found |= {(name, what) for what in mine.keys() | other.keys() if mine.get(what) != other.get(what)}
    return found


def differences(plain, proxied):
    found = []
    for what in ("status", "stdout", "stderr"):
        mine, other = getattr(plain, what), getattr(proxied, what)
        if mine != other:
            found.append(f"{what}: plain   {around(mine, other)}")
            found.append(f"{what}: proxied {around(other, mine)}")
    for name in sorted(plain.tree.keys() | proxied.tree.keys()):
        mine, other = plain.tree.get(name), proxied.tree.get(name)
        if mine is None or other is None:
            found.append(f"only {'plain' if other is None else 'proxied'}: {os.fsdecode(name)!r}")
            continue
        for what in sorted(mine.keys() | other.keys()):
            if mine.get(what) != other.get(what):
                title = f"{what} of {os.fsdecode(name)!r}"
                found.append(f"{title}: plain   {around(mine.get(what), other.get(what))}")
                found.append(f"{title}: proxied {around(other.get(what), mine.get(what))}")
    if len(found) > SHOWN_DIFFERENCES_MAX:
        found[SHOWN_DIFFERENCES_MAX:] = [f"... and {len(found) - SHOWN_DIFFERENCES_MAX} more lines"]
    return found


def around(value, other):
    """`value`, from a little before its first difference to `other`."""
    if not (isinstance(value, bytes) and isinstance(other, bytes)):
        return shown(value)
    first = next((i for i, (a, b) in enumerate(zip(value, other)) if a != b), min(len(value), len(other)))
    start = max(0, first - 60)
    return f"({len(value)} bytes, from {start}) {shown(value[start:])}"


def shown(value):
    if isinstance(value, bytes):
        more = f" ... {len(value) - SHOWN_BYTES_MAX} more" if len(value) > SHOWN_BYTES_MAX else ""
        return ascii(value[:SHOWN_BYTES_MAX].decode(errors="backslashreplace")) + more
    return ascii(value)[:SHOWN_BYTES_MAX]


def complaints(case, plain, rounds):
    if not plain or not rounds:
        return ["it was not run"]
    plain = plain[0]
    found = []
    if plain.trouble:
        found.append(f"plain: {plain.trouble}")
    if not plain.effects:
        found.append("nothing is said or left behind: there is nothing to compare")
    for number, proxied in enumerate(rounds, 1):
        found += [f"round {number}: {line}" for line in differences(plain, proxied)]
        if proxied.trouble:
            found.append(f"round {number}: {proxied.trouble}")
        if proxied.where != set(case.where.split()):
            ran = " ".join(sorted(proxied.where)) or "nothing"
            found.append(f"round {number}: expected to run as [{case.where}], but ran as [{ran}]")
        if found:
            break
    return found


def judge(plain_records, proxied_records):
    with open(plain_records, "rb") as file:
        plain = pickle.load(file)
    with open(proxied_records, "rb") as file:
        proxied = pickle.load(file)
    for case in differential_cases.ALL:
        if case.title not in plain and case.title not in proxied:
            continue
        found = complaints(case, plain.get(case.title), proxied.get(case.title))
        if case.known:
            print(f"known {case.name}: {case.known}{'' if found else ' (not seen this time)'}")
            continue
        print(f"FAIL {case.title}" if found else f"ok {case.title}")
        for line in found:
            print(f"      {line}")


def main():
    match sys.argv[1:]:
        case ["run", users, trees, pattern, records]:
            users = users.split(",")
            cases = [case for case in differential_cases.ALL if case.user in users and re.search(pattern, case.title)]
            run_all(cases, trees, records)
        case ["judge", plain, proxied]:
            judge(plain, proxied)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
