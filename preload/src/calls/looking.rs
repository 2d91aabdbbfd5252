//! Calls that look: existence, identity, permissions, links, names.

use super::fail;
use crate::path;
use crate::sys::{self, Errno};
use crate::table::real;
use crate::vfs::{self, Place};
use crate::view::{self, Known, Stands};
use core::ffi::{c_char, c_int, c_uint};
use core::sync::atomic::Ordering;
use libc::AT_FDCWD;
use mpicc_proxy_abi::miss::Want;
use mpicc_proxy_abi::table::{ACCESS_EXECUTE, ACCESS_READ, ACCESS_WRITE, Stat};
use mpicc_proxy_abi::task::{WRITE_FIFO, WriteEntry, WriteState};

/// Who answers stat(2) for a path.
pub enum Looked {
    Own,
    Written(&'static WriteEntry),
    Head(Stat),
}

pub fn look(key: path::Key, follow: bool) -> Result<Looked, Errno> {
    let key = if follow { vfs::followed(key)? } else { key };
    match vfs::place(key.bytes(), Want::Record)? {
        Place::Own => Ok(Looked::Own),
        Place::Written(written) => match written.state() {
            WriteState::Live if key.directory => Err(libc::ENOTDIR),
            WriteState::Live if written.flags.load(Ordering::Acquire) & WRITE_FIFO != 0 => {
                let known = view::lookup(key.bytes(), Want::Record).ok_or(libc::EIO)?;
                Ok(Looked::Head(if follow { known.entry.stat } else { known.entry.lstat }))
            }
            state if state.exists() => Ok(Looked::Written(written)),
            _ => Err(libc::ENOENT),
        },
        Place::Head(Known { entry, .. }) => {
            let (errno, stat) =
                if follow || key.directory { (entry.stat_errno, entry.stat) } else { (entry.lstat_errno, entry.lstat) };
            if errno != 0 {
                Err(errno)
            } else if key.directory && stat.mode & libc::S_IFMT != libc::S_IFDIR {
                Err(libc::ENOTDIR)
            } else {
                Ok(Looked::Head(stat))
            }
        }
    }
}

/// Does something with the scratch item behind what this compile made.
pub fn on_scratch(written: &WriteEntry, act: impl FnOnce(*const c_char) -> c_int) -> c_int {
    match vfs::scratch_of(written) {
        Ok(scratch) => act(scratch.as_ptr()),
        Err(errno) => fail(errno),
    }
}

fn fill(stat: &Stat, out: &mut libc::stat) {
    out.st_dev = stat.dev as _;
    out.st_ino = stat.ino as _;
    out.st_rdev = stat.rdev as _;
    out.st_mode = stat.mode as _;
    out.st_uid = stat.uid as _;
    out.st_gid = stat.gid as _;
    out.st_nlink = stat.nlink as _;
    out.st_size = stat.size as _;
    out.st_blksize = stat.blksize as _;
    out.st_blocks = stat.blocks as _;
    [out.st_atime, out.st_atime_nsec] = stat.atime as _;
    [out.st_mtime, out.st_mtime_nsec] = stat.mtime as _;
    [out.st_ctime, out.st_ctime_nsec] = stat.ctime as _;
}

/// # Safety
/// `out` points to a writable `stat`; `own` asks this host about the path it is given.
unsafe fn stat_at(
    dir: c_int,
    path: *const c_char,
    follow: bool,
    out: *mut libc::stat,
    own: impl FnOnce(*const c_char) -> c_int,
) -> c_int {
    // SAFETY: promised by the caller.
    match unsafe { vfs::key(dir, path) }.and_then(|key| look(key, follow)) {
        Ok(Looked::Own) => own(path),
        Ok(Looked::Written(written)) => on_scratch(written, own),
        Ok(Looked::Head(stat)) => {
            // SAFETY: promised by the caller; the kernel, too, clears what it has no value for.
            unsafe {
                out.write(core::mem::zeroed());
                fill(&stat, &mut *out);
            }
            0
        }
        Err(errno) => fail(errno),
    }
}

/// # Safety
/// As stat(2).
pub unsafe fn stat(real: real::stat, path: *const c_char, out: *mut libc::stat) -> c_int {
    // SAFETY: as above.
    unsafe { stat_at(AT_FDCWD, path, true, out, |path| real(path, out)) }
}

/// # Safety
/// As lstat(2).
pub unsafe fn lstat(real: real::lstat, path: *const c_char, out: *mut libc::stat) -> c_int {
    // SAFETY: as above.
    unsafe { stat_at(AT_FDCWD, path, false, out, |path| real(path, out)) }
}

/// # Safety
/// As glibc's stat before 2.33.
pub unsafe fn xstat(real: real::__xstat, version: c_int, path: *const c_char, out: *mut libc::stat) -> c_int {
    // SAFETY: as above.
    unsafe { stat_at(AT_FDCWD, path, true, out, |path| real(version, path, out)) }
}

/// # Safety
/// As glibc's lstat before 2.33.
pub unsafe fn lxstat(real: real::__lxstat, version: c_int, path: *const c_char, out: *mut libc::stat) -> c_int {
    // SAFETY: as above.
    unsafe { stat_at(AT_FDCWD, path, false, out, |path| real(version, path, out)) }
}

/// # Safety
/// As fstatat(2).
pub unsafe fn fstatat(
    real: real::fstatat,
    dir: c_int,
    path: *const c_char,
    out: *mut libc::stat,
    flags: c_int,
) -> c_int {
    // SAFETY: as above.
    if flags & libc::AT_EMPTY_PATH != 0 && !path.is_null() && unsafe { *path } == 0 {
        // SAFETY: as above.
        return unsafe { finish_fstat(real(dir, path, out, flags), dir, out) };
    }
    let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
    // SAFETY: as above.
    unsafe { stat_at(dir, path, follow, out, |path| real(dir, path, out, flags)) }
}

/// # Safety
/// As glibc's fstatat before 2.33.
pub unsafe fn fxstatat(
    real: real::__fxstatat,
    version: c_int,
    dir: c_int,
    path: *const c_char,
    out: *mut libc::stat,
    flags: c_int,
) -> c_int {
    let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
    // SAFETY: as above.
    unsafe { stat_at(dir, path, follow, out, |path| real(version, dir, path, out, flags)) }
}

/// # Safety
/// As fstat(2).
pub unsafe fn fstat(real: real::fstat, fd: c_int, out: *mut libc::stat) -> c_int {
    // SAFETY: as above.
    unsafe { finish_fstat(real(fd, out), fd, out) }
}

/// # Safety
/// As glibc's fstat before 2.33.
pub unsafe fn fxstat(real: real::__fxstat, version: c_int, fd: c_int, out: *mut libc::stat) -> c_int {
    // SAFETY: as above.
    unsafe { finish_fstat(real(version, fd, out), fd, out) }
}

/// A descriptor of a file of the head shows the head's identity: compilers tell headers apart by it.
///
/// # Safety
/// When `result` is 0, `out` points to the `stat` of `fd`.
unsafe fn finish_fstat(result: c_int, fd: c_int, out: *mut libc::stat) -> c_int {
    if result == 0 {
        // SAFETY: filled by the successful call.
        let out = unsafe { &mut *out };
        match view::stands_for(fd, out.st_dev, out.st_ino) {
            Some(Stands::Head(index)) => {
                if let Some(entry) = view::entry(index) {
                    fill(&entry.stat, out);
                }
            }
            // What flows into a FIFO looks like one.
            Some(Stands::Written(written)) if written.flags.load(Ordering::Acquire) & WRITE_FIFO != 0 => {
                if let Some(known) = view::lookup(view::page().bytes(written.key()), Want::Record) {
                    fill(&known.entry.stat, out);
                }
            }
            Some(Stands::Written(_)) | None => {}
        }
    }
    result
}

/// # Safety
/// As statx(2).
pub unsafe fn statx(
    real: real::statx,
    dir: c_int,
    path: *const c_char,
    flags: c_int,
    mask: c_uint,
    out: *mut libc::statx,
) -> c_int {
    // SAFETY: as above.
    let empty = path.is_null() || unsafe { *path } == 0;
    let looked = if empty {
        let Some(stat) = sys::fstat(dir) else {
            // SAFETY: as above.
            return unsafe { real(dir, path, flags, mask, out) };
        };
        match view::entry_of_fd(dir, stat.st_dev, stat.st_ino) {
            Some(entry) => Ok(Looked::Head(entry.stat)),
            None => Ok(Looked::Own),
        }
    } else {
        let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
        // SAFETY: as above.
        unsafe { vfs::key(dir, path) }.and_then(|key| look(key, follow))
    };
    match looked {
        // SAFETY: as above.
        Ok(Looked::Own) => unsafe { real(dir, path, flags, mask, out) },
        Ok(Looked::Written(written)) => {
            // SAFETY: as above, with a NUL-terminated path of ours.
            on_scratch(written, |scratch| unsafe { real(AT_FDCWD, scratch, flags, mask, out) })
        }
        Ok(Looked::Head(stat)) => {
            // SAFETY: `out` is writable by the caller's promise; all-zero bytes are a valid `statx`.
            unsafe { out.write(core::mem::zeroed()) };
            // SAFETY: just written.
            fill_statx(&stat, unsafe { &mut *out });
            0
        }
        Err(errno) => fail(errno),
    }
}

fn fill_statx(stat: &Stat, out: &mut libc::statx) {
    out.stx_mask = libc::STATX_BASIC_STATS;
    out.stx_mode = stat.mode as _;
    out.stx_uid = stat.uid;
    out.stx_gid = stat.gid;
    out.stx_nlink = stat.nlink;
    out.stx_ino = stat.ino;
    out.stx_size = stat.size as _;
    out.stx_blksize = stat.blksize as _;
    out.stx_blocks = stat.blocks as _;
    (out.stx_dev_major, out.stx_dev_minor) = (libc::major(stat.dev as _), libc::minor(stat.dev as _));
    (out.stx_rdev_major, out.stx_rdev_minor) = (libc::major(stat.rdev as _), libc::minor(stat.rdev as _));
    for (to, from) in
        [(&mut out.stx_atime, stat.atime), (&mut out.stx_mtime, stat.mtime), (&mut out.stx_ctime, stat.ctime)]
    {
        to.tv_sec = from[0];
        to.tv_nsec = from[1] as u32;
    }
}

/// # Safety
/// `path` is NUL-terminated; `own` asks this host.
unsafe fn access_at(dir: c_int, path: *const c_char, how: c_int, own: impl FnOnce(*const c_char) -> c_int) -> c_int {
    // SAFETY: promised by the caller.
    let key = unsafe { vfs::key(dir, path) }.and_then(vfs::followed);
    let place = key.and_then(|key| match vfs::place(key.bytes(), Want::Record)? {
        Place::Head(known) => Ok(Some((known.entry, key.directory))),
        Place::Written(written) => {
            let is_directory = written.state() == WriteState::Directory;
            look(key, true)?;
            // What this compile made, it may use.
            if how & libc::X_OK == 0 || is_directory { Ok(None) } else { Err(libc::EACCES) }
        }
        Place::Own => Err(0),
    });
    match place {
        Err(0) => own(path),
        Err(errno) => fail(errno),
        Ok(None) => 0,
        Ok(Some((entry, _))) if entry.stat_errno != 0 => fail(entry.stat_errno),
        Ok(Some((entry, true))) if entry.stat.mode & libc::S_IFMT != libc::S_IFDIR => fail(libc::ENOTDIR),
        Ok(Some((entry, _))) => {
            let wanted = [(libc::R_OK, ACCESS_READ), (libc::W_OK, ACCESS_WRITE), (libc::X_OK, ACCESS_EXECUTE)];
            let denied = wanted.iter().find(|(bit, right)| how & bit != 0 && entry.access & right == 0);
            match denied {
                None => 0,
                Some((_, ACCESS_WRITE)) => fail(entry.write_errno),
                Some(_) => fail(libc::EACCES),
            }
        }
    }
}

/// # Safety
/// As access(2).
pub unsafe fn access(real: real::access, path: *const c_char, how: c_int) -> c_int {
    // SAFETY: as above.
    unsafe { access_at(AT_FDCWD, path, how, |path| real(path, how)) }
}

/// # Safety
/// As faccessat(2).
pub unsafe fn faccessat(real: real::faccessat, dir: c_int, path: *const c_char, how: c_int, flags: c_int) -> c_int {
    // SAFETY: as above.
    unsafe { access_at(dir, path, how, |path| real(dir, path, how, flags)) }
}
