//! Which action runs where, as a pure state machine: events in, commands out. Knows no sockets, no MPI and no clock,
//! so that a simulation can run it with any number of ranks.
//!
//! An action waits until some rank has a free slot and is known to have its toolchain; the rank with the most free
//! slots gets it. An action that a rank could not carry out gets one more rank, then it runs locally.

use crate::wire::{ActionId, ToolchainId};
use std::collections::{BTreeMap, VecDeque};

/// Rank of a worker in the job.
pub type Rank = i32;

/// Ranks an action is given to before it runs locally.
const ATTEMPTS_MAX: u32 = 2;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    RankJoined {
        rank: Rank,
        slots: u32,
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
    slots: u32,
    running: u32,
    /// There is no room on its host; it gets nothing.
    full: bool,
    toolchains: BTreeMap<ToolchainId, Fitness>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Waiting,
    Running(Rank),
}

struct ActionState {
    toolchain: ToolchainId,
    place: Place,
    attempts: u32,
    /// Ranks that failed it.
    avoided: Vec<Rank>,
}

/// The queue of one job.
#[derive(Default)]
pub struct Queue {
    ranks: BTreeMap<Rank, RankState>,
    actions: BTreeMap<ActionId, ActionState>,
    waiting: VecDeque<ActionId>,
}

impl Queue {
    /// Slots of all ranks.
    pub fn slots(&self) -> u32 {
        self.ranks.values().map(|rank| rank.slots).sum()
    }

    /// The rank that works on `action`.
    pub fn rank_of(&self, action: ActionId) -> Option<Rank> {
        match self.actions.get(&action)?.place {
            Place::Running(rank) => Some(rank),
            Place::Waiting => None,
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
            Event::RankJoined { rank, slots } => {
                self.ranks.insert(
                    rank,
                    RankState { slots: slots.max(1), running: 0, full: false, toolchains: BTreeMap::new() },
                );
            }
            Event::RankLost { rank } => {
                if self.ranks.remove(&rank).is_some() {
                    self.requeue_all_of(rank, &mut commands);
                }
            }
            Event::RankRoom { rank, enough } => {
                if let Some(state) = self.ranks.get_mut(&rank) {
                    state.full = !enough;
                    // A rank without room has looked at no toolchain.
                    state.toolchains.retain(|_, fitness| *fitness == Fitness::Fit);
                }
            }
            Event::ToolchainChecked { rank, toolchain, verdict } => {
                if let Some(state) = self.ranks.get_mut(&rank) {
                    let fitness = verdict.map_or_else(Fitness::Unfit, |()| Fitness::Fit);
                    state.toolchains.insert(toolchain, fitness);
                }
            }
            Event::ToolchainLacking { rank, toolchain } => {
                if let Some(state) = self.ranks.get_mut(&rank) {
                    state.toolchains.insert(toolchain, Fitness::Asked);
                }
            }
            Event::Submitted { action, toolchain } => {
                let state = ActionState { toolchain, place: Place::Waiting, attempts: 0, avoided: Vec::new() };
                self.actions.insert(action, state);
                self.waiting.push_back(action);
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

    /// Forgets an action; the rank that was running it, if any.
    fn remove(&mut self, action: ActionId) -> Option<Rank> {
        let state = self.actions.remove(&action)?;
        match state.place {
            Place::Running(rank) => {
                self.release(rank);
                Some(rank)
            }
            Place::Waiting => {
                self.waiting.retain(|waiting| *waiting != action);
                None
            }
        }
    }

    fn release(&mut self, rank: Rank) {
        if let Some(state) = self.ranks.get_mut(&rank) {
            assert!(state.running > 0, "rank {rank} gave back a slot it did not hold");
            state.running -= 1;
        }
    }

    fn refuse(&mut self, action: ActionId, reason: String, retry: bool, commands: &mut Vec<Command>) {
        let Some(state) = self.actions.get_mut(&action) else { return };
        let Place::Running(rank) = state.place else { return };
        state.attempts += 1;
        state.avoided.push(rank);
        let another = self.ranks.keys().any(|other| !state.avoided.contains(other));
        if retry && state.attempts < ATTEMPTS_MAX && another {
            state.place = Place::Waiting;
            self.release(rank);
            self.waiting.push_front(action);
            commands.push(Command::Retried { action });
        } else {
            self.remove(action);
            commands.push(Command::RunLocally { action, reason });
        }
    }

    fn requeue_all_of(&mut self, rank: Rank, commands: &mut Vec<Command>) {
        let lost: Vec<ActionId> = self
            .actions
            .iter()
            .filter(|(_, state)| state.place == Place::Running(rank))
            .map(|(action, _)| *action)
            .collect();
        for action in lost {
            self.refuse(action, "rank-lost".to_owned(), true, commands);
        }
    }

    fn schedule(&mut self, commands: &mut Vec<Command>) {
        let mut still_waiting = VecDeque::with_capacity(self.waiting.len());
        // Toolchains for which no rank has a free slot just now; their actions need not be looked at.
        let mut exhausted: Vec<ToolchainId> = Vec::new();
        while let Some(action) = self.waiting.pop_front() {
            let Some(state) = self.actions.get(&action) else { continue };
            let (toolchain, avoided) = (state.toolchain, state.avoided.clone());
            if exhausted.contains(&toolchain) && avoided.is_empty() {
                still_waiting.push_back(action);
                continue;
            }
            match self.choose(toolchain, &avoided, commands) {
                Choice::Rank(rank) => {
                    self.assign(action, rank);
                    commands.push(Command::Assign { action, rank });
                }
                Choice::Wait => {
                    if avoided.is_empty() {
                        exhausted.push(toolchain);
                    }
                    still_waiting.push_back(action);
                }
                Choice::Never(reason) => {
                    self.actions.remove(&action);
                    commands.push(Command::RunLocally { action, reason });
                }
            }
        }
        self.waiting = still_waiting;
    }

    fn assign(&mut self, action: ActionId, rank: Rank) {
        let state = self.actions.get_mut(&action).expect("a waiting action is known");
        assert_eq!(state.place, Place::Waiting, "action {action} is assigned once");
        state.place = Place::Running(rank);
        self.ranks.get_mut(&rank).expect("a chosen rank is known").running += 1;
    }

    fn choose(&mut self, toolchain: ToolchainId, avoided: &[Rank], commands: &mut Vec<Command>) -> Choice {
        let mut best: Option<(u32, Rank)> = None;
        let mut hope = false;
        let mut why_unfit = None;
        let mut full = false;
        for (rank, state) in &mut self.ranks {
            if avoided.contains(rank) {
                continue;
            }
            if state.full {
                full = true;
                continue;
            }
            match state.toolchains.get(&toolchain) {
                None => {
                    state.toolchains.insert(toolchain, Fitness::Asked);
                    commands.push(Command::CheckToolchain { rank: *rank, toolchain });
                    hope = true;
                }
                Some(Fitness::Asked) => hope = true,
                Some(Fitness::Unfit(why)) => why_unfit = Some(why.clone()),
                Some(Fitness::Fit) => {
                    hope = true;
                    let free = state.slots - state.running.min(state.slots);
                    if free > 0 && best.is_none_or(|(most, _)| free > most) {
                        best = Some((free, *rank));
                    }
                }
            }
        }
        match (best, hope, why_unfit) {
            (Some((_, rank)), ..) => Choice::Rank(rank),
            (None, true, _) => Choice::Wait,
            (None, false, Some(why)) => Choice::Never(why),
            (None, false, None) if full => Choice::Never("store-full".to_owned()),
            (None, false, None) => Choice::Never("no-ranks".to_owned()),
        }
    }
}

enum Choice {
    Rank(Rank),
    Wait,
    Never(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(rank: Rank) -> Event {
        Event::ToolchainChecked { rank, toolchain: 7, verdict: Ok(()) }
    }

    fn submit(action: ActionId) -> Event {
        Event::Submitted { action, toolchain: 7 }
    }

    fn queue(ranks: &[(Rank, u32)]) -> Queue {
        let mut queue = Queue::default();
        for (rank, slots) in ranks {
            assert_eq!(queue.step(Event::RankJoined { rank: *rank, slots: *slots }), []);
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
        queue.step(Event::RankJoined { rank: 1, slots: 1 });
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
                    0 => Event::RankJoined { rank: 1 + random(5) as Rank, slots: 1 + random(3) as u32 },
                    1 if random(4) == 0 => Event::RankLost { rank: 1 + random(5) as Rank },
                    2 | 3 => {
                        next += 1;
                        open.push(next);
                        submit(next)
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
                    let count = running.values().filter(|on| *on == rank).count() as u32;
                    assert_eq!(count, state.running, "seed {seed}: rank {rank}");
                    assert!(state.running <= state.slots, "seed {seed}");
                }
                assert_eq!(queue.len(), open.len(), "seed {seed}");
            }
        }
    }
}
