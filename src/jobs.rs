//! How many jobs a build command runs on the head when nobody says: `mpicc-proxy run -- make` needs no `-j`.
//!
//! A make is told through MAKEFLAGS, as if with `-jN`: it then is the owner of a jobserver, in the style that it and its
//! sub-makes understand, with tokens for the head alone; compiles on ranks lend theirs. A `-j` of the user's own wins over
//! MAKEFLAGS, and one that is in MAKEFLAGS already over ours (the GNU make manual, "Options/Recursion"). A ninja asks the
//! dispatcher itself.

use crate::environment::Change;
use mpicc_proxy_abi::driver::base_name;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The variable that tells a make.
pub const MAKEFLAGS: &[u8] = b"MAKEFLAGS";

/// Its elder brother, for what other makes do not understand.
pub const GNUMAKEFLAGS: &[u8] = b"GNUMAKEFLAGS";

/// With fewer a make has no jobserver, and every compile waits for the one before.
const JOBS_MIN: u32 = 2;

/// The CPUs that this process may use.
pub fn own_cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32)
}

/// What a command runs, as far as that can be known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tool {
    Make,
    /// It would only hand on what it does not understand.
    Ninja,
    Unknown,
}

/// What a make finds in its environment; empty where there is nothing.
#[derive(Clone, Copy)]
pub struct Flags<'a> {
    pub makeflags: &'a [u8],
    /// Read before the others; a `j` in it is taken for a `-j`.
    pub gnumakeflags: &'a [u8],
}

/// The change to MAKEFLAGS for `command`. `asked`: the user wants so many; without, `default` is for those that are known
/// to run a make. `read` gives a file's content.
pub fn change(
    command: &[OsString],
    flags: Flags<'_>,
    asked: Option<u32>,
    default: u32,
    read: impl Fn(&Path) -> io::Result<Vec<u8>>,
) -> Option<Change> {
    let jobs = match tool(command, read) {
        Tool::Make => asked.unwrap_or(default),
        Tool::Ninja => return None,
        Tool::Unknown => asked?,
    };
    let Flags { makeflags, gnumakeflags } = flags;
    if contains(makeflags, b"--jobserver-") || gnumakeflags.contains(&b'j') {
        return None;
    }
    // In front, so that a later `-j` counts, an option's missing argument stays missing, and ` -- ` stays the end.
    let ours = format!("-j{}", jobs.max(JOBS_MIN));
    let between: &[u8] = match makeflags {
        b"" => b"",
        letters if has_bare_letters(letters) => b" -",
        _ => b" ",
    };
    Some((MAKEFLAGS, Some([ours.as_bytes(), between, makeflags].concat())))
}

fn tool(command: &[OsString], read: impl Fn(&Path) -> io::Result<Vec<u8>>) -> Tool {
    match base_name(command[0].as_bytes()) {
        b"make" | b"gmake" | b"gnumake" | b"remake" => Tool::Make,
        b"ninja" | b"ninja-build" | b"samu" => Tool::Ninja,
        b"cmake" => build_folder(command).map_or(Tool::Unknown, |folder| generated_for(&folder, read)),
        _ => Tool::Unknown,
    }
}

/// The folder of `cmake --build FOLDER`.
fn build_folder(command: &[OsString]) -> Option<PathBuf> {
    let folder = command.iter().skip_while(|word| *word != "--build").nth(1)?;
    Some(PathBuf::from(folder))
}

/// What a build tree was configured for.
fn generated_for(folder: &Path, read: impl Fn(&Path) -> io::Result<Vec<u8>>) -> Tool {
    const KEY: &[u8] = b"CMAKE_GENERATOR:INTERNAL=";
    let cache = read(&folder.join("CMakeCache.txt")).unwrap_or_default();
    match cache.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(KEY)) {
        Some(name) if name.ends_with(b"Makefiles") => Tool::Make,
        Some(name) if name.starts_with(b"Ninja") => Tool::Ninja,
        _ => Tool::Unknown,
    }
}

/// A first word without a dash that is no variable is one-letter options, which it can be in front only.
fn has_bare_letters(makeflags: &[u8]) -> bool {
    let first = makeflags.split(|byte| *byte == b' ').next().unwrap_or_default();
    !first.is_empty() && !first.starts_with(b"-") && !first.contains(&b'=')
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(command: &str, makeflags: &str, asked: Option<u32>) -> Option<String> {
        let words: Vec<OsString> = command.split(' ').map(OsString::from).collect();
        let read = |path: &Path| match path.to_str() {
            Some("m/CMakeCache.txt") => Ok(b"A=1\nCMAKE_GENERATOR:INTERNAL=Unix Makefiles\n".to_vec()),
            Some("n/CMakeCache.txt") => Ok(b"CMAKE_GENERATOR:INTERNAL=Ninja\n".to_vec()),
            _ => Err(io::ErrorKind::NotFound.into()),
        };
        let flags = Flags { makeflags: makeflags.as_bytes(), gnumakeflags: b"" };
        let change = change(&words, flags, asked, 4, read);
        change.map(|(_, value)| String::from_utf8(value.unwrap()).unwrap())
    }

    #[test]
    fn who_is_told_how_many() {
        let table = [
            ("make all", "", None, Some("-j4")),
            ("/usr/bin/gmake", "", Some(6), Some("-j6")),
            ("make", "", Some(1), Some("-j2")),
            ("make", "k", None, Some("-j4 -k")),
            ("make", "kj8", None, Some("-j4 -kj8")),
            ("make", "k -- A=-j1", None, Some("-j4 -k -- A=-j1")),
            ("make", "-- A=1", None, Some("-j4 -- A=1")),
            ("make", "-I", None, Some("-j4 -I")),
            ("make", "CFLAGS=-j", None, Some("-j4 CFLAGS=-j")),
            ("make", " -j8 --jobserver-auth=3,4", None, None),
            ("cmake --build m --target x", "", None, Some("-j4")),
            ("cmake --build n", "", None, None),
            ("cmake --build", "", None, None),
            ("cmake -S . -B m", "", None, None),
            ("ninja", "", None, None),
            ("ninja", "", Some(8), None),
            ("cmake --build n", "", Some(8), None),
            ("cmake --build unknown", "", None, None),
            ("./build.sh", "", None, None),
            ("./build.sh", "", Some(3), Some("-j3")),
            ("cmakes --build m", "", None, None),
        ];
        for (command, makeflags, asked, expected) in table {
            assert_eq!(told(command, makeflags, asked).as_deref(), expected, "{command}, {makeflags:?}, {asked:?}");
        }
    }
}
