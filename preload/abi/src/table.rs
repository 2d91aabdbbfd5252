//! The table of the head's tree: one per host process (rank), in a memfd, written by the rank alone and read by every
//! process of every compile of that rank without a system call.
//!
//! Entries are appended and never change (a new version of a path is a new entry in front of the old one in the
//! bucket's chain), so a reader needs no lock: the rank fills an entry and then publishes it with a release store.
//! Which entries a compile may believe is not said here but in its task page (`task.rs`): one bit an entry.
//!
//! A key is a path as asked: absolute, `//` and `/./` collapsed, `..` kept.

use core::sync::atomic::{AtomicU32, Ordering};

/// Number of entries a table can hold: records of a session until the dispatcher starts a new epoch. A build of
/// 10,000 TUs with 10 private paths each stays below it.
pub const ENTRIES_MAX: u32 = 1 << 17;
/// Hash buckets; load factor at most 1.
pub const BUCKETS: u32 = 1 << 17;
/// Bytes for paths and link targets: 512 for each entry, on average.
pub const ARENA_BYTES_MAX: usize = (ENTRIES_MAX as usize) * 512;

/// A piece of an arena, in bytes from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Span {
    pub at: u32,
    pub len: u32,
}

/// `struct stat` of the head, in fields of fixed width.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Stat {
    pub dev: u64,
    pub ino: u64,
    pub rdev: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub size: i64,
    pub blksize: i64,
    pub blocks: i64,
    /// Seconds and nanoseconds since the epoch.
    pub atime: [i64; 2],
    pub mtime: [i64; 2],
    pub ctime: [i64; 2],
}

/// Bits of [`Entry::access`]: what access(2) granted on the head.
pub const ACCESS_READ: u32 = 4;
pub const ACCESS_WRITE: u32 = 2;
pub const ACCESS_EXECUTE: u32 = 1;

/// What the head knows of one path.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Entry {
    pub hash: u64,
    /// Index + 1 of the next entry in this bucket; 0 ends the chain.
    pub next: u32,
    /// 0, or the errno of stat(2) on the head.
    pub stat_errno: i32,
    /// 0, or the errno of lstat(2) on the head.
    pub lstat_errno: i32,
    /// 0, or the errno of realpath(3) on the head.
    pub real_errno: i32,
    pub key: Span,
    /// Target of a symbolic link.
    pub link: Span,
    /// realpath(3) on the head.
    pub real: Span,
    pub access: u32,
    /// Why writing is not granted: the errno of access(2) on the head (EACCES, EROFS, EPERM), or 0.
    pub write_errno: i32,
    /// 1 once the content is in the host's store under [`Entry::digest`].
    pub content: AtomicU32,
    pub stat: Stat,
    pub lstat: Stat,
    /// BLAKE3 of the content: a regular file's bytes, a directory's names ([`crate::listing`]).
    pub digest: [u8; 32],
}

/// Start of the table's memory.
#[derive(Debug)]
#[repr(C)]
pub struct Header {
    pub version: u32,
    pub entry_bytes: u32,
}

const BUCKETS_AT: usize = 64;
const ENTRIES_AT: usize = BUCKETS_AT + BUCKETS as usize * size_of::<u32>();
const ARENA_AT: usize = (ENTRIES_AT + ENTRIES_MAX as usize * size_of::<Entry>()).next_multiple_of(64);

/// Length of the memory, in bytes; sparse, only what is used is backed by pages.
pub const TABLE_BYTES: usize = ARENA_AT + ARENA_BYTES_MAX;

/// A mapped table.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    base: *mut u8,
}

// SAFETY: entries are immutable once published and publication is atomic; the one writer holds `&mut Writer`.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

impl Table {
    /// # Safety
    /// `base` is a mapping of [`TABLE_BYTES`] bytes that outlives the value.
    pub unsafe fn new(base: *mut u8) -> Table {
        Table { base }
    }

    pub fn header(&self) -> *mut Header {
        self.base.cast()
    }

    fn bucket(&self, hash: u64) -> &AtomicU32 {
        let index = (hash & u64::from(BUCKETS - 1)) as usize;
        // SAFETY: in bounds by the mask; the mapping is page aligned.
        unsafe { &*self.base.add(BUCKETS_AT).cast::<AtomicU32>().add(index) }
    }

    fn entry_ptr(&self, index: u32) -> *mut Entry {
        debug_assert!(index < ENTRIES_MAX);
        // SAFETY: in bounds by the caller's promise above.
        unsafe { self.base.add(ENTRIES_AT).cast::<Entry>().add(index as usize) }
    }

    /// The entry at `index`, if that is a possible index.
    pub fn entry(&self, index: u32) -> Option<&Entry> {
        if index >= ENTRIES_MAX {
            return None;
        }
        // SAFETY: in bounds; unpublished entries are all zero bytes, a valid `Entry`.
        Some(unsafe { &*self.entry_ptr(index) })
    }

    /// Bytes of a span of this table's arena; empty when the span lies outside.
    pub fn bytes(&self, span: Span) -> &[u8] {
        let (at, len) = (span.at as usize, span.len as usize);
        if at + len > ARENA_BYTES_MAX {
            return &[];
        }
        // SAFETY: inside the arena by the check above; published spans never change.
        unsafe { core::slice::from_raw_parts(self.base.add(ARENA_AT + at), len) }
    }

    /// Indices of the entries for `key`, newest first.
    pub fn find<'a>(&'a self, key: &'a [u8], hash: u64) -> impl Iterator<Item = (u32, &'a Entry)> + 'a {
        let mut next = self.bucket(hash).load(Ordering::Acquire);
        // No chain is longer than the table, whatever was written over it.
        let mut left = ENTRIES_MAX;
        core::iter::from_fn(move || {
            while next != 0 && left > 0 {
                left -= 1;
                let index = next - 1;
                let entry = self.entry(index)?;
                next = entry.next;
                if entry.hash == hash && self.bytes(entry.key) == key {
                    return Some((index, entry));
                }
            }
            None
        })
    }
}

/// The rank's right to append to a table.
#[derive(Debug)]
pub struct Writer {
    table: Table,
    arena_used: usize,
}

/// What a new entry says; spans are filled in by [`Writer::publish`].
#[derive(Debug)]
pub struct Facts<'a> {
    pub key: &'a [u8],
    pub link: &'a [u8],
    pub real: &'a [u8],
    pub entry: Entry,
}

impl Writer {
    /// Takes over a zeroed table.
    ///
    /// # Safety
    /// `base` is a writable mapping of [`TABLE_BYTES`] zero bytes that outlives the value; nobody else writes to it.
    pub unsafe fn new(base: *mut u8) -> Writer {
        // SAFETY: promised by the caller.
        let table = unsafe { Table::new(base) };
        // SAFETY: the header lies at the start of the mapping.
        unsafe {
            table.header().write(Header { version: crate::VERSION, entry_bytes: size_of::<Entry>() as u32 });
        }
        Writer { table, arena_used: 0 }
    }

    pub fn table(&self) -> Table {
        self.table
    }

    /// Makes `facts` the newest entry of its key, at `index`. `false`: the index is taken or out of range, or the
    /// arena is full.
    pub fn publish(&mut self, index: u32, facts: Facts<'_>) -> bool {
        let needed = facts.key.len() + facts.link.len() + facts.real.len();
        if index >= ENTRIES_MAX || self.arena_used + needed > ARENA_BYTES_MAX {
            return false;
        }
        // SAFETY: in bounds; only this writer writes entries.
        if unsafe { (*self.table.entry_ptr(index)).hash } != 0 {
            return false;
        }
        let hash = hash_path(facts.key);
        let mut entry = facts.entry;
        entry.hash = hash;
        entry.key = self.store(facts.key);
        entry.link = self.store(facts.link);
        entry.real = self.store(facts.real);
        let bucket = self.table.bucket(hash);
        entry.next = bucket.load(Ordering::Relaxed);
        // SAFETY: in bounds; nobody reads the entry before the bucket points to it.
        unsafe { self.table.entry_ptr(index).write(entry) };
        bucket.store(index + 1, Ordering::Release);
        true
    }

    fn store(&mut self, bytes: &[u8]) -> Span {
        let at = self.arena_used;
        // SAFETY: `publish` checked the room; this part of the arena is not yet referenced.
        unsafe {
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), self.table.base.add(ARENA_AT + at), bytes.len());
        }
        self.arena_used += bytes.len();
        Span { at: at as u32, len: bytes.len() as u32 }
    }
}

/// Hash of a key; never 0, which marks an unused entry. Multiply-and-fold over eight bytes at a time (the mixing step
/// of wyhash, public domain); not for adversaries, who could only slow down their own compile.
pub fn hash_path(key: &[u8]) -> u64 {
    const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
    const MULTIPLIER: u64 = 0xd6e8_feb8_6659_fd93;
    let mut state = SEED ^ key.len() as u64;
    let (chunks, rest) = key.as_chunks::<8>();
    for chunk in chunks {
        state = fold(state ^ u64::from_le_bytes(*chunk), MULTIPLIER);
    }
    let mut last = [0u8; 8];
    last[..rest.len()].copy_from_slice(rest);
    fold(state ^ u64::from_le_bytes(last), MULTIPLIER) | 1 << 63
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}
