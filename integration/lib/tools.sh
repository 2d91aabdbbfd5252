# Sourced. THE table of build tools: a small tree for each, which the functions below write, how it is configured and
# built, and what its build must do with its compilers. A tool is added here, and its package in setup.sh.

# A row: tool | compiles of the build | what of the build stays here, by reason | least numbers of files | configuration |
# build. Exact numbers of compiles (N+: or more), so that one that is not seen at all does not pass. The last two are for
# `sh -e` in the tree; a build goes on where a source does not compile, so that what it prints does not depend on who was
# first. A program is named by its path where others of that name may be in the way. setuptools compares times in whole
# seconds: a source may change in the second after the build.
tools_table() {
    cat <<'TABLE'
cmake, make  | 6 | link=2 | .o=6 .d=6 .so=1 .a=1 | cmake -S . -B build | cmake --build build -j2 -- -k
cmake, ninja | 6 | link=2 | .o=6 .d=6 .so=1 .a=1 | cmake -S . -B build -G Ninja | ninja -C build -j2 -k 0 -d keepdepfile
autotools    | 5 | link=2 | .o=5 .lo=2 .a=1 .la=1 | ./configure | make -j2 -k
meson        | 6 | link=3 | .o=6 .d=6 .so=1 .a=1 | meson setup build | ninja -C build -j2 -k 0 -d keepdepfile
scons        | 7 | link=3,query=10 | .o=3 .os=2 .so=1 .a=1 | true | scons -j2 -k
setup.py     | 3 | link=1 | .o=3 .so=2 | true | /usr/bin/python3 setup.py build_ext -j2 --force --inplace
pip          | 3 | link=1 | .whl=1 | true | /usr/bin/python3 -m pip -q wheel --no-build-isolation --no-deps --no-index -w wheels .; sleep 1.1
MakeMaker    | 3 | link=1 | .o=3 .so=1 | perl Makefile.PL | make -j2 -k
cargo, cc    | 5 | link=2,no-source=1,preprocess=1 | .o=3 .a=1 | true | cargo build --offline --quiet -j2; cp -a target/debug/build/app-*/out .
Kbuild       | 6 | host-memory=1,link=1,query=1 | .o=4 .s=1 .a=2 .cmd=9 | true | make -j2 -k
env -i       | 3 | link=1 | .o=3 .d=3 | true | env -i "PATH=$PATH" make -j2 -k
env={}       | 3 | link=1 | .o=3 .d=3 | true | python3 -B build.py
redis        | 200+ | any | .o=200 .d=90 .a=4 | true | make -j2 -k --output-sync=target V=1 MALLOC=jemalloc OPTIMIZATION=-O0
TABLE
}

slow_tools=redis # only with --full

# What tools write with times or names of temporary files in it.
uncompared=(
    '*/.ninja_log' '*/.ninja_deps' '*config.log' 
    '*/CMakeOutput.log' '*/CMakeError.log' '*/meson-logs/*' '*/meson-private/*.dat' '*.sconsign.dblite' 'target/*'
)

# write_sources DIR: what every tree has: one.c and two.c, which warns, and their header.
write_sources() {
    mkdir -p "$1"
    cat >"$1/tool.h" <<'C'
#ifndef TOOL_H
#define TOOL_H
#ifdef __cplusplus
extern "C" {
#endif
int one(int), two(int);
#ifdef __cplusplus
}
#endif
#endif
C
    printf '%s\n' '#include "tool.h"' '#include <stdio.h>' \
        'int one(int n) { return n > 9 ? printf("%s\n", __FILE__) : two(n + 1); }' >"$1/one.c"
    printf '%s\n' '#include "tool.h"' 'int two(int n) { int unused; return n > 7 ? one(n) : n; }' >"$1/two.c"
}

write_main() { printf '%s\n' '#include "tool.h"' 'int main(int argc, char **argv) { return argv[argc] ? 1 : one(argc); }' >"$1"; }

write_xx() {
    printf '%s\n' '#include "tool.h"' '#include <string>' \
        'int main(int argc, char **argv) { std::string s(argv[argc - 1]); return one(int(s.size())); }' >"$1"
}

# select_tool NAME: sets tool, compiles, locals, files, configuration and build, and broken: a source's name.
select_tool() {
    IFS=$'\x1f' read -r tool compiles locals files configuration build < <(
        tools_table | grep "^$1 *|" | sed 's/ *| */\x1f/g; s/ *$//'
    ) || die "no tool '$1'; there are: $(tool_names | paste -sd ';')"
    broken=two.c
    [ "$tool" != redis ] || broken=crc16.c
}

tool_names() { tools_table | sed 's/ *|.*//'; }

# prepare_tool: writes the selected tool's tree into the current directory. Nothing here is compiled in what is judged.
prepare_tool() {
    case $tool in
        cmake*) prepare_cmake ;;
        autotools) prepare_autotools ;;
        meson) prepare_meson ;;
        scons) prepare_scons ;;
        setup.py | pip) prepare_setuptools ;;
        MakeMaker) prepare_makemaker ;;
        cargo*) prepare_cargo ;;
        Kbuild) prepare_kbuild ;;
        env*) prepare_cleared ;;
        redis) unpack_source redis redis && mv redis/* redis/.[!.]* . && rmdir redis ;;
    esac
}

prepare_cmake() {
    write_sources src
    write_main src/main.c
    write_xx src/xx.cc
    cat >CMakeLists.txt <<'CMAKE'
cmake_minimum_required(VERSION 3.16)
project(tool C CXX)
include(CheckFunctionExists)
include(CheckIncludeFile)
check_include_file(stdlib.h HAVE_STDLIB_H)
check_function_exists(no_such_function HAVE_NO_SUCH_FUNCTION)
add_compile_options(-g -Wall)
add_library(shared SHARED src/one.c src/two.c)
add_library(static STATIC src/one.c src/two.c)
add_library(objects OBJECT src/xx.cc)
add_executable(main src/main.c)
target_link_libraries(main static)
CMAKE
}

prepare_autotools() {
    write_sources src
    write_main src/main.c
    sed -i '1i #include "config.h"' src/one.c
    cat >configure.ac <<'AC'
AC_INIT([tool], [1])
AM_INIT_AUTOMAKE([foreign subdir-objects])
AC_CONFIG_HEADERS([config.h])
AM_PROG_AR
AC_PROG_CC
LT_INIT
AC_CHECK_HEADERS([unistd.h no_such_header.h])
AC_CHECK_FUNCS([printf no_such_function])
AC_CHECK_SIZEOF([long])
AC_CONFIG_FILES([Makefile])
AC_OUTPUT
AC
    cat >Makefile.am <<'AM'
AM_CFLAGS = -Wall
lib_LTLIBRARIES = libtool1.la
libtool1_la_SOURCES = src/one.c src/two.c src/tool.h
bin_PROGRAMS = main
main_SOURCES = src/main.c
main_LDADD = libtool1.la
AM
    autoreconf -i >"$work/prepare.log" 2>&1 || { cat "$work/prepare.log" >&2 && die "autoreconf failed"; }
    rm -rf autom4te.cache
}

prepare_meson() {
    write_sources src
    write_main src/main.c
    write_xx src/xx.cc
    cat >meson.build <<'MESON'
project('tool', 'c', 'cpp')
compiler = meson.get_compiler('c')
compiler.has_header('unistd.h')
compiler.has_function('no_such_function')
compiler.sizeof('long')
shared = shared_library('shared', 'src/one.c', 'src/two.c')
static = static_library('static', 'src/one.c', 'src/two.c')
executable('main', 'src/main.c', link_with: shared)
executable('xx', 'src/xx.cc', link_with: static)
MESON
}

prepare_scons() {
    write_sources src
    write_main src/main.c
    cat >SConstruct <<'SCONS'
env = Environment(CCFLAGS=["-g", "-Wall"], CPPPATH=["src"])
questions = Configure(env)
questions.CheckCHeader("unistd.h")
questions.CheckFunc("no_such_function")
env = questions.Finish()
sources = ["src/one.c", "src/two.c"]
env.SharedLibrary("shared", sources)
env.Program("main", ["src/main.c", env.StaticLibrary("static", sources)])
SCONS
}

prepare_setuptools() {
    write_sources src
    cat >src/module.c <<'C'
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "tool.h"
static PyObject *call(PyObject *self, PyObject *arg) { (void)self; return PyLong_FromLong(one((int)PyLong_AsLong(arg))); }
static PyMethodDef methods[] = {{"call", call, METH_O, "one"}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "tool", NULL, -1, methods, NULL, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit_tool(void) { return PyModule_Create(&module); }
C
    cat >setup.py <<'PYTHON'
from setuptools import Extension, setup
setup(name="tool", version="1", ext_modules=[Extension("tool", ["src/module.c", "src/one.c", "src/two.c"])])
PYTHON
}

prepare_makemaker() {
    write_sources .
    cat >Tool.xs <<'XS'
#include "EXTERN.h"
#include "perl.h"
#include "XSUB.h"
#include "tool.h"
MODULE = Tool PACKAGE = Tool
int
one(n)
    int n
XS
    mkdir lib
    printf '%s\n' 'package Tool;' 'our $VERSION = 1;' 'require XSLoader;' 'XSLoader::load();' '1;' >lib/Tool.pm
    cat >Makefile.PL <<'PERL'
use ExtUtils::MakeMaker;
WriteMakefile(NAME => 'Tool', VERSION_FROM => 'lib/Tool.pm', OBJECT => 'Tool.o one.o two.o', OPTIMIZE => '-g -O2 -Wall');
PERL
}

# What cc needs and the registry's cache lacks is fetched. It is compiled here, once: rustc is not the question.
prepare_cargo() {
    write_sources src
    cat >Cargo.toml <<'TOML'
[package]
name = "app"
version = "0.1.0"
edition = "2021"
[build-dependencies]
cc = { version = "1", features = ["parallel"] }
[workspace]
TOML
    printf '%s\n' 'extern "C" { fn one(n: i32) -> i32; }' 'fn main() { std::process::exit(unsafe { one(1) }) }' >src/main.rs
    printf '%s\n' 'int three(void) { return 3; }' >src/three.c
    cat >build.rs <<'RUST'
fn main() {
    cc::Build::new()
        .files(["src/one.c", "src/two.c", "src/three.c"])
        .flag_if_supported("-fno-such-option")
        .compile("tool");
    println!("cargo:rerun-if-changed=src");
}
RUST
    {
        cargo generate-lockfile --offline || cargo generate-lockfile
        cargo fetch --locked --offline || cargo fetch --locked
        cargo build --locked --offline
        cargo clean --offline -p app
    } >"$work/prepare.log" 2>&1 || { cat "$work/prepare.log" >&2 && die "cargo cannot build the cc crate"; }
}

# The idioms of a kernel's build, in our own words: recursive makes for folders, commands that are printed short, kept
# beside their object and compared with the next time's, dependencies that a host program rewrites, questions of the
# make files to the compiler, a header made of assembly, assembler sources, and thin archives.
prepare_kbuild() {
    write_sources src
    mkdir -p include arch scripts
    echo '#define CONFIG_ANSWER 42' >include/autoconf.h
    cat >src/main.c <<'C'
#include "tool.h"
#include <generated/offsets.h>
int entry(void);
void _start(void) { one(entry() + OFFSET_B + CONFIG_ANSWER); for (;;) ; }
C
    sed -i 's/#include <stdio.h>/int printf(const char *, ...);/' src/one.c
    printf '%s\n' '#include <autoconf.h>' '.text' '.globl entry, printf' 'printf: ret' \
        'entry: mov $CONFIG_ANSWER, %eax' 'ret' >arch/entry.S
    printf '%s\n' 'struct s { long a; int b; };' \
        'void offsets(void) { __asm__ volatile("\n-> OFFSET_B %0" : : "i"(__builtin_offsetof(struct s, b))); }' >arch/offsets.c
    echo 'obj-y := main.o one.o two.o' >src/Makefile
    echo 'obj-y := entry.o' >arch/Makefile
    cat >scripts/deps.c <<'C'
/* deps DEPFILE TARGET COMMAND: a make fragment with the command and what the target depends on. */
#include <stdio.h>
#include <string.h>
int main(int argc, char **argv) {
    char word[4096];
    FILE *in = argc == 4 ? fopen(argv[1], "r") : NULL;
    if (!in) return 2;
    printf("saved_%s := %s\n\ndeps_%s := \\\n", argv[2], argv[3], argv[2]);
    while (fscanf(in, "%4095s", word) == 1)
        if (strcmp(word, "\\") && word[strlen(word) - 1] != ':') printf("  %s \\\n", word);
    printf("\n%s: $(deps_%s)\n\n$(deps_%s):\n", argv[2], argv[2], argv[2]);
    return 0;
}
C
    cat >scripts/include.mk <<'MAKE'
comma := ,
beside = $(@D)/.$(@F)
depfile = $(beside).d
quoted = $(subst ','\'',$(1))
kept = '$(subst $$,$$$$,$(call quoted,$(cmd_$(1))))'
echo_cmd = $(if $($(quiet)cmd_$(1)),echo '  $(call quoted,$($(quiet)cmd_$(1)))';)
changed = $(filter-out $(saved_$@),$(cmd_$(1)))$(filter-out $(cmd_$(1)),$(saved_$@))$(filter-out FORCE,$?)
run = set -e; $(call echo_cmd,$(1)) $(cmd_$(1))
if_changed = $(if $(changed),$(run); printf '%s\n' 'saved_$@ := '$(kept) >$(beside).cmd,@:)
if_changed_dep = $(if $(changed),$(run); scripts/deps $(depfile) $@ $(kept) >$(beside).cmd; rm -f $(depfile),@:)
try = $(shell set -e; t=.try_$$$$; trap "rm -f $$t" EXIT; if $(CC) -Werror $(CFLAGS) $(1) -c -x c /dev/null -o $$t >/dev/null 2>&1; then echo '$(1)'; fi)
build := -f scripts/build.mk obj
MAKE
    cat >scripts/build.mk <<'MAKE'
.PHONY: all FORCE
all:
include scripts/include.mk
include $(obj)/Makefile
objects := $(addprefix $(obj)/,$(obj-y))
quiet_cmd_cc = CC      $@
cmd_cc = $(CC) -Wp,-MMD,$(depfile) $(CFLAGS) -DMODNAME='"$(*F)"' -c -o $@ $<
quiet_cmd_as = AS      $@
cmd_as = $(CC) -Wp,-MMD,$(depfile) $(CFLAGS) -D__ASSEMBLY__ -c -o $@ $<
quiet_cmd_ar = AR      $@
cmd_ar = rm -f $@; ar cDPrST $@ $(filter %.o,$^)
all: $(obj)/built-in.a
	@:
$(obj)/%.o: $(obj)/%.c FORCE
	$(Q)$(call if_changed_dep,cc)
$(obj)/%.o: $(obj)/%.S FORCE
	$(Q)$(call if_changed_dep,as)
$(obj)/built-in.a: $(objects) FORCE
	$(Q)$(call if_changed,ar)
FORCE:
-include $(wildcard $(addprefix $(obj)/.,$(addsuffix .cmd,$(obj-y) built-in.a)))
MAKE
    cat >Makefile <<'MAKE'
MAKEFLAGS += -rR --no-print-directory
Q := @
quiet := quiet_
CC := gcc
export Q quiet CC CFLAGS
include scripts/include.mk
CFLAGS := -nostdinc -isystem $(shell $(CC) -print-file-name=include) -Iinclude -include include/autoconf.h \
	-Wall -O2 -ffreestanding -fno-pie -fno-asynchronous-unwind-tables
CFLAGS += $(call try,-fno-stack-protector) $(call try,-fno-such-option)
folders := src arch
.PHONY: all $(folders) FORCE
all: image
quiet_cmd_hostcc = HOSTCC  $@
cmd_hostcc = gcc -Wp,-MMD,$(depfile) -Wall -O2 -o $@ $<
quiet_cmd_s = CC      $@
cmd_s = $(CC) -Wp,-MMD,$(depfile) $(CFLAGS) -fverbose-asm -S -o $@ $<
quiet_cmd_offsets = UPD     $@
cmd_offsets = mkdir -p $(@D); awk '/^-> / { print "\043define", $$2, substr($$3, 2) }' $< >$@
quiet_cmd_ld = LD      $@
cmd_ld = ld -o $@ --whole-archive $(addsuffix /built-in.a,$(folders))
scripts/deps: scripts/deps.c FORCE
	$(Q)$(call if_changed,hostcc)
arch/offsets.s: arch/offsets.c scripts/deps FORCE
	$(Q)$(call if_changed_dep,s)
include/generated/offsets.h: arch/offsets.s FORCE
	$(Q)$(call if_changed,offsets)
$(folders): include/generated/offsets.h scripts/deps
	$(Q)$(MAKE) $(build)=$@
image: $(folders) FORCE
	$(Q)set -e; $(call echo_cmd,ld) $(cmd_ld)
FORCE:
-include scripts/.deps.cmd arch/.offsets.s.cmd include/generated/.offsets.h.cmd
MAKE
}

prepare_cleared() {
    write_sources .
    write_main main.c
    # shellcheck disable=SC2016 # for make
    printf '%s\n' 'main: main.o one.o two.o' '	gcc -o $@ $^' '%.o: %.c' '	gcc -g -Wall -MMD -c $< -o $@' >Makefile
    cat >build.py <<'PYTHON'
import subprocess, sys
# (Without a PATH gcc finds no ld.)
for name in ["main", "one", "two"]:
    command = ["/usr/bin/gcc", "-g", "-Wall", "-MMD", "-c", f"{name}.c"]
    code = subprocess.run(command, env={}).returncode
    if code:
        sys.exit(code)
subprocess.run(["gcc", "-o", "main", "main.o", "one.o", "two.o"], check=True)
PYTHON
}
