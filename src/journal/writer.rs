//! Appends events to a session's log. The file may be on a file system that stalls, and the dispatcher must not: a thread
//! writes, and what it cannot keep up with is dropped, whole lines at a time.

use super::{Event, Line, SESSION_BYTES_MAX, file};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Lines are handed to the thread after this time, or when there are this many bytes.
pub const DELAY: Duration = Duration::from_millis(250);
const BATCH_BYTES: usize = 64 << 10;

/// Batches that wait for the file system: 16 MiB of lines.
const BATCHES_MAX: usize = 256;

/// How long the end of a session waits for the file system.
const PATIENCE: Duration = Duration::from_secs(2);

/// Writes the log of a session, or nothing.
pub struct Journal {
    thread: Option<Thread>,
    batch: Vec<u8>,
    batch_since: Instant,
    /// What single actions have filled.
    bytes: u64,
    is_full: bool,
    /// Unix time that goes on evenly, whatever is done to the clock.
    started: Instant,
    started_us: u64,
}

/// One line, at a Unix time.
pub fn line(at_us: u64, event: Event) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(&Line { at_us, event }).expect("events are numbers and strings");
    bytes.push(b'\n');
    bytes
}

pub fn unix_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64
}

struct Thread {
    sender: SyncSender<Vec<u8>>,
    handle: JoinHandle<()>,
}

impl Default for Journal {
    /// Nowhere.
    fn default() -> Self {
        Journal::new(None, 0)
    }
}

impl Journal {
    /// Opens the log in `file`, which others may have begun.
    ///
    /// # Errors
    /// The file cannot be opened for appending.
    pub fn open(file: &Path) -> io::Result<Journal> {
        Journal::to(file::append(file)?)
    }

    /// Appends to a log that is open.
    ///
    /// # Errors
    /// Its size cannot be told, or there is no thread to be had.
    pub fn to(mut file: File) -> io::Result<Journal> {
        let bytes = file.metadata()?.len();
        let (sender, receiver): (_, Receiver<Vec<u8>>) = sync_channel(BATCHES_MAX);
        let write = move || {
            // Where the disk is full, the log ends. A batch begins and ends with a line.
            for batch in receiver {
                let _ = file.write_all(&batch);
            }
        };
        let handle = thread::Builder::new().name("event-log".into()).spawn(write)?;
        Ok(Journal::new(Some(Thread { sender, handle }), bytes))
    }

    fn new(thread: Option<Thread>, bytes: u64) -> Journal {
        Journal {
            thread,
            batch: Vec::new(),
            batch_since: Instant::now(),
            bytes,
            is_full: bytes > SESSION_BYTES_MAX,
            started: Instant::now(),
            started_us: unix_us(),
        }
    }

    /// Is anything written? Who would have to find out what to say asks first.
    pub fn is_on(&self) -> bool {
        self.thread.is_some()
    }

    pub fn note(&mut self, event: Event) {
        if self.thread.is_none() || (self.is_full && event.is_single()) {
            return;
        }
        if self.batch.is_empty() {
            self.batch_since = Instant::now();
        }
        let before = self.batch.len();
        let is_single = event.is_single();
        self.write(event);
        if is_single {
            self.bytes += (self.batch.len() - before) as u64;
            if self.bytes > SESSION_BYTES_MAX {
                self.is_full = true;
                self.write(Event::Full);
            }
        }
        if self.batch.len() >= BATCH_BYTES {
            self.hand_over();
        }
    }

    fn write(&mut self, event: Event) {
        let at_us = self.started_us + self.started.elapsed().as_micros() as u64;
        self.batch.extend(line(at_us, event));
    }

    /// Hands over what has waited long enough; returns whether something waits.
    pub fn look(&mut self) -> bool {
        if !self.batch.is_empty() && self.batch_since.elapsed() >= DELAY {
            self.hand_over();
        }
        !self.batch.is_empty()
    }

    fn hand_over(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        if let Some(thread) = &self.thread {
            let _ = thread.sender.try_send(batch);
        }
    }

    /// Writes the rest, as far as that is possible soon.
    pub fn close(mut self) {
        if !self.batch.is_empty() {
            self.hand_over();
        }
        if let Some(Thread { sender, handle }) = self.thread.take() {
            drop(sender);
            let deadline = Instant::now() + PATIENCE;
            while !handle.is_finished() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(file: &Path) -> Vec<Line> {
        let text = std::fs::read_to_string(file).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn lines_come_in_order_and_after_those_of_others() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("log");
        for round in 0..2 {
            let mut journal = Journal::open(&file).unwrap();
            assert!(journal.is_on());
            (0..3000).for_each(|action| journal.note(Event::Queued { action: round * 3000 + action }));
            assert!(journal.look());
            journal.close();
        }
        let lines = lines(&file);
        assert_eq!(lines.len(), 6000);
        assert!(lines.iter().enumerate().all(|(at, line)| line.event == Event::Queued { action: at as u64 }));
        assert!(lines.is_sorted_by_key(|line| line.at_us));
    }

    #[test]
    fn a_full_log_has_the_session_s_events_still() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("log");
        let mut journal = Journal::open(&file).unwrap();
        journal.bytes = SESSION_BYTES_MAX;
        journal.note(Event::Queued { action: 1 });
        journal.note(Event::Queued { action: 2 });
        journal.note(Event::Lost { rank: 1 });
        journal.close();
        let events: Vec<Event> = lines(&file).into_iter().map(|line| line.event).collect();
        assert_eq!(events, [Event::Queued { action: 1 }, Event::Full, Event::Lost { rank: 1 }]);
    }

    #[test]
    fn nowhere_is_a_place() {
        let mut journal = Journal::default();
        assert!(!journal.is_on());
        journal.note(Event::Full);
        assert!(!journal.look());
        journal.close();
        assert!(Journal::open(Path::new("/nonexistent/log")).is_err());
    }
}
