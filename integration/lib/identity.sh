# Sourced. The central question, for one project: is the build through ranks that cannot see the tree the plain
# build, to the byte?

. "$here/lib/projects.sh"

workers=4

# proxied_build DIR: the selected project's build in the prepared tree DIR, in a fresh session whose workers cannot
# see DIR. The build's own output goes to $work/proxied.log; what is left of the session's is ours, in $work/session.log.
proxied_build() {
    rm -f "$work/hidden" "$work/clients.log" "$work/stats.json"
    (
        cd "$1" || exit
        # shellcheck disable=SC2016 # for the inner shell
        MPICC_PROXY_LOG=$work/clients.log bounded 600 \
            "$mpicc_proxy" run --workers "$workers" --slots 1 --wrap-worker "$(hiding "$1")" --stats "$work/stats.json" \
            -- sh -c 'log=$1; shift; exec "$@" >"$log" 2>&1' sh "$work/proxied.log" "${build[@]}"
    ) >"$work/session.log" 2>&1
}

# plain_reference PROJECT: selects it and leaves its plain build in $work/plain, log and exit status included. Built
# in the path in which the proxied build will be, since paths are part of objects.
plain_reference() {
    local status=0
    select_project "$1"
    prepare_tree "$work/tree"
    build_plainly "$work/tree" "$work/plain.log" || status=$?
    echo "exit status $status" >"$work/plain.status"
    rm -rf "$work/plain"
    mv "$work/tree" "$work/plain"
}

# same_build PROJECT STATUS: is $work/tree, built with exit status STATUS, what $work/plain is?
same_build() {
    echo "exit status $2" >"$work/proxied.status"
    check "$1: exit status" diff "$work/plain.status" "$work/proxied.status" || show_session
    check "$1: every file identical" same_trees "$work/plain" "$work/tree" || true
    check "$1: diagnostics identical" same_logs "$work/plain.log" "$work/proxied.log" || true
}

# verify_identity PROJECT: all checks; appends a row of figures to $work/table.
verify_identity() {
    local status=0
    plain_reference "$1"
    prepare_tree "$work/tree"
    MPICC_PROXY_FALLBACK=forbid proxied_build "$work/tree" || status=$?
    same_build "$1" "$status"
    check "$1: $workers workers could not see the tree" [ "$(hidden_ranks)" = "$workers" ] || true
    check "$1: every compile on a rank" python3 "$here/lib/stats.py" judge "$work/stats.json" \
        "$(objects_in "$work/tree")" "$work/clients.log" || true
    check "$1: one line of ours, the summary" [ "$(wc -l <"$work/session.log")" = 1 ] || indent <"$work/session.log"
    check "$1: nothing left behind" nothing_left || true
    [ ! -f "$work/stats.json" ] ||
        printf '%s\t%s\n' "$1" "$(python3 "$here/lib/stats.py" row "$work/stats.json")" >>"$work/table"
}

show_session() {
    tail -n 15 "$work/proxied.log" "$work/session.log" | indent
}

print_table() {
    [ -f "$work/table" ] || return 0
    { printf 'project\t%s\n' "$(python3 "$here/lib/stats.py" headings)"; cat "$work/table"; } |
        awk -F '\t' '{ printf "%-10s", $1; for (i = 2; i <= NF; i++) printf " %11s", $i; print "" }'
}
