//! How a libc entry point of ours is made: the [`hooks!`] macro, the real functions behind ours, and the mode that
//! decides between the two. Knows no path, no environment and no policy.
//!
//! # A row
//!
//! The table (`table.rs`) is one [`hooks!`] call; each row is one libc function:
//!
//! ```text
//! [open open64](path: *const c_char, flags: c_int, mode: mode_t) -> c_int => { Worker => vfs::open }
//! ```
//!
//! * The brackets hold the exported names. Each name gets its own real function, so `open64` forwards to `open64`.
//! * The braces say who handles the call in which [`Mode`]; a mode that is not named forwards to the real function
//!   (two loads, a compare and a tail jump). `{}` would export a name that only forwards: leave such rows out.
//! * A handler is `unsafe fn(real: real::open, path: *const c_char, flags: c_int, mode: mode_t) -> c_int`: the real
//!   function of the very alias that was called, then the arguments. Calling `real(...)` is how a handler says "not
//!   mine". Aliases of a row share a signature, so one handler serves them all (`real::open` and `real::open64` are
//!   the same type).
//! * `Build => @own exec::execv` is a handler that does not want the real function: none is resolved for it.
//! * A variadic with at most one optional argument (`open`, `openat`) is written with that argument fixed: on x86-64
//!   and aarch64 it is passed in the same register and simply not looked at when the caller did not pass it.
//! * A true variadic (`execl`) says `variadic` instead of an argument list and names one handler for every mode, an
//!   `unsafe extern "C" fn(registers: *const usize, stack: *const usize) -> c_int`; see [`crate::variadic`].
//!
//! The macro also makes `next::open()`, the real function for use outside of a hook (no call of ours may go through a
//! hooked symbol), and `real::open`, its type. Names are exported only in the library itself: in `cfg(test)` the hooks
//! are ordinary functions, or they would hijack the test program.
//!
//! # The real function
//!
//! `dlsym(RTLD_NEXT)` on first use, kept in a null-initialised atomic: idempotent, so it needs no lock of ours, and the
//! library carries no relocation for it. Not in advance, which would cost every process 1,300 instructions a function.
//! In a vfork child that is sound: nothing is allocated on success (glibc >= 2.34; tested), the dynamic linker's lock is
//! reset in a forked child and free to come in a vfork child, and the store is the same whoever makes it. Works before our
//! constructor ran: the mode is then [`Mode::Unset`] and everything forwards.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::sync::atomic::{AtomicIsize, AtomicPtr, AtomicU8, Ordering};

/// What this process is, decided once by the constructor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// The constructor has not run; everything forwards.
    Unset = 0,
    /// Switched off, or nothing to do: everything forwards, environments are left alone.
    Off = 1,
    /// In make's tree.
    Build = 2,
    /// In a remote compile.
    Worker = 3,
}

static MODE: AtomicU8 = AtomicU8::new(Mode::Unset as u8);

#[inline(always)]
pub fn mode() -> Mode {
    match MODE.load(Ordering::Relaxed) {
        1 => Mode::Off,
        2 => Mode::Build,
        3 => Mode::Worker,
        _ => Mode::Unset,
    }
}

/// For the constructor alone; what the mode promises (kept variables, the worker's tables) is in place before.
pub fn set_mode(mode: Mode) {
    MODE.store(mode as u8, Ordering::Release);
}

/// Room for one real function.
#[derive(Debug)]
pub struct Slot(AtomicPtr<c_void>);

impl Slot {
    pub const fn new() -> Slot {
        Slot(AtomicPtr::new(core::ptr::null_mut()))
    }

    /// The real function called `name`, or `absent` when the C library has none.
    #[inline(always)]
    pub fn get(&self, name: &'static CStr, absent: extern "C" fn() -> isize) -> *mut c_void {
        let known = self.0.load(Ordering::Relaxed);
        if known.is_null() { self.resolve(name, absent) } else { known }
    }

    #[cold]
    #[inline(never)]
    fn resolve(&self, name: &'static CStr, absent: extern "C" fn() -> isize) -> *mut c_void {
        // SAFETY: a NUL-terminated name; RTLD_NEXT is always valid from a loaded object.
        let mut found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
        if found.is_null() {
            found = compat_version(name);
        }
        if found.is_null() {
            found = absent as *mut c_void;
        }
        self.0.store(found, Ordering::Relaxed);
        found
    }
}

/// glibc's first symbol version on this machine.
#[cfg(target_arch = "x86_64")]
const BASE_VERSION: &CStr = c"GLIBC_2.2.5";
#[cfg(target_arch = "aarch64")]
const BASE_VERSION: &CStr = c"GLIBC_2.17";

/// Functions that newer C libraries only keep for old binaries (`__xstat`): `dlsym` does not show them.
fn compat_version(name: &'static CStr) -> *mut c_void {
    type Dlvsym = unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char) -> *mut c_void;
    // SAFETY: as in `resolve`. `dlvsym` itself is looked up by name because an import costs every process.
    let dlvsym = unsafe { libc::dlsym(libc::RTLD_NEXT, c"dlvsym".as_ptr()) };
    if dlvsym.is_null() {
        return dlvsym;
    }
    // SAFETY: glibc's dlvsym has this type.
    let dlvsym = unsafe { core::mem::transmute::<*mut c_void, Dlvsym>(dlvsym) };
    // SAFETY: NUL-terminated strings.
    unsafe { dlvsym(libc::RTLD_NEXT, name.as_ptr(), BASE_VERSION.as_ptr()) }
}

/// Types a hooked function may return, with what "this C library has no such function" looks like in them.
pub trait Returned {
    const ABSENT: extern "C" fn() -> isize;
}

extern "C" fn absent_number() -> isize {
    set_errno(libc::ENOSYS);
    -1
}

extern "C" fn absent_pointer() -> isize {
    set_errno(libc::ENOSYS);
    0
}

impl Returned for c_int {
    const ABSENT: extern "C" fn() -> isize = absent_number;
}
impl Returned for isize {
    const ABSENT: extern "C" fn() -> isize = absent_number;
}
impl Returned for i64 {
    const ABSENT: extern "C" fn() -> isize = absent_number;
}
/// What has no answer has no failure either.
impl Returned for () {
    const ABSENT: extern "C" fn() -> isize = absent_number;
}
impl<T> Returned for *mut T {
    const ABSENT: extern "C" fn() -> isize = absent_pointer;
}
impl<T> Returned for *const T {
    const ABSENT: extern "C" fn() -> isize = absent_pointer;
}

/// Address of this thread's errno. Found by name, because build mode hardly ever needs it and an import costs every
/// process; worker mode resolves it at start.
pub fn errno_location() -> *mut c_int {
    static SLOT: Slot = Slot::new();
    extern "C" fn none() -> isize {
        static NOWHERE: AtomicIsize = AtomicIsize::new(0);
        NOWHERE.as_ptr() as isize
    }
    let found = SLOT.get(c"__errno_location", none);
    // SAFETY: glibc's function of that name, or ours, has this type.
    let location = unsafe { core::mem::transmute::<*mut c_void, extern "C" fn() -> *mut c_int>(found) };
    location()
}

pub fn errno() -> c_int {
    // SAFETY: always valid, and this thread's own.
    unsafe { *errno_location() }
}

pub fn set_errno(value: c_int) {
    // SAFETY: as above.
    unsafe { *errno_location() = value }
}

/// See the module documentation.
macro_rules! hooks {
    ($( [$($name:ident)+] $signature:tt -> $ret:ty => $handlers:tt )*) => {
        /// The types of the real functions.
        #[allow(non_camel_case_types)]
        pub mod real {
            #[allow(unused_imports)]
            use super::*;
            $( $( $crate::hook::real_type! { $name $signature $ret } )+ )*
        }

        /// The real functions.
        pub mod next {
            #[allow(unused_imports)]
            use super::*;
            $( $(
                #[inline(always)]
                #[allow(dead_code)]
                pub fn $name() -> real::$name {
                    static SLOT: $crate::hook::Slot = $crate::hook::Slot::new();
                    const NAME: &core::ffi::CStr =
                        match core::ffi::CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                            Ok(name) => name,
                            Err(_) => panic!("an identifier holds no NUL"),
                        };
                    let found = SLOT.get(NAME, <$ret as $crate::hook::Returned>::ABSENT);
                    // SAFETY: the C library's function of this name has the type that the row gives it.
                    unsafe { core::mem::transmute::<*mut core::ffi::c_void, real::$name>(found) }
                }
            )+ )*
        }

        $( $( $crate::hook::hook! { $name $signature $ret => $handlers } )+ )*

        /// Every exported name.
        #[cfg(test)]
        pub const NAMES: &[&str] = &[$( $( stringify!($name), )+ )*];
    };
}

macro_rules! real_type {
    ($name:ident variadic $ret:ty) => {
        pub type $name = unsafe extern "C" fn() -> $ret;
    };
    ($name:ident ($($arg:ident : $ty:ty),* $(,)?) $ret:ty) => {
        pub type $name = unsafe extern "C" fn($($arg: $ty),*) -> $ret;
    };
}

macro_rules! hook {
    ($name:ident variadic $ret:ty => { $handler:path }) => {
        #[cfg_attr(not(test), unsafe(no_mangle))]
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() -> $ret {
            $crate::variadic::shim!($handler)
        }
    };
    ($name:ident ($($arg:ident : $ty:ty),* $(,)?) $ret:ty => $handlers:tt) => {
        #[cfg_attr(not(test), unsafe(no_mangle))]
        #[allow(clippy::too_many_arguments)]
        pub unsafe extern "C" fn $name($($arg: $ty),*) -> $ret {
            $crate::hook::dispatch! { $name ($($arg),*) $handlers }
        }
    };
}

macro_rules! dispatch {
    ($name:ident $args:tt { $($mode:ident => $(@ $own:ident)? $handler:path),* $(,)? }) => {
        match $crate::hook::mode() {
            $( $crate::hook::Mode::$mode => $crate::hook::call!([$($own)?] $name $handler, $args), )*
            // SAFETY: this is the very function the caller meant.
            _ => unsafe { $crate::hook::real_call!($name $args) },
        }
    };
}

macro_rules! call {
    ([] $name:ident $handler:path, ($($arg:ident),*)) => {
        // SAFETY: the caller's promises about the arguments are those of the C function; handlers ask for no more.
        unsafe { $handler(next::$name() $(, $arg)*) }
    };
    ([own] $name:ident $handler:path, ($($arg:ident),*)) => {
        // SAFETY: as above.
        unsafe { $handler($($arg),*) }
    };
}

macro_rules! real_call {
    ($name:ident ($($arg:ident),*)) => { next::$name()($($arg),*) };
}

pub(crate) use {call, dispatch, hook, hooks, real_call, real_type};
