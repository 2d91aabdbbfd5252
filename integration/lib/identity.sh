# Sourced. The central question, for one project: is the build through ranks that cannot see the tree the plain
# build, to the byte?

. "$here/lib/projects.sh"

workers=4

# What no worker can see beside the tree: every header of the system and of the compilers. The workers need nothing of
# it: their own copies must not decide anything.
hidden_headers() {
    local folder
    for folder in /usr/include /usr/local/include /usr/lib/gcc/*/*/{include,include-fixed,finclude} \
        /usr/lib/llvm-*/include /usr/lib/llvm-*/lib/clang/*/include; do
        [ ! -d "$folder" ] || printf ':%s' "$folder"
    done
}

# proxied_build DIR: the selected project's build in the prepared tree DIR, in a fresh session whose workers can see
# neither DIR nor any header. The build's own output goes to $work/proxied.log; what is left of the session's is ours,
# in $work/session.log.
proxied_build() {
    rm -f "$work/hidden" "$work/clients.log" "$work/stats.json"
    (
        cd "$1" || exit
        # shellcheck disable=SC2016 # for the inner shell
        MPICC_PROXY_LOG=$work/clients.log bounded "$build_seconds_max" \
            "$mpicc_proxy" run --workers "$workers" --slots 1 --wrap-worker "$(hiding "$1$(hidden_headers)")" \
            --stats "$work/stats.json" \
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

# verify_identity PROJECT[:COMPILER]: all checks; appends a row of figures to $work/table.
verify_identity() {
    local status=0 name
    plain_reference "$1"
    name="$project $compiler"
    prepare_tree "$work/tree"
    MPICC_PROXY_FALLBACK=forbid proxied_build "$work/tree" || status=$?
    same_build "$name" "$status"
    check "$name: $workers workers could see neither the tree nor a header" [ "$(hidden_ranks)" = "$workers" ] || true
    check "$name: every compile on a rank" python3 "$here/lib/stats.py" judge "$work/stats.json" \
        "$(objects_in "$work/tree")" "$work/clients.log" || true
    check "$name: one line of ours, the summary" [ "$(wc -l <"$work/session.log")" = 1 ] || indent <"$work/session.log"
    check "$name: nothing left behind" nothing_left || true
    [ ! -f "$work/stats.json" ] ||
        printf '%s\t%s\t%s\n' "$project" "$compiler" "$(python3 "$here/lib/stats.py" row "$work/stats.json")" \
            >>"$work/table"
}

show_session() {
    tail -n 15 "$work/proxied.log" "$work/session.log" | indent
}

print_table() {
    [ -f "$work/table" ] || return 0
    { printf 'project\tcompiler\t%s\n' "$(python3 "$here/lib/stats.py" headings)"; cat "$work/table"; } |
        awk -F '\t' '
            { printf "%-9s %-8s", $1, $2; for (i = 3; i < NF; i++) printf " %10s", $i; print "  " $NF }
            NR > 1 { tus += $3; projects[$1] = 1 }
            END { for (p in projects) n++; printf "%d TUs over %d projects\n", tus, n }'
}
