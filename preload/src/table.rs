//! THE table: one row per libc entry point, aliases in the row. What the library exports is exactly the names in
//! brackets (`tests/interception.rs` compares). How a row reads: `hook.rs`.

use crate::calls;
use crate::exec;
use crate::hook::hooks;
use core::ffi::{c_char, c_int, c_uint, c_ulong, c_void};
use libc::{DIR, FILE, mode_t, pid_t, posix_spawn_file_actions_t, posix_spawnattr_t, size_t, ssize_t};

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

    // Opening.
    [open open64](path: *const c_char, flags: c_int, mode: mode_t) -> c_int => { Worker => calls::open }
    [__open_2 __open64_2](path: *const c_char, flags: c_int) -> c_int => { Worker => calls::open_2 }
    [openat openat64](dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int => { Worker => calls::openat }
    [__openat_2 __openat64_2](dir: c_int, path: *const c_char, flags: c_int) -> c_int => { Worker => calls::openat_2 }
    [creat creat64](path: *const c_char, mode: mode_t) -> c_int => { Worker => calls::creat }
    [fopen fopen64](path: *const c_char, mode: *const c_char) -> *mut FILE => { Worker => calls::fopen }
    [freopen freopen64](path: *const c_char, mode: *const c_char, stream: *mut FILE) -> *mut FILE => {
        Worker => calls::freopen
    }
    [opendir](path: *const c_char) -> *mut DIR => { Worker => calls::opendir }

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
    [mkdir](path: *const c_char, mode: mode_t) -> c_int => { Worker => calls::mkdir }
    [chmod](path: *const c_char, mode: mode_t) -> c_int => { Worker => calls::chmod }
    [mkstemp mkstemp64](template: *mut c_char) -> c_int => { Worker => calls::mkstemp }
    [mkostemp mkostemp64](template: *mut c_char, flags: c_int) -> c_int => { Worker => calls::mkostemp }
    [mkstemps mkstemps64](template: *mut c_char, suffix: c_int) -> c_int => { Worker => calls::mkstemps }
    [mkostemps mkostemps64](template: *mut c_char, suffix: c_int, flags: c_int) -> c_int => { Worker => calls::mkostemps }

    // Not covered by the tree yet: they taint a compile that uses them on the head's files.
    [chdir rmdir](path: *const c_char) -> c_int => { Worker => calls::refuse }
    [fchdir](fd: c_int) -> c_int => { Worker => calls::fchdir }
    [symlink link](target: *const c_char, path: *const c_char) -> c_int => { Worker => calls::refuse_second }
    [truncate truncate64](path: *const c_char, length: i64) -> c_int => { Worker => calls::truncate }
    [mkfifo](path: *const c_char, mode: mode_t) -> c_int => { Worker => calls::mkfifo }
    [utimensat](dir: c_int, path: *const c_char, times: *const libc::timespec, flags: c_int) -> c_int => {
        Worker => calls::utimensat
    }
    [mkdtemp](template: *mut c_char) -> *mut c_char => { Worker => calls::mkdtemp }

    // Terminals.
    [isatty](fd: c_int) -> c_int => { Worker => calls::isatty }
    [ioctl](fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int => { Worker => calls::ioctl }
}
