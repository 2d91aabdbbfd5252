# Sourced. THE table of real projects: where they come from, how they are prepared and built, what their logs look
# like. A project is added here and nowhere else. Build systems are upstream's own, unedited: whatever is chosen is
# chosen on a command line.

. "$here/lib/sources.sh"

jobs=4                 # of every build
build_seconds_max=1800 # of one build: openssl's takes some 200 on two free cores, but a machine has other users

# Some projects record the time of the build unless they are told one.
export SOURCE_DATE_EPOCH=1700000000
# Some put ccache before the compiler where they find it, and the second of two builds would compile nothing.
export CCACHE_DISABLE=1

# THE table. A row: project | Debian source package | compilers that --all uses | least number of TUs | least number
# of .d files | build system | configuration | build. A build that silently shrank must not pass.
#   make     configuration is a command run in the tree, build holds make's options and goals
#   cmake    configuration holds cmake's options, build holds ninja's options and goals
# The last two are shell words and see $cc, $cxx and $warnings. What a configuration starts is no TU: it always runs
# without ranks; makefiles' questions to the compiler are no TUs either, but run on ranks. (re2 is missing because
# Debian's tarball lacks sources that are generated from downloads.)
projects_table() {
    cat <<'TABLE'
lua      | lua5.4   | gcc clang | 34    | 34   | make  | true | -C src "CC=$cc -std=gnu99" "MYCFLAGS=-g -MMD $warnings" linux
zlib     | zlib     | gcc clang | 19    | 0    | make  | env CC=$cc "CFLAGS=-g -O2 $warnings" ./configure --static | all
zstd     | libzstd  | gcc clang | 33    | 32   | make  | true | -C lib V=1 CC=$cc "CFLAGS=-g -O2 $warnings" libzstd.a
zstd-cli | libzstd  | gcc       | 43    | 42   | make  | true | -C programs V=1 CC=$cc "CFLAGS=-g -O3 $warnings" zstd
sqlite   | sqlite3  | gcc clang | 102   | 90   | make  | env CC=$cc "CFLAGS=-g -MMD" ./configure --disable-amalgamation --disable-tcl --disable-shared --disable-readline | libsqlite3.la
redis    | redis    | gcc clang | 140   | 90   | make  | true | V=1 CC=$cc MALLOC=libc OPTIMIZATION=-O0 all
curl     | curl     | gcc clang | 207   | 0    | make  | env CC=$cc "CFLAGS=-g $warnings" ./configure --without-ssl --disable-shared --without-libpsl --without-zstd --without-brotli | V=1
openssl  | openssl  | gcc clang | 1056  | 1024 | make  | env CC=$cc ./Configure --debug linux-x86_64 no-shared no-tests | build_sw
fmt      | fmtlib   | gcc clang | 2     | 2    | cmake | -DFMT_TEST=OFF -DFMT_DOC=OFF |
leveldb  | leveldb  | gcc clang | 39    | 39   | cmake | -DLEVELDB_BUILD_TESTS=OFF -DLEVELDB_BUILD_BENCHMARKS=OFF -DHAVE_CLANG_THREAD_SAFETY=OFF |
yaml-cpp | yaml-cpp | gcc clang | 34    | 34   | cmake | -DYAML_CPP_BUILD_TESTS=OFF -DYAML_CPP_BUILD_TOOLS=ON -DCMAKE_BUILD_TYPE=Debug |
abseil   | abseil   | gcc       | 120   | 120  | cmake | -DABSL_PROPAGATE_CXX_STD=ON -DCMAKE_CXX_STANDARD=17 -DCMAKE_BUILD_TYPE=Debug |
protobuf | protobuf | gcc       | 116   | 116  | cmake | -Dprotobuf_BUILD_TESTS=OFF -Dprotobuf_BUILD_PROTOC_BINARIES=OFF -DCMAKE_BUILD_TYPE=Debug |
rocksdb  | rocksdb  | gcc       | 18    | 18   | cmake | -DPORTABLE=ON -DWITH_TESTS=OFF -DWITH_GFLAGS=OFF -DWITH_TOOLS=OFF -DWITH_BENCHMARK_TOOLS=OFF -DFAIL_ON_WARNINGS=OFF -DCMAKE_BUILD_TYPE=Debug | CMakeFiles/rocksdb.dir/{memtable/{alloc_tracker,hash_linklist_rep,skiplistrep,vectorrep,write_buffer_manager},util/{cleanable,coding,comparator,compression_context_cache,crc32c,dynamic_bloom,hash,random,rate_limiter,ribbon_config,slice,status,string_util}}.cc.o
lapack   | lapack   | gcc       | 493   | 0    | make  | cp make.inc.example make.inc | -C SRC "FFLAGS=-g -frecursive -Wall" single
TABLE
}

warnings='-Wall -Wextra -Wconversion -Wshadow' # loud on purpose: warnings are part of what must be identical

project_names() { projects_table | sed 's/ *|.*//'; }

# Every PROJECT:COMPILER of the table.
all_builds() {
    projects_table | awk -F ' *[|] *' '{ n = split($3, names, " "); for (i = 1; i <= n; i++) print $1 ":" names[i] }'
}

# select_project NAME[:COMPILER]: sets
#   project, package, and compiler: gcc unless asked otherwise
#   configure   command run in the tree before the build
#   build       the build, one command run in the tree
#   expected    least numbers of .o and .d files
#   block       REGEX of the lines that open a target's output in the log
#   uncompared  GLOBs of files in which the build tool records times
select_project() {
    local cc cxx system objects depfiles configuration goals
    compiler=gcc
    [[ $1 != *:* ]] || compiler=${1#*:}
    case $compiler in
        gcc) cc=gcc cxx=g++ ;;
        clang) cc=clang cxx=clang++ ;;
        *) die "no compiler '$compiler'; there are: gcc clang" ;;
    esac
    # The separator becomes one that is not white space: white space around fields is trimmed, empty fields are kept.
    IFS=$'\x1f' read -r project package _ objects depfiles system configuration goals < <(
        projects_table | grep "^${1%%:*} *|" | sed 's/ *| */\x1f/g; s/ *$//'
    ) || die "no project '${1%%:*}'; there are: $(project_names | xargs)"
    expected=("$objects" "$depfiles")
    eval "configure=($configuration)"
    eval "build=($goals)"
    case $system in
        make)
            # --output-sync keeps what a target's commands print together. It begins with a command: with anything
            # that is not the inside of a diagnostic. (A line too many that opens a block does no harm, both logs are
            # cut alike; a line too few does.)
            build=(make "-j$jobs" --output-sync=target --no-print-directory "${build[@]}")
            block='^(?![\s]|In file included from|[^ ]+: (In|At|Assembler) |[^ ]+:[0-9]+:|(cc1|f951)[^ ]*: |[0-9]+ (warning|error))|^ +[A-Z]+ '
            uncompared=()
            ;;
        cmake)
            configure=(cmake -S . -B build -G Ninja -DCMAKE_EXPORT_COMPILE_COMMANDS=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo
                "-DCMAKE_C_COMPILER=$cc" "-DCMAKE_CXX_COMPILER=$cxx"
                "-DCMAKE_C_FLAGS=$warnings" "-DCMAKE_CXX_FLAGS=$warnings" "${configure[@]}")
            # keepdepfile: ninja otherwise swallows .d files into a database of its own.
            build=(env 'NINJA_STATUS=> ' ninja -C build "-j$jobs" -d keepdepfile "${build[@]}")
            block='^> '
            uncompared=(build/.ninja_log build/.ninja_deps)
            ;;
    esac
}

# prepare_tree DIR: a fresh, configured tree of the selected project. It is configured once, in DIR, and copied
# afterwards: the logs of two configurations differ in the names of temporary files.
prepare_tree() {
    local kept=$work/prepared name="$project:$compiler in $1"
    rm -rf "$1"
    if [ "$(cat "$work/prepared.name" 2>/dev/null)" != "$name" ]; then
        rm -rf "$kept" "$work/prepared.name"
        unpack_source "$package" "$1"
        (cd "$1" && "${configure[@]}") >"$work/configure.log" 2>&1 || {
            cat "$work/configure.log" >&2
            die "cannot configure $package"
        }
        cp -a "$1" "$kept"
        echo "$name" >"$work/prepared.name"
    else
        cp -a "$kept" "$1"
    fi
}

# build_plainly DIR LOG: the build without us, from a prepared tree.
build_plainly() { (cd "$1" && bounded "$build_seconds_max" "${build[@]}") >"$2" 2>&1; }

objects_in() { find "$1" -name '*.o' ! -path '*/CMakeFiles/*/CompilerId*' | wc -l; }

# same_trees PLAIN PROXIED / same_logs PLAIN PROXIED, for the selected project.
same_trees() {
    local options=() glob
    for glob in "${uncompared[@]}"; do options+=(--except "$glob"); done
    python3 "$here/lib/compare.py" trees "$1" "$2" "${options[@]}" \
        --at-least ".o=${expected[0]}" --at-least ".d=${expected[1]}"
}

same_logs() { python3 "$here/lib/compare.py" logs "$1" "$2" --block "$block"; }
