//! THE table: one row per libc entry point, aliases in the row. What the library exports is exactly the names in
//! brackets (`tests/interception.rs` compares). How a row reads: `hook.rs`.

use crate::exec;
use crate::hook::hooks;
use core::ffi::{c_char, c_int};
use libc::{pid_t, posix_spawn_file_actions_t, posix_spawnattr_t};

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
}
