//! Calls the tree does not cover yet: fine on this host's own paths, a taint on the head's.

use super::fail;
use crate::table::real;
use crate::vfs;
use crate::view;
use core::ffi::{c_char, c_int};
use libc::{AT_FDCWD, mode_t};

/// A call the tree does not cover: fine on this host's own paths, a taint on the head's.
///
/// # Safety
/// `path` is NULL or NUL-terminated; `own` acts on this host.
pub unsafe fn refuse_path(dir: c_int, path: *const c_char, own: impl FnOnce() -> c_int) -> c_int {
    // SAFETY: promised by the caller.
    match unsafe { vfs::key(dir, path) } {
        Ok(key) if view::is_own(key.bytes()) => own(),
        Ok(key) => fail(vfs::unsupported(key.bytes())),
        Err(errno) => fail(errno),
    }
}

/// # Safety
/// As chdir(2), rmdir(2).
pub unsafe fn refuse(real: real::chdir, path: *const c_char) -> c_int {
    // SAFETY: as above.
    unsafe { refuse_path(AT_FDCWD, path, || real(path)) }
}

/// # Safety
/// As fchdir(2).
pub unsafe fn fchdir(_: real::fchdir, _: c_int) -> c_int {
    fail(vfs::unsupported(b"fchdir"))
}

/// # Safety
/// As symlink(2), link(2).
pub unsafe fn refuse_second(real: real::symlink, target: *const c_char, path: *const c_char) -> c_int {
    // SAFETY: as above.
    unsafe { refuse_path(AT_FDCWD, path, || real(target, path)) }
}

/// # Safety
/// As truncate(2).
pub unsafe fn truncate(real: real::truncate, path: *const c_char, length: i64) -> c_int {
    // SAFETY: as above.
    unsafe { refuse_path(AT_FDCWD, path, || real(path, length)) }
}

/// # Safety
/// As mkfifo(3).
pub unsafe fn mkfifo(real: real::mkfifo, path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: as above.
    unsafe { refuse_path(AT_FDCWD, path, || real(path, mode)) }
}

/// # Safety
/// As utimensat(2). Times of what was written are not published, so nothing is lost on scratch files.
pub unsafe fn utimensat(
    real: real::utimensat,
    dir: c_int,
    path: *const c_char,
    times: *const libc::timespec,
    flags: c_int,
) -> c_int {
    // SAFETY: as above.
    unsafe { refuse_path(dir, path, || real(dir, path, times, flags)) }
}

/// # Safety
/// As mkdtemp(3).
pub unsafe fn mkdtemp(real: real::mkdtemp, template: *mut c_char) -> *mut c_char {
    // SAFETY: as above.
    let result = unsafe { refuse_path(AT_FDCWD, template, || 0) };
    // SAFETY: as above.
    if result == 0 { unsafe { real(template) } } else { core::ptr::null_mut() }
}
