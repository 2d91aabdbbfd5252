//! Calls that change names and files: what they do lands in the task page, not on the head.

use super::fail;
use super::looking::{Looked, look, on_scratch};
use super::uncovered::refuse_path;
use crate::path;
use crate::sys::{self, Errno};
use crate::table::real;
use crate::vfs::{self, Place};
use crate::view::{self, Known};
use core::ffi::{c_char, c_int};
use core::sync::atomic::Ordering;
use libc::{AT_FDCWD, mode_t};
use mpicc_proxy_abi::miss::Want;
use mpicc_proxy_abi::task::{WRITE_HIDES, WRITE_REPLACES, WriteEntry, WriteState};

/// Removes a name: what this compile made goes, what the head has is noted as deleted.
fn remove_name(key: &path::Key) -> Result<bool, Errno> {
    match vfs::place(key.bytes(), Want::Record)? {
        Place::Own => return Ok(false),
        Place::Written(written) => match written.state() {
            WriteState::Live => {
                written.state.store(state_without(written) as u32, Ordering::Release);
            }
            WriteState::Directory => return Err(libc::EISDIR),
            _ => return Err(libc::ENOENT),
        },
        Place::Head(Known { entry, .. }) => {
            if entry.lstat_errno != 0 {
                return Err(entry.lstat_errno);
            }
            if entry.lstat.mode & libc::S_IFMT == libc::S_IFDIR {
                return Err(libc::EISDIR);
            }
            vfs::may_create_in(path::parent(key.bytes()))?;
            vfs::add_write(key.bytes(), WriteState::Deleted, WRITE_REPLACES | WRITE_HIDES)?;
        }
    }
    Ok(true)
}

/// What is left of a name that goes: a hole in the head's tree, or nothing if it was never there.
fn state_without(written: &WriteEntry) -> WriteState {
    if written.flags.load(Ordering::Acquire) & WRITE_HIDES != 0 { WriteState::Deleted } else { WriteState::Gone }
}

/// # Safety
/// As unlinkat(2); `own` acts on this host.
unsafe fn unlink_at(dir: c_int, path: *const c_char, own: impl FnOnce() -> c_int) -> c_int {
    // SAFETY: promised by the caller.
    match unsafe { vfs::key(dir, path) }.and_then(|key| remove_name(&key)) {
        Ok(true) => 0,
        Ok(false) => own(),
        Err(errno) => fail(errno),
    }
}

/// # Safety
/// As unlink(2).
pub unsafe fn unlink(real: real::unlink, path: *const c_char) -> c_int {
    // SAFETY: as above.
    unsafe { unlink_at(AT_FDCWD, path, || real(path)) }
}

/// # Safety
/// As unlinkat(2).
pub unsafe fn unlinkat(real: real::unlinkat, dir: c_int, path: *const c_char, flags: c_int) -> c_int {
    if flags & libc::AT_REMOVEDIR != 0 {
        // SAFETY: as above.
        return unsafe { refuse_path(dir, path, || real(dir, path, flags)) };
    }
    // SAFETY: as above.
    unsafe { unlink_at(dir, path, || real(dir, path, flags)) }
}

/// # Safety
/// As rename(2).
pub unsafe fn rename(real: real::rename, from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: as above.
    unsafe { rename_at(AT_FDCWD, from, AT_FDCWD, to, || real(from, to)) }
}

/// # Safety
/// As renameat(2).
pub unsafe fn renameat(
    real: real::renameat,
    from_dir: c_int,
    from: *const c_char,
    to_dir: c_int,
    to: *const c_char,
) -> c_int {
    // SAFETY: as above.
    unsafe { rename_at(from_dir, from, to_dir, to, || real(from_dir, from, to_dir, to)) }
}

/// # Safety
/// As renameat(2); `own` acts on this host.
unsafe fn rename_at(
    from_dir: c_int,
    from: *const c_char,
    to_dir: c_int,
    to: *const c_char,
    own: impl FnOnce() -> c_int,
) -> c_int {
    // SAFETY: promised by the caller.
    let keys = unsafe { vfs::key(from_dir, from).and_then(|from| Ok((from, vfs::key(to_dir, to)?))) };
    match keys.and_then(|(from, to)| rename_name(&from, &to)) {
        Ok(true) => 0,
        Ok(false) => own(),
        Err(errno) => fail(errno),
    }
}

/// Only a file this compile wrote can be renamed; compilers rename their temporary output over the final one.
fn rename_name(from: &path::Key, to: &path::Key) -> Result<bool, Errno> {
    match (vfs::place(from.bytes(), Want::Record)?, vfs::place(to.bytes(), Want::Record)?) {
        (Place::Own, Place::Own) => Ok(false),
        (Place::Written(source), target) if source.state() == WriteState::Live => {
            let number = source.scratch.load(Ordering::Acquire);
            match target {
                Place::Own => return Err(vfs::unsupported(to.bytes())),
                Place::Written(written) if written.state() == WriteState::Directory => return Err(libc::EISDIR),
                Place::Written(written) => {
                    written.scratch.store(number, Ordering::Release);
                    written.flags.fetch_or(WRITE_REPLACES, Ordering::AcqRel);
                    written.state.store(WriteState::Live as u32, Ordering::Release);
                }
                Place::Head(Known { entry, .. }) => {
                    if entry.lstat_errno == 0 && entry.lstat.mode & libc::S_IFMT == libc::S_IFDIR {
                        return Err(libc::EISDIR);
                    }
                    vfs::may_create_in(path::parent(to.bytes()))?;
                    let hides = if entry.lstat_errno == 0 { WRITE_HIDES } else { 0 };
                    if view::page().add_write(to.bytes(), WriteState::Live, WRITE_REPLACES | hides, number).is_none() {
                        return Err(vfs::unsupported(b"more written files than the list holds"));
                    }
                }
            }
            source.state.store(state_without(source) as u32, Ordering::Release);
            Ok(true)
        }
        (Place::Head(Known { entry, .. }), _) if entry.lstat_errno != 0 => Err(entry.lstat_errno),
        _ => Err(vfs::unsupported(from.bytes())),
    }
}

/// # Safety
/// As remove(3).
pub unsafe fn remove(real: real::remove, path: *const c_char) -> c_int {
    // SAFETY: as above.
    unsafe { unlink_at(AT_FDCWD, path, || real(path)) }
}

fn make_directory(key: &path::Key, mode: mode_t) -> Result<bool, Errno> {
    match vfs::place(key.bytes(), Want::Record)? {
        Place::Own => return Ok(false),
        Place::Written(written) => {
            return Err(match written.state() {
                WriteState::Live | WriteState::Directory => libc::EEXIST,
                _ => vfs::unsupported(key.bytes()),
            });
        }
        Place::Head(Known { entry, .. }) if entry.lstat_errno == 0 => return Err(libc::EEXIST),
        Place::Head(Known { entry, .. }) if entry.lstat_errno != libc::ENOENT => return Err(entry.lstat_errno),
        Place::Head(_) => vfs::may_create_in(path::parent(key.bytes()))?,
    }
    let written = vfs::add_write(key.bytes(), WriteState::Directory, 0)?;
    let scratch = vfs::scratch_of(written)?;
    // SAFETY: a NUL-terminated path of ours.
    unsafe { sys::mkdir(scratch.as_ptr(), mode) }.map(|()| true)
}

/// # Safety
/// As mkdir(2).
pub unsafe fn mkdir(real: real::mkdir, path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: as above.
    match unsafe { vfs::key(AT_FDCWD, path) }.and_then(|key| make_directory(&key, mode)) {
        Ok(true) => 0,
        // SAFETY: as above.
        Ok(false) => unsafe { real(path, mode) },
        Err(errno) => fail(errno),
    }
}

/// # Safety
/// As chmod(2).
pub unsafe fn chmod(real: real::chmod, path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: as above.
    match unsafe { vfs::key(AT_FDCWD, path) }.and_then(|key| look(&key, true).map(|looked| (looked, key))) {
        // SAFETY: as above.
        Ok((Looked::Own, _)) => unsafe { real(path, mode) },
        // SAFETY: as above, with a NUL-terminated path of ours.
        Ok((Looked::Written(written), _)) => on_scratch(written, |scratch| unsafe { real(scratch, mode) }),
        Ok((Looked::Head(_), key)) => fail(vfs::unsupported(key.bytes())),
        Err(errno) => fail(errno),
    }
}
