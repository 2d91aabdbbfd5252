//! What the queue was told and what it answered, kept a second time and naively; what it may and must answer follows from
//! that.

use super::machine::Ms;
use crate::dispatcher::demand::Demand;
use crate::dispatcher::queue::{Command, Event, Rank};
use crate::wire::{ActionId, ToolchainId};
use std::collections::{BTreeMap, BTreeSet};

/// Ranks an action is given to.
const ATTEMPTS: u32 = 2;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fitness {
    Asked,
    Fit,
    Unfit,
}

struct RankBook {
    host: u32,
    slots: u32,
    memory_bytes: u64,
    /// With the memory it was given, in bytes.
    running: BTreeMap<ActionId, u64>,
    full: bool,
    toolchains: BTreeMap<ToolchainId, Fitness>,
}

impl RankBook {
    fn free(&self) -> u32 {
        self.slots - self.running.len() as u32
    }

    /// Is it, or may it become, of use?
    fn is_hope(&self, toolchain: ToolchainId) -> bool {
        !self.full && self.toolchains.get(&toolchain) != Some(&Fitness::Unfit)
    }

    fn can_take(&self, toolchain: ToolchainId) -> bool {
        !self.full && self.toolchains.get(&toolchain) == Some(&Fitness::Fit) && self.free() > 0
    }
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Need {
    toolchain: ToolchainId,
    demand: Demand,
    avoided: Vec<Rank>,
}

/// What the ranks of a host have together.
#[derive(Clone, Copy, Default)]
struct HostBook {
    slots: u32,
    running: usize,
    memory_bytes: u64,
    given_bytes: u64,
}

impl HostBook {
    fn left(&self) -> u64 {
        self.memory_bytes.saturating_sub(self.given_bytes)
    }

    fn bytes(&self, demand: Demand) -> u64 {
        demand.bytes(self.memory_bytes, self.slots)
    }

    fn fits(&self, demand: Demand) -> bool {
        self.running == 0 || self.given_bytes + self.bytes(demand) <= self.memory_bytes
    }
}

struct ActionBook {
    need: Need,
    /// The order of all that wait.
    position: i64,
    on: Option<Rank>,
    attempts: u32,
    /// Its last rank said that no other one will do.
    hopeless: bool,
}

#[derive(Default)]
pub struct Books {
    ranks: BTreeMap<Rank, RankBook>,
    lost: BTreeSet<Rank>,
    actions: BTreeMap<ActionId, ActionBook>,
    /// Those that no rank works on.
    waiting: BTreeMap<Need, BTreeMap<i64, ActionId>>,
    over: BTreeSet<ActionId>,
    first: i64,
    last: i64,
    /// When an action or a rank last came to its end, or the queue was empty.
    pub moved: Ms,
}

impl Books {
    pub fn note_event(&mut self, event: &Event, now: Ms) {
        match event {
            Event::RankJoined { rank, host, slots, memory_bytes } => {
                assert!(!self.lost.contains(rank), "rank {rank} came back");
                let book = RankBook {
                    host: *host,
                    slots: *slots,
                    memory_bytes: *memory_bytes,
                    running: BTreeMap::new(),
                    full: false,
                    toolchains: BTreeMap::new(),
                };
                self.ranks.insert(*rank, book);
            }
            Event::RankLost { rank } => {
                self.moved = now;
                self.lost.insert(*rank);
                let running = self.ranks.remove(rank).map(|book| book.running).unwrap_or_default();
                for action in running.into_keys() {
                    self.fail(action, *rank, true);
                }
            }
            Event::RankRoom { rank, enough } => {
                if let Some(book) = self.ranks.get_mut(rank) {
                    book.full = !enough;
                    book.toolchains.retain(|_, fitness| *fitness == Fitness::Fit);
                }
            }
            Event::ToolchainChecked { rank, toolchain, verdict } => {
                let fitness = if verdict.is_ok() { Fitness::Fit } else { Fitness::Unfit };
                self.judge(*rank, *toolchain, fitness);
            }
            Event::ToolchainLacking { rank, toolchain } => self.judge(*rank, *toolchain, Fitness::Asked),
            Event::Submitted { action, toolchain, demand } => {
                if self.actions.is_empty() {
                    self.moved = now;
                }
                self.last += 1;
                let need = Need { toolchain: *toolchain, demand: *demand, avoided: Vec::new() };
                let book = ActionBook { need, position: self.last, on: None, attempts: 0, hopeless: false };
                assert!(
                    !self.actions.contains_key(action) && !self.over.contains(action),
                    "action {action} comes twice"
                );
                self.actions.insert(*action, book);
                self.wait(*action);
            }
            Event::Finished { action } => {
                assert!(self.rank_of(*action).is_some(), "action {action} is finished and ran nowhere");
                self.end(*action, now);
            }
            Event::Abandoned { action } => self.end(*action, now),
            Event::Refused { action, retry, .. } => {
                let rank = self.rank_of(*action).expect("who refuses has it");
                self.fail(*action, rank, *retry);
            }
        }
    }

    pub fn note_command(&mut self, command: &Command, now: Ms, thorough: bool) {
        match command {
            Command::CheckToolchain { rank, toolchain } => {
                let book = self.rank(*rank);
                assert!(!book.full, "rank {rank}, which has no room, is asked");
                assert!(book.toolchains.insert(*toolchain, Fitness::Asked).is_none(), "rank {rank} is asked again");
            }
            Command::Assign { action, rank } => self.assign(*action, *rank, thorough),
            Command::Cancel { action, rank } => {
                assert!(self.over.contains(action), "action {action} is cancelled and not over");
                self.rank(*rank);
            }
            Command::Retried { action } => {
                let book = self.actions.get(action).expect("an action of old is retried");
                assert!(book.attempts < ATTEMPTS && !book.hopeless, "action {action} is retried too often");
            }
            Command::RunLocally { action, .. } => {
                let book = self.actions.get(action).unwrap_or_else(|| panic!("action {action} ends twice"));
                let avoided = &book.need.avoided;
                let hope =
                    |(rank, book): (&Rank, &RankBook)| !avoided.contains(rank) && book.is_hope(self.toolchain(*action));
                let given_up = book.hopeless || book.attempts >= ATTEMPTS;
                assert!(given_up || !self.ranks.iter().any(hope), "action {action} could have run on a rank");
                self.end(*action, now);
            }
        }
    }

    fn toolchain(&self, action: ActionId) -> ToolchainId {
        self.actions[&action].need.toolchain
    }

    fn rank(&mut self, rank: Rank) -> &mut RankBook {
        assert!(!self.lost.contains(&rank), "rank {rank} is lost, and told something");
        self.ranks.get_mut(&rank).expect("a rank of the job")
    }

    fn assign(&mut self, action: ActionId, rank: Rank, thorough: bool) {
        let book = self.actions.get(&action).unwrap_or_else(|| panic!("action {action} is over, and assigned"));
        assert_eq!(book.on, None, "action {action} runs twice");
        let (need, position) = (book.need.clone(), book.position);
        assert!(!need.avoided.contains(&rank), "action {action} goes to rank {rank} again");
        assert!(self.rank(rank).can_take(need.toolchain), "rank {rank} gets action {action}");
        let hosts = self.hosts();
        let host = self.ranks[&rank].host;
        assert!(hosts[&host].fits(need.demand), "host {host} has no memory for action {action}");
        for (other, line) in &self.waiting {
            let could = self.ranks[&rank].can_take(other.toolchain)
                && !other.avoided.contains(&rank)
                && hosts[&host].fits(other.demand);
            let first = line.keys().next().expect("no line is empty");
            assert!(!could || *first >= position, "action {action} overtakes {}", line[first]);
        }
        if thorough {
            let kept = self.kept_before(position, &hosts);
            let best = |(other, book): &(&Rank, &RankBook)| {
                book.can_take(need.toolchain)
                    && !need.avoided.contains(other)
                    && hosts[&book.host].fits(need.demand)
                    && kept != Some(book.host)
            };
            let best = self.ranks.iter().filter(best).max_by_key(|(other, book)| (book.free(), -**other));
            assert_eq!(best.map(|(best, _)| *best), Some(rank), "action {action} goes to another than the best rank");
        }
        self.step_out(action);
        self.actions.get_mut(&action).expect("it is known").on = Some(rank);
        self.rank(rank).running.insert(action, hosts[&host].bytes(need.demand));
    }

    fn hosts(&self) -> BTreeMap<u32, HostBook> {
        let mut hosts: BTreeMap<u32, HostBook> = BTreeMap::new();
        for rank in self.ranks.values() {
            let host = hosts.entry(rank.host).or_default();
            host.slots += rank.slots;
            host.running += rank.running.len();
            host.memory_bytes = rank.memory_bytes;
            host.given_bytes += rank.running.values().sum::<u64>();
        }
        hosts
    }

    /// The host that is kept for the first who waits before that position and lacks memory only.
    fn kept_before(&self, position: i64, hosts: &BTreeMap<u32, HostBook>) -> Option<u32> {
        let mut firsts: Vec<(i64, &Need)> =
            self.waiting.iter().map(|(need, line)| (*line.keys().next().expect("no line is empty"), need)).collect();
        firsts.sort();
        firsts.into_iter().take_while(|(first, _)| *first < position).find_map(|(_, need)| {
            let of_it =
                |(rank, book): &(&Rank, &RankBook)| book.can_take(need.toolchain) && !need.avoided.contains(rank);
            let open: BTreeSet<u32> = self.ranks.iter().filter(of_it).map(|(_, book)| book.host).collect();
            let most = open.iter().rev().max_by_key(|host| hosts[host].left()).copied();
            most.filter(|_| open.iter().all(|host| !hosts[host].fits(need.demand)))
        })
    }

    fn judge(&mut self, rank: Rank, toolchain: ToolchainId, fitness: Fitness) {
        if let Some(book) = self.ranks.get_mut(&rank) {
            book.toolchains.insert(toolchain, fitness);
        }
    }

    fn fail(&mut self, action: ActionId, rank: Rank, retry: bool) {
        if let Some(book) = self.ranks.get_mut(&rank) {
            book.running.remove(&action);
        }
        // Another host, if there is one.
        let host = self.ranks.get(&rank).map(|book| book.host);
        let any_elsewhere = self.ranks.values().any(|book| Some(book.host) != host);
        let failed = |(other, book): &(&Rank, &RankBook)| **other == rank || any_elsewhere && Some(book.host) == host;
        let avoided: Vec<Rank> = self.ranks.iter().filter(failed).map(|(other, _)| *other).collect();
        let book = self.actions.get_mut(&action).expect("what a rank has is known");
        book.on = None;
        book.attempts += 1;
        book.need.avoided.extend(avoided);
        self.first -= 1;
        book.position = self.first;
        book.hopeless = !retry;
        self.wait(action);
    }

    fn wait(&mut self, action: ActionId) {
        let book = &self.actions[&action];
        self.waiting.entry(book.need.clone()).or_default().insert(book.position, action);
    }

    fn step_out(&mut self, action: ActionId) {
        let book = &self.actions[&action];
        if let Some(line) = self.waiting.get_mut(&book.need) {
            line.remove(&book.position);
            if line.is_empty() {
                self.waiting.remove(&book.need);
            }
        }
    }

    fn end(&mut self, action: ActionId, now: Ms) {
        if !self.actions.contains_key(&action) {
            return;
        }
        assert!(self.over.insert(action), "action {action} ends twice");
        self.moved = now;
        self.step_out(action);
        let book = self.actions.remove(&action).expect("it is known");
        if let Some(rank) = book.on {
            self.rank(rank).running.remove(&action);
        }
    }

    pub fn is_lost(&self, rank: Rank) -> bool {
        self.lost.contains(&rank)
    }

    pub fn rank_of(&self, action: ActionId) -> Option<Rank> {
        self.actions.get(&action)?.on
    }

    pub fn len(&self) -> usize {
        self.actions.len()
    }

    pub fn waiting(&self) -> usize {
        self.waiting.values().map(BTreeMap::len).sum()
    }

    /// No slot is idle that somebody waits for.
    pub fn check_no_idle_slot(&self) {
        let hosts = self.hosts();
        for (need, line) in &self.waiting {
            let kept = self.kept_before(*line.keys().next().expect("no line is empty"), &hosts);
            for (rank, book) in &self.ranks {
                let idle = book.can_take(need.toolchain)
                    && !need.avoided.contains(rank)
                    && hosts[&book.host].fits(need.demand)
                    && kept != Some(book.host);
                assert!(!idle, "rank {rank} is idle, and {} actions wait for it", line.len());
            }
        }
    }
}
