//! A descriptor of a process: becomes readable when it ends, and never means another one. Linux 5.3.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// pidfd_open(2). The caller knows that `pid` still is the process it means.
///
/// # Errors
/// There is no such process that can be seen from here.
pub fn open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers, returns a new descriptor (close-on-exec) or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}
