//! Which worker ranks live: who was heard when, and who has been silent for too long. Pure: knows no message and no clock.
//!
//! Whoever is lost stays lost, and its words no longer count: its actions are somebody else's by then.

use super::queue::Rank;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A worker rank this long without a sign of life is lost. Far above what a loaded host delays a heartbeat by.
pub const SILENCE_MAX: Duration = Duration::from_secs(20);

/// The ranks that live, and when each was last heard.
pub struct Liveness {
    heard: BTreeMap<Rank, Instant>,
}

impl Liveness {
    pub fn new(ranks: impl IntoIterator<Item = Rank>, now: Instant) -> Liveness {
        Liveness { heard: ranks.into_iter().map(|rank| (rank, now)).collect() }
    }

    /// A sign of life; `false`: of a rank that is lost.
    pub fn heard(&mut self, rank: Rank, now: Instant) -> bool {
        self.heard.get_mut(&rank).is_some_and(|heard| {
            *heard = now;
            true
        })
    }

    /// Nobody could be heard until now: rank 0 stood still, and what they said meanwhile is still to be read.
    pub fn pardon(&mut self, now: Instant) {
        self.heard.values_mut().for_each(|heard| *heard = now);
    }

    /// Those who have been silent for too long.
    pub fn silent(&self, now: Instant) -> Vec<Rank> {
        let is_silent = |heard: Instant| now.saturating_duration_since(heard) > SILENCE_MAX;
        self.heard.iter().filter(|(_, heard)| is_silent(**heard)).map(|(rank, _)| *rank).collect()
    }

    pub fn lose(&mut self, rank: Rank) {
        self.heard.remove(&rank);
    }

    pub fn is_alive(&self, rank: Rank) -> bool {
        self.heard.contains_key(&rank)
    }

    pub fn alive(&self) -> impl Iterator<Item = Rank> {
        self.heard.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_rank_is_heard_no_more() {
        let start = Instant::now();
        let mut liveness = Liveness::new([1, 2], start);
        let late = start + SILENCE_MAX + Duration::from_millis(1);
        assert!(liveness.heard(2, start + SILENCE_MAX));
        assert_eq!(liveness.silent(start + SILENCE_MAX), [0; 0]);
        assert_eq!(liveness.silent(late), [1]);
        liveness.lose(1);
        assert!(!liveness.heard(1, late) && !liveness.is_alive(1));
        assert_eq!(liveness.silent(late), [0; 0]);
        assert!(!liveness.heard(3, late), "nobody joins late");
        assert_eq!(liveness.alive().collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn who_could_not_be_heard_was_not_silent() {
        let start = Instant::now();
        let mut liveness = Liveness::new([1, 2], start);
        liveness.lose(1);
        let late = start + 2 * SILENCE_MAX;
        liveness.pardon(late);
        assert_eq!(liveness.silent(late), [0; 0]);
        assert_eq!(liveness.silent(late + 2 * SILENCE_MAX), [2], "who is lost stays lost");
    }
}
