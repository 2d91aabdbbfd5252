//! Short compiles, and among them the probes of configure scripts, whose sources are known by where they are.
//!
//! When nothing else goes on, a rank can only add the way there and back to a probe, and it is run here, until one of its
//! name took long. One at a time: a second one that comes meanwhile goes to a rank.

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

/// The folders in which CMake and meson make their probes.
const FOLDERS: [&[u8]; 3] = [b"/CMakeFiles/CMakeScratch/", b"/CMakeFiles/CMakeTmp/", b"/meson-private/"];

/// Most names that are kept.
const NAMES_MAX: usize = 65_536;

#[derive(Default)]
pub struct Probes {
    /// Was the last compile of a source named so short?
    short: HashMap<Bytes, bool>,
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
        self.last(source) == Some(true)
    }

    /// Is a compile of `source` a probe that may be short, with none running here?
    pub fn is_for_here(&self, source: &[u8]) -> bool {
        self.here.is_none() && is_probe(source) && self.last(source) != Some(false)
    }

    fn last(&self, source: &[u8]) -> Option<bool> {
        self.short.get(base_name(source)).copied()
    }

    /// A compile of `source` took so long.
    pub fn note(&mut self, source: &[u8], wall: Duration) {
        let (name, is_short) = (base_name(source), wall <= SHORT);
        if let Some(known) = self.short.get_mut(name) {
            *known = is_short;
        } else if self.short.len() < NAMES_MAX {
            self.short.insert(name.to_vec(), is_short);
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

/// Does a configure script compile this source: autoconf's `conftest.c`, or one where CMake or meson puts them?
fn is_probe(source: &[u8]) -> bool {
    let contains = |part: &[u8]| source.windows(part.len()).any(|window| window == part);
    base_name(source).starts_with(b"conftest.") || FOLDERS.iter().any(|folder| contains(folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn by_the_last_of_the_name() {
        let mut probes = Probes::default();
        assert!(!probes.was_short(b"/b/main.c") && probes.is_for_here(b"/b/conftest.c"));
        probes.note(b"/b/main.c", SHORT);
        assert!(probes.was_short(b"main.c") && !probes.is_for_here(b"main.c"), "no probe");
        probes.note(b"/a/conftest.c", SHORT * 2);
        assert!(!probes.was_short(b"conftest.c") && !probes.is_for_here(b"/b/conftest.c"), "it took long");
        probes.note(b"/a/conftest.c", SHORT);
        assert!(probes.was_short(b"conftest.c") && probes.is_for_here(b"/b/conftest.c"));
    }

    #[test]
    fn sources_of_probes() {
        for (source, is) in [
            ("/b/conftest.cpp", true),
            ("/b/CMakeFiles/CMakeScratch/TryCompile-x/CheckIncludeFile.c", true),
            ("/b/meson-private/tmpq/testfile.c", true),
            ("/b/conftester.c", false),
            ("/b/CMakeFiles/main.c", false),
        ] {
            assert_eq!(is_probe(source.as_bytes()), is, "{source}");
        }
    }

    #[test]
    fn one_at_a_time_runs_here() {
        let mut probes = Probes::default();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(probes.keep(Some(child.id()), b"conftest.c".to_vec()));
        assert!(!probes.is_for_here(b"conftest.c"));
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
        assert!(!Probes::default().keep(None, Vec::new()));
    }
}
