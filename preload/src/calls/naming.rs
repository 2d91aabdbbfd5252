//! Calls about names: link targets, real paths, the working directory.

use super::{fail, imports};
use crate::hook::set_errno;
use crate::path;
use crate::sys::{self, Errno};
use crate::table::real;
use crate::target::PathText;
use crate::vfs::{self, Place};
use crate::view::{self, Known, Stands};
use core::ffi::{c_char, c_int};
use libc::{AT_FDCWD, size_t, ssize_t};
use mpicc_proxy_abi::miss::Want;
use mpicc_proxy_abi::task::WriteState;

/// # Safety
/// `out` has `size` writable bytes.
unsafe fn copy_out(bytes: &[u8], out: *mut c_char, size: size_t) -> usize {
    let count = bytes.len().min(size);
    // SAFETY: promised by the caller.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), out.cast::<u8>(), count) };
    count
}

/// # Safety
/// As readlinkat(2); `own` asks this host.
unsafe fn link_at(
    dir: c_int,
    path: *const c_char,
    out: *mut c_char,
    size: size_t,
    own: impl FnOnce() -> ssize_t,
) -> ssize_t {
    // SAFETY: promised by the caller.
    let key = match unsafe { vfs::key(dir, path) } {
        Ok(key) => key,
        Err(errno) => return fail(errno) as ssize_t,
    };
    if let Some(fd) = own_descriptor(key.bytes()) {
        let mut built = PathText::new();
        return match path_of_fd(fd, &mut built) {
            // SAFETY: promised by the caller.
            Ok(()) => (unsafe { copy_out(built.bytes(), out, size) }) as ssize_t,
            Err(errno) => fail(errno) as ssize_t,
        };
    }
    let target = match vfs::place(key.bytes(), Want::Record) {
        Ok(Place::Own) => return own(),
        Ok(Place::Written(written)) if written.state() == WriteState::Link => {
            let mut target = PathText::new();
            let read = vfs::scratch_of(written).and_then(|scratch| {
                // SAFETY: a NUL-terminated path of ours.
                target.fill(|room| unsafe { sys::readlink(scratch.as_ptr(), room) })
            });
            return match read {
                // SAFETY: promised by the caller.
                Ok(()) => (unsafe { copy_out(target.bytes(), out, size) }) as ssize_t,
                Err(errno) => fail(errno) as ssize_t,
            };
        }
        Ok(Place::Written(written)) => Err(if written.state().exists() { libc::EINVAL } else { libc::ENOENT }),
        Ok(Place::Head(Known { entry, .. })) if key.directory => Err(match entry.stat_errno {
            0 if entry.stat.mode & libc::S_IFMT == libc::S_IFDIR => libc::EINVAL,
            0 => libc::ENOTDIR,
            errno => errno,
        }),
        Ok(Place::Head(Known { entry, .. })) if entry.lstat_errno != 0 => Err(entry.lstat_errno),
        Ok(Place::Head(Known { entry, .. })) if !vfs::is_link(entry) => Err(libc::EINVAL),
        Ok(Place::Head(Known { entry, .. })) => Ok(view::text(entry.link)),
        Err(errno) => Err(errno),
    };
    match target {
        // SAFETY: promised by the caller.
        Ok(target) => (unsafe { copy_out(target, out, size) }) as ssize_t,
        Err(errno) => fail(errno) as ssize_t,
    }
}

/// The descriptor that a path below /proc/self/fd names.
fn own_descriptor(key: &[u8]) -> Option<c_int> {
    let digits = key.strip_prefix(b"/proc/self/fd/")?;
    let text = core::str::from_utf8(digits).ok()?;
    text.parse().ok().filter(|_| digits[0].is_ascii_digit())
}

/// The path of what a descriptor stands for, as the kernel of the head would say: without symbolic links.
fn path_of_fd(fd: c_int, out: &mut PathText) -> Result<(), Errno> {
    match view::stands(fd).map_err(|_| libc::ENOENT)? {
        Some(Stands::Head(index)) => {
            let entry = view::entry(index).filter(|entry| entry.real_errno == 0).ok_or(libc::ENOENT)?;
            out.push(view::text(entry.real)).ok_or(libc::ENAMETOOLONG)
        }
        Some(Stands::Written(written)) => real_of_written(view::page().bytes(written.key()), out),
        None => {
            let mut link = PathText::new();
            link.push(b"/proc/self/fd/").and_then(|()| link.push_number(fd as u32)).ok_or(libc::ENAMETOOLONG)?;
            // SAFETY: a NUL-terminated path of ours.
            out.fill(|room| unsafe { sys::readlink(link.as_ptr(), room) })?;
            match view::is_everywhere(out.bytes()) {
                true => Ok(()),
                false => Err(vfs::unsupported(b"the name of a descriptor that stands for nothing of the head's")),
            }
        }
    }
}

/// # Safety
/// As readlink(2).
pub unsafe fn readlink(real: real::readlink, path: *const c_char, out: *mut c_char, size: size_t) -> ssize_t {
    // SAFETY: as above.
    unsafe { link_at(AT_FDCWD, path, out, size, || real(path, out, size)) }
}

/// # Safety
/// As the fortified readlink(2).
pub unsafe fn readlink_chk(
    real: real::__readlink_chk,
    path: *const c_char,
    out: *mut c_char,
    size: size_t,
    room: size_t,
) -> ssize_t {
    // SAFETY: as above.
    unsafe { link_at(AT_FDCWD, path, out, size.min(room), || real(path, out, size, room)) }
}

/// # Safety
/// As readlinkat(2).
pub unsafe fn readlinkat(
    real: real::readlinkat,
    dir: c_int,
    path: *const c_char,
    out: *mut c_char,
    size: size_t,
) -> ssize_t {
    // SAFETY: as above.
    unsafe { link_at(dir, path, out, size, || real(dir, path, out, size)) }
}

/// # Safety
/// As realpath(3); `own` asks this host.
unsafe fn real_path(path: *const c_char, out: *mut c_char, own: impl FnOnce() -> *mut c_char) -> *mut c_char {
    let mut built = PathText::new();
    // SAFETY: promised by the caller.
    let key = unsafe { vfs::key(AT_FDCWD, path) }.and_then(vfs::followed);
    let found = key.and_then(|key| resolve(&key, &mut built));
    match found {
        Ok(false) => own(),
        // SAFETY: promised by the caller.
        Ok(true) => unsafe { give_string(built.bytes(), out) },
        Err(errno) => {
            set_errno(errno);
            core::ptr::null_mut()
        }
    }
}

/// Writes the real path of a key to `out`; `Ok(false)`: the key is this host's own.
fn resolve(key: &path::Key, out: &mut PathText) -> Result<bool, Errno> {
    let written = match vfs::place(key.bytes(), Want::Record)? {
        Place::Own => return Ok(false),
        Place::Head(Known { entry, .. }) if entry.real_errno != 0 => return Err(entry.real_errno),
        Place::Head(Known { entry, .. }) => {
            let not_directory = key.directory && entry.stat.mode & libc::S_IFMT != libc::S_IFDIR;
            if not_directory {
                return Err(libc::ENOTDIR);
            }
            return out.push(view::text(entry.real)).map(|()| true).ok_or(libc::ENAMETOOLONG);
        }
        Place::Written(written) => written,
    };
    match written.state() {
        WriteState::Live if key.directory => Err(libc::ENOTDIR),
        state if state.exists() => real_of_written(key.bytes(), out).map(|()| true),
        _ => Err(libc::ENOENT),
    }
}

/// The real path of what this compile wrote: what is between it and the first folder of the head's was made by it, too.
fn real_of_written(key: &[u8], out: &mut PathText) -> Result<(), Errno> {
    let mut folder = path::parent(key);
    loop {
        match vfs::place(folder, Want::Record)? {
            Place::Written(written) if written.state() == WriteState::Directory => folder = path::parent(folder),
            Place::Head(Known { entry, .. }) if entry.real_errno == 0 => {
                let real = view::text(entry.real);
                let real = if real == b"/" { b"" } else { real };
                let rest = key.get(folder.len()..).filter(|_| folder != b"/").unwrap_or(key);
                return [real, rest].into_iter().try_for_each(|part| out.push(part)).ok_or(libc::ENAMETOOLONG);
            }
            _ => return Err(vfs::unsupported(key)),
        }
    }
}

/// Copies a string with its NUL to `out`, or to fresh memory when `out` is NULL.
///
/// # Safety
/// `out` is NULL or has room.
unsafe fn give_string(bytes: &[u8], out: *mut c_char) -> *mut c_char {
    let target = if out.is_null() {
        // SAFETY: worker-mode handlers run outside of vfork children here; the caller frees it, as documented.
        unsafe { imports::malloc(bytes.len() + 1) }.cast::<c_char>()
    } else {
        out
    };
    if !target.is_null() {
        // SAFETY: room for the bytes and a NUL by the promise or the allocation above.
        unsafe {
            copy_out(bytes, target, bytes.len());
            target.add(bytes.len()).write(0);
        }
    }
    target
}

/// # Safety
/// As realpath(3).
pub unsafe fn realpath(real: real::realpath, path: *const c_char, out: *mut c_char) -> *mut c_char {
    // SAFETY: as above.
    unsafe { real_path(path, out, || real(path, out)) }
}

/// # Safety
/// As the fortified realpath(3).
pub unsafe fn realpath_chk(
    real: real::__realpath_chk,
    path: *const c_char,
    out: *mut c_char,
    room: size_t,
) -> *mut c_char {
    // SAFETY: as above.
    unsafe { real_path(path, out, || real(path, out, room)) }
}

/// # Safety
/// As canonicalize_file_name(3).
pub unsafe fn canonicalize_file_name(real: real::canonicalize_file_name, path: *const c_char) -> *mut c_char {
    // SAFETY: as above.
    unsafe { real_path(path, core::ptr::null_mut(), || real(path)) }
}

/// # Safety
/// As getcwd(3).
unsafe fn working_directory(out: *mut c_char, size: size_t) -> *mut c_char {
    let cwd = view::working_directory();
    if size != 0 && size <= cwd.len() {
        set_errno(libc::ERANGE);
        return core::ptr::null_mut();
    }
    if size == 0 && !out.is_null() {
        set_errno(libc::EINVAL);
        return core::ptr::null_mut();
    }
    // SAFETY: room by the check above, or NULL.
    unsafe { give_string(cwd, out) }
}

/// # Safety
/// As getcwd(3).
pub unsafe fn getcwd(_: real::getcwd, out: *mut c_char, size: size_t) -> *mut c_char {
    // SAFETY: as above.
    unsafe { working_directory(out, size) }
}

/// # Safety
/// As the fortified getcwd(3).
pub unsafe fn getcwd_chk(_: real::__getcwd_chk, out: *mut c_char, size: size_t, room: size_t) -> *mut c_char {
    // SAFETY: as above.
    unsafe { working_directory(out, size.min(room)) }
}

/// # Safety
/// As get_current_dir_name(3).
pub unsafe fn get_current_dir_name(_: real::get_current_dir_name) -> *mut c_char {
    // SAFETY: NULL asks for fresh memory.
    unsafe { working_directory(core::ptr::null_mut(), 0) }
}
