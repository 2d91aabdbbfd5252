//! Which language an input is in: by `-x`, else by the suffix of its name. Never looks at the file.

use super::reason::Cause;
use mpicc_proxy_abi::driver::{self, Dialect, DriverName};

/// A language that is compiled remotely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    C,
    Cxx,
    PreprocessedC,
    PreprocessedCxx,
    Assembler,
    AssemblerWithCpp,
    /// In fixed form
    Fortran77,
    Fortran77WithCpp,
    /// In free form
    Fortran95,
    Fortran95WithCpp,
}

impl Language {
    /// The name that `-x` knows it by.
    pub fn name(self) -> &'static str {
        match self {
            Language::C => "c",
            Language::Cxx => "c++",
            Language::PreprocessedC => "cpp-output",
            Language::PreprocessedCxx => "c++-cpp-output",
            Language::Assembler => "assembler",
            Language::AssemblerWithCpp => "assembler-with-cpp",
            Language::Fortran77 => "f77",
            Language::Fortran77WithCpp => "f77-cpp-input",
            Language::Fortran95 => "f95",
            Language::Fortran95WithCpp => "f95-cpp-input",
        }
    }

    pub fn is_assembler(self) -> bool {
        matches!(self, Language::Assembler | Language::AssemblerWithCpp)
    }

    /// g++ and clang++ take C for C++.
    fn under(self, driver: driver::Language) -> Language {
        match (self, driver) {
            (Language::C, driver::Language::Cxx) => Language::Cxx,
            (Language::PreprocessedC, driver::Language::Cxx) => Language::PreprocessedCxx,
            (language, _) => language,
        }
    }
}

/// A language, or why its files are not compiled remotely.
type Known = Result<Language, Cause>;

const HEADER: Known = Err(Cause::PrecompiledHeader);
const MODULE: Known = Err(Cause::Modules);
const FOREIGN: Known = Err(Cause::UnknownLanguage);

/// Suffixes, and which dialect gives them this meaning. To the other dialect, and to `cc`, which may be either, such
/// a suffix is [`FOREIGN`]; one that is not listed at all names something for the linker.
const SUFFIXES: &[(&[&str], Dialect, Known)] = &[
    (&["c"], Dialect::Either, Ok(Language::C)),
    (&["cc", "cp", "cxx", "cpp", "CPP", "c++", "C"], Dialect::Either, Ok(Language::Cxx)),
    (&["CC", "CXX", "C++"], Dialect::Clang, Ok(Language::Cxx)),
    (&["i"], Dialect::Either, Ok(Language::PreprocessedC)),
    (&["ii"], Dialect::Either, Ok(Language::PreprocessedCxx)),
    (&["s"], Dialect::Either, Ok(Language::Assembler)),
    (&["S"], Dialect::Either, Ok(Language::AssemblerWithCpp)),
    (&["sx"], Dialect::Gnu, Ok(Language::AssemblerWithCpp)),
    (&["h", "H", "hh", "hp", "hxx", "hpp", "HPP", "h++", "tcc"], Dialect::Either, HEADER),
    (&["gch", "pch"], Dialect::Either, HEADER),
    (&["cppm", "ccm", "cxxm", "c++m", "ixx", "mpp", "pcm", "iim", "iih"], Dialect::Either, MODULE),
    (&["m", "M", "mm", "mi", "mii"], Dialect::Either, FOREIGN),
    // clang hands Fortran to gcc, which is intercepted in its turn.
    (&["f", "for", "ftn"], Dialect::Gnu, Ok(Language::Fortran77)),
    (&["F", "FOR", "fpp", "FPP", "FTN"], Dialect::Gnu, Ok(Language::Fortran77WithCpp)),
    (&["f90", "f95", "f03", "f08"], Dialect::Gnu, Ok(Language::Fortran95)),
    (&["F90", "F95", "F03", "F08"], Dialect::Gnu, Ok(Language::Fortran95WithCpp)),
    (&["ads", "adb", "d", "di", "dd", "go", "mod", "def", "brig", "r", "java"], Dialect::Either, FOREIGN),
    (&["cu", "cui", "hip", "hipi", "cl", "clcpp", "clii", "hlsl"], Dialect::Either, FOREIGN),
    (&["ll", "bc", "ast", "asm", "ifs", "rs"], Dialect::Either, FOREIGN),
];

/// What `-x` may be followed by, and which dialect knows it.
const NAMES: &[(&[&str], Dialect, Known)] = &[
    (&["c"], Dialect::Either, Ok(Language::C)),
    (&["c++"], Dialect::Either, Ok(Language::Cxx)),
    (&["cpp-output"], Dialect::Either, Ok(Language::PreprocessedC)),
    (&["c++-cpp-output"], Dialect::Either, Ok(Language::PreprocessedCxx)),
    (&["assembler"], Dialect::Either, Ok(Language::Assembler)),
    (&["assembler-with-cpp"], Dialect::Either, Ok(Language::AssemblerWithCpp)),
    (&["f77"], Dialect::Gnu, Ok(Language::Fortran77)),
    (&["f77-cpp-input"], Dialect::Gnu, Ok(Language::Fortran77WithCpp)),
    (&["f95"], Dialect::Gnu, Ok(Language::Fortran95)),
    (&["f95-cpp-input"], Dialect::Gnu, Ok(Language::Fortran95WithCpp)),
    (&["c-header", "c++-header", "c++-system-header", "c++-user-header"], Dialect::Either, HEADER),
    (&["objective-c-header", "objective-c++-header"], Dialect::Either, HEADER),
    (&["c++-module", "c++-module-cpp-output", "pcm"], Dialect::Either, MODULE),
];

/// The language that an `-x` option names.
///
/// # Errors
/// The cause that keeps its files here.
pub fn by_name(driver: DriverName, name: &[u8]) -> Result<Language, Cause> {
    NAMES
        .iter()
        .find(|(names, ..)| names.iter().any(|n| n.as_bytes() == name))
        .map_or(FOREIGN, |(_, dialect, known)| if dialect.is_of(driver) { *known } else { FOREIGN })
}

/// The language of a file without `-x`.
///
/// # Errors
/// The cause that keeps the file here.
pub fn by_suffix(driver: DriverName, path: &[u8]) -> Result<Language, Cause> {
    let file = driver::base_name(path);
    // A bare `.c` is a C source to clang and a linker input to gcc: not a suffix here.
    let dot = file.iter().rposition(|&b| b == b'.').filter(|&dot| dot > 0).ok_or(Cause::LinkInput)?;
    let suffix = &file[dot + 1..];
    let (_, dialect, known) = SUFFIXES
        .iter()
        .find(|(suffixes, ..)| suffixes.iter().any(|s| s.as_bytes() == suffix))
        .ok_or(Cause::LinkInput)?;
    if dialect.is_of(driver) { known.map(|language| language.under(driver.language)) } else { FOREIGN }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mpicc_proxy_abi::driver::recognise;

    #[test]
    fn suffixes() {
        let of = |driver: &str, path: &str| by_suffix(recognise(driver.as_bytes()).unwrap(), path.as_bytes());
        assert_eq!(of("gcc", "dir.d/a.c"), Ok(Language::C));
        assert_eq!(of("g++", "a.c"), Ok(Language::Cxx));
        assert_eq!(of("g++", "a.i"), Ok(Language::PreprocessedCxx));
        assert_eq!(of("gcc", "a.C"), Ok(Language::Cxx));
        assert_eq!(of("gcc", "a.b.sx"), Ok(Language::AssemblerWithCpp));
        assert_eq!(of("clang", "a.sx"), Err(Cause::UnknownLanguage));
        assert_eq!(of("cc", "a.sx"), Err(Cause::UnknownLanguage));
        assert_eq!(of("clang", "a.CC"), Ok(Language::Cxx));
        assert_eq!(of("gcc", "a.CC"), Err(Cause::UnknownLanguage));
        assert_eq!(of("gcc", "a.hpp"), Err(Cause::PrecompiledHeader));
        assert_eq!(of("gfortran", "a.for"), Ok(Language::Fortran77));
        assert_eq!(of("gcc", "a.F90"), Ok(Language::Fortran95WithCpp));
        assert_eq!(of("gfortran", "a.c"), Ok(Language::C));
        assert_eq!(of("clang", "a.f90"), Err(Cause::UnknownLanguage));
        assert_eq!(of("clang++", "a.cppm"), Err(Cause::Modules));
        for linked in ["a.f77", "a.o", "liba.a", "liba.so.1", "dir.c/a", ".c", "", "a."] {
            assert_eq!(of("gcc", linked), Err(Cause::LinkInput), "{linked}");
        }
    }

    #[test]
    fn no_suffix_is_listed_twice() {
        let mut all: Vec<&str> = SUFFIXES.iter().flat_map(|(suffixes, ..)| suffixes.iter().copied()).collect();
        let listed = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), listed);
    }
}
