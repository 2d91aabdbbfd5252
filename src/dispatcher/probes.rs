//! Short compiles of sources that are all named alike: the probes of a configure script.
//!
//! When nothing else goes on, a rank can only add the way there and back to such a compile, and it is run here. One at a
//! time: a second one that comes meanwhile goes to a rank.

use super::clients::Token;
use crate::event::Interest;
use crate::pidfd;
use crate::wire::Bytes;
use mpicc_proxy_abi::driver::base_name;
use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// What takes no longer than this is not worth the way to a rank, nor waiting for a slot there.
pub const SHORT: Duration = Duration::from_millis(50);

/// So many short compiles of one file name are a script's. A build compiles a source twice at most.
const ENOUGH: u32 = 4;

/// Most names that are kept.
const NAMES_MAX: usize = 65_536;

#[derive(Default)]
pub struct Probes {
    /// How many short compiles there were of each file name since the last long one.
    short: HashMap<Bytes, u32>,
    here: Option<Here>,
}

/// The one that runs here.
struct Here {
    process: OwnedFd,
    source: Bytes,
    since: Instant,
}

impl Probes {
    /// Was the last compile of a source named so short?
    pub fn was_short(&self, source: &[u8]) -> bool {
        self.count(source) > 0
    }

    /// Is a compile of `source` another one of many, with none of them running here?
    pub fn is_probe(&self, source: &[u8]) -> bool {
        self.here.is_none() && self.count(source) >= ENOUGH
    }

    fn count(&self, source: &[u8]) -> u32 {
        self.short.get(base_name(source)).copied().unwrap_or(0)
    }

    /// A compile of `source` took so long.
    pub fn note(&mut self, source: &[u8], wall: Duration) {
        let name = base_name(source);
        if wall > SHORT {
            self.short.remove(name);
        } else if let Some(count) = self.short.get_mut(name) {
            *count = count.saturating_add(1);
        } else if self.short.len() < NAMES_MAX {
            self.short.insert(name.to_vec(), 1);
        }
    }

    /// A compile of `source` is to run here, as this process. `false`: its end cannot be seen.
    pub fn keep(&mut self, pid: Option<u32>, source: Bytes) -> bool {
        let process = pid.and_then(|pid| pidfd::open(pid).ok());
        self.here = process.map(|process| Here { process, source, since: Instant::now() });
        self.here.is_some()
    }

    pub fn interest(&self, interest: &mut Interest<Token>) {
        if let Some(here) = &self.here {
            interest.add(here.process.as_raw_fd(), false, Token::Probe);
        }
    }

    /// The one that runs here has ended.
    pub fn ended(&mut self) {
        if let Some(Here { source, since, .. }) = self.here.take() {
            self.note(&source, since.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn known() -> Probes {
        let mut probes = Probes::default();
        for number in 0..ENOUGH {
            assert!(!probes.is_probe(b"/b/conftest.c"));
            probes.note(format!("/{number}/conftest.c").as_bytes(), SHORT);
        }
        assert!(probes.is_probe(b"/b/conftest.c"));
        probes
    }

    #[test]
    fn many_short_ones_of_one_name() {
        let mut probes = known();
        assert!(!probes.was_short(b"/b/main.c"));
        probes.note(b"/b/main.c", SHORT);
        assert!(probes.was_short(b"main.c") && !probes.is_probe(b"main.c"));
        probes.note(b"conftest.c", SHORT * 2);
        assert!(!probes.was_short(b"conftest.c"), "they are short no more");
    }

    #[test]
    fn one_at_a_time_runs_here() {
        let mut probes = known();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(probes.keep(Some(child.id()), b"conftest.c".to_vec()));
        assert!(!probes.is_probe(b"conftest.c"));
        child.kill().unwrap();
        let mut interest = Interest::default();
        probes.interest(&mut interest);
        let ready = interest.wait(Duration::from_secs(30)).unwrap();
        assert_eq!(ready.iter().map(|ready| ready.token).collect::<Vec<_>>(), [Token::Probe]);
        probes.ended();
        assert!(probes.here.is_none());
        child.wait().unwrap();
    }

    #[test]
    fn who_cannot_be_seen_is_sent_to_a_rank() {
        assert!(!known().keep(None, Vec::new()));
    }
}
