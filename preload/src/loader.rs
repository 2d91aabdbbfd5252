//! Worker side: the command line of a shipped program, see `mpicc_proxy_abi::loader`. Runs in vfork children: built on
//! the stack.

use crate::env::with_pointers;
use crate::table::Strings;
use crate::view;
use core::ffi::{CStr, c_char};
use core::ptr::null;
use mpicc_proxy_abi::loader::ARGUMENTS_MAX;

/// How a program of the toolchain is started.
pub enum Command {
    /// It is this host's own: as asked.
    Own,
    Loaded {
        path: *const c_char,
        argv: Strings,
    },
    /// There is no memory for the arguments.
    TooLong,
}

/// Calls `then` with the way to start the program with this index; `argv` is what it is to see.
///
/// # Safety
/// `argv` is null or a NULL-terminated array of C strings.
pub unsafe fn with_command<R>(program: usize, argv: Strings, then: &impl Fn(Command) -> R) -> R {
    let mut count = 0;
    // SAFETY: the array ends with a NULL.
    while !argv.is_null() && !unsafe { *argv.add(count) }.is_null() {
        count += 1;
    }
    // SAFETY: a C string of the array.
    let name = if count == 0 { c"" } else { unsafe { CStr::from_ptr(*argv) } };
    let Some(loaded) = view::page().loaded(program, name) else { return then(Command::Own) };
    with_pointers(ARGUMENTS_MAX + count + 1, &|array| {
        let Some(array) = array else { return then(Command::TooLong) };
        let own = (1..count).map(|index| {
            // SAFETY: `count` arguments were there.
            unsafe { *argv.add(index) }
        });
        let all = loaded.arguments().iter().map(|argument| argument.as_ptr()).chain(own).chain([null()]);
        for (index, argument) in all.enumerate() {
            // SAFETY: at most `ARGUMENTS_MAX` of ours, those of `argv` and the NULL.
            unsafe { *array.add(index) = argument };
        }
        then(Command::Loaded { path: loaded.path.as_ptr(), argv: array.cast_const() })
    })
}
