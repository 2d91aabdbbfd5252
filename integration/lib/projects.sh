# Sourced. THE table of real projects: where they come from, how they are prepared and built, what their logs look
# like. A project is added here and nowhere else.

. "$here/lib/sources.sh"

warnings='-Wall -Wextra -Wconversion -Wshadow' # loud on purpose: warnings are part of what must be identical

# select_project NAME: sets
#   package     Debian source package
#   configure   command run in the tree before the build, always without ranks (its probes are not TUs)
#   build       the build, one command run in the tree; every object comes with a .d file
#   block       REGEX of the lines that open a command's output in the log: one for every kind of command that may
#               run beside others, or its lines count to whichever command happened to come before
#   expected    least numbers of .o and .d files; a build that silently shrank must not pass
#   uncompared  GLOBs of files in which the build tool records times
select_project() {
    configure=(true)
    uncompared=()
    local cmake=(cmake -S . -B build -G Ninja -DCMAKE_EXPORT_COMPILE_COMMANDS=ON
        "-DCMAKE_C_FLAGS=$warnings" "-DCMAKE_CXX_FLAGS=$warnings" -DCMAKE_BUILD_TYPE=RelWithDebInfo)
    # keepdepfile: ninja otherwise swallows .d files into a database of its own.
    local ninja=(env 'NINJA_STATUS=' ninja -C build -j8 -d keepdepfile)
    # --output-sync keeps the diagnostics of a command together.
    local make=(make -j8 --output-sync=target --no-print-directory)
    case $1 in
        lua)
            package=lua5.4
            build=("${make[@]}" -C src "MYCFLAGS=-g -MMD $warnings" linux)
            block='^(gcc|ar) '
            expected=(34 34)
            ;;
        zstd)
            package=libzstd
            build=("${make[@]}" -C lib V=1 "CFLAGS=-g -O2 $warnings" libzstd.a)
            block='^(CC|AS|compiling) '
            expected=(33 32) # one TU is assembly, which this makefile gives no .d
            ;;
        zstd-cli)
            package=libzstd
            build=("${make[@]}" -C programs V=1 "CFLAGS=-g -O3 $warnings" zstd)
            block='^(CC|AS|==>|LINK) '
            expected=(43 42)
            ;;
        fmt)
            package=fmtlib
            configure=("${cmake[@]}" -DFMT_TEST=OFF -DFMT_DOC=OFF)
            build=("${ninja[@]}")
            expected=(2 2)
            ;;
        leveldb)
            package=leveldb
            configure=("${cmake[@]}" -DLEVELDB_BUILD_TESTS=OFF -DLEVELDB_BUILD_BENCHMARKS=OFF)
            build=("${ninja[@]}")
            expected=(39 39)
            ;;
        *) die "no project '$1'; there are: lua zstd zstd-cli fmt leveldb" ;;
    esac
    if [ "${configure[0]}" = cmake ]; then
        block='^(Building|Linking) '
        uncompared=(build/.ninja_log build/.ninja_deps 'build/CMakeFiles/CMake*.log' 'build/CMakeFiles/*/CompilerId*')
    fi
}

# prepare_tree DIR: a fresh, configured tree of the selected project.
prepare_tree() {
    rm -rf "$1"
    unpack_source "$package" "$1"
    (cd "$1" && "${configure[@]}") >"$work/configure.log" 2>&1 || {
        cat "$work/configure.log" >&2
        die "cannot configure $package"
    }
}

# build_plainly DIR LOG: the build without us, from a prepared tree.
build_plainly() { (cd "$1" && bounded 600 "${build[@]}") >"$2" 2>&1; }

objects_in() { find "$1" -name '*.o' ! -path '*/CMakeFiles/*/CompilerId*' | wc -l; }

# same_trees PLAIN PROXIED / same_logs PLAIN PROXIED, for the selected project.
same_trees() {
    local options=() glob
    for glob in "${uncompared[@]}"; do options+=(--except "$glob"); done
    python3 "$here/lib/compare.py" trees "$1" "$2" "${options[@]}" \
        --at-least ".o=${expected[0]}" --at-least ".d=${expected[1]}"
}

same_logs() { python3 "$here/lib/compare.py" logs "$1" "$2" --block "$block"; }
