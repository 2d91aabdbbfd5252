//! What children find in their environment: the library and our variables stay, whatever a tool does to its
//! environment (Spack unsets `LD_PRELOAD`, `env -i` clears everything). Knows no program and no path.
//!
//! A variable that is *missing* is put back; one with another value is somebody's decision and stays. So
//! `MPICC_PROXY=off` reaches a child, and an environment that says it is left alone altogether.
//!
//! Runs in vfork children: arrays and strings are built on the stack. The usual case, everything there, passes the
//! caller's array through.

use crate::elf::Image;
use crate::entries::{self, Mention};
use crate::fixed::{Fixed, bytes_of};
use crate::keep::{Kept, Name, kept};
use crate::sanitizer;
use crate::step;
use crate::sys;
use crate::table::Strings;
use core::ffi::c_char;
use core::mem::MaybeUninit;
use core::ptr::null;
use mpicc_proxy_abi::{PATH_BYTES_MAX, env, socket};

/// Room for `LD_PRELOAD=...`. A longer value stays as it is.
const PRELOAD_BYTES_MAX: usize = 4 * 1024;

/// Room for `MPICC_PROXY_DRIVER=<path>`.
pub const DRIVER_BYTES_MAX: usize = env::DRIVER.len() + 1 + PATH_BYTES_MAX + 1;

/// Room for `MPICC_PROXY_SOCKET=<path by the rule>`.
const SOCKET_BYTES_MAX: usize = env::SOCKET.len() + 1 + socket::SOCKET_PATH_BYTES_MAX;

/// What one pass over an environment found.
#[derive(Clone, Copy)]
pub struct Survey {
    /// Number of variables.
    pub len: usize,
    /// Position and value of `LD_PRELOAD`; the dynamic linker takes the last one.
    pub preload: Option<(usize, *const c_char)>,
    values: [*const c_char; Name::ALL.len()],
    runtime_dir: *const c_char,
}

/// Looks through an environment; a null pointer is an empty one, as for the kernel.
///
/// # Safety
/// `envp` is null or a NULL-terminated array of C strings.
pub unsafe fn survey(envp: Strings) -> Survey {
    let mut found = Survey { len: 0, preload: None, values: [null(); Name::ALL.len()], runtime_dir: null() };
    if envp.is_null() {
        return found;
    }
    loop {
        // SAFETY: the array ends with a NULL, which ends the loop.
        let variable = unsafe { *envp.add(found.len) };
        if variable.is_null() {
            return found;
        }
        // SAFETY: a C string has a first byte.
        let first = unsafe { *variable } as u8;
        // One byte decides for nearly all variables.
        if matches!(first, b'L' | b'M' | b'X') {
            // SAFETY: a C string.
            unsafe { found.note(variable) };
        }
        found.len += 1;
    }
}

/// The value, if `variable` is `name=value`.
///
/// # Safety
/// `variable` is a C string.
unsafe fn value(variable: *const c_char, name: &[u8]) -> Option<*const c_char> {
    for (index, byte) in name.iter().enumerate() {
        // SAFETY: a difference, the NUL at the latest, stops before the end of the string is passed.
        if unsafe { *variable.add(index) } as u8 != *byte {
            return None;
        }
    }
    // SAFETY: the name matched, so its end is still inside the string.
    let after = unsafe { variable.add(name.len()) };
    // SAFETY: as above; at the NUL at the latest.
    if unsafe { *after } as u8 != b'=' {
        return None;
    }
    // SAFETY: behind the `=` there is at least the NUL.
    Some(unsafe { after.add(1) })
}

impl Survey {
    /// # Safety
    /// `variable` is a C string.
    #[inline(never)]
    unsafe fn note(&mut self, variable: *const c_char) {
        // SAFETY: a C string, here and below.
        if let Some(preload) = unsafe { value(variable, env::LD_PRELOAD) } {
            self.preload = Some((self.len, preload));
        // SAFETY: as above.
        } else if let Some(folder) = unsafe { value(variable, socket::RUNTIME_DIR) } {
            self.runtime_dir = folder;
        } else {
            for name in Name::ALL {
                // SAFETY: as above.
                if let Some(text) = unsafe { value(variable, text_of(name)) } {
                    self.values[name as usize] = text;
                }
            }
        }
    }

    /// The value of one of our variables in this environment.
    pub fn value(&self, name: Name) -> Option<&[u8]> {
        let text = self.values[name as usize];
        // SAFETY: a C string of the environment that was surveyed.
        (!text.is_null()).then(|| unsafe { bytes_of(text) })
    }

    /// The value that a child will see.
    pub fn effective_value(&self, name: Name) -> Option<&[u8]> {
        // SAFETY: `effective` returns C strings that live as long as what was surveyed, or for good.
        self.effective(name).map(|text| unsafe { bytes_of(text) })
    }

    /// The value that a child will see: this environment's, else the kept one. NUL-terminated.
    fn effective(&self, name: Name) -> Option<*const c_char> {
        let text = self.values[name as usize];
        if !text.is_null() {
            return Some(text);
        }
        kept().variable(name)?.get(text_of(name).len() + 1..).map(|value| value.as_ptr().cast())
    }

    /// `MPICC_PROXY=off` in this environment.
    pub fn is_off(&self) -> bool {
        self.value(Name::Switch).is_some_and(env::is_off)
    }

    pub fn runtime_dir(&self) -> Option<&[u8]> {
        // SAFETY: a C string of the environment that was surveyed.
        (!self.runtime_dir.is_null()).then(|| unsafe { bytes_of(self.runtime_dir) })
    }

    fn preload(&self) -> Option<&[u8]> {
        // SAFETY: a C string of the environment that was surveyed.
        self.preload.map(|(_, text)| unsafe { bytes_of(text) })
    }

    /// Does a sanitizer's runtime stand in `LD_PRELOAD`?
    pub fn preloads_sanitizer(&self) -> bool {
        self.preload().is_some_and(|value| value != kept().library() && entries::any(value, &sanitizer::is_runtime))
    }

    /// Is there any use in a client: a dispatcher that may answer, or somebody who wants to know why there is none?
    pub fn wants_client(&self) -> bool {
        if self.effective(Name::Log).is_some() {
            return true;
        }
        if self.effective_value(Name::Fallback).is_some_and(env::is_forbid) {
            return true;
        }
        if let Some(path) = self.effective(Name::Socket) {
            // SAFETY: `effective` returns C strings.
            return unsafe { sys::access(path, libc::F_OK) }.is_ok();
        }
        let mut path = [0; socket::SOCKET_PATH_BYTES_MAX];
        // SAFETY: the rule's answer is NUL-terminated.
        socket_by_rule(&mut path).is_some() && unsafe { sys::access(path.as_ptr().cast(), libc::F_OK) }.is_ok()
    }

    /// Has a tool taken this variable away?
    fn is_missing(&self, name: Name, kept: &Kept) -> bool {
        self.values[name as usize].is_null() && kept.variable(name).is_some()
    }

    /// Would the rule for the socket lead a child elsewhere?
    fn is_astray(&self, kept: &Kept) -> bool {
        self.values[Name::Socket as usize].is_null()
            && kept.variable(Name::Socket).is_none()
            && kept.variable(Name::Worker).is_none()
            && self.runtime_dir() != kept.runtime_dir()
    }
}

/// The dispatcher's socket: its path's length in `out`. `None`: such a long name cannot be one.
pub fn socket_path(survey: &Survey, out: &mut [u8; socket::SOCKET_PATH_BYTES_MAX]) -> Option<usize> {
    match survey.effective_value(Name::Socket) {
        Some(path) => {
            out.get_mut(..path.len())?.copy_from_slice(path);
            Some(path.len())
        }
        None => socket_by_rule(out),
    }
}

/// The socket's path by the rule, as it was when the library was loaded.
fn socket_by_rule(path: &mut [u8; socket::SOCKET_PATH_BYTES_MAX]) -> Option<usize> {
    socket::default_path(kept().runtime_dir(), sys::getuid(), path)
}

/// The name of one of our variables.
pub fn text_of(name: Name) -> &'static [u8] {
    match name {
        Name::Switch => env::SWITCH,
        Name::Socket => env::SOCKET,
        Name::Fallback => env::FALLBACK,
        Name::Log => env::LOG,
        Name::Step => env::STEP,
        Name::Worker => env::WORKER,
    }
}

/// Calls `then` with the environment for a child that executes `image`: `envp` itself when it has all it should. `step`
/// replaces what it says of a step.
///
/// # Safety
/// `envp` is what `survey` was made of, and still unchanged.
#[inline]
pub unsafe fn with_child<R>(
    envp: Strings,
    survey: &Survey,
    image: Image,
    step: Option<&step::Variable>,
    then: &impl Fn(Strings) -> R,
) -> R {
    let kept = kept();
    let mention = survey.preload().map_or(Mention::No, |value| entries::mention(value, kept.library()));
    let complete = match image {
        // It would complain about us or pay for us, and below it there is nothing to keep alive.
        Image::Foreign | Image::Instrumented | Image::Leaf => mention == Mention::No,
        Image::Other | Image::Native => {
            step.is_none()
                && mention == Mention::Exact
                && !Name::ALL.iter().any(|&name| survey.is_missing(name, kept))
                && !survey.is_astray(kept)
        }
    };
    if complete {
        return then(envp);
    }
    let own = step.filter(|_| image.loads_us()).map(|step| Own { name: env::STEP, text: step.as_ptr() });
    // SAFETY: promised by the caller.
    unsafe { with_rewritten(envp, survey, image.loads_us(), own, &|new| then(new.unwrap_or(envp))) }
}

/// Calls `then` with the environment for a client: without the library, with the driver's path. `driver` is the whole
/// `MPICC_PROXY_DRIVER=...`. `None`: it could not be made.
///
/// # Safety
/// `envp` is what `survey` was made of, and still unchanged; `driver` is a C string.
pub unsafe fn with_client<R>(
    envp: Strings,
    survey: &Survey,
    driver: *const c_char,
    then: &impl Fn(Option<Strings>) -> R,
) -> R {
    // SAFETY: promised by the caller.
    unsafe { with_rewritten(envp, survey, false, Some(Own { name: env::DRIVER, text: driver }), then) }
}

/// A variable that replaces those of its name.
#[derive(Clone, Copy)]
struct Own {
    name: &'static [u8],
    /// `NAME=value`, a C string.
    text: *const c_char,
}

#[inline(never)]
unsafe fn with_rewritten<R>(
    envp: Strings,
    survey: &Survey,
    loads_us: bool,
    own: Option<Own>,
    then: &impl Fn(Option<Strings>) -> R,
) -> R {
    let kept = kept();
    let old = survey.preload().unwrap_or(b"");
    let mut preload = Fixed::<PRELOAD_BYTES_MAX>::new();
    let done = preload.push(env::LD_PRELOAD).and_then(|()| preload.push(b"=")).and_then(|()| {
        if loads_us {
            entries::with(old, kept.library(), &mut preload)
        } else {
            entries::without(old, kept.library(), &mut preload)
        }
    });
    if done.is_none() {
        return then(None);
    }
    let preload_is_empty = preload.bytes().len() == env::LD_PRELOAD.len() + 1;
    let mut by_rule = Fixed::<SOCKET_BYTES_MAX>::new();
    if survey.is_astray(kept) {
        let mut path = [0; socket::SOCKET_PATH_BYTES_MAX];
        // Without room there can be no such socket either.
        let _ = socket_by_rule(&mut path).and_then(|len| {
            by_rule.push(env::SOCKET)?;
            by_rule.push(b"=")?;
            by_rule.push(path.get(..len)?)
        });
    }
    // LD_PRELOAD, the one of our own, our variables, the NULL.
    let room = survey.len + 2 + Name::ALL.len() + 1;
    with_pointers(room, &|array| {
        let Some(array) = array else { return then(None) };
        let mut len = 0;
        let mut push = |text: *const c_char| {
            // SAFETY: at most `room` pointers are written, see above.
            unsafe { *array.add(len) = text };
            len += 1;
        };
        for index in 0..survey.len {
            // SAFETY: the survey counted `len` variables.
            let variable = unsafe { *envp.add(index) };
            // SAFETY: a C string of the environment.
            let is_preload = unsafe { value(variable, env::LD_PRELOAD) }.is_some();
            // SAFETY: as above.
            let is_stale = own.is_some_and(|own| unsafe { value(variable, own.name) }.is_some());
            if !is_preload && !is_stale {
                push(variable);
            } else if survey.preload.is_some_and(|(last, _)| last == index) && !preload_is_empty {
                push(preload.as_ptr());
            }
        }
        if survey.preload.is_none() && !preload_is_empty {
            push(preload.as_ptr());
        }
        if let Some(own) = own {
            push(own.text);
        }
        if loads_us || own.is_some() {
            for name in Name::ALL {
                if survey.is_missing(name, kept)
                    && own.is_none_or(|own| own.name != text_of(name))
                    && let Some(variable) = kept.variable(name)
                {
                    push(variable.as_ptr().cast());
                }
            }
            if !by_rule.bytes().is_empty() {
                push(by_rule.as_ptr());
            }
        }
        push(null());
        then(Some(array.cast_const()))
    })
}

/// Environments and argument lists of ordinary builds: 4 KiB of stack.
const POINTERS_SMALL: usize = 512;
/// Long argument lists: 32 KiB of stack, in a frame of its own.
const POINTERS_LARGE: usize = 4096;

/// Calls `then` with room for `len` pointers; `None` when there is no memory. Above [`POINTERS_LARGE`] it is a mapping: a
/// vfork child that then executes leaves it behind in its parent, a page or two for a command of over 4,000 words.
pub fn with_pointers<R>(len: usize, then: &impl Fn(Option<*mut *const c_char>) -> R) -> R {
    match len {
        0..=POINTERS_SMALL => on_stack::<POINTERS_SMALL, R>(then),
        _ if len <= POINTERS_LARGE => on_stack::<POINTERS_LARGE, R>(then),
        _ => mapped(len, then),
    }
}

#[inline(never)]
fn on_stack<const N: usize, R>(then: &impl Fn(Option<*mut *const c_char>) -> R) -> R {
    let mut array = [const { MaybeUninit::<*const c_char>::uninit() }; N];
    then(Some(array.as_mut_ptr().cast()))
}

#[inline(never)]
fn mapped<R>(len: usize, then: &impl Fn(Option<*mut *const c_char>) -> R) -> R {
    let bytes = len * size_of::<*const c_char>();
    let Some(memory) = sys::map(bytes) else { return then(None) };
    let result = then(Some(memory.cast()));
    // SAFETY: ours, and `then` is done with it.
    unsafe { sys::unmap(memory, bytes) };
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_tells_our_variables() {
        for name in Name::ALL.map(text_of).iter().chain(&[env::LD_PRELOAD, env::DRIVER, socket::RUNTIME_DIR]) {
            assert!(matches!(name[0], b'L' | b'M' | b'X'), "`survey` passes over {}", name.escape_ascii());
        }
        assert_eq!([Name::Switch, Name::Socket, Name::Fallback, Name::Log, Name::Step].map(text_of), env::KEPT);
    }

    #[test]
    fn survey_of_an_environment() {
        let variables = [
            c"PATH=/bin".as_ptr(),
            c"LD_PRELOAD=a.so".as_ptr(),
            c"MPICC_PROXY=off".as_ptr(),
            c"MPICC_PROXY_SOCKETS=x".as_ptr(),
            c"MPICC_PROXY_LOG".as_ptr(),
            c"LD_PRELOAD=b.so".as_ptr(),
            c"".as_ptr(),
            null(),
        ];
        // SAFETY: a NULL-terminated array of C strings.
        let found = unsafe { survey(variables.as_ptr()) };
        assert_eq!(found.len, 7);
        assert!(found.is_off());
        assert_eq!(found.preload(), Some(b"b.so".as_slice()), "the dynamic linker takes the last one");
        assert_eq!(found.value(Name::Socket), None);
        assert_eq!(found.value(Name::Log), None);
        // SAFETY: null is an empty environment.
        assert_eq!(unsafe { survey(null()) }.len, 0);
    }
}
