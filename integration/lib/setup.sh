# Sourced. Installs what the build and the integration scripts need: exactly the Debian packages whose programs or
# files are missing, so that a prepared machine is never touched.

# What must be there (a program on PATH, or a pattern of files when it contains a slash), and the package that has it.
needed_tools() {
    cat <<'TABLE'
gcc                                              gcc
g++                                              g++
gfortran                                         gfortran
/usr/include/stdio.h                             libc6-dev
clang                                            clang
clang-14                                         clang-14
clang-19                                         clang-19
strace                                           strace
make                                             make
cmake                                            cmake
ninja                                            ninja-build
mpicc.openmpi                                    libopenmpi-dev
mpiexec.openmpi                                  openmpi-bin
mpicc.mpich                                      libmpich-dev
mpiexec.mpich                                    mpich
/usr/lib/*/libclang-*.so*|/usr/lib/llvm-*/lib/libclang*.so*    libclang1-LLVM
/usr/lib/llvm-*/lib/clang/*/include/stddef.h|/usr/lib/clang/*/include/stddef.h    libclang-common-LLVM-dev
ccache                                           ccache
clang                                            clang
chattr                                           e2fsprogs
setpriv                                          util-linux
flock                                            util-linux
valgrind                                         valgrind
dash                                             dash
tclsh                                            tcl
tmux                                             tmux
man                                              man-db
perl                                             perl
python3                                          python3
unshare                                          util-linux
chroot                                           coreutils
mount                                            mount
find                                             findutils
timeout                                          coreutils
dpkg-source                                      dpkg-dev
/etc/ssl/certs/ca-certificates.crt               ca-certificates
TABLE
}

needed_tools_of_slurm() {
    cat <<'TABLE'
munged                                           munge
slurmctld                                        slurmctld
slurmd                                           slurmd
srun                                             slurm-client
TABLE
}

# What a page of `report` is looked at with.
needed_tools_of_pages() {
    cat <<'TABLE'
chromium                                         chromium
TABLE
}

# What integration/tools builds with.
needed_tools_of_builds() {
    cat <<'TABLE'
cmake                                            cmake
ninja                                            ninja-build
autoconf                                         autoconf
automake                                         automake
libtoolize                                       libtool
meson                                            meson
scons                                            scons
column                                           bsdextrautils
/usr/bin/python3                                 python3
/usr/include/python3*/Python.h                   python3-dev
/usr/lib/python3/dist-packages/setuptools/*.py   python3-setuptools
/usr/lib/python3/dist-packages/wheel/*.py        python3-wheel
/usr/lib/python3/dist-packages/pip/*.py          python3-pip
/usr/bin/xsubpp                                  perl
/usr/lib/*/perl/*/CORE/perl.h                    perl
TABLE
}

tables_needed=(needed_tools needed_tools_of_builds) # integration/check --full needs more

is_there() {
    local pattern
    [[ $1 == */* ]] || { command -v "$1" >/dev/null && return; }
    while IFS= read -r pattern; do
        if compgen -G "$pattern" >/dev/null; then return 0; fi
    done < <(tr '|' '\n' <<<"$1" | grep /)
    return 1
}

missing_packages() {
    local what package table
    while read -r what package; do
        is_there "$what" || echo "$package"
    done < <(for table in "${tables_needed[@]}"; do "$table"; done)
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "these packages are missing, and neither root nor sudo is there to install them: $(missing_packages | name_llvm | tr '\n' ' ')"
    fi
}

# bindgen (below the mpi crate) takes any libclang; 14 is Debian 12's.
name_llvm() {
    local version=14
    if ! apt-cache show "libclang1-$version" >/dev/null 2>&1; then
        version=$(apt-cache search --names-only '^libclang1-[0-9]+$' | sed 's/^libclang1-\([0-9]*\) .*/\1/' | sort -n | tail -n 1)
    fi
    sed "s/LLVM/$version/"
}

install_packages() {
    local packages
    mapfile -t packages < <(printf '%s\n' "$@" | name_llvm)
    echo "installing ${packages[*]}" >&2
    # Debian starts a service when it is installed, unless this program forbids it. Here none is wanted: scripts start
    # their own.
    # shellcheck disable=SC2016 # for the inner shell
    as_root env DEBIAN_FRONTEND=noninteractive sh -ec 'policy=/usr/sbin/policy-rc.d
        if [ ! -e "$policy" ]; then
            trap "rm -f $policy" EXIT
            printf "#!/bin/sh\nexit 101\n" >"$policy"
            chmod +x "$policy"
        fi
        apt-get install -y -q --no-install-recommends "$@"' sh "${packages[@]}" >&2
}

setup_machine() {
    local missing
    mapfile -t missing < <(missing_packages)
    if [ ${#missing[@]} -gt 0 ]; then
        command -v apt-get >/dev/null || die "not a Debian machine; install yourself: ${missing[*]}"
        # The package lists may be absent (a container image) or too old for what the archive still holds.
        if ! apt-cache show "${missing[0]/LLVM/14}" >/dev/null 2>&1 || ! install_packages "${missing[@]}"; then
            as_root apt-get update -q >&2
            install_packages "${missing[@]}" || die "could not install ${missing[*]}"
        fi
        mapfile -t missing < <(missing_packages)
        [ ${#missing[@]} -eq 0 ] || die "still missing after the installation: ${missing[*]}"
    fi
    setup_rust
}

setup_rust() {
    command -v cargo >/dev/null || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    command -v cargo >/dev/null ||
        die "cargo not found: install Rust $(rust_version) or later with rustup (Debian 12's own is too old)"
    local component
    for component in fmt clippy; do
        cargo "$component" --version >/dev/null 2>&1 && continue
        command -v rustup >/dev/null || die "cargo $component is missing: install it beside cargo"
        rustup component add "${component/fmt/rustfmt}" >&2 || die "could not add cargo $component"
    done
}

rust_version() { sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml"; }
