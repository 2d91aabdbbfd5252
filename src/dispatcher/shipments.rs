//! Toolchains on their way to hosts that lack them: one at a time to a host, whose ranks share what arrives, in chunks
//! that leave the fabric room for small messages. Reads the files as they go; knows no MPI, and nothing of the files
//! that another host brings.
//!
//! A rank says what its host lacks. The first rank of a host is sent it and looks again; the others look again when it
//! is done, and find it there.

use crate::dispatcher::queue::Rank;
use crate::wire::{Digest, PAYLOAD_BYTES_MAX, ShippedFile, ToRank, ToolchainId};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;

/// Times the same rank may lack something of a toolchain after it was sent: files change on the head, stores get full.
const TRIES_MAX: u32 = 3;

/// A message to a rank, with its payload.
pub type Part = (Rank, ToRank, Vec<u8>);

struct Active {
    rank: Rank,
    toolchain: ToolchainId,
    left: VecDeque<ShippedFile>,
    open: Option<(Digest, File, u64)>,
    /// Everything was sent, and the rank was told so.
    sent: bool,
}

#[derive(Default)]
struct Host {
    active: Option<Active>,
    waiting: Vec<(Rank, ToolchainId)>,
    tries: BTreeMap<ToolchainId, u32>,
}

#[derive(Default)]
pub struct Shipments {
    hosts: BTreeMap<String, Host>,
}

impl Shipments {
    /// A rank lacks these files of a toolchain. `false`: it was sent them often enough.
    pub fn lacks(&mut self, host: &str, rank: Rank, toolchain: ToolchainId, files: Vec<ShippedFile>) -> bool {
        let host = self.hosts.entry(host.to_owned()).or_default();
        match &host.active {
            Some(active) if (active.rank, active.toolchain) != (rank, toolchain) => {
                host.waiting.push((rank, toolchain));
                return true;
            }
            _ => {}
        }
        let tries = host.tries.entry(toolchain).or_default();
        *tries += 1;
        if *tries > TRIES_MAX {
            return false;
        }
        host.active = Some(Active { rank, toolchain, left: files.into(), open: None, sent: false });
        true
    }

    /// A rank has decided about a toolchain: those that must look again now.
    pub fn settled(&mut self, host: &str, rank: Rank, toolchain: ToolchainId) -> Vec<(Rank, ToolchainId)> {
        let Some(host) = self.hosts.get_mut(host) else { return Vec::new() };
        host.finish_if(|active| (active.rank, active.toolchain) == (rank, toolchain))
    }

    /// A rank is gone: those of its host that must look again now.
    pub fn lost(&mut self, rank: Rank) -> Vec<(Rank, ToolchainId)> {
        let mut again = Vec::new();
        for host in self.hosts.values_mut() {
            host.waiting.retain(|(waiting, _)| *waiting != rank);
            again.extend(host.finish_if(|active| active.rank == rank));
        }
        again
    }

    /// The next messages, at most one for each host, to ranks that have room for it.
    pub fn next_parts(&mut self, has_room: impl Fn(Rank) -> bool) -> Vec<Part> {
        let active = self.hosts.values_mut().filter_map(|host| host.active.as_mut());
        active.filter(|active| !active.sent && has_room(active.rank)).filter_map(Active::next_part).collect()
    }
}

impl Host {
    fn finish_if(&mut self, which: impl Fn(&Active) -> bool) -> Vec<(Rank, ToolchainId)> {
        if !self.active.as_ref().is_some_and(which) {
            return Vec::new();
        }
        self.active = None;
        std::mem::take(&mut self.waiting)
    }
}

impl Active {
    fn next_part(&mut self) -> Option<Part> {
        while !self.sent {
            if self.open.is_none() {
                let Some(file) = self.left.pop_front() else {
                    self.sent = true;
                    return Some((self.rank, ToRank::Shipped { id: self.toolchain }, Vec::new()));
                };
                // One that cannot be read is lacked again, and in the end nobody gets the toolchain.
                self.open = File::open(OsStr::from_bytes(&file.source)).ok().map(|open| (file.digest, open, 0));
                continue;
            }
            let Some((digest, file, at)) = &mut self.open else { continue };
            let part_bytes = (digest.bytes - *at).min(PAYLOAD_BYTES_MAX as u64);
            let mut part = vec![0; part_bytes as usize];
            let (digest, start) = (*digest, *at);
            *at += part_bytes;
            let is_over = *at == digest.bytes;
            let read = file.read_exact(&mut part);
            if is_over || read.is_err() {
                self.open = None;
            }
            if read.is_ok() {
                return Some((self.rank, ToRank::Blob { digest, at: start }, part));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &std::path::Path, name: &str, content: &[u8]) -> ShippedFile {
        let path = dir.join(name);
        std::fs::write(&path, content).unwrap();
        let source = path.as_os_str().as_bytes().to_vec();
        ShippedFile { name: name.into(), source, digest: Digest::of(content) }
    }

    #[test]
    fn a_host_gets_everything_once_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let big = vec![7; PAYLOAD_BYTES_MAX + 5];
        let files = [file(dir.path(), "big", &big), file(dir.path(), "empty", b""), file(dir.path(), "small", b"x")];
        let mut shipments = Shipments::default();
        assert!(shipments.lacks("a", 1, 7, files.to_vec()));
        assert!(shipments.lacks("a", 2, 7, files.to_vec()));
        let mut lengths = Vec::new();
        assert!(shipments.next_parts(|_| false).is_empty());
        loop {
            let [(rank, head, part)] = &shipments.next_parts(|_| true)[..] else { panic!("one part for one host") };
            assert_eq!(*rank, 1, "one rank of a host");
            match head {
                ToRank::Blob { at, .. } => lengths.push((*at, part.len())),
                head => {
                    assert!(matches!(head, ToRank::Shipped { id: 7 }));
                    break;
                }
            }
        }
        assert!(shipments.next_parts(|_| true).is_empty());
        assert_eq!(lengths, [(0, PAYLOAD_BYTES_MAX), (PAYLOAD_BYTES_MAX as u64, 5), (0, 0), (0, 1)]);
        assert_eq!(shipments.settled("a", 1, 7), [(2, 7)]);
        assert_eq!(shipments.settled("a", 2, 7), []);
    }

    #[test]
    fn another_rank_takes_over_and_nobody_tries_forever() {
        let mut shipments = Shipments::default();
        assert!(shipments.lacks("a", 1, 7, Vec::new()));
        assert!(shipments.lacks("a", 2, 7, Vec::new()));
        assert_eq!(shipments.lost(1), [(2, 7)]);
        for _ in 1..TRIES_MAX {
            assert!(shipments.lacks("a", 2, 7, Vec::new()));
        }
        assert!(!shipments.lacks("a", 2, 7, Vec::new()));
    }

    #[test]
    fn an_unreadable_file_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let gone = ShippedFile { source: b"/nonexistent/x".to_vec(), ..file(dir.path(), "x", b"x") };
        let shorter = ShippedFile { digest: Digest::of(b"longer"), ..file(dir.path(), "y", b"y") };
        let mut shipments = Shipments::default();
        shipments.lacks("a", 1, 7, vec![gone, shorter]);
        assert!(matches!(shipments.next_parts(|_| true)[..], [(1, ToRank::Shipped { id: 7 }, _)]));
    }
}
