//! Keeps the ranks of a session up while its command runs: notices that they died, finds out which hosts are still there,
//! and starts them again on those. Meanwhile clients wait ([`crate::comeback`]). It never waits itself: the session's loop
//! calls it when it is time.
//!
//! # What is noticed
//! The launcher ends with the whole job (MPICH, and Open MPI when a host is lost); rank 0 ends, which a launcher may
//! survive, and as it does itself when all workers are lost; rank 0 answers nothing for [`STUCK`].
//!
//! # How often
//! [`Options::relaunches`] times in a row, after a pause that doubles. Ranks that served for [`HEALTHY`] start a new row:
//! a build of ten hours may lose a host now and then.
//!
//! [`Options::relaunches`]: crate::session::Options

use crate::comeback::Promise;
use crate::connection::Connection;
use crate::ranks::{Progress, Ranks};
use crate::signals::Signals;
use crate::status;
use crate::wire::Stats;
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};
use std::{io, mem};

/// How long the dispatcher may take to answer a question while the command runs. Its loop turns every few ms.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(1);
/// The numbers are asked for after this time, then after twice, four times ... up to the maximum: should the
/// dispatcher die, the last ones are what is known.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(1);
const SNAPSHOT_INTERVAL_MAX: Duration = Duration::from_secs(8);
/// How long the dispatcher may take for its last numbers and to hear that it should end.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);

/// A dispatcher that answers nothing for so long is ended. Its clients wait as long before they give it up.
const STUCK: Duration = Duration::from_secs(30);
/// How often to look whether rank 0 is there. (The end of a launcher is heard of at once.)
const LOOK: Duration = Duration::from_secs(1);
/// As [`LOOK`], while something is on its way.
const LOOK_SOON: Duration = Duration::from_millis(20);
/// How long a launcher that was told to end may take.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a host may take to answer its call: the launcher's way to it (ssh, the batch system) and back.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// Hosts called at a time: each call is a launcher on this machine.
const CALLS_MAX: usize = 16;
/// The pause before the second start in a row; it doubles. There is none before the first.
const PAUSE: Duration = Duration::from_secs(1);
/// Ranks that served for so long were not started in vain.
const HEALTHY: Duration = Duration::from_secs(600);

/// Ranks of a session whose command runs.
pub struct Upkeep<'a> {
    ranks: Ranks,
    signals: &'a Signals,
    state: State,
    watch: Watch,
    /// Starts that are left in this row, and how many there were.
    left: u32,
    tried: u32,
    workers: u32,
    /// What earlier dispatchers of the session did, as far as they said.
    earlier: Stats,
    relaunches: u64,
    /// Why ranks were lost at last.
    cause: String,
    started: Instant,
    promise: Option<Promise>,
}

enum State {
    Up {
        since: Instant,
    },
    /// Told to end.
    Ending {
        by: Instant,
    },
    Calling(RollCall),
    Pausing {
        until: Instant,
        hosts: Vec<String>,
    },
    Starting,
    /// Not again.
    GivenUp,
}

/// What is known at the end of a session.
pub enum Outcome {
    /// Everything; `note` is an appendix to the session's sentence.
    Complete { stats: Stats, note: Option<String> },
    /// The ranks are gone, for this reason, and these were the numbers so long after the start.
    Lost { known: Option<(Stats, Duration)>, cause: String },
}

impl<'a> Upkeep<'a> {
    /// Of ranks that are ready, to be started again so many times in a row.
    pub fn new(ranks: Ranks, relaunches: u32, signals: &'a Signals) -> Upkeep<'a> {
        let now = Instant::now();
        Upkeep {
            // Without the promise clients do not wait, and nothing else changes.
            promise: if relaunches > 0 { Promise::make(&ranks.socket).ok() } else { None },
            watch: Watch::new(None, now),
            workers: ranks.workers(),
            ranks,
            signals,
            state: State::Up { since: now },
            left: relaunches,
            tried: 0,
            earlier: Stats::default(),
            relaunches: 0,
            cause: String::new(),
            started: now,
        }
    }

    pub fn socket(&self) -> &Path {
        &self.ranks.socket
    }

    /// Does what is due; returns when it is to be called again, at the latest.
    pub fn look(&mut self, now: Instant) -> Instant {
        match mem::replace(&mut self.state, State::GivenUp) {
            State::Up { since } => {
                self.watch.look(&self.ranks.socket, now);
                let stuck = || format!("it did not answer for {} s", STUCK.as_secs());
                match self.ranks.loss().or_else(|| self.watch.is_stuck(now).then(stuck)) {
                    Some(cause) => {
                        if now.duration_since(since) >= HEALTHY {
                            (self.left, self.tried) = (self.left + self.tried, 0);
                        }
                        self.lose(cause, now);
                    }
                    None => {
                        self.state = State::Up { since };
                        return self.watch.next.min(now + LOOK);
                    }
                }
            }
            State::Ending { by } => {
                if self.ranks.poll().is_some() {
                    self.state = State::Calling(RollCall::new(self.hosts()));
                } else {
                    if now >= by {
                        self.ranks.dismiss(Signal::SIGKILL);
                    }
                    self.state = State::Ending { by };
                }
            }
            State::Calling(mut call) => {
                self.state = match call.look(&self.ranks, self.signals, now) {
                    Some(mut hosts) => {
                        if hosts.len() == 1 && self.tried == 0 {
                            // More likely the launcher knows the hosts by other names than they themselves.
                            hosts.clear();
                        }
                        let pause =
                            if self.tried == 0 { Duration::ZERO } else { PAUSE * (1 << (self.tried - 1).min(16)) };
                        State::Pausing { until: now + pause, hosts }
                    }
                    None => State::Calling(call),
                }
            }
            State::Pausing { until, hosts } if now >= until => {
                (self.left, self.tried) = (self.left - 1, self.tried + 1);
                let workers = if hosts.is_empty() { self.workers } else { self.workers.min(hosts.len() as u32) };
                match self.ranks.start_again(hosts, workers, self.signals) {
                    Ok(()) => self.state = State::Starting,
                    Err(cause) => self.lose(cause, now),
                }
            }
            pausing @ State::Pausing { .. } => self.state = pausing,
            State::Starting => match self.ranks.progress() {
                Progress::Starting => self.state = State::Starting,
                Progress::Ready => {
                    self.relaunches += 1;
                    self.watch = Watch::new(self.watch.known_at, now);
                    self.state = State::Up { since: now };
                }
                Progress::Failed(cause) => self.lose(cause, now),
            },
            State::GivenUp => return now + LOOK,
        }
        now + LOOK_SOON
    }

    /// What is left of the ranks goes; they come again unless there were too many starts, or the build is to end anyway.
    fn lose(&mut self, cause: String, now: Instant) {
        self.cause = cause;
        self.ranks.dismiss(Signal::SIGTERM);
        self.earlier = status::added(&self.earlier, mem::take(&mut self.watch.last));
        if self.left == 0 || self.signals.asked_to_end().is_some() {
            self.promise = None;
            self.state = State::GivenUp;
        } else {
            self.state = State::Ending { by: now + END_TIMEOUT };
        }
    }

    /// Hosts that had ranks, this one first.
    fn hosts(&self) -> Vec<String> {
        let own = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
        let others: BTreeSet<&String> =
            self.earlier.ranks.iter().map(|rank| &rank.host).filter(|host| **host != own).collect();
        let others: Vec<String> = others.into_iter().cloned().collect();
        [vec![own], others].concat()
    }

    /// The command has ended: the ranks are to end, too, within `patience`.
    pub fn finish(mut self, patience: Duration) -> (Outcome, Ranks) {
        let last = match self.state {
            State::Up { .. } => self.watch.finish(&self.ranks.socket).map_err(|error| self.cause_of_silence(&error)),
            _ => Err(mem::take(&mut self.cause)),
        };
        if last.is_err() {
            self.ranks.dismiss(Signal::SIGTERM);
        }
        self.ranks.end(self.signals, patience);
        let outcome = match last {
            Ok(()) => {
                let log = self.ranks.log().display().to_string();
                let note = (self.relaunches > 0).then(|| status::relaunched(self.relaunches, &self.cause, &log));
                Outcome::Complete { stats: self.total(), note }
            }
            Err(cause) => {
                let known = self.watch.known_at.map(|at| (self.total(), at.duration_since(self.started)));
                Outcome::Lost { known, cause }
            }
        };
        (outcome, self.ranks)
    }

    fn cause_of_silence(&mut self, error: &io::Error) -> String {
        self.ranks.loss().unwrap_or_else(|| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                "nobody listens on its socket any more".to_owned()
            }
            _ => error.to_string(),
        })
    }

    /// The numbers of all dispatchers so far.
    fn total(&self) -> Stats {
        let sum = status::added(&self.earlier, self.watch.last.clone());
        Stats { relaunches: self.relaunches, ..sum }
    }
}

/// Asks for the numbers now and then, so that something is known if the dispatcher dies.
struct Watch {
    connection: Option<Connection>,
    /// The last numbers of this dispatcher.
    last: Stats,
    /// When any dispatcher of the session last gave some.
    known_at: Option<Instant>,
    next: Instant,
    interval: Duration,
    /// Since when it has not answered.
    unheard: Option<Instant>,
}

impl Watch {
    fn new(known_at: Option<Instant>, now: Instant) -> Watch {
        let (next, interval) = (now + SNAPSHOT_INTERVAL, SNAPSHOT_INTERVAL);
        Watch { connection: None, last: Stats::default(), known_at, next, interval, unheard: None }
    }

    fn look(&mut self, socket: &Path, now: Instant) {
        if now < self.next {
            return;
        }
        match self.ask(socket, SNAPSHOT_TIMEOUT) {
            Ok(()) => self.unheard = None,
            Err(_) => _ = self.unheard.get_or_insert(now),
        }
        self.interval = (2 * self.interval).min(SNAPSHOT_INTERVAL_MAX);
        self.next = Instant::now() + self.interval;
    }

    fn is_stuck(&self, now: Instant) -> bool {
        self.unheard.is_some_and(|since| now.duration_since(since) >= STUCK)
    }

    fn ask(&mut self, socket: &Path, timeout: Duration) -> io::Result<()> {
        let deadline = Instant::now() + timeout;
        let kept = self.connection.take().and_then(|mut connection| {
            let stats = status::fetch(&mut connection, deadline).ok()?;
            Some((connection, stats))
        });
        let (connection, stats) = match kept {
            Some(kept) => kept,
            None => {
                let mut connection = Connection::open(socket)?;
                let stats = status::fetch(&mut connection, deadline)?;
                (connection, stats)
            }
        };
        (self.connection, self.last, self.known_at) = (Some(connection), stats, Some(Instant::now()));
        Ok(())
    }

    /// Asks for the final numbers, and tells the dispatcher to end.
    fn finish(&mut self, socket: &Path) -> io::Result<()> {
        self.ask(socket, FAREWELL_TIMEOUT)?;
        if let Some(connection) = &mut self.connection {
            // If it does not hear, its launcher is ended a moment later.
            let _ = status::stop(connection, Instant::now() + FAREWELL_TIMEOUT);
        }
        Ok(())
    }
}

/// Which hosts does the launcher still reach?
struct RollCall {
    uncalled: Vec<String>,
    called: Vec<(String, Child, Instant)>,
    there: Vec<String>,
    all: Vec<String>,
}

impl RollCall {
    /// Of `hosts`, of which the first is this machine and needs no call.
    fn new(hosts: Vec<String>) -> RollCall {
        let (own, others) = hosts.split_at(1);
        RollCall { uncalled: others.to_vec(), called: Vec::new(), there: own.to_vec(), all: hosts }
    }

    /// The hosts to start ranks on, when it is known; none for all.
    fn look(&mut self, ranks: &Ranks, signals: &Signals, now: Instant) -> Option<Vec<String>> {
        while self.called.len() < CALLS_MAX
            && let Some(host) = self.uncalled.pop()
        {
            // A launcher that cannot be executed reaches nobody.
            if let Ok(child) = ranks.call(&host, signals) {
                self.called.push((host, child, now + CALL_TIMEOUT));
            }
        }
        let there = &mut self.there;
        self.called.retain_mut(|(host, child, by)| match child.try_wait() {
            Ok(None) if now < *by => true,
            Ok(Some(status)) => {
                if status.success() {
                    there.push(mem::take(host));
                }
                false
            }
            Ok(None) | Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                false
            }
        });
        let is_over = self.uncalled.is_empty() && self.called.is_empty();
        is_over.then(|| match self.there.len() == self.all.len() {
            true => Vec::new(),
            // In the order of the allocation's names, this machine first.
            false => self.all.iter().filter(|host| self.there.contains(host)).cloned().collect(),
        })
    }
}
