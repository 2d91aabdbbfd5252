"""The cases of the option matrix: what a compiler may be asked for, times the compilers. The options of
differential_cases.py, and more of what needs files or several steps. Compared and run by differential.py's means.

A command is bash, with
    $CC      the compiler
    $X, $W   a source that is clean and includes h.h, and one that brings warnings, in the compiler's language
    $S       the suffix of a source in that language
`where` tells for each family of compilers where its compiles run (see differential_cases); families that a case does
not concern are left out.
"""

import dataclasses

from differential_cases import COMMON_FILES, FOLDER, OPTION_SETS, Case

# Compiler -> its family, the language it is tried with.
COMPILERS = {
    "gcc": ("gcc", "c"),
    "g++": ("gcc", "c++"),
    "gfortran": ("gfortran", "fortran"),
    "clang-14": ("clang", "c"),
    "clang++-14": ("clang", "c++"),
    "clang-19": ("clang", "c"),
    "clang++-19": ("clang", "c++"),
}

SOURCES = {"c": ("x.c", "w.c", "c"), "c++": ("x.cc", "w.cc", "cc"), "fortran": ("x.F90", "w.f90", "f90")}

FILES = COMMON_FILES | FOLDER | {
    "w.cc": "int f(int a){ int u; if(a=1) return u; return 'abcd'; }\n",
    "x.F90": "#include \"h.h\"\nsubroutine f(a)\n  integer :: a(H)\n  a = a + 1\nend subroutine\n",
    "w.f90": "subroutine g(a)\n  real :: a, u\n  integer :: i\n  i = 3.7\n  a = u\nend subroutine\n",
    "m.f90": "module m\n  integer, parameter :: n = 3\n  interface\n    module subroutine s(a)\n"
             "      real, intent(inout) :: a(n)\n    end subroutine\n  end interface\nend module\n",
    "u.f90": "subroutine u(a)\n  use m\n  real :: a(n)\n  call s(a)\nend subroutine\n",
    "sm.f90": "submodule (m) sm\ncontains\n  module procedure s\n    a = 2 * a\n  end procedure\nend submodule\n",
}


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    command: str
    where: dict  # family or compiler -> where; the compiler's own name goes first
    files: dict = dataclasses.field(default_factory=dict)
    prepare: str = ""


def everywhere(where="remote", **others):
    return {"gcc": where, "gfortran": where, "clang": where} | others


def only(family, where="remote"):
    return {family: where}


# Where compilers other than gcc run with the options of differential_cases, if elsewhere than gcc.
ELSEWHERE = {
    "-aux-info aux": only("clang", "unknown-option"),
    "-dumpbase ''": only("clang", "unknown-option"),
    "-no-integrated-cpp": only("clang", "unknown-option"),
    # Only gcc has these; clang says so.
    "-fdump-tree-gimple=/dev/stderr": only("clang", "remote"),
    "-fself-test=x": only("clang", "remote"),
    "-fcompare-debug": only("clang", "remote"),
}


def of_options(options, where):
    command = f"$CC -c $X {options}; $CC -c $W {options.replace('sub/q.o', 'sub/w.o')}"
    return Row(options, command, everywhere(where) | ELSEWHERE.get(options, {}))


ROWS = [of_options(options, where) for options, where in OPTION_SETS] + [
    # --- What is made ---
    Row("-S", "$CC -S $X $W", everywhere()),
    Row("-S -o -", "$CC -S $X -o -", everywhere()),
    Row("-fsyntax-only", "$CC -fsyntax-only $W -Wall; $CC -fsyntax-only $X $W", everywhere()),
    Row("-E", "$CC -E $X -o q.i -cpp", everywhere("preprocess") | only("clang", "preprocess")),
    Row("-MD -MF -", "$CC -c $X -MD -MF -", everywhere()),
    Row("-M", "$CC -M $X -cpp", everywhere("dependencies-only")),
    Row("several sources", "$CC -c $X $W", everywhere()),
    Row("stdin", """
        $CC -S -o - -x $L - <$X
        cat $W | $CC -c -x $L - -o q.o -Wall -g
        $CC -c -x $L - <w.c
        $CC -c -x $L -
        cat $X | $CC -E -x $L - -cpp
    """, everywhere("remote preprocess")),
    # --- Names and places ---
    Row("odd names", """
        for name in 'a b' $'n\\nl' "q'u\\"o\\$te" $'\\xff\\xe9' -dash; do
            cp $W "./$name.$S"
            $CC -c "./$name.$S" -g -MD -Wall
            $CC -S "./$name.$S" -o "./$name.out"
        done
    """, everywhere()),
    Row("long names and paths", """
        name=$(printf 'x%.0s' {1..240})
        cp $W $name.$S
        $CC -c $name.$S -g -MD
        folder=$TREE
        for i in {1..18}; do folder=$folder/$(printf 'd%.0s' {1..200}); done
        mkdir -p $folder
        cp $W $folder/q.$S
        $CC -c $folder/q.$S -g -MD -o q.o
        cd $folder
        $CC -c q.$S -g
        $CC -c $TREE/$X -I$(printf 'x%.0s' {1..4500}) -o $TREE/p.o
    """, everywhere()),
    Row(".. through links", "$CC -c lnk/../q.$S -g -MD; $CC -c $X -Ilnk/.. -g -MD; $CC -c $X -Ilnk/../../sub -I. -g", everywhere(),
        {"a/b/k": "", **{f"a/q.{s}": "" for s in ("c", "cc")}, "a/q.f90": "end\n"}, "ln -s a/b lnk"),
    Row("the working directory", """
        ln -s sub lnk
        cp $X $W h.h sub
        cd lnk
        $CC -g -c $X -MD
        PWD=/ $CC -g -c $X -o 2.o
        env -u PWD $CC -g -c $W -o 3.o
        PWD=lnk $CC -g -c $W -o 4.o
        PWD=$TREE/sub/../sub $CC -g -c $X -o 5.o
        cd ..
        chmod 111 sub
        cd sub
        $CC -g -c $X -o ../6.o
        cd ..
        chmod 755 sub
    """, everywhere()),
    Row("prefix maps", "$CC -g -c $X -ffile-prefix-map=$TREE=/x; $CC -g -c $W -fdebug-prefix-map=$TREE=. -fmacro-prefix-map=$TREE=", everywhere()),
    Row("response files", "$CC @r; $CC -c $W @nope; $CC -c @r", everywhere("remote unreadable-response-file"),
        prepare="echo \"-c $X -DA=\\\\\\\"b\\\\\\\" -o 'q r.o' @s\" >r; echo -g >s"),
    # --- Files that are read ---
    Row("-include, -imacros, __has_include", "$CC -c q.$S -include h.h -imacros m.h -MD -H", only("gcc") | only("clang"), {
        "m.h": "#define M 3\nint ignored;\n",
        **{f"q.{s}": "int x = H + M + __has_include(<stdio.h>) + __has_include(\"nope.h\") + __has_include(\"sub/../h.h\");\n"
           for s in ("c", "cc")},
    }),
    Row(".incbin", "$CC -c q.$S -g; $CC -c S.S -I. -MD", only("gcc") | only("clang"),
        {f"q.{s}": 'asm(".data\\n.incbin \\"blob\\"\\n.include \\"inc.s\\"");\n' for s in ("c", "cc")}),
    Row("#embed", "$CC -c q.c -std=c23 -MD; $CC -S q.c -std=c23 -o -", {"clang-19": "remote"},
        {"q.c": "const char b[] = {\n#embed \"blob\"\n};\nint n = __has_embed(\"nope\");\n"}),
    # clang 14 does not know it: two plain runs must then differ, and so not be in the same second.
    Row("SOURCE_DATE_EPOCH", "sleep 1; SOURCE_DATE_EPOCH=77 $CC -S q.$S -Wdate-time", only("gcc") | only("clang"),
        {f"q.{s}": "const char *t = __DATE__ __TIME__ __FILE__;\n" for s in ("c", "cc")}),
    Row("__DATE__", "$CC -S q.$S", only("gcc") | only("clang"), {f"q.{s}": "const char *t = __DATE__;\n" for s in ("c", "cc")}),
    # --- Wrappers ---
    Row("mpicc, mpicxx", """
        case $S in c) wrapper=mpicc; export OMPI_CC=$CC;; *) wrapper=mpicxx; export OMPI_CXX=$CC;; esac
        $wrapper -c q.$S -O2 -g -MD
        $wrapper -c $W -Wall -o w.o
        $wrapper -show
    """, only("gcc") | only("clang"), {f"q.{s}": "#include <mpi.h>\nint f(void){ return MPI_Init(0, 0); }\n" for s in ("c", "cc")}),
    Row("mpifort, mpif77", """
        OMPI_FC=$CC mpifort -c q.f90 -O2 -g
        OMPI_FC=$CC mpif90 -c w.f90 -Wall
        mpif77 -c q.f
    """, only("gfortran"), {
        "q.f90": "subroutine q\n  use mpi\n  integer :: e\n  call MPI_Init(e)\nend subroutine\n",
        "q.f": "      subroutine r\n      include 'mpif.h'\n      call MPI_Init(ierr)\n      end\n",
    }),
    # --- This processor ---
    Row("-march=native -g", "$CC -c -O2 -g -march=native $X $W", everywhere()),
    Row("-mtune=native -frecord-gcc-switches", "$CC -c -O2 -mtune=native $X -frecord-gcc-switches",
        everywhere() | only("clang", "march-native")),
    Row("-march=native and other features", "$CC -c -O2 -g -mno-avx2 -march=native -mtune=generic $X -mavx",
        everywhere() | only("clang", "march-native")),
    # --- Where the driver looks ---
    Row("-B", "$CC -c $X -Bsub; $CC -c $X -B $TREE/sub/; $CC -c $X -Bnodir", everywhere()),
    Row("-B with programs", "$CC -c $X -Bbin -fno-integrated-as", only("gcc", "script-compiler") | only("gfortran", "script-compiler"),
        {"bin/as": '#!/bin/sh\nexec /usr/bin/as "$@"\n'}, "chmod +x bin/as"),
    Row("-specs", "$CC -c $X -specs=s.specs -g", only("gcc") | only("gfortran"), {"s.specs": "*cc1:\n+ -O2\n\n"}),
    Row("-specs that ask for this processor", "$CC -c $X -specs=s.specs", only("gcc", "specs") | only("gfortran", "specs"),
        {"s.specs": "*self_spec:\n+ -march=native\n\n"}),
    Row("--sysroot", "$CC -c $W --sysroot=$TREE/root; $CC -c q.$S --sysroot=$TREE/root -Iroot/usr/include",
        only("gcc") | only("clang"),
        {"q.c": "#include <own.h>\n", "q.cc": "#include <own.h>\n", "root/usr/include/own.h": "int own;\n"}),
    Row("-wrapper", "$CC -c $X -wrapper env", only("gcc", "wrapper") | only("gfortran", "wrapper")),
    Row("-fplugin", "$CC -c $X -fplugin=./nope.so", everywhere("plugin")),
    # --- Profiles ---
    Row("--coverage -frandom-seed", "$CC -c $X --coverage -frandom-seed=7; $CC -c $W --coverage -frandom-seed=7 -o sub/w.o",
        everywhere()),
    Row("--coverage", "$CC -c $X --coverage", everywhere()),
    Row("-fprofile-generate", "$CC -c $X -fprofile-generate -frandom-seed=7; $CC -c $W -fprofile-generate", everywhere()),
    Row("-fprofile-use, with a profile", "$CC -c p.c -fprofile-use -O2 -Wmissing-profile -frandom-seed=5; $CC -c p.c -fprofile-use=sub -O2 -o r.o -Wmissing-profile -frandom-seed=5",
        only("gcc"), {"p.c": "int f(int a){ return a > 3 ? 7 : a; }\nint main(int n, char **v){ return f(n) - n; }\n"}, """
        $CC -fprofile-generate -O2 -c p.c -frandom-seed=5
        $CC -fprofile-generate p.o -o p
        ./p
        rm p p.o
    """),
    # --- Precompiled headers ---
    Row("a precompiled header", """
        $CC -c y.$S -H -Winvalid-pch
        $CC -O2 -c y.$S -Winvalid-pch -H
        $CC -c $X -include h.h -Winvalid-pch -H
        rm h.h.gch
    """, only("gcc"), {"y.c": '#include "h.h"\nint y = H;\n', "y.cc": '#include "h.h"\nint y = H;\n'},
        "$CC -x ${L}-header h.h"),
    Row("making a precompiled header", "$CC -x ${L}-header h.h -o q.gch", only("gcc", "precompiled-header") | only("clang", "precompiled-header")),
    # --- Modules ---
    Row("Fortran modules", "$CC -c m.f90 -J mods; $CC -c u.f90 -Imods; $CC -c m.f90 -J mods; $CC -c sm.f90 -Jmods -g",
        only("gfortran"), prepare="mkdir mods"),
    Row("Fortran modules, beside the sources", "$CC -c m.f90 sm.f90 u.f90; $CC -fsyntax-only m.f90; $CC -c nope.f90 u.f90 -Jnodir",
        only("gfortran")),
    Row("a Fortran module that changes", """
        $CC -c m.f90
        touch -d @1500000000 m.mod
        $CC -c m.f90
        stat -c %Y m.mod
        sed -i 's/n = 3/n = 4/' m.f90
        $CC -c u.f90 -o 1.o
        $CC -c m.f90
        $CC -c u.f90 -o 2.o
        rm m.mod
        $CC -c u.f90
    """, only("gfortran")),
    Row("Fortran's intrinsic modules", "$CC -c i.f90 -g; $CC -c i.f90 -fintrinsic-modules-path nodir -fopenmp", only("gfortran"),
        {"i.f90": "subroutine i\n  use iso_c_binding\n  use iso_fortran_env\n  use ieee_arithmetic\n  use omp_lib\n"
                  "  print *, c_int, real64\nend subroutine\n"}),
    Row("Fortran in fixed form", """
        $CC -c q.f q.F q.for q.FOR
        $CC -c -x f77 q.x -o x1.o
        $CC -c -ffree-form x.F90 -ffixed-line-length-none
        $CC -c -cpp q.f -DX
        $CC -c -nocpp q.F
    """, only("gfortran"), {f"q.{s}": "      SUBROUTINE Q(A)\n      REAL A\nC     comment\n      A = A\n     1  + 1\n      END\n"
                            for s in ("f", "F", "for", "FOR", "x")}),
    Row("Fortran's options", """
        $CC -c w.f90 -fdefault-real-8 -fdefault-integer-8 -fimplicit-none -Wall -Wextra -pedantic -std=f2008
        $CC -c w.f90 -O3 -fcheck=all -fbacktrace -ffpe-trap=invalid,zero -finit-real=snan -static-libgfortran
        $CC -c w.f90 -fdump-parse-tree -fdump-fortran-optimized
        $CC -c w.f90 -fcoarray=single -frecursive -fno-underscoring -o q.o
        $CC -c x.F90 -MD -MP -MF x.d -cpp
        $CC -c m.f90 -fc-prototypes
    """, only("gfortran")),
    Row("Fortran includes", "$CC -c q.f90 -Isub; $CC -c q.f90", only("gfortran"),
        {"q.f90": "subroutine q\n  include 'i.inc'\n  k = 1\nend subroutine\n", "sub/i.inc": "  integer :: k\n"}),
    Row("errors in Fortran", "$CC -c q.f90; $CC -c x.c w.c; $CC -c u.f90", only("gfortran"),
        {"q.f90": "subroutine q\n  k = undefined(\nend\n"}),
    Row("C++ modules", "$CC -c x.cc -fmodules-ts -std=c++20", {"g++": "modules"}),
    # --- The assembler ---
    Row("listings of the assembler", "$CC -c s.s -Wa,-ahls=lst; $CC -c s.s -Wa,--MD,s.d -Wa,-a; $CC -c S.S -I. -Wa,-ahl=l2 -g",
        only("gcc")),
    Row("a listing of compiled code", "$CC -c $X -Wa,-adhln=lst -O2", only("gcc") | only("gfortran")),
    Row("-finput-charset", "$CC -c $X -finput-charset=UTF-8 -fexec-charset=utf-8; $CC -c q.c -finput-charset=latin1",
        {"gcc": "remote input-charset"}, {"q.c": b'const char *s = "\xe4";\n'}),
    Row("OpenMP", "$CC -c o.$S -fopenmp -O2 -fopt-info-omp-all", only("gcc"),
        {f"o.{s}": "void o(int *a){\n#pragma omp target teams distribute parallel for\nfor(int i=0;i<9;i++) a[i]++;\n}\n"
         for s in ("c", "cc")}),
    Row("-frandom-seed -flto", "$CC -c $X -flto -frandom-seed=7 -O2", everywhere()),
    Row("-flto", "$CC -c $X -flto -O2", everywhere()),
]


def cell(row, compiler):
    """The case of one row and one compiler; None if the row does not concern it."""
    family, language = COMPILERS[compiler]
    where = row.where.get(compiler, row.where.get(family))
    if where is None:
        return None
    clean, warns, suffix = SOURCES[language]
    name = {"c": "c", "c++": "c++", "fortran": "f95"}[language]
    variables = f"CC={compiler} X={clean} W={warns} S={suffix} L={name}\n"
    return Case(row.name, variables + row.command, where=where, prepare=variables + row.prepare,
                title=f"{row.name} [{compiler}]", files=FILES | row.files)


def cells():
    return [case for row in ROWS for compiler in COMPILERS if (case := cell(row, compiler))]



assert len({row.name for row in ROWS}) == len(ROWS), "two rows of one name"
