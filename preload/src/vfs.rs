//! Worker side: shows a remote compiler the head's file tree. A stub until the tree is written.

use core::ffi::c_char;
use mpicc_proxy_abi::PATH_BYTES_MAX;

/// Starts worker mode; `value` is what [`mpicc_proxy_abi::env::WORKER`] says.
pub fn start(_value: &[u8]) {}

/// Called before `path` is executed; an error refuses the exec with that errno.
///
/// # Safety
/// `path` is NUL-terminated.
pub unsafe fn before_exec(_path: *const c_char) -> Result<(), i32> {
    Ok(())
}

/// Finds `file` in `PATH` as the head would see it and writes its path, NUL-terminated, to `out`.
///
/// # Safety
/// `file` is NUL-terminated.
pub unsafe fn search_path(_file: *const c_char, _out: &mut [u8; PATH_BYTES_MAX + 1]) -> Result<(), i32> {
    Err(libc::ENOENT)
}

/// The exec announced by [`before_exec`] did not happen.
pub fn exec_failed() {}
