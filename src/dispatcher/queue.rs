//! Which action runs where, as a pure state machine: events in, commands out. Knows no sockets, no MPI and no clock,
//! so that a simulation can run it with any number of ranks.
//!
//! An action waits until some rank has a free slot and is known to have its toolchain, and its host has the memory that
//! the action [demands]; the rank with the most free slots gets it. An action that a rank could not carry out gets one
//! more rank, on another host if there is one, then it runs locally.
//!
//! # Memory
//! What runs on a host demands no more than the host has, except that a host on which nothing runs takes anything. For the
//! first of those that wait for memory alone, the host that has most left is kept: it gets nothing else until it takes
//! that one. So what demands much waits until hosts are done with what they run, and no longer.
//!
//! [demands]: Demand
//!
//! # Many ranks and many actions
//! Actions that wait for the same stand in one line, in which nobody can be helped whom the first is not, and a toolchain
//! has its free ranks in order. So an event costs what it changes, and not a walk over what waits or over all ranks.

use super::demand::Demand;
use crate::wire::{ActionId, ToolchainId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Rank of a worker in the job.
pub type Rank = i32;

/// Ranks an action is given to before it runs locally.
const ATTEMPTS_MAX: u32 = 2;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// `host`: the same number for all ranks of a host. `memory_bytes`: what compiles on that host may take together.
    RankJoined {
        rank: Rank,
        host: u32,
        slots: u32,
        memory_bytes: u64,
    },
    RankLost {
        rank: Rank,
    },
    /// The rank's host has room for compiles, or has none.
    RankRoom {
        rank: Rank,
        enough: bool,
    },
    /// The rank's host can (or cannot, for this reason) run exactly this toolchain.
    ToolchainChecked {
        rank: Rank,
        toolchain: ToolchainId,
        verdict: Result<(), String>,
    },
    /// It may be able to in a moment; until then it gets nothing that needs it.
    ToolchainLacking {
        rank: Rank,
        toolchain: ToolchainId,
    },
    Submitted {
        action: ActionId,
        toolchain: ToolchainId,
        demand: Demand,
    },
    /// The rank delivered a result.
    Finished {
        action: ActionId,
    },
    /// The rank could not carry it out. `retry`: another rank may.
    Refused {
        action: ActionId,
        reason: String,
        retry: bool,
    },
    /// Nobody waits for it any more.
    Abandoned {
        action: ActionId,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    CheckToolchain {
        rank: Rank,
        toolchain: ToolchainId,
    },
    Assign {
        action: ActionId,
        rank: Rank,
    },
    Cancel {
        action: ActionId,
        rank: Rank,
    },
    /// Tell the client to run it itself.
    RunLocally {
        action: ActionId,
        reason: String,
    },
    /// A rank's action failed there and is queued for another.
    Retried {
        action: ActionId,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Fitness {
    Asked,
    Fit,
    Unfit(String),
}

struct RankState {
    host: u32,
    slots: u32,
    /// Of its host.
    memory_bytes: u64,
    /// What it runs, and how much memory each was given, in bytes.
    running: BTreeMap<ActionId, u64>,
    /// There is no room on its host; it gets nothing.
    full: bool,
}

impl RankState {
    fn free(&self) -> u32 {
        self.slots.saturating_sub(self.running.len() as u32)
    }
}

/// The ranks of a host together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct HostState {
    ranks: u32,
    slots: u32,
    running: u32,
    memory_bytes: u64,
    given_bytes: u64,
}

impl HostState {
    fn add(&mut self, rank: &RankState) {
        self.ranks += 1;
        self.slots += rank.slots;
        self.running += rank.running.len() as u32;
        self.memory_bytes = rank.memory_bytes;
        self.given_bytes += rank.running.values().sum::<u64>();
    }

    fn subtract(&mut self, rank: &RankState) {
        self.ranks -= 1;
        self.slots -= rank.slots;
        self.running -= rank.running.len() as u32;
        self.given_bytes -= rank.running.values().sum::<u64>();
    }

    fn left_bytes(&self) -> u64 {
        self.memory_bytes.saturating_sub(self.given_bytes)
    }

    fn bytes_for(&self, demand: Demand) -> u64 {
        demand.bytes(self.memory_bytes, self.slots)
    }

    fn has_memory_for(&self, demand: Demand) -> bool {
        self.running == 0 || self.bytes_for(demand) <= self.left_bytes()
    }
}

/// What the ranks are to one toolchain.
#[derive(Debug, Default, PartialEq, Eq)]
struct Pool {
    fitness: BTreeMap<Rank, Fitness>,
    // What follows from that and from the ranks' states; ranks without room are in none.
    unasked: BTreeSet<Rank>,
    /// Asked or fit.
    hopeful: BTreeSet<Rank>,
    unfit: BTreeSet<Rank>,
    /// Fit, with free slots: the best rank first.
    free: BTreeSet<(Reverse<u32>, Rank)>,
}

impl Pool {
    /// Takes note that `rank`, which had `free_before` slots, is now in this state (`None`: gone).
    fn sort_in(&mut self, rank: Rank, free_before: u32, state: Option<&RankState>) {
        self.unasked.remove(&rank);
        self.hopeful.remove(&rank);
        self.unfit.remove(&rank);
        self.free.remove(&(Reverse(free_before), rank));
        let Some(state) = state.filter(|state| !state.full) else { return };
        match self.fitness.get(&rank) {
            None => self.unasked.insert(rank),
            Some(Fitness::Unfit(_)) => self.unfit.insert(rank),
            Some(Fitness::Asked) => self.hopeful.insert(rank),
            Some(Fitness::Fit) => {
                if state.free() > 0 {
                    self.free.insert((Reverse(state.free()), rank));
                }
                self.hopeful.insert(rank)
            }
        };
    }
}

/// Where in the order of all that wait. Who is retried comes before the first.
type Position = i64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Waiting(Position),
    Running(Rank),
}

/// What an action waits for: actions with the same wait in one line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Need {
    toolchain: ToolchainId,
    demand: Demand,
    /// Ranks that failed it.
    avoided: Vec<Rank>,
}

struct ActionState {
    need: Need,
    place: Place,
    attempts: u32,
}

/// The queue of one job.
#[derive(Default)]
pub struct Queue {
    ranks: BTreeMap<Rank, RankState>,
    /// Those of them that have no room.
    full: BTreeSet<Rank>,
    hosts: BTreeMap<u32, HostState>,
    pools: BTreeMap<ToolchainId, Pool>,
    actions: BTreeMap<ActionId, ActionState>,
    waiting: BTreeMap<Need, BTreeMap<Position, ActionId>>,
    /// The positions given last: to one that is retried, and to one that is new.
    first: Position,
    last: Position,
}

impl Queue {
    /// Slots of all ranks.
    pub fn slots(&self) -> u32 {
        self.ranks.values().map(|rank| rank.slots).sum()
    }

    /// Has every rank as much to do as it may?
    pub fn is_busy(&self) -> bool {
        self.ranks.values().all(|rank| rank.free() == 0)
    }

    /// The rank that works on `action`.
    pub fn rank_of(&self, action: ActionId) -> Option<Rank> {
        match self.actions.get(&action)?.place {
            Place::Running(rank) => Some(rank),
            Place::Waiting(_) => None,
        }
    }

    /// Actions that wait or run.
    pub fn len(&self) -> usize {
        self.actions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }

    /// Takes note of an event and says what is to be done. Events about actions or ranks that are gone change nothing.
    pub fn step(&mut self, event: Event) -> Vec<Command> {
        let mut commands = Vec::new();
        match event {
            Event::RankJoined { rank, host, slots, memory_bytes } => {
                let slots = slots.max(1);
                let state = RankState { host, slots, memory_bytes, running: BTreeMap::new(), full: false };
                self.change(rank, |slot| *slot = Some(state));
            }
            Event::RankLost { rank } => {
                let mut lost = None;
                self.change(rank, |state| lost = state.take());
                for pool in self.pools.values_mut() {
                    pool.fitness.remove(&rank);
                }
                for action in lost.into_iter().flat_map(|state| state.running.into_keys()) {
                    self.refuse(action, "rank-lost".to_owned(), true, &mut commands);
                }
            }
            Event::RankRoom { rank, enough } => {
                // A rank without room has looked at no toolchain.
                for pool in self.pools.values_mut() {
                    if pool.fitness.get(&rank).is_some_and(|fitness| *fitness != Fitness::Fit) {
                        pool.fitness.remove(&rank);
                    }
                }
                self.change(rank, |state| {
                    if let Some(state) = state {
                        state.full = !enough;
                    }
                });
            }
            Event::ToolchainChecked { rank, toolchain, verdict } => {
                self.judge(rank, toolchain, verdict.map_or_else(Fitness::Unfit, |()| Fitness::Fit));
            }
            Event::ToolchainLacking { rank, toolchain } => self.judge(rank, toolchain, Fitness::Asked),
            Event::Submitted { action, toolchain, demand } => {
                self.last += 1;
                let place = Place::Waiting(self.last);
                let need = Need { toolchain, demand, avoided: Vec::new() };
                self.wait(action, ActionState { need, place, attempts: 0 });
            }
            Event::Finished { action } => {
                self.remove(action);
            }
            Event::Abandoned { action } => {
                if let Some(rank) = self.remove(action) {
                    commands.push(Command::Cancel { action, rank });
                }
            }
            Event::Refused { action, reason, retry } => self.refuse(action, reason, retry, &mut commands),
        }
        self.schedule(&mut commands);
        commands
    }

    /// The one place where a rank comes, goes and changes, so that the pools and the hosts know.
    fn change(&mut self, rank: Rank, change: impl FnOnce(&mut Option<RankState>)) {
        let mut state = self.ranks.remove(&rank);
        let free_before = state.as_ref().map_or(0, RankState::free);
        if let Some(state) = &state {
            self.hosts.get_mut(&state.host).expect("a rank has a host").subtract(state);
        }
        let host_before = state.as_ref().map(|state| state.host);
        change(&mut state);
        if let Some(state) = &state {
            self.hosts.entry(state.host).or_default().add(state);
        }
        if let Some(host) = host_before.filter(|host| self.hosts[host].ranks == 0) {
            self.hosts.remove(&host);
        }
        for pool in self.pools.values_mut() {
            pool.sort_in(rank, free_before, state.as_ref());
        }
        self.full.remove(&rank);
        if let Some(state) = state {
            if state.full {
                self.full.insert(rank);
            }
            self.ranks.insert(rank, state);
        }
    }

    fn judge(&mut self, rank: Rank, toolchain: ToolchainId, fitness: Fitness) {
        let Some(state) = self.ranks.get(&rank) else { return };
        let pool = pool_of(&mut self.pools, &self.ranks, toolchain);
        pool.fitness.insert(rank, fitness);
        pool.sort_in(rank, state.free(), Some(state));
    }

    fn wait(&mut self, action: ActionId, state: ActionState) {
        if let Place::Waiting(position) = state.place {
            self.waiting.entry(state.need.clone()).or_default().insert(position, action);
        }
        self.actions.insert(action, state);
    }

    /// Forgets an action; the rank that was running it, if any.
    fn remove(&mut self, action: ActionId) -> Option<Rank> {
        let state = self.actions.remove(&action)?;
        match state.place {
            Place::Running(rank) => {
                self.release(action, rank);
                Some(rank)
            }
            Place::Waiting(position) => {
                self.step_out(&state.need, position);
                None
            }
        }
    }

    /// Leaves its line.
    fn step_out(&mut self, need: &Need, position: Position) {
        let line = self.waiting.get_mut(need).expect("who waits has a line");
        line.remove(&position).expect("who waits is in its line");
        if line.is_empty() {
            self.waiting.remove(need);
        }
    }

    fn release(&mut self, action: ActionId, rank: Rank) {
        self.change(rank, |state| {
            if let Some(state) = state {
                assert!(state.running.remove(&action).is_some(), "rank {rank} gave back a slot it did not hold");
            }
        });
    }

    fn refuse(&mut self, action: ActionId, reason: String, retry: bool, commands: &mut Vec<Command>) {
        let Some(state) = self.actions.get(&action) else { return };
        let Place::Running(rank) = state.place else { return };
        let mut state = self.actions.remove(&action).expect("it is known");
        self.release(action, rank);
        state.attempts += 1;
        // Who is lost never comes back, and needs not be avoided.
        if let Some(RankState { host, .. }) = self.ranks.get(&rank) {
            let is_elsewhere = |other: &RankState| other.host != *host;
            let any_elsewhere = self.ranks.values().any(is_elsewhere);
            let avoided =
                self.ranks.iter().filter(|(other, state)| **other == rank || any_elsewhere && !is_elsewhere(state));
            state.need.avoided = avoided.map(|(other, _)| *other).collect();
        }
        let another = self.ranks.keys().any(|other| !state.need.avoided.contains(other));
        if retry && state.attempts < ATTEMPTS_MAX && another {
            self.first -= 1;
            self.wait(action, ActionState { place: Place::Waiting(self.first), ..state });
            commands.push(Command::Retried { action });
        } else {
            commands.push(Command::RunLocally { action, reason });
        }
    }

    fn schedule(&mut self, commands: &mut Vec<Command>) {
        let first = |(need, line): (&Need, &BTreeMap<Position, ActionId>)| Some((*line.keys().next()?, need.clone()));
        // By who is first in them; lines for which no rank has a free slot just now leave.
        let mut lines: BTreeMap<Position, Need> = self.waiting.iter().filter_map(first).collect();
        // The host that is kept for the first who lacks memory alone.
        let mut kept = None;
        while let Some((position, need)) = lines.pop_first() {
            let verdict = match self.choose(&need, kept, commands) {
                Choice::Wait { keep } => {
                    kept = kept.or(keep);
                    continue;
                }
                Choice::Settled(verdict) => verdict,
            };
            let line = &self.waiting[&need];
            let action = line[&position];
            let next = line.keys().nth(1).copied();
            self.step_out(&need, position);
            match verdict {
                Ok(rank) => {
                    self.assign(action, rank);
                    commands.push(Command::Assign { action, rank });
                }
                Err(reason) => {
                    self.actions.remove(&action);
                    commands.push(Command::RunLocally { action, reason });
                }
            }
            lines.extend(next.map(|next| (next, need)));
        }
    }

    fn assign(&mut self, action: ActionId, rank: Rank) {
        let state = self.actions.get_mut(&action).expect("a waiting action is known");
        assert!(matches!(state.place, Place::Waiting(_)), "action {action} is assigned once");
        state.place = Place::Running(rank);
        let host = self.ranks[&rank].host;
        let bytes = self.hosts[&host].bytes_for(state.need.demand);
        self.change(rank, |state| {
            state.as_mut().expect("a chosen rank is known").running.insert(action, bytes);
        });
    }

    fn choose(&mut self, need: &Need, kept: Option<u32>, commands: &mut Vec<Command>) -> Choice {
        let Need { toolchain, demand, avoided } = need;
        let pool = pool_of(&mut self.pools, &self.ranks, *toolchain);
        let is_eligible = |rank: &Rank| !avoided.contains(rank);
        let unasked: Vec<Rank> = pool.unasked.iter().copied().filter(is_eligible).collect();
        for rank in unasked {
            pool.fitness.insert(rank, Fitness::Asked);
            pool.unasked.remove(&rank);
            pool.hopeful.insert(rank);
            commands.push(Command::CheckToolchain { rank, toolchain: *toolchain });
        }
        let pool = &self.pools[toolchain];
        let mut most: Option<(u64, Reverse<u32>)> = None;
        for (_, rank) in pool.free.iter().filter(|(_, rank)| is_eligible(rank)) {
            let host = self.ranks[rank].host;
            let state = &self.hosts[&host];
            if kept == Some(host) {
                continue;
            }
            if state.has_memory_for(*demand) {
                return Choice::Settled(Ok(*rank));
            }
            most = most.max(Some((state.left_bytes(), Reverse(host))));
        }
        if let Some((_, Reverse(host))) = most {
            return Choice::Wait { keep: Some(host) };
        }
        if pool.hopeful.iter().any(is_eligible) {
            return Choice::Wait { keep: None };
        }
        let unfit = pool.unfit.iter().rev().find(|rank| is_eligible(rank));
        let why = match unfit.and_then(|rank| pool.fitness.get(rank)) {
            Some(Fitness::Unfit(why)) => why.clone(),
            _ if self.full.iter().any(is_eligible) => "store-full".to_owned(),
            _ => "no-ranks".to_owned(),
        };
        Choice::Settled(Err(why))
    }
}

#[cfg(test)]
impl Queue {
    /// What is written down twice agrees.
    pub fn check_books(&self) {
        for (toolchain, pool) in &self.pools {
            let mut expected = Pool { fitness: pool.fitness.clone(), ..Pool::default() };
            for (rank, state) in &self.ranks {
                expected.sort_in(*rank, 0, Some(state));
            }
            assert_eq!(*pool, expected, "toolchain {toolchain}");
            assert!(pool.fitness.keys().all(|rank| self.ranks.contains_key(rank)), "toolchain {toolchain}");
        }
        let mut hosts: BTreeMap<u32, HostState> = BTreeMap::new();
        for state in self.ranks.values() {
            hosts.entry(state.host).or_default().add(state);
        }
        assert_eq!(self.hosts, hosts);
        for (host, state) in hosts {
            assert!(state.running <= 1 || state.given_bytes <= state.memory_bytes, "host {host} lacks memory");
        }
        let full: BTreeSet<Rank> = self.ranks.iter().filter(|(_, state)| state.full).map(|(rank, _)| *rank).collect();
        assert_eq!(self.full, full);
        let mut running: BTreeMap<Rank, BTreeSet<ActionId>> = BTreeMap::new();
        let mut waiting: BTreeMap<Need, BTreeMap<Position, ActionId>> = BTreeMap::new();
        for (action, state) in &self.actions {
            match state.place {
                Place::Running(rank) => {
                    running.entry(rank).or_default().insert(*action);
                }
                Place::Waiting(position) => {
                    waiting.entry(state.need.clone()).or_default().insert(position, *action);
                }
            }
        }
        assert_eq!(self.waiting, waiting);
        for (rank, state) in &self.ranks {
            let known: BTreeSet<ActionId> = state.running.keys().copied().collect();
            assert_eq!(known, running.remove(rank).unwrap_or_default(), "rank {rank}");
            assert!(state.running.len() as u32 <= state.slots, "rank {rank}");
        }
        assert_eq!(running, BTreeMap::new(), "on ranks that are gone");
    }

    /// Actions that no rank works on.
    pub fn waiting(&self) -> usize {
        self.waiting.values().map(BTreeMap::len).sum()
    }
}

/// What the ranks are to a toolchain; of a new one nobody was asked.
fn pool_of<'a>(
    pools: &'a mut BTreeMap<ToolchainId, Pool>,
    ranks: &BTreeMap<Rank, RankState>,
    toolchain: ToolchainId,
) -> &'a mut Pool {
    pools.entry(toolchain).or_insert_with(|| {
        let mut pool = Pool::default();
        for (rank, state) in ranks {
            pool.sort_in(*rank, 0, Some(state));
        }
        pool
    })
}

/// What becomes of the first in a line.
enum Choice {
    /// A rank for it, or why it never gets one.
    Settled(Result<Rank, String>),
    /// `keep`: ranks have slots, and no host the memory; this one has most of it.
    Wait { keep: Option<u32> },
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    fn fit(rank: Rank) -> Event {
        Event::ToolchainChecked { rank, toolchain: 7, verdict: Ok(()) }
    }

    fn submit(action: ActionId) -> Event {
        demanding(action, 0)
    }

    fn demanding(action: ActionId, bytes: u64) -> Event {
        Event::Submitted { action, toolchain: 7, demand: Demand::of(Some(bytes)) }
    }

    fn joined(rank: Rank, host: u32, slots: u32) -> Event {
        Event::RankJoined { rank, host, slots, memory_bytes: 64 << 30 }
    }

    fn queue(ranks: &[(Rank, u32)]) -> Queue {
        let mut queue = Queue::default();
        for (rank, slots) in ranks {
            assert_eq!(queue.step(joined(*rank, *rank as u32, *slots)), []);
        }
        queue
    }

    #[test]
    fn a_toolchain_is_checked_once_a_rank_and_then_used() {
        let mut queue = queue(&[(1, 1), (2, 2)]);
        let asked = queue.step(submit(10));
        assert_eq!(
            asked,
            [Command::CheckToolchain { rank: 1, toolchain: 7 }, Command::CheckToolchain { rank: 2, toolchain: 7 }]
        );
        assert_eq!(queue.step(submit(11)), []);
        assert_eq!(queue.step(fit(1)), [Command::Assign { action: 10, rank: 1 }]);
        assert_eq!(queue.step(fit(2)), [Command::Assign { action: 11, rank: 2 }]);
        assert_eq!(queue.step(submit(12)), [Command::Assign { action: 12, rank: 2 }]);
        assert_eq!(queue.step(submit(13)), []);
        assert_eq!(queue.step(Event::Finished { action: 10 }), [Command::Assign { action: 13, rank: 1 }]);
        assert_eq!(queue.step(Event::Abandoned { action: 13 }), [Command::Cancel { action: 13, rank: 1 }]);
    }

    #[test]
    fn no_rank_or_no_fitting_rank_means_local() {
        let mut queue = queue(&[]);
        assert_eq!(queue.step(submit(1)), [Command::RunLocally { action: 1, reason: "no-ranks".into() }]);
        queue.step(joined(1, 1, 1));
        queue.step(submit(2));
        let unfit = Event::ToolchainChecked { rank: 1, toolchain: 7, verdict: Err("toolchain-store".into()) };
        assert_eq!(queue.step(unfit), [Command::RunLocally { action: 2, reason: "toolchain-store".into() }]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_refused_action_gets_another_rank_and_then_runs_locally() {
        let mut queue = queue(&[(1, 1), (2, 1)]);
        queue.step(submit(1));
        queue.step(fit(1));
        queue.step(fit(2));
        let refused = || Event::Refused { action: 1, reason: "oom".into(), retry: true };
        assert_eq!(queue.step(refused()), [Command::Retried { action: 1 }, Command::Assign { action: 1, rank: 2 }]);
        assert_eq!(queue.step(refused()), [Command::RunLocally { action: 1, reason: "oom".into() }]);
        assert_eq!(queue.step(refused()), [], "an answer about a forgotten action is dropped");
        queue.step(submit(2));
        let final_word = Event::Refused { action: 2, reason: "unsupported".into(), retry: false };
        assert_eq!(queue.step(final_word), [Command::RunLocally { action: 2, reason: "unsupported".into() }]);
    }

    #[test]
    fn a_refused_action_goes_to_another_host() {
        let mut queue = Queue::default();
        for (rank, host) in [(1, 1), (2, 1), (3, 2)] {
            queue.step(joined(rank, host, 2));
        }
        queue.step(submit(1));
        for rank in [1, 2, 3] {
            queue.step(fit(rank));
        }
        let refused = Event::Refused { action: 1, reason: "driver-killed".into(), retry: true };
        assert_eq!(queue.step(refused), [Command::Retried { action: 1 }, Command::Assign { action: 1, rank: 3 }]);
    }

    #[test]
    fn a_rank_whose_compiler_was_replaced_waits_for_the_heads() {
        let mut queue = queue(&[(1, 1)]);
        queue.step(submit(1));
        queue.step(fit(1));
        assert_eq!(queue.step(Event::ToolchainLacking { rank: 1, toolchain: 7 }), []);
        assert_eq!(queue.step(Event::Finished { action: 1 }), []);
        assert_eq!(queue.step(submit(2)), []);
        assert_eq!(queue.step(fit(1)), [Command::Assign { action: 2, rank: 1 }]);
    }

    #[test]
    fn a_rank_without_room_gets_nothing() {
        let mut queue = queue(&[(1, 4), (2, 1)]);
        assert_eq!(queue.step(Event::RankRoom { rank: 1, enough: false }), []);
        assert_eq!(queue.step(submit(10)), [Command::CheckToolchain { rank: 2, toolchain: 7 }]);
        assert_eq!(queue.step(fit(2)), [Command::Assign { action: 10, rank: 2 }]);
        assert_eq!(queue.step(submit(11)), [], "it waits for the one that has");
        let commands = queue.step(Event::RankRoom { rank: 2, enough: false });
        assert_eq!(commands, [Command::RunLocally { action: 11, reason: "store-full".into() }]);
        let refused = Event::Refused { action: 10, reason: "store-full".into(), retry: true };
        let local = Command::RunLocally { action: 10, reason: "store-full".into() };
        assert_eq!(queue.step(refused), [Command::Retried { action: 10 }, local]);
        assert_eq!(queue.step(Event::RankRoom { rank: 1, enough: true }), []);
        assert_eq!(queue.step(submit(12)), [Command::CheckToolchain { rank: 1, toolchain: 7 }]);
    }

    #[test]
    fn a_hosts_memory_is_given_once() {
        let mut queue = queue(&[(1, 8), (2, 8)]);
        queue.step(demanding(1, 40 << 30));
        assert_eq!(queue.step(fit(1)), [Command::Assign { action: 1, rank: 1 }]);
        queue.step(fit(2));
        assert_eq!(queue.step(demanding(2, 40 << 30)), [Command::Assign { action: 2, rank: 2 }]);
        assert_eq!(queue.step(demanding(3, 40 << 30)), [], "slots alone do not help it");
        assert_eq!(queue.step(demanding(4, 8 << 30)), [Command::Assign { action: 4, rank: 2 }], "1 is kept for 3");
        assert_eq!(queue.step(demanding(5, 20 << 30)), []);
        let commands = queue.step(Event::Finished { action: 1 });
        assert_eq!(commands, [Command::Assign { action: 3, rank: 1 }, Command::Assign { action: 5, rank: 1 }]);
        assert_eq!(queue.step(demanding(6, 16 << 30)), [Command::Assign { action: 6, rank: 2 }]);
    }

    #[test]
    fn a_host_that_runs_nothing_takes_anything() {
        let mut queue = queue(&[(1, 8)]);
        queue.step(demanding(1, 1 << 40));
        assert_eq!(queue.step(fit(1)), [Command::Assign { action: 1, rank: 1 }]);
        assert_eq!(queue.step(demanding(2, 0)), []);
        assert_eq!(queue.step(Event::Finished { action: 1 }), [Command::Assign { action: 2, rank: 1 }]);
    }

    #[test]
    fn a_host_is_kept_for_who_demands_much() {
        let mut queue = queue(&[(1, 8)]);
        let small = |action| demanding(action, 30 << 30);
        queue.step(small(1));
        queue.step(fit(1));
        assert_eq!(queue.step(small(2)), [Command::Assign { action: 2, rank: 1 }]);
        assert_eq!(queue.step(demanding(3, 64 << 30)), []);
        assert_eq!(queue.step(small(4)), []);
        assert_eq!(queue.step(Event::Finished { action: 1 }), [], "4 would fit, and wait for 3 is longer the more do");
        assert_eq!(queue.step(Event::Finished { action: 2 }), [Command::Assign { action: 3, rank: 1 }]);
        assert_eq!(queue.step(Event::Abandoned { action: 3 }).len(), 2);
    }

    #[test]
    fn what_never_ran_waits_for_slots_only() {
        let mut queue = queue(&[(1, 3)]);
        let unknown = |action| Event::Submitted { action, toolchain: 7, demand: Demand::Unknown };
        queue.step(unknown(1));
        queue.step(fit(1));
        assert_eq!(queue.step(unknown(2)), [Command::Assign { action: 2, rank: 1 }]);
        assert_eq!(queue.step(unknown(3)), [Command::Assign { action: 3, rank: 1 }]);
    }

    #[test]
    fn a_lost_ranks_actions_move_on() {
        let mut queue = queue(&[(1, 2), (2, 1)]);
        queue.step(submit(1));
        queue.step(fit(1));
        queue.step(fit(2));
        queue.step(submit(2));
        queue.step(submit(3));
        assert_eq!(queue.rank_of(1), Some(1));
        let commands = queue.step(Event::RankLost { rank: 1 });
        assert_eq!(commands.iter().filter(|c| matches!(c, Command::Retried { .. })).count(), 2);
        assert_eq!(queue.slots(), 1);
        queue.step(Event::Finished {
            action: queue.actions.iter().find(|(_, s)| s.place == Place::Running(2)).map(|(a, _)| *a).unwrap(),
        });
        let commands = queue.step(Event::RankLost { rank: 2 });
        assert!(commands.iter().any(|c| matches!(c, Command::RunLocally { .. })));
    }

    /// Whatever happens in whatever order, every action is answered exactly once and no slot is used twice.
    #[test]
    fn random_histories_keep_the_books() {
        for seed in 1..200u64 {
            let mut random = super::super::random::numbers(seed);
            let mut queue = Queue::default();
            let mut running: BTreeMap<ActionId, Rank> = BTreeMap::new();
            let mut open = Vec::new();
            let mut next = 0;
            for _ in 0..400 {
                let event = match random(8) {
                    0 => joined(1 + random(5) as Rank, random(3) as u32, 1 + random(3) as u32),
                    1 if random(4) == 0 => Event::RankLost { rank: 1 + random(5) as Rank },
                    2 | 3 => {
                        next += 1;
                        open.push(next);
                        demanding(next, random(100) << 30)
                    }
                    4 => match running.keys().next().copied() {
                        Some(action) => Event::Refused { action, reason: "r".into(), retry: random(2) == 0 },
                        None => continue,
                    },
                    5 => match open.get(random(open.len().max(1) as u64) as usize).copied() {
                        Some(action) => Event::Abandoned { action },
                        None => continue,
                    },
                    _ => match running.keys().next_back().copied() {
                        Some(action) => Event::Finished { action },
                        None => continue,
                    },
                };
                if let Event::RankJoined { rank, .. } = &event
                    && queue.ranks.contains_key(rank)
                {
                    continue;
                }
                match &event {
                    Event::Finished { action } | Event::Abandoned { action } => {
                        open.retain(|a| a != action);
                        running.remove(action);
                    }
                    Event::Refused { action, .. } => {
                        running.remove(action);
                    }
                    Event::RankLost { rank } => running.retain(|_, on| on != rank),
                    _ => {}
                }
                let mut commands = VecDeque::from(queue.step(event));
                while let Some(command) = commands.pop_front() {
                    match command {
                        Command::CheckToolchain { rank, .. } => {
                            let verdict = if random(5) == 0 { Err("no".into()) } else { Ok(()) };
                            commands.extend(queue.step(Event::ToolchainChecked { rank, toolchain: 7, verdict }));
                        }
                        Command::Assign { action, rank } => {
                            assert!(open.contains(&action), "seed {seed}: {action} was assigned though it is over");
                            assert_eq!(running.insert(action, rank), None, "seed {seed}: {action} runs twice");
                        }
                        Command::RunLocally { action, .. } => {
                            assert!(open.contains(&action), "seed {seed}: {action} was answered twice");
                            open.retain(|a| *a != action);
                        }
                        Command::Cancel { .. } | Command::Retried { .. } => {}
                    }
                }
                for (rank, state) in &queue.ranks {
                    let known = running.iter().filter(|(_, on)| *on == rank).map(|(action, _)| *action);
                    assert!(state.running.keys().copied().eq(known), "seed {seed}: rank {rank}");
                }
                queue.check_books();
                assert_eq!(queue.len(), open.len(), "seed {seed}");
            }
        }
    }
}
