//! Running programs that were shipped to a host, through the dynamic linker that was shipped with them:
//!
//! ```text
//! <folder>/ld.so --library-path <folder>/lib --inhibit-rpath <names> --argv0 <argv[0]> <folder>/bin/<n> <arguments>...
//! ```
//!
//! `--library-path` replaces LD_LIBRARY_PATH, and comes before DT_RUNPATH and the host's own folders; a DT_RPATH would
//! come before it, hence `--inhibit-rpath`. The dynamic linker's own `argv[0]`, which nobody else reads, is the
//! program's file as well: from there a process learns which program it is.

use crate::table::Span;
use crate::task::{PROGRAMS_MAX, Page};
use core::ffi::CStr;

/// Most arguments in front of a program's own.
pub const ARGUMENTS_MAX: usize = 8;

/// Where the shipped programs lie. All zero: the host's own programs run, in the ordinary way. The strings end with a
/// NUL.
#[derive(Debug)]
#[repr(C)]
pub struct Loader {
    /// The dynamic linker.
    pub path: Span,
    pub library_path: Span,
    /// Colon-separated; empty when no file has a DT_RPATH.
    pub inhibit_rpath: Span,
    /// Files on this host, in the order of the page's programs.
    pub files: [Span; PROGRAMS_MAX],
    /// Their paths on the head, as the driver spells them.
    pub names: [Span; PROGRAMS_MAX],
}

/// A command line of the dynamic linker up to the program's file; the program's arguments from the second on follow.
#[derive(Debug)]
pub struct Loaded<'a> {
    /// What to execute.
    pub path: &'a CStr,
    arguments: [&'a CStr; ARGUMENTS_MAX],
    count: usize,
}

impl Loaded<'_> {
    pub fn arguments(&self) -> &[&CStr] {
        &self.arguments[..self.count]
    }
}

impl Page {
    /// Are the programs shipped ones?
    pub fn is_shipped(&self) -> bool {
        self.loader.path.len != 0
    }

    /// How to run the program with this index under the name `argv0`. `None`: it is the host's own.
    pub fn loaded<'a>(&'a self, program: usize, argv0: &'a CStr) -> Option<Loaded<'a>> {
        let text = |span: Span| CStr::from_bytes_with_nul(self.bytes(span)).ok();
        let file = text(*self.loader.files.get(program)?)?;
        let mut loaded = Loaded { path: text(self.loader.path)?, arguments: [c""; ARGUMENTS_MAX], count: 0 };
        let mut push = |more: &[&'a CStr]| {
            for argument in more {
                loaded.arguments[loaded.count] = argument;
                loaded.count += 1;
            }
        };
        push(&[file, c"--library-path", text(self.loader.library_path)?]);
        if self.loader.inhibit_rpath.len != 0 {
            push(&[c"--inhibit-rpath", text(self.loader.inhibit_rpath)?]);
        }
        push(&[c"--argv0", argv0, file]);
        Some(loaded)
    }

    /// The index of the program whose file on this host this is.
    pub fn program_of_file(&self, file: &[u8]) -> Option<usize> {
        let count = (self.program_count as usize).min(PROGRAMS_MAX);
        self.loader.files[..count].iter().position(|span| self.bytes(*span).strip_suffix(b"\0") == Some(file))
    }
}
