//! The task page: what one remote compile may believe and what it did, in a memfd shared by the rank and all
//! processes of that compile. Two wide: the rank fills it before the compile starts and sets validity bits while it
//! runs; the compile's processes count themselves, mark what they used and list what they wrote.

use crate::table::{ENTRIES_MAX, Span, hash_path};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Descriptor of the table in every process of a remote compile. High enough to be out of the way of shells and
/// compilers, below the usual limit of 1024.
pub const TABLE_FD: i32 = 198;
/// Descriptor of the task page in every process of a remote compile.
pub const TASK_FD: i32 = 199;

/// Files one compile may write; `-save-temps` with every dump of gcc stays below it.
pub const WRITES_MAX: u32 = 1024;
/// Programs a toolchain may execute.
pub const PROGRAMS_MAX: usize = 32;
/// Bytes for the task's own strings and the paths it writes to.
pub const ARENA_BYTES_MAX: usize = 1 << 20;

/// Words of [`Page::writes_filter`]: with 300 written files one look-up in 14 goes through the list in vain.
const FILTER_WORDS: usize = 64;

const BITMAP_WORDS: usize = ENTRIES_MAX as usize / 64;

/// Why a compile's result cannot be trusted: something happened under it that the virtual tree does not cover. The
/// rank throws the result away and the compile runs locally.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Taint {
    /// A call that worker mode does not virtualise yet was made on a path of the head.
    Unsupported = 1,
    /// A program outside the verified toolchain was executed.
    Program = 2,
    /// The rank did not answer a question.
    Unanswered = 3,
    /// A table of fixed size was full, or a path too long.
    Limit = 4,
    /// The store could not deliver a content it had promised.
    Store = 5,
}

impl Taint {
    pub fn from_wire(raw: u32) -> Option<Taint> {
        [Taint::Unsupported, Taint::Program, Taint::Unanswered, Taint::Limit, Taint::Store]
            .into_iter()
            .find(|t| *t as u32 == raw)
    }
}

/// Life of one written path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum WriteState {
    /// Being filled in by a process; readers skip it.
    Reserved = 0,
    /// The scratch file of that number holds the content.
    Live = 1,
    /// It existed on the head and was deleted here.
    Deleted = 2,
    /// It was made and deleted here; the head never needs to know.
    Gone = 3,
    /// A directory made here; the scratch directory of that number stands for it.
    Directory = 4,
    /// A symbolic link made here; the scratch item of that number is a link with the same target.
    Link = 5,
}

impl WriteState {
    pub fn from_raw(raw: u32) -> WriteState {
        match raw {
            1 => WriteState::Live,
            2 => WriteState::Deleted,
            3 => WriteState::Gone,
            4 => WriteState::Directory,
            5 => WriteState::Link,
            _ => WriteState::Reserved,
        }
    }

    /// Is there something of that name?
    pub fn exists(self) -> bool {
        matches!(self, WriteState::Live | WriteState::Directory | WriteState::Link)
    }
}

/// What lies in a task's scratch folder. A name is prefix and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scratch {
    /// A file the compile wrote, or a symbolic link it made.
    File,
    /// A directory the compile made.
    Directory,
}

impl Scratch {
    /// The start of the item's name, with the slash before it.
    pub const fn prefix(self) -> &'static [u8] {
        match self {
            Scratch::File => b"/w",
            Scratch::Directory => b"/d",
        }
    }
}

/// [`WriteEntry::flags`]: the name was unlinked or renamed over here, so publishing replaces the name; without it
/// publishing writes through an existing symlink, FIFO or hard link as the compiler would have.
pub const WRITE_REPLACES: u32 = 1;
/// [`WriteEntry::flags`]: the name exists on the head, so deleting it here deletes it there.
pub const WRITE_HIDES: u32 = 2;
/// [`WriteEntry::flags`]: what was written flows into a FIFO of that name on the head.
pub const WRITE_FIFO: u32 = 4;
/// [`WriteEntry::flags`]: the compile chose the permissions, by chmod(2) and the like.
pub const WRITE_MODE: u32 = 8;
/// [`WriteEntry::flags`]: the compile chose the times, by utimensat(2) and the like.
pub const WRITE_TIMES: u32 = 16;

/// Resource limits one task can be given.
pub const LIMITS_MAX: usize = 8;

/// A resource limit of the head, to hold for the remote compile as well.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Limit {
    /// `RLIMIT_*`.
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
}

#[derive(Debug)]
#[repr(C)]
pub struct WriteEntry {
    pub state: AtomicU32,
    pub flags: AtomicU32,
    /// Number in the scratch file's name.
    pub scratch: AtomicU32,
    /// Written once, before the state leaves [`WriteState::Reserved`], as is the hash.
    key: UnsafeCell<Span>,
    hash: UnsafeCell<u64>,
}

impl WriteEntry {
    pub fn key(&self) -> Span {
        // SAFETY: entries are handed out only once published; the key does not change after that.
        unsafe { *self.key.get() }
    }

    fn hash(&self) -> u64 {
        // SAFETY: as above.
        unsafe { *self.hash.get() }
    }

    pub fn state(&self) -> WriteState {
        WriteState::from_raw(self.state.load(Ordering::Acquire))
    }
}

#[derive(Debug)]
#[repr(C)]
pub struct Page {
    /// [`crate::VERSION`].
    pub version: u32,
    /// The task's number on its rank, sent with every question.
    pub task: u32,
    /// Processes in which the library came up in worker mode.
    pub activations: AtomicU32,
    /// Programs started: 1 by the rank, the others by the exec hooks. A difference from `activations` at the end means
    /// that some process ran without the library.
    pub execs: AtomicU32,
    /// 0 or a [`Taint`]; the first one stays.
    pub taint: AtomicU32,
    /// What was being done when the taint came (a path or a function's name): position and length in the arena.
    taint_detail: AtomicU64,
    /// The head's umask for this invocation.
    pub umask: u32,
    pub limit_count: u32,
    pub limits: [Limit; LIMITS_MAX],
    /// Bit n: descriptor n is a terminal on the head.
    pub terminals: u32,
    /// 1: `window` answers TIOCGWINSZ (`struct winsize` of the head).
    pub has_window: u32,
    pub window: [u16; 4],
    /// The invocation's working directory on the head.
    pub cwd: Span,
    /// This task's scratch folder on the host.
    pub scratch: Span,
    /// The host's content store.
    pub store: Span,
    /// The rank's socket for questions.
    pub socket: Span,
    pub program_count: u32,
    /// Paths that may be executed: the verified programs of the toolchain.
    pub programs: [Span; PROGRAMS_MAX],
    pub writes_used: AtomicU32,
    /// Symbolic links and directories made here; while there are none, no key needs to be searched for them.
    pub ways_made: AtomicU32,
    pub scratch_used: AtomicU32,
    pub arena_used: AtomicU32,
    /// One bit an entry of the table: validated by the head for this task.
    pub valid: [AtomicU64; BITMAP_WORDS],
    /// One bit an entry of the table: looked at by this task.
    pub used: [AtomicU64; BITMAP_WORDS],
    /// One bit for each hash of a written key: nearly every look-up is about something else.
    writes_filter: [AtomicU64; FILTER_WORDS],
    pub writes: [WriteEntry; WRITES_MAX as usize],
    arena: UnsafeCell<[u8; ARENA_BYTES_MAX]>,
}

/// Length of the memory, in bytes; sparse.
pub const PAGE_BYTES: usize = size_of::<Page>();

impl Page {
    /// Bytes of a span of this page's arena; empty when the span lies outside.
    pub fn bytes(&self, span: Span) -> &[u8] {
        let (at, len) = (span.at as usize, span.len as usize);
        if at + len > ARENA_BYTES_MAX {
            return &[];
        }
        // SAFETY: inside the arena by the check; a span is handed out only after its bytes were written, and nobody
        // writes to them again.
        unsafe { core::slice::from_raw_parts(self.arena.get().cast::<u8>().add(at), len) }
    }

    /// Appends bytes to the arena; `None` when it is full. Any process may call it at any time.
    pub fn store(&self, bytes: &[u8]) -> Option<Span> {
        let len = bytes.len() as u32;
        let at = self.arena_used.fetch_add(len, Ordering::Relaxed);
        if at as usize + bytes.len() > ARENA_BYTES_MAX {
            return None;
        }
        // SAFETY: fetch_add reserved this part for us alone.
        unsafe {
            let target = self.arena.get().cast::<u8>().add(at as usize);
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len());
        }
        Some(Span { at, len })
    }

    pub fn is_valid(&self, entry: u32) -> bool {
        bit(&self.valid, entry).is_some_and(|(word, mask)| word.load(Ordering::Acquire) & mask != 0)
    }

    pub fn set_valid(&self, entry: u32) {
        if let Some((word, mask)) = bit(&self.valid, entry) {
            word.fetch_or(mask, Ordering::Release);
        }
    }

    pub fn mark_used(&self, entry: u32) {
        if let Some((word, mask)) = bit(&self.used, entry)
            && word.load(Ordering::Relaxed) & mask == 0
        {
            word.fetch_or(mask, Ordering::Relaxed);
        }
    }

    /// Entries that were looked at, in order of their index.
    pub fn used_entries(&self) -> impl Iterator<Item = u32> + '_ {
        self.used.iter().enumerate().flat_map(|(index, word)| {
            let mut bits = word.load(Ordering::Relaxed);
            core::iter::from_fn(move || {
                (bits != 0).then(|| {
                    let bit = bits.trailing_zeros();
                    bits &= bits - 1;
                    index as u32 * 64 + bit
                })
            })
        })
    }

    /// Records why the result must not be used and what was being done; the first reason stays.
    pub fn taint(&self, why: Taint, detail: &[u8]) {
        let first = self.taint.compare_exchange(0, why as u32, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if first && let Some(span) = self.store(detail) {
            self.taint_detail.store(u64::from(span.at) << 32 | u64::from(span.len), Ordering::Release);
        }
    }

    /// The first taint and its detail.
    pub fn tainted(&self) -> Option<(Taint, &[u8])> {
        let why = Taint::from_wire(self.taint.load(Ordering::Acquire))?;
        let detail = self.taint_detail.load(Ordering::Acquire);
        Some((why, self.bytes(Span { at: (detail >> 32) as u32, len: detail as u32 })))
    }

    pub fn write_entries(&self) -> &[WriteEntry] {
        let used = self.writes_used.load(Ordering::Acquire).min(WRITES_MAX);
        &self.writes[..used as usize]
    }

    /// The newest published entry for `key`, whatever its state.
    pub fn find_write(&self, key: &[u8]) -> Option<&WriteEntry> {
        let hash = hash_path(key);
        let (word, mask) = self.filter(hash);
        if word.load(Ordering::Acquire) & mask == 0 {
            return None;
        }
        self.write_entries().iter().rev().find(|entry| {
            entry.state.load(Ordering::Acquire) != 0 && entry.hash() == hash && self.bytes(entry.key()) == key
        })
    }

    fn filter(&self, hash: u64) -> (&AtomicU64, u64) {
        (&self.writes_filter[hash as usize / 64 % FILTER_WORDS], 1 << (hash % 64))
    }

    /// Adds an entry; `None` when the list or the arena is full.
    pub fn add_write(&self, key: &[u8], state: WriteState, flags: u32, scratch: u32) -> Option<&WriteEntry> {
        let span = self.store(key)?;
        let index = self.writes_used.fetch_add(1, Ordering::AcqRel);
        if index >= WRITES_MAX {
            return None;
        }
        let entry = &self.writes[index as usize];
        let hash = hash_path(key);
        // SAFETY: fetch_add gave us this slot alone; readers skip it until the state is stored below.
        unsafe {
            *entry.key.get() = span;
            *entry.hash.get() = hash;
        }
        entry.flags.store(flags, Ordering::Relaxed);
        entry.scratch.store(scratch, Ordering::Relaxed);
        entry.state.store(state as u32, Ordering::Release);
        let (word, mask) = self.filter(hash);
        word.fetch_or(mask, Ordering::AcqRel);
        Some(entry)
    }
}

fn bit(words: &[AtomicU64; BITMAP_WORDS], index: u32) -> Option<(&AtomicU64, u64)> {
    words.get(index as usize / 64).map(|word| (word, 1 << (index % 64)))
}
