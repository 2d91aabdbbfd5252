//! A descriptor of a process: becomes readable when it ends, and never means another one. Linux 5.3.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

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

/// Has the process ended?
pub fn has_ended(process: &OwnedFd) -> bool {
    poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) == Ok(1)
}

/// Ends the process by SIGKILL, if it is still there.
pub fn kill(process: &OwnedFd) {
    // SAFETY: takes numbers and a null pointer, for which the kernel makes the usual information of kill(2).
    unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), libc::SIGKILL, std::ptr::null::<()>(), 0)
    };
}
