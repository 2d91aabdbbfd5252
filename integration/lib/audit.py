"""audit.py TRACE TREE: judges what `strace -f -xx` saw of a rank and its compiles (see integration/audit). Lines "ok ..."
and "FAIL ...", the rest explains. Only processes below a compiler's driver count: what the rank does is its own matter."""

import collections
import re
import sys

trace, tree = sys.argv[1], sys.argv[2].encode()

LINE = re.compile(rb"^(\d+) +(?:<\.\.\. )?(\w+)")
STRING = re.compile(rb'"((?:\\x[0-9a-f]{2})*)"')
CHILD = re.compile(rb"^(\d+) .*(?:clone3?|v?fork)\b.*= (\d+)$")

# What ld.so and libc open where no hook can see it. All of it is in the toolchain's identity, or only says that
# something is absent.
BEHIND_HOOKS = [
    rb"/etc/ld\.so\.(preload|cache)$",
    rb"/(usr/)?lib(64)?/.*\.so[.0-9]*$",
    rb"(/usr)?/lib/.*/(glibc-hwcaps/x86-64-v\d|((tls|haswell|avx512_1|x86_64)/?)+)$",
    rb"(/usr)?/lib/.*/\.\./lib$",
    rb"/usr/lib/locale/",
    rb"/usr/share/locale/locale\.alias$",
    rb"/etc/localtime$",
    rb"/usr/share/zoneinfo/",
]
# The kernel's own files.
KERNELS = [rb"/dev/(null|zero|urandom|random)$", rb"/proc/self/(exe|fd)(/\d+)?$"]
# Programs of the toolchain, as execve(2) and ld.so name them.
PROGRAMS = [rb"/usr/(bin|lib/gcc|lib/llvm-\d+/bin|libexec)/"]
# The rank's folder: scratch, store and socket; and our library.
OWN = [rb"/dev/shm/mpicc-proxy-", rb".*/libmpicc[-_]proxy[^/]*\.so$"]


def text(escaped):
    return bytes.fromhex(escaped.replace(b"\\x", b"").decode())


def main():
    parents, compilers, seen = {}, set(), collections.Counter()
    leaks, strangers = [], collections.Counter()
    drivers = re.compile(rb"/(gcc|g\+\+|gfortran|clang|clang\+\+|cc1|cc1plus|f951|as|objcopy)(-\d+)?$")
    pending = {}
    with open(trace, "rb") as file:
        for line in file:
            line = line.rstrip(b"\n")
            if child := CHILD.match(line):
                parents[child[2]] = child[1]
            head = LINE.match(line)
            if not head:
                continue
            pid, call = head[1], head[2]
            if b"<unfinished" in line:
                pending[pid] = line
            elif b"resumed>" in line and pid in pending:
                line = pending.pop(pid) + line
                if child := re.search(rb"(?:clone3?|v?fork).*= (\d+)$", line):
                    parents[child[1]] = pid
            if b"<unfinished" in line and b"resumed>" not in line and call != b"execve":
                continue
            strings = [text(s) for s in STRING.findall(line)]
            if call == b"execve" and strings and drivers.search(strings[0]):
                compilers.add(pid)
            if pid not in compilers and parents.get(pid) not in compilers:
                continue
            compilers.add(pid)
            # Arguments and environment of a program are words, not accesses.
            paths = strings[:1] if call == b"execve" else strings
            if call == b"readlink" or call == b"readlinkat":
                paths = strings[:1]
            for path in paths:
                if not path:
                    continue
                seen[call] += 1
                if path == tree or path.startswith(tree + b"/"):
                    leaks.append((call, path))
                elif not path.startswith(b"/") and call != b"symlink":
                    strangers[(call, path)] += 1
                elif not any(re.match(p, path) for p in BEHIND_HOOKS + KERNELS + OWN) and not (
                    any(re.match(p, path) for p in PROGRAMS) and call in (b"execve", b"readlink", b"access")
                ):
                    strangers[(call, path)] += 1
    print(f"{len(compilers)} processes of compiles, {sum(seen.values())} system calls with a path")
    enough = len(compilers) >= 40 and sum(seen.values()) >= 1000
    print(("ok" if enough else "FAIL") + " strace saw the compiles")
    print(("FAIL" if leaks else "ok") + " no system call carries a path of the hidden folder")
    for call, path in leaks[:20]:
        print(f"{call.decode()} {path!r}")
    print(("FAIL" if strangers else "ok") + " nothing else of the host's was touched")
    for (call, path), count in strangers.most_common(40):
        print(f"{count} x {call.decode()} {path!r}")


main()
