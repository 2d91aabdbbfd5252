//! Slots of the head, as a pure state machine: for what runs here and no jobserver counts, which is the steps of a ninja
//! and the compilers of a `make -j` without a number or of a script. Knows no process and no clock.
//!
//! # Rules
//! * A user has one slot from when it first asks until it ends, however many of its processes ask.
//! * While a compile of it is on a rank its slot is free for others. Before it gets the result it waits for one again, in
//!   front of everybody else.
//! * Slots go out in the order in which they were asked for.
//! * Compilers that are users of their own may wait for each other (`gcc -E a.c | gcc -x c -`), and whoever has the slots
//!   for a result (a lock around the compiler). If no slot has moved for a while, the first of these goes without.
//! * So may the steps of a ninja, of which more have begun than would without us: one may hold a lock that those with the
//!   slots want. Mostly these are just long, and so is the while.

use super::clients::ClientId;
use crate::wire::ActionId;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// The process that has the slot until it ends.
pub type User = u32;

/// How long somebody waits for a slot while none moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Others end, and then it is its turn, unless they wait for this one.
    Long,
    /// Others may well wait for this one.
    Short,
}

impl Patience {
    fn limit(self) -> Duration {
        match self {
            // Above what a link takes, or a test.
            Patience::Long => Duration::from_secs(600),
            Patience::Short => Duration::from_secs(5),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Held,
    /// Free for others while this action runs.
    Lent(ActionId),
}

struct Waiter {
    user: User,
    client: ClientId,
    patience: Patience,
}

/// All slots of the head, and who waits for one.
pub struct Slots {
    limit: usize,
    users: BTreeMap<User, State>,
    waiting: VecDeque<Waiter>,
    /// When a slot was last given or given back.
    moved: Instant,
}

impl Slots {
    pub fn new(limit: u32, now: Instant) -> Slots {
        Slots { limit: limit as usize, users: BTreeMap::new(), waiting: VecDeque::new(), moved: now }
    }

    pub fn limit(&self) -> u32 {
        self.limit as u32
    }

    /// Who has a slot, or has lent it.
    pub fn users(&self) -> impl Iterator<Item = User> {
        self.users.keys().copied()
    }

    /// Has the user a slot, or waits for one?
    pub fn is_known(&self, user: User) -> bool {
        self.users.contains_key(&user) || self.waiting.iter().any(|waiter| waiter.user == user)
    }

    /// Has the user a slot, or is there one for it? Nobody overtakes.
    pub fn is_open_to(&self, user: User) -> bool {
        self.users.get(&user) == Some(&State::Held) || self.waiting.is_empty() && self.has_room()
    }

    /// `true`: the user has a slot. `false`: `client` waits for it.
    pub fn enter(&mut self, user: User, client: ClientId, patience: Patience, now: Instant) -> bool {
        let is_open = self.is_open_to(user);
        if !is_open {
            self.waiting.push_back(Waiter { user, client, patience });
        } else if self.users.get(&user) != Some(&State::Held) {
            self.give(user, now);
        }
        is_open
    }

    /// A compile of the user has a slot on a rank. `true`: it had one here, which is free now.
    pub fn lend(&mut self, user: User, action: ActionId, now: Instant) -> bool {
        let Some(state) = self.users.get_mut(&user).filter(|state| **state == State::Held) else { return false };
        *state = State::Lent(action);
        self.moved = now;
        true
    }

    /// The action is over. `true`: its user has a slot, or had lent none for it. `false`: `client` waits.
    pub fn come_back(&mut self, user: User, action: ActionId, client: ClientId, now: Instant) -> bool {
        if !self.is_lent(user, action) {
            return true;
        }
        self.users.remove(&user);
        if self.has_room() {
            self.give(user, now);
            return true;
        }
        self.waiting.push_front(Waiter { user, client, patience: Patience::Short });
        false
    }

    pub fn is_lent(&self, user: User, action: ActionId) -> bool {
        self.users.get(&user) == Some(&State::Lent(action))
    }

    /// The user does not need its slot any more.
    pub fn leave(&mut self, user: User, now: Instant) {
        self.users.remove(&user);
        self.moved = now;
    }

    /// The process has ended. Those that waited on its behalf, who need nothing any more.
    pub fn ended(&mut self, user: User, now: Instant) -> Vec<ClientId> {
        self.leave(user, now);
        self.take_waiting(|waiter| waiter.user == user)
    }

    /// The client does not wait any more.
    pub fn forget(&mut self, client: ClientId) {
        self.waiting.retain(|waiter| waiter.client != client);
    }

    /// Gives what is free to those that wait: the clients whose waiting is over.
    pub fn grant(&mut self, now: Instant) -> Vec<ClientId> {
        let mut granted = Vec::new();
        while self.has_room()
            && let Some(Waiter { user, .. }) = self.waiting.front()
        {
            granted.extend(self.serve(*user, now));
        }
        granted
    }

    /// Those that go without a slot, since none has moved for so long.
    pub fn overdue(&mut self, now: Instant) -> Vec<ClientId> {
        let still = now.saturating_duration_since(self.moved);
        let first = self.waiting.iter().find(|waiter| waiter.patience.limit() <= still);
        first.map(|waiter| waiter.user).map(|user| self.serve(user, now)).unwrap_or_default()
    }

    fn has_room(&self) -> bool {
        self.held() < self.limit
    }

    fn held(&self) -> usize {
        self.users.values().filter(|state| **state == State::Held).count()
    }

    /// Slots in use, and who waits for one.
    #[cfg(test)]
    pub fn in_use(&self) -> (usize, usize) {
        (self.held(), self.waiting.len())
    }

    #[cfg(test)]
    pub fn has(&self, user: User) -> bool {
        self.users.get(&user) == Some(&State::Held)
    }

    fn give(&mut self, user: User, now: Instant) {
        self.users.insert(user, State::Held);
        self.moved = now;
    }

    /// Gives the user a slot; all who waited for it.
    fn serve(&mut self, user: User, now: Instant) -> Vec<ClientId> {
        self.give(user, now);
        self.take_waiting(|waiter| waiter.user == user)
    }

    fn take_waiting(&mut self, is_meant: impl Fn(&Waiter) -> bool) -> Vec<ClientId> {
        let mut taken = Vec::new();
        self.waiting.retain(|waiter| {
            let stays = !is_meant(waiter);
            if !stays {
                taken.push(waiter.client);
            }
            stays
        });
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(limit: u32) -> (Slots, Instant) {
        let now = Instant::now();
        (Slots::new(limit, now), now)
    }

    #[test]
    fn in_order_and_one_for_all_processes_of_a_user() {
        let (mut slots, now) = slots(1);
        assert!(slots.enter(10, 1, Patience::Long, now));
        assert!(slots.enter(10, 2, Patience::Long, now), "it has one");
        assert!(!slots.enter(20, 3, Patience::Long, now));
        assert!(!slots.enter(30, 4, Patience::Long, now));
        assert!(!slots.enter(20, 5, Patience::Long, now));
        assert!(slots.grant(now).is_empty());
        assert!(slots.ended(10, now).is_empty());
        assert!(!slots.enter(40, 6, Patience::Long, now), "nobody overtakes");
        assert_eq!(slots.grant(now), [3, 5]);
        slots.forget(4);
        assert!(slots.ended(20, now).is_empty());
        assert_eq!(slots.grant(now), [6]);
        assert!(!slots.enter(50, 7, Patience::Long, now));
        assert_eq!(slots.ended(50, now), [7], "its orphans are let go");
    }

    #[test]
    fn a_slot_is_lent_and_comes_back_first() {
        let (mut slots, now) = slots(1);
        assert!(!slots.lend(10, 100, now), "it had none");
        assert!(slots.come_back(10, 100, 1, now));
        assert!(slots.enter(10, 1, Patience::Long, now));
        assert!(slots.lend(10, 100, now));
        assert!(!slots.lend(10, 101, now), "one only");
        assert!(slots.enter(20, 2, Patience::Long, now));
        assert!(!slots.enter(30, 3, Patience::Long, now));
        assert!(slots.come_back(10, 101, 4, now), "that one lent nothing");
        assert!(!slots.come_back(10, 100, 5, now));
        slots.ended(20, now);
        assert_eq!(slots.grant(now), [5]);
        assert!(slots.lend(10, 102, now));
        assert_eq!(slots.grant(now), [3]);
        assert!(!slots.come_back(10, 102, 6, now));
        let later = now + Patience::Short.limit();
        assert!(slots.overdue(later - Duration::from_millis(1)).is_empty());
        assert_eq!(slots.overdue(later), [6], "beyond the limit");
        slots.ended(10, now);
        assert!(!slots.enter(40, 7, Patience::Long, now), "the debt is paid first");
        slots.ended(30, now);
        assert_eq!(slots.grant(now), [7]);
    }

    #[test]
    fn who_may_wait_for_each_other_does_not_wait_for_ever() {
        let (mut slots, now) = slots(1);
        assert!(slots.enter(10, 1, Patience::Short, now));
        assert!(!slots.enter(20, 2, Patience::Long, now));
        assert!(!slots.enter(30, 3, Patience::Short, now));
        assert!(!slots.enter(40, 4, Patience::Short, now));
        let later = now + Patience::Short.limit();
        assert_eq!(slots.overdue(later), [3], "the oldest of those");
        assert!(slots.overdue(later).is_empty(), "which was a move");
        assert_eq!(slots.overdue(later + Patience::Long.limit()), [2], "it may be waited for, too");
    }

    /// Whatever comes in whatever order: no more than the limit have a slot but for those that were overdue, and everybody
    /// is answered once.
    #[test]
    fn random_histories_keep_the_books() {
        for seed in 1..200u64 {
            let mut random = super::super::random::numbers(seed);
            let now = Instant::now();
            let limit = 1 + random(3) as u32;
            let mut slots = Slots::new(limit, now);
            let mut waiting: Vec<ClientId> = Vec::new();
            let mut lent: Vec<(User, ActionId)> = Vec::new();
            let mut next = 0;
            for _ in 0..500 {
                let user = random(8) as User;
                next += 1;
                match random(5) {
                    0 | 1 => {
                        if !slots.enter(user, next, Patience::Long, now) {
                            waiting.push(next);
                        }
                    }
                    2 => {
                        if slots.lend(user, next, now) {
                            lent.push((user, next));
                        }
                    }
                    3 if !lent.is_empty() => {
                        let (user, action) = lent.swap_remove(0);
                        if !slots.come_back(user, action, next, now) {
                            waiting.push(next);
                        }
                    }
                    _ => {
                        let released = slots.ended(user, now);
                        waiting.retain(|client| !released.contains(client));
                    }
                }
                let granted = slots.grant(now);
                assert!(granted.iter().all(|client| waiting.contains(client)), "seed {seed}");
                waiting.retain(|client| !granted.contains(client));
                let held = slots.users.values().filter(|state| **state == State::Held).count();
                assert!(held <= slots.limit, "seed {seed}");
                assert_eq!(slots.waiting.len(), waiting.len(), "seed {seed}");
                assert!(waiting.is_empty() || held == slots.limit, "seed {seed}: a slot is idle");
            }
        }
    }
}
