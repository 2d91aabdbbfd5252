# Sourced. A real Spack, at $SPACK_ROOT: with a configuration, caches, an install tree and three packages of its own, all
# in $work, so that the user's are neither read nor touched. No code of Spack's is here.
#
# SPACK_PYTHON is the Python that runs it (it must have clingo: nothing is bootstrapped), SPACK_PACKAGES the folder of
# Spack's package repository (else Spack fetches it), SPACK_MIRROR a mirror's folder for what is no package of ours
# (Spack's compiler wrapper; else Spack fetches it).

spack_packages=(cmk cxxcm atool)

# The sources a package compiles: 6 of C, 5 of C++, 3 of C.
spack_sources=14

# open_spack: everything a Spack needs, once for the script.
open_spack() {
    local tool
    for tool in autoreconf automake cmake; do
        command -v "$tool" >/dev/null || die "no $tool: a package for Spack cannot be made"
    done
    spack_environment=(-u SPACK_ENV -u SPACK_LD_LIBRARY_PATH SPACK_DISABLE_LOCAL_CONFIG=1 "TMPDIR=$work/tmp"
        "SPACK_USER_CONFIG_PATH=$work/user" "SPACK_USER_CACHE_PATH=$work/cache")
    mkdir -p "$work"/{scope,stage,store,tarballs} "$work/repo/spack_repo/ours/packages"
    write_scope
    write_packages
}

version_number() { version_of "$1" | grep -o '[0-9]\+\(\.[0-9]\+\)\+' | sed -n 1p; }

# Nothing is compiled that is there already: the compilers and tools of the machine are Spack's "externals".
write_scope() {
    local gcc_version
    gcc_version=$(gcc -dumpfullversion)
    cat >"$work/scope/config.yaml" <<YAML
config:
  install_tree:
    root: $work/store
  build_stage: [$work/stage]
  source_cache: $work/source-cache
  misc_cache: $work/misc-cache
  extensions: [${spack_extension:-}]
YAML
    printf '%s\n' 'bootstrap:' '  enable: false' >"$work/scope/bootstrap.yaml"
    printf '%s\n' 'concretizer:' '  reuse: false' >"$work/scope/concretizer.yaml"
    [ -z "${SPACK_MIRROR:-}" ] || printf '%s\n' 'mirrors:' "  ours: file://$SPACK_MIRROR" >"$work/scope/mirrors.yaml"
    {
        printf '%s\n' 'repos:' "  ours: $work/repo/spack_repo/ours"
        [ -z "${SPACK_PACKAGES:-}" ] || echo "  builtin: $SPACK_PACKAGES"
    } >"$work/scope/repos.yaml"
    cat >"$work/scope/packages.yaml" <<YAML
packages:
  gcc:
    buildable: false
    externals:
    - spec: gcc@$gcc_version languages='c,c++'
      prefix: /usr
      extra_attributes:
        compilers: {c: $(command -v gcc), cxx: $(command -v g++)}
  gmake:
    buildable: false
    externals:
    - {spec: gmake@$(version_number make), prefix: /usr}
  cmake:
    buildable: false
    externals:
    - {spec: cmake@$(version_number cmake), prefix: /usr}
YAML
}

# pack NAME: $work/sources/NAME becomes its tarball, the same whenever it is made.
pack() {
    (cd "$work/sources" && tar --sort=name --mtime=@1700000000 --owner=0 --group=0 --numeric-owner --mode=go-w,u+w \
        -cf - "$1-1.0" | gzip -n >"$work/tarballs/$1-1.0.tar.gz")
}

# describe NAME: its package.py; the class's name, its base and the rest come from stdin.
describe() {
    local folder=$work/repo/spack_repo/ours/packages/$1 sum
    mkdir -p "$folder"
    sum=$(sha256sum <"$work/tarballs/$1-1.0.tar.gz")
    sed -e "s|@URL@|file://$work/tarballs/$1-1.0.tar.gz|" -e "s|@SUM@|${sum%% *}|" >"$folder/package.py"
}

# Objects are installed as well, with debug information, so that the prefix tells of every compile.
write_packages() {
    local folder n
    printf '%s\n' 'repo:' '  namespace: ours' '  api: v2.0' >"$work/repo/spack_repo/ours/repo.yaml"

    # A Makefile of C, with dependency files.
    folder=$work/sources/cmk-1.0
    mkdir -p "$folder"
    echo '#define CMK_SIX 6
#ifdef __cplusplus
extern "C" {
#endif
int cmk1(int), cmk2(int), cmk3(int), cmk4(int), cmk5(int), cmk6(int);
#ifdef __cplusplus
}
#endif' >"$folder/cmk.h"
    for n in 1 2 3 4 5 6; do
        printf '%s\n' '#include "cmk.h"' '#include <stdio.h>' '#include <string.h>' \
            "int cmk$n(int x) { char s[32]; snprintf(s, sizeof s, \"%d\", x); return (int)strlen(s) * CMK_SIX + $n; }" \
            >"$folder/cmk$n.c"
    done
    cat >"$folder/Makefile" <<'MAKE'
objects := $(patsubst %,cmk%.o,1 2 3 4 5 6)
all: libcmk.so libcmk.a
libcmk.so: $(objects)
	$(CC) -shared -o $@ $^
libcmk.a: $(objects)
	ar crD $@ $^
%.o: %.c
	$(CC) -O2 -g -fPIC -Wall -MMD -MF $*.d -c $< -o $@
install: all
	mkdir -p $(PREFIX)/lib $(PREFIX)/include $(PREFIX)/share/cmk
	cp libcmk.so libcmk.a $(PREFIX)/lib
	cp cmk.h $(PREFIX)/include
	cp *.o *.d $(PREFIX)/share/cmk
MAKE
    pack cmk
    describe cmk <<'PYTHON'
from spack_repo.builtin.build_systems.makefile import MakefilePackage
from spack.package import *


class Cmk(MakefilePackage):
    """C, a Makefile."""

    url = "@URL@"
    version("1.0", sha256="@SUM@")
    depends_on("c", type="build")

    def install(self, spec, prefix):
        make("install", f"PREFIX={prefix}")
PYTHON

    # C++, CMake, with a library of the first.
    folder=$work/sources/cxxcm-1.0
    mkdir -p "$folder"
    for n in 1 2 3 4; do
        printf '%s\n' '#include <cmk.h>' '#include <string>' '#include <vector>' \
            "int cxx$n(int x) { std::vector<std::string> v(x, \"x\"); return cmk$n(int(v.size())); }" >"$folder/cxx$n.cpp"
    done
    printf '%s\n' '#include <iostream>' 'int cxx1(int), cxx2(int), cxx3(int), cxx4(int);' \
        'int main() { std::cout << cxx1(1) + cxx2(2) + cxx3(3) + cxx4(4) << std::endl; }' >"$folder/main.cpp"
    cat >"$folder/CMakeLists.txt" <<'CMAKE'
cmake_minimum_required(VERSION 3.16)
project(cxxcm CXX)
include(CheckIncludeFileCXX)
include(CheckCXXSourceCompiles)
check_include_file_cxx(cmk.h HAVE_CMK_H)
check_cxx_source_compiles("int main() { return __builtin_popcount(3); }" HAVE_POPCOUNT)
find_library(CMK cmk REQUIRED)
add_library(parts OBJECT cxx1.cpp cxx2.cpp cxx3.cpp cxx4.cpp main.cpp)
target_compile_options(parts PRIVATE -g)
add_executable(cxxcm $<TARGET_OBJECTS:parts>)
target_link_libraries(cxxcm PRIVATE ${CMK})
install(TARGETS cxxcm DESTINATION bin)
install(TARGETS parts OBJECTS DESTINATION share/cxxcm)
CMAKE
    pack cxxcm
    describe cxxcm <<'PYTHON'
from spack_repo.builtin.build_systems.cmake import CMakePackage
from spack.package import *


class Cxxcm(CMakePackage):
    """C++, CMake."""

    url = "@URL@"
    version("1.0", sha256="@SUM@")
    depends_on("cxx", type="build")
    depends_on("cmk")
PYTHON

    # C, autoconf and automake. As in a release, configure is in the tarball.
    folder=$work/sources/atool-1.0
    mkdir -p "$folder"
    printf '%s\n' 'AC_INIT([atool], [1.0])' 'AM_INIT_AUTOMAKE([foreign])' 'AC_PROG_CC' 'AC_CHECK_HEADERS([cmk.h unistd.h])' \
        'AC_CHECK_LIB([cmk], [cmk1], [], [AC_MSG_ERROR([no cmk])])' 'AC_CHECK_SIZEOF([long])' \
        'AC_CONFIG_HEADERS([config.h])' 'AC_CONFIG_FILES([Makefile])' 'AC_OUTPUT' >"$folder/configure.ac"
    printf '%s\n' 'bin_PROGRAMS = atool' 'atool_SOURCES = atool.c one.c two.c' 'AM_CFLAGS = -g -O2' \
        'pkgdatadir = $(datadir)/atool' 'pkgdata_DATA = $(atool_OBJECTS)' >"$folder/Makefile.am"
    printf '%s\n' '#include "config.h"' '#include <stdio.h>' 'int one(void), two(void);' \
        'int main(void) { printf("%d %d\n", one() + two(), (int)SIZEOF_LONG); return 0; }' >"$folder/atool.c"
    printf '%s\n' '#include "config.h"' '#include <cmk.h>' 'int one(void) { return cmk1(1); }' >"$folder/one.c"
    printf '%s\n' '#include "config.h"' '#include <cmk.h>' 'int two(void) { return cmk2(2); }' >"$folder/two.c"
    (cd "$folder" && autoreconf -i) >"$work/autoreconf.log" 2>&1 || die "autoreconf: $(tail -n 5 "$work/autoreconf.log")"
    rm -rf "$folder/autom4te.cache"
    pack atool
    describe atool <<'PYTHON'
from spack_repo.builtin.build_systems.autotools import AutotoolsPackage
from spack.package import *


class Atool(AutotoolsPackage):
    """C, autoconf and automake."""

    url = "@URL@"
    version("1.0", sha256="@SUM@")
    depends_on("c", type="build")
    depends_on("cmk")
PYTHON
    # As many compiles as there are, of a second each ($work/slow, of lib/parallel.sh), and as many local jobs.
    folder=$work/sources/wide-1.0
    mkdir -p "$folder"
    for n in $(seq 24); do echo "int wide$n;" >"$folder/$n.c"; done
    printf '%s\n' "all: $(for n in $(seq 24); do echo -n "$n.o $n.done "; done)" 'install: all' "%.o: %.c" \
        "	\$(CC) -B$work/slow/ -c \$< -o \$@" '%.done:' "	@$work/step 0.1 && touch \$@" \
        'install:' '	mkdir -p $(PREFIX)/share && cp *.o $(PREFIX)/share' >"$folder/Makefile"
    pack wide
    describe wide <<'PYTHON'
from spack_repo.builtin.build_systems.makefile import MakefilePackage
from spack.package import *


class Wide(MakefilePackage):
    """Compiles that take their time."""

    url = "@URL@"
    version("1.0", sha256="@SUM@")
    depends_on("c", type="build")

    def install(self, spec, prefix):
        make("install", f"PREFIX={prefix}")
PYTHON
}
