//! Calls that open: a path becomes a descriptor or a stream.

use super::{fail, imports};
use crate::hook::{errno, set_errno};
use crate::path;
use crate::sys::{self, Errno};
use crate::table::real;
use crate::vfs::{self, Target};
use crate::view::{self, Stands};
use core::ffi::{CStr, c_char, c_int};
use libc::{AT_FDCWD, FILE, mode_t};
use mpicc_proxy_abi::task::Taint;

/// # Safety
/// As openat(2).
unsafe fn open_at(dir: c_int, path: *const c_char, flags: c_int) -> Result<Option<Target>, Errno> {
    // SAFETY: promised by the caller.
    let key = unsafe { vfs::key(dir, path) }?;
    vfs::target(key, flags)
}

/// Opens what `target` says, or with `own` the path itself.
fn finish_open(target: Result<Option<Target>, Errno>, mode: mode_t, own: impl FnOnce() -> c_int) -> c_int {
    match target {
        Ok(None) => own(),
        Err(errno) => fail(errno),
        Ok(Some(target)) => {
            // SAFETY: a NUL-terminated path of ours.
            let open = || unsafe { sys::open(target.path.as_ptr(), target.flags, mode) };
            let opened = match target.stands {
                Stands::Head(index) => view::open_content_of(index, open),
                Stands::Written(_) => open(),
            };
            match opened {
                Ok(fd) => {
                    view::note_fd(fd, target.stands);
                    fd
                }
                Err(errno) => {
                    lost(&target);
                    fail(errno)
                }
            }
        }
    }
}

/// What we promised cannot be opened: never let the compiler believe that the head's file is missing.
fn lost(target: &Target) {
    view::taint(Taint::Store, target.path.bytes());
}

/// # Safety
/// As open(2).
pub unsafe fn open(real: real::open, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: as above.
    unsafe { finish_open(open_at(AT_FDCWD, path, flags), mode, || real(path, flags, mode)) }
}

/// # Safety
/// As open(2) without O_CREAT.
pub unsafe fn open_2(real: real::__open_2, path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: as above.
    unsafe { finish_open(open_at(AT_FDCWD, path, flags), 0, || real(path, flags)) }
}

/// # Safety
/// As openat(2).
pub unsafe fn openat(real: real::openat, dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: as above.
    unsafe { finish_open(open_at(dir, path, flags), mode, || real(dir, path, flags, mode)) }
}

/// # Safety
/// As openat(2) without O_CREAT.
pub unsafe fn openat_2(real: real::__openat_2, dir: c_int, path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: as above.
    unsafe { finish_open(open_at(dir, path, flags), 0, || real(dir, path, flags)) }
}

/// # Safety
/// As creat(2).
pub unsafe fn creat(real: real::creat, path: *const c_char, mode: mode_t) -> c_int {
    let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
    // SAFETY: as above.
    unsafe { finish_open(open_at(AT_FDCWD, path, flags), mode, || real(path, mode)) }
}

/// open(2)'s flags for a mode of fopen(3).
///
/// # Safety
/// `mode` is NUL-terminated.
unsafe fn stdio_flags(mode: *const c_char) -> c_int {
    // SAFETY: promised by the caller.
    let mode = unsafe { CStr::from_ptr(mode) }.to_bytes();
    let both = mode.contains(&b'+');
    let access = |alone| if both { libc::O_RDWR } else { alone };
    let exclusive = if mode.contains(&b'x') { libc::O_EXCL } else { 0 };
    match mode.first() {
        Some(b'w') => access(libc::O_WRONLY) | libc::O_CREAT | libc::O_TRUNC | exclusive,
        Some(b'a') => access(libc::O_WRONLY) | libc::O_CREAT | libc::O_APPEND | exclusive,
        _ => access(libc::O_RDONLY),
    }
}

/// # Safety
/// As fopen(3); `open` opens the path it is given, `repeatable`: any number of times.
unsafe fn open_stream(
    path: *const c_char,
    mode: *const c_char,
    repeatable: bool,
    open: impl Fn(*const c_char) -> *mut FILE,
) -> *mut FILE {
    // SAFETY: promised by the caller.
    let target = unsafe { open_at(AT_FDCWD, path, stdio_flags(mode)) };
    match target {
        Ok(None) => open(path),
        Err(errno) => {
            set_errno(errno);
            core::ptr::null_mut()
        }
        Ok(Some(target)) => {
            let open = || match open(target.path.as_ptr()) {
                stream if stream.is_null() => Err(errno()),
                stream => Ok(stream),
            };
            let opened = match target.stands {
                Stands::Head(index) if repeatable => view::open_content_of(index, open),
                _ => open(),
            };
            match opened {
                Ok(stream) => {
                    // SAFETY: a stream that was just opened.
                    view::note_fd(unsafe { imports::fileno(stream) }, target.stands);
                    stream
                }
                Err(errno) => {
                    lost(&target);
                    set_errno(errno);
                    core::ptr::null_mut()
                }
            }
        }
    }
}

/// # Safety
/// As fopen(3).
pub unsafe fn fopen(real: real::fopen, path: *const c_char, mode: *const c_char) -> *mut FILE {
    // SAFETY: as above.
    unsafe { open_stream(path, mode, true, |path| real(path, mode)) }
}

/// # Safety
/// As freopen(3).
pub unsafe fn freopen(real: real::freopen, path: *const c_char, mode: *const c_char, stream: *mut FILE) -> *mut FILE {
    if path.is_null() {
        // SAFETY: as above.
        return unsafe { real(path, mode, stream) };
    }
    // SAFETY: as above.
    // A stream is gone once this fails.
    unsafe { open_stream(path, mode, false, |path| real(path, mode, stream)) }
}

/// Letters of temporary names, as mkstemp(3) uses them.
const LETTERS: &[u8; 62] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
const TEMPLATE: &[u8] = b"XXXXXX";
/// Names tried before giving up; of 62^6 possible ones.
const NAMES_TRIED: u32 = 100;

/// Fills in a template until `make` finds the name free. `Ok(None)`: the template is this host's own.
///
/// # Safety
/// `template` is a writable NUL-terminated string.
pub unsafe fn with_temporary_name<T>(
    template: *mut c_char,
    suffix: c_int,
    mut make: impl FnMut(&path::Key) -> Result<T, Errno>,
) -> Result<Option<T>, Errno> {
    // SAFETY: promised by the caller.
    if view::is_own(unsafe { vfs::key(AT_FDCWD, template) }?.bytes()) {
        return Ok(None);
    }
    // SAFETY: promised by the caller.
    let length = unsafe { CStr::from_ptr(template) }.to_bytes().len();
    let start = usize::try_from(suffix).ok().and_then(|suffix| length.checked_sub(suffix + TEMPLATE.len()));
    let start = start.ok_or(libc::EINVAL)?;
    // SAFETY: inside the string by the subtraction above.
    let letters = unsafe { core::slice::from_raw_parts_mut(template.add(start).cast::<u8>(), TEMPLATE.len()) };
    if letters != TEMPLATE {
        return Err(libc::EINVAL);
    }
    for _ in 0..NAMES_TRIED {
        let mut random = sys::random();
        for letter in letters.iter_mut() {
            *letter = LETTERS[(random % LETTERS.len() as u64) as usize];
            random /= LETTERS.len() as u64;
        }
        // SAFETY: still NUL-terminated.
        match unsafe { vfs::key(AT_FDCWD, template) }.and_then(|key| make(&key)) {
            Err(libc::EEXIST) => {}
            made => return made.map(Some),
        }
    }
    Err(libc::EEXIST)
}

/// # Safety
/// `template` is a writable NUL-terminated string; `own` acts on this host.
unsafe fn make_temporary(template: *mut c_char, suffix: c_int, flags: c_int, own: impl FnOnce() -> c_int) -> c_int {
    let flags = flags | libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
    // SAFETY: promised by the caller.
    let target = unsafe { with_temporary_name(template, suffix, |key| vfs::temporary_target(key.bytes(), flags)) };
    finish_open(target, 0o600, own)
}

/// # Safety
/// As mkstemp(3).
pub unsafe fn mkstemp(real: real::mkstemp, template: *mut c_char) -> c_int {
    // SAFETY: as above.
    unsafe { make_temporary(template, 0, 0, || real(template)) }
}

/// # Safety
/// As mkostemp(3).
pub unsafe fn mkostemp(real: real::mkostemp, template: *mut c_char, flags: c_int) -> c_int {
    // SAFETY: as above.
    unsafe { make_temporary(template, 0, flags, || real(template, flags)) }
}

/// # Safety
/// As mkstemps(3).
pub unsafe fn mkstemps(real: real::mkstemps, template: *mut c_char, suffix: c_int) -> c_int {
    // SAFETY: as above.
    unsafe { make_temporary(template, suffix, 0, || real(template, suffix)) }
}

/// # Safety
/// As mkostemps(3).
pub unsafe fn mkostemps(real: real::mkostemps, template: *mut c_char, suffix: c_int, flags: c_int) -> c_int {
    // SAFETY: as above.
    unsafe { make_temporary(template, suffix, flags, || real(template, suffix, flags)) }
}
