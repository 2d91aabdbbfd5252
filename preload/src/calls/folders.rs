//! Directory streams. What a directory holds is a content in the store ([`mpicc_proxy_abi::listing`]), in the head's
//! order; what this compile deleted is left out and what it made is appended. A stream is one mapping: this struct, then
//! the names, so that readdir(3) hands out pointers into it. Streams of this host's own folders stay the C library's,
//! which begin with a descriptor and can thus be told from ours.

use super::fail;
use crate::hook::set_errno;
use crate::path;
use crate::sys::{self, Errno};
use crate::table::real;
use crate::target::PathText;
use crate::vfs::{self, Place};
use crate::view::{self, Known, Stands};
use core::ffi::{c_char, c_int, c_long, c_void};
use libc::{AT_FDCWD, DIR, dirent64};
use mpicc_proxy_abi::listing::{self, Name, RECORD_BYTES_MAX};
use mpicc_proxy_abi::miss::Want;
use mpicc_proxy_abi::table::{ACCESS_READ, Entry};
use mpicc_proxy_abi::task::{WriteEntry, WriteState};

/// What a stream of ours begins with; no descriptor looks like it.
const MAGIC: u64 = u64::from_ne_bytes(*b"\xffmpiccDS");

#[repr(C)]
struct Stream {
    magic: u64,
    fd: c_int,
    /// Bytes of the whole mapping.
    mapped: usize,
    /// Bytes of the names behind this struct, and how many of them were read.
    bytes: usize,
    at: usize,
}

impl Stream {
    fn names(&self) -> &[u8] {
        // SAFETY: the mapping holds the struct and that many bytes.
        unsafe { core::slice::from_raw_parts(core::ptr::from_ref(self).add(1).cast(), self.bytes) }
    }
}

/// Is the stream one of ours?
///
/// # Safety
/// `stream` came from opendir(3).
unsafe fn ours<'a>(stream: *mut DIR) -> Option<&'a mut Stream> {
    let stream = stream.cast::<Stream>();
    // SAFETY: the C library's streams are longer than a word, too.
    (!stream.is_null() && unsafe { (*stream).magic } == MAGIC).then(|| unsafe { &mut *stream })
}

/// A whole file, mapped.
struct Mapped(*mut c_void, usize);

impl Mapped {
    fn listing_of(entry: &Entry) -> Result<Mapped, Errno> {
        let path = view::store_path(entry).ok_or(libc::ENAMETOOLONG)?;
        // SAFETY: a NUL-terminated path of ours.
        let open = || unsafe { sys::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC, 0) };
        let fd = view::open_content(entry, open)?;
        let size = sys::fstat(fd).map_or(0, |stat| stat.st_size as usize);
        let memory = if size == 0 { None } else { sys::map_shared(fd, size, false) };
        sys::close(fd);
        memory.map(|memory| Mapped(memory, size)).ok_or(libc::EIO)
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: mapped in full; contents in the store never change.
        unsafe { core::slice::from_raw_parts(self.0.cast(), self.1) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: a mapping of ours that nobody uses any more.
        unsafe { sys::unmap(self.0, self.1) };
    }
}

/// What this compile made or deleted in a folder: the name, and the type if it exists.
fn changes(folder: &[u8]) -> impl Iterator<Item = (&'static [u8], Option<u8>, &'static WriteEntry)> {
    let page = view::page();
    page.write_entries().iter().filter_map(move |written| {
        let kind = match written.state() {
            WriteState::Live => Some(libc::DT_REG),
            WriteState::Directory => Some(libc::DT_DIR),
            WriteState::Link => Some(libc::DT_LNK),
            WriteState::Deleted => None,
            WriteState::Gone | WriteState::Reserved => return None,
        };
        let key = page.bytes(written.key());
        (path::parent(key) == folder && key.len() > 1).then(|| (path::file_name(key), kind, written))
    })
}

/// The inode that stat(2) shows for it, too.
fn inode_of(written: &WriteEntry) -> u64 {
    // SAFETY: a NUL-terminated path of ours.
    vfs::scratch_of(written).ok().and_then(|scratch| unsafe { sys::inode(scratch.as_ptr()) }).unwrap_or(1)
}

/// Is nothing left in a folder of the head's (or one made here)?
pub fn is_empty(folder: &[u8], entry: Option<&Entry>) -> Result<bool, Errno> {
    if changes(folder).any(|(_, kind, _)| kind.is_some()) {
        return Ok(false);
    }
    let Some(entry) = entry else { return Ok(true) };
    if entry.access & ACCESS_READ == 0 {
        return Err(vfs::unsupported(folder));
    }
    let mapped = Mapped::listing_of(entry).map_err(|_| vfs::unsupported(folder))?;
    let is_gone = |name: &[u8]| changes(folder).any(|(changed, kind, _)| changed == name && kind.is_none());
    Ok(listing::names(mapped.bytes()).all(|one| matches!(one.name, b"." | b"..") || is_gone(one.name)))
}

/// Makes the stream of a folder, for a descriptor that is already open.
fn make(fd: c_int, folder: &[u8], entry: Option<&Entry>) -> Result<*mut DIR, Errno> {
    let mapped = match entry {
        Some(entry) => Some(Mapped::listing_of(entry).map_err(|_| lost(folder))?),
        None => None,
    };
    let head = mapped.as_ref().map_or(&[][..], Mapped::bytes);
    let room = head.len() + (changes(folder).count() + 2) * RECORD_BYTES_MAX;
    let size = size_of::<Stream>() + room;
    let memory = sys::map(size).ok_or(libc::ENOMEM)?;
    let stream = memory.cast::<Stream>();
    // SAFETY: fresh memory behind the struct.
    let out = unsafe { core::slice::from_raw_parts_mut(stream.add(1).cast::<u8>(), room) };
    let mut end = 0;
    let mut append = |inode: u64, kind: u8, name: &[u8]| {
        let next = end + listing::record_bytes(name);
        if listing::write(&mut out[end..], inode, kind, name, next).is_some() {
            end = next;
        }
    };
    for Name { inode, kind, name } in listing::names(head) {
        match changes(folder).find(|(changed, ..)| *changed == name) {
            None => append(inode, kind, name),
            Some((_, Some(now), written)) => append(inode_of(written), now, name),
            Some((_, None, _)) => {}
        }
    }
    if entry.is_none() {
        append(view::page().find_write(folder).map_or(1, inode_of), libc::DT_DIR, b".");
        append(1, libc::DT_DIR, b"..");
    }
    for (name, kind, written) in changes(folder) {
        if let Some(kind) = kind
            && !listing::names(head).any(|one| one.name == name)
        {
            append(inode_of(written), kind, name);
        }
    }
    // SAFETY: fresh memory of ours.
    unsafe { stream.write(Stream { magic: MAGIC, fd, mapped: size, bytes: end, at: 0 }) };
    Ok(stream.cast())
}

/// What was promised cannot be read.
fn lost(folder: &[u8]) -> Errno {
    view::taint(mpicc_proxy_abi::task::Taint::Store, folder);
    libc::EIO
}

/// The stream of a path; `Ok(None)`: this host's own.
fn open_folder(key: path::Key) -> Result<Option<*mut DIR>, Errno> {
    let key = vfs::followed(key)?;
    let place = vfs::place(key.bytes(), Want::Listing)?;
    let entry = match &place {
        Place::Own => return Ok(None),
        Place::Written(written) => match written.state() {
            WriteState::Directory => None,
            WriteState::Live | WriteState::Link => return Err(libc::ENOTDIR),
            _ => return Err(libc::ENOENT),
        },
        Place::Head(Known { entry, .. }) => {
            if entry.stat_errno != 0 {
                return Err(entry.stat_errno);
            }
            if entry.stat.mode & libc::S_IFMT != libc::S_IFDIR {
                return Err(libc::ENOTDIR);
            }
            if entry.access & ACCESS_READ == 0 {
                return Err(libc::EACCES);
            }
            Some(*entry)
        }
    };
    let page = view::page();
    let mut scratch = PathText::new();
    scratch.push(page.bytes(page.scratch)).ok_or(libc::ENAMETOOLONG)?;
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: a NUL-terminated path of ours.
    let fd = unsafe { sys::open(scratch.as_ptr(), flags, 0) }?;
    view::note_fd(
        fd,
        match place {
            Place::Head(known) => Stands::Head(known.index),
            Place::Written(written) => Stands::Written(written),
            Place::Own => return Ok(None),
        },
    );
    make(fd, key.bytes(), entry).map(Some).inspect_err(|_| sys::close(fd))
}

fn give(stream: Result<*mut DIR, Errno>) -> *mut DIR {
    stream.unwrap_or_else(|errno| {
        set_errno(errno);
        core::ptr::null_mut()
    })
}

/// # Safety
/// As opendir(3).
pub unsafe fn opendir(real: real::opendir, path: *const c_char) -> *mut DIR {
    // SAFETY: as above.
    match unsafe { vfs::key(AT_FDCWD, path) }.and_then(open_folder) {
        // SAFETY: as above.
        Ok(None) => unsafe { real(path) },
        Ok(Some(stream)) => stream,
        Err(errno) => give(Err(errno)),
    }
}

/// # Safety
/// As fdopendir(3).
pub unsafe fn fdopendir(real: real::fdopendir, fd: c_int) -> *mut DIR {
    let stands = match view::stands(fd) {
        // SAFETY: as above.
        Ok(None) => return unsafe { real(fd) },
        Ok(Some(stands)) => stands,
        Err(errno) => return give(Err(errno)),
    };
    give(match stands {
        Stands::Written(written) if written.state() == WriteState::Directory => {
            make(fd, view::page().bytes(written.key()), None)
        }
        Stands::Written(_) => Err(libc::ENOTDIR),
        Stands::Head(index) => match view::entry(index).map(|entry| view::text(entry.key)) {
            // The record it was opened by may be without the names.
            Some(key) => match vfs::place(key, Want::Listing) {
                Ok(Place::Head(Known { entry, .. })) if entry.stat.mode & libc::S_IFMT != libc::S_IFDIR => {
                    Err(libc::ENOTDIR)
                }
                Ok(Place::Head(Known { entry, .. })) => make(fd, key, Some(entry)),
                Ok(_) => Err(vfs::unsupported(key)),
                Err(errno) => Err(errno),
            },
            None => Err(libc::EBADF),
        },
    })
}

/// The next record of a stream of ours; NULL at the end.
fn advance(stream: &mut Stream) -> *mut dirent64 {
    let at = stream.at;
    // A place of seekdir(3)'s may lie within a record, and what begins there end anywhere.
    let rest = stream.names().get(at..).unwrap_or_default();
    let Some(one) = listing::names(rest).next() else { return core::ptr::null_mut() };
    stream.at += listing::record_bytes(one.name);
    // SAFETY: a record lies there; its memory is the stream's, and ours to give out for writing.
    unsafe { core::ptr::from_mut(stream).add(1).cast::<u8>().add(at).cast() }
}

/// # Safety
/// As readdir(3).
pub unsafe fn readdir(real: real::readdir, stream: *mut DIR) -> *mut dirent64 {
    // SAFETY: as above.
    match unsafe { ours(stream) } {
        Some(stream) => advance(stream),
        // SAFETY: as above.
        None => unsafe { real(stream) },
    }
}

/// # Safety
/// As readdir_r(3).
pub unsafe fn readdir_r(
    real: real::readdir_r,
    stream: *mut DIR,
    entry: *mut dirent64,
    result: *mut *mut dirent64,
) -> c_int {
    // SAFETY: as above.
    let Some(ours) = (unsafe { ours(stream) }) else { return unsafe { real(stream, entry, result) } };
    let before = ours.at;
    let found = advance(ours);
    // SAFETY: `entry` has room for a record, `result` for a pointer.
    unsafe {
        if found.is_null() {
            *result = core::ptr::null_mut();
        } else {
            core::ptr::copy_nonoverlapping(found.cast::<u8>(), entry.cast::<u8>(), ours.at - before);
            *result = entry;
        }
    }
    0
}

/// # Safety
/// As closedir(3).
pub unsafe fn closedir(real: real::closedir, stream: *mut DIR) -> c_int {
    // SAFETY: as above.
    let Some(ours) = (unsafe { ours(stream) }) else { return unsafe { real(stream) } };
    sys::close(ours.fd);
    let size = ours.mapped;
    // SAFETY: the mapping that `make` made; nobody uses it any more.
    unsafe { sys::unmap(stream.cast(), size) };
    0
}

/// # Safety
/// As rewinddir(3).
pub unsafe fn rewinddir(real: real::rewinddir, stream: *mut DIR) {
    // SAFETY: as above.
    match unsafe { ours(stream) } {
        Some(stream) => stream.at = 0,
        // SAFETY: as above.
        None => unsafe { real(stream) },
    }
}

/// # Safety
/// As telldir(3).
pub unsafe fn telldir(real: real::telldir, stream: *mut DIR) -> c_long {
    // SAFETY: as above.
    match unsafe { ours(stream) } {
        Some(stream) => stream.at as c_long,
        // SAFETY: as above.
        None => unsafe { real(stream) },
    }
}

/// # Safety
/// As seekdir(3).
pub unsafe fn seekdir(real: real::seekdir, stream: *mut DIR, position: c_long) {
    // SAFETY: as above.
    match unsafe { ours(stream) } {
        Some(stream) => stream.at = (position.max(0) as usize).min(stream.bytes),
        // SAFETY: as above.
        None => unsafe { real(stream, position) },
    }
}

/// # Safety
/// As dirfd(3).
pub unsafe fn dirfd(real: real::dirfd, stream: *mut DIR) -> c_int {
    // SAFETY: as above.
    match unsafe { ours(stream) } {
        Some(stream) => stream.fd,
        // SAFETY: as above.
        None => unsafe { real(stream) },
    }
}

/// scandir(3) and the like walk a folder inside of the C library.
///
/// # Safety
/// As scandir(3).
pub unsafe fn scandir(
    real: real::scandir,
    path: *const c_char,
    names: *mut c_void,
    filter: *mut c_void,
    compare: *mut c_void,
) -> c_int {
    // SAFETY: as above.
    match unsafe { vfs::key(AT_FDCWD, path) } {
        // SAFETY: as above.
        Ok(key) if view::is_own(key.bytes()) => unsafe { real(path, names, filter, compare) },
        Ok(key) => fail(vfs::unsupported(key.bytes())),
        Err(errno) => fail(errno),
    }
}
