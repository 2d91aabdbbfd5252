"""`spack mpicc-proxy install ...` is `spack install ...` with its compiles on all ranks of an MPI job.

LD_PRELOAD has an effect on programs that start with it, and Spack has started when this is read. So Spack is started once
more: below `mpicc-proxy run`, or, where a dispatcher runs already, with the library. The arguments are not read here, only
looked through for the number of jobs.
"""

import os
import shlex
import shutil
import subprocess
import sys

import spack.error
import spack.paths

description = "install packages with their compiles on all ranks of an MPI job"
section = "build"
level = "short"

LIBRARY = "libmpicc-proxy.so"

# With fewer a make is no part of a jobserver, and every compile waits for the one before.
JOBS_MIN = 2

# `status` says so when no dispatcher listens (mpicc-proxy --help, "Exit status").
NO_DISPATCHER = 69


def setup_parser(subparser):
    subparser.add_argument(
        "--run-options",
        metavar="WORDS",
        default="",
        help="options of `mpicc-proxy run`, as one word: '--workers 4'",
    )
    subparser.add_argument("subcommand", choices=["install", "status"], help="what to do")
    subparser.add_argument(
        "words", nargs="...", metavar="...", help="install: whatever `spack install` understands; status: --json"
    )


def mpicc_proxy(parser, args):
    program = find_program()
    if args.subcommand == "status":
        sys.exit(subprocess.run([program, "status", *args.words]).returncode)
    if os.environ.get("MPICC_PROXY") not in ("off", "0") and not is_loaded():
        if not has_dispatcher(program):
            # Comes back here, with the library.
            options = shlex.split(args.run_options)
            execute([program, "run", *options, "--", spack.paths.spack_script, *sys.argv[1:]])
        preload = [os.environ.get("LD_PRELOAD", ""), find_library(program)]
        os.environ["LD_PRELOAD"] = ":".join(filter(None, preload))
    jobs = [] if has_jobs(args.words) else [f"-j{local_jobs()}"]
    execute([spack.paths.spack_script, *global_options(args.words), "install", *jobs, *args.words])


def execute(command):
    sys.stdout.flush()
    os.execv(command[0], command)


def is_loaded():
    return LIBRARY in os.environ.get("LD_PRELOAD", "")


def local_jobs():
    """Not more for more ranks: Spack's jobs run here, and while one is on a rank its place is another's."""
    return max(JOBS_MIN, len(os.sched_getaffinity(0)))


def find_program():
    """Beside this extension in an installation, else in PATH."""
    prefix = os.path.realpath(__file__)
    for _ in range(5):
        prefix = os.path.dirname(prefix)
    program = os.path.join(prefix, "bin", "mpicc-proxy")
    program = program if os.access(program, os.X_OK) else shutil.which("mpicc-proxy")
    if program is None:
        raise spack.error.SpackError("there is no mpicc-proxy in PATH")
    return program


def find_library(program):
    folder = os.path.dirname(os.path.realpath(program))
    for path in (os.path.join(folder, LIBRARY), os.path.join(folder, "..", "lib", LIBRARY)):
        if os.path.exists(path):
            return os.path.normpath(path)
    raise spack.error.SpackError(f"there is no {LIBRARY} beside {program}")


def has_dispatcher(program):
    status = subprocess.run([program, "status", "--json"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if status.returncode not in (0, NO_DISPATCHER):
        raise spack.error.SpackError(status.stderr.decode(errors="replace").strip())
    return status.returncode == 0


def has_jobs(words):
    """As `spack install` would find them: -j8, -j 8, --jobs=8, --jobs 8. What follows a `--` is no option."""
    options = words[: words.index("--")] if "--" in words else words
    return any(word.startswith("-j") or word == "--jobs" or word.startswith("--jobs=") for word in options)


def global_options(words):
    """What stands between `spack` and the name of this command (-C, -e and so on)."""
    before = sys.argv[1 : len(sys.argv) - len(words)]
    if "mpicc-proxy" not in before:
        # An alias (config:aliases), which Spack has looked up by now.
        return before[:-1]
    last = len(before) - 1 - before[::-1].index("mpicc-proxy")
    return before[:last]
