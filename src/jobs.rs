//! How many jobs a build command runs on the head when nobody says: `mpicc-proxy run -- make` needs no `-j`.
//!
//! A make is told through MAKEFLAGS, as if with `-jN`: it then is the owner of a jobserver, in the style that it and its
//! sub-makes understand, with tokens for the head alone; compiles on ranks lend theirs. A `-j` of the user's own wins over
//! MAKEFLAGS (the GNU make manual, "Options/Recursion"). A ninja asks the dispatcher itself.

use crate::environment::Change;
use mpicc_proxy_abi::driver::base_name;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The variable that tells a make.
pub const MAKEFLAGS: &[u8] = b"MAKEFLAGS";

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

/// The change to MAKEFLAGS for `command`. `makeflags`: its value. `asked`: the user wants so many; without, `default` is
/// for those that are known to run a make. `read` gives a file's content.
pub fn change(
    command: &[OsString],
    makeflags: Option<&[u8]>,
    asked: Option<u32>,
    default: u32,
    read: impl Fn(&Path) -> io::Result<Vec<u8>>,
) -> Option<Change> {
    let jobs = match tool(command, read) {
        Tool::Make => asked.unwrap_or(default),
        Tool::Ninja => return None,
        Tool::Unknown => asked?,
    };
    let before = makeflags.unwrap_or_default();
    if says_jobs(before) {
        return None;
    }
    // What follows ` -- ` are variables.
    let options = before.windows(4).position(|window| window == b" -- ").unwrap_or(before.len());
    let (options, variables) = before.split_at(options);
    let ours = format!("{}-j{}", if options.is_empty() { "" } else { " " }, jobs.max(JOBS_MIN));
    Some((MAKEFLAGS, Some([options, ours.as_bytes(), variables].concat())))
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

/// Is there a `-j` already, or a jobserver? A first word without a dash holds one-letter options.
fn says_jobs(makeflags: &[u8]) -> bool {
    let mut words = makeflags.split(|byte| *byte == b' ').take_while(|word| *word != b"--");
    let first = words.next().unwrap_or_default();
    let is_letters = !first.contains(&b'=') && !first.starts_with(b"-");
    let says = |word: &[u8]| word.starts_with(b"-j") || word.starts_with(b"--jobs");
    (is_letters && first.contains(&b'j')) || says(first) || words.any(says)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(command: &str, makeflags: Option<&str>, asked: Option<u32>) -> Option<String> {
        let words: Vec<OsString> = command.split(' ').map(OsString::from).collect();
        let read = |path: &Path| match path.to_str() {
            Some("m/CMakeCache.txt") => Ok(b"A=1\nCMAKE_GENERATOR:INTERNAL=Unix Makefiles\n".to_vec()),
            Some("n/CMakeCache.txt") => Ok(b"CMAKE_GENERATOR:INTERNAL=Ninja\n".to_vec()),
            _ => Err(io::ErrorKind::NotFound.into()),
        };
        let change = change(&words, makeflags.map(str::as_bytes), asked, 4, read);
        change.map(|(_, value)| String::from_utf8(value.unwrap()).unwrap())
    }

    #[test]
    fn who_is_told_how_many() {
        let table = [
            ("make all", None, None, Some("-j4")),
            ("/usr/bin/gmake", None, Some(6), Some("-j6")),
            ("make", None, Some(1), Some("-j2")),
            ("make", Some("k"), None, Some("k -j4")),
            ("make", Some("k -- A=-j1"), None, Some("k -j4 -- A=-j1")),
            ("make", Some(""), None, Some("-j4")),
            ("make", Some("kj8"), None, None),
            ("make", Some(" -j8 --jobserver-auth=3,4"), None, None),
            ("make", Some("--jobs=3"), None, None),
            ("make", Some("CFLAGS=-j"), None, Some("CFLAGS=-j -j4")),
            ("cmake --build m --target x", None, None, Some("-j4")),
            ("cmake --build n", None, None, None),
            ("cmake --build", None, None, None),
            ("cmake -S . -B m", None, None, None),
            ("ninja", None, None, None),
            ("ninja", None, Some(8), None),
            ("cmake --build n", None, Some(8), None),
            ("cmake --build unknown", None, None, None),
            ("./build.sh", None, None, None),
            ("./build.sh", None, Some(3), Some("-j3")),
            ("cmakes --build m", None, None, None),
        ];
        for (command, makeflags, asked, expected) in table {
            assert_eq!(told(command, makeflags, asked).as_deref(), expected, "{command}, {makeflags:?}, {asked:?}");
        }
    }
}
