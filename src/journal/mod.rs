//! The event log of a session: what was compiled where, when, and what came of it, as lines of JSON. The single source
//! of `top`, `report` and `explain --last`.
//!
//! # The file
//! One object a line, each with `event` (a name below) and `at_us` (Unix time in microseconds; within one dispatcher it
//! never goes back). The first line is a `session`, and the last one, unless the session was killed, an `end`. Readers
//! skip events and fields they do not know; what is here keeps its meaning for as long as `schema` is [`SCHEMA`]. Paths
//! that are not UTF-8 have U+FFFD where they are not.
//!
//! `run` writes the first and the last line, rank 0 the others; each by appending whole lines. Without `run`, rank 0
//! writes all. When ranks are started again, the new rank 0 goes on, from a `ranks` on with new numbers for its actions.
//!
//! # Its limits
//! After [`SESSION_BYTES_MAX`] a `full`, and then nothing of single actions. Old sessions go when new ones begin
//! ([`folder`]).

pub mod file;
pub mod folder;
mod log;
pub mod replay;
mod writer;

pub use log::Log;
pub use writer::{DELAY, Journal, unix_us};

use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// Version of the events.
pub const SCHEMA: u32 = 1;

/// What single actions may fill, of one session: about 150,000 of them.
pub const SESSION_BYTES_MAX: u64 = 64 << 20;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    pub at_us: u64,
    #[serde(flatten)]
    pub event: Event,
}

/// What happened. `action`: its number, of the dispatcher that said so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A session begins. `command`: that of `run`, empty without it.
    Session { schema: u32, version: String, id: String, host: String, cwd: String, command: Vec<String> },
    /// The dispatcher is there, with these workers.
    Ranks { ranks: Vec<Worker> },
    /// A compile waits for a slot.
    Queued { action: u64 },
    /// A rank has it. `expected_us`: the wall time that it took last time. `package`: what Spack builds.
    Started {
        action: u64,
        rank: i32,
        #[serde(flatten)]
        what: What,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        expected_us: Option<u64>,
    },
    /// A rank could not carry it out, so another one is to.
    Retried { action: u64, cause: String },
    /// A rank has carried it out.
    Finished {
        action: u64,
        #[serde(flatten)]
        figures: Figures,
    },
    /// An invocation runs on the head, for this reason: a compile that waited or ran elsewhere, or one that is heard of
    /// for the first time.
    Local {
        action: u64,
        reason: String,
        #[serde(skip_serializing_if = "String::is_empty", default)]
        detail: String,
        #[serde(flatten)]
        what: What,
    },
    /// What ran on the head has ended. Its status is known to its parent alone.
    Ended { action: u64 },
    /// Nobody waits for it any more.
    Abandoned { action: u64 },
    /// A worker is lost.
    Lost { rank: i32 },
    /// Sums since the dispatcher began; every few seconds while something happens.
    Counts(Counts),
    /// Nothing more of single actions: there were too many.
    Full,
    /// The session is over. `status`: that of `run`'s command, which had ended at `command_us` (Unix time).
    End {
        #[serde(skip_serializing_if = "Option::is_none", default)]
        status: Option<u8>,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        command_us: Option<u64>,
    },
    /// Of a later version.
    #[serde(other)]
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    pub rank: i32,
    pub host: String,
    pub slots: u32,
}

/// What an invocation is about, as far as its command line tells: absolute paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct What {
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub output: String,
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub source: String,
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub package: String,
}

/// What a compile on a rank took. `cpu_us`, `peak_bytes`: CPU and most resident memory of its processes. `misses`:
/// questions it had to ask. `sent_bytes`: what went to the rank for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    pub exit: Exit,
    pub cpu_us: u64,
    pub peak_bytes: u64,
    pub misses: u64,
    pub sent_bytes: u64,
}

/// Sums of a dispatcher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub bytes_to_workers: u64,
    pub bytes_from_workers: u64,
    pub misses: u64,
    pub tokens_lent: u64,
    pub dispatcher_cpu_us: u64,
    pub clients_cpu_us: u64,
}

/// How a compiler ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

impl Event {
    /// The first line of the log in `file`, of a session that begins here and now.
    pub fn session(file: &Path, command: &[OsString]) -> Event {
        let lossy = |text: &OsStr| text.to_string_lossy().into_owned();
        Event::Session {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            id: folder::id_of(file),
            host: lossy(&nix::unistd::gethostname().unwrap_or_default()),
            cwd: std::env::current_dir().map(|cwd| lossy(cwd.as_os_str())).unwrap_or_default(),
            command: command.iter().map(|word| lossy(word)).collect(),
        }
    }

    /// Is it about one action? Of those there may be too many.
    fn is_single(&self) -> bool {
        matches!(
            self,
            Event::Queued { .. }
                | Event::Started { .. }
                | Event::Retried { .. }
                | Event::Finished { .. }
                | Event::Local { .. }
                | Event::Ended { .. }
                | Event::Abandoned { .. }
        )
    }
}

/// Does nobody write to this log any more, or has nobody begun?
pub fn is_over(file: &Path) -> bool {
    /// More than the last line of a session.
    const LAST_BYTES: u64 = 256;
    let tail = || {
        let mut file = file::read(file)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LAST_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        io::Result::Ok(bytes)
    };
    let last = tail().unwrap_or_default();
    let line = last.strip_suffix(b"\n").unwrap_or(&last).rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    line.is_empty() || matches!(serde_json::from_slice(line), Ok(Line { event: Event::End { .. }, .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The schema, as readers of other languages see it: changing a line here is a new [`SCHEMA`].
    #[test]
    fn events_are_spelled_as_documented() {
        let what = What { output: "/b/x.o".into(), source: "/s/x.c".into(), package: String::new() };
        let table = [
            (
                Event::Session {
                    schema: 1,
                    version: "0.1.0".into(),
                    id: "i".into(),
                    host: "h".into(),
                    cwd: "/b".into(),
                    command: vec!["make".into()],
                },
                r#"{"at_us":7,"event":"session","schema":1,"version":"0.1.0","id":"i","host":"h","cwd":"/b","command":["make"]}"#,
            ),
            (
                Event::Ranks { ranks: vec![Worker { rank: 1, host: "n1".into(), slots: 8 }] },
                r#"{"at_us":7,"event":"ranks","ranks":[{"rank":1,"host":"n1","slots":8}]}"#,
            ),
            (Event::Queued { action: 3 }, r#"{"at_us":7,"event":"queued","action":3}"#),
            (
                Event::Started { action: 3, rank: 1, what: what.clone(), expected_us: Some(9) },
                r#"{"at_us":7,"event":"started","action":3,"rank":1,"output":"/b/x.o","source":"/s/x.c","expected_us":9}"#,
            ),
            (
                Event::Retried { action: 3, cause: "lost".into() },
                r#"{"at_us":7,"event":"retried","action":3,"cause":"lost"}"#,
            ),
            (
                Event::Finished {
                    action: 3,
                    figures: Figures { exit: Exit::Code(1), cpu_us: 2, peak_bytes: 3, misses: 4, sent_bytes: 5 },
                },
                r#"{"at_us":7,"event":"finished","action":3,"exit":{"code":1},"cpu_us":2,"peak_bytes":3,"misses":4,"sent_bytes":5}"#,
            ),
            (
                Event::Local { action: 3, reason: "link".into(), detail: String::new(), what },
                r#"{"at_us":7,"event":"local","action":3,"reason":"link","output":"/b/x.o","source":"/s/x.c"}"#,
            ),
            (Event::Ended { action: 3 }, r#"{"at_us":7,"event":"ended","action":3}"#),
            (Event::Abandoned { action: 3 }, r#"{"at_us":7,"event":"abandoned","action":3}"#),
            (Event::Lost { rank: 1 }, r#"{"at_us":7,"event":"lost","rank":1}"#),
            (
                Event::Counts(Counts {
                    bytes_to_workers: 1,
                    bytes_from_workers: 2,
                    misses: 3,
                    tokens_lent: 4,
                    dispatcher_cpu_us: 5,
                    clients_cpu_us: 6,
                }),
                r#"{"at_us":7,"event":"counts","bytes_to_workers":1,"bytes_from_workers":2,"misses":3,"tokens_lent":4,"dispatcher_cpu_us":5,"clients_cpu_us":6}"#,
            ),
            (Event::Full, r#"{"at_us":7,"event":"full"}"#),
            (Event::End { status: Some(2), command_us: None }, r#"{"at_us":7,"event":"end","status":2}"#),
            (
                Event::End { status: Some(2), command_us: Some(6) },
                r#"{"at_us":7,"event":"end","status":2,"command_us":6}"#,
            ),
        ];
        for (event, text) in table {
            let line = Line { at_us: 7, event };
            assert_eq!(serde_json::to_string(&line).unwrap(), text);
            assert_eq!(serde_json::from_str::<Line>(text).unwrap(), line);
        }
    }

    #[test]
    fn later_versions_are_read_as_far_as_they_are_known() {
        let read = |text| serde_json::from_str::<Line>(text).unwrap().event;
        assert_eq!(read(r#"{"at_us":1,"event":"teleported","action":3}"#), Event::Unknown);
        assert_eq!(read(r#"{"at_us":1,"event":"lost","rank":3,"why":"rust"}"#), Event::Lost { rank: 3 });
    }
}
