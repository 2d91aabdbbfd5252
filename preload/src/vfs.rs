//! Worker side: where a path of the head leads on this host. A path becomes a [`Place`]: this host's own, a scratch
//! file the compile wrote, the head's record, or an error of the head. Opening makes a [`Target`] of it: a real path
//! on this host, so that the descriptor a compiler gets is a real one.
//!
//! Doubt never means "this host's file": what the tree does not cover taints the compile, whose result is then thrown
//! away.
//!
//! # Writes
//! A file opened for writing becomes `<scratch>/w<n>` and an entry in the task page, which every process of the
//! compile consults before the table: what cc1 wrote, as reads.

use crate::exec::current_environ;
use crate::path::{self, Key};
use crate::sys::{self, Errno};
use crate::target::{self, PathText};
use crate::view::{self, Known, Stands};
use core::ffi::{CStr, c_char, c_int};
use core::sync::atomic::Ordering;
use mpicc_proxy_abi::PATH_BYTES_MAX;
use mpicc_proxy_abi::miss::Want;
use mpicc_proxy_abi::table::{ACCESS_EXECUTE, ACCESS_READ, ACCESS_WRITE, Entry};
use mpicc_proxy_abi::task::{Scratch, Taint, WRITE_FIFO, WRITE_HIDES, WRITE_REPLACES, WriteEntry, WriteState};

/// Starts worker mode. `false`: this process cannot be part of a remote compile.
pub fn start() -> bool {
    // The limits of the first process, the driver, are inherited by all others.
    let Some(first) = view::start() else { return false };
    let page = view::page();
    sys::set_umask(page.umask);
    sys::die_with_parent();
    if first {
        for limit in &page.limits[..(page.limit_count as usize).min(page.limits.len())] {
            sys::set_limit(limit);
        }
    }
    true
}

/// Where a path leads.
pub enum Place {
    /// This host's own.
    Own,
    /// Written by this compile.
    Written(&'static WriteEntry),
    /// As on the head; `stat_errno` may say that it does not exist.
    Head(Known),
}

/// The key of a path given relative to descriptor `dir`. `Err`: an errno for the caller.
///
/// # Safety
/// `path` is NULL or NUL-terminated.
pub unsafe fn key(dir: c_int, path: *const c_char) -> Result<Key, Errno> {
    // SAFETY: promised by the caller.
    let key = unsafe { literal_key(dir, path) }?;
    match own_program_at(key.bytes()) {
        Some(program) => path::absolute(b"", program).ok_or(libc::ENAMETOOLONG),
        None => Ok(key),
    }
}

/// What `/proc/self/exe` leads to on the head, if that is the key. A program that was shipped is started by the dynamic
/// linker, which is all the kernel knows of.
pub fn own_program_at(key: &[u8]) -> Option<&'static [u8]> {
    if key == view::OWN_PROGRAM { view::own_program() } else { None }
}

/// As [`key`], for calls that do not follow links.
///
/// # Safety
/// As [`key`].
pub unsafe fn literal_key(dir: c_int, path: *const c_char) -> Result<Key, Errno> {
    if path.is_null() {
        return Err(libc::EFAULT);
    }
    // SAFETY: NUL-terminated by the caller's promise.
    let bytes = unsafe { CStr::from_ptr(path) }.to_bytes();
    if bytes.is_empty() {
        return Err(libc::ENOENT);
    }
    // The kernel counts what was written, however short it is without its `./`.
    if bytes.len() > PATH_BYTES_MAX {
        return Err(libc::ENAMETOOLONG);
    }
    let base = if dir == libc::AT_FDCWD || bytes[0] == b'/' { view::working_directory() } else { folder_of_fd(dir)? };
    let key = path::absolute(base, bytes).ok_or(libc::ENAMETOOLONG)?;
    without_links(key, false)
}

/// The key of the directory a descriptor stands for.
fn folder_of_fd(fd: c_int) -> Result<&'static [u8], Errno> {
    let Some(stands) = view::stands(fd)? else {
        return Err(unsupported(b"a path relative to a descriptor that stands for nothing of the head's"));
    };
    match stands {
        Stands::Written(written) if written.state() == WriteState::Directory => Ok(view::page().bytes(written.key())),
        Stands::Written(_) => Err(libc::ENOTDIR),
        Stands::Head(index) => match view::entry(index) {
            Some(entry) if entry.stat.mode & libc::S_IFMT == libc::S_IFDIR => Ok(view::text(entry.key)),
            _ => Err(libc::ENOTDIR),
        },
    }
}

/// Symbolic links followed before a path counts as a loop, as in the kernel.
const LINKS_MAX: u32 = 40;

/// Replaces the symbolic links that this compile made by where they lead, with `last` also one at the end, and takes out
/// the way into a directory it made and back by `..`: the head knows neither.
fn without_links(mut key: Key, last: bool) -> Result<Key, Errno> {
    let page = view::page();
    if page.ways_made.load(Ordering::Acquire) == 0 {
        return Ok(key);
    }
    for _ in 0..LINKS_MAX {
        let bytes = key.bytes();
        let follow_last = last || key.directory;
        let ends = (1..=bytes.len()).filter(|end| if *end == bytes.len() { follow_last } else { bytes[*end] == b'/' });
        let is_back = |rest: &[u8]| rest == b"/.." || rest.starts_with(b"/../");
        let mut turns = ends.filter_map(|end| {
            let written = page.find_write(&bytes[..end])?;
            let turns = match written.state() {
                WriteState::Link => true,
                WriteState::Directory => is_back(&bytes[end..]),
                _ => false,
            };
            turns.then_some((end, written))
        });
        let Some((end, written)) = turns.next() else { return Ok(key) };
        let mut target = PathText::new();
        let rest = if written.state() == WriteState::Link {
            let scratch = scratch_of(written)?;
            // SAFETY: a NUL-terminated path of ours.
            target.fill(|room| unsafe { sys::readlink(scratch.as_ptr(), room) })?;
            &bytes[end..]
        } else {
            target.push(b".").ok_or(libc::ENAMETOOLONG)?;
            &bytes[end + b"/..".len()..]
        };
        target.push(rest).ok_or(libc::ENAMETOOLONG)?;
        let next = path::absolute(path::parent(&bytes[..end]), target.bytes()).ok_or(libc::ENAMETOOLONG)?;
        key = Key { path: next.path, directory: next.directory || key.directory };
    }
    Err(libc::ELOOP)
}

/// Where a call leads that follows a symbolic link at the end of its path.
pub fn followed(key: Key) -> Result<Key, Errno> {
    without_links(key, true)
}

/// Where `key` leads.
pub fn place(key: &[u8], want: Want) -> Result<Place, Errno> {
    if view::is_own(key) {
        return Ok(Place::Own);
    }
    if view::is_kernels(key) {
        return Err(unsupported(key));
    }
    if let Some(written) = view::page().find_write(key) {
        return Ok(Place::Written(written));
    }
    view::lookup(key, want).map(Place::Head).ok_or(libc::EIO)
}

/// What to open instead of a path.
pub struct Target {
    pub path: PathText,
    pub flags: c_int,
    /// What the descriptor will stand for.
    pub stands: Stands,
}

const WRITING: c_int = libc::O_CREAT | libc::O_TRUNC | libc::O_WRONLY | libc::O_RDWR;

/// Decides what open(2) with these flags opens. `Ok(None)`: the path itself.
pub fn target(key: Key, flags: c_int) -> Result<Option<Target>, Errno> {
    let writing = flags & WRITING != 0;
    let key = &if flags & libc::O_NOFOLLOW != 0 || (flags & libc::O_CREAT != 0 && flags & libc::O_EXCL != 0) {
        key
    } else {
        followed(key)?
    };
    if flags & (libc::O_TMPFILE & !libc::O_DIRECTORY) != 0 && !view::is_own(key.bytes()) {
        return Err(unsupported(key.bytes()));
    }
    let want = if writing && flags & libc::O_TRUNC != 0 { Want::Record } else { Want::Content };
    match place(key.bytes(), want)? {
        Place::Own => Ok(None),
        Place::Written(written) => match written.state() {
            state if state.exists() && flags & libc::O_CREAT != 0 && flags & libc::O_EXCL != 0 => Err(libc::EEXIST),
            WriteState::Live if written.flags.load(Ordering::Acquire) & WRITE_FIFO != 0 => {
                Err(unsupported(b"a FIFO that is opened twice"))
            }
            WriteState::Live if key.directory && flags & libc::O_CREAT != 0 => Err(libc::EISDIR),
            WriteState::Live if key.directory => Err(libc::ENOTDIR),
            WriteState::Live if flags & libc::O_DIRECTORY != 0 => Err(libc::ENOTDIR),
            WriteState::Live => scratch_target(written, flags),
            WriteState::Link => Err(libc::ELOOP),
            WriteState::Directory if writing => Err(libc::EISDIR),
            WriteState::Directory => scratch_target(written, flags),
            _ if flags & libc::O_CREAT == 0 => Err(libc::ENOENT),
            _ => revive(written, flags),
        },
        Place::Head(known) if writing => write_target(key, known, flags),
        Place::Head(known) => read_target(key, known, flags),
    }
}

/// The scratch item behind something this compile made.
pub fn scratch_of(written: &WriteEntry) -> Result<PathText, Errno> {
    let kind = if written.state() == WriteState::Directory { Scratch::Directory } else { Scratch::File };
    view::scratch_path(kind, written.scratch.load(Ordering::Acquire)).ok_or_else(limit)
}

fn scratch_target(written: &'static WriteEntry, flags: c_int) -> Result<Option<Target>, Errno> {
    let path = scratch_of(written)?;
    Ok(Some(Target { path, flags: flags & !libc::O_EXCL, stands: Stands::Written(written) }))
}

/// A name that was deleted is made anew, as something of another scratch number; `make` makes the item.
pub fn revive_as(
    written: &WriteEntry,
    state: WriteState,
    make: impl FnOnce(&PathText) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let number = view::page().scratch_used.fetch_add(1, Ordering::AcqRel);
    let kind = if state == WriteState::Directory { Scratch::Directory } else { Scratch::File };
    make(&view::scratch_path(kind, number).ok_or_else(limit)?)?;
    let kept = written.flags.load(Ordering::Acquire) & WRITE_HIDES;
    let replaces = if written.state() == WriteState::Deleted { WRITE_REPLACES } else { 0 };
    written.flags.store(kept | replaces, Ordering::Release);
    written.scratch.store(number, Ordering::Release);
    written.state.store(state as u32, Ordering::Release);
    Ok(())
}

fn revive(written: &'static WriteEntry, flags: c_int) -> Result<Option<Target>, Errno> {
    revive_as(written, WriteState::Live, |_| Ok(()))?;
    scratch_target(written, flags)
}

fn read_target(key: &Key, known: Known, flags: c_int) -> Result<Option<Target>, Errno> {
    let entry = known.entry;
    refuse_link(key, entry, flags)?;
    if entry.stat_errno != 0 {
        return Err(entry.stat_errno);
    }
    let kind = entry.stat.mode & libc::S_IFMT;
    if kind != libc::S_IFDIR && (key.directory || flags & libc::O_DIRECTORY != 0) {
        return Err(libc::ENOTDIR);
    }
    let only_name = flags & libc::O_PATH != 0;
    if entry.access & ACCESS_READ == 0 && !only_name {
        return Err(libc::EACCES);
    }
    let path = match kind {
        // Nothing of a file can be had through such a descriptor, not even its content for a later open.
        _ if only_name && kind != libc::S_IFDIR => return Err(unsupported(key.bytes())),
        libc::S_IFREG => view::store_path(entry).ok_or_else(limit)?,
        // Any folder does: compilers open one by mistake and look at its fstat(2). Reading names is opendir's matter.
        libc::S_IFDIR => {
            let mut folder = PathText::new();
            folder.push(view::page().bytes(view::page().scratch)).ok_or_else(limit)?;
            folder
        }
        _ => return Err(unsupported(key.bytes())),
    };
    Ok(Some(Target { path, flags, stands: Stands::Head(known.index) }))
}

/// Is a link at the end of the path an error?
fn refuse_link(key: &Key, entry: &Entry, flags: c_int) -> Result<(), Errno> {
    let refused = flags & libc::O_NOFOLLOW != 0 && !key.directory && is_link(entry);
    match refused {
        true if flags & libc::O_DIRECTORY != 0 => Err(libc::ENOTDIR),
        true => Err(libc::ELOOP),
        false => Ok(()),
    }
}

fn write_target(key: &Key, known: Known, flags: c_int) -> Result<Option<Target>, Errno> {
    let entry = known.entry;
    if flags & libc::O_CREAT != 0 && flags & libc::O_EXCL != 0 && entry.lstat_errno == 0 {
        return Err(libc::EEXIST);
    }
    refuse_link(key, entry, flags)?;
    match entry.stat_errno {
        0 => {
            let kind = entry.stat.mode & libc::S_IFMT;
            let creates = flags & libc::O_CREAT != 0;
            if kind == libc::S_IFDIR || (key.directory && creates) {
                return Err(libc::EISDIR);
            }
            if key.directory {
                return Err(libc::ENOTDIR);
            }
            if entry.access & ACCESS_WRITE == 0 {
                return Err(entry.write_errno);
            }
            if kind == libc::S_IFIFO && flags & (libc::O_ACCMODE | libc::O_NONBLOCK) == libc::O_WRONLY {
                // What is written flows into it when the result is published, and the reader sees the end then.
                let written = add_write(key.bytes(), WriteState::Live, WRITE_HIDES | WRITE_FIFO)?;
                return scratch_target(written, flags | libc::O_CREAT);
            }
            if kind != libc::S_IFREG {
                return Err(unsupported(key.bytes()));
            }
        }
        libc::ENOENT if flags & libc::O_CREAT == 0 => return Err(libc::ENOENT),
        libc::ENOENT if key.directory => return Err(libc::EISDIR),
        libc::ENOENT => may_create_in(path::parent(key.bytes()))?,
        errno => return Err(errno),
    }
    let hides = if entry.lstat_errno == 0 { WRITE_HIDES } else { 0 };
    let written = add_write(key.bytes(), WriteState::Live, hides)?;
    let target = scratch_target(written, flags | libc::O_CREAT)?;
    if entry.stat_errno == 0
        && flags & libc::O_TRUNC == 0
        && let Some(target) = &target
    {
        copy_content(entry, target)?;
    }
    Ok(target)
}

/// The file is changed in place: it starts as it is on the head.
fn copy_content(entry: &Entry, target: &Target) -> Result<(), Errno> {
    if entry.access & ACCESS_READ == 0 {
        return Err(unsupported(b"a write into an unreadable file"));
    }
    let content = view::store_path(entry).ok_or_else(limit)?;
    // SAFETY: NUL-terminated paths of ours.
    let open = || unsafe { sys::open(content.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC, 0) };
    let from = view::open_content(entry, open)?;
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC;
    // SAFETY: as above.
    let result = unsafe { sys::open(target.path.as_ptr(), flags, entry.stat.mode & 0o7777) }.and_then(|to| {
        let result = sys::copy(from, to);
        sys::close(to);
        result
    });
    sys::close(from);
    result
}

/// May a name be made (or removed) in this folder of the head?
pub fn may_create_in(folder: &[u8]) -> Result<(), Errno> {
    match place(folder, Want::Record)? {
        Place::Own => Ok(()),
        Place::Written(written) if written.state() == WriteState::Directory => Ok(()),
        Place::Written(written) if written.state() == WriteState::Live => Err(libc::ENOTDIR),
        Place::Written(_) => Err(libc::ENOENT),
        Place::Head(Known { entry, .. }) => {
            if entry.stat_errno != 0 {
                Err(entry.stat_errno)
            } else if entry.stat.mode & libc::S_IFMT != libc::S_IFDIR {
                Err(libc::ENOTDIR)
            } else if entry.access & ACCESS_EXECUTE == 0 {
                Err(libc::EACCES)
            } else if entry.access & ACCESS_WRITE == 0 {
                Err(entry.write_errno)
            } else {
                Ok(())
            }
        }
    }
}

/// Lists `key` as written; the scratch number is new.
pub fn add_write(key: &[u8], state: WriteState, flags: u32) -> Result<&'static WriteEntry, Errno> {
    let page = view::page();
    let number = page.scratch_used.fetch_add(1, Ordering::AcqRel);
    page.add_write(key, state, flags, number).ok_or_else(limit)
}

pub fn is_link(entry: &Entry) -> bool {
    entry.lstat_errno == 0 && entry.lstat.mode & libc::S_IFMT == libc::S_IFLNK
}

/// Taints the compile and returns the errno the program sees meanwhile.
pub fn unsupported(what: &[u8]) -> Errno {
    view::taint(Taint::Unsupported, what);
    libc::ENOSYS
}

fn limit() -> Errno {
    view::taint(Taint::Limit, b"written files or path length");
    libc::ENAMETOOLONG
}

/// Makes a temporary file that was not there before: the target for its name, or EEXIST. The head is not asked for the
/// name, which nobody can have by chance (62^6 of them), only for its folder.
pub fn temporary_target(key: &[u8], flags: c_int) -> Result<Target, Errno> {
    if view::page().find_write(key).is_some() {
        return Err(libc::EEXIST);
    }
    may_create_in(path::parent(key))?;
    let written = add_write(key, WriteState::Live, 0)?;
    let path = scratch_of(written)?;
    Ok(Target { path, flags, stands: Stands::Written(written) })
}

/// Called before `path` is executed: only the verified programs of the toolchain may run, because any other would be
/// this host's instead of the head's. Which of them it is.
///
/// # Safety
/// `path` is NUL-terminated.
pub unsafe fn before_exec(path: *const c_char) -> Result<usize, Errno> {
    // SAFETY: promised by the caller.
    let key = unsafe { key(libc::AT_FDCWD, path) }?;
    if view::has_moved() {
        return Err(unsupported(b"a program started from another working directory"));
    }
    let page = view::page();
    let count = (page.program_count as usize).min(page.programs.len());
    let is_meant =
        |index: &usize| [page.programs[*index], page.reals[*index]].iter().any(|name| page.bytes(*name) == key.bytes());
    if let Some(index) = (0..count).find(is_meant) {
        page.execs.fetch_add(1, Ordering::AcqRel);
        return Ok(index);
    }
    if let Place::Head(known) = place(key.bytes(), Want::Record)?
        && known.entry.stat_errno != 0
    {
        return Err(known.entry.stat_errno);
    }
    view::taint(Taint::Program, key.bytes());
    Err(libc::EACCES)
}

/// Finds `file` in `PATH` as the head would and writes its path, NUL-terminated, to `out`.
///
/// # Safety
/// `file` is NUL-terminated.
pub unsafe fn search_path(file: *const c_char, out: &mut [u8; PATH_BYTES_MAX + 1]) -> Result<(), Errno> {
    // SAFETY: promised by the caller.
    let name = unsafe { CStr::from_ptr(file) }.to_bytes();
    if name.is_empty() {
        return Err(libc::ENOENT);
    }
    let mut copy = |bytes: &[u8]| {
        let room = out.get_mut(..=bytes.len()).ok_or(libc::ENAMETOOLONG)?;
        room[..bytes.len()].copy_from_slice(bytes);
        room[bytes.len()] = 0;
        Ok(())
    };
    if name.contains(&b'/') {
        return copy(name);
    }
    // SAFETY: the process's environment, which nobody changes while we look at it.
    let folders = unsafe { target::path_of(current_environ()) }.unwrap_or(target::DEFAULT_PATH);
    let mut denied = false;
    for folder in folders.split(|b| *b == b':') {
        let mut candidate = PathText::new();
        let folder = if folder.is_empty() { b"." } else { folder };
        if [folder, b"/", name].into_iter().any(|part| candidate.push(part).is_none()) {
            continue;
        }
        let Some(key) = path::absolute(view::working_directory(), candidate.bytes()) else { continue };
        let Place::Head(Known { entry, .. }) = place(key.bytes(), Want::Record)? else { continue };
        if entry.stat_errno == 0 && entry.stat.mode & libc::S_IFMT == libc::S_IFREG {
            if entry.access & ACCESS_EXECUTE != 0 {
                return copy(candidate.bytes());
            }
            denied = true;
        }
    }
    Err(if denied { libc::EACCES } else { libc::ENOENT })
}

/// The exec announced by [`before_exec`] did not happen.
pub fn exec_failed() {
    view::page().execs.fetch_sub(1, Ordering::AcqRel);
}
