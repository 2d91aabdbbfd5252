//! Worker side: libc's file calls, answered from the virtual tree. Each handler translates once, from a [`crate::vfs::Place`] or an
//! errno to what the C function returns; the decisions are in `vfs.rs`.

mod changing;
mod folders;
mod looking;
mod naming;
mod opening;
mod terminals;
mod uncovered;

pub use changing::*;
pub use folders::*;
pub use looking::*;
pub use naming::*;
pub use opening::*;
pub use terminals::*;
pub use uncovered::*;

use crate::hook::set_errno;
use crate::sys::Errno;
use core::ffi::c_int;

fn fail(errno: Errno) -> c_int {
    set_errno(errno);
    -1
}

/// libc functions that only worker mode needs, looked up on first use: every import costs every process of a build some
/// 500 instructions.
mod imports {
    use crate::hook::{Returned, Slot};
    use core::ffi::{c_int, c_void};

    /// # Safety
    /// As malloc(3).
    pub unsafe fn malloc(bytes: usize) -> *mut c_void {
        static SLOT: Slot = Slot::new();
        type Malloc = unsafe extern "C" fn(usize) -> *mut c_void;
        // SAFETY: the C library's function of this name has this type.
        unsafe { core::mem::transmute::<*mut c_void, Malloc>(SLOT.get(c"malloc", <*mut c_void>::ABSENT))(bytes) }
    }

    /// # Safety
    /// As fileno(3).
    pub unsafe fn fileno(stream: *mut libc::FILE) -> c_int {
        static SLOT: Slot = Slot::new();
        type Fileno = unsafe extern "C" fn(*mut libc::FILE) -> c_int;
        // SAFETY: the C library's function of this name has this type.
        unsafe { core::mem::transmute::<*mut c_void, Fileno>(SLOT.get(c"fileno", c_int::ABSENT))(stream) }
    }
}
