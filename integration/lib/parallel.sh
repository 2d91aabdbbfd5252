# Sourced. Builds that are measured while they run: how many jobs at once, here and on ranks (lib/jobserver.py), in a
# session that a user's other shell might have started.

# open_tree: $tree, with $slots slots on the ranks, sources 1.c to 24.c and {a,b,c}1.c to {a,b,c}8.c; a compiler proper
# that takes a second of no CPU ($work/slow/cc1, for gcc -B) and a program that is a local job ($work/step SECONDS).
open_tree() {
    local n
    slots=8
    strike=none
    tree=$work/tree
    mkdir -p "$work/slow" "$tree"
    gcc -O1 -o "$work/slow/cc1" "$here/lib/slow-cc1.c" || die "cannot compile slow-cc1.c"
    cp "$(command -v sleep)" "$work/step"
    for n in $(seq 24) {a,b,c}{1..8}; do echo "int x$n;" >"$tree/$n.c"; done
}

deadline=120 # of what is measured, in seconds

# measure COMMAND...: sets status, locals, remotes, seconds, struck and clients; its words are in $work/said.
measure() {
    python3 -B "$here/lib/jobserver.py" "$work" "$deadline" "$work/report" "$strike" "$@" >"$work/said" 2>&1 </dev/null
    read -r status locals remotes seconds struck clients <"$work/report"
}

objects() { find "$tree" -name '*.o' | wc -l; }

# judge NAME JOBS STATUS OBJECTS: of what was measured. Empty JOBS or OBJECTS: any number.
judge() {
    local name=$1
    check "$name: status $3, it was $status after $seconds s" [ "$status" = "$3" ] || tail -n 20 "$work/said" | indent
    check "$name: at most ${2:-any} local jobs at once, there were $locals" [ "$locals" -le "${2:-$locals}" ] || true
    check "$name: every token is back" tokens_are_right || true
    check "$name: ${4:-any} objects, there were $(objects)" [ "$(objects)" = "${4:-$(objects)}" ] || true
    [ "$strike" = none ] || check "$name: struck" [ "$struck" -gt 0 ] || true
}

tokens_are_right() { ! grep -i 'INTERNAL\|jobserver' "$work/said"; }

# are_filled NAME: most of the slots were in use.
are_filled() {
    check "$1: $remotes of $slots slots are filled" [ "$remotes" -gt $((slots / 2)) ] || true
}

# begin OPTIONS...: ranks for the builds that follow; $proxied is what a build is started through.
begin() {
    rm -f "$work/socket" "$work/stop"
    # shellcheck disable=SC2016 # for the inner shell
    bounded 900 "$mpicc_proxy" run --workers 1 --slots "$slots" --stats "$work/stats" "$@" -- sh -c \
        'echo "$MPICC_PROXY_SOCKET" >"$0/socket.new"; mv "$0/socket.new" "$0/socket"
         while [ ! -e "$0/stop" ]; do sleep 0.1; done' "$work" >"$work/session.log" 2>&1 &
    session=$!
    settle 60 test -e "$work/socket" || die "the ranks did not start: $(cat "$work/session.log")"
    proxied=(env "LD_PRELOAD=$library" "MPICC_PROXY_SOCKET=$(cat "$work/socket")")
}

end() {
    touch "$work/stop"
    wait "$session" || true
}
