//! Work on the head that takes one of its [`slots`](super::slots): keeps the last frames of those that wait, and notices
//! through pidfds when a user ends, whatever it has become by exec meanwhile.
//!
//! A process that cannot be seen from here (another PID namespace) is not counted: its work is not held up.

use super::clients::{ClientId, Token};
use super::slots::{Patience, Slots, User};
use crate::event::Interest;
use crate::pidfd;
use crate::wire::{ActionId, SlotCounts, ToClient};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// If no slot has moved for so long, compilers may be waiting for each other, or for a result.
const STALLED: Duration = Duration::from_secs(5);

pub struct LocalWork {
    slots: Slots,
    processes: BTreeMap<User, OwnedFd>,
    /// Frames for those that wait.
    held: BTreeMap<ClientId, ToClient>,
    released: Vec<(ClientId, ToClient)>,
    counts: SlotCounts,
}

impl LocalWork {
    pub fn new(limit: u32) -> LocalWork {
        LocalWork {
            slots: Slots::new(limit, Instant::now()),
            processes: BTreeMap::new(),
            held: BTreeMap::new(),
            released: Vec::new(),
            counts: SlotCounts::default(),
        }
    }

    pub fn limit(&self) -> u32 {
        self.slots.limit()
    }

    /// The user is to work here; `client` hears `frame` when it may.
    pub fn enter(&mut self, user: User, client: ClientId, frame: ToClient, patience: Patience) {
        if !self.watch(user) || self.slots.enter(user, client, patience, Instant::now()) {
            self.released.push((client, frame));
        } else {
            self.counts.waited += 1;
            self.held.insert(client, frame);
        }
    }

    /// A compile of the user has a slot on a rank: its slot here, if it has one, is for others meanwhile.
    pub fn lend(&mut self, user: User, action: ActionId) {
        if self.slots.lend(user, action, Instant::now()) {
            self.counts.lent += 1;
            self.grant();
        }
    }

    /// The action of a user is over; `client` hears `last` when the slot lent for it is back.
    pub fn come_back(&mut self, user: User, action: ActionId, client: ClientId, last: ToClient) {
        if self.slots.come_back(user, action, client, Instant::now()) {
            self.released.push((client, last));
        } else {
            self.held.insert(client, last);
        }
    }

    pub fn is_lent(&self, user: User, action: ActionId) -> bool {
        self.slots.is_lent(user, action)
    }

    /// What the user does from here on asks for slots itself.
    pub fn leave(&mut self, user: User) {
        self.slots.leave(user, Instant::now());
        self.grant();
    }

    /// The process of a user has ended.
    pub fn ended(&mut self, user: User) {
        self.processes.remove(&user);
        let orphans = self.slots.ended(user, Instant::now());
        self.release(orphans);
        self.grant();
    }

    /// The connection is over.
    pub fn forget(&mut self, client: ClientId) {
        if self.held.remove(&client).is_some() {
            self.slots.forget(client);
            self.processes.retain(|user, _| self.slots.is_known(*user));
        }
    }

    pub fn interest(&self, interest: &mut Interest<Token>) {
        for user in self.slots.users() {
            if let Some(process) = self.processes.get(&user) {
                interest.add(process.as_raw_fd(), false, Token::SlotUser(user));
            }
        }
    }

    /// Lets those go that waited long enough.
    pub fn release_overdue(&mut self) {
        if self.slots.is_impatient() {
            let now = Instant::now();
            let overdue = self.slots.overdue(now.checked_sub(STALLED).unwrap_or(now), now);
            self.counts.beyond += overdue.len() as u64;
            self.release(overdue);
        }
    }

    /// Frames for those whose waiting is over.
    pub fn released(&mut self) -> Vec<(ClientId, ToClient)> {
        std::mem::take(&mut self.released)
    }

    pub fn waiting(&self) -> impl Iterator<Item = ClientId> {
        self.held.keys().copied()
    }

    pub fn counts(&self) -> SlotCounts {
        SlotCounts { limit: self.limit(), ..self.counts.clone() }
    }

    fn grant(&mut self) {
        let granted = self.slots.grant(Instant::now());
        self.release(granted);
    }

    fn release(&mut self, clients: Vec<ClientId>) {
        for client in clients {
            self.released.extend(self.held.remove(&client).map(|frame| (client, frame)));
        }
    }

    /// `false`: there is no such process, for all that can be seen.
    fn watch(&mut self, user: User) -> bool {
        match self.processes.entry(user) {
            Entry::Occupied(_) => true,
            Entry::Vacant(room) => pidfd::open(user).map(|process| room.insert(process)).is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_slot_is_free_when_its_process_ends() {
        let mut work = LocalWork::new(1);
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let own = std::process::id();
        work.enter(child.id(), 1, ToClient::Go, Patience::Endless);
        assert!(matches!(work.released()[..], [(1, ToClient::Go)]));
        work.enter(own, 2, ToClient::Go, Patience::Endless);
        assert_eq!((work.released().len(), work.waiting().collect::<Vec<_>>()), (0, vec![2]));
        let mut interest = Interest::default();
        work.interest(&mut interest);
        assert_eq!(interest.wait(Duration::ZERO).unwrap(), []);
        drop(child.stdin.take());
        let ready = interest.wait(Duration::from_secs(30)).unwrap();
        assert_eq!(ready.iter().map(|ready| ready.token).collect::<Vec<_>>(), [Token::SlotUser(child.id())]);
        work.ended(child.id());
        assert!(matches!(work.released()[..], [(2, ToClient::Go)]));
        child.wait().unwrap();
    }

    #[test]
    fn who_goes_while_waiting_leaves_nothing() {
        let mut work = LocalWork::new(1);
        let [own, parent] = [std::process::id(), std::os::unix::process::parent_id()];
        work.enter(own, 1, ToClient::Go, Patience::Endless);
        work.enter(parent, 2, ToClient::Go, Patience::Endless);
        work.forget(1);
        assert_eq!(work.processes.len(), 2, "the first has its slot");
        work.forget(2);
        assert_eq!(work.processes.keys().copied().collect::<Vec<_>>(), [own]);
    }

    #[test]
    fn who_cannot_be_seen_is_not_held_up() {
        let mut work = LocalWork::new(1);
        for client in [1, 2] {
            // No process has this id: it is above the kernel's limit.
            work.enter(u32::MAX >> 1, client, ToClient::Go, Patience::Endless);
        }
        assert_eq!(work.released().len(), 2);
    }
}
