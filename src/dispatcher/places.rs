//! What entitles clients to run on the head, while they run there and while they do not: the [`tokens`](super::tokens) of
//! make's jobservers, or [slots](super::local) of the head. Frames that end somebody's waiting come out of
//! [`Places::released`] when there is a place again.

use super::broker::JobserverId;
use super::clients::{ClientId, Token};
use super::local::LocalWork;
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

pub struct Places {
    tokens: Tokens,
    local: LocalWork,
    released: Vec<(ClientId, ToClient)>,
}

impl Places {
    /// With so many slots of the head.
    pub fn new(slots: u32) -> Places {
        Places { tokens: Tokens::default(), local: LocalWork::new(slots), released: Vec::new() }
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

    pub fn is_token_lent(&self, action: ActionId) -> bool {
        self.tokens.is_lent(action)
    }

    /// The action is over; its client hears `last` as soon as it has its place.
    pub fn finish(&mut self, action: ActionId, peer: Peer, place: &Place, last: ToClient) {
        let Place::Slot(slot) = place else { return self.tokens.finish(action, peer.client, last) };
        match process(*slot, peer) {
            Some(user) if self.local.is_lent(user, action) => self.local.come_back(user, action, peer.client, last),
            _ if matches!(last, ToClient::RunLocally { .. }) => self.enter(peer, *slot, last),
            _ => self.released.push((peer.client, last)),
        }
    }

    /// The client hears `frame` when there is a slot of the head.
    pub fn enter(&mut self, peer: Peer, slot: SlotUser, frame: ToClient) {
        let patience = match slot {
            SlotUser::Step(_) => Patience::Endless,
            SlotUser::Client => Patience::WhileOthersMove,
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

    /// The client takes its token back itself.
    pub fn forget(&mut self, action: ActionId) {
        self.tokens.forget(action);
    }

    /// The client is gone, and with it its action.
    pub fn abandon(&mut self, client: ClientId, action: Option<ActionId>) {
        self.local.forget(client);
        if let Some(action) = action {
            self.tokens.abandon(action);
        }
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
