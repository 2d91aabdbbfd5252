//! What this process of a remote compile knows of the head: the mapped table and task page, the question to the rank
//! when they do not know a path, and the descriptors that stand for files of the head. Knows no libc entry point.
//!
//! State lives in the shared memory or in atomics set once; a vfork child shares it with its parent, so the socket is
//! tied to the process id that opened it.

use crate::path;
use crate::sys;
use crate::target::PathText;
use core::ffi::{CStr, c_int};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use mpicc_proxy_abi::miss::{Answer, Request, Status, Want};
use mpicc_proxy_abi::table::{Entry, Header, TABLE_BYTES, Table, hash_path};
use mpicc_proxy_abi::task::{PAGE_BYTES, Page, Scratch, TABLE_FD, TASK_FD, Taint, WRITES_MAX, WriteEntry};
use mpicc_proxy_abi::{PATH_BYTES_MAX, VERSION};

static TABLE: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());
static PAGE: AtomicPtr<Page> = AtomicPtr::new(core::ptr::null_mut());

/// The kernel's folders. What lies there belongs to a process or a machine and is covered by no record. `/dev/shm` is
/// memory, where people do build.
const KERNEL_FOLDERS: [&[u8]; 3] = [b"/proc", b"/sys", b"/dev"];
const SHARED_MEMORY: &[u8] = b"/dev/shm";

/// The link to the program that runs.
pub const OWN_PROGRAM: &[u8] = b"/proc/self/exe";

/// Files of the kernel's that are the same everywhere (the first four), or about this very process.
const OWN_FILES: [&[u8]; 6] =
    [b"/dev/null", b"/dev/zero", b"/dev/urandom", b"/dev/random", OWN_PROGRAM, b"/proc/self/fd"];

/// Maps table and page. `Some(true)`: this is the task's first process. `None`: something does not fit.
pub fn start() -> Option<bool> {
    let (Some(table), Some(page)) =
        (sys::map_shared(TABLE_FD, TABLE_BYTES, false), sys::map_shared(TASK_FD, PAGE_BYTES, true))
    else {
        return None;
    };
    // SAFETY: both mappings have the full length and start with the version fields.
    let (header, page) = unsafe { (&*table.cast::<Header>(), &*page.cast::<Page>()) };
    if header.version != VERSION || header.entry_bytes as usize != size_of::<Entry>() || page.version != VERSION {
        return None;
    }
    TABLE.store(table.cast(), Ordering::Release);
    PAGE.store(core::ptr::from_ref(page).cast_mut(), Ordering::Release);
    if page.is_shipped() {
        PROGRAM.store(page.program_of_file(command_name()?.bytes())? as u32, Ordering::Release);
    }
    Some(page.activations.fetch_add(1, Ordering::AcqRel) == 0)
}

/// The program this process is, of a shipped toolchain.
static PROGRAM: AtomicU32 = AtomicU32::new(NO_PROGRAM);
const NO_PROGRAM: u32 = u32::MAX;

/// What the kernel was told that this process is called. `argv[0]` is already what the program is to see.
fn command_name() -> Option<PathText> {
    // SAFETY: a C string.
    let file = unsafe { sys::Fd::open(c"/proc/self/cmdline".as_ptr()) }.ok()?;
    let mut command = [0; PATH_BYTES_MAX];
    let count = file.read_at(0, &mut command).ok()?;
    let mut name = PathText::new();
    name.push(command.get(..count)?.split(|byte| *byte == 0).next()?)?;
    Some(name)
}

/// The real path on the head of the program this process is. `None`: it is what the kernel says.
pub fn own_program() -> Option<&'static [u8]> {
    let page = page();
    let real = page.reals.get(PROGRAM.load(Ordering::Acquire) as usize)?;
    Some(page.bytes(*real))
}

/// The path by which the head would have executed the program this process is.
pub fn own_name() -> Option<&'static CStr> {
    let page = page();
    let name = page.loader.names.get(PROGRAM.load(Ordering::Acquire) as usize)?;
    CStr::from_bytes_with_nul(page.bytes(*name)).ok()
}

/// This compile's page. Only worker-mode handlers call it, and worker mode begins after [`start`].
pub fn page() -> &'static Page {
    // SAFETY: set by `start`, never unmapped.
    unsafe { &*PAGE.load(Ordering::Acquire) }
}

fn table() -> Table {
    // SAFETY: set by `start`, never unmapped.
    unsafe { Table::new(TABLE.load(Ordering::Acquire)) }
}

/// A string of an entry.
pub fn text(span: mpicc_proxy_abi::table::Span) -> &'static [u8] {
    let table = table();
    let bytes = table.bytes(span);
    // SAFETY: the table stays mapped for the life of the process; published bytes never change.
    unsafe { core::slice::from_raw_parts(bytes.as_ptr(), bytes.len()) }
}

/// Is this path the worker host's own business?
pub fn is_own(key: &[u8]) -> bool {
    let page = page();
    path::is_below(key, page.bytes(page.scratch))
        || path::is_below(key, page.bytes(page.store))
        || OWN_FILES.contains(&key)
}

/// Is this a file of the kernel's that is the same on every host?
pub fn is_everywhere(key: &[u8]) -> bool {
    OWN_FILES[..4].contains(&key)
}

/// Is this path the kernel's, on whichever host it is asked for? `/dev` itself is a directory like others: clang looks at
/// the one in which a source lies, be it `/dev/null`. So is what gcc looks for beside such a source, a precompiled header:
/// a name that no device has.
pub fn is_kernels(key: &[u8]) -> bool {
    let in_folder = KERNEL_FOLDERS.iter().any(|folder| path::is_below(key, folder));
    let is_header = key.strip_suffix(b".gch").is_some_and(is_everywhere);
    in_folder && key != b"/dev" && !is_header && !path::is_below(key, SHARED_MEMORY)
}

/// Marks the result as not to be used.
pub fn taint(why: Taint, detail: &[u8]) {
    page().taint(why, detail);
}

/// A record with its index in the table.
#[derive(Clone, Copy)]
pub struct Known {
    pub index: u32,
    pub entry: &'static Entry,
}

/// What the head knows of `key`. With [`Want::Content`], the content of a regular file is in the store afterwards, with
/// [`Want::Listing`] that of a directory. `None`: the rank does not answer; the compile is tainted.
pub fn lookup(key: &[u8], want: Want) -> Option<Known> {
    let hash = hash_path(key);
    if let Some(known) = probe(key, hash)
        && satisfies(known.entry, want)
    {
        return Some(known);
    }
    if ask(key, want).is_none() {
        taint(Taint::Unanswered, key);
        return None;
    }
    let known = probe(key, hash);
    if known.is_none_or(|known| !satisfies(known.entry, want)) {
        taint(Taint::Store, key);
    }
    known
}

fn probe(key: &[u8], hash: u64) -> Option<Known> {
    let (table, page) = (table(), page());
    let (index, _) = table.find(key, hash).find(|(index, _)| page.is_valid(*index))?;
    page.mark_used(index);
    // SAFETY: the table stays mapped for the life of the process; published entries never change.
    let entry = unsafe { &*core::ptr::from_ref(table.entry(index)?) };
    Some(Known { index, entry })
}

fn satisfies(entry: &Entry, want: Want) -> bool {
    let kind = match want {
        Want::Record => return true,
        Want::Content => libc::S_IFREG,
        Want::Listing => libc::S_IFDIR,
    };
    let has_content = entry.stat_errno == 0
        && entry.stat.mode & libc::S_IFMT == kind
        && entry.access & mpicc_proxy_abi::table::ACCESS_READ != 0;
    !has_content || entry.content.load(Ordering::Acquire) == 1
}

/// Opens something of the store with `open`, again if it fails for want of the name: the host's ranks evict contents
/// that nobody used for long, at any time, and bring them again when asked. `None`: it cannot be had.
pub fn open_content<T>(entry: &Entry, mut open: impl FnMut() -> Result<T, c_int>) -> Result<T, c_int> {
    /// A store that loses contents so fast is of no use to this compile.
    const TRIES: u32 = 4;
    let mut result = open();
    for _ in 1..TRIES {
        if !matches!(result, Err(libc::ENOENT)) || ask(text(entry.key), Want::Content).is_none() {
            break;
        }
        result = open();
    }
    result
}

/// [`open_content`] of the entry at `index`.
pub fn open_content_of<T>(index: u32, open: impl FnMut() -> Result<T, c_int>) -> Result<T, c_int> {
    open_content(entry(index).ok_or(libc::EIO)?, open)
}

/// Where the content of an entry lies on this host. `None`: too long.
pub fn store_path(entry: &Entry) -> Option<PathText> {
    let page = page();
    let mut path = PathText::new();
    path.push(page.bytes(page.store))?;
    path.push(b"/")?;
    path.push_hex(&entry.digest)?;
    Some(path)
}

/// The name of scratch item `<kind><number>`. `None`: too long.
pub fn scratch_path(kind: Scratch, number: u32) -> Option<PathText> {
    let page = page();
    let mut path = PathText::new();
    path.push(page.bytes(page.scratch))?;
    path.push(kind.prefix())?;
    path.push_number(number)?;
    Some(path)
}

static SOCKET: AtomicI32 = AtomicI32::new(-1);
static SOCKET_OWNER: AtomicI32 = AtomicI32::new(0);
static SOCKET_BUSY: AtomicBool = AtomicBool::new(false);

/// Lowest descriptor for the socket to the rank, beside the table's and the page's.
const SOCKET_FD_MIN: c_int = TASK_FD + 1;

/// Asks the rank. `Some` when the table has the answer.
fn ask(key: &[u8], want: Want) -> Option<()> {
    let own_process = sys::getpid();
    while SOCKET_BUSY.swap(true, Ordering::Acquire) {
        sys::yield_now();
    }
    let kept = SOCKET.load(Ordering::Relaxed);
    let result = if kept >= 0 && SOCKET_OWNER.load(Ordering::Relaxed) == own_process {
        exchange(kept, key, want)
    } else if let Some(fd) = connect() {
        let result = exchange(fd, key, want);
        if kept < 0 {
            SOCKET.store(fd, Ordering::Relaxed);
            SOCKET_OWNER.store(own_process, Ordering::Relaxed);
        } else {
            // A vfork or fork child: the parent's socket stays the parent's.
            sys::close(fd);
        }
        result
    } else {
        None
    };
    SOCKET_BUSY.store(false, Ordering::Release);
    result
}

fn connect() -> Option<c_int> {
    let page = page();
    sys::connect_seqpacket(page.bytes(page.socket), SOCKET_FD_MIN)
}

fn exchange(fd: c_int, key: &[u8], want: Want) -> Option<()> {
    const HEAD: usize = size_of::<Request>();
    let request = Request { version: VERSION, task: page().task, want: want as u32, path_bytes: key.len() as u32 };
    let mut datagram = [0u8; HEAD + PATH_BYTES_MAX];
    // SAFETY: `Request` is four u32 without padding.
    datagram[..HEAD].copy_from_slice(&unsafe { core::mem::transmute::<Request, [u8; HEAD]>(request) });
    datagram.get_mut(HEAD..HEAD + key.len())?.copy_from_slice(key);
    if !sys::send_all(fd, &datagram[..HEAD + key.len()]) {
        return None;
    }
    let mut raw = [0u8; size_of::<Answer>()];
    if !sys::receive(fd, &mut raw) {
        return None;
    }
    // SAFETY: `Answer` is one u32; any bits are valid.
    let answer = unsafe { core::mem::transmute::<[u8; size_of::<Answer>()], Answer>(raw) };
    (answer.status == Status::Ready as u32).then_some(())
}

/// What a descriptor stands for.
#[derive(Clone, Copy)]
pub enum Stands {
    /// The head's file: index of its entry.
    Head(u32),
    /// What this compile made.
    Written(&'static WriteEntry),
}

/// Marks an index of the list of writes in [`FD_ENTRY`].
const WRITTEN: u64 = 1 << 32;

/// Descriptors that stand for a file of the head: number -> what, with the identity of what was really opened, so
/// that a descriptor which was closed and used again is told apart without a hook on close(2).
const FDS_MAX: usize = 1024;
static FD_ENTRY: [AtomicU64; FDS_MAX] = [const { AtomicU64::new(0) }; FDS_MAX];
static FD_DEV: [AtomicU64; FDS_MAX] = [const { AtomicU64::new(0) }; FDS_MAX];
static FD_INO: [AtomicU64; FDS_MAX] = [const { AtomicU64::new(0) }; FDS_MAX];

/// One more than the highest descriptor ever noted.
static FDS_NOTED: AtomicUsize = AtomicUsize::new(0);

/// Notes what `fd` was opened for.
pub fn note_fd(fd: c_int, stands: Stands) {
    let (Some(slot), Some(stat)) = (usize::try_from(fd).ok().filter(|fd| *fd < FDS_MAX), sys::fstat(fd)) else {
        taint(Taint::Limit, b"descriptor number");
        return;
    };
    let value = match stands {
        Stands::Head(index) => u64::from(index) + 1,
        Stands::Written(entry) => {
            let first = page().writes.as_ptr();
            let index = (core::ptr::from_ref(entry) as usize - first as usize) / size_of::<WriteEntry>();
            (index as u64 + 1) | WRITTEN
        }
    };
    FD_DEV[slot].store(stat.st_dev, Ordering::Relaxed);
    FD_INO[slot].store(stat.st_ino, Ordering::Relaxed);
    FD_ENTRY[slot].store(value, Ordering::Release);
    FDS_NOTED.fetch_max(slot + 1, Ordering::AcqRel);
}

/// What `fd` stands for, given what fstat(2) really says of it.
pub fn stands_for(fd: c_int, dev: u64, ino: u64) -> Option<Stands> {
    let noted = |slot: usize| {
        let value = FD_ENTRY[slot].load(Ordering::Acquire);
        let same = FD_DEV[slot].load(Ordering::Relaxed) == dev && FD_INO[slot].load(Ordering::Relaxed) == ino;
        (same && value != 0).then_some(value)
    };
    let slots = FDS_NOTED.load(Ordering::Acquire).min(FDS_MAX);
    let own = usize::try_from(fd).ok().filter(|slot| *slot < slots).and_then(noted);
    let value = match own {
        Some(value) => value,
        // A duplicate of a descriptor, which no hook sees: it stands for what its original stands for.
        None => {
            let value = (0..slots).find_map(noted)?;
            if (0..slots).filter_map(noted).any(|other| other != value) {
                taint(Taint::Unsupported, b"a duplicate of a descriptor that may stand for several files");
            }
            value
        }
    };
    let index = (value & (WRITTEN - 1)) as u32 - 1;
    if value & WRITTEN == 0 {
        return Some(Stands::Head(index));
    }
    (index < WRITES_MAX).then(|| Stands::Written(&page().writes[index as usize]))
}

/// The entry at an index that [`stands_for`] gave.
pub fn entry(index: u32) -> Option<&'static Entry> {
    let table = table();
    // SAFETY: the table stays mapped for the life of the process; published entries never change.
    Some(unsafe { &*core::ptr::from_ref(table.entry(index)?) })
}

/// The entry of the head's file that `fd` stands for, given what fstat(2) really says of it.
pub fn entry_of_fd(fd: c_int, dev: u64, ino: u64) -> Option<&'static Entry> {
    match stands_for(fd, dev, ino)? {
        Stands::Head(index) => entry(index),
        Stands::Written(_) => None,
    }
}

/// What `fd` stands for. `Err`: an errno for the caller; `Ok(None)`: nothing of the head's.
pub fn stands(fd: c_int) -> Result<Option<Stands>, sys::Errno> {
    let stat = sys::fstat(fd).ok_or(libc::EBADF)?;
    Ok(stands_for(fd, stat.st_dev, stat.st_ino))
}

/// Where chdir(2) led this process: an entry's index, plus 1.
static FOLDER: AtomicU32 = AtomicU32::new(0);

/// The working directory on the head.
pub fn working_directory() -> &'static [u8] {
    match FOLDER.load(Ordering::Acquire).checked_sub(1).and_then(entry) {
        Some(entry) => text(entry.real),
        None => page().bytes(page().cwd),
    }
}

/// The working directory is from now on that of the entry at `index`.
pub fn change_folder(index: u32) {
    FOLDER.store(index + 1, Ordering::Release);
}

/// Is this process elsewhere than where the compile began? Programs it starts would not know.
pub fn has_moved() -> bool {
    FOLDER.load(Ordering::Acquire) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_kernels() {
        for key in
            ["/dev/stdin", "/dev/fd/5", "/dev/null/x", "/dev/tty.gch", "/dev/null.gch/x", "/proc/version", "/sys"]
        {
            assert!(is_kernels(key.as_bytes()), "{key}");
        }
        // An empty source is `/dev/null` in many a question that make files ask; gcc looks for its precompiled header.
        for key in ["/dev", "/dev/null.gch", "/dev/zero.gch", "/dev/shm", "/dev/shm/x.c", "/devel/x.c", "/x.c"] {
            assert!(!is_kernels(key.as_bytes()), "{key}");
        }
    }
}
