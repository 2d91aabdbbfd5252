//! The first and the last line of a session's event log, and where it is: what `run` has to do with it.

use super::writer::{Journal, line, unix_us};
use super::{Event, file, folder};
use crate::error::{Failure, exit};
use crate::identity;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The event log of a session, if there is one.
pub struct Log {
    /// Open as long as the session lasts, so that readers see that it does.
    file: Option<(PathBuf, File)>,
    /// It is where `report` looks for it.
    is_usual: bool,
}

impl Log {
    /// Begins the log that the user asked for (`given`; `off` for none), or one in the usual folder.
    ///
    /// # Errors
    /// The file that the user named cannot be written. That of a usual place is not worth a build.
    pub fn begin(given: Option<&Path>, command: &[OsString]) -> Result<Log, Failure> {
        let is_usual = given.is_none();
        let Some(path) = folder::new_file(given, folder::own_folder()) else {
            return Ok(Log { file: None, is_usual });
        };
        match begin(&path, command) {
            Ok(file) => Ok(Log { file: Some((path, file)), is_usual }),
            Err(_) if is_usual => Ok(Log { file: None, is_usual }),
            Err(e) => {
                let sentence = format!("cannot write events to {}: {e}", path.display());
                Err(Failure::new(exit::CANNOT_CREATE, sentence))
            }
        }
    }

    pub fn file(&self) -> Option<&Path> {
        self.file.as_ref().map(|(path, _)| &**path)
    }

    /// Nothing was built; `status` is that of `run`. A file that the user named stays.
    pub fn abandon(&self, status: u8) {
        match &self.file {
            Some((path, _)) if self.is_usual => _ = fs::remove_file(path),
            _ => self.end(status, None),
        }
    }

    /// The session is over, whose command had ended at `command_us`, Unix time, if it was run.
    pub fn end(&self, status: u8, command_us: Option<u64>) {
        let journal = |(_, file): &(PathBuf, File)| Journal::to(file.try_clone().ok()?).ok();
        if let Some(mut journal) = self.file.as_ref().and_then(journal) {
            journal.note(Event::End { status: Some(status), command_us });
            journal.close();
        }
    }

    /// An appendix to the session's sentence, if the log is still where it was.
    pub fn hint(&self) -> String {
        let Some((path, file)) = &self.file else { return String::new() };
        match (identity::of(path), file.metadata().map(|facts| identity::among(&facts))) {
            (Ok(there), Ok(ours)) if there == ours && self.is_usual => {
                format!("; mpicc-proxy report --session {}", folder::id_of(path))
            }
            (Ok(there), Ok(ours)) if there == ours => format!("; mpicc-proxy report --events {}", path.display()),
            _ => String::new(),
        }
    }
}

/// A log that has its first line, or is not there.
fn begin(path: &Path, command: &[OsString]) -> io::Result<File> {
    let is_new = !path.exists();
    let mut file = file::begin(path)?;
    file.write_all(&line(unix_us(), Event::session(path, command))).inspect_err(|_| {
        if is_new {
            let _ = fs::remove_file(path);
        }
    })?;
    Ok(file)
}
