//! Which environments each rank has. Those of one build are few, long and mostly equal, so an assignment names a slot
//! of the rank's memory, and carries the entries only when they are not there yet.

use crate::dispatcher::queue::Rank;
use crate::wire::{Bytes, ENVIRONMENTS_KEPT, SlottedEnvironment};
use std::collections::BTreeMap;

type Hash = [u8; 32];

#[derive(Default)]
struct Slots {
    known: [Option<Hash>; ENVIRONMENTS_KEPT],
    /// Filled or replaced next.
    next: usize,
}

/// The environments of all ranks.
#[derive(Default)]
pub struct Environments {
    ranks: BTreeMap<Rank, Slots>,
}

impl Environments {
    /// How `rank` is told `environment`. It is assumed to be told.
    pub fn tell(&mut self, rank: Rank, environment: &[Bytes]) -> SlottedEnvironment {
        let slots = self.ranks.entry(rank).or_default();
        let hash = hash_of(environment);
        if let Some(slot) = slots.known.iter().position(|known| *known == Some(hash)) {
            return SlottedEnvironment { slot: slot as u8, entries: None };
        }
        let slot = slots.next;
        slots.next = (slot + 1) % ENVIRONMENTS_KEPT;
        slots.known[slot] = Some(hash);
        SlottedEnvironment { slot: slot as u8, entries: Some(environment.to_vec()) }
    }
}

fn hash_of(environment: &[Bytes]) -> Hash {
    // No entry holds a NUL byte, so they end where they do.
    let mut joined = Vec::with_capacity(environment.iter().map(|entry| entry.len() + 1).sum());
    for entry in environment {
        joined.extend_from_slice(entry);
        joined.push(0);
    }
    *blake3::hash(&joined).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_travels_once_to_each_rank_while_it_is_remembered() {
        let mut environments = Environments::default();
        let one = [b"A=1".to_vec(), b"B=2".to_vec()];
        assert_eq!(environments.tell(1, &one), SlottedEnvironment { slot: 0, entries: Some(one.to_vec()) });
        assert_eq!(environments.tell(1, &one), SlottedEnvironment { slot: 0, entries: None });
        assert!(environments.tell(2, &one).entries.is_some(), "each rank has its own memory");
        assert_eq!(environments.tell(1, &[b"A=1B=2".to_vec()]).slot, 1);
        for n in 0..ENVIRONMENTS_KEPT {
            assert!(environments.tell(1, &[format!("N={n}").into_bytes()]).entries.is_some());
        }
        assert!(environments.tell(1, &one).entries.is_some(), "it was replaced meanwhile");
    }
}
