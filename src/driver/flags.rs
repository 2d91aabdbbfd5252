//! THE flag table: what each option of gcc and clang looks like, and what it means for where an invocation runs. One
//! row per option or family. Knows neither inputs nor stages as a whole; [`super::line`] adds the options up.
//!
//! # How to read it
//! The longest name that matches wins, as in both drivers. A family such as `-f` therefore stands for all of its
//! options except those that have a row of their own: the ones that take the next word (else that word would pass for
//! a source), and the ones that depend on more than the files that they read and write. Files need no rows: the
//! worker's tree shows the head's files under their own names and captures what is written. What no row matches is
//! [`Cause::UnknownOption`].
//!
//! The shapes were compared with the drivers themselves: `driver -### -S OPTION x.c y.c` shows who eats `x.c`. That was
//! done for all that GCC 12 lists, and for what clang 14 and 19 list except warnings and options that end in `=`;
//! `tests/driver.rs` repeats it for GCC and for a sample of clang's.
//!
//! Do the families hide something that depends on the host? One small C source was compiled twice with each option,
//! under different TMPDIR and memory limits, and all that was written was compared: GCC 12's list with `-S` and `-c`
//! (`-c` with a memory limit too wide to matter), clang 14's positive `-f` and `-g` options without values with `-c`.
//! What differed has a row, or differs from run to run on one host as well: `-flto` without `-frandom-seed`, `-gctf`
//! and `-fsave-optimization-record` (a random seed, addresses). Options for other languages and processors, and
//! values of options, were not tried.

use super::reason::{Cause, Reason};
use mpicc_proxy_abi::driver::Dialect;
use std::slice;

/// How an option is spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The name and nothing else.
    Alone,
    /// The name with a value, perhaps empty, behind it in the same word.
    Joined,
    /// The value is the next word.
    Separate,
    /// In the same word, or the next one if nothing is left of it.
    JoinedOrSeparate,
}

/// What the driver is to do; in this order the first that is asked for decides, as in both drivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// `-M`, `-MM`
    Dependencies,
    /// `-E`
    Preprocess,
    /// `-fsyntax-only`
    SyntaxOnly,
    /// `-S`
    Assembly,
    /// `-c`
    Object,
    Link,
}

/// What an option means for where an invocation runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: the same anywhere.
    Fine,
    /// Nothing for a compile; without one, something to link.
    LinkInput,
    /// Keeps the invocation here.
    Local(Cause),
    Stage(Stage),
    /// `-x`: the language of the inputs that follow.
    Language,
    /// The main output.
    Output,
    /// The value is a file to be read.
    Reads,
    /// The value is a file to be written.
    Writes,
    /// May write a report; to the standard output when it ends in `=-` or `=stdout`.
    Report,
    /// The value is a processor; `native` is this host's.
    Processor,
    /// Changes where the driver looks for its parts, programs included: it is asked for them with this option
    /// ([`super::toolchain`]).
    Search,
    /// The value is a specs file, part of the driver's configuration.
    Specs,
    /// The value is a character set; other than UTF-8, libc converts it with modules of its own.
    Charset,
    /// Words for the assembler, the preprocessor, clang's compiler proper; looked up in tables of their own.
    Assembler,
    Preprocessor,
    Frontend,
    /// `--`: only inputs follow.
    EndOfOptions,
}

/// One option or family, under all its names.
pub struct Row {
    pub names: &'static [&'static str],
    pub shape: Shape,
    /// Which driver understands it so; `Either` means both.
    pub dialect: Dialect,
    pub effect: Effect,
}

const fn row(shape: Shape, dialect: Dialect, effect: Effect, names: &'static [&'static str]) -> Row {
    Row { names, shape, dialect, effect }
}

use Dialect::{Clang, Either, Gnu};
use Effect::*;
use Shape::*;

const UNKNOWN: Effect = Local(Cause::UnknownOption);

/// The driver's options.
pub static DRIVER: &[Row] = &[
    // --- What to do, with what ---
    row(Alone, Either, Stage(Stage::Object), &["-c", "--compile"]),
    row(Alone, Either, Stage(Stage::Assembly), &["-S", "--assemble"]),
    row(Alone, Either, Stage(Stage::SyntaxOnly), &["-fsyntax-only"]),
    row(Alone, Either, Stage(Stage::Preprocess), &["-E", "--preprocess"]),
    row(Alone, Either, Stage(Stage::Dependencies), &["-M", "-MM", "--dependencies", "--user-dependencies"]),
    row(JoinedOrSeparate, Either, Language, &["-x"]),
    row(Separate, Either, Language, &["--language"]),
    row(Joined, Either, Language, &["--language="]),
    row(JoinedOrSeparate, Either, Output, &["-o"]),
    row(Separate, Either, Output, &["--output"]),
    row(Joined, Either, Output, &["--output="]),
    row(Alone, Clang, EndOfOptions, &["--"]),
    // --- Questions ---
    row(Joined, Either, Local(Cause::Query), &["--help", "-fhelp", "-print-", "--print-"]),
    row(Alone, Either, Local(Cause::Query), &["--version", "--target-help", "-dumpmachine", "-dumpversion"]),
    row(Alone, Gnu, Local(Cause::Query), &["-dumpspecs", "-dumpfullversion", "-fversion", "-ftarget-help"]),
    row(Joined, Gnu, Local(Cause::Query), &["--completion=", "-fno-help", "-fcompletion="]),
    row(Joined, Clang, Local(Cause::Query), &["-help", "-fdriver-only", "--autocomplete="]),
    row(Joined, Clang, Local(Cause::CompilerProper), &["-cc1"]),
    row(Alone, Either, Local(Cause::Verbose), &["-v", "-###", "--verbose"]),
    // --- Preprocessor ---
    row(JoinedOrSeparate, Either, Fine, &["-D", "-U", "-A", "-I", "-F"]),
    row(JoinedOrSeparate, Either, Fine, &["-iquote", "-isystem", "-idirafter", "-isysroot"]),
    row(JoinedOrSeparate, Either, Fine, &["-iprefix", "-iwithprefix", "-iwithprefixbefore"]),
    row(JoinedOrSeparate, Either, Reads, &["-include", "-imacros"]),
    row(JoinedOrSeparate, Clang, Fine, &["-isystem-after", "-cxx-isystem", "-stdlib++-isystem"]),
    row(Separate, Either, Fine, &["--define-macro", "--undefine-macro", "--assert", "--include-directory"]),
    row(Separate, Either, Fine, &["--include-directory-after", "--include-prefix", "--include-with-prefix"]),
    row(Separate, Either, Fine, &["--include-with-prefix-after", "--include-with-prefix-before", "--sysroot"]),
    row(Separate, Either, Reads, &["--include", "--imacros"]),
    row(Joined, Either, Fine, &["--define-macro=", "--undefine-macro=", "--assert=", "--include-directory="]),
    row(Joined, Either, Fine, &["--include-directory-after=", "--include-prefix=", "--include-with-prefix="]),
    row(Joined, Either, Fine, &["--include-with-prefix-after=", "--include-with-prefix-before=", "--sysroot="]),
    row(Joined, Either, Reads, &["--include=", "--imacros="]),
    row(Alone, Either, Fine, &["-P", "-C", "-CC", "-H", "-undef", "-nostdinc", "-nostdinc++", "-trigraphs"]),
    row(Alone, Either, Fine, &["--comments", "--comments-in-macros", "--include-barrier", "--trace-includes"]),
    row(Alone, Either, Fine, &["--no-line-commands", "--no-standard-includes", "--trigraphs"]),
    row(Alone, Either, Fine, &["-traditional", "-traditional-cpp", "--traditional-cpp"]),
    // Letters behind -d, one by one; -dH asks for a core dump.
    row(Alone, Either, Fine, &["-dA", "-dD", "-dI", "-dM", "-dN", "-dP", "-dU", "-da", "-dp", "-dx"]),
    row(Alone, Gnu, Fine, &["-remap"]),
    row(Alone, Clang, Fine, &["-nobuiltininc", "-ibuiltininc"]),
    // GCC compiles in two steps, with a temporary file between them.
    row(Alone, Gnu, Fine, &["-no-integrated-cpp"]),
    row(Joined, Either, Preprocessor, &["-Wp,"]),
    row(Separate, Either, Preprocessor, &["-Xpreprocessor"]),
    // Dependency files that come with a compile are outputs like others.
    row(Alone, Either, Fine, &["-MD", "-MMD", "-MP", "-MG", "--write-dependencies", "--write-user-dependencies"]),
    row(Alone, Either, Fine, &["--print-missing-file-dependencies"]),
    row(Alone, Clang, Fine, &["-MV"]),
    row(JoinedOrSeparate, Either, Fine, &["-MT", "-MQ"]),
    row(JoinedOrSeparate, Either, Writes, &["-MF"]),
    row(JoinedOrSeparate, Clang, Writes, &["-MJ"]),
    // --- Language, diagnostics, code, debug information: the families ---
    row(Joined, Either, Fine, &["-std=", "--std=", "-f", "-W", "-m", "-O", "-g", "--param=", "--debug="]),
    row(Joined, Either, Fine, &["--optimize="]),
    row(Separate, Either, Fine, &["--param"]),
    row(Alone, Either, Fine, &["-ansi", "--ansi", "-w", "-pedantic", "-pedantic-errors", "--pedantic"]),
    row(Alone, Either, Fine, &["--pedantic-errors", "--all-warnings", "--extra-warnings", "--no-warnings", "--debug"]),
    row(Alone, Either, Fine, &["--optimize", "-pipe", "--pipe", "-pthread", "-p", "-pg", "--profile", "-Qn", "-Qy"]),
    row(Joined, Either, Fine, &["-save-temps", "--save-temps"]),
    row(Alone, Gnu, Fine, &["-pass-exit-codes", "--pass-exit-codes"]),
    row(Separate, Gnu, Fine, &["-dumpdir", "-dumpbase", "-dumpbase-ext", "--dumpdir", "--dumpbase", "--dumpbase-ext"]),
    row(Separate, Gnu, Writes, &["-aux-info"]),
    row(Joined, Gnu, Writes, &["-aux-info="]),
    row(Alone, Clang, Fine, &["-Qunused-arguments", "-no-integrated-as", "-emit-llvm"]),
    row(Alone, Clang, Fine, &["-no-pedantic", "--no-pedantic"]),
    row(Alone, Clang, Fine, &["--start-no-unused-arguments", "--end-no-unused-arguments"]),
    row(Joined, Clang, Fine, &["-R", "-stdlib=", "--stdlib="]),
    row(Separate, Clang, Writes, &["-serialize-diagnostics", "--serialize-diagnostics"]),
    row(Separate, Clang, Frontend, &["-Xclang"]),
    // Members of the families that take the next word.
    row(Separate, Clang, Fine, &["-mthread-model", "-fdebug-compilation-dir", "-ftrapv-handler"]),
    // Alone in GCC for PowerPC.
    row(Separate, Clang, Fine, &["-meabi"]),
    // Fortran's; modules are files like others. (GCC 12 knows no -Mdir, which was -Jdir once.)
    row(JoinedOrSeparate, Gnu, Fine, &["-J"]),
    row(Separate, Gnu, Fine, &["-fintrinsic-modules-path"]),
    row(Joined, Gnu, Fine, &["-fintrinsic-modules-path="]),
    row(Alone, Gnu, Fine, &["-cpp", "-nocpp"]),
    // Not studied, of another language (Ada, Fortran, Objective-C), or of a shape that changed between versions.
    row(Joined, Clang, UNKNOWN, &["-mllvm", "-mmlir", "-multi", "-filelist", "-foverride-record-layout"]),
    row(Joined, Clang, UNKNOWN, &["-fxray-instruction-threshold", "-fexperimental-openacc-macro-override"]),
    row(Joined, Either, UNKNOWN, &["-gen-", "-gcc-", "-gnat", "-gant", "-ObjC", "-objc", "-object"]),
    row(Joined, Clang, UNKNOWN, &["-fintrinsic-modules-path"]),
    // Compiles twice and compares, with names of temporary files in its complaints.
    row(Joined, Gnu, UNKNOWN, &["-fcompare-debug", "-fself-test"]),
    // --- What depends on more than files ---
    row(Joined, Either, Processor, &["-march=", "-mtune=", "-mcpu="]),
    row(Joined, Either, Charset, &["-finput-charset=", "-fexec-charset=", "-fwide-exec-charset="]),
    row(Joined, Either, Local(Cause::Plugin), &["-fplugin", "-fpass-plugin"]),
    row(Joined, Gnu, Specs, &["-specs=", "--specs="]),
    row(Separate, Gnu, Specs, &["-specs", "--specs"]),
    row(Joined, Clang, Local(Cause::Specs), &["-specs", "--specs", "--config"]),
    row(Separate, Gnu, Local(Cause::Wrapper), &["-wrapper"]),
    row(JoinedOrSeparate, Either, Search, &["-B"]),
    row(Separate, Either, Search, &["--prefix"]),
    row(Joined, Either, Search, &["--prefix="]),
    row(Joined, Clang, Search, &["--gcc-toolchain=", "--gcc-install-dir=", "--gcc-triple=", "-resource-dir="]),
    row(Separate, Clang, Search, &["-gcc-toolchain", "-resource-dir"]),
    row(Joined, Gnu, Local(Cause::Plugin), &["-iplugindir="]),
    row(Joined, Clang, Fine, &["--ld-path="]),
    row(Joined, Either, Local(Cause::Modules), &["-fmodule-", "-fmodules", "-fdeps-", "-Mmodules", "-Mno-modules"]),
    row(Joined, Clang, Local(Cause::Modules), &["-fcxx-modules", "-fimplicit-module", "-fprebuilt-", "-gmodules"]),
    row(Joined, Clang, Local(Cause::Modules), &["-fbuiltin-module-map", "-module-", "--precompile", "-fapinotes"]),
    row(Joined, Gnu, Local(Cause::PrecompiledHeader), &["--output-pch="]),
    row(Separate, Clang, Reads, &["-include-pch"]),
    row(Joined, Clang, Local(Cause::PrecompiledHeader), &["-relocatable-pch", "--relocatable-pch", "-verify-pch"]),
    // Profiles are read, and notes for gcov written, by the names that the object and the working directory give them.
    row(Alone, Either, Fine, &["-coverage", "--coverage"]),
    row(Joined, Either, Local(Cause::Offload), &["-foffload", "-fopenmp-targets", "-fsycl", "--offload"]),
    // --- What differs from run to run ---
    row(Joined, Either, Local(Cause::Timing), &["-ftime-", "-fmem-report", "-save-stats", "--save-stats"]),
    row(Alone, Either, Local(Cause::Timing), &["-time"]),
    row(Joined, Clang, Local(Cause::Timing), &["-fproc-stat-report"]),
    row(Joined, Gnu, Local(Cause::Timing), &["-time=", "-fpre-ipa-mem-report", "-fpost-ipa-mem-report", "-fstats"]),
    row(Alone, Gnu, Local(Cause::Timing), &["-Q"]),
    // GCC writes the parameters that it derived from the size of this host's memory into the assembly.
    row(Alone, Either, Local(Cause::HostMemory), &["-fverbose-asm"]),
    row(Joined, Either, Report, &["-fdump-", "-fopt-info", "-foptimization-record-file="]),
    // --- Assembler ---
    row(Joined, Either, Assembler, &["-Wa,"]),
    row(Separate, Either, Assembler, &["-Xassembler"]),
    // --- Target ---
    row(Joined, Clang, Fine, &["--target="]),
    row(Separate, Clang, Fine, &["-target"]),
    row(Alone, Either, Fine, &["-no-canonical-prefixes"]),
    row(Alone, Clang, Fine, &["-canonical-prefixes"]),
    // --- Linker; on a compile's command line without effect. Those with letters for names are also accepted joined,
    // which no compile needs. ---
    row(JoinedOrSeparate, Either, Fine, &["-L"]),
    row(JoinedOrSeparate, Either, LinkInput, &["-l"]),
    row(Joined, Either, LinkInput, &["-Wl,"]),
    row(Separate, Either, LinkInput, &["-Xlinker"]),
    row(Separate, Either, Fine, &["-T", "-u", "-e", "-z", "-Tbss", "-Tdata", "-Ttext"]),
    row(Alone, Either, Fine, &["-static", "--static", "-static-pie", "-static-libgcc", "-static-libstdc++"]),
    row(Alone, Either, Fine, &["-shared", "--shared", "-shared-libgcc", "-pie", "-no-pie", "-nopie", "-rdynamic"]),
    row(Alone, Either, Fine, &["-nostdlib", "-nostdlib++", "-nodefaultlibs", "-nostartfiles", "-nolibc"]),
    row(Alone, Either, Fine, &["-s", "-r"]),
    row(Alone, Gnu, Fine, &["-symbolic", "-t", "-static-libasan", "-static-libtsan", "-static-libubsan"]),
    row(Alone, Gnu, Fine, &["-static-libgfortran", "-static-libquadmath", "-static-libgomp"]),
    row(Alone, Clang, Fine, &["-static-libsan", "-shared-libsan", "-static-openmp"]),
    row(Joined, Clang, Fine, &["-rtlib=", "--rtlib=", "-unwindlib=", "--unwindlib="]),
];

/// What may follow `-Wp,` and `-Xpreprocessor`. There, unlike on the driver's own command line, `-MD` names a file.
pub static PREPROCESSOR: &[Row] = &[
    row(JoinedOrSeparate, Either, Fine, &["-D", "-U", "-I", "-MT", "-MQ"]),
    row(JoinedOrSeparate, Either, Fine, &["-isystem", "-iquote", "-idirafter"]),
    row(JoinedOrSeparate, Either, Reads, &["-include", "-imacros"]),
    row(Separate, Either, Writes, &["-MD", "-MMD"]),
    row(JoinedOrSeparate, Either, Writes, &["-MF"]),
    row(Alone, Either, Fine, &["-MP", "-w", "-H", "-dD", "-fopenmp"]),
    row(Joined, Either, Fine, &["-W"]),
];

/// What may follow `-Wa,` and `-Xassembler`. Listings and dependencies tell the name of the driver's temporary file, and
/// `-ag` the time of day; so they do without us.
pub static ASSEMBLER: &[Row] = &[
    row(Alone, Either, Fine, &["--noexecstack", "--execstack", "--fatal-warnings", "--warn", "--no-warn", "-W"]),
    row(Alone, Either, Fine, &["--32", "--64", "--x32", "-g", "--gen-debug", "-L", "--keep-locals", "-R", "--divide"]),
    row(Alone, Either, Fine, &["--no-pad-sections", "--reduce-memory-overheads", "--strip-local-absolute"]),
    row(Joined, Either, Fine, &["-gdwarf", "--gdwarf", "--compress-debug-sections", "--nocompress-debug-sections"]),
    row(Joined, Either, Fine, &["-m", "--generate-missing-build-notes="]),
    row(Joined, Either, Report, &["-a"]),
    row(Separate, Either, Writes, &["--MD", "-MD"]),
    row(JoinedOrSeparate, Either, Fine, &["-I"]),
    row(Separate, Either, Fine, &["--defsym", "-defsym"]),
    // How scripts that write assembler ask what it understands.
    row(Alone, Either, Local(Cause::Query), &["-v", "-V", "-version", "--version", "--help", "--target-help"]),
];

/// What may follow `-Xclang`.
pub static FRONTEND: &[Row] = &[
    row(Alone, Either, Fine, &["-disable-llvm-passes", "-disable-O0-optnone", "-fno-pch-timestamp"]),
    row(Alone, Either, Fine, &["-fcolor-diagnostics", "-fansi-escape-codes", "-fdebug-pass-structure"]),
    row(JoinedOrSeparate, Either, Fine, &["-D", "-U", "-I"]),
    row(Separate, Either, Fine, &["-target-feature"]),
    row(Joined, Either, Fine, &["-W"]),
    row(Separate, Either, Local(Cause::Plugin), &["-load", "-plugin", "-add-plugin"]),
    row(Joined, Either, Local(Cause::Plugin), &["-plugin-arg-", "-fplugin", "-fpass-plugin"]),
    row(Separate, Either, Reads, &["-include-pch"]),
    row(Joined, Either, Local(Cause::PrecompiledHeader), &["-emit-pch"]),
    row(Joined, Either, Local(Cause::Modules), &["-fmodule", "-emit-module"]),
];

/// Where an option has its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value<'a> {
    None,
    Here(&'a [u8]),
    Next,
}

/// The row of `table` that a driver of `dialect` takes `word` for. For [`Dialect::Either`] both have to agree on what
/// it means and on where its value is.
fn lookup<'a>(table: &[Row], dialect: Dialect, word: &'a [u8]) -> Option<(Effect, Value<'a>)> {
    match dialect {
        Either => lookup(table, Gnu, word).filter(|found| Some(*found) == lookup(table, Clang, word)),
        _ => longest(table, dialect, word),
    }
}

fn longest<'a>(table: &[Row], dialect: Dialect, word: &'a [u8]) -> Option<(Effect, Value<'a>)> {
    table
        .iter()
        .filter(|row| row.dialect == Either || row.dialect == dialect)
        .flat_map(|row| row.names.iter().map(move |name| (row, name)))
        .filter_map(|(row, name)| {
            let rest = word.strip_prefix(name.as_bytes())?;
            let value = match row.shape {
                Alone if rest.is_empty() => Value::None,
                Separate | JoinedOrSeparate if rest.is_empty() => Value::Next,
                Joined | JoinedOrSeparate => Value::Here(rest),
                Alone | Separate => return None,
            };
            Some((name.len(), row.effect, value))
        })
        .max_by_key(|(bytes, ..)| *bytes)
        .map(|(_, effect, value)| (effect, value))
}

/// An option as found on a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken<'a> {
    pub effect: Effect,
    /// The word that names it.
    pub word: &'a [u8],
    /// Empty if it has none.
    pub value: &'a [u8],
    /// The value is in the same word.
    pub joined: bool,
}

/// Interprets `word` as an option, with its value taken from `rest` if that is where it belongs.
///
/// # Errors
/// No row matches, or the value is missing.
pub fn take<'a>(
    table: &[Row],
    dialect: Dialect,
    word: &'a [u8],
    rest: &mut slice::Iter<&'a [u8]>,
) -> Result<Taken<'a>, Reason> {
    let (effect, value) = lookup(table, dialect, word).ok_or_else(|| Reason::at(Cause::UnknownOption, word))?;
    let joined = matches!(value, Value::Here(_));
    let value = match value {
        Value::None => &[],
        Value::Here(value) => value,
        Value::Next => rest.next().copied().ok_or_else(|| Reason::at(Cause::MissingArgument, word))?,
    };
    Ok(Taken { effect, word, value, joined })
}

impl Taken<'_> {
    /// Why this option alone keeps an invocation here, whatever else is on the command line.
    pub fn objection(&self) -> Option<Reason> {
        match self.effect {
            Effect::Local(cause) => Some(Reason::at(cause, self.word)),
            Effect::Processor if matches!(self.value, b"help" | b"?") => Some(Reason::at(Cause::Query, self.word)),
            // UTF-8 is what compilers work in.
            Effect::Charset if !self.value.eq_ignore_ascii_case(b"utf-8") => {
                Some(Reason::at(Cause::InputCharset, self.word))
            }
            Effect::Reads if is_special(self.value) => Some(Reason::at(Cause::Stdin, self.value)),
            Effect::Writes | Effect::Output if is_special(self.value) && self.value != b"-" => {
                Some(Reason::at(Cause::OutputToStdout, self.value))
            }
            _ => None,
        }
    }

    /// Does it send something other than messages to the standard output?
    pub fn writes_to_stdout(&self) -> bool {
        let ends_with = |ends: [&[u8]; 2]| ends.iter().any(|end| self.value.ends_with(end));
        match self.effect {
            Effect::Writes | Effect::Output => self.value == b"-",
            Effect::Report => ends_with([b"=-", b"=stdout"]) || self.value == b"-",
            _ => false,
        }
    }

    /// Does it mean the processor of this host?
    pub fn is_native(&self) -> bool {
        self.effect == Effect::Processor && self.value == b"native"
    }
}

/// The standard input or output under one of its names, or a device: none of them is the same on another host. The
/// null device is. Spellings that hide a device (`/dev/../dev/fd/1`, a symbolic link) are left to the client, which
/// looks at what an output's name stands for before it publishes.
pub fn is_special(path: &[u8]) -> bool {
    let device = path.starts_with(b"/dev/") && path != b"/dev/null" && !path.starts_with(b"/dev/shm/");
    path == b"-" || device || path.starts_with(b"/proc/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_name_has_one_row_per_dialect() {
        for table in [DRIVER, PREPROCESSOR, ASSEMBLER, FRONTEND] {
            for dialect in [Gnu, Clang] {
                let mut seen = HashSet::new();
                for row in table.iter().filter(|row| row.dialect == Either || row.dialect == dialect) {
                    for name in row.names {
                        assert!(seen.insert(*name), "{name} is listed twice");
                        assert!(name.starts_with('-'), "{name}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_longest_name_wins() {
        let effect = |dialect, word: &'static str| lookup(DRIVER, dialect, word.as_bytes());
        assert_eq!(effect(Gnu, "-MMD"), Some((Fine, Value::None)));
        assert_eq!(effect(Gnu, "-MM"), Some((Stage(Stage::Dependencies), Value::None)));
        assert_eq!(effect(Gnu, "-MFx"), Some((Writes, Value::Here(b"x"))));
        assert_eq!(effect(Gnu, "-fmodulo-sched"), Some((Fine, Value::Here(b"modulo-sched"))));
        assert_eq!(effect(Gnu, "-fmodules-ts"), Some((Local(Cause::Modules), Value::Here(b"-ts"))));
        assert_eq!(effect(Gnu, "-cx"), None);
    }

    #[test]
    fn cc_may_be_either_and_must_not_matter() {
        let of = |word: &'static str| lookup(DRIVER, Either, word.as_bytes());
        assert_eq!(of("-O2"), Some((Fine, Value::Here(b"2"))));
        assert_eq!(of("-I"), Some((Fine, Value::Next)));
        // clang: the next word is its value; gcc for PowerPC: it stands alone.
        assert_eq!(of("-meabi"), None);
        assert_eq!(of("-include-pch"), None);
        assert_eq!(of("-target"), None);
        assert_eq!(of("--"), None);
    }

    #[test]
    fn special_files() {
        for path in ["-", "/dev/stdin", "/dev/fd/3", "/dev/stdout", "/proc/self/fd/1", "/dev/pts/0"] {
            assert!(is_special(path.as_bytes()), "{path}");
        }
        for path in ["/dev/null", "/dev/shm/build/a.o", "a.o", "-x", "dev/fd/1"] {
            assert!(!is_special(path.as_bytes()), "{path}");
        }
    }
}
