# Sourced by integration/spack: what is checked with the Spack of lib/spack.sh.

MPICC_PROXY_BIN=$programs "$here/install" "$work/prefix" >/dev/null
spack_extension=$work/prefix/share/spack-mpicc-proxy
open_tree    # for the package whose compiles take their time
deadline=600 # Spack takes a minute or more to find out what there is to build
open_spack
every_source='(cmk[1-6]|atool|one|two)[.]c( |$)|(cxx[1-4]|main)[.]cpp( |$)'
wanted=(cxxcm atool)
spack_command=(env "${spack_environment[@]}" "$SPACK_ROOT/bin/spack" -C "$work/scope")

# configure NAME VALUE: in Spack's config section.
configure() { sed -i "/^  $1:/d; s|^config:|&\n  $1: $2|" "$work/scope/config.yaml"; }
hashes() { "${spack_command[@]}" find --format '{name}/{hash}' | sort; }
uninstall() { "${spack_command[@]}" uninstall --all --yes-to-all "$@" >"$work/uninstall.log" 2>&1; }
installed() { "${spack_command[@]}" install "$@" >"$work/said" 2>&1; }

# Spack says so when one is missing at the end.
no_word_of_tokens() { ! grep -i 'token' "$work/said"; }

# same_spack NAME: is what a session has installed what $work/plain and $work/plain.hashes are? Then it is uninstalled.
same_spack() {
    hashes >"$work/hashes"
    check "$1: the same hashes" diff "$work/plain.hashes" "$work/hashes" || tail -n 20 "$work/said" | indent
    # Beside a package's files, .spack has logs, times and the environment.
    check "$1: every installed file identical, objects among them" same trees "$work/plain" "$work/store" \
        --except '.spack-db*' --except '*/.spack' --except '*/.spack/*' --at-least .o=$spack_sources --at-least .d=6 || true
    check "$1: every source on a rank" compiled_remotely "$every_source" "$spack_sources" || true
    check "$1: no wrapper was taken for a compiler" no_wrapper "$work/store" || true
    check "$1: no token is missing" no_word_of_tokens || true
    check "$1: $workers workers could see neither sources nor a header" [ "$(hidden_ranks)" = "$workers" ] || true
    echo "        $(grep -c '^remote' "$work/clients.log") remote, $(grep -c '^local' "$work/clients.log") local:" \
        "$(grep '^local' "$work/clients.log" | cut -f 2 | sort | uniq -c | tr -s ' \n' ' ')"
    uninstall --dependents "${spack_packages[@]}"
}

# fills NAME COMMAND...: does an installation with two jobs fill the slots?
fills() {
    local name=$1
    shift
    measure env MPICC_PROXY_FALLBACK=forbid "$@"
    check "$name: status 0, it was $status after $seconds s" [ "$status" = 0 ] || tail -n 20 "$work/said" | indent
    check "$name: at most 2 local jobs at once, there were $locals" [ "$locals" -le 2 ] || true
    check "$name: no token is missing" no_word_of_tokens || true
    are_filled "$name"
    uninstall wide || true
}

# The first two that this script may use: so many jobs is what the command then says.
two_cpus=$(python3 -c 'import os; print(*sorted(os.sched_getaffinity(0))[:2], sep=",")')
hidden=$work/stage:$work/store
hide_it=$(hiding "$hidden$(hidden_headers)")
for installer in new old; do
    name="spack, $installer installer"
    configure installer "$installer"
    configure ccache false
    check "$name: a plain install" installed -j2 "${wanted[@]}" || { tail -n 20 "$work/said" | indent; continue; }
    hashes >"$work/plain.hashes"
    rm -rf "$work/plain" && cp -a "$work/store" "$work/plain"
    uninstall --dependents "${spack_packages[@]}"

    in_session "${spack_command[@]}" install -j2 "${wanted[@]}" >"$work/said" 2>&1 || fail "$name: run: status $?"
    same_spack "$name"

    # The command that we add, which finds no session and starts one.
    rm -f "$work/hidden" "$work/clients.log" "$work/stats.json"
    MPICC_PROXY_FALLBACK=forbid MPICC_PROXY_LOG=$work/clients.log MPICC_PROXY_SOCKET='' XDG_RUNTIME_DIR=$work/tmp \
        bounded 900 "${spack_command[@]}" mpicc-proxy --run-options \
        "--workers $workers --slots 1 --stats $work/stats.json --wrap-worker '$hide_it'" \
        install --no-cache "${wanted[@]}" >"$work/said" 2>&1 || fail "$name: spack mpicc-proxy install: status $?"
    same_spack "$name, spack mpicc-proxy install"

    begin
    fills "$name, filling, -j2" "${proxied[@]}" "${spack_command[@]}" install -j2 wide
    # Without the library, in a session of which the environment tells.
    fills "$name, filling, spack mpicc-proxy install" taskset -c "$two_cpus" env "MPICC_PROXY_SOCKET=$(cat "$work/socket")" \
        "${spack_command[@]}" mpicc-proxy install wide
    check "$name: spack mpicc-proxy status" sh -c '"$@" | grep -w tokens' sh "${proxied[@]}" "${spack_command[@]}" mpicc-proxy status || true
    end
done

# Without the library, by Spack's setting for ccache.
name="spack, config:ccache"
configure installer new
configure ccache true
slots=4
rm -f "$work/hidden" "$work/clients.log"
begin --wrap-worker "$hide_it"
env "PATH=$work/front:$PATH" "MPICC_PROXY_SOCKET=$(cat "$work/socket")" "MPICC_PROXY_LOG=$work/clients.log" \
    MPICC_PROXY_FALLBACK=forbid "${spack_command[@]}" install -j2 "${wanted[@]}" >"$work/said" 2>&1 ||
    fail "$name: status $?"
end
mv "$work/stats" "$work/stats.json"
workers=1 same_spack "$name"
check "nothing left behind" nothing_left || true
