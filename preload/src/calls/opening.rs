//! Calls that open: a path becomes a descriptor, a stream or a directory stream.

use super::{fail, imports};
use crate::hook::{errno, set_errno};
use crate::path;
use crate::sys::{self, Errno};
use crate::table::real;
use crate::target::PathText;
use crate::vfs::{self, Place, Target};
use crate::view::{self, Known};
use core::ffi::{CStr, c_char, c_int};
use libc::{AT_FDCWD, FILE, mode_t};
use mpicc_proxy_abi::miss::Want;
use mpicc_proxy_abi::table::ACCESS_READ;
use mpicc_proxy_abi::task::{Scratch, Taint};

/// # Safety
/// As openat(2).
unsafe fn open_at(dir: c_int, path: *const c_char, flags: c_int) -> Result<Option<Target>, Errno> {
    // SAFETY: promised by the caller.
    let key = unsafe { vfs::key(dir, path) }?;
    vfs::target(&key, flags)
}

/// Opens what `target` says, or with `own` the path itself.
fn finish_open(target: Result<Option<Target>, Errno>, mode: mode_t, own: impl FnOnce() -> c_int) -> c_int {
    match target {
        Ok(None) => own(),
        Err(errno) => fail(errno),
        Ok(Some(target)) => {
            // SAFETY: a NUL-terminated path of ours.
            let open = || unsafe { sys::open(target.path.as_ptr(), target.flags, mode) };
            let opened = match target.known {
                Some(known) => view::open_content(known.entry, open),
                None => open(),
            };
            match opened {
                Ok(fd) => {
                    if let Some(known) = target.known {
                        view::note_fd(fd, known.index);
                    }
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
            let opened = match target.known {
                Some(known) if repeatable => view::open_content(known.entry, open),
                _ => open(),
            };
            match (opened, target.known) {
                (Ok(stream), known) => {
                    if let Some(known) = known {
                        // SAFETY: a stream that was just opened.
                        view::note_fd(unsafe { imports::fileno(stream) }, known.index);
                    }
                    stream
                }
                (Err(errno), _) => {
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

/// # Safety
/// As opendir(3).
pub unsafe fn opendir(real: real::opendir, path: *const c_char) -> *mut libc::DIR {
    // SAFETY: as above.
    let folder = unsafe { vfs::key(AT_FDCWD, path) }.and_then(|key| listing(&key));
    match folder {
        // SAFETY: as above.
        Ok(None) => unsafe { real(path) },
        // SAFETY: a NUL-terminated path of ours.
        Ok(Some(folder)) => unsafe { real(folder.as_ptr()) },
        Err(errno) => {
            set_errno(errno);
            core::ptr::null_mut()
        }
    }
}

/// A folder of this host with the names the head's folder has, made by the rank.
fn listing(key: &path::Key) -> Result<Option<PathText>, Errno> {
    match vfs::place(key.bytes(), Want::Record)? {
        Place::Own => Ok(None),
        Place::Written(_) => Err(vfs::unsupported(key.bytes())),
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
            // gcc tries the files of such a folder in the order in which the head's file system lists them.
            if key.bytes().ends_with(b".gch") {
                return Err(vfs::unsupported(key.bytes()));
            }
            let number = view::ask(key.bytes(), Want::Listing).ok_or_else(|| vfs::unsupported(key.bytes()))?;
            view::scratch_path(Scratch::Listing, number).map(Some).ok_or(libc::ENAMETOOLONG)
        }
    }
}

/// Letters of temporary names, as mkstemp(3) uses them.
const LETTERS: &[u8; 62] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
const TEMPLATE: &[u8] = b"XXXXXX";
/// Names tried before giving up; of 62^6 possible ones.
const NAMES_TRIED: u32 = 100;

/// # Safety
/// `template` is a writable NUL-terminated string; `own` acts on this host.
unsafe fn make_temporary(template: *mut c_char, suffix: c_int, flags: c_int, own: impl FnOnce() -> c_int) -> c_int {
    // SAFETY: promised by the caller.
    match unsafe { vfs::key(AT_FDCWD, template) } {
        Ok(key) if view::is_own(key.bytes()) => return own(),
        Ok(_) => {}
        Err(errno) => return fail(errno),
    }
    // SAFETY: promised by the caller.
    let length = unsafe { CStr::from_ptr(template) }.to_bytes().len();
    let Some(start) = usize::try_from(suffix).ok().and_then(|suffix| length.checked_sub(suffix + TEMPLATE.len()))
    else {
        return fail(libc::EINVAL);
    };
    // SAFETY: inside the string by the subtraction above.
    let letters = unsafe { core::slice::from_raw_parts_mut(template.add(start).cast::<u8>(), TEMPLATE.len()) };
    if letters != TEMPLATE {
        return fail(libc::EINVAL);
    }
    for _ in 0..NAMES_TRIED {
        let mut random = sys::random();
        for letter in letters.iter_mut() {
            *letter = LETTERS[(random % LETTERS.len() as u64) as usize];
            random /= LETTERS.len() as u64;
        }
        let flags = flags | libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
        // SAFETY: still NUL-terminated.
        let target = unsafe { vfs::key(AT_FDCWD, template) }.and_then(|key| vfs::temporary_target(key.bytes(), flags));
        match target {
            Err(libc::EEXIST) => {}
            target => return finish_open(target.map(Some), 0o600, || fail(libc::EINVAL)),
        }
    }
    fail(libc::EEXIST)
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
