//! What a compiler command line means: is it a compile that any host can do, or does it run here, and why?
//!
//! Decides from the words alone; response files come through a reader that the caller passes in. Does not know
//! sockets, the clock, the environment, or whether the sources exist: a missing source is the compiler's error, and
//! the same one everywhere. Doubt means here: a build may be slower, never different.
//!
//! `response` expands `@file`, `flags` is the table of options, `language` the one of languages, `line` adds them up,
//! `reason` lists what keeps an invocation here, `explain` says it in words.
//!
//! The environment can change what a command line means as well (`CCC_OVERRIDE_OPTIONS` rewrites clang's; GCC's
//! `COMPILER_PATH` acts like `-B`): that is the caller's to look at.

mod explain;
mod flags;
mod language;
mod line;
mod reason;
mod response;
mod surroundings;
pub mod toolchain;

pub use explain::{explain_json, explain_text};
pub use language::Language;
pub use reason::{Cause, Reason};
pub use response::{RESPONSE_FILES_MAX, RESPONSE_NESTING_MAX, Read};
pub use surroundings::keeps_here;

use crate::wire::Bytes;
use mpicc_proxy_abi::driver::DriverName;

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
}

impl Product {
    pub fn name(self) -> &'static str {
        match self {
            Product::Object => "object",
            Product::Assembly => "assembly",
        }
    }
}

/// Classifies a command line. `arguments` is without `argv[0]`; `read` gives the contents of a response file, named
/// relative to the invocation's working directory.
pub fn classify(driver: DriverName, arguments: &[Bytes], read: &mut Read) -> Verdict {
    match response::expand(arguments, read) {
        Ok(words) => {
            let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            line::Line::read(driver, &words).verdict()
        }
        Err(reason) => Verdict::Local(reason),
    }
}

#[cfg(test)]
mod tests;
