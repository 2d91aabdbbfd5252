//! The tokens of make's jobservers, as bytes in pipes: does what [`Broker`] decides, and keeps the last frames of clients
//! that must not end before they have theirs. Only rank 0 writes and takes tokens while it lives.
//!
//! The write end is open for one write(2) only: make ends when all of them are closed. The read end, which is in nobody's
//! way, stays open while something is lent.

use super::broker::{Broker, JobserverId, Lending};
use super::clients::{ClientId, Token};
use super::locks::Locks;
use crate::event::Interest;
use crate::jobserver::{age_of, open_end};
use crate::wire::{ActionId, Jobserver, ToClient, TokenCounts};
use nix::fcntl::OFlag;
use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long no token moves before a client with its result goes without. make may hold all tokens for jobs that wait for
/// this one, or they may just be long.
const PATIENCE: Duration = Duration::from_secs(5);

/// As [`PATIENCE`], for a client that is to compile here, which would be one job more at once.
const PATIENCE_LOCAL: Duration = Duration::from_secs(30);

#[derive(Default)]
pub struct Tokens {
    broker: Broker,
    locks: Locks,
    read_ends: BTreeMap<JobserverId, OwnedFd>,
    /// Last frames of clients that are done, until they have their token.
    held: BTreeMap<ActionId, (ClientId, ToClient)>,
    released: Vec<(ClientId, ToClient)>,
    counts: TokenCounts,
}

impl Tokens {
    /// Lends the token of the action's job, if that is possible.
    pub fn lend(&mut self, action: ActionId, jobserver: &Jobserver) -> bool {
        if self.broker.is_lent(action) {
            // Another rank failed it.
            return false;
        }
        match self.try_lend(action, jobserver) {
            Ok(()) => {
                self.counts.lent += 1;
                true
            }
            Err(reason) => {
                self.note_unlent(reason);
                false
            }
        }
    }

    /// A token could not be lent.
    pub fn note_unlent(&mut self, reason: &str) {
        *self.counts.unlent_reasons.entry(reason.to_owned()).or_default() += 1;
    }

    fn try_lend(&mut self, action: ActionId, jobserver: &Jobserver) -> Result<(), &'static str> {
        let Jobserver { id, read, write, job } = jobserver;
        let now = Instant::now();
        if !self.locks.allow(*id, || age_of(job.1), PATIENCE, now) {
            return Err("jobs-wait-for-each-other");
        }
        if !self.read_ends.contains_key(id) {
            let end = open_end(read, OFlag::O_RDONLY, *id).ok_or("jobserver-unreachable")?;
            self.read_ends.insert(*id, end);
        }
        match self.broker.lend(action, *id, *job, now) {
            Lending::Write => {
                let written = open_end(write, OFlag::O_WRONLY, *id)
                    .is_some_and(|end| nix::unistd::write(&end, b"+").is_ok_and(|bytes| bytes == 1));
                if !written {
                    self.broker.unlend(action);
                    return Err("jobserver-unreachable");
                }
            }
            Lending::HandedTo(other) => {
                self.counts.handed_on += 1;
                self.release([other]);
            }
            Lending::PaidDebt => self.counts.handed_on += 1,
            Lending::Refused => return Err("job-has-lent"),
        }
        Ok(())
    }

    /// The client is done but for its token, if it lent one. `last` is released when it has that.
    pub fn finish(&mut self, action: ActionId, client: ClientId, last: ToClient) {
        let patience = if matches!(last, ToClient::RunLocally { .. }) { PATIENCE_LOCAL } else { PATIENCE };
        self.held.insert(action, (client, last));
        if self.broker.finish(action, patience, Instant::now()) {
            self.release([action]);
        }
    }

    /// The client is gone.
    pub fn abandon(&mut self, action: ActionId) {
        self.held.remove(&action);
        self.broker.abandon(action);
    }

    /// The client has taken its token itself.
    pub fn forget(&mut self, action: ActionId) {
        self.held.remove(&action);
        self.broker.unlend(action);
    }

    pub fn is_lent(&self, action: ActionId) -> bool {
        self.broker.is_lent(action)
    }

    /// Waits for tokens that are owed, and closes the read ends of jobservers that nothing is lent to.
    pub fn interest(&mut self, interest: &mut Interest<Token>) {
        let broker = &mut self.broker;
        self.read_ends.retain(|id, _| broker.is_open(*id));
        for (id, end) in &self.read_ends {
            if self.broker.is_owed(*id) {
                interest.add(end.as_raw_fd(), false, Token::Jobserver(*id));
            }
        }
    }

    /// Takes what is owed, as far as it is there.
    pub fn take(&mut self, jobserver: JobserverId) {
        while self.broker.is_owed(jobserver)
            && let Some(end) = self.read_ends.get(&jobserver)
        {
            match nix::unistd::read(end, &mut [0]) {
                Ok(1) => {
                    let action = self.broker.took(jobserver, Instant::now());
                    self.release(action);
                }
                Err(nix::Error::EAGAIN | nix::Error::EINTR) => return,
                Ok(_) | Err(_) => {
                    let waiting = self.broker.closed(jobserver);
                    self.release(waiting);
                    self.read_ends.remove(&jobserver);
                }
            }
        }
    }

    /// Lets those go that waited long enough.
    pub fn release_overdue(&mut self) {
        if !self.held.is_empty() {
            let now = Instant::now();
            for (action, jobserver) in self.broker.overdue(now) {
                self.counts.late += 1;
                self.locks.gave_up(jobserver, now);
                self.release([action]);
            }
        }
    }

    /// Last frames whose clients have their tokens.
    pub fn released(&mut self) -> Vec<(ClientId, ToClient)> {
        std::mem::take(&mut self.released)
    }

    /// Clients that wait for their tokens only.
    pub fn waiting(&self) -> impl Iterator<Item = ClientId> {
        self.held.values().map(|(client, _)| *client)
    }

    pub fn counts(&self) -> &TokenCounts {
        &self.counts
    }

    fn release(&mut self, actions: impl IntoIterator<Item = ActionId>) {
        self.released.extend(actions.into_iter().filter_map(|action| self.held.remove(&action)));
    }
}
