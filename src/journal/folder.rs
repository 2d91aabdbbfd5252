//! Where event logs are, how sessions are named, and which of them stay.

use super::replay::LINE_BYTES_MAX;
use super::{Event, Line, file};
use crate::paths;
use mpicc_proxy_abi::env::is_off;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use std::{fs, io};

/// Names the folder of event logs, or switches them off.
pub const VARIABLE: &str = "MPICC_PROXY_EVENTS";

const SUFFIX: &str = ".jsonl";

/// What the logs of earlier sessions may fill, and how many stay. The oldest go first.
const EARLIER_BYTES_MAX: u64 = 256 << 20;
const EARLIER_MAX: usize = 200;

/// Folder of event logs: `$MPICC_PROXY_EVENTS`, else `sessions` in `$XDG_STATE_HOME/mpicc-proxy`, else in
/// `~/.local/state/mpicc-proxy`. `None`: nowhere, because `off` or `0` says so or there is no home directory. An empty
/// variable counts as absent.
pub fn folder(variable: impl Fn(&OsStr) -> Option<OsString>) -> Option<PathBuf> {
    match paths::set(&variable, VARIABLE) {
        Some(folder) if is_off(folder.as_os_str().as_bytes()) => None,
        Some(folder) => Some(folder),
        None => Some(paths::own_folder(&variable, "XDG_STATE_HOME", ".local/state")?.join("sessions")),
    }
}

/// [`folder`] for this process.
pub fn own_folder() -> Option<PathBuf> {
    folder(|name| std::env::var_os(name))
}

/// The file of a new session: `given` (an option; `off` for none), else one in `folder`, which is made, and in which
/// the oldest logs make room. `None`: nowhere.
pub fn new_file(given: Option<&Path>, folder: Option<PathBuf>) -> Option<PathBuf> {
    match given {
        Some(file) if is_off(file.as_os_str().as_bytes()) => None,
        Some(file) => Some(file.to_path_buf()),
        None => {
            let folder = folder?;
            // A log that cannot be written is not worth a word in a build.
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).ok()?;
            make_room(&folder);
            Some(folder.join(new_id() + SUFFIX))
        }
    }
}

/// The session that a file is named after.
pub fn id_of(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name.strip_suffix(SUFFIX).unwrap_or(&name).to_owned()
}

/// The log of a session in `folder`.
pub fn file_of(folder: &Path, id: &str) -> PathBuf {
    folder.join(format!("{id}{SUFFIX}"))
}

/// All logs in `folder`, the newest first.
///
/// # Errors
/// The folder cannot be read.
pub fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.as_os_str().as_bytes().ends_with(SUFFIX.as_bytes())).collect();
    // Names begin with the time.
    files.sort_unstable_by(|a, b| b.cmp(a));
    Ok(files)
}

/// The newest log in `folder` that has a beginning.
pub fn newest(folder: &Path) -> Option<PathBuf> {
    files(folder).ok()?.into_iter().find(|path| is_begun(path))
}

fn is_begun(path: &Path) -> bool {
    let mut first = Vec::new();
    let read = file::read(path)
        .and_then(|file| BufReader::new(file).take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut first));
    read.is_ok() && matches!(serde_json::from_slice(&first), Ok(Line { event: Event::Session { .. }, .. }))
}

/// `20260131-235959-4711`: UTC, and the process that names it.
fn new_id() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as libc::time_t);
    // SAFETY: numbers and a pointer, for all of which zero is a value.
    let mut calendar: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: reads a number, fills the struct.
    unsafe { libc::gmtime_r(&seconds, &mut calendar) };
    format!(
        "{:04}{:02}{:02}-{:02}{:02}{:02}-{}",
        calendar.tm_year + 1900,
        calendar.tm_mon + 1,
        calendar.tm_mday,
        calendar.tm_hour,
        calendar.tm_min,
        calendar.tm_sec,
        std::process::id()
    )
}

fn make_room(folder: &Path) {
    let Ok(files) = files(folder) else { return };
    let mut bytes = 0;
    for (number, file) in files.into_iter().enumerate() {
        bytes += fs::metadata(&file).map_or(0, |facts| facts.len());
        if bytes > EARLIER_BYTES_MAX || number + 1 > EARLIER_MAX {
            let _ = fs::remove_file(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_logs_are() {
        let of = |set: &[(&str, &str)]| {
            folder(|name| set.iter().find(|(given, _)| name == *given).map(|(_, value)| value.into()))
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("HOME", "/usr")]), Some("/usr/.local/state/mpicc-proxy/sessions".into()));
        assert_eq!(of(&[("HOME", "/nonexistent/home")]), None);
        let relative = of(&[("HOME", "/usr"), ("XDG_STATE_HOME", "s")]);
        assert_eq!(relative, Some("/usr/.local/state/mpicc-proxy/sessions".into()));
        assert_eq!(of(&[("HOME", "/h"), ("XDG_STATE_HOME", "/s")]), Some("/s/mpicc-proxy/sessions".into()));
        assert_eq!(of(&[("HOME", "/h"), (VARIABLE, "rel")]), Some("rel".into()));
        assert_eq!(of(&[("HOME", "/h"), (VARIABLE, "off")]), None);
        assert_eq!(of(&[("HOME", "/usr"), (VARIABLE, "")]), Some("/usr/.local/state/mpicc-proxy/sessions".into()));
    }

    #[test]
    fn the_oldest_make_room() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("deep/er");
        let file = new_file(None, Some(folder.clone())).unwrap();
        assert_eq!(file_of(&folder, &id_of(&file)), file);
        for number in 0..EARLIER_MAX + 3 {
            fs::write(file_of(&folder, &format!("2000{number:04}")), "").unwrap();
        }
        fs::write(folder.join("notes"), "mine").unwrap();
        let big = fs::File::create(file_of(&folder, "20000005")).unwrap();
        big.set_len(EARLIER_BYTES_MAX + 1).unwrap();
        new_file(None, Some(folder.clone())).unwrap();
        let left = files(&folder).unwrap();
        assert_eq!(left.len(), EARLIER_MAX - 3, "6 and later stay, but for what is too many");
        assert_eq!(id_of(left.last().unwrap()), "20000006");
        assert!(folder.join("notes").exists());
        assert_eq!(new_file(Some(Path::new("off")), Some(folder.clone())), None);
        assert_eq!(new_file(Some(Path::new("f")), None), Some("f".into()));
    }
}
