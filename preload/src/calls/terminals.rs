//! Calls about terminals: the answers for stdin, stdout and stderr are the head's, where diagnostics will be read.

use super::fail;
use crate::hook::set_errno;
use crate::table::real;
use crate::view;
use core::ffi::{c_int, c_ulong, c_void};

/// # Safety
/// As isatty(3): the answer for stdin, stdout and stderr is the head's, where diagnostics will be read.
pub unsafe fn isatty(real: real::isatty, fd: c_int) -> c_int {
    if !(0..3).contains(&fd) {
        // SAFETY: as above.
        return unsafe { real(fd) };
    }
    if view::page().terminals & 1 << fd != 0 {
        return 1;
    }
    set_errno(libc::ENOTTY);
    0
}

/// # Safety
/// As ioctl(2).
pub unsafe fn ioctl(real: real::ioctl, fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    if request != libc::TIOCGWINSZ as c_ulong || !(0..3).contains(&fd) {
        // SAFETY: as above.
        return unsafe { real(fd, request, argument) };
    }
    let page = view::page();
    if page.terminals & 1 << fd == 0 || page.has_window == 0 {
        return fail(libc::ENOTTY);
    }
    // SAFETY: TIOCGWINSZ takes a `winsize`, four u16 without padding.
    unsafe { argument.cast::<[u16; 4]>().write(page.window) };
    0
}
