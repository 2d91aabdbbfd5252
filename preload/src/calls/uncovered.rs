//! Calls the tree does not cover: fine on this host's own paths, a taint on the head's. No compiler is known to need one.

use super::fail;
use crate::hook::set_errno;
use crate::table::real;
use crate::vfs;
use crate::view;
use core::ffi::{c_char, c_int, c_long, c_uint, c_void};
use libc::{AT_FDCWD, FILE, dev_t, gid_t, mode_t, uid_t};

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

/// What answers for a file of the head's can only come from the head.
fn refuse_open(fd: c_int, what: &[u8], own: impl FnOnce() -> c_int) -> c_int {
    match view::stands(fd) {
        Ok(Some(_)) => fail(vfs::unsupported(what)),
        Ok(None) | Err(_) => own(),
    }
}

fn refuse_pointer<T>(what: &[u8]) -> *mut T {
    set_errno(vfs::unsupported(what));
    core::ptr::null_mut()
}

/// # Safety
/// As link(2).
pub unsafe fn link(real: real::link, from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: as above.
    unsafe { refuse_path(AT_FDCWD, to, || refuse_path(AT_FDCWD, from, || real(from, to))) }
}

/// # Safety
/// As linkat(2).
pub unsafe fn linkat(
    real: real::linkat,
    from_dir: c_int,
    from: *const c_char,
    to_dir: c_int,
    to: *const c_char,
    flags: c_int,
) -> c_int {
    // SAFETY: as above.
    unsafe { refuse_path(to_dir, to, || refuse_path(from_dir, from, || real(from_dir, from, to_dir, to, flags))) }
}

/// # Safety
/// As mkfifo(3), lchmod(3).
pub unsafe fn mkfifo(real: real::mkfifo, path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: as above.
    unsafe { refuse_path(AT_FDCWD, path, || real(path, mode)) }
}

/// # Safety
/// As mkfifoat(3).
pub unsafe fn mkfifoat(real: real::mkfifoat, dir: c_int, path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: as above.
    unsafe { refuse_path(dir, path, || real(dir, path, mode)) }
}

/// # Safety
/// As mknod(2).
pub unsafe fn mknod(real: real::mknod, path: *const c_char, mode: mode_t, device: dev_t) -> c_int {
    // SAFETY: as above.
    unsafe { refuse_path(AT_FDCWD, path, || real(path, mode, device)) }
}

/// # Safety
/// As mknodat(2).
pub unsafe fn mknodat(real: real::mknodat, dir: c_int, path: *const c_char, mode: mode_t, device: dev_t) -> c_int {
    // SAFETY: as above.
    unsafe { refuse_path(dir, path, || real(dir, path, mode, device)) }
}

/// # Safety
/// As chown(2), lchown(2).
pub unsafe fn chown(real: real::chown, path: *const c_char, user: uid_t, group: gid_t) -> c_int {
    // SAFETY: as above.
    unsafe { refuse_path(AT_FDCWD, path, || real(path, user, group)) }
}

/// # Safety
/// As fchownat(2).
pub unsafe fn fchownat(
    real: real::fchownat,
    dir: c_int,
    path: *const c_char,
    user: uid_t,
    group: gid_t,
    flags: c_int,
) -> c_int {
    // SAFETY: as above.
    unsafe { refuse_path(dir, path, || real(dir, path, user, group, flags)) }
}

/// # Safety
/// As fchown(2).
pub unsafe fn fchown(real: real::fchown, fd: c_int, user: uid_t, group: gid_t) -> c_int {
    // SAFETY: as above.
    refuse_open(fd, b"fchown", || unsafe { real(fd, user, group) })
}

/// # Safety
/// As statfs(2), statvfs(3).
pub unsafe fn statfs(real: real::statfs, path: *const c_char, out: *mut c_void) -> c_int {
    // SAFETY: as above.
    unsafe { refuse_path(AT_FDCWD, path, || real(path, out)) }
}

/// # Safety
/// As fstatfs(2), fstatvfs(3).
pub unsafe fn fstatfs(real: real::fstatfs, fd: c_int, out: *mut c_void) -> c_int {
    // SAFETY: as above.
    refuse_open(fd, b"fstatfs", || unsafe { real(fd, out) })
}

/// # Safety
/// As futimes(3).
pub unsafe fn futimes(real: real::futimes, fd: c_int, times: *const c_void) -> c_int {
    // SAFETY: as above.
    refuse_open(fd, b"futimes", || unsafe { real(fd, times) })
}

/// # Safety
/// As lutimes(3).
pub unsafe fn lutimes(real: real::lutimes, path: *const c_char, times: *const c_void) -> c_int {
    // SAFETY: as above.
    unsafe { refuse_path(AT_FDCWD, path, || real(path, times)) }
}

/// # Safety
/// As futimesat(2).
pub unsafe fn futimesat(real: real::futimesat, dir: c_int, path: *const c_char, times: *const c_void) -> c_int {
    // SAFETY: as above.
    unsafe { refuse_path(dir, path, || real(dir, path, times)) }
}

/// # Safety
/// As inotify_add_watch(2).
pub unsafe fn inotify_add_watch(real: real::inotify_add_watch, fd: c_int, path: *const c_char, mask: c_uint) -> c_int {
    // SAFETY: as above.
    unsafe { refuse_path(AT_FDCWD, path, || real(fd, path, mask)) }
}

/// # Safety
/// As pathconf(3).
pub unsafe fn pathconf(real: real::pathconf, path: *const c_char, name: c_int) -> c_long {
    let mut answer = -1;
    // SAFETY: as above.
    unsafe {
        refuse_path(AT_FDCWD, path, || {
            answer = real(path, name);
            0
        })
    };
    answer
}

/// # Safety
/// As glob(3).
pub unsafe fn glob(_: real::glob, pattern: *const c_char, _: c_int, _: *mut c_void, _: *mut c_void) -> c_int {
    // SAFETY: NUL-terminated by the caller's promise.
    vfs::unsupported(unsafe { crate::fixed::bytes_of(pattern) });
    libc::GLOB_ABORTED
}

/// # Safety
/// As ftw(3), nftw(3).
pub unsafe fn walk(_: real::nftw, path: *const c_char, _: *mut c_void, _: c_int, _: c_int) -> c_int {
    // SAFETY: as above.
    unsafe { refuse_path(AT_FDCWD, path, || -1) }
}

/// # Safety
/// As fts_open(3).
pub unsafe fn fts_open(_: real::fts_open, _: *const *mut c_char, _: c_int, _: *mut c_void) -> *mut c_void {
    refuse_pointer(b"fts_open")
}

/// # Safety
/// As tmpfile(3).
pub unsafe fn tmpfile(_: real::tmpfile) -> *mut FILE {
    refuse_pointer(b"tmpfile")
}

/// # Safety
/// As tempnam(3).
pub unsafe fn tempnam(_: real::tempnam, _: *const c_char, _: *const c_char) -> *mut c_char {
    refuse_pointer(b"tempnam")
}

/// # Safety
/// As tmpnam(3), mktemp(3).
pub unsafe fn tmpnam(_: real::tmpnam, _: *mut c_char) -> *mut c_char {
    refuse_pointer(b"a temporary name without a file")
}

/// # Safety
/// As shm_open(3).
pub unsafe fn shm_open(_: real::shm_open, _: *const c_char, _: c_int, _: mode_t) -> c_int {
    fail(vfs::unsupported(b"shm_open"))
}

/// # Safety
/// As shm_unlink(3).
pub unsafe fn shm_unlink(_: real::shm_unlink, _: *const c_char) -> c_int {
    fail(vfs::unsupported(b"shm_unlink"))
}

/// # Safety
/// As setmntent(3).
pub unsafe fn setmntent(_: real::setmntent, _: *const c_char, _: *const c_char) -> *mut FILE {
    refuse_pointer(b"setmntent")
}

/// # Safety
/// As connect(2), bind(2): what listens here does not listen on the head.
pub unsafe fn connect(_: real::connect, _: c_int, _: *const c_void, _: c_uint) -> c_int {
    fail(vfs::unsupported(b"a connection"))
}

/// # Safety
/// As iconv_open(3): it reads modules of this host's.
pub unsafe fn iconv_open(_: real::iconv_open, _: *const c_char, _: *const c_char) -> *mut c_void {
    set_errno(vfs::unsupported(b"iconv_open"));
    core::ptr::without_provenance_mut(usize::MAX)
}

/// # Safety
/// As getpwnam(3), getgrnam(3): users are this host's.
pub unsafe fn user_by_name(_: real::getpwnam, _: *const c_char) -> *mut c_void {
    refuse_pointer(b"a user's name")
}

/// # Safety
/// As getpwuid(3), getgrgid(3).
pub unsafe fn user_by_number(_: real::getpwuid, _: c_uint) -> *mut c_void {
    refuse_pointer(b"a user's number")
}

/// # Safety
/// As getpwent(3).
pub unsafe fn next_user(_: real::getpwent) -> *mut c_void {
    refuse_pointer(b"the users")
}

/// # Safety
/// As getpwnam_r(3), getgrnam_r(3).
pub unsafe fn user_by_name_r(
    _: real::getpwnam_r,
    _: *const c_char,
    _: *mut c_void,
    _: *mut c_char,
    _: usize,
    result: *mut *mut c_void,
) -> c_int {
    // SAFETY: an out-parameter.
    unsafe { *result = core::ptr::null_mut() };
    vfs::unsupported(b"a user's name")
}

/// # Safety
/// As getpwuid_r(3), getgrgid_r(3).
pub unsafe fn user_by_number_r(
    _: real::getpwuid_r,
    _: c_uint,
    _: *mut c_void,
    _: *mut c_char,
    _: usize,
    result: *mut *mut c_void,
) -> c_int {
    // SAFETY: an out-parameter.
    unsafe { *result = core::ptr::null_mut() };
    vfs::unsupported(b"a user's number")
}

/// # Safety
/// As tcgetattr(3).
pub unsafe fn tcgetattr(real: real::tcgetattr, fd: c_int, out: *mut c_void) -> c_int {
    if (0..3).contains(&fd) && view::page().terminals & 1 << fd != 0 {
        return fail(vfs::unsupported(b"tcgetattr"));
    }
    // SAFETY: as above.
    unsafe { real(fd, out) }
}

/// # Safety
/// As ttyname(3).
pub unsafe fn ttyname(real: real::ttyname, fd: c_int) -> *mut c_char {
    if (0..3).contains(&fd) && view::page().terminals & 1 << fd != 0 {
        return refuse_pointer(b"ttyname");
    }
    // SAFETY: as above.
    unsafe { real(fd) }
}

/// System calls that take a path, by number: a program that makes them itself is not covered.
const PATH_CALLS: &[c_long] = &[
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_mkdirat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_mknodat,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_truncate,
    libc::SYS_statfs,
    libc::SYS_chdir,
    libc::SYS_fchdir,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_execve,
    libc::SYS_execveat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_creat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rmdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_symlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_link,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
];

/// # Safety
/// As syscall(2).
#[allow(clippy::too_many_arguments)]
pub unsafe fn syscall(
    real: real::syscall,
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    if PATH_CALLS.contains(&number) {
        set_errno(vfs::unsupported(b"a system call on a path"));
        return -1;
    }
    // SAFETY: as above.
    unsafe { real(number, a, b, c, d, e, f) }
}
