"""What of Spack a proxy stumbles over, without Spack: a Python that builds packages as Spack's installers do.

usage: spack_standin.py TOKENS JOBS MAKE FOLDER...

It removes LD_PRELOAD and every variable whose name ends in _ROOT from its environment, in which the library stays mapped,
and builds every FOLDER (./configure, then MAKE) in a forked child of its own process group, side by side as far as its
tokens allow. What a child starts inherits its descriptors (posix_spawn); in every second one make comes by Python's own
road (vfork). TOKENS says how makes are told of the JOBS:

  fifo     a jobserver of the stand-in, by the FIFO's path, behind a blank; makes from 4.4 understand that
  numbers  the same, by the numbers of its descriptors
  option   no jobserver; every make gets a -j

Ends with the line "K of N tokens are back" and the first status that was not 0.
"""

import os
import subprocess
import sys
import tempfile


class Jobserver:
    """A FIFO with a token for each job but the first, held open at both ends."""

    def __init__(self, jobs, by_path):
        self.folder = tempfile.mkdtemp()
        self.path = os.path.join(self.folder, "jobserver")
        os.mkfifo(self.path)
        self.read_end = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        self.write_end = os.open(self.path, os.O_WRONLY)
        os.write(self.write_end, b"+" * (jobs - 1))
        self.total = jobs - 1
        self.descriptors = () if by_path else (self.read_end, self.write_end)
        for descriptor in self.descriptors:
            os.set_inheritable(descriptor, True)
        where = f"fifo:{self.path}" if by_path else f"{self.read_end},{self.write_end}"
        self.makeflags = f" -j{jobs} --jobserver-auth={where}"

    def acquire(self):
        try:
            return os.read(self.read_end, 1) != b""
        except BlockingIOError:
            return False

    def release(self):
        os.write(self.write_end, b"+")

    def close(self):
        back = 0
        while self.acquire():
            back += 1
        os.unlink(self.path)
        os.rmdir(self.folder)
        print(f"{back} of {self.total} tokens are back")
        return back == self.total


def clean(environment):
    for name in list(environment):
        if name == "LD_PRELOAD" or name.endswith("_ROOT"):
            del environment[name]
    environment["LC_ALL"] = "C"


def build(folder, make, jobserver, pythons_own_road):
    """In a child: its status."""
    os.setpgid(0, 0)
    os.chdir(folder)
    os.environ["SPACK_SHORT_SPEC"] = os.path.basename(folder)
    if jobserver:
        os.environ["MAKEFLAGS"] = jobserver.makeflags
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    status = subprocess.run(["./configure"], close_fds=False).returncode
    if status == 0 and pythons_own_road:
        status = subprocess.run(make, pass_fds=jobserver.descriptors if jobserver else ()).returncode
    elif status == 0:
        status = subprocess.run(make, close_fds=False).returncode
    return status


def main():
    style, jobs, make, *folders = sys.argv[1:]
    clean(os.environ)
    jobserver = None if style == "option" else Jobserver(int(jobs), style == "fifo")
    make = [make] if jobserver else [make, f"-j{jobs}"]
    waiting = list(enumerate(folders))
    running, tokens, failed = set(), 0, 0
    while waiting or running:
        # The first needs no token.
        while waiting and (not running or (jobserver and jobserver.acquire())):
            tokens += bool(running)
            number, folder = waiting.pop(0)
            child = os.fork()
            if child == 0:
                os._exit(build(folder, make, jobserver, number % 2 == 1))
            running.add(child)
        child, status = os.wait()
        running.discard(child)
        failed = failed or os.waitstatus_to_exitcode(status)
        if tokens:
            tokens -= 1
            jobserver.release()
    all_back = jobserver.close() if jobserver else True
    sys.exit(failed or not all_back)


main()
