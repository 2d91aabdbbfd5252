//! Contents that other worker ranks bring to this one, and those it brings to others. Rank 0 says who has what
//! ([`ToRank::Fetch`](crate::wire::ToRank::Fetch)) and sends a content itself to whoever comes back to it, so that
//! nothing here can fail: a peer that lacks a content, is slow, or is gone, costs time only.
//!
//! Keeps what is on its way and who waits for it; knows no messages. Times come from the caller.

use crate::wire::{Digest, RecordId};
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// A peer that is silent for so long brings nothing more.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// A content that a peer wants and that is not here may be on its way from rank 0; it is waited for this long.
const OWED_MAX: Duration = Duration::from_millis(500);

/// A record that needs a content, for asking rank 0: its id and epoch.
pub type Needing = (RecordId, u32);

struct Fetch {
    from: i32,
    /// A compile waits for it.
    needing: Option<Needing>,
}

struct Debt {
    to: i32,
    digest: Digest,
    until: Instant,
}

/// A content for a peer, from a position on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sending {
    pub to: i32,
    pub digest: Digest,
    pub at: u64,
}

/// What is on its way between this rank and its peers.
#[derive(Default)]
pub struct Peers {
    fetches: HashMap<Digest, Fetch>,
    /// When those that something is fetched from were last heard, or asked.
    heard: HashMap<i32, Instant>,
    /// What was asked for and is not here yet.
    debts: Vec<Debt>,
    to_send: VecDeque<Sending>,
}

impl Peers {
    /// Is something to be waited for or to be done?
    pub fn is_busy(&self) -> bool {
        !self.fetches.is_empty() || !self.debts.is_empty() || !self.to_send.is_empty()
    }

    /// Is anything still to come from peers?
    pub fn is_fetching(&self) -> bool {
        !self.fetches.is_empty()
    }

    /// `from` was asked for these contents.
    pub fn fetch(&mut self, from: i32, contents: &[Digest], now: Instant) {
        self.heard.insert(from, now);
        self.fetches.extend(contents.iter().map(|digest| (*digest, Fetch { from, needing: None })));
    }

    /// A compile needs a content. `true`: a peer was asked for it.
    pub fn awaits(&mut self, digest: &Digest, needing: Needing) -> bool {
        let fetch = self.fetches.get_mut(digest);
        fetch.map(|fetch| fetch.needing = Some(needing)).is_some()
    }

    /// A peer gave a sign of life.
    pub fn hear(&mut self, peer: i32, now: Instant) {
        if let Some(heard) = self.heard.get_mut(&peer) {
            *heard = now;
        }
    }

    /// `to` wants this content; it is sent when it is here.
    pub fn owe(&mut self, to: i32, digest: Digest, is_here: bool, now: Instant) {
        if is_here {
            self.to_send.push_back(Sending { to, digest, at: 0 });
        } else {
            self.debts.push(Debt { to, digest, until: now + OWED_MAX });
        }
    }

    /// A content is here.
    pub fn arrived(&mut self, digest: &Digest) {
        self.fetches.remove(digest);
        let Peers { debts, to_send, .. } = self;
        debts.retain(|debt| {
            let is_due = debt.digest == *digest;
            if is_due {
                to_send.push_back(Sending { to: debt.to, digest: *digest, at: 0 });
            }
            !is_due
        });
    }

    /// A peer will not bring this content: rank 0 must, if the answer says that a compile needs it.
    pub fn gone(&mut self, digest: &Digest) -> Option<Needing> {
        self.fetches.remove(digest)?.needing
    }

    /// What peers did not bring in time; as [`Peers::gone`].
    pub fn overdue(&mut self, now: Instant) -> Vec<(Digest, Needing)> {
        let Peers { fetches, heard, .. } = self;
        let is_silent =
            |from: &i32| heard.get(from).is_none_or(|heard| now.saturating_duration_since(*heard) > SILENCE_MAX);
        let late = fetches.extract_if(|_, fetch| is_silent(&fetch.from));
        let late = late.filter_map(|(digest, fetch)| Some((digest, fetch.needing?))).collect();
        if fetches.is_empty() {
            heard.clear();
        }
        late
    }

    /// Whom to tell that what they want is not to be had here. What this rank fetches itself is waited for, and anything
    /// while rank 0 `is_shipping` a toolchain here, which takes longer.
    pub fn hopeless(&mut self, now: Instant, is_shipping: bool) -> Vec<(i32, Digest)> {
        if is_shipping {
            return Vec::new();
        }
        let Peers { fetches, debts, .. } = self;
        let hopeless = debts.extract_if(.., |debt| now >= debt.until && !fetches.contains_key(&debt.digest));
        hopeless.map(|debt| (debt.to, debt.digest)).collect()
    }

    /// The next content to send, to a peer that has room for it.
    pub fn next_to_send(&mut self, has_room: impl Fn(i32) -> bool) -> Option<Sending> {
        let index = self.to_send.iter().position(|sending| has_room(sending.to))?;
        self.to_send.remove(index)
    }

    /// The rest of a content, which goes before everything else to that peer.
    pub fn go_on(&mut self, rest: Sending) {
        self.to_send.push_front(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u8) -> Digest {
        Digest::of(&[number])
    }

    #[test]
    fn what_arrives_is_passed_on() {
        let (mut peers, now) = (Peers::default(), Instant::now());
        peers.owe(3, digest(1), true, now);
        peers.owe(4, digest(2), false, now);
        peers.owe(5, digest(2), false, now);
        let sending = |to, number, at| Some(Sending { to, digest: digest(number), at });
        assert_eq!(peers.next_to_send(|to| to != 3), None);
        assert_eq!(peers.next_to_send(|_| true), sending(3, 1, 0));
        assert_eq!(peers.next_to_send(|_| true), None);
        peers.arrived(&digest(2));
        peers.go_on(sending(3, 1, 7).unwrap());
        assert_eq!(peers.next_to_send(|to| to == 5), sending(5, 2, 0));
        assert_eq!(peers.next_to_send(|_| true), sending(3, 1, 7));
        assert_eq!(peers.next_to_send(|_| true), sending(4, 2, 0));
        assert!(!peers.is_busy());
    }

    #[test]
    fn rank_0_is_asked_only_for_what_a_compile_needs() {
        let (mut peers, now) = (Peers::default(), Instant::now());
        peers.fetch(3, &[digest(1), digest(2), digest(3), digest(4)], now);
        assert!(!peers.awaits(&digest(9), (9, 1)));
        assert!(peers.awaits(&digest(1), (1, 1)) && peers.awaits(&digest(3), (3, 1)));
        assert_eq!((peers.gone(&digest(1)), peers.gone(&digest(2))), (Some((1, 1)), None));
        assert!(!peers.awaits(&digest(1), (1, 1)), "no longer on its way");
        assert_eq!(peers.overdue(now + SILENCE_MAX), []);
        let heard = now + SILENCE_MAX;
        peers.hear(3, heard);
        assert_eq!(peers.overdue(heard + SILENCE_MAX), []);
        assert_eq!(peers.overdue(heard + SILENCE_MAX + Duration::from_millis(1)), [(digest(3), (3, 1))]);
        assert!(!peers.is_busy());
    }

    #[test]
    fn who_waits_in_vain_is_told() {
        let (mut peers, now) = (Peers::default(), Instant::now());
        peers.fetch(2, &[digest(2)], now);
        peers.owe(3, digest(1), false, now);
        peers.owe(3, digest(2), false, now);
        assert_eq!(peers.hopeless(now, false), []);
        assert_eq!(peers.hopeless(now + OWED_MAX, true), [], "perhaps a part of what is being shipped");
        assert_eq!(peers.hopeless(now + OWED_MAX, false), [(3, digest(1))], "the other one is on its way");
        assert!(peers.is_fetching());
        peers.gone(&digest(2));
        assert_eq!(peers.hopeless(now + OWED_MAX, false), [(3, digest(2))]);
        assert!(!peers.is_busy());
    }
}
