use crate::table::{Strings, next};
use crate::variadic::Arguments;
use core::ffi::{c_char, c_int};
pub unsafe extern "C" fn execl(r: *const usize, s: *const usize) -> c_int {
    let a = unsafe { Arguments::new(r, s) };
    unsafe { next::execve()(a.get(0), core::ptr::null(), core::ptr::null()) }
}
pub unsafe fn execve(real: crate::table::real::execve, path: *const c_char, argv: Strings, envp: Strings) -> c_int {
    unsafe { real(path, argv, envp) }
}
pub unsafe fn execv(real: crate::table::real::execv, path: *const c_char, argv: Strings) -> c_int {
    unsafe { real(path, argv) }
}
pub unsafe fn execvp(real: crate::table::real::execvp, file: *const c_char, argv: Strings) -> c_int {
    unsafe { real(file, argv) }
}
pub unsafe fn execvpe(real: crate::table::real::execvpe, file: *const c_char, argv: Strings, envp: Strings) -> c_int {
    unsafe { real(file, argv, envp) }
}
pub unsafe fn execveat(
    real: crate::table::real::execveat,
    dir: c_int,
    path: *const c_char,
    argv: Strings,
    envp: Strings,
    flags: c_int,
) -> c_int {
    unsafe { real(dir, path, argv, envp, flags) }
}
pub unsafe fn fexecve(real: crate::table::real::fexecve, fd: c_int, argv: Strings, envp: Strings) -> c_int {
    unsafe { real(fd, argv, envp) }
}
pub unsafe fn posix_spawn(
    real: crate::table::real::posix_spawn,
    pid: *mut libc::pid_t,
    path: *const c_char,
    actions: *const libc::posix_spawn_file_actions_t,
    attributes: *const libc::posix_spawnattr_t,
    argv: Strings,
    envp: Strings,
) -> c_int {
    unsafe { real(pid, path, actions, attributes, argv, envp) }
}
pub unsafe fn posix_spawnp(
    real: crate::table::real::posix_spawnp,
    pid: *mut libc::pid_t,
    file: *const c_char,
    actions: *const libc::posix_spawn_file_actions_t,
    attributes: *const libc::posix_spawnattr_t,
    argv: Strings,
    envp: Strings,
) -> c_int {
    unsafe { real(pid, file, actions, attributes, argv, envp) }
}
pub use execl as execle;
pub use execl as execlp;
