# Sourced by every integration script: where things are, how results are reported, how processes are bounded and
# cleaned up. Knows nothing of single projects (projects.sh) or of the machine's packages (setup.sh).

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
root=$(dirname "$here")

# MPICC_PROXY_BIN points the scripts at installed programs instead of the release build of this tree.
programs=${MPICC_PROXY_BIN:-${CARGO_TARGET_DIR:-$root/target}/release}
mpicc_proxy=$programs/mpicc-proxy

# What a caller's build, session or shell left in the environment must not steer ours.
unset MAKEFLAGS MFLAGS MAKELEVEL LD_PRELOAD NINJA_STATUS
unset MPICC_PROXY MPICC_PROXY_SOCKET MPICC_PROXY_FALLBACK MPICC_PROXY_LOG
export LC_ALL=C
export MPICC_PROXY_HISTORY=off # every session begins from nothing, and leaves the user's history alone

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 2
}

# --- results ---------------------------------------------------------------------------------------------------

passed=0
failed=0

# One line per check on stdout. integration/check counts the same lines over all scripts in $INTEGRATION_RESULTS.
pass() {
    printf '  ok    %s\n' "$1"
    passed=$((passed + 1))
    [ -z "${INTEGRATION_RESULTS:-}" ] || echo "ok $1" >>"$INTEGRATION_RESULTS"
}

fail() {
    printf '  FAIL  %s\n' "$1"
    failed=$((failed + 1))
    [ -z "${INTEGRATION_RESULTS:-}" ] || echo "FAIL $1" >>"$INTEGRATION_RESULTS"
}

# check NAME COMMAND...: passes if COMMAND succeeds; its output is shown only when it fails.
check() {
    local name=$1 output
    shift
    if output=$("$@" 2>&1); then
        pass "$name"
    else
        fail "$name"
        tail -n 40 <<<"$output" | indent
        return 1
    fi
}

indent() { sed 's/^/        /' | cut -c 1-400; }

finish() {
    printf '%d passed, %d failed\n' "$passed" "$failed"
    [ "$failed" -eq 0 ]
}

# --- a scratch folder and its processes ------------------------------------------------------------------------

# Every process below `bounded` inherits this variable, whatever sessions, process groups or launchers lie between;
# that is how survivors are found: by descent, never by name, so that other people's builds are safe from us.
mark=

# open_workspace "$0" "$@": sets $work (gone at exit, kept with INTEGRATION_KEEP=1) and $mark. To be called before
# anything happens: it starts the script anew with a /dev/shm of its own where it may (as root), since on a machine
# with other users of mpicc-proxy nobody could tell whose left-overs are whose.
open_workspace() {
    if [ "$(id -u)" = 0 ] && [ -z "${INTEGRATION_SHM:-}" ] && unshare --mount true 2>/dev/null; then
        INTEGRATION_SHM=private exec unshare --mount -- \
            sh -c 'mount -t tmpfs -o mode=1777,nosuid,nodev shm /dev/shm && exec "$@"' sh "$@"
    fi
    work=$(mktemp -d "${TMPDIR:-/tmp}/mpicc-proxy-it.XXXXXX")
    work=$(cd "$work" && pwd -P)
    mkdir "$work/tmp"
    export MPICC_PROXY_EVENTS=$work/events # the user's sessions are left alone
    mark=${work##*.}.$$
    shm_before=$(shm_names)
    trap close_workspace EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# What a script has to undo itself, a function.
before_close=:

close_workspace() {
    local status=$?
    trap - EXIT
    "$before_close"
    kill_survivors
    if [ "${INTEGRATION_KEEP:-}" = 1 ]; then
        echo "kept: $work" >&2
    else
        rm -rf "$work"
    fi
    exit "$status"
}

# bounded SECONDS COMMAND...: COMMAND under a deadline (status 124), carrying our mark, with a TMPDIR of its own in
# which left-overs are visible.
bounded() {
    local seconds=$1
    shift
    env INTEGRATION_RUN="$mark" TMPDIR="$work/tmp" timeout -k 5 "$seconds" "$@"
}

# Pids of all living processes started below `bounded`.
survivors() {
    { grep -lzsxF "INTEGRATION_RUN=$mark" /proc/[0-9]*/environ || true; } | sed 's|^/proc/||; s|/environ$||'
}

kill_survivors() {
    local signal pid pids
    for signal in TERM KILL; do
        pids=$(survivors)
        [ -n "$pids" ] || return 0
        for pid in $pids; do kill -s "$signal" "$pid" 2>/dev/null || true; done
        settle 3 no_survivors_now || true
    done
}

no_survivors_now() { [ -z "$(survivors)" ]; }

# settle SECONDS COMMAND...: waits until COMMAND succeeds.
settle() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.1
    done
}

shm_names() { find /dev/shm -mindepth 1 -maxdepth 1 -name '*mpicc-proxy*' | sort; }

shm_as_before() { [ -z "$(comm -13 <(echo "$shm_before") <(shm_names))" ]; }

# Nothing of a run may outlive it: no process, nothing of ours in /dev/shm or TMPDIR. What a killed launcher left of
# its own is not ours to judge. The longest wait is that of a host's keeper, 60 s, for ranks that may return.
nothing_left() {
    local pid status=0
    if ! settle 80 no_survivors_now; then
        echo "processes left:"
        for pid in $(survivors); do
            printf '%s  %s\n' "$pid" "$(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null)"
        done
        status=1
    fi
    if ! settle 5 shm_as_before; then
        echo "left in /dev/shm:"
        comm -13 <(echo "$shm_before") <(shm_names)
        status=1
    fi
    if find "$work/tmp" -name '*mpicc-proxy*' | grep .; then
        echo "(left in TMPDIR)"
        status=1
    fi
    return "$status"
}

# --- ranks -----------------------------------------------------------------------------------------------------

# Replaces the release build's client by a statically linked one. A client lives for one compile, and half of its CPU
# time before main() goes to the loader. Where libc has no static library, the dynamic one stays.
build_static_client() {
    cargo rustc --release --locked --bin mpicc-proxy-client --no-default-features -- \
        -C target-feature=+crt-static -C relocation-model=static ||
        echo "${0##*/}: no static client: the dynamic one is used" >&2
}

# Our programs must exist before anything is concluded from them.
need_programs() {
    local name
    for name in mpicc-proxy mpicc-proxy-client mpicc-proxy-rank; do
        [ -x "$programs/$name" ] || die "no $programs/$name: run 'cargo build --release' first"
    done
    find_library
}

find_library() {
    for library in "$programs/libmpicc-proxy.so" "$programs/../lib/libmpicc-proxy.so"; do
        [ -f "$library" ] && return
    done
    die "no libmpicc-proxy.so beside $programs: run 'cargo build --release' first"
}

# Lines "PID RANK" of the ranks below `bounded`, rank 0 first. mpiexec tells a process its rank in its environment; the
# compilers below a rank do not get that, and are told apart by their executable anyway.
ranks() {
    local pid
    for pid in $(survivors); do
        [[ $(readlink "/proc/$pid/exe") == */mpicc-proxy-rank* ]] || continue
        printf '%s %s\n' "$pid" "$(tr '\0' '\n' <"/proc/$pid/environ" | sed -n 's/^\(OMPI_COMM_WORLD\|PMI\)_RANK=//p')"
    done 2>/dev/null | sort -k2n
}

pid_of_rank() { ranks | awk -v rank="$1" '$2 == rank { print $1; exit }'; }

# Open MPI refuses to start as root unless told twice. `mpicc-proxy run` does this itself; needed for mpiexec only.
if [ "$(id -u)" = 0 ]; then
    ompi_root=(env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1)
else
    ompi_root=()
fi

# Worker ranks that cannot see DIR; the file counts them (see integration/hide).
hiding() { echo "$here/hide --report $work/hidden $1 --"; }

# Shell commands, in namespaces for the host's name and for mounts, that make a worker believe to be a host of its own;
# and the start of such a worker.
# shellcheck disable=SC2016 # for the inner shell
own_host='hostname host-$$ && mount -t tmpfs shm /dev/shm'
as_own_host() { echo "unshare --uts --mount sh -c '$own_host && exec \"\$@\"' sh"; }

hidden_ranks() { sort -u "$work/hidden" 2>/dev/null | wc -l; }
