//! What entitles clients to run on the head, while they run there and while they do not: the [`tokens`](super::tokens) of
//! make's jobservers, or [slots](super::local) of the head. Frames that end somebody's waiting come out of
//! [`Places::released`] when there is a place again.

use super::broker::JobserverId;
use super::clients::{ClientId, Token};
use super::local::LocalWork;
use super::outside::{Head, Outside};
use super::slots::{Patience, User};
use super::tokens::Tokens;
use crate::event::Interest;
use crate::wire::{ActionId, Place, SlotCounts, SlotUser, ToClient, TokenCounts};

/// A connection, and the process at its other end; `None`: it cannot be seen from here.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    pub client: ClientId,
    pub pid: Option<u32>,
}

pub struct Places<O: Outside = Head> {
    tokens: Tokens<O>,
    local: LocalWork<O>,
    released: Vec<(ClientId, ToClient)>,
}

impl<O: Outside + Clone> Places<O> {
    /// With so many slots of the head.
    pub fn new(outside: O, slots: u32) -> Places<O> {
        Places { tokens: Tokens::new(outside.clone()), local: LocalWork::new(outside, slots), released: Vec::new() }
    }

    /// The action has a slot on a rank, so its place is for others. `true`: that is its job's token, of which its client
    /// has to know.
    pub fn lend(&mut self, action: ActionId, peer: Peer, place: &Place) -> bool {
        match place {
            Place::Token(jobserver) => return self.tokens.lend(action, jobserver),
            Place::FixedToken(reason) => self.tokens.note_unlent(reason),
            Place::Slot(user) => {
                if let Some(user) = process(*user, peer) {
                    self.local.lend(user, action);
                }
            }
        }
        false
    }

    /// The action's client lent its token through a dispatcher that is gone.
    pub fn adopt(&mut self, action: ActionId, place: &Place) {
        if let Place::Token(jobserver) = place {
            self.tokens.adopt(action, jobserver);
        }
    }

    pub fn is_token_lent(&self, action: ActionId) -> bool {
        self.tokens.is_lent(action)
    }

    /// Could the action run here at once?
    pub fn is_at_hand(&self, action: ActionId, peer: Peer, place: &Place) -> bool {
        match place {
            Place::Token(_) | Place::FixedToken(_) => !self.is_token_lent(action),
            Place::Slot(user) => process(*user, peer).is_some_and(|user| self.local.is_open_to(user)),
        }
    }

    /// The action is over; its client hears `last` as soon as it has its place.
    pub fn finish(&mut self, action: ActionId, peer: Peer, place: &Place, last: ToClient) {
        let slot = match place {
            Place::Slot(slot) => slot,
            Place::Token(jobserver) => return self.tokens.finish(action, peer.client, Some(jobserver), last),
            Place::FixedToken(_) => return self.tokens.finish(action, peer.client, None, last),
        };
        match process(*slot, peer) {
            Some(user) if self.local.is_lent(user, action) => self.local.come_back(user, action, peer.client, last),
            _ if matches!(last, ToClient::RunLocally { .. }) => self.enter(peer, *slot, last),
            _ => self.released.push((peer.client, last)),
        }
    }

    /// The client hears `frame` when there is a slot of the head.
    pub fn enter(&mut self, peer: Peer, slot: SlotUser, frame: ToClient) {
        let patience = match slot {
            SlotUser::Step(_) => Patience::Long,
            SlotUser::Client => Patience::Short,
        };
        match process(slot, peer) {
            Some(user) => self.local.enter(user, peer.client, frame, patience),
            None => self.released.push((peer.client, frame)),
        }
    }

    /// A ninja asks how many steps it may run besides those on ranks. What it is a step of itself needs no slot meanwhile.
    pub fn steps_of_ninja(&mut self, within: User) -> u32 {
        self.local.leave(within);
        self.local.limit()
    }

    /// The client takes its token back itself, from this jobserver, if it lent one.
    pub fn forget(&mut self, client: ClientId, action: Option<ActionId>) -> Option<JobserverId> {
        self.tokens.forget(client, action)
    }

    /// The client is gone, and with it its action.
    pub fn abandon(&mut self, client: ClientId, action: Option<ActionId>) {
        self.local.forget(client);
        self.tokens.abandon(client, action);
    }

    pub fn interest(&mut self, interest: &mut Interest<Token>) {
        self.tokens.interest(interest);
        self.local.interest(interest);
    }

    /// There are tokens, or the jobserver is gone.
    pub fn take(&mut self, jobserver: JobserverId) {
        self.tokens.take(jobserver);
    }

    /// The process that had a slot has ended.
    pub fn ended(&mut self, user: User) {
        self.local.ended(user);
    }

    /// Frames for those whose waiting is over, because they have their place or waited long enough.
    pub fn released(&mut self) -> Vec<(ClientId, ToClient)> {
        self.tokens.release_overdue();
        self.local.release_overdue();
        let mut released = std::mem::take(&mut self.released);
        released.extend(self.tokens.released());
        released.extend(self.local.released());
        released
    }

    pub fn waiting(&self) -> impl Iterator<Item = ClientId> {
        self.tokens.waiting().chain(self.local.waiting())
    }

    /// Tokens lent to a jobserver, and owed.
    #[cfg(test)]
    pub fn owed(&self, jobserver: JobserverId) -> (usize, usize) {
        self.tokens.owed(jobserver)
    }

    /// Slots in use, and who waits for one.
    #[cfg(test)]
    pub fn slots(&self) -> (usize, usize) {
        self.local.slots().in_use()
    }

    #[cfg(test)]
    pub fn has_slot(&self, user: User) -> bool {
        self.local.slots().has(user)
    }

    pub fn counts(&self) -> (TokenCounts, SlotCounts) {
        (self.tokens.counts().clone(), self.local.counts())
    }
}

/// Whose slot it is.
fn process(slot: SlotUser, peer: Peer) -> Option<User> {
    match slot {
        SlotUser::Step(step) => Some(step),
        SlotUser::Client => peer.pid,
    }
}
