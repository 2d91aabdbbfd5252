//! Calls that change names and files: what they do lands in the task page, not on the head.

use super::looking::{Looked, look, on_scratch};
use super::opening::with_temporary_name;
use super::uncovered::refuse_path;
use super::{fail, folders};
use crate::hook::set_errno;
use crate::path;
use crate::sys::{self, Errno};
use crate::table::real;
use crate::target::PathText;
use crate::vfs::{self, Place};
use crate::view::{self, Known, Stands};
use core::ffi::{c_char, c_int, c_uint, c_void};
use core::sync::atomic::Ordering;
use libc::{AT_FDCWD, mode_t};
use mpicc_proxy_abi::miss::Want;
use mpicc_proxy_abi::table::{ACCESS_EXECUTE, Entry};
use mpicc_proxy_abi::task::{WRITE_FIFO, WRITE_HIDES, WRITE_MODE, WRITE_REPLACES, WRITE_TIMES, WriteEntry, WriteState};

/// What a call returns that was done here (`Ok(true)`), or that `own` does to this host (`Ok(false)`).
fn done_or(done: Result<bool, Errno>, own: impl FnOnce() -> c_int) -> c_int {
    match done {
        Ok(true) => 0,
        Ok(false) => own(),
        Err(errno) => fail(errno),
    }
}

/// Removes a name: what this compile made goes, what the head has is noted as deleted.
fn remove_name(key: &path::Key) -> Result<bool, Errno> {
    match vfs::place(key.bytes(), Want::Record)? {
        Place::Own => return Ok(false),
        Place::Written(written) => match written.state() {
            WriteState::Live if key.directory => return Err(libc::ENOTDIR),
            WriteState::Live | WriteState::Link => {
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
    let done = unsafe { vfs::key(dir, path) }.and_then(|key| remove_name(&key));
    done_or(done, own)
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
        return unsafe { remove_folder(dir, path, || real(dir, path, flags)) };
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
    done_or(keys.and_then(|(from, to)| rename_name(&from, &to)), own)
}

/// Only a file this compile wrote can be renamed; compilers rename their temporary output over the final one.
fn rename_name(from: &path::Key, to: &path::Key) -> Result<bool, Errno> {
    match (vfs::place(from.bytes(), Want::Record)?, vfs::place(to.bytes(), Want::Record)?) {
        (Place::Own, Place::Own) => Ok(false),
        (Place::Written(source), target) if matches!(source.state(), WriteState::Live | WriteState::Link) => {
            if from.bytes() == to.bytes() {
                return Ok(true);
            }
            let number = source.scratch.load(Ordering::Acquire);
            let state = source.state();
            let chosen = source.flags.load(Ordering::Acquire) & (WRITE_MODE | WRITE_TIMES | WRITE_FIFO);
            if chosen & WRITE_FIFO != 0 {
                return Err(vfs::unsupported(from.bytes()));
            }
            match target {
                Place::Own => return Err(vfs::unsupported(to.bytes())),
                Place::Written(written) if written.state() == WriteState::Directory => return Err(libc::EISDIR),
                Place::Written(written) => {
                    written.scratch.store(number, Ordering::Release);
                    let hides = written.flags.load(Ordering::Acquire) & WRITE_HIDES;
                    written.flags.store(hides | WRITE_REPLACES | chosen, Ordering::Release);
                    written.state.store(state as u32, Ordering::Release);
                }
                Place::Head(Known { entry, .. }) => {
                    if entry.lstat_errno == 0 && entry.lstat.mode & libc::S_IFMT == libc::S_IFDIR {
                        return Err(libc::EISDIR);
                    }
                    vfs::may_create_in(path::parent(to.bytes()))?;
                    let hides = if entry.lstat_errno == 0 { WRITE_HIDES } else { 0 };
                    let flags = WRITE_REPLACES | hides | chosen;
                    if view::page().add_write(to.bytes(), state, flags, number).is_none() {
                        return Err(vfs::unsupported(b"more written files than the list holds"));
                    }
                }
            }
            source.state.store(state_without(source) as u32, Ordering::Release);
            Ok(true)
        }
        (Place::Head(Known { entry, .. }), _) if entry.lstat_errno != 0 => Err(entry.lstat_errno),
        (Place::Written(source), _) if !source.state().exists() => Err(libc::ENOENT),
        _ => Err(vfs::unsupported(from.bytes())),
    }
}

/// # Safety
/// As renameat2(2).
pub unsafe fn renameat2(
    real: real::renameat2,
    from_dir: c_int,
    from: *const c_char,
    to_dir: c_int,
    to: *const c_char,
    flags: c_uint,
) -> c_int {
    if flags != 0 {
        // SAFETY: as above.
        return unsafe { refuse_path(to_dir, to, || real(from_dir, from, to_dir, to, flags)) };
    }
    // SAFETY: as above.
    unsafe { rename_at(from_dir, from, to_dir, to, || real(from_dir, from, to_dir, to, flags)) }
}

/// # Safety
/// As remove(3).
pub unsafe fn remove(real: real::remove, path: *const c_char) -> c_int {
    // SAFETY: promised by the caller.
    let removed = unsafe { vfs::key(AT_FDCWD, path) }.and_then(|key| match remove_name(&key) {
        Err(libc::EISDIR) => remove_directory(&key),
        removed => removed,
    });
    // SAFETY: as above.
    done_or(removed, || unsafe { real(path) })
}

/// Removes a directory in which nothing is left.
fn remove_directory(key: &path::Key) -> Result<bool, Errno> {
    if matches!(path::file_name(key.bytes()), b".." | b"") {
        return Err(vfs::unsupported(key.bytes()));
    }
    match vfs::place(key.bytes(), Want::Listing)? {
        Place::Own => return Ok(false),
        Place::Written(written) => match written.state() {
            WriteState::Directory if !folders::is_empty(key.bytes(), None)? => return Err(libc::ENOTEMPTY),
            WriteState::Directory => written.state.store(state_without(written) as u32, Ordering::Release),
            WriteState::Live | WriteState::Link => return Err(libc::ENOTDIR),
            _ => return Err(libc::ENOENT),
        },
        Place::Head(Known { entry, .. }) => {
            if entry.lstat_errno != 0 {
                return Err(entry.lstat_errno);
            }
            if entry.lstat.mode & libc::S_IFMT != libc::S_IFDIR {
                return Err(libc::ENOTDIR);
            }
            vfs::may_create_in(path::parent(key.bytes()))?;
            if !folders::is_empty(key.bytes(), Some(entry))? {
                return Err(libc::ENOTEMPTY);
            }
            vfs::add_write(key.bytes(), WriteState::Deleted, WRITE_REPLACES | WRITE_HIDES)?;
        }
    }
    Ok(true)
}

/// # Safety
/// As unlinkat(2) of a directory; `own` acts on this host.
unsafe fn remove_folder(dir: c_int, path: *const c_char, own: impl FnOnce() -> c_int) -> c_int {
    // SAFETY: promised by the caller.
    let done = unsafe { vfs::key(dir, path) }.and_then(|key| remove_directory(&key));
    done_or(done, own)
}

/// # Safety
/// As rmdir(2).
pub unsafe fn rmdir(real: real::rmdir, path: *const c_char) -> c_int {
    // SAFETY: as above.
    unsafe { remove_folder(AT_FDCWD, path, || real(path)) }
}

/// Makes a directory or a link whose name must not be there yet; `make` makes the scratch item. `Ok(false)`: on this host itself.
fn make_new(
    key: &path::Key,
    state: WriteState,
    make: impl FnOnce(&PathText) -> Result<(), Errno>,
) -> Result<bool, Errno> {
    match vfs::place(key.bytes(), Want::Record)? {
        Place::Own => return Ok(false),
        Place::Written(written) => match written.state() {
            now if now.exists() => return Err(libc::EEXIST),
            // A directory where the head has something else would have to be published in two steps.
            WriteState::Deleted if state == WriteState::Directory => return Err(vfs::unsupported(key.bytes())),
            _ => vfs::revive_as(written, state, make)?,
        },
        Place::Head(Known { entry, .. }) if entry.lstat_errno == 0 => return Err(libc::EEXIST),
        Place::Head(Known { entry, .. }) if entry.lstat_errno != libc::ENOENT => return Err(entry.lstat_errno),
        Place::Head(_) => {
            vfs::may_create_in(path::parent(key.bytes()))?;
            make(&vfs::scratch_of(vfs::add_write(key.bytes(), state, 0)?)?)?;
        }
    }
    view::page().ways_made.fetch_add(1, Ordering::AcqRel);
    Ok(true)
}

fn make_directory(key: &path::Key, mode: mode_t) -> Result<bool, Errno> {
    // SAFETY: a NUL-terminated path of ours.
    make_new(key, WriteState::Directory, |scratch| unsafe { sys::mkdir(scratch.as_ptr(), mode) })
}

/// # Safety
/// As mkdirat(2); `own` acts on this host.
unsafe fn mkdir_at(dir: c_int, path: *const c_char, mode: mode_t, own: impl FnOnce() -> c_int) -> c_int {
    // SAFETY: promised by the caller.
    let done = unsafe { vfs::key(dir, path) }.and_then(|key| make_directory(&key, mode));
    done_or(done, own)
}

/// # Safety
/// As mkdir(2).
pub unsafe fn mkdir(real: real::mkdir, path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: as above.
    unsafe { mkdir_at(AT_FDCWD, path, mode, || real(path, mode)) }
}

/// # Safety
/// As mkdirat(2).
pub unsafe fn mkdirat(real: real::mkdirat, dir: c_int, path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: as above.
    unsafe { mkdir_at(dir, path, mode, || real(dir, path, mode)) }
}

/// # Safety
/// As mkdtemp(3).
pub unsafe fn mkdtemp(real: real::mkdtemp, template: *mut c_char) -> *mut c_char {
    const MODE: mode_t = 0o700;
    // SAFETY: promised by the caller.
    match unsafe { with_temporary_name(template, 0, |key| make_directory(key, MODE)) } {
        Ok(Some(_)) => template,
        // SAFETY: as above.
        Ok(None) => unsafe { real(template) },
        Err(errno) => {
            set_errno(errno);
            core::ptr::null_mut()
        }
    }
}

/// # Safety
/// As symlinkat(2); `own` acts on this host.
unsafe fn link_at(target: *const c_char, dir: c_int, path: *const c_char, own: impl FnOnce() -> c_int) -> c_int {
    let make = |key: path::Key| {
        // SAFETY: NUL-terminated paths: the caller's and ours.
        make_new(&key, WriteState::Link, |scratch| unsafe { sys::symlink(target, scratch.as_ptr()) })
    };
    // SAFETY: promised by the caller.
    let done = unsafe { vfs::key(dir, path) }.and_then(make);
    done_or(done, own)
}

/// # Safety
/// As symlink(2).
pub unsafe fn symlink(real: real::symlink, target: *const c_char, path: *const c_char) -> c_int {
    // SAFETY: as above.
    unsafe { link_at(target, AT_FDCWD, path, || real(target, path)) }
}

/// # Safety
/// As symlinkat(2).
pub unsafe fn symlinkat(real: real::symlinkat, target: *const c_char, dir: c_int, path: *const c_char) -> c_int {
    // SAFETY: as above.
    unsafe { link_at(target, dir, path, || real(target, dir, path)) }
}

/// Changes an attribute of what a path leads to; `flag` says that the compile chose it. `act` gets the path on this host.
///
/// # Safety
/// `path` is NULL or NUL-terminated.
unsafe fn change_attribute(
    dir: c_int,
    path: *const c_char,
    follow: bool,
    flag: u32,
    act: impl FnOnce(Option<*const c_char>) -> c_int,
) -> c_int {
    // SAFETY: promised by the caller.
    let looked = unsafe { vfs::key(dir, path) }.and_then(|key| {
        let shown = if follow { vfs::followed(key)? } else { key };
        let mut copy = PathText::new();
        copy.push(shown.bytes()).ok_or(libc::ENAMETOOLONG)?;
        Ok((look(shown, follow)?, copy))
    });
    match looked {
        Ok((Looked::Own, _)) => act(None),
        Ok((Looked::Written(written), _)) => {
            let result = on_scratch(written, |scratch| act(Some(scratch)));
            if result == 0 {
                written.flags.fetch_or(flag, Ordering::AcqRel);
            }
            result
        }
        Ok((Looked::Head(_), key)) => fail(vfs::unsupported(key.bytes())),
        Err(errno) => fail(errno),
    }
}

/// Changes an attribute of an open file. Never of a content in the store, which other compiles read.
fn change_open(fd: c_int, flag: u32, act: impl FnOnce() -> c_int) -> c_int {
    match view::stands(fd) {
        Ok(Some(Stands::Written(written))) => {
            let result = act();
            if result == 0 {
                written.flags.fetch_or(flag, Ordering::AcqRel);
            }
            result
        }
        Ok(Some(Stands::Head(_))) => fail(vfs::unsupported(b"an attribute of an open file of the head's")),
        Ok(None) => act(),
        Err(errno) => fail(errno),
    }
}

/// # Safety
/// As chmod(2).
pub unsafe fn chmod(real: real::chmod, path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: as above, or with a NUL-terminated path of ours.
    unsafe { change_attribute(AT_FDCWD, path, true, WRITE_MODE, |scratch| real(scratch.unwrap_or(path), mode)) }
}

/// # Safety
/// As fchmodat(2).
pub unsafe fn fchmodat(real: real::fchmodat, dir: c_int, path: *const c_char, mode: mode_t, flags: c_int) -> c_int {
    let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
    // SAFETY: as above, or with a NUL-terminated path of ours.
    unsafe {
        change_attribute(dir, path, follow, WRITE_MODE, |scratch| real(dir, scratch.unwrap_or(path), mode, flags))
    }
}

/// # Safety
/// As fchmod(2).
pub unsafe fn fchmod(real: real::fchmod, fd: c_int, mode: mode_t) -> c_int {
    // SAFETY: as above.
    change_open(fd, WRITE_MODE, || unsafe { real(fd, mode) })
}

/// # Safety
/// As utimensat(2).
pub unsafe fn utimensat(
    real: real::utimensat,
    dir: c_int,
    path: *const c_char,
    times: *const libc::timespec,
    flags: c_int,
) -> c_int {
    if path.is_null() {
        // SAFETY: as above.
        return change_open(dir, WRITE_TIMES, || unsafe { real(dir, path, times, flags) });
    }
    let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
    // SAFETY: as above, or with a NUL-terminated path of ours.
    unsafe {
        change_attribute(dir, path, follow, WRITE_TIMES, |scratch| real(dir, scratch.unwrap_or(path), times, flags))
    }
}

/// # Safety
/// As futimens(2).
pub unsafe fn futimens(real: real::futimens, fd: c_int, times: *const libc::timespec) -> c_int {
    // SAFETY: as above.
    change_open(fd, WRITE_TIMES, || unsafe { real(fd, times) })
}

/// # Safety
/// As utimes(2), utime(2).
pub unsafe fn utimes(real: real::utimes, path: *const c_char, times: *const c_void) -> c_int {
    // SAFETY: as above, or with a NUL-terminated path of ours.
    unsafe { change_attribute(AT_FDCWD, path, true, WRITE_TIMES, |scratch| real(scratch.unwrap_or(path), times)) }
}

/// # Safety
/// As truncate(2).
pub unsafe fn truncate(real: real::truncate, path: *const c_char, length: i64) -> c_int {
    // SAFETY: promised by the caller.
    match unsafe { vfs::key(AT_FDCWD, path) }.and_then(|key| vfs::target(key, libc::O_RDWR)) {
        // SAFETY: as above.
        Ok(None) => unsafe { real(path, length) },
        // SAFETY: a NUL-terminated path of ours.
        Ok(Some(target)) => unsafe { real(target.path.as_ptr(), length) },
        Err(errno) => fail(errno),
    }
}

/// # Safety
/// As chdir(2).
pub unsafe fn chdir(_: real::chdir, path: *const c_char) -> c_int {
    // SAFETY: promised by the caller.
    let place =
        unsafe { vfs::key(AT_FDCWD, path) }.and_then(|key| vfs::place(vfs::followed(key)?.bytes(), Want::Record));
    match place {
        Ok(Place::Head(known)) => change_folder(known.index, known.entry),
        Ok(Place::Own | Place::Written(_)) => fail(vfs::unsupported(b"chdir to where this compile writes")),
        Err(errno) => fail(errno),
    }
}

/// # Safety
/// As fchdir(2).
pub unsafe fn fchdir(_: real::fchdir, fd: c_int) -> c_int {
    match view::stands(fd) {
        Ok(Some(Stands::Head(index))) => match view::entry(index) {
            Some(entry) => change_folder(index, entry),
            None => fail(libc::EBADF),
        },
        Ok(_) => fail(vfs::unsupported(b"fchdir to where this compile writes")),
        Err(errno) => fail(errno),
    }
}

/// The process's own working directory stays its scratch: no path of the head's ever reaches the kernel.
fn change_folder(index: u32, entry: &Entry) -> c_int {
    if entry.stat_errno != 0 {
        return fail(entry.stat_errno);
    }
    if entry.stat.mode & libc::S_IFMT != libc::S_IFDIR {
        return fail(libc::ENOTDIR);
    }
    if entry.access & ACCESS_EXECUTE == 0 {
        return fail(libc::EACCES);
    }
    view::change_folder(index);
    0
}
