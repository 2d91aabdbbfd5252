//! How the user's command fails: an exit status for programs, a sentence for people.

use crate::paths::NotFound;
use std::ffi::OsStr;
use std::fmt;

/// Exit statuses, documented in `--help`. Where sysexits.h has one, it is that.
pub mod exit {
    /// `doctor` found what makes a session fail.
    pub const ERRORS_FOUND: u8 = 1;
    /// The command line makes no sense.
    pub const USAGE: u8 = 2;
    /// EX_NOINPUT: there is no event log that says what was asked.
    pub const NO_EVENTS: u8 = 66;
    /// EX_UNAVAILABLE: there is no dispatcher.
    pub const NO_DISPATCHER: u8 = 69;
    /// EX_SOFTWARE: the ranks could not be started, or the installation is incomplete.
    pub const NO_RANKS: u8 = 70;
    /// EX_CANTCREAT: the file of `--stats` cannot be written.
    pub const CANNOT_CREATE: u8 = 73;
    /// EX_TEMPFAIL: the dispatcher was asked to end and has not, yet.
    pub const STILL_THERE: u8 = 75;
    /// As in shells: found, but cannot be executed.
    pub const NOT_EXECUTABLE: u8 = 126;
    /// As in shells: no such command.
    pub const NOT_FOUND: u8 = 127;
    /// As in shells: a command killed by signal N gives 128+N.
    pub const SIGNAL_BASE: u8 = 128;
}

/// Why the command ends without having done what was asked.
#[derive(Debug)]
pub struct Failure {
    pub status: u8,
    /// Operation, object, cause, what to do.
    pub sentence: String,
}

impl Failure {
    pub fn new(status: u8, sentence: impl Into<String>) -> Failure {
        Failure { status, sentence: sentence.into() }
    }

    /// For `map_err`: the ranks cannot be started because of an error that is a sentence already.
    pub fn no_ranks(cause: impl fmt::Display) -> Failure {
        Failure::new(exit::NO_RANKS, format!("cannot start the ranks: {cause}; nothing was built"))
    }

    /// Adds lines for those who look into it: what was executed, what it wrote.
    pub fn with_details(mut self, details: impl fmt::Display) -> Failure {
        self.sentence = format!("{}\n{details}", self.sentence);
        self
    }

    /// A command that cannot be executed.
    pub fn command(name: &OsStr, why: NotFound) -> Failure {
        match why {
            NotFound::Missing => Failure::new(exit::NOT_FOUND, format!("{}: command not found", name.display())),
            NotFound::NotExecutable => Failure::new(
                exit::NOT_EXECUTABLE,
                format!("{}: found, but it is not a program that may be executed", name.display()),
            ),
        }
    }

    /// A command that was found, and then the kernel refused to execute it.
    pub fn execution(name: &OsStr, error: &std::io::Error) -> Failure {
        let status = match error.kind() {
            std::io::ErrorKind::NotFound => exit::NOT_FOUND,
            _ => exit::NOT_EXECUTABLE,
        };
        Failure::new(status, format!("cannot execute {}: {error}", name.display()))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}
