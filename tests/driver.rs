//! Our reading of command lines against the drivers' own. `gcc -###` prints the programs that it would run without
//! running them: one compiler proper (`cc1`, `cc1plus`) or assembler per source that it sees, a linker if it links.
//! So for any option it tells whether the word behind it is a value or a source.
//!
//! Needs gcc, g++, gfortran and clang; their absence is a failure.

use mpicc_proxy::driver::{Cause, Verdict, classify};
use mpicc_proxy_abi::driver::recognise;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

fn verdict(driver: &str, arguments: &[&str]) -> Verdict {
    let arguments: Vec<_> = arguments.iter().map(|a| a.as_bytes().to_vec()).collect();
    classify(recognise(driver.as_bytes()).unwrap(), &arguments, &mut |_| Err(io::ErrorKind::NotFound.into()))
}

/// A folder for the drivers to look at; `-###` removes what it takes for an output, so the sources are made anew for
/// every question.
struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    /// Both streams of `driver arguments`, in English.
    fn ask(&self, driver: &str, arguments: &[&str]) -> String {
        for name in ["x.c", "y.c", "z.cc", "a.S", "a.s", "a.i", "a.ii", "a.o", "a.h", "x.f90", "y.f90", "q.F", "x"] {
            std::fs::write(self.path().join(name), "").unwrap();
        }
        let output = Command::new(driver)
            .args(arguments)
            .current_dir(self.path())
            .env("LC_ALL", "C")
            .output()
            .unwrap_or_else(|error| panic!("this test needs {driver}: {error}"));
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

/// What a driver would run.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// Runs of the compiler proper that end in code, and of `as` for sources in assembler.
    compiles: usize,
    preprocesses: bool,
    links: bool,
    refuses: bool,
}

fn plan(folder: &Folder, driver: &str, arguments: &[&str]) -> Plan {
    let text = folder.ask(driver, &[&["-###"], arguments].concat());
    let mut plan = Plan { compiles: 0, preprocesses: false, links: false, refuses: text.contains("error: ") };
    for command in text.lines().filter(|line| line.starts_with(' ')) {
        let words: Vec<&str> = command.split_whitespace().map(|word| word.trim_matches('"')).collect();
        let Some((program, rest)) = words.split_first() else { continue };
        match (program.rsplit('/').next().unwrap(), rest.first()) {
            ("cc1" | "cc1plus" | "f951", _) | (_, Some(&"-cc1")) => {
                if rest.contains(&"-E") || rest.contains(&"-Eonly") {
                    plan.preprocesses = true;
                } else {
                    plan.compiles += 1;
                }
            }
            ("collect2" | "ld", _) => plan.links = true,
            _ => {}
        }
    }
    plan
}

#[test]
fn stages_are_those_of_the_drivers() {
    let folder = Folder::new();
    let lines = [
        "-c x.c",
        "-c x.c y.c",
        "-S x.c",
        "-S -c x.c",
        "-c -S x.c -o x.s",
        "-E x.c",
        "-E -c x.c",
        "-c x.c -E",
        "-M x.c",
        "-MM -c x.c",
        "-c -MD x.c",
        "-c -MMD -MF x.d x.c",
        "-c -MD -MP -MT x.o -MQ y x.c",
        "-fsyntax-only x.c",
        "x.c",
        "x.c -o x",
        "a.o -o x",
        "x.c y.c a.o",
        "-c x.c -lm",
        "-c -o x.o -Wl,-z,now x.c",
        "-c a.i",
        "-c a.ii z.cc",
        "-c -x c++ x.c -x none y.c",
        "-xc++ -c x.c",
        "-c -x cpp-output x.c",
        "-c --sysroot / x.c",
        "-c --sysroot=/ x.c",
        "--compile x.c",
        "--assemble x.c",
        "--preprocess x.c",
        "--dependencies x.c",
        "--user-dependencies x.c",
        "--write-dependencies -c x.c",
        "--write-user-dependencies -c x.c",
        "--output x.o -c x.c",
        "--output=x.o -c x.c",
        "--language c++ -c x.c",
        "--language=c++ -c x.c",
        "-Xlinker x.c -c y.c",
        "-c a.o",
    ];
    for line in lines {
        let arguments: Vec<&str> = line.split(' ').collect();
        for driver in ["gcc", "g++", "clang", "clang++"] {
            let plan = plan(&folder, driver, &arguments);
            assert!(!plan.refuses, "{driver} {line}: {plan:?}");
            let verdict = verdict(driver, &arguments);
            let agrees = match &verdict {
                Verdict::Remote(compile) => plan.compiles == compile.sources.len() && !plan.preprocesses && !plan.links,
                Verdict::Local(reason) => match reason.cause {
                    Cause::Link => plan.links,
                    Cause::Preprocess | Cause::DependenciesOnly => plan.preprocesses && !plan.links,
                    Cause::NoSource => plan.compiles == 0 && !plan.links,
                    _ => false,
                },
            };
            assert!(agrees, "{driver} {line}: {verdict:?}, but {plan:?}");
        }
    }
}

#[test]
fn stages_are_those_of_gfortran() {
    let folder = Folder::new();
    let lines = [
        "-c x.f90",
        "-S x.f90 q.F",
        "-c x.f90 y.f90 x.c z.cc a.s",
        "-fsyntax-only x.f90",
        "-c -J x.f90 y.f90",
        "-c -Jx y.f90",
        "-c -fintrinsic-modules-path x.f90 y.f90",
        "-c -fintrinsic-modules-path=x.f90 y.f90",
        "-c -cpp x.f90 -nocpp -static-libgfortran",
        "-c -x f77 x -x f95-cpp-input x.c -x none y.f90",
        "-c -xf77-cpp-input x",
        "x.f90 -o x",
        "-E -cpp x.f90",
    ];
    for line in lines {
        let arguments: Vec<&str> = line.split(' ').collect();
        for driver in ["gfortran", "gcc"] {
            let plan = plan(&folder, driver, &arguments);
            assert!(!plan.refuses, "{driver} {line}: {plan:?}");
            let agrees = match &verdict(driver, &arguments) {
                // A plan counts assembling as part of compiling, except for sources in assembler.
                Verdict::Remote(compile) => {
                    let compiled = compile.sources.iter().filter(|source| !source.language.is_assembler()).count();
                    plan.compiles == compiled && !plan.preprocesses && !plan.links
                }
                Verdict::Local(reason) => match reason.cause {
                    Cause::Link => plan.links,
                    Cause::Preprocess => plan.preprocesses && !plan.links,
                    _ => false,
                },
            };
            assert!(agrees, "{driver} {line}: {:?}, but {plan:?}", verdict(driver, &arguments));
        }
    }
}

/// Options of GCC 12 that its help lists and that the table leaves out.
const LEFT_OUT: &[&str] = &[
    // Letters behind -d are listed one by one.
    "--dump",
    "--dump=",
    "-d",
    // gfortran's own, between driver and compiler proper.
    "-cpp=",
    // Of the compiler proper; the driver passes them or refuses them.
    "-imultiarch",
    "-imultilib",
    "-lang-asm",
    "-quiet",
    // Compiles twice.
    "-fcompare-debug",
    "-fcompare-debug-second",
    "-fcompare-debug=",
    "-fself-test=",
];

/// Every option that gcc's help lists for what we compile, without placeholders for values.
fn listed_options(folder: &Folder) -> BTreeSet<String> {
    let classes = ["common", "optimizers", "target", "warnings", "params", "c", "c++", "fortran"];
    let text: String = classes.iter().map(|class| folder.ask("gcc", &["-Q", &format!("--help={class}")])).collect();
    text.lines()
        .filter_map(|line| line.strip_prefix("  -")?.split_whitespace().next())
        .map(|option| format!("-{}", option.split(['<', '[']).next().unwrap()))
        .collect()
}

#[test]
fn every_option_that_gcc_lists_is_known() {
    let options = listed_options(&Folder::new());
    assert!(options.len() > 1200, "gcc's help was not understood: {} options", options.len());
    let mut unknown = Vec::new();
    for option in &options {
        if let Verdict::Local(reason) = verdict("gcc", &["-c", "y.c", option, "next.c"])
            && reason.cause == Cause::UnknownOption
            && !LEFT_OUT.contains(&option.as_str())
        {
            unknown.push(option);
        }
    }
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// Checks of each option that `driver` sees as many sources in `-S OPTION x.c y.c` as we do.
fn compare_shapes<'a>(driver: &str, options: impl Iterator<Item = &'a str>) -> usize {
    let folder = Folder::new();
    let mut compared = 0;
    let mut wrong = Vec::new();
    for option in options {
        let arguments = ["-S", option, "x.c", "y.c"];
        let sources = match verdict(driver, &arguments) {
            Verdict::Remote(compile) => compile.sources.len(),
            Verdict::Local(reason) if reason.cause == Cause::SeveralSourcesOneOutput => 2,
            Verdict::Local(_) => continue,
        };
        let plan = plan(&folder, driver, &arguments);
        // It may want a value, or another target; then it compiles nothing, here or elsewhere.
        if plan.refuses {
            continue;
        }
        compared += 1;
        // clang's -save-temps has more steps than sources.
        if plan.compiles != sources && !plan.preprocesses {
            wrong.push(format!("{option}: {sources} sources, but {plan:?}"));
        }
    }
    assert!(wrong.is_empty(), "{driver}: {wrong:#?}");
    compared
}

#[test]
fn gcc_takes_the_same_words_for_values() {
    let options = listed_options(&Folder::new());
    let compared = compare_shapes("gcc", options.iter().map(String::as_str));
    assert!(compared > 900, "only {compared} options were compared");
}

/// clang lists its options for the shell's completion. Warnings are one family without exceptions, and asking for
/// all else takes a minute: the letters are sampled, members that could take a word are all tried.
#[test]
fn clang_takes_the_same_words_for_values() {
    let listed = Folder::new().ask("clang", &["--autocomplete=-"]);
    let options: Vec<&str> = listed
        .lines()
        .filter_map(|line| line.split('\t').next())
        .filter(|option| !option.ends_with(['=', ':', ',']) && !option.starts_with("-W"))
        .collect();
    assert!(options.len() > 1000, "clang's list was not understood: {} options", options.len());
    // A family's members differ by their shape only if they are documented to; one in ten stands for the others.
    let sampled = options.iter().copied().enumerate().filter(|(n, option)| {
        let member = ["-f", "-m", "-g", "-O"].iter().any(|family| option.starts_with(family));
        !member || n % 10 == 0
    });
    let compared = compare_shapes("clang", sampled.map(|(_, option)| option));
    assert!(compared > 100, "only {compared} options were compared");
}

/// Response files of random quoting: either we decline to read them, or gcc and clang read the same words. Both
/// complain about each missing source by name, which shows the words.
#[test]
fn response_files_are_read_as_the_drivers_read_them() {
    let folder = Folder::new();
    let pieces = ["a", "b", " ", "\n", "'", "\"", "\\", "$", "\t", "'a b'", "\"\\\"\"", "\\ "];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let mut compared = 0;
    while compared < 100 {
        let text: String = (0..1 + random(7)).map(|_| pieces[random(pieces.len())]).collect();
        let arguments = [b"-xc".to_vec(), b"-c".to_vec(), b"@words".to_vec()];
        let verdict = classify(recognise(b"cc").unwrap(), &arguments, &mut |_| Ok(text.clone().into_bytes()));
        let Verdict::Remote(compile) = verdict else { continue };
        // gcc indents the lines of a complaint.
        if compile.sources.iter().any(|source| source.path.contains(&b'\n')) {
            continue;
        }
        std::fs::write(folder.path().join("words"), &text).unwrap();
        let complaints = |driver: &str, complaint: &dyn Fn(&str) -> String| {
            let expected: String =
                compile.sources.iter().map(|source| complaint(std::str::from_utf8(&source.path).unwrap())).collect();
            let said = folder.ask(driver, &["-xc", "-c", "@words"]);
            assert!(said.starts_with(&expected), "{driver} on {text:?}: {said}\nexpected: {expected}");
        };
        complaints("gcc", &|word| {
            format!("cc1: fatal error: {word}: No such file or directory\ncompilation terminated.\n")
        });
        complaints("clang", &|word| format!("clang: error: no such file or directory: '{word}'\n"));
        compared += 1;
    }
}
