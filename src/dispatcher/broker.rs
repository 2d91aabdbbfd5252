//! Whose token is where, as a pure state machine: knows no pipe and no clock.
//!
//! A compile on a rank needs no slot of make's, so while it runs its client lends the token of its job: the dispatcher
//! writes it into the jobserver, and make starts another job. Before the client ends, which for make is the end of the
//! job, a token is taken out again. What is out of balance at any time is written down here:
//!
//! ```text
//! bytes written - bytes taken  =  open lends + debts
//! ```
//!
//! # Rules
//! * A job lends one token, however many compilers it runs at once: it has no more.
//! * A client that comes while another waits for its token hands its own over to that one, and no byte moves. Without
//!   this, clients that are done pile up: make is faster at taking tokens.
//! * A client that is done waits for its token for as long as tokens move. If none has moved for a while, make may hold
//!   all of them for jobs that wait for this one (`-l`, a lock around the compiler): then the first goes, its token is a
//!   debt, and the others wait twice as long. More haste would let make run more jobs here than it has tokens whenever
//!   these are long. Where it happens again and again nothing is lent ([`super::locks`]).
//! * A client that dies has lent what make takes for free: make sees the end of the job. That is a debt, too.
//! * Debts are paid with the next token that is to be had.

use crate::wire::ActionId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Waiting grows to 64 times.
const STALLS_COUNTED_MAX: u32 = 6;

/// Device and inode of the pipe or FIFO.
pub type JobserverId = (u64, u64);

/// Process and start time of a child of make.
pub type Job = (i32, u64);

/// What lending a token comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lending {
    /// It is to be written into the jobserver.
    Write,
    /// This client, which is done, has it now.
    HandedTo(ActionId),
    /// It paid a debt.
    PaidDebt,
    /// The job has lent its token already.
    Refused,
}

struct Lend {
    jobserver: JobserverId,
    job: Job,
}

/// A client wants its token back.
struct Waiting {
    action: ActionId,
    since: Instant,
    /// Without a token that moves.
    patience: Duration,
}

#[derive(Default)]
struct Account {
    jobs: BTreeSet<Job>,
    waiting: VecDeque<Waiting>,
    debts: u32,
    /// When a token moved last, or a client went without.
    moved: Option<Instant>,
    /// Clients that went without their token since one moved.
    stalls: u32,
}

impl Account {
    fn first_waiting(&self) -> Option<ActionId> {
        self.waiting.front().map(|waiting| waiting.action)
    }

    /// Has a client waited long enough? Whoever waited as others went without waits twice as long for each of them.
    fn is_overdue(&self, waiting: &Waiting, now: Instant) -> bool {
        let until = match self.moved.filter(|moved| *moved >= waiting.since) {
            Some(moved) => moved + waiting.patience * (1 << self.stalls.min(STALLS_COUNTED_MAX)),
            None => waiting.since + waiting.patience,
        };
        until <= now
    }

    fn moved(&mut self, stalls: u32, now: Instant) {
        (self.moved, self.stalls) = (Some(now), stalls);
    }
}

/// The tokens lent to all jobservers.
#[derive(Default)]
pub struct Broker {
    lends: BTreeMap<ActionId, Lend>,
    accounts: BTreeMap<JobserverId, Account>,
}

impl Broker {
    /// The client of `action` lends the token of its `job`.
    pub fn lend(&mut self, action: ActionId, jobserver: JobserverId, job: Job, now: Instant) -> Lending {
        let account = self.accounts.entry(jobserver).or_default();
        if !account.jobs.insert(job) {
            return Lending::Refused;
        }
        self.lends.insert(action, Lend { jobserver, job });
        if let Some(waiting) = account.first_waiting() {
            account.moved(0, now);
            self.end(waiting);
            return Lending::HandedTo(waiting);
        }
        if account.debts > 0 {
            account.debts -= 1;
            account.moved(0, now);
            return Lending::PaidDebt;
        }
        Lending::Write
    }

    /// The client of `action` lent the token of its `job` through another dispatcher, which wrote it.
    pub fn adopt(&mut self, action: ActionId, jobserver: JobserverId, job: Job) {
        if self.accounts.entry(jobserver).or_default().jobs.insert(job) {
            self.lends.insert(action, Lend { jobserver, job });
        }
    }

    /// It could not be written, or its client took it back itself.
    pub fn unlend(&mut self, action: ActionId) -> Option<JobserverId> {
        self.end(action)
    }

    /// The client of `action` wants its token. `true`: it has it. `false`: it waits.
    pub fn finish(&mut self, action: ActionId, patience: Duration, now: Instant) -> bool {
        let Some(lend) = self.lends.get(&action) else { return true };
        let account = self.accounts.entry(lend.jobserver).or_default();
        account.waiting.push_back(Waiting { action, since: now, patience });
        false
    }

    /// The client of `action` is gone.
    pub fn abandon(&mut self, action: ActionId) {
        if let Some(jobserver) = self.end(action) {
            self.accounts.entry(jobserver).or_default().debts += 1;
        }
    }

    /// A token was taken. The client that has it now; `None`: it paid a debt.
    pub fn took(&mut self, jobserver: JobserverId, now: Instant) -> Option<ActionId> {
        let account = self.accounts.get_mut(&jobserver)?;
        account.moved(0, now);
        let Some(action) = account.first_waiting() else {
            account.debts = account.debts.checked_sub(1).expect("only what is owed is taken");
            return None;
        };
        self.end(action);
        Some(action)
    }

    /// Those that waited long enough; what they lent are debts now.
    pub fn overdue(&mut self, now: Instant) -> Vec<(ActionId, JobserverId)> {
        let mut overdue = Vec::new();
        while let Some((action, jobserver)) = self.first_overdue(now) {
            self.abandon(action);
            let account = self.accounts.entry(jobserver).or_default();
            account.moved(account.stalls + 1, now);
            overdue.push((action, jobserver));
        }
        overdue
    }

    fn first_overdue(&self, now: Instant) -> Option<(ActionId, JobserverId)> {
        self.accounts.iter().find_map(|(jobserver, account)| {
            let overdue = account.waiting.iter().find(|waiting| account.is_overdue(waiting, now))?;
            Some((overdue.action, *jobserver))
        })
    }

    /// Nobody writes to the jobserver any more. The clients that waited for it.
    pub fn closed(&mut self, jobserver: JobserverId) -> Vec<ActionId> {
        self.lends.retain(|_, lend| lend.jobserver != jobserver);
        self.accounts
            .remove(&jobserver)
            .map(|account| account.waiting.into_iter().map(|waiting| waiting.action).collect())
            .unwrap_or_default()
    }

    /// A token is to be taken from it as soon as there is one.
    pub fn is_owed(&self, jobserver: JobserverId) -> bool {
        self.accounts.get(&jobserver).is_some_and(|account| !account.waiting.is_empty() || account.debts > 0)
    }

    /// Something of it is lent or owed. What is not is forgotten.
    pub fn is_open(&mut self, jobserver: JobserverId) -> bool {
        let is_open =
            self.accounts.get(&jobserver).is_some_and(|account| !account.jobs.is_empty() || account.debts > 0);
        if !is_open {
            self.accounts.remove(&jobserver);
        }
        is_open
    }

    pub fn is_lent(&self, action: ActionId) -> bool {
        self.lends.contains_key(&action)
    }

    /// Open lends and debts.
    #[cfg(test)]
    pub fn owed(&self, jobserver: JobserverId) -> (usize, usize) {
        let Some(account) = self.accounts.get(&jobserver) else { return (0, 0) };
        let lent = self.lends.values().filter(|lend| lend.jobserver == jobserver).count();
        assert_eq!(lent, account.jobs.len(), "a job lends one token");
        (lent, account.debts as usize)
    }

    fn end(&mut self, action: ActionId) -> Option<JobserverId> {
        let Lend { jobserver, job, .. } = self.lends.remove(&action)?;
        if let Some(account) = self.accounts.get_mut(&jobserver) {
            account.jobs.remove(&job);
            account.waiting.retain(|waiting| waiting.action != action);
        }
        Some(jobserver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const PIPE: JobserverId = (1, 2);

    const LONG: Duration = Duration::from_secs(60);

    fn now() -> Instant {
        Instant::now()
    }

    fn overdue(broker: &mut Broker, now: Instant) -> Vec<ActionId> {
        broker.overdue(now).into_iter().map(|(action, _)| action).collect()
    }

    #[test]
    fn a_token_goes_out_and_comes_back() {
        let mut broker = Broker::default();
        assert_eq!(broker.lend(1, PIPE, (10, 0), now()), Lending::Write);
        assert!(broker.is_open(PIPE) && !broker.is_owed(PIPE));
        assert!(!broker.finish(1, LONG, now()));
        assert!(broker.is_owed(PIPE));
        assert_eq!(broker.took(PIPE, now()), Some(1));
        assert!(!broker.is_open(PIPE) && !broker.is_lent(1));
        assert!(broker.finish(1, LONG, now()), "lent nothing");
    }

    #[test]
    fn a_job_lends_once() {
        let mut broker = Broker::default();
        assert_eq!(broker.lend(1, PIPE, (10, 0), now()), Lending::Write);
        assert_eq!(broker.lend(2, PIPE, (10, 0), now()), Lending::Refused);
        assert!(broker.finish(2, LONG, now()));
        assert_eq!(broker.lend(3, PIPE, (10, 1), now()), Lending::Write, "another process with that id");
        assert_eq!(broker.lend(4, (1, 3), (10, 0), now()), Lending::Write, "another jobserver");
        broker.finish(1, LONG, now());
        assert_eq!(broker.lend(5, PIPE, (10, 0), now()), Lending::Refused, "its token is not back yet");
        broker.took(PIPE, now());
        assert_eq!(broker.lend(6, PIPE, (10, 0), now()), Lending::Write);
    }

    #[test]
    fn who_comes_hands_over_to_who_waits_longest() {
        let mut broker = Broker::default();
        for action in 1..=3 {
            broker.lend(action, PIPE, (action as i32, 0), now());
        }
        broker.finish(2, LONG, now());
        broker.finish(1, LONG, now());
        assert_eq!(broker.lend(4, PIPE, (4, 0), now()), Lending::HandedTo(2));
        assert_eq!(broker.lend(5, PIPE, (5, 0), now()), Lending::HandedTo(1));
        assert_eq!(broker.lend(6, PIPE, (6, 0), now()), Lending::Write);
    }

    #[test]
    fn what_cannot_be_taken_is_owed() {
        let mut broker = Broker::default();
        let now = Instant::now();
        broker.lend(1, PIPE, (1, 0), now);
        broker.lend(2, PIPE, (2, 0), now);
        broker.lend(3, PIPE, (3, 0), now);
        broker.finish(1, Duration::from_millis(300), now);
        assert!(broker.overdue(now).is_empty());
        assert_eq!(broker.overdue(now + Duration::from_millis(300)), [(1, PIPE)]);
        broker.abandon(2);
        assert!(broker.is_owed(PIPE));
        assert_eq!(broker.lend(4, PIPE, (4, 0), now), Lending::PaidDebt);
        assert_eq!(broker.took(PIPE, now), None);
        assert!(!broker.is_owed(PIPE) && broker.is_open(PIPE));
        broker.finish(3, LONG, now);
        assert_eq!(broker.closed(PIPE), [3]);
        assert!(!broker.is_open(PIPE));
        broker.abandon(4);
        assert!(!broker.is_open(PIPE), "it is gone, and so are its debts");
    }

    #[test]
    fn what_was_lent_through_another_dispatcher_comes_back_through_this_one() {
        let mut broker = Broker::default();
        broker.adopt(1, PIPE, (10, 0));
        assert!(broker.is_lent(1) && broker.is_open(PIPE) && !broker.is_owed(PIPE));
        assert_eq!(broker.lend(2, PIPE, (10, 0), now()), Lending::Refused);
        assert!(!broker.finish(1, LONG, now()));
        assert_eq!(broker.took(PIPE, now()), Some(1));
        assert!(!broker.is_open(PIPE));
    }

    #[test]
    fn clients_wait_as_long_as_tokens_move() {
        let mut broker = Broker::default();
        let start = now();
        let stalled = Duration::from_secs(30);
        let at = |seconds| start + Duration::from_secs(seconds);
        for action in 1..=5 {
            broker.lend(action, PIPE, (action as i32, 0), start);
        }
        for action in 1..=5 {
            assert!(!broker.finish(action, stalled, start));
        }
        assert!(broker.overdue(at(29)).is_empty());
        assert_eq!(broker.took(PIPE, at(29)), Some(1));
        assert!(broker.overdue(at(58)).is_empty());
        assert_eq!(broker.lend(6, PIPE, (6, 0), at(58)), Lending::HandedTo(2));
        assert!(broker.overdue(at(87)).is_empty());
        assert_eq!(broker.overdue(at(88)), [(3, PIPE)], "one, and the others wait longer");
        assert!(broker.overdue(at(147)).is_empty());
        assert_eq!(broker.overdue(at(148)), [(4, PIPE)]);
        assert_eq!(broker.took(PIPE, at(150)), Some(5));
    }

    /// A make with some tokens, clients that come, are served, die, or take their token back themselves, in any order:
    /// the books always agree with the pipe, and in the end it holds what it held before.
    #[test]
    fn tokens_are_neither_lost_nor_made() {
        for seed in 1..300u64 {
            let mut next = super::super::random::numbers(seed);
            let tokens = 1 + next(4) as i64;
            // The pipe, and jobs that hold a token of it: make starts one for each token it takes.
            let (mut pipe, mut local) = (tokens, Vec::<ActionId>::new());
            let mut broker = Broker::default();
            let (mut lent, mut done): (Vec<ActionId>, Vec<ActionId>) = (Vec::new(), Vec::new());
            let (mut action, mut written, mut taken) = (0, 0i64, 0i64);
            let start = Instant::now();
            let released = |ids: &[ActionId], done: &mut Vec<ActionId>, pipe: &mut i64| {
                for id in ids {
                    let at = done.iter().position(|one| one == id).expect("only who is done is released");
                    done.swap_remove(at);
                    // It ends, and make has the job's token back.
                    *pipe += 1;
                }
            };
            for step in 0..400 {
                let now = start + Duration::from_millis(step);
                let ending = step >= 300;
                match next(7) {
                    0 | 1 if pipe > 0 && !ending => {
                        pipe -= 1;
                        action += 1;
                        local.push(action);
                    }
                    2 if !local.is_empty() => {
                        let id = local.swap_remove(next(local.len() as u64) as usize);
                        match broker.lend(id, PIPE, (id as i32, 0), now) {
                            Lending::Write => (pipe, written) = (pipe + 1, written + 1),
                            Lending::HandedTo(other) => released(&[other], &mut done, &mut pipe),
                            Lending::PaidDebt => {}
                            Lending::Refused => unreachable!("every job has one action here"),
                        }
                        lent.push(id);
                    }
                    3 if !lent.is_empty() => {
                        let id = lent.swap_remove(next(lent.len() as u64) as usize);
                        assert!(!broker.finish(id, Duration::from_millis(next(20)), now));
                        done.push(id);
                    }
                    4 if !lent.is_empty() && next(3) == 0 => {
                        broker.abandon(lent.swap_remove(0));
                        pipe += 1;
                    }
                    5 if !lent.is_empty() && pipe > 0 && next(3) == 0 => {
                        broker.unlend(lent.swap_remove(0));
                        (pipe, taken) = (pipe - 1, taken + 1);
                        pipe += 1; // its end
                    }
                    _ => {
                        while broker.is_owed(PIPE) && pipe > 0 {
                            (pipe, taken) = (pipe - 1, taken + 1);
                            let who = broker.took(PIPE, now);
                            released(who.as_slice(), &mut done, &mut pipe);
                        }
                        released(&overdue(&mut broker, now), &mut done, &mut pipe);
                    }
                }
                let open = broker.lends.len() as i64;
                let debts = broker.accounts.get(&PIPE).map_or(0, |account| i64::from(account.debts));
                assert_eq!(written - taken, open + debts, "seed {seed}");
                assert_eq!(open, (lent.len() + done.len()) as i64, "seed {seed}");
            }
            // The rest comes to its end.
            pipe += local.len() as i64;
            for id in lent {
                broker.finish(id, Duration::ZERO, start);
                done.push(id);
            }
            released(&overdue(&mut broker, start), &mut done, &mut pipe);
            released(&overdue(&mut broker, start + Duration::from_secs(1)), &mut done, &mut pipe);
            while broker.is_owed(PIPE) {
                pipe -= 1;
                assert_eq!(broker.took(PIPE, now()), None);
            }
            assert_eq!((pipe, done.len()), (tokens, 0), "seed {seed}");
            assert!(!broker.is_open(PIPE));
        }
    }
}
