//! What reading the files of toolchains gave: their digests, and what ld.so(8) would find in them. A compiler and its
//! libraries are a hundred megabytes, so a file that was read is not read again while it stays the same: not for the
//! next driver, which runs mostly the same files, nor, where somebody keeps the readings ([`Readings::after`],
//! [`Readings::take_uses`]), in the next session. Knows no database.
//!
//! # When is a reading still true?
//! When the file at its path is on the same file system and has the very same stamp: device, inode, size, mtime, ctime.
//! Every change gives a file another ctime, which nobody can set back, as long as three things hold; a reading is kept
//! only if they did:
//!
//! * The file was settled: its times were of the past before it was read ([`crate::times`]), so that no later change
//!   can fall into the same time stamp; and the stamp was the same after reading as before.
//! * The file system keeps a ctime of its own for every file, as [`crate::times`] has it.
//! * A kernel gave the file its ctime. One without a fraction of a second may be of the maker of an image, who can give
//!   all files of all images the same. On ext4 the UUID of the file system tells one image from another; it is compared
//!   along with the stamp ([`Version::file_system`]). Elsewhere such a file is read each time: above all on overlayfs,
//!   which does not say what image a file comes from.
//!
//! The stamp is asked of the open file: the name might lead to another one a moment later. What depends on more than one
//! file is not kept: where the driver finds its programs, where ld.so finds libraries, what is absent.
//!
//! Only the head keeps readings; workers hash their own files.

use super::stamps::Stamp;
use crate::times::{self, Past};
use crate::wire::{Bytes, Digest};
use goblin::elf::Elf;
use nix::sys::statfs::{EXT4_SUPER_MAGIC, FsType, fstatfs};
use nix::sys::statvfs::fstatvfs;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most readings kept. A toolchain has some hundred files; a reading has less than a KiB.
pub const READINGS_MAX: usize = 4096;

/// What a file's content says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    pub digest: Digest,
    pub format: Format,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    Elf(Linkage),
    /// `#!`
    Script,
    /// Why it is no ELF file.
    Other(String),
}

/// What ld.so goes by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linkage {
    pub is_64: bool,
    /// `e_machine`.
    pub machine: u16,
    pub interpreter: Option<String>,
    /// DT_NEEDED, DT_RPATH and DT_RUNPATH, as the file spells them.
    pub libraries: Vec<String>,
    pub rpaths: Vec<String>,
    pub runpaths: Vec<String>,
}

impl Reading {
    fn of(content: &[u8]) -> Reading {
        Reading { digest: Digest::of(content), format: Format::of(content) }
    }
}

impl Format {
    pub fn of(content: &[u8]) -> Format {
        if content.starts_with(b"#!") {
            return Format::Script;
        }
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        match Elf::parse(content) {
            Ok(elf) => Format::Elf(Linkage {
                is_64: elf.is_64,
                machine: elf.header.e_machine,
                interpreter: elf.interpreter.map(str::to_owned),
                libraries: owned(&elf.libraries),
                rpaths: owned(&elf.rpaths),
                runpaths: owned(&elf.runpaths),
            }),
            Err(error) => Format::Other(error.to_string()),
        }
    }
}

/// A file as it was at one time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    pub path: Bytes,
    /// `f_fsid` of statvfs(3).
    pub file_system: u64,
    pub stamp: Stamp,
}

impl Version {
    /// `None`: the file system does not say.
    fn of(path: &Path, file: &File) -> Option<Version> {
        let stamp = Stamp::of(&file.metadata().ok()?);
        let file_system = fstatvfs(file).ok()?.filesystem_id();
        Some(Version { path: path.as_os_str().as_bytes().to_vec(), file_system, stamp })
    }

    /// Will every change after `past` make another version?
    fn is_settled(&self, file: &File, past: Past) -> bool {
        let Stamp { mtime, ctime, .. } = self.stamp;
        past.has(mtime, ctime) && fstatfs(file).is_ok_and(|found| is_telling(ctime, found.filesystem_type()))
    }
}

/// On such a file system, can no other content have this ctime?
fn is_telling([_, fraction_ns]: [i64; 2], file_system: FsType) -> bool {
    times::are_kept_by(file_system) && (fraction_ns != 0 || file_system == EXT4_SUPER_MAGIC)
}

/// Readings by what they are of.
pub type Known = HashMap<Version, Reading>;

/// A reading that was of use.
#[derive(Debug)]
pub struct Use {
    pub version: Version,
    /// `None`: it was known already.
    pub new: Option<Reading>,
}

/// Where readings of earlier sessions come from; may wait.
pub type Earlier = Box<dyn FnOnce() -> Known + Send>;

/// The readings that are known, for all who need them.
#[derive(Default)]
pub struct Readings {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    earlier: Option<Earlier>,
    known: Known,
    uses: Vec<Use>,
    /// Memory for the content of one file after the other: to get fresh pages for each would take as long as to hash
    /// them.
    memory: Vec<u8>,
}

impl Readings {
    /// With those of earlier sessions, which are asked for when the first file is looked at.
    pub fn after(earlier: Earlier) -> Readings {
        Readings { state: Mutex::new(State { earlier: Some(earlier), ..State::default() }) }
    }

    /// What is in the file now. While one file is read nobody else reads: mostly it is the same file that others want.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of(&self, path: &Path) -> io::Result<Reading> {
        let past = Past::now();
        // What is stuck here, with a file server or a pipe, stops nobody else.
        let mut file = File::open(path)?;
        let version = Version::of(path, &file);
        let mut state = self.state();
        if let Some(version) = &version
            && let Some(reading) = state.recall(version)
        {
            return Ok(reading);
        }
        state.memory.clear();
        file.read_to_end(&mut state.memory)?;
        let reading = Reading::of(&state.memory);
        if let Some(version) = version
            && version.is_settled(&file, past)
            && Version::of(path, &file).as_ref() == Some(&version)
        {
            state.learn(version, reading.clone());
        }
        Ok(reading)
    }

    /// What was of use since the last call and may be kept. Frees the memory that reading took.
    pub fn take_uses(&self) -> Vec<Use> {
        let mut state = self.state();
        state.memory = Vec::new();
        std::mem::take(&mut state.uses)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic aborts, so none leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn recall(&mut self, version: &Version) -> Option<Reading> {
        if let Some(earlier) = self.earlier.take() {
            self.known = earlier();
        }
        let reading = self.known.get(version)?.clone();
        self.uses.push(Use { version: version.clone(), new: None });
        Some(reading)
    }

    fn learn(&mut self, version: Version, reading: Reading) {
        if self.known.len() >= READINGS_MAX {
            self.known.clear();
        }
        self.known.insert(version.clone(), reading.clone());
        self.uses.push(Use { version, new: Some(reading) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::statfs;
    use std::fs;
    use std::time::Duration;

    /// Gives every file's reading another digest, by which it is known again.
    fn forged(uses: Vec<Use>) -> Readings {
        let forged = |Use { version, new }: Use| Some((version, Reading { digest: Digest::of(b"forged"), ..new? }));
        let known: Known = uses.into_iter().filter_map(forged).collect();
        Readings::after(Box::new(|| known))
    }

    #[test]
    fn a_settled_file_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lib.so");
        fs::write(&file, "one").unwrap();
        let readings = Readings::default();
        let digest = |readings: &Readings| readings.of(&file).unwrap().digest;
        assert_eq!(digest(&readings), Digest::of(b"one"));
        assert!(readings.take_uses().is_empty(), "it may change within the same time stamp");

        std::thread::sleep(times::RACY + Duration::from_millis(100));
        assert_eq!([digest(&readings), digest(&readings)], [Digest::of(b"one"); 2]);
        let uses = readings.take_uses();
        assert_eq!(uses.iter().map(|used| used.new.is_some()).collect::<Vec<_>>(), [true, false]);
        let mtime = fs::metadata(&file).unwrap().modified().unwrap();
        let next = forged(uses);
        assert_eq!(digest(&next), Digest::of(b"forged"), "not read again");
        assert!(next.take_uses()[0].new.is_none());

        fs::write(&file, "two").unwrap();
        File::options().write(true).open(&file).unwrap().set_modified(mtime).unwrap();
        assert_eq!(digest(&next), Digest::of(b"two"), "the ctime tells");
        assert_eq!(digest(&readings), Digest::of(b"two"));
        assert!(next.take_uses().is_empty() && readings.take_uses().is_empty());
    }

    #[test]
    fn where_times_say_nothing_a_file_is_read_each_time() {
        let readings = Readings::default();
        for _ in 0..2 {
            readings.of(Path::new("/proc/version")).unwrap();
        }
        assert!(readings.take_uses().is_empty());
        let (by_kernel, by_image) = ([1, 999], [1, 0]);
        for (file_system, expected) in [
            (statfs::EXT4_SUPER_MAGIC, [true, true]),
            (statfs::OVERLAYFS_SUPER_MAGIC, [true, false]),
            (statfs::NFS_SUPER_MAGIC, [false, false]),
        ] {
            assert_eq!([by_kernel, by_image].map(|ctime| is_telling(ctime, file_system)), expected, "{file_system:?}");
        }
    }
}
