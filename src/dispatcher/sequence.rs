//! Short compiles that come one after the other while nothing else goes on: the probes of a configure script. Ranks have
//! nothing to do at the same time, so they can only add the way there and back; after some in a row, those that follow
//! run here.

use super::clients::Token;
use crate::event::Interest;
use crate::pidfd;
use crate::wire::Bytes;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// What takes no longer than this is not worth the way to a rank, nor waiting for a slot there.
pub const SHORT: Duration = Duration::from_millis(50);

/// So many short compiles in a row, each of which was over before the next one came, and more will come.
const ENOUGH: u32 = 4;

#[derive(Default)]
pub struct Sequence {
    len: u32,
    here: Option<Here>,
}

/// One that runs here.
struct Here {
    process: OwnedFd,
    source: Bytes,
    since: Instant,
}

impl Sequence {
    /// A compile comes. `alone`: no rank works on another one, or is to. Does it continue a sequence?
    pub fn continues(&mut self, alone: bool) -> bool {
        if !alone || self.here.is_some() {
            self.len = 0;
        }
        self.len >= ENOUGH
    }

    /// A compile is over.
    pub fn note(&mut self, wall: Duration) {
        self.len = if wall <= SHORT { self.len.saturating_add(1) } else { 0 };
    }

    /// A compile of `source` that continues the sequence runs here, as this process. `false`: it cannot be seen.
    pub fn keep(&mut self, pid: Option<u32>, source: Bytes) -> bool {
        let process = pid.and_then(|pid| pidfd::open(pid).ok());
        self.here = process.map(|process| Here { process, source, since: Instant::now() });
        self.here.is_some()
    }

    pub fn interest(&self, interest: &mut Interest<Token>) {
        if let Some(here) = &self.here {
            interest.add(here.process.as_raw_fd(), false, Token::Sequence);
        }
    }

    /// The one that runs here has ended: its source, and what it took.
    pub fn ended(&mut self) -> Option<(Bytes, Duration)> {
        let Here { source, since, .. } = self.here.take()?;
        let wall = since.elapsed();
        self.note(wall);
        Some((source, wall))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn long_enough() -> Sequence {
        let mut sequence = Sequence::default();
        for _ in 0..ENOUGH {
            assert!(!sequence.continues(true));
            sequence.note(SHORT);
        }
        assert!(sequence.continues(true));
        sequence
    }

    #[test]
    fn it_ends_with_a_long_compile_or_two_at_a_time() {
        let mut sequence = long_enough();
        sequence.note(SHORT * 2);
        assert!(!sequence.continues(true));
        assert!(!long_enough().continues(false));
    }

    #[test]
    fn one_at_a_time_runs_here() {
        let mut sequence = long_enough();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(sequence.keep(Some(child.id()), b"conftest.c".to_vec()));
        assert!(!sequence.continues(true), "the last one is not over");
        child.kill().unwrap();
        let mut interest = Interest::default();
        sequence.interest(&mut interest);
        let ready = interest.wait(Duration::from_secs(30)).unwrap();
        assert_eq!(ready.iter().map(|ready| ready.token).collect::<Vec<_>>(), [Token::Sequence]);
        assert_eq!(sequence.ended().map(|(source, _)| source), Some(b"conftest.c".to_vec()));
        assert_eq!(sequence.ended(), None);
        child.wait().unwrap();
    }

    #[test]
    fn who_cannot_be_seen_is_sent_to_a_rank() {
        assert!(!long_enough().keep(None, Vec::new()));
    }
}
