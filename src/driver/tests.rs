//! Command lines and their verdicts. What the drivers themselves say is in `tests/driver.rs`.

use super::*;
use mpicc_proxy_abi::driver::recognise;
use std::io;

/// `gcc -c a.c` → verdict; words are separated by single spaces.
fn verdict(command: &str) -> Verdict {
    let mut words = command.split(' ').map(|word| word.as_bytes().to_vec());
    let driver = recognise(&words.next().unwrap()).unwrap();
    let mut read = |name: &[u8]| match name {
        b"args" => Ok(b"-c 'a b.c' -DX=\\\"1\\\"".to_vec()),
        b"native" => Ok(b"-march=native".to_vec()),
        b"search" => Ok(b"-Bdir".to_vec()),
        b"plain" => Ok(b"*cc1:\n+ -O2\n".to_vec()),
        b"odd.specs" => Ok(b"*self_spec:\n+ -march=native\n".to_vec()),
        b"odd" => Ok(b"-c a.c ''".to_vec()),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    classify(driver, &words.collect::<Vec<_>>(), &mut read)
}

/// The verdict as a short text: `object a.c:c > a.o`, or the reason's name and detail.
fn brief(command: &str) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match verdict(command) {
        Verdict::Remote(compile) => {
            let mut brief = compile.product.name().to_string();
            for source in &compile.sources {
                brief += &format!(" {}:{}", text(&source.path), source.language.name());
            }
            brief + &compile.output.map(|output| format!(" > {}", text(&output))).unwrap_or_default()
        }
        Verdict::Local(reason) => {
            let detail = reason.detail.as_deref().map(|detail| format!(" {}", text(detail))).unwrap_or_default();
            reason.name().to_string() + &detail
        }
    }
}

fn check(table: &[(&str, &str)]) {
    for (command, expected) in table {
        assert_eq!(&brief(command), expected, "{command}");
    }
}

#[test]
fn compiles() {
    check(&[
        ("gcc -c a.c", "object a.c:c"),
        ("gcc -c a.c -o a.o", "object a.c:c > a.o"),
        ("gcc -oa.o -c a.c", "object a.c:c > a.o"),
        ("gcc --compile --output=a.o a.c", "object a.c:c > a.o"),
        ("gcc -S a.c", "assembly a.c:c"),
        ("gcc -c -S a.c", "assembly a.c:c"),
        ("g++ -c a.c b.cc", "object a.c:c++ b.cc:c++"),
        ("cc -c a.c b.cpp c.s d.S", "object a.c:c b.cpp:c++ c.s:assembler d.S:assembler-with-cpp"),
        ("gcc -c a.i b.ii c.sx", "object a.i:cpp-output b.ii:c++-cpp-output c.sx:assembler-with-cpp"),
        ("gcc -c -x c++ a.h -x none b.c -xassembler-with-cpp c", "object a.h:c++ b.c:c c:assembler-with-cpp"),
        ("gcc -c -o /dev/null -x c /dev/null", "object /dev/null:c > /dev/null"),
        ("clang -c -o a.o -- -a.c", "object -a.c:c > a.o"),
        ("gcc -c a.c -o /dev/shm/a.o", "object a.c:c > /dev/shm/a.o"),
        ("gcc @args", "object a b.c:c"),
        ("gcc -c a.c @native", "object a.c:c"),
        ("gcc -c -x c -", "object -:c"),
        ("gfortran -c a.f b.F90 -J mods -fintrinsic-modules-path c.f90", "object a.f:f77 b.F90:f95-cpp-input"),
        ("mpi-gfortran-12 -c -x f77-cpp-input a -x none b.FOR", "object a:f77-cpp-input b.FOR:f77-cpp-input"),
        ("gfortran -fsyntax-only a.f90 b.c -o c", "nothing a.f90:f95 b.c:c > c"),
        ("gcc -fsyntax-only -c a.c", "nothing a.c:c"),
        ("gcc -S a.c -o -", "assembly a.c:c > -"),
        ("gcc -c a.c -fdump-tree-all=-", "object a.c:c"),
        ("gcc -c a.c -MD -MF -", "object a.c:c"),
        ("gcc -c a.c -specs=plain -Bdir --coverage -fprofile-use=x.gcda", "object a.c:c"),
        ("gcc -c a.c -O2 -march=native -mtune=native -mno-avx", "object a.c:c"),
        ("clang -c a.c --gcc-toolchain=/opt -include-pch a.pch", "object a.c:c"),
        ("gcc -c a.c -Wa,-ahls=a.lst,--MD,a.d -finput-charset=UTF-8", "object a.c:c"),
        ("gcc -c a.c -lm -L lib -Wl,-z,now -static -u main -T script.c -Xlinker x.o", "object a.c:c"),
    ]);
}

#[test]
fn values_are_not_sources() {
    let separate = "-D -U -I -L -l -A -isystem -iquote -idirafter -include -imacros -iprefix -iwithprefix \
                    -iwithprefixbefore -isysroot --sysroot --param -MF -MT -MQ -T -u -e -z -o -Xlinker";
    for option in separate.split_whitespace() {
        for driver in ["gcc", "clang", "cc"] {
            let Verdict::Remote(compile) = verdict(&format!("{driver} -c {option} x.c y.c")) else {
                panic!("{driver} {option}");
            };
            assert_eq!(compile.sources.len(), 1, "{driver} {option}");
            assert_eq!(compile.sources[0].path, b"y.c");
        }
    }
}

#[test]
fn other_work() {
    check(&[
        ("gcc a.c", "link"),
        ("gcc a.o -o a", "link"),
        ("gcc -lm", "link"),
        ("gcc -march=native -flto a.o -o a -frobnicate --weird", "link"),
        ("gcc -E a.c", "preprocess"),
        ("gcc -E -dM - -o x", "preprocess"),
        ("gcc -c -E a.c", "preprocess"),
        ("gcc -M a.c", "dependencies-only"),
        ("gcc -c -MM -MF a.d a.c", "dependencies-only"),
        ("gcc --version", "query --version"),
        ("gcc -c a.c -print-search-dirs", "query -print-search-dirs"),
        ("gcc -Q --help=target", "query --help=target"),
        ("gcc -v", "query -v"),
        ("gcc -Wa,-v -c -o /dev/null -x assembler /dev/null", "query -v"),
        ("gcc -Xassembler --version -c a.c", "query --version"),
        ("clang -mcpu=help -c a.c", "query -mcpu=help"),
        ("gcc", "no-source"),
        ("gcc -c", "no-source"),
        ("gcc -c -O2 a.o", "no-source"),
        ("clang -cc1 -emit-obj a.c", "compiler-proper -cc1"),
        ("gcc a.h", "precompiled-header a.h"),
        ("g++ -x c++-header a.hpp -o a.gch", "precompiled-header a.hpp"),
        ("gcc -S a.S", "preprocess a.S"),
    ]);
}

#[test]
fn compiles_that_stay_here() {
    check(&[
        ("gcc -c -", "stdin -"),
        ("gcc -c -xc x.c -xnone -", "stdin -"),
        ("gcc -xc -c /dev/stdin", "stdin /dev/stdin"),
        ("gcc -c a.c -include /dev/fd/3", "stdin /dev/fd/3"),
        ("gcc -S a.c -o /dev/stdout", "output-to-stdout /dev/stdout"),
        ("gcc -c a.c -MD -MF /dev/stderr", "output-to-stdout /dev/stderr"),
        ("gcc -c a.c -Wp,-MD,/dev/stdout", "output-to-stdout /dev/stdout"),
        ("gcc -c a.c b.c -o x", "several-sources-one-output x"),
        ("gcc -c a.c --frobnicate", "unknown-option --frobnicate"),
        ("gcc -c a.c -target x86_64", "unknown-option -target"),
        ("gcc -c -- a.c", "unknown-option --"),
        ("clang --driver-mode=cl -c a.c", "unknown-option --driver-mode=cl"),
        ("clang -c -arch arm64 a.c", "unknown-option -arch"),
        ("clang -c -Xarch_host -O2 a.c", "unknown-option -Xarch_host"),
        ("clang -c -mllvm -stats a.c", "unknown-option -mllvm"),
        ("gcc -c a.c -o", "missing-argument -o"),
        ("gcc -c a.m", "unknown-language a.m"),
        ("clang -c -x f95 a.c", "unknown-language a.c"),
        ("f95 -c a.f90", "unknown-language a.f90"),
        ("gcc -c a.c b.o", "link-input b.o"),
        ("gcc -c a.h", "precompiled-header a.h"),
        ("cc -O2 -march=native -c a.c", "march-native -march=native"),
        ("gcc -O2 -march=native -specs=plain -c a.c", "march-native -march=native"),
        ("clang -march=native -c a.s", "march-native -march=native"),
        ("clang -march=native -grecord-command-line -c a.c", "march-native -march=native"),
        ("clang -c a.c @native", "march-native -march=native"),
        ("gcc -c a.c @search", "toolchain-search -Bdir"),
        ("gcc -specs=x -c a.c", "specs x"),
        ("gcc -specs=odd.specs -c a.c", "specs odd.specs"),
        ("gcc -wrapper x -c a.c", "wrapper -wrapper"),
        ("gcc -fplugin=x.so -c a.c", "plugin -fplugin=x.so"),
        ("clang -Xclang -load -Xclang x.so -c a.c", "plugin -load"),
        ("clang -Xclang -ast-dump -c a.c", "unknown-option -ast-dump"),
        ("gcc -finput-charset=latin1 -c a.c", "input-charset -finput-charset=latin1"),
        ("g++ -fmodules-ts -c a.cc", "modules -fmodules-ts"),
        ("clang++ -c a.cppm", "modules a.cppm"),
        ("clang -fopenmp-targets=x -c a.c", "offload -fopenmp-targets=x"),
        ("gcc -v -c a.c", "verbose -v"),
        ("gcc -ftime-report -c a.c", "timing -ftime-report"),
        ("gcc -Wa,--MD,/dev/stdout -c a.c", "output-to-stdout /dev/stdout"),
        ("gcc -S -fverbose-asm a.c", "host-memory -fverbose-asm"),
        ("gcc -Wp,-frob -c a.c", "unknown-option -frob"),
        ("gcc @missing", "unreadable-response-file missing"),
        ("gcc @odd", "ambiguous-response-file odd"),
    ]);
}

/// To spell out what a processor is, all that names processors and features must be known.
#[test]
fn native_comes_with_its_surroundings() {
    let machine = |command: &str| match verdict(command) {
        Verdict::Remote(compile) => compile.native.map(|words| String::from_utf8(words.join(&b' ')).unwrap()),
        Verdict::Local(reason) => panic!("{reason:?}"),
    };
    assert_eq!(machine("gcc -c -O2 -march=skylake a.c"), None);
    assert_eq!(machine("gcc -c -m32 -O2 -march=native a.c -mno-avx"), Some("-m32 -march=native -mno-avx".to_string()));
    assert_eq!(machine("clang -c -target x -mtune=native a.c"), Some("-target x -mtune=native".to_string()));
}

/// What real projects write; all of it must be remote.
#[test]
fn real_command_lines() {
    let lines = [
        // Linux
        "gcc -Wp,-MMD,kernel/.fork.o.d -nostdinc -I./arch/x86/include -include ./include/linux/kconfig.h -D__KERNEL__ \
         -fmacro-prefix-map=./= -Wundef -std=gnu11 -fshort-wchar -m64 -mno-sse -mpreferred-stack-boundary=3 \
         -march=k8 -mtune=generic -mcmodel=kernel -Wa,-mx86-used-note=no -mindirect-branch=thunk-extern \
         -fno-asynchronous-unwind-tables -fno-delete-null-pointer-checks -Wframe-larger-than=2048 -O2 --param=x=1 \
         -pg -mrecord-mcount -gdwarf-5 -Werror=date-time -DKBUILD_MODNAME=\"fork\" -c -o kernel/fork.o kernel/fork.c",
        "gcc -Wp,-MMD,a.d -D__ASSEMBLY__ -Wa,--divide -Wa,-gdwarf-5 -c -o arch/x86/head_64.o arch/x86/head_64.S",
        // CMake, ninja: LLVM
        "c++ -DGTEST_HAS_RTTI=0 -D_GNU_SOURCE -I/b/lib -isystem /usr/include/x -fPIC -fno-semantic-interposition \
         -fvisibility-inlines-hidden -Wdate-time -Wall -Wextra -pedantic -fdiagnostics-color -ffunction-sections -O3 \
         -DNDEBUG -std=c++17 -fno-exceptions -funwind-tables -fno-rtti -MD -MT a.cpp.o -MF a.cpp.o.d -o a.cpp.o -c a.cpp",
        // autoconf + libtool
        "gcc -DHAVE_CONFIG_H -I. -I.. -g -O2 -MT liba_la-a.lo -MD -MP -MF .deps/liba_la-a.Tpo -c a.c -fPIC -DPIC -o \
         .libs/liba_la-a.o",
        // Debian's hardening
        "gcc -g -O2 -ffile-prefix-map=/b=. -flto=auto -ffat-lto-objects -fstack-protector-strong \
         -fstack-clash-protection -Wformat -Werror=format-security -fcf-protection -Wp,-D_FORTIFY_SOURCE=2 -c a.c",
        // Chromium-like clang
        "clang++ -MMD -MF a.o.d -fno-delete-null-pointer-checks -fcolor-diagnostics --target=x86_64-linux-gnu \
         -fcrash-diagnostics-dir=crash -gsplit-dwarf -ggnu-pubnames -fuse-ctor-homing -Xclang -fdebug-pass-structure \
         --sysroot=/s -Wno-builtin-macro-redefined -D__DATE__= -nostdinc++ -isystem/l -c a.cc -o a.o",
        // GNU as
        "gcc -c -Wa,--noexecstack -Wa,-I,inc -Wa,--defsym,X=1 -Xassembler -mrelax-relocations=no a.S",
        "clang -Qunused-arguments -no-integrated-as -c -save-temps=obj -fstack-usage a.c",
    ];
    for line in lines {
        assert!(matches!(verdict(line), Verdict::Remote(_)), "{}\n{line}", explain_text(&verdict(line)));
    }
}

#[test]
fn names_are_bytes() {
    let driver = recognise(b"gcc").unwrap();
    let arguments = [b"-c".to_vec(), b"\xff.c".to_vec()];
    let verdict = classify(driver, &arguments, &mut |_| Err(io::ErrorKind::NotFound.into()));
    let Verdict::Remote(compile) = verdict else { panic!("{verdict:?}") };
    assert_eq!(compile.sources[0].path, b"\xff.c");
}

#[test]
fn explanations() {
    let remote = verdict("gcc -c a.c b.cc");
    assert_eq!(explain_text(&remote), "remote: it compiles a.c (c), b.cc (c++) to object");
    assert_eq!(
        serde_json::to_value(&remote).unwrap(),
        serde_json::json!({
            "verdict": "remote",
            "product": "object",
            "sources": [{"path": "a.c", "language": "c"}, {"path": "b.cc", "language": "c++"}],
            "output": null,
        })
    );
    let local = verdict("cc -march=native -c a.c");
    assert_eq!(
        explain_text(&local),
        "local (march-native): an option means the processor of this host and cannot be spelled out: -march=native"
    );
    let json = explain_json(&local);
    assert_eq!(json["verdict"], "local");
    assert_eq!(json["reason"], "march-native");
    assert_eq!(json["detail"], "-march=native");
    assert_eq!(explain_json(&verdict("gcc a.o"))["detail"], serde_json::Value::Null);
}
