# Sourced. Hosts emulated on this machine, by root: h1, h2, ..., each with its own network card and address, name, IPC,
# kernel id, /dev/shm and TMPDIR, on one switch. Only h1, the head, has $work and with it the tree; the others have no
# headers either. They share the CPUs: a session says `--slots 1`.
#
# Nothing of them has a name outside. The namespaces live as long as their processes, the cards and the switch as long as
# the namespaces, and all processes no longer than the script.

hosts=0
keepers=() # of the namespaces: process ids by the host's number; 0 is the switch

# alone "$0" "$@": starts the script anew as the first process of a PID namespace: the kernel ends all others with it,
# however it ends, and none of them is ever somebody else's. To be called before open_workspace.
alone() {
    [ "$(id -u)" = 0 ] || die "needs root, for namespaces"
    [ $$ = 1 ] || exec unshare --pid --fork --kill-child --mount-proc -- "$@"
}

# open_hosts N: makes them, and lets mpiexec reach them by lib/ssh.
open_hosts() {
    local n
    hosts=$1
    export INTEGRATION_HOSTS=$work/hosts
    export OMPI_MCA_plm_rsh_agent=$here/lib/ssh HYDRA_LAUNCHER=ssh HYDRA_LAUNCHER_EXEC=$here/lib/ssh
    mkdir "$work/hosts"
    for n in $(seq "$hosts"); do
        printf '10.99.0.%d h%d\n' "$n" "$n" >>"$work/hosts/names"
        echo "h$n" >>"$work/hosts/list"
        cat /proc/sys/kernel/random/uuid >"$work/hosts/h$n.boot"
    done
    keep 0 'ip link add switch type bridge; ip link set switch up'
    for n in $(seq "$hosts"); do
        keep "$n" "$(setup_of "$n")"
        ip link add eth0 netns "${keepers[n]}" type veth peer name "h$n" netns "${keepers[0]}"
        switch_port "$n" master switch up
        on_host "$n" ip address add "10.99.0.$n/24" dev eth0
        on_host "$n" ip link set eth0 up
    done
    all_reachable || die "the hosts do not reach each other"
}

# Shell commands that make a host of its namespaces.
setup_of() {
    local folder
    cat <<SETUP
hostname h$1
mount --bind $work/hosts/names /etc/hosts
mount --bind $work/hosts/h$1.boot /proc/sys/kernel/random/boot_id
mount -t tmpfs -o mode=1777 shm /dev/shm
ip link set lo up
SETUP
    [ "$1" -gt 1 ] || return 0
    for folder in $(hidden_headers | tr : ' '); do echo "mount -t tmpfs -o ro none $folder"; done
    echo "mount -t tmpfs none $work; mkdir $work/tmp"
}

# keep N SETUP: the process that keeps N's namespaces, after a shell's SETUP in them.
keep() {
    local log=$work/hosts/h$1.log
    (
        cd /
        exec unshare --mount --net --uts --ipc \
            sh -ec "$2"'; echo ready; exec sleep infinity'
    ) >"$log" 2>&1 </dev/null &
    keepers[$1]=$!
    echo $! >"$work/hosts/h$1.pid"
    settle 20 grep -sqx ready "$log" || die "cannot make the host h$1: $(cat "$log")"
}

# on_host N COMMAND...: in the same folder, where the host has it.
on_host() {
    entry_of "$1"
    "${entry[@]}" "${@:2}"
}

# Sets entry, the words that start a command on the host N.
entry_of() {
    # shellcheck disable=SC2016 # for the inner shell
    entry=(nsenter --target "${keepers[$1]}" --mount --net --uts --ipc -- sh -c 'cd "$0" 2>/dev/null; exec "$@"' "$PWD")
}

switch_port() { nsenter --target "${keepers[0]}" --net -- ip link set "h$1" "${@:2}"; }

# Pids of all processes on the host N but its keeper, whoever started them.
pids_on() {
    local net
    net=$(stat -L -c %i "/proc/${keepers[$1]}/ns/net")
    { stat -L -c '%i %n' /proc/[0-9]*/ns/net 2>/dev/null || true; } | tr / ' ' |
        awk -v net="$net" -v keeper="${keepers[$1]}" '$1 == net && $3 != keeper { print $3 }'
}

signal_host() {
    local pid
    for pid in $(pids_on "$1"); do kill -s "$2" "$pid" 2>/dev/null || true; done
}

# What can happen to a host, and what is undone again. Who is cut off or lost gets no last word out.
cut_off() { switch_port "$1" down; }
reconnect() { switch_port "$1" up; }
freeze() { signal_host "$1" STOP; }
thaw() { signal_host "$1" CONT; }
lose() {
    switch_port "$1" down
    touch "$work/hosts/h$1.lost"
    while [ -n "$(pids_on "$1")" ]; do signal_host "$1" KILL; done
}

# repair: all as they were, for the next build. What a lost host had in memory is lost, too.
repair() {
    local n
    for n in $(seq "$hosts"); do
        thaw "$n"
        reconnect "$n"
        [ ! -e "$work/hosts/h$n.lost" ] || on_host "$n" find /dev/shm "$work/tmp" -mindepth 1 -delete
        rm -f "$work/hosts/h$n.lost"
    done
    all_reachable || die "the hosts do not reach each other again"
}

# It takes a moment until a link carries, and until it is forgotten that it did not.
all_reachable() {
    local n
    for n in $(seq 2 "$hosts"); do settle 30 are_connected "$n" 1 && settle 30 are_connected 1 "$n" || return; done
}

# Somebody is there to say that nobody listens.
are_connected() { [[ $(on_host "$1" bash -c ": </dev/tcp/h$2/9" 2>&1) == *'Connection refused'* ]]; }

# --- a build on them -------------------------------------------------------------------------------------------

# build_on_hosts THROUGH... -- OPTIONS...: the selected project in $work/tree, by `mpicc-proxy run OPTIONS` that h1 is told
# to run through the words THROUGH. It has to find out by itself that there are $hosts hosts, and which.
build_on_hosts() {
    local through=() hiding_on_head
    while [ "$1" != -- ]; do
        through+=("$1")
        shift
    done
    shift
    # The worker beside rank 0 could see the tree; the others have no such folder.
    hiding_on_head="sh -c '[ ! -d $work/tree ] || exec $(hiding "$work/tree$(hidden_headers)") \"\$@\"; exec \"\$@\"' sh"
    rm -f "$work/hidden" "$work/clients.log" "$work/stats.json"
    (
        cd "$work/tree" || exit
        entry_of 1
        # shellcheck disable=SC2016 # for the inner shell
        MPICC_PROXY_LOG=$work/clients.log bounded 600 "${entry[@]}" "${through[@]}" \
            "$mpicc_proxy" run --slots 1 --wrap-worker "$hiding_on_head" --stats "$work/stats.json" "$@" \
            -- sh -c 'log=$1; shift; exec "$@" >"$log" 2>&1' sh "$work/proxied.log" "${build[@]}"
    ) >"$work/session.log" 2>&1
}

# undisturbed NAME WORDS...: build_on_hosts WORDS, when nothing goes wrong. Also sets undisturbed_s.
undisturbed() {
    local name=$1 status=0
    shift
    prepare_tree "$work/tree"
    SECONDS=0
    MPICC_PROXY_FALLBACK=forbid build_on_hosts "$@" || status=$?
    undisturbed_s=$SECONDS
    same_build "$name" "$status"
    check "$name: one worker on each host, all used" one_used_worker_each || true
    check "$name: only h1 has the tree and headers" only_head_has_the_tree || true
    check "$name: h1's worker could see neither" [ "$(hidden_ranks)" = 1 ] || true
    check "$name: every compile on a rank" python3 "$here/lib/stats.py" judge "$work/stats.json" \
        "$(objects_in "$work/tree")" "$work/clients.log" || true
    check "$name: nothing left behind" nothing_left_anywhere || kill_survivors
}

one_used_worker_each() {
    python3 -c 'import json, sys
ranks = json.load(open(sys.argv[1]))["ranks"]
print(ranks)
workers = sorted((rank["host"], rank["actions"] > 0) for rank in ranks if rank["rank"] > 0)
sys.exit(workers != [(f"h{n}", True) for n in range(1, int(sys.argv[2]) + 1)])' "$work/stats.json" "$hosts"
}

only_head_has_the_tree() {
    local n
    on_host 1 test -e "$work/tree" -a -e /usr/include/stdio.h || return
    for n in $(seq 2 "$hosts"); do
        if on_host "$n" test -e "$work/tree" -o -e /usr/include/stdio.h; then return 1; fi
    done
}

# No process of ours on any host, and nothing in its /dev/shm and TMPDIR.
nothing_left_anywhere() {
    local n status=0
    nothing_left || status=1
    for n in $(seq "$hosts"); do
        if on_host "$n" find /dev/shm "$work/tmp" -mindepth 1 -maxdepth 1 -name '*mpicc-proxy*' | grep .; then
            echo "(left on h$n)"
            status=1
        fi
    done
    return "$status"
}
