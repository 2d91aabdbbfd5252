//! The toolchains of a session: which driver, with which decisive variables, is which toolchain. Finding out runs the
//! driver and hashes a hundred megabytes unless they were read before ([`readings`]), so it happens in a thread of its
//! own while the actions that need it wait.
//!
//! A compiler that is replaced while the job runs is noticed: the programs' stamps are compared for every action, the
//! libraries' every second ([`Stamps`]).

use crate::driver::toolchain::readings::{self, Earlier, Readings};
use crate::driver::toolchain::stamps::{Stamped, Stamps, stamp};
use crate::driver::toolchain::{self, ToolchainKey, Unusable};
use crate::wire::{ActionId, Digest, Invocation, ShippedFile, Toolchain, ToolchainId};
use anyhow::Result;
use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// A driver that could not be used is given another chance after this: what it lacked may be there by now.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// A toolchain's number, or why the driver cannot be used remotely.
pub type Known = Result<ToolchainId, String>;

pub enum Lookup {
    Known(Known),
    /// The action is answered by [`Toolchains::finished`] later.
    Pending,
}

struct Entry {
    known: Known,
    files: Stamps,
    /// LD_LIBRARY_PATH names folders: all libraries are compared for every action.
    own_libraries: bool,
}

/// What an inspection found out.
struct Inspected {
    key: ToolchainKey,
    result: Result<(Toolchain, Vec<Stamped>), Unusable>,
    readings: Vec<readings::Use>,
}

pub struct Toolchains {
    entries: HashMap<ToolchainKey, Entry>,
    waiting: HashMap<ToolchainKey, Vec<ActionId>>,
    contents: Vec<Toolchain>,
    readings: Arc<Readings>,
    /// Readings that were of use and that nobody took yet.
    used: Vec<readings::Use>,
    sender: Sender<Inspected>,
    receiver: Receiver<Inspected>,
    wake: UnixStream,
    waker: UnixStream,
}

impl Toolchains {
    /// With what `earlier` sessions read.
    pub fn new(earlier: Earlier) -> Result<Toolchains> {
        let (sender, receiver) = channel();
        let (wake, waker) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        Ok(Toolchains {
            entries: HashMap::new(),
            waiting: HashMap::new(),
            contents: Vec::new(),
            readings: Arc::new(Readings::after(earlier)),
            used: Vec::new(),
            sender,
            receiver,
            wake,
            waker,
        })
    }

    /// Readable when [`Toolchains::finished`] has something to say.
    pub fn wake_fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    /// What is known of the invocation's toolchain. If nothing is yet, `action` waits.
    pub fn lookup(&mut self, invocation: &Invocation, action: ActionId) -> Lookup {
        let key = ToolchainKey::of(invocation);
        if let Some(entry) = self.entries.get_mut(&key) {
            if entry.is_unchanged() {
                return Lookup::Known(entry.known.clone());
            }
            self.entries.remove(&key);
        }
        let waiting = self.waiting.entry(key.clone()).or_default();
        waiting.push(action);
        if waiting.len() == 1 {
            self.inspect(key);
        }
        Lookup::Pending
    }

    fn inspect(&self, key: ToolchainKey) {
        let (sender, waker, readings) = (self.sender.clone(), self.waker.try_clone(), Arc::clone(&self.readings));
        std::thread::spawn(move || {
            let result = toolchain::inspect(&key, &readings).map(|toolchain| {
                let files = toolchain.files.iter().chain(&toolchain.behind.same);
                let stamps = files.map(|f| (f.path.clone(), stamp(&f.path))).collect();
                (toolchain, stamps)
            });
            // The dispatcher may have stopped meanwhile; nobody needs the answer then.
            let _ = sender.send(Inspected { key, result, readings: readings.take_uses() });
            if let Ok(mut waker) = waker {
                let _ = waker.write_all(b"!");
            }
        });
    }

    /// Toolchains found out since the last call, each with the actions that waited for it.
    pub fn finished(&mut self) -> Vec<(Known, Vec<ActionId>)> {
        let mut sink = [0u8; 64];
        while matches!(self.wake.read(&mut sink), Ok(count) if count > 0) {}
        let mut finished = Vec::new();
        while let Ok(Inspected { key, result, readings }) = self.receiver.try_recv() {
            self.used.extend(readings);
            let mut entry = Entry {
                known: Err("toolchain-unknown".to_owned()),
                files: Stamps::new([(key.driver().to_vec(), stamp(key.driver()))], &[key.driver().to_vec()]),
                own_libraries: key.has_library_path(),
            };
            match result {
                Ok((toolchain, stamps)) => {
                    entry.files = Stamps::new(stamps, &toolchain.programs);
                    entry.known = Ok(self.number(toolchain));
                }
                Err(Unusable { reason, detail }) => {
                    eprintln!("mpicc-proxy-rank: a toolchain cannot be used remotely: {reason}: {detail}");
                    entry.known = Err(reason.to_owned());
                }
            }
            finished.push((entry.known.clone(), self.waiting.remove(&key).unwrap_or_default()));
            self.entries.insert(key, entry);
        }
        finished
    }

    /// Readings that were of use to what was found out since the last call, for who keeps them.
    pub fn take_used_readings(&mut self) -> Vec<readings::Use> {
        std::mem::take(&mut self.used)
    }

    fn number(&mut self, toolchain: Toolchain) -> ToolchainId {
        let index = self.contents.iter().position(|known| *known == toolchain).unwrap_or_else(|| {
            self.contents.push(toolchain);
            self.contents.len() - 1
        });
        index as ToolchainId
    }

    /// The files of a toolchain that have these contents, once each.
    pub fn files_with(&self, id: ToolchainId, contents: &[Digest]) -> Vec<ShippedFile> {
        let mut wanted: HashSet<&Digest> = contents.iter().collect();
        let Some(toolchain) = self.contents.get(id as usize) else { return Vec::new() };
        let parts = toolchain.shipment.iter().flat_map(|shipment| &shipment.files);
        parts.chain(&toolchain.behind.files).filter(|file| wanted.remove(&file.digest)).cloned().collect()
    }

    pub fn content(&self, id: ToolchainId) -> &Toolchain {
        &self.contents[id as usize]
    }
}

impl Entry {
    fn is_unchanged(&mut self) -> bool {
        if self.known.is_err() && self.files.age() > RETRY_AFTER {
            return false;
        }
        // Folders of the user's own change as builds go on.
        self.files.are_current(self.own_libraries)
    }
}
