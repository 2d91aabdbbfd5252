//! Work on the head that takes one of its [`slots`](super::slots): keeps the last frames of those that wait, and notices
//! through pidfds when a user ends, whatever it has become by exec meanwhile.
//!
//! A process that cannot be seen from here (another PID namespace) is not counted: its work is not held up.

use super::clients::{ClientId, Token};
use super::outside::Outside;
use super::slots::{Patience, Slots, User};
use crate::event::Interest;
use crate::wire::{ActionId, SlotCounts, ToClient};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::AsRawFd;

pub struct LocalWork<O: Outside> {
    outside: O,
    slots: Slots,
    processes: BTreeMap<User, O::Process>,
    /// Frames for those that wait.
    held: BTreeMap<ClientId, ToClient>,
    released: Vec<(ClientId, ToClient)>,
    counts: SlotCounts,
}

impl<O: Outside> LocalWork<O> {
    pub fn new(outside: O, limit: u32) -> LocalWork<O> {
        LocalWork {
            slots: Slots::new(limit, outside.now()),
            outside,
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
        if !self.watch(user) || self.slots.enter(user, client, patience, self.outside.now()) {
            self.released.push((client, frame));
        } else {
            self.counts.waited += 1;
            self.held.insert(client, frame);
        }
    }

    /// Would the user have a slot at once?
    pub fn is_open_to(&self, user: User) -> bool {
        self.slots.is_open_to(user)
    }

    /// A compile of the user has a slot on a rank: its slot here, if it has one, is for others meanwhile.
    pub fn lend(&mut self, user: User, action: ActionId) {
        if self.slots.lend(user, action, self.outside.now()) {
            self.counts.lent += 1;
            self.grant();
        }
    }

    /// The action of a user is over; `client` hears `last` when the slot lent for it is back.
    pub fn come_back(&mut self, user: User, action: ActionId, client: ClientId, last: ToClient) {
        if self.slots.come_back(user, action, client, self.outside.now()) {
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
        self.slots.leave(user, self.outside.now());
        self.grant();
    }

    /// The process of a user has ended.
    pub fn ended(&mut self, user: User) {
        self.processes.remove(&user);
        let orphans = self.slots.ended(user, self.outside.now());
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
        if !self.held.is_empty() {
            let overdue = self.slots.overdue(self.outside.now());
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

    #[cfg(test)]
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    fn grant(&mut self) {
        let granted = self.slots.grant(self.outside.now());
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
            Entry::Vacant(room) => self.outside.watch(user).map(|process| room.insert(process)).is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatcher::outside::Head;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    #[test]
    fn a_slot_is_free_when_its_process_ends() {
        let mut work = LocalWork::new(Head, 1);
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let own = std::process::id();
        work.enter(child.id(), 1, ToClient::Go, Patience::Long);
        assert!(matches!(work.released()[..], [(1, ToClient::Go)]));
        work.enter(own, 2, ToClient::Go, Patience::Long);
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
        let mut work = LocalWork::new(Head, 1);
        let [own, parent] = [std::process::id(), std::os::unix::process::parent_id()];
        work.enter(own, 1, ToClient::Go, Patience::Long);
        work.enter(parent, 2, ToClient::Go, Patience::Long);
        work.forget(1);
        assert_eq!(work.processes.len(), 2, "the first has its slot");
        work.forget(2);
        assert_eq!(work.processes.keys().copied().collect::<Vec<_>>(), [own]);
    }

    #[test]
    fn who_cannot_be_seen_is_not_held_up() {
        let mut work = LocalWork::new(Head, 1);
        for client in [1, 2] {
            // No process has this id: it is above the kernel's limit.
            work.enter(u32::MAX >> 1, client, ToClient::Go, Patience::Long);
        }
        assert_eq!(work.released().len(), 2);
    }
}
