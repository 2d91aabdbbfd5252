//! What a compiler command line means: is it a compile that any host can do, or does it run here, and why?
//!
//! Decides from the words alone; response files come through a reader that the caller passes in. Does not know
//! sockets, the clock, the environment, or whether the sources exist: a missing source is the compiler's error, and
//! the same one everywhere. Doubt means here: a build may be slower, never different.
//!
//! `native` spells out what `native` means on the head (it alone acts: it runs the driver and keeps what it learned).
//! `search` picks the options
//! that change where the driver looks for its parts, `response` expands `@file`, `flags` is the table of options, `language` the one of languages, `line` adds them up,
//! `reason` lists what keeps an invocation here, `explain` says it in words.
//!
//! The environment can change what a command line means as well (`CCC_OVERRIDE_OPTIONS` rewrites clang's; GCC's
//! `COMPILER_PATH` acts like `-B`): that is the caller's to look at.

mod explain;
mod flags;
mod language;
mod line;
pub mod native;
mod reason;
mod response;
mod search;
mod surroundings;
pub mod toolchain;

pub use explain::{explain_json, explain_text};
pub use language::Language;
pub use reason::{Cause, Reason};
pub use response::{RESPONSE_BYTES_MAX, RESPONSE_FILES_MAX, RESPONSE_NESTING_MAX, Read};
pub use surroundings::keeps_here;

use crate::wire::Bytes;
use mpicc_proxy_abi::driver::{Dialect, DriverName, base_name, recognise};
use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Where an invocation runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// On any rank.
    Remote(Compile),
    /// On this host, by the real driver.
    Local(Reason),
}

/// A compile that any host can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compile {
    pub product: Product,
    /// One or more, in the order of the command line.
    pub sources: Vec<Source>,
    /// The value of `-o`.
    pub output: Option<Bytes>,
    /// An option means the processor of the head ([`native`]): all options of the `-m` family, with their values.
    pub native: Option<Vec<Bytes>>,
    /// A source comes on the standard input.
    pub stdin: bool,
    /// Something other than messages goes to the standard output.
    pub to_stdout: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// As written.
    pub path: Bytes,
    pub language: Language,
}

/// What a compile makes of each source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// `-c`
    Object,
    /// `-S`
    Assembly,
    /// `-fsyntax-only`; gfortran writes modules all the same.
    Nothing,
}

impl Product {
    pub fn name(self) -> &'static str {
        match self {
            Product::Object => "object",
            Product::Assembly => "assembly",
            Product::Nothing => "nothing",
        }
    }
}

/// The driver that a path names. What `cc`, `c++` and `f95` are is seen from the file behind the symbolic links (by name
/// alone, nobody knows).
pub fn driver_at(path: &[u8]) -> Option<DriverName> {
    let named = |path: &[u8]| recognise(base_name(path));
    let driver = named(path)?;
    if driver.dialect != Dialect::Either {
        return Some(driver);
    }
    let real = std::fs::canonicalize(OsStr::from_bytes(path)).ok();
    let real = real.and_then(|real| named(real.as_os_str().as_bytes()));
    Some(DriverName { dialect: real.map_or(Dialect::Either, |real| real.dialect), ..driver })
}

/// Classifies a command line. `arguments` is without `argv[0]`; `read` gives the contents of a response file, named
/// relative to the invocation's working directory.
pub fn classify(driver: DriverName, arguments: &[Bytes], read: &mut Read) -> Verdict {
    let words = match response::expand(arguments, read) {
        Ok(words) => words,
        Err(reason) => return Verdict::Local(reason),
    };
    let from_files = matches!(words, Cow::Owned(_));
    let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
    let line = line::Line::read(driver, &words);
    let specs: Vec<&[u8]> = line.specs().to_vec();
    let objection = from_files.then(|| line.objection_to_response_files()).flatten();
    match line.verdict() {
        Verdict::Remote(compile) => {
            let objection = objection.or_else(|| specs.into_iter().find_map(|name| objection_to_specs(name, read)));
            objection.map_or(Verdict::Remote(compile), Verdict::Local)
        }
        local => local,
    }
}

/// What in a specs file may ask for this host's processor, or name files that are not looked at here.
const SUSPECT_SPECS: &[&[u8]] = &[b"native", b"cpu_detect", b"%include", b"%:include"];

/// A specs file is like any other, unless it may depend on this host. gcc looks for one in other places than the
/// working directory, too; then it is not read here.
fn objection_to_specs(name: &[u8], read: &mut Read) -> Option<Reason> {
    let understood = read(name)
        .is_ok_and(|text| !SUSPECT_SPECS.iter().any(|word| text.windows(word.len()).any(|part| part == *word)));
    (!understood).then(|| Reason::at(Cause::Specs, name))
}

#[cfg(test)]
mod tests;
