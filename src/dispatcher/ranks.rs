//! What rank 0 knows of the worker ranks: their hosts and slots, whether they [live](super::liveness), and which records
//! and contents they have. Knows nothing of actions.

use crate::dispatcher::liveness::Liveness;
use crate::dispatcher::queue::{Event, Rank};
use crate::event::{Backoff, CAP_BUSY, Caps, Interest};
use crate::link::Link;
use crate::session;
use crate::wire::{self, Digest, FromRank, RankFacts, RankStats, RecordId, ToRank};
use anyhow::{Result, bail};
use std::collections::{BTreeMap, HashMap};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

struct RankState {
    facts: RankFacts,
    /// Ranks of one host have the same number.
    host: u32,
    slots: u32,
    /// Of which epoch `records` are.
    epoch: u32,
    records: RecordSet,
    actions: u64,
    cpu_us: u64,
}

/// Ids are small numbers given in sequence: a bit each.
#[derive(Default)]
struct RecordSet(Vec<u64>);

impl RecordSet {
    /// `false`: it was there.
    fn insert(&mut self, id: RecordId) -> bool {
        let (word, mask) = (id as usize / 64, 1 << (id % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let is_new = self.0[word] & mask == 0;
        self.0[word] |= mask;
        is_new
    }
}

/// What ends a wait while the ranks assemble.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Woken {
    Signal,
    Doorbell,
}

struct Holder {
    host: u32,
    rank: Rank,
}

/// Where a host gets a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// From rank 0.
    Head,
    /// From a rank of another host that was told of it before.
    Peer(Rank),
}

/// Contents below this many bytes are sent by rank 0: to say where they are would take as much.
const FETCHED_BYTES_MIN: u64 = 1024;

/// Compiles may take so many parts of so many of the memory that a host has left when its ranks start. The rest is for
/// the contents of headers, outputs, and what others start later.
const MEMORY_PARTS: (u64, u64) = (3, 4);

/// Of a host that does not say what it has left: as good as any amount.
const FREE_BYTES_UNKNOWN: u64 = 1 << 60;

/// All worker ranks of the job.
pub struct Ranks {
    ranks: BTreeMap<Rank, RankState>,
    liveness: Liveness,
    /// By content, for each host that has it or will, the rank that gets it there, in the order they were told.
    contents: HashMap<Digest, Vec<Holder>>,
}

impl Ranks {
    /// Waits until every worker rank has reported. `session`: the name of one whose ranks are started again when they die.
    /// `None`: a signal came first.
    ///
    /// # Errors
    /// There are no worker ranks, one is of another version, or MPI fails.
    pub fn assemble(link: &mut Link, signals: &UnixStream, session: Option<&str>) -> Result<Option<Ranks>> {
        if link.size() < 2 {
            bail!(
                "the MPI job has one rank, and rank 0 does not compile; start it with `mpiexec -n N` and N at least 2 \
                 (or the launcher does not fit the MPI library: every rank then believes to be alone)"
            );
        }
        let (session, returns) = match session {
            Some(name) => (name.to_owned(), true),
            None => (session::new_name(), false),
        };
        for rank in 1..link.size() {
            link.send(rank, wire::message(&ToRank::Welcome { session: session.clone(), returns }, &[])?)?;
        }
        let mut ranks = BTreeMap::new();
        let mut backoff = Backoff::default();
        while ranks.len() + 1 < link.size() as usize {
            while let Some((rank, message)) = link.receive()? {
                let (head, _) = wire::take_message(&message)?;
                if let FromRank::Hello(facts) = head {
                    if facts.version != wire::VERSION {
                        bail!(
                            "rank {rank} on {} runs version {} of the messages, not {}",
                            facts.host,
                            facts.version,
                            wire::VERSION
                        );
                    }
                    ranks.insert(rank, facts);
                }
            }
            let mut interest = Interest::default();
            interest.add(signals.as_raw_fd(), false, Woken::Signal);
            let woken = link.wait(interest, Woken::Doorbell, &mut backoff, Caps::new(CAP_BUSY))?;
            if woken.iter().any(|woken| woken.token == Woken::Signal) {
                return Ok(None);
            }
        }
        Ok(Some(Ranks::new(ranks)))
    }

    fn new(facts: BTreeMap<Rank, RankFacts>) -> Ranks {
        let slots = share_slots(&facts);
        let mut hosts: HashMap<String, u32> = HashMap::new();
        let state = |(rank, facts): (Rank, RankFacts)| {
            let next = hosts.len() as u32;
            let state = RankState {
                host: *hosts.entry(facts.host.clone()).or_insert(next),
                slots: slots[&rank],
                facts,
                epoch: 0,
                records: RecordSet::default(),
                actions: 0,
                cpu_us: 0,
            };
            (rank, state)
        };
        let ranks: BTreeMap<_, _> = facts.into_iter().map(state).collect();
        let liveness = Liveness::new(ranks.keys().copied(), Instant::now());
        Ranks { ranks, liveness, contents: HashMap::new() }
    }

    /// What the queue is to know of each.
    pub fn joined(&self) -> Vec<Event> {
        let event = |(rank, state): (&Rank, &RankState)| {
            let of_host = self.ranks.values().filter(|other| other.host == state.host);
            let free_bytes = of_host.filter_map(|rank| rank.facts.free_bytes).min().unwrap_or(FREE_BYTES_UNKNOWN);
            let memory_bytes = free_bytes / MEMORY_PARTS.1 * MEMORY_PARTS.0;
            Event::RankJoined { rank: *rank, host: state.host, slots: state.slots, memory_bytes }
        };
        self.ranks.iter().map(event).collect()
    }

    pub fn alive(&self) -> Vec<Rank> {
        self.liveness.alive().collect()
    }

    /// The name of a rank's host.
    pub fn host(&self, rank: Rank) -> &str {
        self.ranks.get(&rank).map_or("", |state| &state.facts.host)
    }

    /// Notes a sign of life; `false` for a rank that was declared lost, whose words no longer count.
    pub fn heard(&mut self, rank: Rank, now: Instant) -> bool {
        self.liveness.heard(rank, now)
    }

    /// Nobody could be heard until now.
    pub fn pardon(&mut self, now: Instant) {
        self.liveness.pardon(now);
    }

    /// Those who have been silent for too long.
    pub fn silent(&self, now: Instant) -> Vec<Rank> {
        self.liveness.silent(now)
    }

    pub fn lose(&mut self, rank: Rank) {
        self.liveness.lose(rank);
    }

    /// Is this the first time the rank is told this record? The answer assumes that it is told now.
    pub fn needs_record(&mut self, rank: Rank, epoch: u32, id: RecordId) -> bool {
        let Some(state) = self.ranks.get_mut(&rank) else { return false };
        if state.epoch != epoch {
            state.epoch = epoch;
            state.records = RecordSet::default();
        }
        state.records.insert(id)
    }

    /// Where the rank's host gets this content, if it was never told of it; the answer assumes that it is told now.
    ///
    /// The hosts of a content form a binary tree in the order they were told: rank 0 sends it to the first, and each
    /// brings it to two others at most.
    pub fn source_of(&mut self, rank: Rank, digest: Digest) -> Option<Source> {
        let host = self.ranks.get(&rank)?.host;
        let holders = self.contents.entry(digest).or_default();
        if holders.iter().any(|holder| holder.host == host) {
            return None;
        }
        let parent = holders.len().checked_sub(1).map(|last| holders[last / 2].rank);
        holders.push(Holder { host, rank });
        Some(match parent.filter(|rank| self.liveness.is_alive(*rank)) {
            Some(parent) if digest.bytes >= FETCHED_BYTES_MIN => Source::Peer(parent),
            _ => Source::Head,
        })
    }

    /// Earlier ranks of the session left these on the rank's host.
    pub fn note_contents(&mut self, rank: Rank, contents: Vec<Digest>) {
        let Some(RankState { host, .. }) = self.ranks.get(&rank) else { return };
        for digest in contents {
            let holders = self.contents.entry(digest).or_default();
            if !holders.iter().any(|holder| holder.host == *host) {
                holders.push(Holder { host: *host, rank });
            }
        }
    }

    pub fn note_finished(&mut self, rank: Rank, cpu_us: u64) {
        if let Some(state) = self.ranks.get_mut(&rank) {
            state.actions += 1;
            state.cpu_us += cpu_us;
        }
    }

    pub fn stats(&self) -> Vec<RankStats> {
        let stats = |(rank, state): (&Rank, &RankState)| RankStats {
            rank: *rank,
            host: state.facts.host.clone(),
            slots: if self.liveness.is_alive(*rank) { state.slots } else { 0 },
            actions: state.actions,
            cpu_s: state.cpu_us as f64 / 1e6,
        };
        self.ranks.iter().map(stats).collect()
    }
}

/// Slots of each rank: what `--slots` says, else its share of the CPUs it may use. Ranks of one host that may use the
/// same CPU share it; a rank has at least one slot.
fn share_slots(facts: &BTreeMap<Rank, RankFacts>) -> BTreeMap<Rank, u32> {
    let mut users: HashMap<(&str, u32), u32> = HashMap::new();
    for rank in facts.values() {
        for cpu in &rank.cpus {
            *users.entry((&rank.host, *cpu)).or_default() += 1;
        }
    }
    let share = |rank: &RankFacts| -> u32 {
        let share: f64 = rank.cpus.iter().map(|cpu| 1.0 / f64::from(users[&(rank.host.as_str(), *cpu)])).sum();
        // Rounded so that three thirds of a CPU make one.
        ((share + 1e-6).floor() as u32).max(1)
    };
    facts.iter().map(|(rank, facts)| (*rank, facts.slots.unwrap_or_else(|| share(facts)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(host: &str, cpus: &[u32], slots: Option<u32>) -> RankFacts {
        RankFacts {
            version: wire::VERSION,
            host: host.into(),
            pid: 1,
            cpus: cpus.to_vec(),
            host_cpus: 8,
            free_bytes: Some(8 << 30),
            slots,
        }
    }

    fn shared(ranks: &[RankFacts]) -> Vec<u32> {
        let ranks = (1..).zip(ranks.iter().cloned()).collect();
        share_slots(&ranks).into_values().collect()
    }

    #[test]
    fn ranks_of_a_host_share_its_cpus() {
        assert_eq!(shared(&[facts("a", &[0, 1, 2, 3], None)]), [4]);
        assert_eq!(shared(&[facts("a", &[0, 1, 2, 3], None), facts("a", &[0, 1, 2, 3], None)]), [2, 2]);
        assert_eq!(shared(&[facts("a", &[0, 1], None), facts("a", &[2, 3], None), facts("b", &[0], None)]), [2, 2, 1]);
        let three = || facts("a", &[0, 1, 2], None);
        assert_eq!(shared(&[three(), three(), three()]), [1, 1, 1]);
        assert_eq!(shared(&[facts("a", &[0], None), facts("a", &[0], Some(9))]), [1, 9]);
    }

    #[test]
    fn compiles_take_a_part_of_what_a_host_has_left() {
        let with = |host, free_bytes| RankFacts { free_bytes, ..facts(host, &[0], None) };
        let all = [with("a", Some(8000)), with("a", Some(9000)), with("b", None)];
        let ranks = Ranks::new((1..).zip(all).collect());
        let memory = |event| match event {
            Event::RankJoined { host, memory_bytes, .. } => (host, memory_bytes),
            other => panic!("{other:?}"),
        };
        let memories: Vec<_> = ranks.joined().into_iter().map(memory).collect();
        assert_eq!(memories, [(0, 6000), (0, 6000), (1, 3 << 58)]);
    }

    #[test]
    fn what_was_sent_is_not_sent_again() {
        let ranks = [(1, facts("a", &[0], None)), (2, facts("a", &[0], None)), (3, facts("b", &[0], None))];
        let mut ranks = Ranks::new(ranks.into_iter().collect());
        assert!(ranks.needs_record(1, 1, 7) && !ranks.needs_record(1, 1, 7));
        assert!(ranks.needs_record(1, 1, 8) && ranks.needs_record(1, 1, 64_000) && !ranks.needs_record(1, 1, 7));
        assert!(ranks.needs_record(2, 1, 7), "each rank has its own table");
        assert!(ranks.needs_record(1, 2, 7), "a new epoch starts from nothing");
        let digest = Digest::of(b"x");
        assert_eq!(ranks.source_of(1, digest), Some(Source::Head));
        assert_eq!(ranks.source_of(2, digest), None, "one host, one store");
        assert_eq!(ranks.source_of(3, digest), Some(Source::Head), "too small to be fetched");
    }

    #[test]
    fn hosts_bring_each_other_what_is_large() {
        let hosts = ["a", "b", "c", "d", "e", "f", "g"].map(|host| facts(host, &[0], None));
        let mut ranks = Ranks::new((1..).zip(hosts).collect());
        let digest = Digest::of(&[7; FETCHED_BYTES_MIN as usize]);
        let sources: Vec<_> = (1..=7).map(|rank| ranks.source_of(rank, digest)).collect();
        let expected = [0, 1, 1, 2, 2, 3, 3].map(|rank| match rank {
            0 => Source::Head,
            rank => Source::Peer(rank),
        });
        assert_eq!(sources, expected.map(Some));
        assert_eq!(ranks.source_of(4, digest), None);
        let other = Digest::of(&[8; FETCHED_BYTES_MIN as usize]);
        assert_eq!(ranks.source_of(5, other), Some(Source::Head));
        ranks.lose(5);
        assert_eq!(ranks.source_of(6, other), Some(Source::Head), "a lost rank brings nothing");
    }

    #[test]
    fn what_earlier_ranks_left_is_not_sent_again() {
        let hosts = ["a", "b"].map(|host| facts(host, &[0], None));
        let mut ranks = Ranks::new((1..).zip(hosts).collect());
        let digest = Digest::of(&[7; FETCHED_BYTES_MIN as usize]);
        ranks.note_contents(1, vec![digest]);
        assert_eq!(ranks.source_of(1, digest), None);
        assert_eq!(ranks.source_of(2, digest), Some(Source::Peer(1)));
    }

    #[test]
    fn a_lost_rank_has_no_slots() {
        let mut ranks = Ranks::new([(1, facts("a", &[0], None))].into_iter().collect());
        ranks.lose(1);
        assert_eq!((ranks.alive(), ranks.stats()[0].slots), (vec![], 0));
    }
}
