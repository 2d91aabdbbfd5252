//! What the dispatcher writes into the session's event log, and the watch over what runs on the head: its ends are
//! nobody's message.

use super::clients::Token;
use super::history::Origin;
use super::queue::Rank;
use crate::event::Interest;
use crate::journal::{self, Counts, Event, Figures, Journal, What, Worker};
use crate::pidfd;
use crate::wire::{ActionId, ActionResult, Exit, Invocation, LocalNote, RankStats, Stats};
use mpicc_proxy_abi::env;
use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// Processes on the head that are watched. Of more, it is not known how long they take.
const WATCHED_MAX: usize = 512;

/// How often sums are written, while they change.
const COUNTS_EVERY: Duration = Duration::from_secs(2);

pub struct Events {
    journal: Journal,
    /// Nobody else writes its first and its last line.
    is_whole: bool,
    watched: BTreeMap<ActionId, OwnedFd>,
    counted: Option<Counts>,
    counted_at: Instant,
}

impl Events {
    /// Goes on with the log in `file`, or begins one; `None`: nowhere.
    pub fn open(file: Option<&Path>) -> Events {
        let is_whole = file.is_some_and(journal::is_over);
        let journal = file.and_then(|file| {
            let complain = |error| eprintln!("mpicc-proxy-rank: cannot write events to {}: {error}", file.display());
            Journal::open(file).map_err(complain).ok()
        });
        let mut journal = journal.unwrap_or_default();
        if let Some(file) = file.filter(|_| is_whole) {
            journal.note(Event::session(file, &[]));
        }
        Events { journal, is_whole, watched: BTreeMap::new(), counted: None, counted_at: Instant::now() }
    }

    pub fn begin(&mut self, ranks: Vec<RankStats>) {
        let worker = |rank: RankStats| Worker { rank: rank.rank, host: rank.host, slots: rank.slots };
        self.journal.note(Event::Ranks { ranks: ranks.into_iter().map(worker).collect() });
    }

    pub fn queued(&mut self, action: ActionId) {
        self.journal.note(Event::Queued { action });
    }

    pub fn started(
        &mut self,
        action: ActionId,
        rank: Rank,
        invocation: &Invocation,
        origin: &Origin,
        cost: Option<Duration>,
    ) {
        if self.journal.is_on() {
            let expected_us = cost.map(|wall| wall.as_micros() as u64);
            self.journal.note(Event::Started { action, rank, what: what(invocation, origin), expected_us });
        }
    }

    pub fn retried(&mut self, action: ActionId, cause: Option<&String>) {
        self.journal.note(Event::Retried { action, cause: cause.cloned().unwrap_or_default() });
    }

    pub fn finished(&mut self, action: ActionId, result: &ActionResult, sent_bytes: u64) {
        let exit = match result.exit {
            Exit::Code(code) => journal::Exit::Code(code),
            Exit::Signal(signal) => journal::Exit::Signal(signal),
        };
        let (cpu_us, peak_bytes, misses) = (result.cpu_us, result.peak_bytes, result.misses);
        self.journal
            .note(Event::Finished { action, figures: Figures { exit, cpu_us, peak_bytes, misses, sent_bytes } });
    }

    pub fn abandoned(&mut self, action: ActionId) {
        self.journal.note(Event::Abandoned { action });
    }

    pub fn lost(&mut self, rank: Rank) {
        self.journal.note(Event::Lost { rank });
    }

    /// A compile that was meant for a rank runs here, in the process `pid`.
    pub fn fell_back(
        &mut self,
        action: ActionId,
        reason: &str,
        detail: &str,
        invocation: &Invocation,
        pid: Option<u32>,
    ) {
        if self.journal.is_on() {
            self.note_local(action, reason, detail, what(invocation, &Origin::of(invocation)), pid);
        }
    }

    /// An invocation runs here that no rank was asked to do, in the process `pid`.
    pub fn stayed(&mut self, action: ActionId, note: &LocalNote, pid: Option<u32>) {
        if self.journal.is_on() {
            let output = lossy(&note.output);
            let what = What { output, source: String::new(), package: package(&note.package) };
            self.note_local(action, &note.reason, &note.detail, what, pid);
        }
    }

    /// An invocation runs here, in the process `pid`, of which no more is known.
    pub fn turned_away(&mut self, action: ActionId, reason: &str, pid: Option<u32>) {
        self.note_local(action, reason, "", What::default(), pid);
    }

    fn note_local(&mut self, action: ActionId, reason: &str, detail: &str, what: What, pid: Option<u32>) {
        let (reason, detail) = (reason.to_owned(), detail.to_owned());
        self.journal.note(Event::Local { action, reason, detail, what });
        match pid.filter(|_| self.watched.len() < WATCHED_MAX).and_then(|pid| pidfd::open(pid).ok()) {
            Some(process) => _ = self.watched.insert(action, process),
            None => self.ended(action),
        }
    }

    pub fn interest(&self, interest: &mut Interest<Token>) {
        for (action, process) in &self.watched {
            interest.add(process.as_raw_fd(), false, Token::Local(*action));
        }
    }

    /// What ran on the head has ended.
    pub fn ended(&mut self, action: ActionId) {
        self.watched.remove(&action);
        self.journal.note(Event::Ended { action });
    }

    pub fn is_time_to_count(&self) -> bool {
        self.journal.is_on() && self.counted_at.elapsed() >= COUNTS_EVERY
    }

    /// Writes the sums, if there is news.
    pub fn count(&mut self, stats: &Stats) {
        self.counted_at = Instant::now();
        let counts = counts(stats);
        // The dispatcher's own CPU alone is no news.
        let news = |counts: Counts| (counts.bytes_from_workers, counts.misses, counts.clients_cpu_us);
        if self.counted.map(news) != Some(news(counts)) {
            self.journal.note(Event::Counts(counts));
            self.counted = Some(counts);
        }
    }

    /// Sends off what has waited long enough; returns how long the rest may wait.
    pub fn look(&mut self) -> Option<Duration> {
        self.journal.look().then_some(journal::DELAY)
    }

    /// The last lines.
    pub fn close(mut self, stats: &Stats) {
        self.journal.note(Event::Counts(counts(stats)));
        if self.is_whole {
            self.journal.note(Event::End { status: None, command_us: None });
        }
        self.journal.close();
    }
}

fn counts(stats: &Stats) -> Counts {
    let us = |seconds: f64| (seconds * 1e6) as u64;
    Counts {
        bytes_to_workers: stats.bytes_to_workers,
        bytes_from_workers: stats.bytes_from_workers,
        misses: stats.misses,
        tokens_lent: stats.tokens.lent,
        dispatcher_cpu_us: us(stats.dispatcher_cpu_s),
        clients_cpu_us: us(stats.client_cpu_s),
    }
}

fn what(invocation: &Invocation, origin: &Origin) -> What {
    let spec = invocation.variable(env::SPACK_SHORT_SPEC).unwrap_or_default();
    What { output: lossy(&origin.output), source: lossy(&origin.source), package: package(spec) }
}

/// `zlib@1.3/abcdefg` of Spack's `zlib@1.3 build_system=makefile platform=linux target=zen3/abcdefg`.
fn package(spec: &[u8]) -> String {
    let spec = lossy(spec);
    let name = spec.split([' ', '/']).next().unwrap_or_default();
    match spec.rsplit_once('/') {
        Some((_, hash)) => format!("{name}/{hash}"),
        None => name.to_owned(),
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_have_short_names() {
        for (spec, name) in [
            ("", ""),
            ("cmk", "cmk"),
            ("cmk@1.0 build_system=makefile platform=linux os=debian12 target=x86_64_v4/7ubpiwm", "cmk@1.0/7ubpiwm"),
            ("cmk@1.0/7ubpiwm", "cmk@1.0/7ubpiwm"),
        ] {
            assert_eq!(package(spec.as_bytes()), name);
        }
    }
}
