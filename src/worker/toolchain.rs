//! Can this host run a toolchain of the head's? With its own programs when all their files are the same, else with
//! those of the head, which are sent once and laid out in a folder that all ranks of the host share:
//!
//! ```text
//! tc-<hex>/           made complete in a rank's folder, then renamed
//!     ld.so           the head's dynamic linker, which starts all others (see `mpicc_proxy_abi::loader`)
//!     lib/<name>      libraries, by the names they are asked for
//!     bin/<n>         programs
//!     locale/  zoneinfo/  localtime    what libc reads by itself, if this host has others
//! ```
//!
//! The files are hard links to contents of the store, so that nothing is there twice and no content goes while a folder
//! needs it. Where the store may not be executed from (a noexec mount), they are copies in another folder.

use crate::driver::toolchain::behind::PRELOADED;
use crate::driver::toolchain::closure::MACHINE;
use crate::driver::toolchain::stamps::{Stamp, Stamps, stamp};
use crate::environment::{self, value_of};
use crate::wire::{Bytes, Digest, SameFile, ShippedFile, Toolchain, ToolchainId, Unfit, Variable};
use crate::worker::home::{Home, Session};
use crate::worker::store::Store;
use anyhow::{Context, Result, bail};
use nix::sys::statvfs::{FsFlags, statvfs};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What a rank can say of a toolchain.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Fit,
    /// Contents that are to be sent.
    Lacks(Vec<Digest>),
    Unfit(Unfit),
}

/// A toolchain that runs here, and where from.
pub struct Usable {
    pub toolchain: Toolchain,
    /// The folder it (or a part of it) was laid out in.
    folder: Option<PathBuf>,
    is_shipped: bool,
    behind_is_shipped: bool,
    /// Files of this host that are the head's, as they were when they were compared with them.
    own: Stamps,
    /// Differs from that of the same toolchain when it ran from other files.
    pub generation: u64,
}

impl Usable {
    /// These programs of this host's own.
    #[cfg(test)]
    pub fn own(programs: Vec<Bytes>) -> Usable {
        let (shipment, behind) = (Err(String::new()), Default::default());
        let toolchain = Toolchain { reals: programs.clone(), programs, files: vec![], shipment, behind };
        Usable {
            toolchain,
            folder: None,
            is_shipped: false,
            behind_is_shipped: false,
            own: Stamps::new([], &[]),
            generation: 0,
        }
    }

    /// The folder of the shipped programs; `None`: the host's own run.
    pub fn programs_folder(&self) -> Option<&Path> {
        self.folder.as_deref().filter(|_| self.is_shipped)
    }

    /// Variables a compile gets in place of the invocation's own.
    pub fn variables(&self) -> Vec<(Bytes, Bytes)> {
        let Some(folder) = self.folder.as_deref().filter(|_| self.behind_is_shipped) else { return Vec::new() };
        let value = |variable: &Variable| {
            if !variable.in_folder {
                return variable.value.clone();
            }
            folder.join(OsStr::from_bytes(&variable.value)).into_os_string().into_encoded_bytes()
        };
        self.toolchain.behind.variables.iter().map(|variable| (variable.name.clone(), value(variable))).collect()
    }

    /// Does this environment ask for a locale that only the head's archive has, as far as we know?
    pub fn lacks_locale(&self, environment: &[Bytes]) -> bool {
        self.behind_is_shipped && self.toolchain.behind.has_archive && uses_locale(environment)
    }
}

fn uses_locale(entries: &[Bytes]) -> bool {
    let is_locale = |entry: &Bytes| entry.starts_with(b"LC_") || environment::is_named(entry, b"LANG");
    let value = |entry: &Bytes| entry.splitn(2, |b| *b == b'=').nth(1).map(<[u8]>::to_vec).unwrap_or_default();
    let all = entries.iter().find_map(|entry| value_of(entry, b"LC_ALL")).filter(|v| !v.is_empty());
    let is_plain = |value: &[u8]| matches!(value, b"" | b"C" | b"POSIX");
    match all {
        Some(value) => !is_plain(value),
        None => entries.iter().filter(|entry| is_locale(entry)).any(|entry| !is_plain(&value(entry))),
    }
}

/// The toolchains this rank was asked about.
pub struct Toolchains {
    asked: BTreeMap<ToolchainId, Toolchain>,
    usable: BTreeMap<ToolchainId, Usable>,
    verifier: Verifier,
    session: Session,
    rank: i32,
    /// Where toolchains lie when the store is on a noexec mount.
    elsewhere: Option<Home>,
    folders_made: u64,
    generation: u64,
}

impl Toolchains {
    pub fn new(session: &Session, rank: i32) -> Toolchains {
        Toolchains {
            asked: BTreeMap::new(),
            usable: BTreeMap::new(),
            verifier: Verifier::default(),
            session: session.clone(),
            rank,
            elsewhere: None,
            folders_made: 0,
            generation: 0,
        }
    }

    /// Is a toolchain asked about whose contents are not all here?
    pub fn is_any_lacking(&self) -> bool {
        !self.asked.is_empty()
    }

    pub fn get(&self, id: ToolchainId) -> Option<&Usable> {
        self.usable.get(&id)
    }

    /// Rank 0 wants to know about a toolchain.
    pub fn ask(&mut self, id: ToolchainId, toolchain: Toolchain, store: &mut Store) -> Answer {
        self.asked.insert(id, toolchain);
        self.look(id, store)
    }

    /// What is to be said now of a toolchain that was asked about.
    pub fn look(&mut self, id: ToolchainId, store: &mut Store) -> Answer {
        let Some(toolchain) = self.asked.remove(&id) else {
            // Asked again after the answer; it stays what it was.
            return if self.usable.contains_key(&id) {
                Answer::Fit
            } else {
                unfit("toolchain-mismatch", "not known here".to_owned())
            };
        };
        match self.settle(&toolchain, store) {
            Ok((folder, [is_shipped, behind_is_shipped])) => {
                let own = self.own_files(&toolchain, [is_shipped, behind_is_shipped]);
                self.generation += 1;
                let generation = self.generation;
                self.usable.insert(id, Usable { toolchain, folder, is_shipped, behind_is_shipped, own, generation });
                Answer::Fit
            }
            Err(answer) => {
                if matches!(answer, Answer::Lacks(_)) {
                    self.asked.insert(id, toolchain);
                }
                answer
            }
        }
    }

    /// `None`: this host's files are what they were. Else they are looked at anew, and this is to be said.
    pub fn look_again(&mut self, id: ToolchainId, store: &mut Store) -> Option<Answer> {
        if self.usable.get_mut(&id)?.own.are_current(false) {
            return None;
        }
        let Usable { toolchain, generation, folder, .. } = self.usable.remove(&id)?;
        self.asked.insert(id, toolchain);
        let answer = self.look(id, store);
        if let Some(usable) = self.usable.get_mut(&id).filter(|usable| usable.folder == folder) {
            // Other files with the same contents.
            usable.generation = generation;
        }
        Some(answer)
    }

    fn own_files(&self, toolchain: &Toolchain, [is_shipped, behind_is_shipped]: [bool; 2]) -> Stamps {
        let of_programs = toolchain.files.iter().filter(|_| !is_shipped);
        let behind = toolchain.behind.same.iter().filter(|_| !behind_is_shipped);
        let files = of_programs.chain(behind).map(|file| (file.path.clone(), self.verifier.stamp(&file.path)));
        Stamps::new(files, &toolchain.programs)
    }

    /// The store is in another folder now, and what was laid out in the old one goes with it: those toolchains are to be
    /// looked at again.
    pub fn store_moved(&mut self) -> Vec<ToolchainId> {
        let laid_out = self.usable.iter().filter(|(_, usable)| usable.folder.is_some());
        let ids: Vec<ToolchainId> = laid_out.map(|(id, _)| *id).collect();
        for id in &ids {
            self.asked.extend(self.usable.remove(id).map(|usable| (*id, usable.toolchain)));
        }
        ids
    }

    /// Where the toolchain lies, and which of its two parts (programs, files behind libc) must be the head's.
    fn settle(&mut self, toolchain: &Toolchain, store: &mut Store) -> Result<(Option<PathBuf>, [bool; 2]), Answer> {
        let is_preloaded = |file: &&SameFile| file.path == PRELOADED.as_bytes();
        let behind = &toolchain.behind;
        if let Err(difference) = self.verifier.verify(behind.same.iter().filter(is_preloaded)) {
            return Err(unfit("toolchain-mismatch", difference));
        }
        let programs = self.verifier.verify(&toolchain.files);
        let others = self.verifier.verify(behind.same.iter().filter(|file| !is_preloaded(file)));
        let mut files: Vec<&ShippedFile> = Vec::new();
        if let Err(difference) = &programs {
            match &toolchain.shipment {
                Ok(shipment) if shipment.machine == MACHINE => files.extend(&shipment.files),
                Ok(_) => return Err(unfit("toolchain-mismatch", "this host is another machine".to_owned())),
                Err(why) => return Err(unfit("toolchain-unshippable", format!("{difference}, and {why}"))),
            }
        }
        if others.is_err() {
            files.extend(&behind.files);
        }
        let parts = [programs.is_err(), others.is_err()];
        if parts == [false, false] {
            return Ok((None, parts));
        }
        let place = self.place(store).map_err(|error| unfit("toolchain-store", format!("{error:#}")))?;
        let folder = place.root.join(folder_name(&files));
        if folder.is_dir() {
            return Ok((Some(folder), parts));
        }
        let lacking: BTreeSet<Digest> = files.iter().map(|file| file.digest).filter(|d| !store.find(d)).collect();
        if !lacking.is_empty() {
            return Err(Answer::Lacks(lacking.into_iter().collect()));
        }
        match lay_out(&files, &store.home().contents(), &place.temporary, &folder) {
            Ok(()) => Ok((Some(folder), parts)),
            Err(error) => Err(unfit("toolchain-store", format!("{error:#}"))),
        }
    }

    fn place(&mut self, store: &Store) -> Result<Place> {
        self.folders_made += 1;
        let name = format!("tc{}", self.folders_made);
        let place = |home: &Home| Place { root: home.root().into(), temporary: home.rank_folder().join(&name) };
        let home = store.home();
        if may_execute(home.root()) {
            return Ok(place(home));
        }
        if self.elsewhere.is_none() {
            let candidates = [std::env::temp_dir(), "/tmp".into(), "/var/tmp".into()];
            let base = candidates.iter().find(|base| may_execute(base));
            let base = base.with_context(|| {
                format!("nothing may be executed from {} or a folder for temporary files", home.root().display())
            })?;
            self.elsewhere = Some(Home::open_in(std::slice::from_ref(base), &self.session, self.rank)?);
        }
        self.elsewhere.as_ref().map(place).context("no folder for toolchains")
    }
}

struct Place {
    root: PathBuf,
    /// A name in a rank's own folder, on the same file system.
    temporary: PathBuf,
}

fn unfit(reason: &str, detail: String) -> Answer {
    Answer::Unfit(Unfit { reason: reason.to_owned(), detail })
}

fn may_execute(folder: &Path) -> bool {
    statvfs(folder).is_ok_and(|facts| !facts.flags().contains(FsFlags::ST_NOEXEC))
}

/// Names and contents make the name.
fn folder_name(files: &[&ShippedFile]) -> String {
    let mut hash = blake3::Hasher::new();
    for file in files {
        hash.update(&(file.name.len() as u64).to_le_bytes());
        hash.update(&file.name);
        hash.update(&file.digest.hash);
    }
    format!("tc-{}", hash.finalize().to_hex())
}

fn lay_out(files: &[&ShippedFile], contents: &Path, temporary: &Path, folder: &Path) -> Result<()> {
    let made = fill(files, contents, temporary).and_then(|()| match fs::rename(temporary, folder) {
        // Another rank of the host was faster.
        Err(_) if folder.is_dir() => fs::remove_dir_all(temporary).context("cannot remove a folder"),
        result => result.context("cannot rename a toolchain's folder"),
    });
    if made.is_err() {
        let _ = fs::remove_dir_all(temporary);
    }
    made
}

fn fill(files: &[&ShippedFile], contents: &Path, folder: &Path) -> Result<()> {
    for file in files {
        let name = Path::new(OsStr::from_bytes(&file.name));
        if name.components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
            bail!("{} is no name for a file of a toolchain", name.display());
        }
        let path = folder.join(name);
        let content = contents.join(file.digest.file_name());
        let parent = path.parent().unwrap_or(folder);
        DirBuilder::new().recursive(true).mode(0o700).create(parent).context("cannot make a toolchain's folder")?;
        match fs::hard_link(&content, &path) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => fs::copy(&content, &path).map(drop),
            result => result,
        }
        .with_context(|| format!("cannot lay out {}", name.display()))?;
        fs::set_permissions(&path, Permissions::from_mode(0o500))?;
    }
    Ok(())
}

/// Compares this host's files with the head's; remembers digests while a file's stamp stays the same.
#[derive(Default)]
pub struct Verifier {
    digests: HashMap<Bytes, (Option<Stamp>, Option<Digest>)>,
}

impl Verifier {
    /// # Errors
    /// Says which file differs.
    pub fn verify<'a>(&mut self, files: impl IntoIterator<Item = &'a SameFile>) -> Result<(), String> {
        for file in files {
            let own = self.digest(&file.path);
            if own != file.digest {
                let name = String::from_utf8_lossy(&file.path);
                return Err(match (own, file.digest) {
                    (None, _) => format!("{name} is missing on this host"),
                    (_, None) => format!("{name} exists on this host only"),
                    _ => format!("{name} differs from the head's"),
                });
            }
        }
        Ok(())
    }

    /// The stamp of a file when it was compared.
    fn stamp(&self, path: &Bytes) -> Option<Stamp> {
        self.digests.get(path).and_then(|(stamp, _)| *stamp)
    }

    fn digest(&mut self, path: &Bytes) -> Option<Digest> {
        let now = stamp(path);
        if let Some((then, digest)) = self.digests.get(path)
            && *then == now
        {
            return *digest;
        }
        let digest = match fs::read(OsStr::from_bytes(path)) {
            Ok(content) => Some(Digest::of(&content)),
            // A name with a slash at the end means a folder.
            Err(error) if error.kind() == io::ErrorKind::IsADirectory && path.ends_with(b"/") => Some(Digest::of(b"")),
            Err(_) => None,
        };
        self.digests.insert(path.clone(), (now, digest));
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Shipment;

    fn store(base: &tempfile::TempDir, rank: i32) -> Store {
        Store::new(Home::open_in(&[base.path().to_path_buf()], &Session::new("s", false), rank).unwrap(), Some(1 << 20))
    }

    fn path(path: &Path) -> Bytes {
        path.as_os_str().as_bytes().to_vec()
    }

    #[test]
    fn a_changed_missing_or_added_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("lib.so");
        let with = |digest| [SameFile { path: path(&own), digest }];
        let (one, two) = (with(Some(Digest::of(b"one"))), with(Some(Digest::of(b"two"))));
        let mut verifier = Verifier::default();
        assert!(verifier.verify(&one).unwrap_err().contains("missing"));
        fs::write(&own, "one").unwrap();
        assert_eq!(verifier.verify(&one), Ok(()));
        assert!(verifier.verify(&two).unwrap_err().contains("differs"));
        assert!(verifier.verify(&with(None)).unwrap_err().contains("only"));
        let folder = |name: &str| [SameFile { path: path(&dir.path().join(name)), digest: None }];
        assert!(verifier.verify(&folder("")).unwrap_err().contains("only"), "a folder that must be absent");
        assert_eq!(verifier.verify(&folder("other/")), Ok(()));
    }

    /// A toolchain of one program, the head's copy of which holds `content`.
    fn toolchain(own: &Path, content: &[u8]) -> Toolchain {
        let digest = Digest::of(content);
        let file = |name: &str| ShippedFile { name: name.into(), source: b"/x".to_vec(), digest };
        Toolchain {
            programs: vec![path(own)],
            reals: vec![path(own)],
            files: vec![SameFile { path: path(own), digest: Some(digest) }],
            shipment: Ok(Shipment { machine: MACHINE, files: vec![file("ld.so"), file("bin/0")], rpaths: vec![] }),
            behind: Default::default(),
        }
    }

    #[test]
    fn own_or_shipped_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("cc1");
        fs::write(&own, "one").unwrap();
        let base = tempfile::tempdir().unwrap();
        let mut first = store(&base, 1);
        let mut toolchains = Toolchains::new(&Session::new("s", false), 1);
        assert_eq!(toolchains.ask(1, toolchain(&own, b"one"), &mut first), Answer::Fit);
        assert_eq!(toolchains.get(1).unwrap().programs_folder(), None);

        let other = toolchain(&own, b"two");
        let digest = Digest::of(b"two");
        assert_eq!(toolchains.ask(2, other.clone(), &mut first), Answer::Lacks(vec![digest]));
        assert!(toolchains.get(2).is_none());
        assert!(first.receive(digest, 0, b"two").unwrap());
        assert_eq!(toolchains.look(2, &mut first), Answer::Fit);
        let folder = toolchains.get(2).unwrap().programs_folder().unwrap().to_path_buf();
        assert_eq!(fs::read(folder.join("bin/0")).unwrap(), b"two");
        assert_eq!(fs::metadata(folder.join("ld.so")).unwrap().permissions().mode() & 0o777, 0o500);

        // Another rank of the host finds it there.
        let mut second = store(&base, 2);
        let mut its = Toolchains::new(&Session::new("s", false), 2);
        assert_eq!(its.ask(2, other.clone(), &mut second), Answer::Fit);
        assert_eq!(its.get(2).unwrap().programs_folder(), Some(&*folder));

        // A store that moves takes it along.
        assert_eq!(toolchains.store_moved(), [2]);
        assert!(toolchains.get(1).is_some() && toolchains.get(2).is_none());
        let elsewhere = tempfile::tempdir().unwrap();
        first = store(&elsewhere, 1);
        assert_eq!(toolchains.look(2, &mut first), Answer::Lacks(vec![digest]));

        let reason = |answer| match answer {
            Answer::Unfit(unfit) => unfit.reason,
            other => panic!("{other:?}"),
        };
        let unshippable = Toolchain { shipment: Err("two libraries".to_owned()), ..other.clone() };
        assert_eq!(reason(its.ask(3, unshippable, &mut second)), "toolchain-unshippable");
        let mut foreign = other.clone();
        foreign.shipment.as_mut().unwrap().machine = 0;
        assert_eq!(reason(its.ask(4, foreign, &mut second)), "toolchain-mismatch");
        let mut escaping = other;
        escaping.shipment.as_mut().unwrap().files[0].name = b"../x".to_vec();
        assert_eq!(reason(its.ask(5, escaping, &mut second)), "toolchain-store");
    }

    #[test]
    fn an_own_program_that_is_replaced_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("cc1");
        fs::write(&own, "one").unwrap();
        let base = tempfile::tempdir().unwrap();
        let mut store = store(&base, 1);
        let mut toolchains = Toolchains::new(&Session::new("s", false), 1);
        assert_eq!(toolchains.ask(1, toolchain(&own, b"one"), &mut store), Answer::Fit);
        assert_eq!(toolchains.look_again(1, &mut store), None);
        let replace = |content: &str| {
            fs::write(dir.path().join("new"), content).unwrap();
            fs::rename(dir.path().join("new"), &own).unwrap();
        };
        let generation = toolchains.get(1).unwrap().generation;
        replace("one");
        assert_eq!(toolchains.look_again(1, &mut store), Some(Answer::Fit), "another file, the same program");
        assert_eq!(toolchains.get(1).unwrap().generation, generation);
        assert_eq!(toolchains.look_again(1, &mut store), None);
        replace("two");
        let digest = Digest::of(b"one");
        assert_eq!(toolchains.look_again(1, &mut store), Some(Answer::Lacks(vec![digest])));
        assert!(toolchains.get(1).is_none());
        store.receive(digest, 0, b"one").unwrap();
        assert_eq!(toolchains.look(1, &mut store), Answer::Fit);
        assert_ne!(toolchains.get(1).unwrap().generation, generation);
        replace("three");
        assert_eq!(toolchains.look_again(1, &mut store), None, "the head's runs now");
    }

    #[test]
    fn only_files_behind_libc_differ() {
        let dir = tempfile::tempdir().unwrap();
        let (own, zone) = (dir.path().join("cc1"), dir.path().join("localtime"));
        fs::write(&own, "one").unwrap();
        let mut toolchain = toolchain(&own, b"one");
        let digest = Digest::of(b"zone");
        let variable = |name: &str, in_folder| Variable { name: name.into(), value: b"localtime".to_vec(), in_folder };
        toolchain.behind.same = vec![SameFile { path: path(&zone), digest: Some(digest) }];
        toolchain.behind.files = vec![ShippedFile { name: b"localtime".to_vec(), source: path(&zone), digest }];
        toolchain.behind.variables = vec![variable("TZ", true), variable("X", false)];
        toolchain.behind.has_archive = true;
        let base = tempfile::tempdir().unwrap();
        let mut first = store(&base, 1);
        let mut toolchains = Toolchains::new(&Session::new("s", false), 1);
        assert_eq!(toolchains.ask(1, toolchain.clone(), &mut first), Answer::Lacks(vec![digest]));
        first.receive(digest, 0, b"zone").unwrap();
        assert_eq!(toolchains.look(1, &mut first), Answer::Fit);
        let usable = toolchains.get(1).unwrap();
        assert_eq!(usable.programs_folder(), None, "the programs are the host's own");
        let variables = usable.variables();
        assert_eq!(fs::read(OsStr::from_bytes(&variables[0].1)).unwrap(), b"zone");
        assert_eq!(variables[1], (b"X".to_vec(), b"localtime".to_vec()));

        let with = |environment: &[&str]| -> Vec<Bytes> {
            environment.iter().map(|entry| entry.as_bytes().to_vec()).collect()
        };
        for (environment, expected) in [
            (&["LANG=C"][..], false),
            (&["LANG=C.UTF-8"], true),
            (&["LANG=C.UTF-8", "LC_ALL=C"], false),
            (&["LC_ALL=", "LC_CTYPE=en_US.UTF-8"], true),
            (&["PATH=/bin"], false),
        ] {
            assert_eq!(usable.lacks_locale(&with(environment)), expected, "{environment:?}");
        }

        // With the head's file in place, nothing is changed.
        fs::write(&zone, "zone").unwrap();
        assert_eq!(toolchains.ask(2, toolchain, &mut first), Answer::Fit);
        assert_eq!(toolchains.get(2).unwrap().variables(), []);
    }
}
