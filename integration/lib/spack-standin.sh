# Sourced. Two packages for lib/spack_standin.py, and the compiler wrapper that stands in for Spack's.

standin_sources=12

# open_standin TREE: the packages TREE/c and TREE/cxx, and wrappers in $work/wrapper.
open_standin() {
    local n name
    mkdir -p "$work/wrapper" "$1/c" "$1/cxx"
    for name in gcc g++; do
        # As Spack's: needs variables of the build, adds options that must not change on the way, ends as the compiler.
        cat >"$work/wrapper/$name" <<SH
#!/bin/sh -f
[ -n "\$SPACK_SHORT_SPEC" ] || { echo "$name: no SPACK_SHORT_SPEC" >&2; exit 1; }
exec \$SPACK_CCACHE_BINARY $(command -v "$name") -march=x86-64-v2 "-frandom-seed=\$SPACK_SHORT_SPEC \$*" "\$@"
SH
        chmod +x "$work/wrapper/$name"
    done
    for n in $(seq 8); do
        printf '%s\n' '#include "config.h"' '#include <stdio.h>' \
            "int f$n(int x) { return printf(\"%d %s\\n\", x * $n, VERSION); }" >"$1/c/$n.c"
    done
    echo 'int f1(int); int main(void) { return f1(1) < 0; }' >"$1/c/8.c"
    for n in $(seq 4); do
        printf '%s\n' '#include "config.h"' '#include <string>' '#include <vector>' \
            "std::string g$n() { return std::vector<std::string>($n, VERSION).back(); }" >"$1/cxx/$n.cpp"
    done
    echo 'int main() {}' >"$1/cxx/4.cpp"
    write_configure "$1/c" "$work/wrapper/gcc" c
    write_configure "$1/cxx" "$work/wrapper/g++" cpp
}

# write_configure FOLDER COMPILER SUFFIX: asks the compiler what can be compiled, preprocessed and linked, and what not.
write_configure() {
    cat >"$1/configure" <<SH
#!/bin/sh
set -e
probe() { echo "\$1" >conftest.$3; shift; "$2" "\$@" >>config.log 2>&1; }
probe 'int x;' -c conftest.$3
probe '#include <stdio.h>' -E conftest.$3 -o conftest.i
probe 'int main() { return 0; }' -o conftest conftest.$3
! probe '#include <no-such-header.h>' -c conftest.$3
! probe 'int main() { return no_such_function(); }' -c conftest.$3 -o conftest.o -Werror=implicit-function-declaration
rm -f conftest*
echo '#define VERSION "1"' >config.h
SH
    cat >"$1/Makefile" <<MAKE
sources := \$(wildcard *.$3)
program: \$(sources:.$3=.o)
	$2 -o \$@ \$^
%.o: %.$3
	$2 -g -O2 -Wall -MMD -c \$< -o \$@
MAKE
    chmod +x "$1/configure"
}
