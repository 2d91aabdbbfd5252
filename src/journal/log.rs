//! The first and the last line of a session's event log, and where it is: what `run` has to do with it.

use super::{Event, Journal, folder};
use crate::error::{Failure, exit};
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

/// The event log of a session, if there is one.
pub struct Log {
    file: Option<PathBuf>,
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
        let mut file = folder::new_file(given, folder::own_folder());
        if let Some(path) = &file {
            let begun = File::create(path).and_then(|_| Journal::open(path));
            match begun {
                Ok(mut journal) => {
                    journal.note(Event::session(path, command));
                    journal.close();
                }
                Err(_) if is_usual => file = None,
                Err(e) => {
                    let sentence = format!("cannot write events to {}: {e}", path.display());
                    return Err(Failure::new(exit::CANNOT_CREATE, sentence));
                }
            }
        }
        Ok(Log { file, is_usual })
    }

    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Nothing happened.
    pub fn remove(&self) {
        if let Some(file) = &self.file {
            let _ = std::fs::remove_file(file);
        }
    }

    pub fn end(&self, status: u8) {
        if let Some(mut journal) = self.file().and_then(|file| Journal::open(file).ok()) {
            journal.note(Event::End { status: Some(status) });
            journal.close();
        }
    }

    /// An appendix to the session's sentence.
    pub fn hint(&self) -> String {
        match (&self.file, self.is_usual) {
            (Some(file), true) => format!("; mpicc-proxy report --session {}", folder::id_of(file)),
            (Some(file), false) => format!("; mpicc-proxy report --events {}", file.display()),
            (None, _) => String::new(),
        }
    }
}
