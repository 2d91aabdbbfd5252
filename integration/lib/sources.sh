# Sourced. Real projects to compile: Debian source packages, from the archive this machine already uses. The
# machine's own apt set-up is only read; lists and downloads live in a cache of ours.

sources=${MPICC_PROXY_SOURCES:-${XDG_CACHE_HOME:-$HOME/.cache}/mpicc-proxy-integration}

# apt-get with private state. The machine's configuration holds (a proxy, say) except for hooks, which would act on
# the machine's caches. APT_CONFIG is read before everything else and may say that nothing else is read.
private_apt() {
    local state=$sources/apt
    mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
    touch "$state/status"
    {
        apt-config dump | grep -v -e 'Post-Invoke' -e 'Pre-Invoke' -e '^Dir::Etc::\(main\|parts\) '
        cat <<CONF
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::State::lists "$state/lists";
Dir::State::status "$state/status";
Dir::Cache "$state/cache";
APT::Sandbox::User "$(id -un)";
CONF
    } >"$state/apt.conf"
    APT_CONFIG=$state/apt.conf apt-get -q -o APT::Get::List-Cleanup=false "$@"
}

# "URI suite" of each configured entry of the Debian main archive. apt itself tells them apart, in whatever format
# they are written, by the origin that their (signed) release files state.
debian_archives() {
    # shellcheck disable=SC2016 # apt expands these
    "$@" indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' \
        'Component: main' | sort -u
}

# write_sources_list [SUITE]: the machine's suites, or this one instead.
write_sources_list() {
    local keyring=/usr/share/keyrings/debian-archive-keyring.gpg option='' archives uri suite
    mkdir -p "$sources/apt"
    archives=$(debian_archives apt-get)
    if [ -z "$archives" ]; then
        # No package lists yet; origins are known only after an update, which need not be the machine's.
        private_apt update >&2
        archives=$(debian_archives private_apt)
    fi
    [ -n "$archives" ] || die "no Debian archive among the sources of apt (see: apt-get indextargets)"
    [ ! -f "$keyring" ] || option="[signed-by=$keyring] "
    while read -r uri suite; do
        echo "deb-src $option$uri ${1:-$suite} main"
    done <<<"$archives" | sort -u >"$sources/apt/sources.list"
}

# fetch_source PACKAGE [SUITE]: downloads it unless the cache has it; prints the path of its .dsc.
fetch_source() {
    local package=$1 folder=$sources/$1${2:+-$2} part lock
    # Scripts run side by side, and apt waits for nobody.
    exec {lock}>"$sources/lock"
    flock "$lock"
    if ! compgen -G "$folder/*.dsc" >/dev/null; then
        echo "fetching the source package $package" >&2
        write_sources_list "${2:-}"
        local own=(-o "Dir::Etc::SourceList=$sources/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null)
        part=$(mktemp -d "$sources/.$package.XXXXXX")
        if ! (cd "$part" && private_apt "${own[@]}" update && private_apt "${own[@]}" source --download-only "$package") \
            >"$sources/apt/log" 2>&1; then
            rm -rf "$part"
            cat "$sources/apt/log" >&2
            die "cannot fetch the source package $package"
        fi
        rm -rf "$folder" && mv "$part" "$folder" # complete or absent, also after an interruption
    fi
    exec {lock}>&-
    echo "$folder"/*.dsc
}

# unpack_source PACKAGE DIR [SUITE]: upstream's tree, without Debian's patches (lua's would bring in libtool, for one).
unpack_source() {
    local dsc
    mkdir -p "$sources"
    dsc=$(fetch_source "$1" "${3:-}") || return
    dpkg-source --no-check --no-copy --skip-patches -x "$dsc" "$2" >/dev/null
}

# build_once NAME PACKAGE SUITE PROGRAM SCRIPT: $sources/NAME, unless it is there the PROGRAM that a shell's SCRIPT builds in
# the package's tree; prints its path.
build_once() {
    local built=$sources/$1 package=$2 suite=$3 program=$4 script=$5 tree
    if [ ! -x "$built" ]; then
        mkdir -p "${built%/*}"
        tree=$(mktemp -d "$sources/.$package.XXXXXX")
        unpack_source "$package" "$tree/tree" "$suite" || return
        if ! (cd "$tree/tree" && sh -ec "$script") >"$tree/log" 2>&1 </dev/null; then
            tail -n 20 "$tree/log" >&2
            die "cannot build $package of $suite"
        fi
        cp "$tree/tree/$program" "$built.$BASHPID" && mv "$built.$BASHPID" "$built"
        rm -rf "$tree"
    fi
    echo "$built"
}

# newer_make: GNU make 4.4, whose jobserver is a FIFO, from Debian 13. Its documentation is not free for Debian, and missing.
# The other directories are all that make(1) needs.
newer_make() {
    build_once make-4.4 make-dfsg trixie make '
        mkdir -p doc && touch doc/Makefile.in
        ./configure --disable-nls --disable-dependency-tracking --without-guile
        make -j2 -C lib && make -j2 make'
}

# newer_ninja: a ninja that is a client of make's jobserver (1.13 and later), from Debian 14, in a folder of its own: by
# another name it would not be a ninja. Built in upstream's own way without a ninja, one g++ after the other; it would run
# re2c only to make anew what is there.
newer_ninja() {
    build_once ninja-newer/ninja ninja-build forky ninja 'CXX=g++ python3 -B configure.py --bootstrap'
}

# version_of PROGRAM: the first line of what it says. Read to the end: whoever closes the pipe early may kill the program.
version_of() { "$1" --version | sed -n 1p; }
