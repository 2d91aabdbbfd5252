"""The cases of `differential`: a small folder and a shell command each, grouped by what they have in common. What is
special about a case is its name; that it must behave as it would without us is what differential.py sees to.

A command runs in the case's folder ($TREE), which holds COMMON_FILES and the case's own; bash reports every status
other than 0 by itself. `where` is where its compiles are expected to run, in the words of $MPICC_PROXY_LOG: "remote",
and the reasons of those that run locally. It is exact, so that a case that silently becomes local is noticed; when a
reason falls away because more can run on ranks, it falls away here.
"""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    command: str
    files: dict = dataclasses.field(default_factory=dict)  # name -> content, in which @TREE@ is the folder
    where: str = "remote"
    prepare: str = ""  # commands before, which are not what the case is about, and must succeed
    rounds: int = 2  # 1 for what takes long: the second round is the one with predicted inputs
    excused: tuple = ()  # (pattern, replacement): what differs between two plain runs, too
    known: str = ""  # why the difference is known and stays for now
    title: str = ""  # this and what follows: from the theme
    user: str = "any"


@dataclasses.dataclass(frozen=True)
class Theme:
    name: str
    about: str
    cases: list
    user: str = "any"  # "root" for what needs privileges, "nobody" for what they would hide


COMMON_FILES = {
    # Correct C and C++, with a header
    "x.c": '#include "h.h"\n#include <stdio.h>\nint f(int a){ printf("%d\\n", H+a); return H; }\n',
    "x.cc": '#include "h.h"\n#include <vector>\nstd::vector<int> v(H);\nint main(){return v.size();}\n',
    "h.h": "#define H 7\n",
    # Warnings, errors
    "w.c": "int f(int a){ int u; if(a=1) return u; char *p = 5; return *p; }\n",
    "bad.c": "int f(void){ return undeclared; }\nint g(void){ int u; return u; }\n",
    # Assembler, with and without preprocessor
    "s.s": "\t.text\nfoo:\tret\n",
    "S.S": '#include "h.h"\n\t.data\n\t.long H\n\t.incbin "blob"\n\t.include "inc.s"\n',
    "inc.s": "\t.long 9\n",
    "blob": "blobdata",
}

# Two folders with a header of the same name, and what includes it.
EITHER_HEADER = {"q.c": "#include <n.h>\n", **{f"{name}/n.h": f"int from_{name};\n" for name in "abc"}}

FOLDER = {"sub/k": ""}
ASM_ERROR = {"q.c": 'void f(void){asm("bogus %eax");}', "q.s": "bogus\n", "q.S": "bogus\n"}
TIMESTAMPS = {
    "y.c": 'const char *t = __TIMESTAMP__; const char *f = __FILE__ "|" __BASE_FILE__;\n#include "ts.h"\n',
    "ts.h": "const char *u = __TIMESTAMP__; const char *g = __FILE__;",
}

# The driver's intermediate files have random names, which get into the assembler's messages.
TEMPORARY_NAME = (rb"\bcc[A-Za-z0-9]{6}\.", b"ccRANDOM.")
SHELL_PID = (rb"(bash: line \d+:) +\d+ ", rb"\1 PID ")

NAMES = Theme("names", "A name is bytes; only the shell and make find some of them odd.", [
    Case("spaces", "gcc -c 'a b.c' -o 'o ut.o' -MD",
         {"a b.c": '#include "h h.h"\nint x=HH;', "h h.h": "#define HH 1\n"}),
    Case("a newline", "gcc -c $'a\\nb.c' -MD -g", {"a\nb.c": "int x;"}),
    Case("quotes and a dollar", "gcc -c \"a'b\\\"c\\$.c\" -MD -g -Wall", {"a'b\"c$.c": "int x; static int y;"}),
    Case("not UTF-8", """
        gcc -c $'a\\xff\\xe9.c' -MD -g -Wall
        g++ -c $'a\\xff\\xe9.c' -S
    """, {b"a\xff\xe9.c": "int x; static int y;"}),
    Case("a leading dash", "gcc -c ./-x.c; gcc -c -- -x.c", {"-x.c": "int x;"}, "remote no-source"),
    Case("a leading @", "gcc -c @x.c; gcc -c ./@x.c; rm -f h.h.gch", {"@x.c": "int q;"},
         "remote ambiguous-response-file"),
    Case("a trailing slash", """
        gcc -c x.c/
        gcc -c x.c -I h.h
        gcc -c x.c -I h.h/ -I nodir/ -Wmissing-include-dirs
    """, where="remote no-source"),
    Case("a folder as source", "gcc -c d.c; g++ -c d.c", prepare="mkdir d.c"),
    Case("240 bytes", "gcc -c $(printf 'x%.0s' {1..240}).c -g -MD", {"x" * 240 + ".c": "int x;"}),
    Case("251 bytes and more", """
        gcc -c $(printf 'x%.0s' {1..251}).c -g -S
        gcc -c $(printf 'x%.0s' {1..253}).c
    """, {"x" * 251 + ".c": "int x;", "x" * 253 + ".c": "int y;"}),
    Case("an output name that is too long", """
        gcc -c x.c -o $(printf 'x%.0s' {1..255})
        gcc -c x.c -o $(printf 'x%.0s' {1..256})
        gcc -c x.c -o $(printf 'y%.0s' {1..250}).o -MD
    """),
])

SOURCES = Theme("sources", "Which files are compiled, and as what.", [
    Case("in another folder", "gcc -c sub/x.c -I.", {"sub/x.c": '#include "../h.h"\nint x=H;'}),
    Case("missing", """
        gcc -c nope.c
        g++ -c nope.c x.cc
        gcc -c nope.s
        gcc -c nope.S -o q.o
    """),
    Case("several", "gcc -c x.c w.c bad.c s.s -MD"),
    Case("several, one output", "gcc -c x.c w.c -o q.o; gcc -c x.c x.c", where="remote several-sources-one-output"),
    Case("several to assembler", "gcc -S x.c x.cc w.c -O2"),
    Case("60 in one command", "gcc -c $(seq -f '%g.c' 1 60) -MD -save-temps",
         {f"{i}.c": f"int i{i};\n" for i in range(1, 61)}, rounds=1),
    Case("empty", "gcc -c e.c; g++ -S e.c", {"e.c": ""}),
    Case("a byte order mark, a NUL, bytes that are not text", "gcc -c b.c",
         {"b.c": b"\xef\xbb\xbfint x;\r\n\x00\n\x0c int y; /* \xff */ const char *s = \"\xff\xfe\";"}),
    Case("preprocessed already", """
        gcc -c y.i
        gcc -E x.c -o z.i
        gcc -c z.i -g
        gcc -E -fdirectives-only x.c -o w.i
        gcc -c -fdirectives-only -fpreprocessed w.i
        cp z.i q.ii
        g++ -c q.ii
    """, where="remote preprocess", prepare="cp x.c y.i"),
    Case("the language of a suffix, of an option", """
        gcc -c C.C
        gcc -c x.c -xc++ -o k.o
        gcc -c h.h
        rm h.h.gch
        gcc -c -x f95 x.c
        gcc -c x.f x.adb x.m
    """, where="remote precompiled-header unknown-language", prepare="cp x.c C.C"),
    Case("from stdin", """
        gcc -c -x c - -o q.o < h.h
        echo 'int x;' | gcc -c -x c -
        echo 'int y;' | g++ -xc++ -c -o z.o -
        echo 'int x;' | gcc -c -x c /dev/stdin -o d.o
        echo 'const char *t = __TIMESTAMP__, *f = __FILE__ __BASE_FILE__; int x = __INCLUDE_LEVEL__;' >t.h
        touch -d @1500000000 t.h
        gcc -S -x c - -o - -g <t.h
        echo '#include "h.h"\nint x = H' | gcc -c -x c - -o e.o -MD
        (read line; gcc -c -x c - -o f.o) <w.c
        gcc -c -x c - x.c -
    """, where="remote stdin"),
    Case("from a file that others read on from", """
        { gcc -c -x c - -o a.o; cat; } <x.c
        { clang -c -x c - -o b.o; cat; } <x.c
        { gcc -c -x assembler - -o c.o; cat; } <s.s
        { gfortran -c -x f95 - -o d.o; cat; } <bad.c
        { gcc -c -x c - -o e.o -fbogus; cat; } <x.c
    """),
    Case("below /proc/self/cwd", """
        gcc -c /proc/self/cwd/x.c
        gcc -c x.c -o /proc/self/cwd/q.o
        gcc -c x.c -I /proc/self/cwd -MD -MF /proc/self/cwd/foo.d
    """, where="output-to-stdout stdin"),
])

DEPENDENCIES = Theme("dependencies", "What -MD and its relatives write, and where.", [
    Case(options or "none", f"gcc -c x.c {options}; g++ -c x.cc {options}", FOLDER, where)
    for options, where in [
        ("-MD", "remote"),
        ("-MMD", "remote"),
        ("-MD -MF d.mk", "remote"),
        ("-MMD -MT 'a b' -MQ 'c $d'", "remote"),
        ("-MD -MP", "remote"),
        ("-MD -MG", "remote"),
        ("-Wp,-MD,.dep", "remote"),
        ("-Wp,-MMD,sub/.dep", "remote"),
        ("-Wp,-MD,.dep -Wp,-MT,foo", "remote"),
        ("-MD -MF /dev/null", "remote"),
        ("-MD -MF sub/../d.d", "remote"),
        ("-MD -MF nodir/x.d", "remote"),
        ("-MF x.d", "remote"),
        ("-MD -MF -", "remote"),
        ("-M -c", "dependencies-only"),
        ("-MM -MG", "dependencies-only"),
        ("-MD -MF x.o", "remote"),
        ("-MD -MF ./x.o -o x.o", "remote"),
        ("-MD -o sub/x.o", "remote"),
        ("-MD -MF x.c", "remote"),
        ("-MDfoo", "unknown-option"),
        ("-MD -MP -MF d -MT x -MT y -isystem sub", "remote"),
        ("-MMD -MF $PWD/abs.d -o $PWD/abs.o", "remote"),
        ("-MD -MF sub", "remote"),
        ("-MD -dumpdir sub/ -dumpbase q.c", "remote"),
        ("-MD -o x.o.tmp", "remote"),
        ("-MD -o x", "remote"),
        ("-MD -o .o", "remote"),
    ]
])

ASSEMBLER = Theme("assembler", "as opens files of its own, and tells the world about its temporary source.", [
    Case(".incbin and .include", """
        gcc -c S.S -I. -MD
        gcc -c S.S -g
        gcc -c -x assembler s.s
        gcc -c -x assembler-with-cpp s.s
    """),
    Case("-Wa,-I", "gcc -c q.S -Wa,-I,sub -Wa,-Isub2; gcc -c q.S",
         {"q.S": '.incbin "bl2"\n.include "i2.s"\n', "sub/bl2": "abc", "sub2/i2.s": ".long 5\n"},
         excused=(TEMPORARY_NAME,)),
    Case("a folder to include", "gcc -c q.s; gcc -c r.s",
         {"q.s": '.incbin "sub"\n', "r.s": '.include "sub"\n', **FOLDER}),
    Case(".incbin with an offset", "gcc -c q.s", {"q.s": '.incbin "blob",2,3\n.incbin "blob",100\n'}),
    Case(".incbin in C", "gcc -c q.c", {"q.c": 'asm(".data\\n.incbin \\"blob\\"\\n.include \\"inc.s\\"");'}),
    Case("errors", """
        gcc -c q.c
        gcc -c q.s
        gcc -pipe -c q.c
        gcc -c q.S
    """, ASM_ERROR, excused=(TEMPORARY_NAME,)),
    Case("an error, and the object of an earlier compile", "gcc -c q.c; gcc -c -save-temps q.c", ASM_ERROR,
         prepare="echo old >q.o", excused=(TEMPORARY_NAME,)),
    Case("listings", """
        gcc -c s.s -Wa,-ahls=lst
        gcc -c s.s -Wa,-MD,x.dd
        gcc -c s.s -Wa,--MD,x.dd
        gcc -c x.c -Wa,-adhln=l2
    """, excused=(TEMPORARY_NAME,)),
    Case("debug information", "gcc -c s.s -g; gcc -c S.S -g3 -I.; gcc -c s.s -Wa,-gdwarf-5"),
    Case("debug information about the temporary source", "gcc -c x.c -Wa,-g", excused=(TEMPORARY_NAME,)),
    Case("directives that print", "gcc -c q.s", {"q.s": '.print "hello"\n.warning "w"\n.error "e"\n'}),
])

INCLUDES = Theme("includes", "How a header is found, and what it is when it is found twice.", [
    Case("-include, -imacros", "gcc -c y.c -include h.h -imacros m.h -MD -H",
         {"y.c": "int x = H + M;", "m.h": "#define M 3\nint ignored;"}),
    Case("-include of nothing", "gcc -c y.c -include nope.h; gcc -c y.c -imacros nope.h", {"y.c": "int x;"}),
    Case("a link to a folder", "gcc -c y.c -Ilnk -MD -g -H", {
        "y.c": '#include <z.h>\n#include "lnk/z.h"',
        "sub/z.h": "#ifndef A\n#define A\nint z;\n#endif\n",
    }, prepare="ln -s sub lnk"),
    Case("a link, and .. behind it", "gcc -c y.c -g -MD; gcc -c z.c -Ilnk/.. -MD -g", {
        "y.c": '#include "lnk/../q.h"',
        "z.c": "#include <q.h>",
        "a/b/k": "",
        "a/q.h": "int from_a;",
        "q.h": "int from_top;",
    }, prepare="ln -s a/b lnk"),
    Case("a missing folder, and .. behind it", "gcc -c y.c -Inodir/../; gcc -c y2.c",
         {"y.c": "#include <h.h>", "y2.c": '#include "nodir/../h.h"'}),
    Case("#pragma once, equal files", """
        gcc -c y.c -Ia -Ib
        cp -p a/o.h b/p.h
        gcc -c y2.c -H
    """, {
        "y.c": '#include "a/o.h"\n#include "b/o.h"\n',
        "y2.c": '#include "a/o.h"\n#include "b/p.h"',
        "a/o.h": "#pragma once\nint a = 1;\n",
        "b/o.h": "#pragma once\nint a = 1;\n",
    }),
    Case("#pragma once, names of one file", "gcc -c y.c -H", {
        "y.c": '#include "a/o.h"\n#include "h2.h"\n#include "h3.h"\n#include "./a/../a/o.h"',
        "a/o.h": "#pragma once\nint a = 1;\n",
    }, prepare="ln a/o.h h2.h; ln -s a/o.h h3.h"),
    Case("#import", "gcc -c y.c -H -Wno-deprecated", {"y.c": '#import "h.h"\n#import "./h.h"\n'}),
    Case("#include_next", "gcc -c y.c -Ia -Ib -H",
         {"y.c": "#include <stdlib.h>\n#include <n.h>", "a/n.h": "#include_next <n.h>\nint a;", "b/n.h": "int b;"}),
    Case("a computed name", "gcc -c y.c", {"y.c": '#define X "h.h"\n#include X\nint x=H;'}),
    Case("__has_include", "gcc -S y.c; g++ -S y.c -o z.s", {
        "y.c": "".join(f"int a{i} = __has_include({name});\n" for i, name in enumerate([
            '"h.h"', "<h.h>", '"sub"', '"/etc/passwd"', '"x.c/"', '"nodir/../h.h"', "<sys/types.h>", '"/nonexistent"',
            '"sub/.."', '"/dev/shm"'])),
        **FOLDER,
    }),
    Case("__has_include of devices and /proc", "gcc -S y.c; gcc -S z.c", {
        "y.c": 'int a = __has_include("/proc/version");\nint b = __has_include("/dev/null");\n',
        "z.c": '#if __has_include("/proc/self/cwd/h.h")\nint yes;\n#else\nint no;\n#endif\n',
    }, "uncovered-call"),
    Case("a folder", """
        gcc -c y.c
        mkdir q.h
        gcc -c z.c -Isub
        gcc -c w2.c
    """, {"y.c": '#include "sub"', "sub/q.h": "int q;", "z.c": "#include <q.h>", "w2.c": '#include "/"'}),
    Case("absolute", "gcc -c y.c -MD; gcc -c z.c",
         {"y.c": '#include "@TREE@/h.h"\nint x=H;', "z.c": '#include "/etc/passwd"'}),
    Case("/dev/stdin", "gcc -c y.c <h.h", {"y.c": '#include "/dev/stdin"\nint x = H;\n'}, "uncovered-call"),
    Case("/dev/fd", "gcc -c y.c 5<h.h", {"y.c": '#include "/dev/fd/5"\nint x = H;\n'}, "uncovered-call"),
    Case("/dev/null", """
        gcc -c y.c -include /dev/null -MD
        gcc -c -x c /dev/null -o n.o
        gcc -c z.c -MD
    """, {"y.c": "int x;", "z.c": '#include "/dev/null"\n'}),
    Case("an empty source", "gcc -Werror -include h.h -c -x c /dev/null -o n.o; g++ -g -MD -c -x c++ /dev/null -o m.o; clang -c -x c /dev/null -o l.o"),
    Case("/proc/self/cwd", "gcc -c y.c -I/proc/self/cwd/sub -MD -g", {"y.c": "#include <zz.h>\n", "sub/zz.h": "int z;"},
         "uncovered-call"),
    Case("out of /dev and /proc by ..", "gcc -c y.c -I/dev/..$TREE/sub -MD -g; gcc -c z.c",
         {"y.c": "#include <zz.h>\n", "sub/zz.h": "int z;", "z.c": '#include "/proc/..@TREE@/h.h"'}, "uncovered-call"),
    Case("process substitution", "gcc -c x.c -include <(echo 'int extra;')", where="stdin"),
    Case("a file that includes itself", "gcc -c y.c; gcc -c z.c 2>&1 | sed 5q",
         {"y.c": '#if __INCLUDE_LEVEL__ < 50\n#include "y.c"\n#endif\n', "z.c": '#include "z.c"\n'}),
    Case("names of 4095 bytes and more", "gcc -c y.c -MD; clang -c y.c -o 2.o; gcc -c z.c -o 3.o; clang -c z.c -o 4.o", {
        "y.c": f'#include "{"./" * 2046}h.h"\nint x = H;\n',
        "z.c": f'#include "{"./" * 2047}h.h"\nint x = H;\n',
    }),
    Case("800 headers", "gcc -c y.c -MD -H", {
        "y.c": "".join(f'#include "i/{i}.h"\n' for i in range(800)),
        **{f"i/{i}.h": f"int i{i};\n" for i in range(800)},
    }, rounds=1),
    Case("#pragma GCC dependency", "gcc -c y.c", {
        "y.c": '#pragma GCC dependency "h.h"\n#pragma GCC dependency "nope.h"\n#pragma GCC warning "hi"\n#warning x\n',
    }),
    Case("a precompiled header", """
        gcc -x c-header h.h
        gcc -c x.c -Winvalid-pch -H
        gcc -c x.c -O2 -Winvalid-pch -H
        rm h.h
        gcc -c x.c
        rm h.h.gch
    """, where="remote precompiled-header"),
    Case("a folder of precompiled headers", """
        gcc -c x.c -Winvalid-pch -H
        gcc -O2 -c x.c -Winvalid-pch -H
        rm -r h.h.gch
    """, prepare="""
        mkdir h.h.gch
        gcc -O2 -x c-header h.h -o h.h.gch/o2
        gcc -x c-header h.h -o h.h.gch/o0
    """),
])

TIME = Theme("time", "Macros that ask for the time of a file, or of day.", [
    Case("__TIMESTAMP__", """
        gcc -S y.c
        TZ=America/New_York gcc -S y.c -o t2.s
        TZ=:/etc/localtime gcc -S y.c -o t3.s
        g++ -S y.c -o t4.s
    """, TIMESTAMPS),
    Case("SOURCE_DATE_EPOCH", "SOURCE_DATE_EPOCH=1 gcc -S y.c; SOURCE_DATE_EPOCH=zz gcc -S y.c",
         {"y.c": "const char *t = __DATE__ __TIME__;"}),
])

WORKING_DIRECTORY = Theme("working directory", "It is in debug information, by the name that PWD gives it.", [
    Case("through a link, with any PWD", """
        cd lnk
        gcc -g -c y.c
        PWD=/ gcc -g -c y.c -o y2.o
        PWD= gcc -g -c y.c -o y3.o
        env -u PWD gcc -g -c y.c -o y4.o
        PWD=lnk gcc -g -c y.c -o y5.o
        PWD=$TREE/sub/../sub gcc -g -c y.c -o y6.o
    """, {"sub/y.c": '#include "../h.h"\nint x = H;'}, prepare="ln -s sub lnk"),
    Case("PWD=/proc/self/cwd", "export PWD=/proc/self/cwd; gcc -g -c x.c; g++ -g -c x.cc -o y.o",
         where="uncovered-call"),
    Case("deleted", """
        mkdir gone
        cd gone
        rmdir ../gone
        gcc -g -c ../x.c
        gcc -g -c $TREE/x.c -o $TREE/q.o
    """, where="no-working-directory"),
    Case("not listable", """
        chmod 111 sub
        cd sub
        gcc -g -c y.c -o ../q.o
    """, {"sub/y.c": "int x;"}),
])

RESPONSE_FILES = Theme("response files", "Some can be read once only.", [
    Case("quoting, nesting, missing", "gcc @r; gcc -c @r2; gcc @nope", {
        "r": "-c x.c -o 'q r.o' @s\n",
        "s": '-DFOO=\\"a\\ b\\" -g\n',
        "r2": "x.c -O2\n-Wall",
    }, "remote unreadable-response-file"),
    Case("process substitution", """
        gcc @<(echo '-c x.c -o q.o')
        clang @<(echo '-c x.c -o c.o')
        clang @<(echo '-E x.c -o q.i')
    """, where="unreadable-response-file"),
    Case("stdin", """
        echo '-c x.c -o q.o' | timeout 10 gcc @/dev/stdin
        echo '-c x.c -o c.o' | timeout 10 clang @/dev/stdin
    """, where="unreadable-response-file"),
])

OUTPUTS = Theme("outputs", "What is in the way of an object, and what the compiler would make of it.", [
    Case("in a missing folder", """
        gcc -c x.c -o nodir/x.o
        gcc -S x.c -o nodir/x.s
        gcc -c x.c -o x.c/x.o
        gcc -c x.c -o h.h/
    """),
    Case("a folder", """
        gcc -c x.c -o d
        gcc -S x.c -o d
        gcc -c x.c -o d/
    """, prepare="mkdir d"),
    Case("a trailing slash, empty, a dot", """
        gcc -c x.c -o x.o/
        gcc -c x.c -o ''
        gcc -c x.c -o .
        gcc -c x.c -o -
    """),
    Case("links", "gcc -c x.c; gcc -S x.c -o y.s", prepare="echo old >t; ln -s t x.o; echo old >t2; ln -s t2 y.s"),
    Case("links to empty files", "gcc -c x.c; gcc -c x.c -MD", prepare=": >t; ln -s t x.o; : >t2; ln -s t2 x.d"),
    Case("links to nothing", """
        gcc -c x.c
        gcc -c x.c -MD
        gcc -c x.c -o y.o
        gcc -S x.c -o z.s
        gcc -c x.c -o loop
        gcc -S x.c -o loop
    """, where="remote cannot-publish",
         prepare="ln -s t x.o; ln -s t2 x.d; ln -s nodir/q y.o; ln -s t3 z.s; ln -s loop loop"),
    Case("hard links", "gcc -c x.c -MD; gcc -c x.c -o y.o",
         prepare="echo old >t; ln t x.o; echo older >t2; ln t2 x.d; : >e; ln e y.o"),
    Case("a fifo", """
        timeout 10 cat x.o >n &
        timeout 10 gcc -c x.c
        wait
    """, where="uncovered-call", prepare="mkfifo x.o", excused=(TEMPORARY_NAME,)),
    Case("a fifo for dependencies", """
        timeout 10 cat x.d >n &
        timeout 10 gcc -c x.c -MD
        wait
    """, prepare="mkfifo x.d"),
    Case("/dev/null", """
        gcc -c x.c -o /dev/null
        gcc -S x.c -o /dev/null
        test -c /dev/null
        gcc -c w.c -Wall -o /dev/null -MD -MF q.d
    """),
    Case("the modes of what is there", """
        gcc -c x.c -MD
        gcc -c x.c -o e.o
        gcc -S x.c -o s.s
    """, prepare="""
        echo old >x.o; chmod 4755 x.o
        echo old >x.d; chmod 4755 x.d
        : >e.o; chmod 700 e.o
        : >s.s; chmod 2711 s.s
    """),
    Case("attributes of what is there", "gcc -c x.c -MD", prepare="""
        echo old >x.d
        : >x.o
        $PYTHON -c "import os; [os.setxattr(name, 'user.kk', b'v') for name in ('x.d', 'x.o')]"
    """),
    Case("the same file, for who has it open", """
        exec 7<x.d 8<x.s
        gcc -c x.c -MD
        gcc -S x.c
        wc -c <&7
        wc -c <&8
    """, prepare="echo old >x.d; echo old >x.s"),
    Case("umask", """
        umask 077; gcc -c x.c -MD
        umask 0; gcc -c x.c -o y.o -MD
    """),
    Case("of an earlier compile, when this one fails", """
        gcc -c bad.c -MD
        gcc -S bad.c
        gcc -c -save-temps bad.c
        gcc -c bad.c -fstack-usage
    """, prepare="for suffix in o d s; do echo old >bad.$suffix; done"),
    Case("over an input", """
        gcc -c x.c -o x.c
        gcc -c x.c -o ./x.c
        ln x.c l.c
        gcc -S x.c -o l.c
        gcc -c x.c -o h.h
        gcc -c x.c -MD -MF h.h -o q.o
    """),
    Case("/dev/full, and where nothing can be made", """
        gcc -c x.c -o /sys/x.o
        gcc -c x.c -o /proc/x.o
        gcc -S x.c -o /sys/x.s
        gcc -c x.c -o /dev/full
        gcc -S x.c -o /dev/full
    """, where="output-to-stdout uncovered-call", excused=(TEMPORARY_NAME,)),
    Case("in /dev/shm", """
        cd $there
        gcc -g -c x.c -MD
        cp x.o x.d $TREE
        cd $TREE
        gcc -c $there/x.c -o y.o -MD
        rm -r $there
    """.replace("$there", "/dev/shm/differential-case-outputs"), prepare="""
        mkdir -p /dev/shm/differential-case-outputs
        cp x.c h.h /dev/shm/differential-case-outputs
    """),
])

# Options, and where gcc runs with them. The option matrix tries them on every compiler.
OPTION_SETS = [
    # Additional outputs
    ("-gsplit-dwarf -g", "remote"),
    ("-gsplit-dwarf -g -o sub/q.o", "remote"),
    ("-gsplit-dwarf -g -o sub/../y.o", "remote"),
    ("-save-temps", "remote"),
    ("-save-temps=obj -o sub/q.o", "remote"),
    ("-save-temps=cwd -o sub/q.o", "remote"),
    ("-save-temps -gsplit-dwarf -g", "remote"),
    ("-save-temps -flto -frandom-seed=1", "remote"),
    ("-save-temps -MD -pipe", "remote"),
    ("-fstack-usage", "remote"),
    ("-fcallgraph-info", "remote"),
    ("-fcallgraph-info=su,da -fstack-usage -o sub/k.o", "remote"),
    ("-aux-info aux", "remote"),
    ("-fopt-info-all=opt.txt -O3", "remote"),
    ("-fdiagnostics-format=json-file -Wall", "remote"),
    ("-fdump-tree-all -O1", "remote"),
    ("-fdump-tree-all-graph -O1", "remote"),
    ("-fdump-tree-optimized=foo.txt", "remote"),
    ("-fdump-tree-gimple=sub/../g.txt", "remote"),
    ("-fdump-tree-gimple=stderr", "remote"),
    ("-fdump-tree-gimple=stdout", "remote"),
    ("-fdump-tree-gimple=/dev/stderr", "uncovered-call"),
    ("-fdump-unnumbered -fdump-tree-original", "remote"),
    ("-fdump-noaddr -fdump-rtl-expand", "remote"),
    ("-fdump-noaddr -fdump-rtl-all", "remote"),
    ("-fdump-noaddr -da -dP", "remote"),
    ("-fdump-noaddr -fdump-ipa-all -O2", "remote"),
    ("-fdump-lang-all", "remote"),
    ("-fdump-earlydebug", "remote"),
    ("-fdump-statistics -O2", "remote"),
    ("-fdump-passes", "remote"),
    ("-fdump-internal-locations", "remote"),
    ("-fdump-go-spec=go.txt", "remote"),
    ("-fdump-ada-spec", "remote"),
    ("-dumpbase ''", "remote"),
    # Code and debug information
    ("-flto -frandom-seed=1 -O2", "remote"),
    ("-flto -ffat-lto-objects -frandom-seed=1", "remote"),
    ("-frecord-gcc-switches", "remote"),
    ("-g -grecord-gcc-switches -O2", "remote"),
    ("-g3", "remote"),
    ("-g -gz", "remote"),
    ("-ggdb -fdebug-prefix-map=$TREE=/x -fmacro-prefix-map=$TREE=/y", "remote"),
    ("-pipe -O2", "remote"),
    ("-pg", "remote"),
    ("-fsanitize=address,undefined -g", "remote"),
    ("-S -fno-asynchronous-unwind-tables -masm=intel", "remote"),
    ("-dA -S", "remote"),
    ("--param=max-inline-insns-auto=9 -O2", "remote"),
    # Languages and the preprocessor
    ("-x c++", "remote"),
    ("-std=c89 -pedantic", "remote"),
    ("-ansi -Wtraditional", "remote"),
    ("-no-integrated-cpp", "remote"),
    ("-traditional-cpp", "remote"),
    ("-fpreprocessed", "remote"),
    ("-fdirectives-only", "remote"),
    ("-dD", "remote"),
    ("-DX -UX -A x=y", "remote"),
    # Diagnostics
    ("-Werror -Wall", "remote"),
    ("-fmax-errors=1", "remote"),
    ("-fanalyzer", "remote"),
    ("-fopt-info -O3", "remote"),
    ("-fopt-info-vec-missed -O3", "remote"),
    ("-fdiagnostics-format=json -Wall", "remote"),
    ("-fdiagnostics-color=always -Wall", "remote"),
    ("-fdiagnostics-generate-patch -Wall", "remote"),
    ("-fdiagnostics-parseable-fixits -Wall", "remote"),
    ("-ftrack-macro-expansion=0 -Wall", "remote"),
    ("-Wmissing-include-dirs -Inope", "remote"),
    # Errors in options are the driver's or the compiler's to report
    ("-fcf-protection=bogus", "remote"),
    ("-march=bogus", "remote"),
    ("-fbogus", "remote"),
    ("--param bogus=1", "remote"),
    ("-std=bogus", "remote"),
    ("-Wbogus -Wno-bogus", "remote"),
    ("-gbogus", "remote"),
    ("-Obogus", "remote"),
    ("-x bogus", "remote"),
    # What has to run here, or is not known to be safe elsewhere
    ("-fverbose-asm -S", "host-memory"),
    ("--coverage -frandom-seed=1", "remote"),
    ("-fprofile-generate -frandom-seed=1", "remote"),
    ("-fprofile-use", "remote"),
    ("-fbranch-probabilities", "remote"),
    ("-v", "verbose"),
    ("-###", "verbose"),
    ("-fself-test=x", "unknown-option"),
    ("-fcompare-debug", "unknown-option"),
    ("-include-directory sub", "link-input"),
    ("-mtune=native -march=x86-64", "remote"),
    ("-D", "missing-argument"),
]

OPTIONS = Theme("options", "One set of options each, on a compile that is clean and one that warns.", [
    Case(options, f"gcc -c x.c {options}; gcc -c w.c {options.replace('sub/q.o', 'sub/w.o')}", FOLDER, where, rounds=1,
         excused=(TEMPORARY_NAME,) if where == "verbose" else ())
    for options, where in OPTION_SETS
] + [
    Case("of C++", """
        for options in -gsplit-dwarf -save-temps -fdump-tree-gimple '-flto -frandom-seed=3' -fstack-usage \\
                -fno-implicit-templates '-std=c++20 -fconcepts' -fmodules-ts; do
            g++ -c -g x.cc $options
        done
    """, where="remote modules", rounds=1),
    Case("without arguments", """
        gcc -c x.c -o
        gcc -c
        gcc
        gcc -c -o x.o
        gcc -o
    """, where="missing-argument no-source"),
    Case("that contradict each other", """
        gcc -c x.c ''
        gcc '' -c x.c
        gcc -c x.c -
        gcc -c x.c nope.o
        gcc -c x.c -lfoo
        gcc -c x.c -Wl,foo
        gcc x.c -c -E
        gcc -c -S x.c
        gcc -S -c -fsyntax-only x.c
        gcc -c x.c -Xassembler -W
        gcc -c -xc x.c -xnone s.s
        gcc -c x.c -x c
    """, where="remote link-input preprocess stdin"),
    Case("that ask for this processor", """
        gcc -S x.c -O2 -mtune=native
        gcc -S x.c -mcpu=native
        gcc -S x.c -march=nativefoo
        gcc -S x.c -Wa,-march=native
        gcc -c x.c -Wa,-mtune=generic64
        gcc -S @r
    """, {"r": "-march=native"}, "remote no-source"),
    Case("that clang does not take for this processor",
         "clang -S x.c -mcpu=native; clang -S x.c -mcpu=native -march=native", where="march-native"),
    Case("this processor in a pragma", "gcc -S y.c -O2; gcc -S z.c; clang -S z.c -o c.s", {
        "y.c": '#pragma GCC target("arch=native")\nint f(void){return 1;}',
        "z.c": '__attribute__((target("arch=native,tune=native"))) int f(void){return 1;}',
    }, "remote"),
])

DIAGNOSTICS = Theme("diagnostics", "Where messages go, in which order, and what if they cannot.", [
    Case("into a full device", """
        gcc -S x.c -o - >/dev/full
        gcc -Wall -S w.c -o - >/dev/full
    """, where="cannot-print"),
    Case("into stdout", """
        gcc -c w.c -Wall 2>&1
        gcc -c q.c -H -fopt-info=stdout 2>&1
        gcc -S w.c -o - 2>&1
        (gcc -S w.c -Wall -o - 2>&1) >log
    """, {"q.c": '#include "h.h"\nint x;'}, "remote output-to-stdout"),
    Case("two megabytes", "gcc -c q.c -Wall", {
        "q.c": "".join(f"static int f{i}(int a){{ int u; if(a=1) return u; return 'abcd'; }}\n" for i in range(2500)),
    }, rounds=1),
    Case("of several programs, in their order", "gcc -c w.c q.s bad.c -Wall 2>&1",
         {"q.s": '.print "hello"\n.warning "w"\n.error "e"\n'}),
    Case("appended to a file", """
        echo start >log
        gcc -c w.c -Wall 2>>log
        gcc -c bad.c >>log 2>>log
    """),
    Case("on a terminal", """
        terminal() { $PYTHON terminal.py "$@"; }
        terminal gcc -c w.c -Wall
        TERM=xterm-256color terminal gcc -c w.c bad.c -Wall
        COLUMNS=40 TERM=xterm terminal gcc -c w.c -Wall
        GCC_COLORS='error=01;32' TERM=xterm terminal gcc -c bad.c
        TERM=xterm GCC_URLS=bel terminal gcc -c w.c -Wall
        TERM=dumb terminal g++ -c x.cc bad.c
    """, {"terminal.py": """\
import fcntl, os, pty, struct, sys, termios
pid, terminal = pty.fork()
if pid == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 61, 0, 0))
    os.execvp(sys.argv[1], sys.argv[1:])
while True:
    try:
        data = os.read(terminal, 65536)
    except OSError:
        break
    if not data:
        break
    sys.stdout.buffer.write(data)
print("terminal status", os.waitpid(pid, 0)[1])
"""}),
    Case("stdin closed", "gcc -c w.c -Wall <&-; gcc -c bad.c <&-", where="closed-descriptor"),
    Case("stdout closed", """
        gcc -c w.c -Wall >&-
        gcc -c x.c >&-
        g++ -c x.cc >&- 2>err
    """, where="closed-descriptor"),
    Case("stderr closed", """
        gcc -c w.c -Wall 2>&-
        gcc -c x.c 2>&-
        gcc -c bad.c 2>&-
    """, where="closed-descriptor"),
    Case("all closed", "gcc -c x.c <&- >&- 2>&-; gcc -c bad.c <&- >&- 2>&-", where="closed-descriptor"),
    Case("closed for what is no compile", """
        gcc -E x.c >&-
        gcc -v >&- 2>&-
        gcc --version >&-
        gcc -E x.c <&- >o.i
        gcc -o prog main.c >&- 2>&-
        gcc -print-prog-name=as >&-
    """, {"main.c": "int main(){return 0;}"}, "link preprocess query"),
    Case("onto a full device", """
        gcc -c w.c -Wall 2>/dev/full
        gcc -c bad.c 2>/dev/full
        gcc -c x.c -H 2>/dev/full
    """),
])

ENVIRONMENT = Theme("environment", "Variables that steer the compiler, the loader or the shell.", [
    Case("empty", """
        env -i /usr/bin/gcc -c x.c
        env -i PATH=/usr/bin gcc -c x.c -o y.o
        env -i sh -c 'gcc -c w.c -Wall'
        env -i CPATH=sub /usr/bin/gcc -c q.c
    """, {"q.c": "#include <s.h>\n", "sub/s.h": "int s;"}),
    Case("CPATH and its relatives", """
        CPATH=sub gcc -c q.c -MD
        C_INCLUDE_PATH=:sub gcc -c q.c -MD -MF 2.d
        CPLUS_INCLUDE_PATH=$TREE/sub g++ -c q.c -MD -MF 3.d
        CPATH=: gcc -c r.c -MD -MF 4.d
    """, {"q.c": "#include <s.h>\n", "r.c": "#include <h.h>\n", "sub/s.h": "int s;"}),
    Case("a variable twice, and one that is none", """
        gcc -o twice twice.c
        ./twice gcc -c q.c -MD
        ./twice gcc -E q.c
        ./twice gcc -M q.c
    """, {
        "q.c": "#include <n.h>\n",
        "a/n.h": "int a;",
        "b/n.h": "int b;",
        "twice.c": """\
#define _GNU_SOURCE
#include <unistd.h>
int main(int argc, char **argv) {
    char *variables[1024] = {"C_INCLUDE_PATH=a"};
    int n = 1;
    for (char **old = environ; *old && n < 1000; old++) variables[n++] = *old;
    variables[n++] = "C_INCLUDE_PATH=b";
    variables[n++] = "noequals";
    execvpe(argv[1], argv + 1, variables);
    return 99;
}
""",
    }, "remote link dependencies-only preprocess"),
    Case("TMPDIR", """
        TMPDIR=/nonexistent gcc -c x.c
        TMPDIR=$TREE/tmp gcc -c x.c -o y.o
        TMPDIR=$TREE/x.c gcc -c x.c
        TMPDIR= gcc -c q.c
        TMPDIR=$TREE/tmp gcc -c q.c
    """, {"tmp/k": "", **ASM_ERROR}, excused=(TEMPORARY_NAME,)),
    Case("TMPDIR in the folder of the source", """
        cd sub
        TMPDIR=$TREE/sub gcc -g -c x.c -save-temps
        TMPDIR=. gcc -c x.c -o q.o
        ls
    """, FOLDER, prepare="cp x.c h.h sub"),
    Case("languages", """
        LC_ALL=de_DE.UTF-8 gcc -c bad.c
        LC_ALL= LANG=de_DE gcc -c bad.c
        LC_ALL=C.UTF-8 gcc -c bad.c
        LC_ALL= LANG=en_US.UTF-8 gcc -c bad.c
        LC_ALL=C.UTF-8 LANGUAGE=de gcc -c bad.c
        LC_ALL=POSIX gcc -c bad.c
        LC_ALL= LC_CTYPE=C.UTF-8 gcc -c bad.c
        LC_ALL= LANG= gcc -c bad.c
    """, where="remote locale"),
    Case("DEPENDENCIES_OUTPUT", "DEPENDENCIES_OUTPUT='dd tgt' gcc -c x.c; SUNPRO_DEPENDENCIES=sd gcc -c x.c",
         where="environment"),
    Case("a megabyte", """
        export a=$(head -c 100000 /dev/zero | tr '\\0' x)
        export b=$a c=$a d=$a e=$a f=$a g=$a h=$a i=$a
        gcc -c x.c
    """),
    Case("20000 options", "gcc -c x.c $(seq -f '-DABCDEFGHIJKLMNOPQRSTUVW%.0f=1' 20000)"),
    Case("options of 131000 and 5000 bytes", """
        gcc -c x.c -DX=$(head -c 131000 /dev/zero | tr '\\0' x)
        gcc -c x.c -I$(head -c 5000 /dev/zero | tr '\\0' x)
    """),
    Case("3000 folders to search", "gcc -c x.c $(seq -f '-Id%g' 3000)"),
    Case("libraries in the working directory", """
        LD_LIBRARY_PATH=: gcc -c x.c
        LD_LIBRARY_PATH=$TREE gcc -c x.c
        LD_LIBRARY_PATH=. gcc -c x.c
    """, {"libz.so.1": ""}, "environment toolchain-unknown"),
    Case("libraries in a folder", """
        LD_LIBRARY_PATH=$TREE/lib gcc -c x.c
        mkdir lib
        : >lib/libmpfr.so.6
        LD_LIBRARY_PATH=$TREE/lib gcc -c x.c
        rm -r lib
        LD_LIBRARY_PATH=$TREE/lib gcc -c x.c
    """, where="remote toolchain-unknown", rounds=1),  # an unknown toolchain is not asked for again
    Case("somebody else's preload library", "LD_PRELOAD=\"libm.so.6 ${LD_PRELOAD:-}\" gcc -c x.c",
         where="foreign-preload"),
])

PROGRAMS = Theme("programs", "Which file is run as gcc, and under which name.", [
    Case("a link to gcc in PATH", """
        PATH=bin:$PATH gcc -c x.c
        cd bin
        ./gcc -c ../x.c
        ../bin/gcc -c ../bad.c
        PATH=:$PATH gcc -c ../bad.c
    """, prepare="mkdir bin; ln -s /usr/bin/gcc bin/gcc"),
    Case("copies and links under other names", """
        ./gcc -c x.c
        ./mygcc -c x.c -o 2.o
        ./x86-gcc -c x.c -o 3.o
    """, prepare="cp /usr/bin/gcc gcc; cp /usr/bin/gcc mygcc; ln -s /usr/bin/gcc x86-gcc"),
    Case("somebody's own as in PATH", """
        PATH=$TREE/bin:$PATH gcc -c x.c
        PATH=bin:$PATH gcc -c x.c
        gcc -c x.c -B bin
    """, {"bin/as": '#!/bin/sh\necho own-as >&2\nexec /usr/bin/as "$@"\n'}, prepare="chmod +x bin/as",
         where="foreign-program script-compiler"),
    Case("exec with another argv[0]", "exec -a foo gcc -c bad.c"),
    Case("any argv[0]", """
        (exec -a gcc-99 gcc -c bad.c)
        (exec -a clang gcc -c bad.c)
        (exec -a g++ gcc -c x.cc)
        (exec -a '' gcc -c bad.c)
        (exec -a /nonexistent/gcc gcc -c x.c)
    """, where="remote foreign-program unknown-option"),
])

# What fails for a limit is repeated here: the rank's own might be to blame.
LIMITS = Theme("limits", "What a process may not do here, it may not do there.", [
    Case("the size of files", """
        ulimit -c 0
        ulimit -f 1
        gcc -c q.c
        gcc -S q.c
        ls -a
    """, {"q.c": "".join(f"int a{i}={i};\n" for i in range(3000))}, excused=(SHELL_PID,), where="rank-trouble"),
    Case("the size of files, and a list of commands that is as large", """
        ulimit -c 0
        ulimit -f 4
        gcc -c x.c
        gcc -c w.c -Wall
        gcc -S bad.c
    """, prepare=r"printf 'local\tfull\t%04096d\n' 0 >>$MPICC_PROXY_LOG", where="full"),
    Case("memory", """
        ulimit -v 30000
        gcc -c x.cc
        g++ -c x.cc -O2
    """, where="library-inactive"),
    Case("the stack", """
        ulimit -c 0
        ulimit -s 200
        gcc -c q.c
    """, {"q.c": "int x = " + "(" * 20000 + "1" + ")" * 20000 + ";\n"}, rounds=1, where="rank-trouble"),
    Case("ignored signals", "trap '' INT TERM HUP PIPE; gcc -c w.c -Wall"),
])

CALLERS = Theme("callers", "Who starts the compiler, and what it is given beside arguments.", [
    Case("sh", """
        sh -c 'gcc -c x.c && mv x.o y.o'
        sh -c 'gcc -c x.c -o .tmp && mv .tmp z.o'
        sh -c 'gcc -c w.c -Wall'
    """),
    Case("descriptors", """
        exec 198<h.h 199>o9
        gcc -c x.c
        echo hi >&199
        cat <&198
        exec 198<&- 199>&-
    """),
    Case("python", "$PYTHON caller.py", {"caller.py": """\
import os, subprocess
print(subprocess.call(["gcc", "-c", "x.c"]), flush=True)
print(subprocess.run("gcc -c w.c -Wall", shell=True, capture_output=True), flush=True)
print(os.system("gcc -c bad.c"), flush=True)
os.posix_spawn("/usr/bin/gcc", ["gcc", "-S", "x.c"], os.environ)
os.wait()
if os.fork() == 0:
    os.execvp("gcc", ["gcc", "-c", "x.c", "-o", "forked.o"])
os.wait()
subprocess.call(["gcc", "-c", "x.c"], close_fds=True, cwd="sub")
subprocess.call(["gcc", "-c", "../x.c"], close_fds=False, cwd="sub")
""", **FOLDER}),
    Case("perl", """
        perl -e '
            $| = 1;
            system("gcc", "-c", "x.c");
            print $?, `gcc -c w.c 2>&1`;
            exec {"gcc"} "gcc", "-c", "bad.c"'
    """),
    Case("ccache", """
        export CCACHE_DIR=$TREE/.cc CCACHE_NOHASHDIR=1
        PATH=/usr/lib/ccache:$PATH gcc -c x.c -g -MD
        ccache gcc -c x.c -o y.o
        ccache gcc -c w.c -Wall
        rm -rf .cc
        ls -a
    """, where="remote preprocess"),
    Case("a build with a link", """
        gcc -c x.c && gcc -shared -fPIC x.c -o x.so && gcc -o m main.c && ./m
        ar rcD l.a x.o
        nm l.a
    """, {"main.c": "int main(){return 0;}"}, "remote link"),
])

CHANGES = Theme("changes", "The next compile sees what the commands before it did.", [
    Case("a header written anew, 40 times", """
        for i in {100..139}; do
            echo "int v$i;" >g.h
            gcc -c q.c -o $i.o
        done
    """, {"q.c": '#include "g.h"\n'}, rounds=1),
    Case("with the same size and time", """
        for i in {100..129}; do
            echo "int v$i;" >g.h
            touch -d @1500000000 g.h
            gcc -c q.c -o $i.o
        done
    """, {"q.c": '#include "g.h"\n'}, rounds=1),
    Case("in place, with the same size and time", """
        for i in {100..129}; do
            echo "int v$i;" | dd of=g.h conv=notrunc status=none
            touch -r x.c g.h
            gcc -c q.c -o $i.o
        done
    """, {"q.c": '#include "g.h"\n', "g.h": "int v000;\n"}, rounds=1),
    Case("through a mapping", """
        for i in {100..119}; do
            $PYTHON write.py $i
            gcc -c q.c -o $i.o
        done
    """, {
        "q.c": '#include "g.h"\n',
        "g.h": "int v000;\n",
        "write.py": 'import mmap, sys\nwith open("g.h", "r+b") as file:\n'
                    "    mmap.mmap(file.fileno(), 0)[5:8] = sys.argv[1].encode()\n",
    }, rounds=1),
    Case("the source", """
        for i in 1 2 3 4 5 6 7 8 9; do
            echo "int s$i;" >q.c
            gcc -c q.c -o $i.o -g
        done
    """),
    Case("a header deleted, made anew, a link, a folder", """
        gcc -c x.c
        rm h.h
        gcc -c x.c
        echo '#define H 9' >h.h
        gcc -c x.c -o 2.o
        mv h.h hh.h
        ln -s hh.h h.h
        gcc -c x.c -MD -o 3.o
        rm h.h
        mkdir h.h
        gcc -c x.c
        rmdir h.h
        echo '#define H 8' >h.h
        gcc -c x.c -o 4.o
    """),
    Case("a header earlier on the way", """
        mv a a-for-later
        compile() { gcc -c q.c -Ia -Ib -o $1.o; }
        compile 1
        mkdir a
        compile 2
        echo 'int from_new_a;' >a/n.h
        compile 3
        rm a/n.h
        compile 4
        rmdir a
        ln -s c a
        compile 5
        rm b/n.h
        compile 6
        rm a
        ln -s b a
        compile 7
    """, EITHER_HEADER),
    Case("a folder replaced by a link to it", """
        compile() { gcc -g -MD -c q.c -isystem $TREE/folder -o $1.o -MF $1.d; }
        compile 1
        mv folder e
        ln -s e folder
        compile 2
        rm folder
        mv e folder
        compile 3
    """, {"q.c": "#include <n.h>\n", "folder/n.h": "int n;"}),
    Case("a link to a folder, led elsewhere", """
        compile() { gcc -g -MD -c q.c -isystem $TREE/lnk/d -o $1.o -MF $1.d; }
        compile 0
        ln -s folder lnk
        compile 1
        mv folder b
        rm lnk
        ln -s b lnk
        compile 2
    """, {"q.c": "#include <n.h>\n", "folder/d/n.h": "int n;"}),
])

CLANG = Theme("clang", "The other compiler.", [
    Case("compiles", """
        clang -c x.c -g -MD
        clang -c w.c -Wall
        clang++ -c x.cc
        clang -c bad.c
        clang -S -emit-llvm x.c
        clang -c S.S -I.
        clang -c x.c -save-temps
        clang -c x.c -MJ db.json
        clang -c -x c /dev/null -o n.o
        clang -c x.c -o nodir/x.o
        clang -c x.c -gsplit-dwarf -g
        clang -c nope.c
        clang -c x.c -serialize-diagnostics x.dia
        clang -fcolor-diagnostics -c w.c -fintegrated-as
    """),
    Case("outputs", """
        clang -c x.c
        clang -c x.c -o q.o -MD
        ln q.o q2.o
        clang -c x.c -o q.o
        clang -S x.c -o nodir/s
        clang -c x.c -o dd
        clang -c x.c -MD -MF f.d
        umask 077
        clang -c x.c -o u.o
    """, prepare="""
        echo old >t; ln -s t x.o
        echo old >q.o; chmod 755 q.o
        mkdir dd
        : >e.d; ln -s e.d f.d
    """),
    Case("precompiled headers and modules", """
        clang -x c-header h.h
        clang -include h.h -c x.c
        clang -c x.c -fmodules -fmodules-cache-path=$TREE/mc
        rm -rf mc h.h.gch
    """, where="modules precompiled-header remote"),
    Case("__TIMESTAMP__ and PWD", """
        clang -S y.c
        clang -S -g y.c -o g.s
        PWD=/proc/self/cwd clang -S -g y.c -o h.s
    """, TIMESTAMPS, "remote uncovered-call"),
])

PERMISSIONS = Theme("permissions", "What a file's mode forbids; $FOREIGN belongs to somebody else where it can.", [
    Case("an unreadable header", "gcc -c x.c; gcc -c y.c", {
        "y.c": 'int y = __has_include("h.h") + __has_include("p/q.h");',
        "p/q.h": "int q;",
    }, prepare="chmod 000 h.h"),
    Case("a folder that cannot be entered", """
        gcc -c z.c -Ip
        gcc -c z.c -Ip -I.
        gcc -c y.c
        gcc -c x.c -o p/x.o
        chmod 444 p
        gcc -c z.c -Ip
    """, {"y.c": 'int y = __has_include("p/q.h");', "z.c": "#include <q.h>", "p/q.h": "int q;"}, prepare="chmod 000 p"),
    Case("an unreadable file for .incbin", "gcc -c s.s", {"s.s": '.incbin "h.h"'}, prepare="chmod 000 h.h"),
    Case("a header unreadable for a while", """
        gcc -c x.c
        chmod 000 h.h
        gcc -c x.c
        chmod 644 h.h
        gcc -c x.c
    """),
    Case("a umask that forbids everything", "umask 777; gcc -c x.c -MD; gcc -S x.c", where="remote content-missing",
         excused=(TEMPORARY_NAME,)),
    Case("outputs that may not be written", """
        gcc -c x.c
        gcc -c x.c -MD
        gcc -S x.c -o x.d
        gcc -c x.c -o e.o
        gcc -c x.c -MD -MF w.d
    """, prepare="""
        echo old >x.o; chmod 444 x.o
        echo old >x.d; chmod 444 x.d
        : >e.o; chmod 000 e.o
        echo old >w.d; chmod 200 w.d
    """),
    Case("outputs in a folder that may not be written", """
        gcc -c x.c -o ro/x.o
        gcc -c x.c -o ro/e.o
        gcc -c x.c -o ro/n.o
        gcc -S x.c -o ro/x.s
        gcc -S x.c -o ro/n.s
        gcc -c x.c -MD -MF ro/n.d
        gcc -gsplit-dwarf -g -c x.c -o ro/k.o
        cd ro
        gcc -c ../x.c
        gcc -c ../x.c -save-temps
        gcc -gsplit-dwarf -g -c ../x.c -o ../k.o
        gcc -c ../x.c -fstack-usage -o e.o
    """, prepare="""
        mkdir ro
        echo old >ro/x.o; : >ro/e.o; echo old >ro/x.s
        chmod 555 ro
    """),
    Case("clang's, too", """
        clang -c x.c -o ro/q.o
        clang -c x.c -o ro/e.o
    """, prepare="mkdir ro; : >ro/e.o; chmod 555 ro"),
    Case("a working directory that may not be listed or written", """
        chmod 111 .
        gcc -c x.c -g
        chmod 555 .
        gcc -c x.c -g -o n.o
        chmod 755 .
    """),
    Case("somebody else's files", """
        gcc -c $FOREIGN/secret.c
        gcc -c x.c -include $FOREIGN/secret.c
        gcc -c x.c -I$FOREIGN/secret
        gcc -c x.c -o $FOREIGN/n.o
        gcc -c x.c -o $FOREIGN/x.o
        gcc -S x.c -o $FOREIGN/x.o
        gcc -c x.c -MD -MF $FOREIGN/x.o
        gcc -c x.c -o /usr/x.o
    """),
], user="nobody")

PRIVILEGES = Theme("privileges", "What root can do, and a compile that has fewer rights than the dispatcher.", [
    Case("outputs that may not be written", """
        gcc -c x.c -MD
        chmod 555 .
        gcc -c x.c -o q.o
    """, prepare="echo old >x.o; chmod 444 x.o; echo old >x.d; chmod 400 x.d"),
    Case("a umask that forbids everything", "umask 777; gcc -c x.c -MD; gcc -S x.c"),
    Case("the owner of what is there", """
        gcc -c x.c -MD
        gcc -c x.c -MD -MF y.d -o y.o
        gcc -S x.c
    """, prepare="""
        echo old >x.d; chgrp 12 x.d
        echo old >y.d; chown 12:12 y.d
        echo old >x.s; chgrp 12 x.s
        : >x.o; chgrp 12 x.o
    """),
    Case("a folder that gives its group", "gcc -c x.c -o d/x.o -MD; gcc -c x.c -save-temps=obj -o d/y.o",
         prepare="mkdir d; chgrp 12 d; chmod 2775 d"),
    Case("immutable files and folders", """
        gcc -c x.c
        gcc -c x.c -o d/x.o
        gcc -S x.c -o d/x.s
    """, prepare=": >x.o; mkdir d; chattr +i x.o d", where="remote cannot-publish"),
    Case("append-only files", "gcc -c x.c -MD", prepare="echo old >x.d; chattr +a x.d", where="cannot-publish"),
    Case("root without capabilities", """
        gcc -c x.c
        chmod 000 h.h
        setpriv --bounding-set -all --inh-caps -all gcc -c x.c
    """, where="remote other-viewpoint"),
    Case("root without groups", "setpriv --clear-groups --bounding-set -all --inh-caps -all gcc -c x.c",
         prepare="chgrp 12 h.h; chmod 040 h.h", where="other-viewpoint"),
    Case("another user", """
        nobody() { setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }
        nobody gcc -c x.c
        chmod 644 h.h
        nobody gcc -c x.c -MD
    """, prepare="chmod 777 .; chmod 600 h.h", where="no-dispatcher"),
    Case("a user namespace", "unshare -r gcc -c x.c -MD; unshare -U gcc -c x.c -o y.o -MD", where="other-viewpoint"),
], user="root")

MOUNTS = Theme("mounts", "The dispatcher serves its own view of the files, which must be the compiler's.", [
    Case("a folder below another, for one compile", """
        gcc -c q.c -Ia -o 0.o
        unshare -m sh -c 'mount --bind b a; gcc -c q.c -Ia -o 1.o; cat a/n.h'
        gcc -c q.c -Ia -o 2.o
    """, EITHER_HEADER, "remote other-viewpoint"),
    Case("sources in a mount of one's own", """
        unshare -m sh -c '
            mount -t tmpfs x sub
            cp h.h sub/
            echo "int q;" >sub/q.c
            cd sub
            gcc -g -c q.c -o ../q.o
            gcc -c q.c
            ls
            cp q.o ../r.o'
    """, FOLDER, "other-viewpoint"),
    Case("chroot", """
        mkdir r
        unshare -m sh -c '
            mount --rbind / r
            mount --bind b r$TREE/a
            chroot r sh -c "cd $TREE; gcc -c q.c -Ia"
            umount -R -l r'
        rmdir r
    """, EITHER_HEADER, "other-viewpoint"),
    Case("output on a full file system of one's own", """
        unshare -m sh -c 'mount -t tmpfs -o size=4k x m; cp x.c h.h m; gcc -c x.c -o m/x.o; echo $?; ls m'
    """, where="other-viewpoint", prepare="mkdir m", excused=(TEMPORARY_NAME,)),
    Case("output on a read-only file system of one's own", """
        unshare -m sh -c 'mount -t tmpfs -o ro x m; gcc -c x.c -o m/x.o; echo $?; gcc -S x.c -o m/x.s'
    """, where="other-viewpoint", prepare="mkdir m"),
    Case("output on a read-only file system", """
        gcc -c x.c -o m/x.o
        gcc -c x.c -o m/n.o
        gcc -S x.c -o m/x.o
        gcc -c x.c -MD -MF m/n.d
        cd m
        gcc -c ../x.c
        cd ..
        umount m
    """, prepare="mkdir m; mount -t tmpfs x m; echo old >m/x.o; mount -o remount,ro m"),
    Case("a full file system", """
        cp x.c h.h m
        gcc -c x.c -o m/x.o
        gcc -c x.c -MD -MF m/x.d
        ls m
        umount m
    """, prepare="mkdir m; mount -t tmpfs -o size=8k x m", where="cannot-publish", excused=(TEMPORARY_NAME,)),
    Case("a mount that comes and goes", """
        gcc -c q.c -Ia -o 1.o
        mount --bind b a
        gcc -c q.c -Ia -o 2.o
        umount a
        gcc -c q.c -Ia -o 3.o
    """, EITHER_HEADER),
], user="root")

def default_access(folder):
    """A command that gives `folder` a list from which every new file in it gets its rights."""
    return f"""$PYTHON -c "import os, struct; os.setxattr('{folder}', 'system.posix_acl_default', struct.pack('<I', 2)
        + b''.join(struct.pack('<HHI', *entry) for entry in [
            (1, 7, 2**32 - 1), (2, 6, 1234), (4, 5, 2**32 - 1), (16, 7, 2**32 - 1), (32, 0, 2**32 - 1)]))"
    """


MORE_OUTPUTS = Theme("more outputs", "Special files, special folders, and all that one command can write.", [
    Case("a fifo for assembler text", """
        timeout 10 cat x.s >n &
        timeout 10 gcc -S x.c
        wait
        test -p x.s
    """, prepare="mkfifo x.s"),
    Case("a fifo, and a compile that fails", """
        timeout 10 cat bad.s >n &
        timeout 10 gcc -S bad.c
        wait
        test -p bad.s
    """, prepare="mkfifo bad.s"),
    Case("a fifo that clang writes", """
        timeout 60 cat x.s >n &
        timeout 60 clang -S x.c
        wait
        test -p x.s
    """, prepare="mkfifo x.s"),
    Case("a fifo that is read from", """
        timeout 10 cat h.h >p &
        timeout 10 gcc -c x.c -include p
        wait
    """, prepare="mkfifo p", where="uncovered-call"),
    Case("a folder with default rights", """
        gcc -c x.c -o d/x.o -MD
        umask 027
        gcc -c x.c -o d/y.o -save-temps=obj
        clang -c x.c -o d/z.o
    """, prepare="mkdir d" + "\n" + default_access("d")),
    Case("a folder that gives its group, clang's", "clang -c x.c -o d/x.o -MD", prepare="mkdir d; chmod 2775 d"),
    Case("hundreds of dumps", "gcc -c x.c -O2 -save-temps -fdump-noaddr -fdump-tree-all -fdump-rtl-all -fdump-ipa-all",
         rounds=1),
    Case("all at once, clang's", """
        clang -c x.c -g -gsplit-dwarf -MD -save-temps -fstack-usage -serialize-diagnostics x.dia -MJ x.json \
            -fsave-optimization-record -O2
        clang++ -c x.cc -o y.o -MMD -MF y.d -save-temps=obj
    """),
    Case("read-only ones, clang's", """
        clang -c x.c -MD
        clang -S x.c
    """, prepare="for suffix in o d s; do echo old >x.$suffix; chmod 444 x.$suffix; done"),
    Case("/dev/null, clang's", """
        clang -c x.c -o /dev/null
        clang -S x.c -o /dev/null -MD -MF q.d
        test -c /dev/null
    """),
    Case("links and hard links, clang's", """
        clang -c x.c
        clang -S x.c
        clang -c x.c -MD -o q.o
    """, prepare="""
        echo old >t; ln -s t x.o
        echo old >t2; ln t2 x.s
        ln -s t3 q.d
    """, where="remote cannot-publish"),
    Case("when clang fails", """
        clang -c bad.c -MD
        clang -S bad.c
    """, prepare="for suffix in o d s; do echo old >bad.$suffix; done"),
])

ENTRY_POINTS = Theme("entry points", "A stand-in for a compiler makes each libc call on files, links and folders.", [
    Case(group, f"$ENTRY_POINTS -c x.c -DCALL={group}", {
        "old.o": "old\n", "old2.o": "older\n", "sub/k": "k\n", **{f"many/f{i}": "" for i in range(300)},
    }, prepare="""
        ln -s sub link
        ln -s nowhere dangling
        ln -s loop loop
        mkdir empty
    """)
    for group in ["opens", "writes", "stats", "names", "folders", "changes", "attributes", "temporaries"]
])

# Run and reported, but neither passed nor failed.
KNOWN_DIFFERENCES = Theme("known differences", "What differs, is known to, and stays for now.", [
    Case("so few descriptors that the loader fails", """
        ulimit -n 4
        gcc -c x.c
        ulimit -n 3
        gcc -c x.c
    """, known="with 4 descriptors or fewer the loader complains about our library, too"),
    Case("a reader that closes its pipe", """
        gcc -c w.c bad.c -Wall 2> >(exec true)
        { gcc -c w.c -Wall; echo $? >rc; } 2>&1 | true
        gcc -c w.c -Wall 2>&1 >/dev/null | head -c 10
    """, known="what a compiler does before SIGPIPE stops it is a race with the reader, with or without us"),
])

ALL = [
    dataclasses.replace(
        case, title=f"{theme.name}: {case.name}", user=theme.user, files=COMMON_FILES | case.files
    )
    for theme in [
        NAMES, SOURCES, DEPENDENCIES, ASSEMBLER, INCLUDES, TIME, WORKING_DIRECTORY, RESPONSE_FILES, OUTPUTS, OPTIONS,
        DIAGNOSTICS, ENVIRONMENT, PROGRAMS, LIMITS, CALLERS, CHANGES, CLANG, PERMISSIONS, PRIVILEGES, MOUNTS,
        MORE_OUTPUTS, ENTRY_POINTS, KNOWN_DIFFERENCES,
    ]
    for case in theme.cases
]

assert len({case.title for case in ALL}) == len(ALL), "two cases of one name"
