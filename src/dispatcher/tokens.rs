//! The tokens of make's jobservers, as bytes in pipes: does what [`Broker`] decides, and keeps the last frames of clients
//! that must not end before they have theirs. Only rank 0 writes and takes tokens while it lives.
//!
//! The write end is open for one write(2) only: make ends when all of them are closed. The read end, which is in nobody's
//! way, stays open while something is lent.

use super::broker::{Broker, JobserverId, Lending};
use super::clients::{ClientId, Token};
use super::figures;
use super::locks::Locks;
use super::outside::{Outside, Taken};
use crate::event::Interest;
use crate::wire::{ActionId, Jobserver, ToClient, TokenCounts};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// How long no token moves before a client with its result goes without. make may hold all tokens for jobs that wait for
/// this one, or they may just be long.
const PATIENCE: Duration = Duration::from_secs(5);

/// As [`PATIENCE`], for a client that is to compile here, which would be one job more at once.
const PATIENCE_LOCAL: Duration = Duration::from_secs(30);

pub struct Tokens<O: Outside> {
    outside: O,
    broker: Broker,
    locks: Locks,
    read_ends: BTreeMap<JobserverId, O::ReadEnd>,
    /// Last frames of clients that are done, until they have their token.
    held: BTreeMap<ActionId, (ClientId, ToClient)>,
    /// Those who lent theirs, and have it: their jobservers, until their connections end.
    served: BTreeMap<ClientId, Jobserver>,
    released: Vec<(ClientId, ToClient)>,
    counts: TokenCounts,
}

impl<O: Outside> Tokens<O> {
    pub fn new(outside: O) -> Tokens<O> {
        Tokens {
            outside,
            broker: Broker::default(),
            locks: Locks::default(),
            read_ends: BTreeMap::new(),
            held: BTreeMap::new(),
            served: BTreeMap::new(),
            released: Vec::new(),
            counts: TokenCounts::default(),
        }
    }

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

    /// The action's client lent its token through a dispatcher that is gone. It has to have it back before it ends.
    pub fn adopt(&mut self, action: ActionId, jobserver: &Jobserver) {
        if self.open_read_end(jobserver) {
            self.broker.adopt(action, jobserver.id, jobserver.job);
        }
    }

    /// `false`: it cannot be opened.
    fn open_read_end(&mut self, jobserver: &Jobserver) -> bool {
        match self.read_ends.entry(jobserver.id) {
            Entry::Occupied(_) => true,
            Entry::Vacant(room) => self.outside.open(jobserver).map(|end| room.insert(end)).is_some(),
        }
    }

    /// A token could not be lent.
    pub fn note_unlent(&mut self, reason: &str) {
        figures::count(&mut self.counts.unlent_reasons, reason.to_owned());
    }

    fn try_lend(&mut self, action: ActionId, jobserver: &Jobserver) -> Result<(), &'static str> {
        let Jobserver { id, job, .. } = jobserver;
        let now = self.outside.now();
        if !self.locks.allow(*id, || self.outside.age_of(*job), PATIENCE, now) {
            return Err("jobs-wait-for-each-other");
        }
        if !self.open_read_end(jobserver) {
            return Err("jobserver-unreachable");
        }
        match self.broker.lend(action, *id, *job, now) {
            Lending::Write => {
                if !self.outside.put(jobserver) {
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
    pub fn finish(&mut self, action: ActionId, client: ClientId, jobserver: Option<&Jobserver>, last: ToClient) {
        if self.broker.is_lent(action) {
            self.served.extend(jobserver.map(|jobserver| (client, jobserver.clone())));
        }
        let patience = if matches!(last, ToClient::RunLocally { .. }) { PATIENCE_LOCAL } else { PATIENCE };
        self.held.insert(action, (client, last));
        if self.broker.finish(action, patience, self.outside.now()) {
            self.release([action]);
        }
    }

    /// The client is gone, and with it its action, if it waited for one.
    pub fn abandon(&mut self, client: ClientId, action: Option<ActionId>) {
        self.served.remove(&client);
        if let Some(action) = action {
            self.held.remove(&action);
            self.broker.abandon(action);
        }
    }

    /// The client takes its token itself, from this jobserver, if it lent one.
    pub fn forget(&mut self, client: ClientId, action: Option<ActionId>) -> Option<JobserverId> {
        let served = self.served.remove(&client);
        match (action.filter(|action| self.broker.is_lent(*action)), served) {
            (Some(action), _) => {
                self.held.remove(&action);
                self.broker.unlend(action)
            }
            // It gave us up while we were taking one for it: that one is for somebody else.
            (None, Some(jobserver)) => self.outside.put(&jobserver).then_some(jobserver.id),
            (None, None) => None,
        }
    }

    pub fn is_lent(&self, action: ActionId) -> bool {
        self.broker.is_lent(action)
    }

    #[cfg(test)]
    pub fn owed(&self, jobserver: JobserverId) -> (usize, usize) {
        self.broker.owed(jobserver)
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
            match self.outside.take(end) {
                Taken::Token => {
                    let action = self.broker.took(jobserver, self.outside.now());
                    self.release(action);
                }
                Taken::NotNow => return,
                Taken::Gone => {
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
            let now = self.outside.now();
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
