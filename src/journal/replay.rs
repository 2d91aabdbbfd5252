//! A session as its log tells it, up to now: who works, what waits, runs and is done. Reads events; shows nothing.
//!
//! Times are microseconds since the session began.

use super::{Counts, Event, Exit, Figures, Line, What, Worker, file};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Bytes of a log that are read at a time.
const READ_BYTES: usize = 1 << 20;

/// A line that has no end within this is none of ours.
pub const LINE_BYTES_MAX: usize = 4 << 20;

/// Index into [`Session::actions`].
pub type Index = usize;

/// What is known of a session.
#[derive(Clone, Debug, Default)]
pub struct Session {
    pub id: String,
    pub host: String,
    pub cwd: String,
    pub command: Vec<String>,
    /// Unix time.
    pub began_us: u64,
    /// When it was heard of last.
    pub now_us: u64,
    pub end: Option<End>,
    /// It has no end, and nobody writes any more.
    pub is_dead: bool,
    pub workers: Vec<WorkerState>,
    /// In the order in which they were heard of first.
    pub actions: Vec<Action>,
    pub waiting: BTreeSet<Index>,
    pub running: BTreeSet<Index>,
    /// What runs on the head, as far as its end is watched.
    pub local: BTreeSet<Index>,
    pub totals: Totals,
    /// Why invocations ran on the head.
    pub reasons: BTreeMap<String, u64>,
    pub counts: Counts,
    /// Single actions are not told any more.
    pub is_full: bool,
    /// What could not be read.
    pub odd_lines: u64,
    /// Sums of the dispatchers that are gone.
    before: Counts,
    /// The workers of the present dispatcher.
    first_worker: usize,
    by_number: BTreeMap<u64, Index>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    pub at_us: u64,
    /// That of the command of `run`.
    pub status: Option<u8>,
    /// When that had ended, if it was run.
    pub command_us: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct WorkerState {
    pub rank: i32,
    pub host: String,
    pub slots: u32,
    pub since_us: u64,
    pub until_us: Option<u64>,
    /// Who has which slot. Slots are numbered here, in the order in which they are taken; a rank does not number them.
    pub taken: Vec<Option<Index>>,
    pub finished: u64,
    pub cpu_us: u64,
    /// Sum of the time that its slots were taken, while the command ran.
    pub busy_us: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Action {
    pub what: What,
    pub queued_us: u64,
    /// The last time on a rank.
    pub run: Option<Run>,
    /// On the head.
    pub local: Option<Local>,
    pub expected_us: Option<u64>,
    pub outcome: Option<Outcome>,
    pub ended_us: Option<u64>,
    /// Why ranks did not carry it out.
    pub causes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Index into [`Session::workers`].
    pub worker: usize,
    pub slot: usize,
    pub since_us: u64,
    pub until_us: Option<u64>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Local {
    pub reason: String,
    pub detail: String,
    pub since_us: u64,
    /// `None`: it runs, or nobody watched it.
    pub until_us: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Remote(Figures),
    Local,
    Abandoned,
    /// Its dispatcher died.
    Lost,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub remote: u64,
    pub local: u64,
    /// Of `remote`: with a status other than 0.
    pub failed: u64,
    pub retries: u64,
    pub abandoned: u64,
    pub relaunches: u64,
    pub compile_cpu_us: u64,
}

impl Action {
    /// From its being asked for to its last start on a rank.
    pub fn waited_us(&self) -> u64 {
        self.run.as_ref().map_or(0, |run| run.since_us - self.queued_us)
    }
}

impl Run {
    /// `None`: it goes on.
    pub fn wall_us(&self) -> Option<u64> {
        Some(self.until_us? - self.since_us)
    }
}

impl Session {
    /// Takes what happened next.
    pub fn take(&mut self, line: Line) {
        if self.began_us == 0 {
            self.began_us = line.at_us;
        }
        let now = line.at_us.saturating_sub(self.began_us).max(self.now_us);
        self.now_us = now;
        match line.event {
            Event::Session { id, host, cwd, command, .. } => {
                // Of several in one file, the last.
                *self = Session { began_us: line.at_us, ..Session::default() };
                (self.id, self.host, self.cwd, self.command) = (id, host, cwd, command);
            }
            Event::Ranks { ranks } => self.begin(ranks, now),
            Event::Queued { action } => {
                let index = self.add(action, Action { queued_us: now, ..Action::default() });
                self.waiting.insert(index);
            }
            Event::Started { action, rank, what, expected_us } => self.start(action, rank, what, expected_us, now),
            Event::Retried { action, cause } => {
                self.totals.retries += 1;
                if let Some(index) = self.index(action) {
                    self.leave_rank(index, now);
                    self.actions[index].causes.push(cause);
                    self.waiting.insert(index);
                }
            }
            Event::Finished { action, figures } => {
                self.totals.remote += 1;
                self.totals.failed += u64::from(figures.exit != Exit::Code(0));
                self.totals.compile_cpu_us += figures.cpu_us;
                let Some(index) = self.index(action) else { return };
                if let Some(run) = &self.actions[index].run {
                    let worker = &mut self.workers[run.worker];
                    (worker.finished, worker.cpu_us) = (worker.finished + 1, worker.cpu_us + figures.cpu_us);
                }
                self.finish(index, Outcome::Remote(figures), now);
            }
            Event::Local { action, reason, detail, what } => self.run_locally(action, reason, detail, what, now),
            Event::Ended { action } => {
                let Some(index) = self.index(action) else { return };
                self.local.remove(&index);
                self.actions[index].ended_us = Some(now);
                if let Some(local) = &mut self.actions[index].local {
                    local.until_us = Some(now);
                }
            }
            Event::Abandoned { action } => {
                self.totals.abandoned += 1;
                if let Some(index) = self.index(action) {
                    self.finish(index, Outcome::Abandoned, now);
                }
            }
            Event::Lost { rank } => {
                let is_it = |worker: &&mut WorkerState| worker.rank == rank;
                if let Some(worker) = self.workers.iter_mut().skip(self.first_worker).find(is_it) {
                    worker.until_us = Some(now);
                }
            }
            Event::Counts(counts) => {
                let before = &self.before;
                self.counts = Counts {
                    bytes_to_workers: before.bytes_to_workers + counts.bytes_to_workers,
                    bytes_from_workers: before.bytes_from_workers + counts.bytes_from_workers,
                    misses: before.misses + counts.misses,
                    tokens_lent: before.tokens_lent + counts.tokens_lent,
                    dispatcher_cpu_us: before.dispatcher_cpu_us + counts.dispatcher_cpu_us,
                    clients_cpu_us: before.clients_cpu_us + counts.clients_cpu_us,
                };
            }
            Event::Full => self.is_full = true,
            Event::End { status, command_us } => {
                let command_us = command_us.map(|us| us.saturating_sub(self.began_us));
                self.end = Some(End { at_us: now, status, command_us });
                self.lose_dispatcher(now);
            }
            Event::Unknown => {}
        }
    }

    /// Has nothing been heard of it?
    pub fn is_empty(&self) -> bool {
        self.began_us == 0
    }

    /// How long the session lasted, or has lasted: until its command had ended, if it had one.
    pub fn wall_us(&self) -> u64 {
        self.end.and_then(|end| end.command_us).unwrap_or(self.last_us())
    }

    /// What goes on went on until here.
    pub fn last_us(&self) -> u64 {
        self.end.map_or(self.now_us, |end| end.at_us)
    }

    /// Slots that there are now.
    pub fn slots(&self) -> u32 {
        self.alive().map(|worker| worker.slots).sum()
    }

    /// The workers that are there now.
    pub fn alive(&self) -> impl Iterator<Item = &WorkerState> {
        self.workers.iter().skip(self.first_worker).filter(|worker| worker.until_us.is_none())
    }

    /// The workers of the present dispatcher, also those that it lost.
    pub fn present(&self) -> &[WorkerState] {
        &self.workers[self.first_worker..]
    }

    fn index(&self, action: u64) -> Option<Index> {
        self.by_number.get(&action).copied()
    }

    fn add(&mut self, number: u64, action: Action) -> Index {
        self.actions.push(action);
        let index = self.actions.len() - 1;
        self.by_number.insert(number, index);
        index
    }

    fn begin(&mut self, ranks: Vec<Worker>, now: u64) {
        if !self.workers.is_empty() {
            self.totals.relaunches += 1;
        }
        self.lose_dispatcher(now);
        self.before = self.counts;
        self.first_worker = self.workers.len();
        self.workers.extend(ranks.into_iter().map(|Worker { rank, host, slots }| WorkerState {
            rank,
            host,
            slots,
            since_us: now,
            until_us: None,
            taken: Vec::new(),
            finished: 0,
            cpu_us: 0,
            busy_us: 0,
        }));
    }

    /// What it had in hand has no end any more.
    fn lose_dispatcher(&mut self, now: u64) {
        for index in self.waiting.clone().into_iter().chain(self.running.clone()) {
            self.finish(index, Outcome::Lost, now);
        }
        self.local.clear();
        self.by_number.clear();
        for worker in self.workers.iter_mut().skip(self.first_worker) {
            worker.until_us.get_or_insert(now);
        }
    }

    fn start(&mut self, action: u64, rank: i32, what: What, expected_us: Option<u64>, now: u64) {
        let known = self.index(action);
        let index = known.unwrap_or_else(|| self.add(action, Action { queued_us: now, ..Action::default() }));
        self.leave_rank(index, now);
        self.waiting.remove(&index);
        let present = self.workers.iter_mut().enumerate().skip(self.first_worker);
        let Some((worker, state)) = present.into_iter().find(|(_, worker)| worker.rank == rank) else { return };
        let slot = state.taken.iter().position(Option::is_none).unwrap_or(state.taken.len());
        if slot == state.taken.len() {
            state.taken.push(None);
        }
        state.taken[slot] = Some(index);
        let action = &mut self.actions[index];
        (action.what, action.expected_us) = (what, expected_us);
        action.run = Some(Run { worker, slot, since_us: now, until_us: None });
        self.running.insert(index);
    }

    fn leave_rank(&mut self, index: Index, now: u64) {
        if !self.running.remove(&index) {
            return;
        }
        let until = self.wall_us();
        if let Some(run) = &mut self.actions[index].run {
            run.until_us = Some(now);
            let worker = &mut self.workers[run.worker];
            worker.taken[run.slot] = None;
            worker.busy_us += until.saturating_sub(run.since_us);
        }
    }

    fn finish(&mut self, index: Index, outcome: Outcome, now: u64) {
        self.leave_rank(index, now);
        self.waiting.remove(&index);
        let action = &mut self.actions[index];
        (action.outcome, action.ended_us) = (Some(outcome), Some(now));
    }

    fn run_locally(&mut self, number: u64, reason: String, detail: String, what: What, now: u64) {
        self.totals.local += 1;
        *self.reasons.entry(reason.clone()).or_default() += 1;
        let known = self.index(number);
        let index = known.unwrap_or_else(|| self.add(number, Action { queued_us: now, ..Action::default() }));
        self.finish(index, Outcome::Local, now);
        self.local.insert(index);
        let action = &mut self.actions[index];
        action.ended_us = None;
        if what != What::default() {
            action.what = what;
        }
        action.local = Some(Local { reason, detail, since_us: now, until_us: None });
    }
}

/// Reads a log as it grows.
pub struct Follower {
    file: File,
    rest: Vec<u8>,
}

impl Follower {
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: &Path) -> io::Result<Follower> {
        Ok(Follower { file: file::read(path)?, rest: Vec::new() })
    }

    /// Takes all that is there by now; returns whether there was something.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&mut self, session: &mut Session) -> io::Result<bool> {
        // Before it is read: who goes while it is has written all.
        let is_written = file::is_written(&self.file);
        let any = self.read_all(session)?;
        session.is_dead = session.end.is_none() && !is_written;
        Ok(any)
    }

    fn read_all(&mut self, session: &mut Session) -> io::Result<bool> {
        let mut any = false;
        loop {
            let before = self.rest.len();
            self.rest.resize(before + READ_BYTES, 0);
            let read = self.file.read(&mut self.rest[before..]);
            self.rest.truncate(before + *read.as_ref().unwrap_or(&0));
            if read? == 0 {
                return Ok(any);
            }
            any = true;
            let whole = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            for line in self.rest[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                match serde_json::from_slice(line) {
                    Ok(line) => session.take(line),
                    Err(_) => session.odd_lines += 1,
                }
            }
            self.rest.drain(..whole);
            if self.rest.len() > LINE_BYTES_MAX {
                self.rest.clear();
                session.odd_lines += 1;
            }
        }
    }
}

/// A session from its log, as far as that goes.
///
/// # Errors
/// The file cannot be opened or read.
pub fn load(path: &Path) -> io::Result<Session> {
    let mut session = Session::default();
    Follower::open(path)?.read(&mut session)?;
    Ok(session)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// When [`told`] sessions begin, Unix time.
    pub const BEGAN_US: u64 = 1_000_000_000;

    /// A session of two workers with two slots each, from events and the seconds at which they happen.
    pub fn told(events: Vec<(f64, Event)>) -> Session {
        let mut session = Session::default();
        let first = Event::Session {
            schema: super::super::SCHEMA,
            version: String::new(),
            id: "20260101-000000-1".into(),
            host: "head".into(),
            cwd: "/build".into(),
            command: vec!["make".into(), "-j8".into()],
        };
        let worker = |rank, host: &str| Worker { rank, host: host.into(), slots: 2 };
        let ranks = Event::Ranks { ranks: vec![worker(1, "alpha"), worker(2, "beta")] };
        for (at_s, event) in [(0.0, first), (0.0, ranks)].into_iter().chain(events) {
            session.take(Line { at_us: BEGAN_US + (at_s * 1e6) as u64, event });
        }
        session
    }

    pub fn queued(action: u64) -> Event {
        Event::Queued { action }
    }

    pub fn started(action: u64, rank: i32, name: &str) -> Event {
        let what =
            What { output: format!("/build/{name}.o"), source: format!("/src/{name}.c"), package: String::new() };
        Event::Started { action, rank, what, expected_us: None }
    }

    pub fn finished(action: u64, cpu_s: f64) -> Event {
        let cpu_us = (cpu_s * 1e6) as u64;
        let figures = Figures { exit: Exit::Code(0), cpu_us, peak_bytes: 1 << 20, misses: 2, sent_bytes: 3 };
        Event::Finished { action, figures }
    }

    pub fn local(action: u64, reason: &str, name: &str) -> Event {
        let what = What { output: format!("/build/{name}"), ..What::default() };
        Event::Local { action, reason: reason.into(), detail: String::new(), what }
    }

    /// A compile on a rank, a link, and the end.
    pub fn small(name: &str) -> Session {
        told(vec![
            (0.5, queued(1)),
            (1.0, started(1, 2, name)),
            (4.0, finished(1, 2.0)),
            (4.5, local(2, "link", "prog")),
            (5.0, Event::Ended { action: 2 }),
            (5.0, Event::End { status: Some(2), command_us: None }),
        ])
    }

    #[test]
    fn a_compile_on_a_rank() {
        let mut events = vec![(1.0, queued(1)), (2.0, started(1, 2, "a"))];
        let session = told(events.clone());
        assert_eq!((session.waiting.len(), session.running.len(), session.slots()), (0, 1, 4));
        assert_eq!(session.present()[1].taken, [Some(0)]);
        events.push((5.0, finished(1, 2.5)));
        let session = told(events);
        assert!(session.running.is_empty());
        assert_eq!((session.present()[1].busy_us, session.present()[1].finished), (3_000_000, 1));
        let action = &session.actions[0];
        assert_eq!(action.run, Some(Run { worker: 1, slot: 0, since_us: 2_000_000, until_us: Some(5_000_000) }));
        assert!(matches!(action.outcome, Some(Outcome::Remote(Figures { cpu_us: 2_500_000, misses: 2, .. }))));
        assert_eq!(session.totals, Totals { remote: 1, compile_cpu_us: 2_500_000, ..Totals::default() });
    }

    #[test]
    fn slots_are_told_apart() {
        let session = told(vec![
            (1.0, started(1, 1, "a")),
            (1.0, started(2, 1, "b")),
            (2.0, finished(1, 1.0)),
            (3.0, started(3, 1, "c")),
        ]);
        let slots: Vec<_> = session.actions.iter().map(|action| action.run.as_ref().unwrap().slot).collect();
        assert_eq!(slots, [0, 1, 0]);
    }

    #[test]
    fn what_fails_elsewhere_runs_here() {
        let session = told(vec![
            (1.0, queued(1)),
            (1.0, started(1, 1, "a")),
            (2.0, Event::Lost { rank: 1 }),
            (2.0, Event::Retried { action: 1, cause: "rank 1 on alpha: lost".into() }),
            (2.0, started(1, 2, "a")),
            (3.0, local(1, "rank-trouble", "a.o")),
            (9.0, Event::Ended { action: 1 }),
        ]);
        assert_eq!((session.slots(), session.totals.retries, session.totals.local), (2, 1, 1));
        let action = &session.actions[0];
        assert_eq!(action.causes, ["rank 1 on alpha: lost"]);
        assert_eq!(action.outcome, Some(Outcome::Local));
        assert_eq!((action.local.as_ref().unwrap().since_us, action.ended_us), (3_000_000, Some(9_000_000)));
        assert!(session.local.is_empty() && session.running.is_empty());
        assert_eq!(session.present()[0].busy_us, 1_000_000);
    }

    #[test]
    fn a_second_dispatcher_begins_anew() {
        let counts = |bytes| Event::Counts(Counts { bytes_to_workers: bytes, ..Counts::default() });
        let session = told(vec![
            (1.0, started(1, 1, "a")),
            (1.0, queued(2)),
            (1.5, counts(70)),
            (2.0, Event::Ranks { ranks: vec![Worker { rank: 1, host: "beta".into(), slots: 1 }] }),
            (3.0, started(1, 1, "a")),
            (4.0, counts(7)),
        ]);
        assert_eq!(session.totals.relaunches, 1);
        assert_eq!((session.slots(), session.present().len(), session.workers.len()), (1, 1, 3));
        assert_eq!(session.actions.len(), 3);
        assert_eq!(session.actions[0].outcome, Some(Outcome::Lost));
        assert_eq!(session.actions[2].run.as_ref().unwrap().worker, 2);
        assert_eq!(session.counts.bytes_to_workers, 77);
        assert!(session.waiting.is_empty());
    }

    #[test]
    fn a_log_is_followed_as_it_grows() {
        use std::io::Write;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut file = File::create(&path).unwrap();
        let mut follower = Follower::open(&path).unwrap();
        let mut session = Session::default();
        assert!(!follower.read(&mut session).unwrap());
        file.write_all(b"{\"at_us\":5,\"event\":\"queued\",\"act").unwrap();
        assert!(follower.read(&mut session).unwrap());
        assert!(session.waiting.is_empty());
        file.write_all(b"ion\":1}\nnonsense\n\xff\n{\"at_us\":6,\"event\":\"end\"}\n").unwrap();
        assert!(follower.read(&mut session).unwrap());
        assert_eq!((session.odd_lines, session.actions.len()), (2, 1));
        assert_eq!(session.end, Some(End { at_us: 1, status: None, command_us: None }));
    }
}
