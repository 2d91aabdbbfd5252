//! THE table: one row per libc entry point, aliases in the row. What the library exports is exactly the names in
//! brackets (`tests/interception.rs` compares). How a row reads: `hook.rs`.

use crate::calls;
use crate::exec;
use crate::hook::hooks;
use crate::step;
use core::ffi::{c_char, c_int, c_long, c_uint, c_ulong, c_void};
use libc::{
    DIR, FILE, dev_t, dirent64, gid_t, mode_t, pid_t, posix_spawn_file_actions_t, posix_spawnattr_t, size_t, ssize_t,
    uid_t,
};

/// A NULL-terminated array of C strings, as exec takes it.
pub type Strings = *const *const c_char;

hooks! {
    // Processes. `vfork` and `fork` need nothing; `system` and `popen` start a shell that has the library itself.
    [execve](path: *const c_char, argv: Strings, envp: Strings) -> c_int => { Build => @own exec::execve, Worker => @own exec::execve }
    [execv](path: *const c_char, argv: Strings) -> c_int => { Build => @own exec::execv, Worker => @own exec::execv }
    [execvp](file: *const c_char, argv: Strings) -> c_int => { Build => @own exec::execvp, Worker => @own exec::execvp }
    [execvpe](file: *const c_char, argv: Strings, envp: Strings) -> c_int => { Build => @own exec::execvpe, Worker => @own exec::execvpe }
    [execl] variadic -> c_int => { exec::execl }
    [execle] variadic -> c_int => { exec::execle }
    [execlp] variadic -> c_int => { exec::execlp }
    [execveat](dir: c_int, path: *const c_char, argv: Strings, envp: Strings, flags: c_int) -> c_int => {
        Build => @own exec::execveat, Worker => @own exec::execveat
    }
    [fexecve](fd: c_int, argv: Strings, envp: Strings) -> c_int => { Build => @own exec::fexecve, Worker => @own exec::fexecve }
    [posix_spawn](
        pid: *mut pid_t,
        path: *const c_char,
        actions: *const posix_spawn_file_actions_t,
        attributes: *const posix_spawnattr_t,
        argv: Strings,
        envp: Strings,
    ) -> c_int => { Build => @own exec::posix_spawn, Worker => @own exec::posix_spawn }
    [posix_spawnp](
        pid: *mut pid_t,
        file: *const c_char,
        actions: *const posix_spawn_file_actions_t,
        attributes: *const posix_spawnattr_t,
        argv: Strings,
        envp: Strings,
    ) -> c_int => { Build => @own exec::posix_spawnp, Worker => @own exec::posix_spawnp }

    // ninja's default of parallel steps (and `fopen`).
    [sched_getaffinity](pid: pid_t, size: size_t, mask: *mut c_void) -> c_int => { Build => step::sched_getaffinity }

    // Opening.
    [open open64](path: *const c_char, flags: c_int, mode: mode_t) -> c_int => { Worker => calls::open }
    [__open_2 __open64_2](path: *const c_char, flags: c_int) -> c_int => { Worker => calls::open_2 }
    [openat openat64](dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int => { Worker => calls::openat }
    [__openat_2 __openat64_2](dir: c_int, path: *const c_char, flags: c_int) -> c_int => { Worker => calls::openat_2 }
    [creat creat64](path: *const c_char, mode: mode_t) -> c_int => { Worker => calls::creat }
    [fopen fopen64](path: *const c_char, mode: *const c_char) -> *mut FILE => { Build => step::fopen, Worker => calls::fopen }
    [freopen freopen64](path: *const c_char, mode: *const c_char, stream: *mut FILE) -> *mut FILE => {
        Worker => calls::freopen
    }

    // Directories.
    [opendir](path: *const c_char) -> *mut DIR => { Worker => calls::opendir }
    [fdopendir](fd: c_int) -> *mut DIR => { Worker => calls::fdopendir }
    [readdir readdir64](stream: *mut DIR) -> *mut dirent64 => { Worker => calls::readdir }
    [readdir_r readdir64_r](stream: *mut DIR, entry: *mut dirent64, result: *mut *mut dirent64) -> c_int => {
        Worker => calls::readdir_r
    }
    [closedir](stream: *mut DIR) -> c_int => { Worker => calls::closedir }
    [rewinddir](stream: *mut DIR) -> () => { Worker => calls::rewinddir }
    [telldir](stream: *mut DIR) -> c_long => { Worker => calls::telldir }
    [seekdir](stream: *mut DIR, position: c_long) -> () => { Worker => calls::seekdir }
    [dirfd](stream: *mut DIR) -> c_int => { Worker => calls::dirfd }

    // Looking.
    [stat stat64](path: *const c_char, out: *mut libc::stat) -> c_int => { Worker => calls::stat }
    [lstat lstat64](path: *const c_char, out: *mut libc::stat) -> c_int => { Worker => calls::lstat }
    [fstat fstat64](fd: c_int, out: *mut libc::stat) -> c_int => { Worker => calls::fstat }
    [fstatat fstatat64](dir: c_int, path: *const c_char, out: *mut libc::stat, flags: c_int) -> c_int => {
        Worker => calls::fstatat
    }
    [__xstat __xstat64](version: c_int, path: *const c_char, out: *mut libc::stat) -> c_int => { Worker => calls::xstat }
    [__lxstat __lxstat64](version: c_int, path: *const c_char, out: *mut libc::stat) -> c_int => {
        Worker => calls::lxstat
    }
    [__fxstat __fxstat64](version: c_int, fd: c_int, out: *mut libc::stat) -> c_int => { Worker => calls::fxstat }
    [__fxstatat __fxstatat64](
        version: c_int,
        dir: c_int,
        path: *const c_char,
        out: *mut libc::stat,
        flags: c_int,
    ) -> c_int => { Worker => calls::fxstatat }
    [statx](dir: c_int, path: *const c_char, flags: c_int, mask: c_uint, out: *mut libc::statx) -> c_int => {
        Worker => calls::statx
    }
    [access eaccess euidaccess](path: *const c_char, how: c_int) -> c_int => { Worker => calls::access }
    [faccessat](dir: c_int, path: *const c_char, how: c_int, flags: c_int) -> c_int => { Worker => calls::faccessat }
    [readlink](path: *const c_char, out: *mut c_char, size: size_t) -> ssize_t => { Worker => calls::readlink }
    [__readlink_chk](path: *const c_char, out: *mut c_char, size: size_t, room: size_t) -> ssize_t => {
        Worker => calls::readlink_chk
    }
    [readlinkat](dir: c_int, path: *const c_char, out: *mut c_char, size: size_t) -> ssize_t => {
        Worker => calls::readlinkat
    }
    [realpath](path: *const c_char, out: *mut c_char) -> *mut c_char => { Worker => calls::realpath }
    [__realpath_chk](path: *const c_char, out: *mut c_char, room: size_t) -> *mut c_char => {
        Worker => calls::realpath_chk
    }
    [canonicalize_file_name](path: *const c_char) -> *mut c_char => { Worker => calls::canonicalize_file_name }
    [getcwd](out: *mut c_char, size: size_t) -> *mut c_char => { Worker => calls::getcwd }
    [__getcwd_chk](out: *mut c_char, size: size_t, room: size_t) -> *mut c_char => { Worker => calls::getcwd_chk }
    [get_current_dir_name]() -> *mut c_char => { Worker => calls::get_current_dir_name }

    // Changing.
    [unlink](path: *const c_char) -> c_int => { Worker => calls::unlink }
    [unlinkat](dir: c_int, path: *const c_char, flags: c_int) -> c_int => { Worker => calls::unlinkat }
    [remove](path: *const c_char) -> c_int => { Worker => calls::remove }
    [rename](from: *const c_char, to: *const c_char) -> c_int => { Worker => calls::rename }
    [renameat](from_dir: c_int, from: *const c_char, to_dir: c_int, to: *const c_char) -> c_int => {
        Worker => calls::renameat
    }
    [renameat2](from_dir: c_int, from: *const c_char, to_dir: c_int, to: *const c_char, flags: c_uint) -> c_int => {
        Worker => calls::renameat2
    }
    [mkdir](path: *const c_char, mode: mode_t) -> c_int => { Worker => calls::mkdir }
    [mkdirat](dir: c_int, path: *const c_char, mode: mode_t) -> c_int => { Worker => calls::mkdirat }
    [mkdtemp](template: *mut c_char) -> *mut c_char => { Worker => calls::mkdtemp }
    [rmdir](path: *const c_char) -> c_int => { Worker => calls::rmdir }
    [symlink](target: *const c_char, path: *const c_char) -> c_int => { Worker => calls::symlink }
    [symlinkat](target: *const c_char, dir: c_int, path: *const c_char) -> c_int => { Worker => calls::symlinkat }
    [chmod](path: *const c_char, mode: mode_t) -> c_int => { Worker => calls::chmod }
    [fchmod](fd: c_int, mode: mode_t) -> c_int => { Worker => calls::fchmod }
    [fchmodat](dir: c_int, path: *const c_char, mode: mode_t, flags: c_int) -> c_int => { Worker => calls::fchmodat }
    [utimensat](dir: c_int, path: *const c_char, times: *const libc::timespec, flags: c_int) -> c_int => {
        Worker => calls::utimensat
    }
    [futimens](fd: c_int, times: *const libc::timespec) -> c_int => { Worker => calls::futimens }
    [utimes utime](path: *const c_char, times: *const c_void) -> c_int => { Worker => calls::utimes }
    [truncate truncate64](path: *const c_char, length: i64) -> c_int => { Worker => calls::truncate }
    [chdir](path: *const c_char) -> c_int => { Worker => calls::chdir }
    [fchdir](fd: c_int) -> c_int => { Worker => calls::fchdir }
    [mkstemp mkstemp64](template: *mut c_char) -> c_int => { Worker => calls::mkstemp }
    [mkostemp mkostemp64](template: *mut c_char, flags: c_int) -> c_int => { Worker => calls::mkostemp }
    [mkstemps mkstemps64](template: *mut c_char, suffix: c_int) -> c_int => { Worker => calls::mkstemps }
    [mkostemps mkostemps64](template: *mut c_char, suffix: c_int, flags: c_int) -> c_int => { Worker => calls::mkostemps }

    // Not covered by the tree: they taint a compile that uses them on the head's files.
    [link](from: *const c_char, to: *const c_char) -> c_int => { Worker => calls::link }
    [linkat](from_dir: c_int, from: *const c_char, to_dir: c_int, to: *const c_char, flags: c_int) -> c_int => {
        Worker => calls::linkat
    }
    [mkfifo lchmod](path: *const c_char, mode: mode_t) -> c_int => { Worker => calls::mkfifo }
    [mkfifoat](dir: c_int, path: *const c_char, mode: mode_t) -> c_int => { Worker => calls::mkfifoat }
    [mknod](path: *const c_char, mode: mode_t, device: dev_t) -> c_int => { Worker => calls::mknod }
    [mknodat](dir: c_int, path: *const c_char, mode: mode_t, device: dev_t) -> c_int => { Worker => calls::mknodat }
    [chown lchown](path: *const c_char, user: uid_t, group: gid_t) -> c_int => { Worker => calls::chown }
    [fchown](fd: c_int, user: uid_t, group: gid_t) -> c_int => { Worker => calls::fchown }
    [fchownat](dir: c_int, path: *const c_char, user: uid_t, group: gid_t, flags: c_int) -> c_int => {
        Worker => calls::fchownat
    }
    [statfs statfs64 statvfs statvfs64](path: *const c_char, out: *mut c_void) -> c_int => { Worker => calls::statfs }
    [fstatfs fstatfs64 fstatvfs fstatvfs64](fd: c_int, out: *mut c_void) -> c_int => { Worker => calls::fstatfs }
    [futimes](fd: c_int, times: *const c_void) -> c_int => { Worker => calls::futimes }
    [lutimes](path: *const c_char, times: *const c_void) -> c_int => { Worker => calls::lutimes }
    [futimesat](dir: c_int, path: *const c_char, times: *const c_void) -> c_int => { Worker => calls::futimesat }
    [inotify_add_watch](fd: c_int, path: *const c_char, mask: c_uint) -> c_int => { Worker => calls::inotify_add_watch }
    [pathconf](path: *const c_char, name: c_int) -> c_long => { Worker => calls::pathconf }
    [scandir scandir64](path: *const c_char, names: *mut c_void, filter: *mut c_void, compare: *mut c_void) -> c_int => {
        Worker => calls::scandir
    }
    [glob glob64](pattern: *const c_char, flags: c_int, error: *mut c_void, out: *mut c_void) -> c_int => {
        Worker => calls::glob
    }
    [ftw ftw64 nftw nftw64](path: *const c_char, each: *mut c_void, depth: c_int, flags: c_int) -> c_int => {
        Worker => calls::walk
    }
    [fts_open fts64_open](paths: *const *mut c_char, options: c_int, compare: *mut c_void) -> *mut c_void => {
        Worker => calls::fts_open
    }
    [tmpfile tmpfile64]() -> *mut FILE => { Worker => calls::tmpfile }
    [tempnam](folder: *const c_char, prefix: *const c_char) -> *mut c_char => { Worker => calls::tempnam }
    [tmpnam tmpnam_r mktemp](out: *mut c_char) -> *mut c_char => { Worker => calls::tmpnam }
    [shm_open](name: *const c_char, flags: c_int, mode: mode_t) -> c_int => { Worker => calls::shm_open }
    [shm_unlink](name: *const c_char) -> c_int => { Worker => calls::shm_unlink }
    [setmntent](path: *const c_char, mode: *const c_char) -> *mut FILE => { Worker => calls::setmntent }
    [syscall](
        number: c_long,
        a: usize,
        b: usize,
        c: usize,
        d: usize,
        e: usize,
        f: usize,
    ) -> c_long => { Worker => calls::syscall }

    // What belongs to a host and not to its tree: sockets, users, character sets.
    [connect bind](fd: c_int, address: *const c_void, bytes: c_uint) -> c_int => { Worker => calls::connect }
    [iconv_open](to: *const c_char, from: *const c_char) -> *mut c_void => { Worker => calls::iconv_open }
    [getpwnam getgrnam](name: *const c_char) -> *mut c_void => { Worker => calls::user_by_name }
    [getpwuid getgrgid](number: c_uint) -> *mut c_void => { Worker => calls::user_by_number }
    [getpwent getgrent]() -> *mut c_void => { Worker => calls::next_user }
    [getpwnam_r getgrnam_r](
        name: *const c_char,
        entry: *mut c_void,
        buffer: *mut c_char,
        size: size_t,
        result: *mut *mut c_void,
    ) -> c_int => { Worker => calls::user_by_name_r }
    [getpwuid_r getgrgid_r](
        number: c_uint,
        entry: *mut c_void,
        buffer: *mut c_char,
        size: size_t,
        result: *mut *mut c_void,
    ) -> c_int => { Worker => calls::user_by_number_r }

    // Terminals.
    [isatty](fd: c_int) -> c_int => { Worker => calls::isatty }
    [ioctl](fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int => { Worker => calls::ioctl }
    [tcgetattr](fd: c_int, out: *mut c_void) -> c_int => { Worker => calls::tcgetattr }
    [ttyname](fd: c_int) -> *mut c_char => { Worker => calls::ttyname }
}
