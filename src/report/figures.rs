//! What is to be said about a session, as numbers: the JSON object of `report --json`, from which the text and the page
//! are made.

use super::chain;
use crate::journal::replay::{Action, Outcome, Session, WorkerState};
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Version of the object: fields are added, none changes its meaning without a new one.
const SCHEMA: u32 = 1;

/// Compiles that are named because they took longest.
const SLOWEST: usize = 20;

/// Points of the curve of what was busy when.
const BINS: usize = 400;

/// Times in seconds (since the session began where something happened at them), sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    pub schema: u32,
    pub id: String,
    pub host: String,
    pub cwd: String,
    pub command: Vec<String>,
    /// Unix time at which the session began.
    pub began: f64,
    /// It is over, and was not killed.
    pub complete: bool,
    /// It has no end, and goes on no more.
    pub killed: bool,
    /// The log was too long for all compiles.
    pub truncated: bool,
    /// Exit status of `run`'s command.
    pub status: Option<u8>,
    pub wall_s: f64,
    /// When the ranks were there.
    pub ready_s: f64,
    /// Slots of the workers that were there at the end.
    pub slots: u32,
    pub remote: u64,
    /// Of `remote`: with a status other than 0.
    pub failed: u64,
    pub local: u64,
    pub retries: u64,
    pub abandoned: u64,
    pub relaunches: u64,
    /// CPU of the compilers on workers, and how many that is at a time, once the ranks are there.
    pub compile_cpu_s: f64,
    pub parallelism: f64,
    /// Share of the slots' time in which they were taken.
    pub utilisation: f64,
    pub bytes_to_workers: u64,
    pub bytes_from_workers: u64,
    pub misses: u64,
    pub tokens_lent: u64,
    pub dispatcher_cpu_s: f64,
    pub clients_cpu_s: f64,
    pub local_reasons: BTreeMap<String, u64>,
    /// By package, where Spack builds.
    pub packages: BTreeMap<String, Package>,
    pub ranks: Vec<Rank>,
    /// The remote compiles that took longest.
    pub slowest: Vec<Compile>,
    /// What the end of the build waited for, step by step, the earliest first.
    pub chain: Vec<Link>,
    /// How many slots were taken, and how many compiles waited, on average over equal parts of the session.
    pub busy: Vec<f64>,
    pub waiting: Vec<f64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Package {
    pub remote: u64,
    pub local: u64,
    pub compile_cpu_s: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rank {
    pub rank: i32,
    pub host: String,
    pub slots: u32,
    pub actions: u64,
    pub cpu_s: f64,
    /// Sum over its slots.
    pub busy_s: f64,
    pub utilisation: f64,
    pub lost: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compile {
    pub output: String,
    pub source: String,
    pub rank: i32,
    pub host: String,
    /// Until a rank had it, and on the rank.
    pub waited_s: f64,
    pub wall_s: f64,
    pub cpu_s: f64,
    pub peak_bytes: u64,
}

/// One step of what the end waited for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Link {
    pub output: String,
    /// `rank 3 on alpha`, or `here (link)`.
    pub place: String,
    pub began_s: f64,
    pub ended_s: f64,
    /// Between the end of the step before and this one's being asked for: make, scripts, whatever is not a compiler.
    pub gap_s: f64,
    /// From its being asked for to its start on a rank.
    pub waited_s: f64,
}

pub fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

impl Figures {
    pub fn of(session: &Session) -> Figures {
        let wall_us = session.wall_us();
        let (totals, counts) = (session.totals, session.counts);
        let busy_us: u64 = session.workers.iter().map(|worker| busy_us(session, worker)).sum();
        let slot_us: u64 = session.workers.iter().map(|worker| slot_us(worker, wall_us)).sum();
        let ready_us = session.workers.first().map_or(0, |worker| worker.since_us);
        let compile_cpu_s = seconds(totals.compile_cpu_us);
        let (busy, waiting) = curves(session);
        Figures {
            schema: SCHEMA,
            id: session.id.clone(),
            host: session.host.clone(),
            cwd: session.cwd.clone(),
            command: session.command.clone(),
            began: seconds(session.began_us),
            complete: session.end.is_some(),
            killed: session.is_dead,
            truncated: session.is_full,
            status: session.end.and_then(|end| end.status),
            wall_s: seconds(wall_us),
            ready_s: seconds(ready_us),
            slots: session.present().iter().map(|worker| worker.slots).sum(),
            remote: totals.remote,
            failed: totals.failed,
            local: totals.local,
            retries: totals.retries,
            abandoned: totals.abandoned,
            relaunches: totals.relaunches,
            compile_cpu_s,
            parallelism: share(compile_cpu_s, seconds(wall_us.saturating_sub(ready_us))),
            utilisation: share(seconds(busy_us), seconds(slot_us)),
            bytes_to_workers: counts.bytes_to_workers,
            bytes_from_workers: counts.bytes_from_workers,
            misses: counts.misses,
            tokens_lent: counts.tokens_lent,
            dispatcher_cpu_s: seconds(counts.dispatcher_cpu_us),
            clients_cpu_s: seconds(counts.clients_cpu_us),
            local_reasons: session.reasons.clone(),
            packages: packages(session),
            ranks: session.workers.iter().map(|worker| rank(session, worker, wall_us)).collect(),
            slowest: slowest(session),
            chain: chain::chain(session),
            busy,
            waiting,
        }
    }
}

/// How long its slots were taken, until now.
fn busy_us(session: &Session, worker: &WorkerState) -> u64 {
    let running = worker.taken.iter().flatten().filter_map(|index| session.actions[*index].run.as_ref());
    worker.busy_us + running.map(|run| session.wall_us().saturating_sub(run.since_us)).sum::<u64>()
}

fn slot_us(worker: &WorkerState, wall_us: u64) -> u64 {
    worker.until_us.unwrap_or(wall_us).min(wall_us).saturating_sub(worker.since_us) * u64::from(worker.slots)
}

fn rank(session: &Session, worker: &WorkerState, wall_us: u64) -> Rank {
    let busy_s = seconds(busy_us(session, worker));
    Rank {
        rank: worker.rank,
        host: worker.host.clone(),
        slots: worker.slots,
        actions: worker.finished,
        cpu_s: seconds(worker.cpu_us),
        busy_s,
        utilisation: share(busy_s, seconds(slot_us(worker, wall_us))),
        lost: worker.until_us.is_some_and(|until| until < wall_us),
    }
}

fn packages(session: &Session) -> BTreeMap<String, Package> {
    let mut packages: BTreeMap<String, Package> = BTreeMap::new();
    for action in session.actions.iter().filter(|action| !action.what.package.is_empty()) {
        let package = packages.entry(action.what.package.clone()).or_default();
        match action.outcome {
            Some(Outcome::Remote(figures)) => {
                package.remote += 1;
                package.compile_cpu_s += seconds(figures.cpu_us);
            }
            Some(Outcome::Local) => package.local += 1,
            _ => {}
        }
    }
    packages
}

fn slowest(session: &Session) -> Vec<Compile> {
    let compile = |action: &Action| {
        let (Some(Outcome::Remote(figures)), Some(run)) = (action.outcome, &action.run) else { return None };
        let worker = &session.workers[run.worker];
        Some(Compile {
            output: action.what.output.clone(),
            source: action.what.source.clone(),
            rank: worker.rank,
            host: worker.host.clone(),
            waited_s: seconds(action.waited_us()),
            wall_s: seconds(run.wall_us()?),
            cpu_s: seconds(figures.cpu_us),
            peak_bytes: figures.peak_bytes,
        })
    };
    let mut all: Vec<Compile> = session.actions.iter().filter_map(compile).collect();
    all.sort_by_key(|compile| Reverse((compile.wall_s * 1e6) as u64));
    all.truncate(SLOWEST);
    all
}

fn curves(session: &Session) -> (Vec<f64>, Vec<f64>) {
    let wall_us = session.wall_us();
    let mut curves = [vec![0.0; BINS], vec![0.0; BINS]];
    if wall_us == 0 {
        return (Vec::new(), Vec::new());
    }
    let bin_us = wall_us as f64 / BINS as f64;
    let mut add = |curve: usize, from_us: u64, to_us: u64| {
        let (from, to) = (from_us as f64 / bin_us, to_us.min(wall_us) as f64 / bin_us);
        for (bin, sum) in curves[curve].iter_mut().enumerate().take(to.ceil() as usize).skip(from as usize) {
            *sum += to.min(bin as f64 + 1.0) - from.max(bin as f64);
        }
    };
    for action in &session.actions {
        let end_us = action.ended_us.unwrap_or(wall_us);
        match &action.run {
            Some(run) => {
                add(0, run.since_us, run.until_us.unwrap_or(wall_us));
                add(1, action.queued_us, run.since_us);
            }
            None if action.local.is_none() => add(1, action.queued_us, end_us),
            None => {}
        }
    }
    let [busy, waiting] = curves;
    (busy, waiting)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Event;
    use crate::journal::replay::tests::{BEGAN_US, finished, local, queued, started, told};

    /// All names in an object and in the objects of its arrays.
    fn names(value: &serde_json::Value) -> Vec<String> {
        match value {
            serde_json::Value::Object(fields) => fields
                .iter()
                .flat_map(|(name, value)| [vec![name.clone()], names(value)].concat())
                // Packages name themselves.
                .filter(|name| !name.contains('@'))
                .collect(),
            serde_json::Value::Array(items) => items.iter().flat_map(names).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn every_field_is_in_the_manual() {
        let page = include_str!("../journal/mpicc-proxy-events.5");
        let (_, section) = page.split_once("\n.SH REPORT\n").unwrap();
        let mut session = told(vec![(0.0, queued(1)), (1.0, started(1, 1, "a")), (2.0, finished(1, 0.5))]);
        session.actions[0].what.package = "p@1".into();
        let figures = serde_json::to_value(Figures::of(&session)).unwrap();
        let names = names(&figures);
        assert!(names.len() > 50, "{names:?}");
        let words: Vec<&str> = section.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        for name in names {
            assert!(words.contains(&&*name), "{name}");
        }
    }

    #[test]
    fn figures_of_a_session() {
        let session = told(vec![
            (0.0, queued(1)),
            (1.0, started(1, 1, "slow")),
            (1.0, started(2, 2, "quick")),
            (2.0, finished(2, 0.5)),
            (5.0, finished(1, 3.5)),
            (5.0, local(3, "link", "prog")),
            (9.0, Event::Ended { action: 3 }),
            (10.0, queued(4)),
            (11.0, started(4, 1, "left running")),
            (12.0, Event::End { status: Some(0), command_us: Some(BEGAN_US + 10_000_000) }),
        ]);
        let figures = Figures::of(&session);
        assert!(figures.complete);
        assert_eq!((figures.remote, figures.local, figures.slots, figures.status), (2, 1, 4, Some(0)));
        assert_eq!((figures.wall_s, figures.compile_cpu_s, figures.parallelism), (10.0, 4.0, 0.4));
        // 4 s and 1 s of 40; how long the ranks take to end is not the build's.
        assert_eq!(figures.utilisation, 0.125);
        assert_eq!(figures.ranks[0].utilisation, 0.2);
        let names: Vec<_> = figures.slowest.iter().map(|compile| (compile.output.as_str(), compile.wall_s)).collect();
        assert_eq!(names, [("/build/slow.o", 4.0), ("/build/quick.o", 1.0)]);
        assert_eq!(figures.slowest[0].waited_s, 1.0);
        assert_eq!(figures.busy.len(), BINS);
        let sum = |curve: &[f64]| curve.iter().sum::<f64>() * 10.0 / BINS as f64;
        assert!((sum(&figures.busy) - 5.0).abs() < 1e-6 && (sum(&figures.waiting) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn a_session_that_has_only_begun() {
        let figures = Figures::of(&told(vec![]));
        assert_eq!((figures.wall_s, figures.utilisation, figures.busy.len()), (0.0, 0.0, 0));
        assert!(!figures.complete && figures.chain.is_empty());
        let running = Figures::of(&told(vec![(1.0, started(1, 1, "a")), (3.0, queued(2))]));
        assert_eq!(running.ranks[0].busy_s, 2.0);
    }
}
