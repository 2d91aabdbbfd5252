//! The constructor: decides what this process is, remembers what its children must not lose, and is the safety net for a
//! compiler that was started past the hooks (a raw system call, a static parent): then the client takes its place before
//! `main`.
//!
//! Costs every process of the build, so: one pass over the environment, no system call unless something is to be done.

use crate::env::{self, Survey, text_of};
use crate::exec::{as_client, current_environ};
use crate::fixed::bytes_of;
use crate::hook::{self, Mode, Slot};
use crate::keep::{Kept, Name, kept_mut};
use crate::step;
use crate::sys;
use crate::table::{Strings, next};
use crate::target::{self, PathText};
use crate::vfs;
use crate::view;
use core::ffi::{CStr, c_char, c_int, c_void};
use mpicc_proxy_abi::LIBRARY_NAME;

/// Exit status of a remote compiler that cannot see the tree; the rank discards the result.
const WORKER_FAILED: c_int = 127;

#[cfg(not(test))]
ctor::declarative::ctor! {
    #[ctor(unsafe)]
    fn load() {
        start();
    }
}

fn start() {
    let envp = current_environ();
    // SAFETY: the process's environment; nobody else runs yet.
    let survey = unsafe { env::survey(envp) };
    let stack = initial_stack(envp, survey.len);
    // SAFETY: the constructor, once.
    let mode = unsafe { decide(&survey, stack, kept_mut()) }.unwrap_or(Mode::Off);
    match mode {
        Mode::Worker => {
            hook::errno_location();
            if !vfs::start() {
                // Without the tree this process would read and write this host's files in the head's name.
                sys::exit(WORKER_FAILED);
            }
            if let (Some(stack), Some(name)) = (stack, view::own_name()) {
                stack.rename(name);
            }
        }
        Mode::Build | Mode::Off | Mode::Unset => {}
    }
    hook::set_mode(mode);
    if mode == Mode::Build
        && let Some(stack) = stack
    {
        // SAFETY: the kernel's own data.
        unsafe { catch(&stack, envp, &survey) };
        // SAFETY: as above.
        unsafe { step::start(stack.executed, envp, &survey) };
        // Found once: each child of a shell, which executes and is gone, would look for it.
        next::execve();
    }
}

/// Fills in what is kept. `None`: something essential is missing, so stay out of the way.
unsafe fn decide(survey: &Survey, stack: Option<Stack>, kept: &mut Kept) -> Option<Mode> {
    if survey.is_off() || stack.is_some_and(|stack| stack.is_secure) {
        return None;
    }
    keep_library(survey, kept)?;
    if let Some(value) = survey.value(Name::Worker) {
        keep(Name::Worker, value, kept)?;
        return Some(Mode::Worker);
    }
    // SAFETY: the constructor.
    unsafe { step::name_own(survey) };
    for name in Name::ALL {
        if let Some(value) = survey.value(name) {
            keep(name, value, kept)?;
        }
    }
    // The rule for the socket must still lead to the same place when a tool clears the environment.
    if let Some(folder) = survey.runtime_dir() {
        kept.keep_runtime_dir(folder)?;
    }
    Some(Mode::Build)
}

fn keep(name: Name, value: &[u8], kept: &mut Kept) -> Option<()> {
    kept.keep_variable(name, &[text_of(name), b"=", value])
}

/// Our path: the entry in LD_PRELOAD when it is absolute, else what the dynamic linker says.
fn keep_library(survey: &Survey, kept: &mut Kept) -> Option<()> {
    let entry = survey.preload.and_then(|(_, value)| {
        // SAFETY: a C string of the environment.
        match unsafe { first_entry(value) } {
            Some(entry) if is_ours(entry) => Some(entry),
            // SAFETY: as above.
            _ => absolute_entry(unsafe { bytes_of(value) }),
        }
    });
    match entry {
        Some(entry) => kept.keep_library(&[entry]),
        None => keep_own_path(kept),
    }
}

/// The first entry, without looking at the rest: in nearly every process it is ours and the only one. By hand, because
/// it is most of what the constructor does. `None` for one with a `$`.
///
/// # Safety
/// `value` is a C string.
unsafe fn first_entry<'a>(value: *const c_char) -> Option<&'a [u8]> {
    const STOPS: u64 = 1 | 1 << b' ' | 1 << b':' | 1 << b'$';
    let mut end = value.cast::<u8>();
    loop {
        // SAFETY: stops at the NUL.
        let byte = unsafe { *end };
        if byte < 64 && STOPS >> byte & 1 != 0 {
            let len = end as usize - value as usize;
            // SAFETY: inside the string.
            return (byte != b'$').then(|| unsafe { core::slice::from_raw_parts(value.cast(), len) });
        }
        // SAFETY: not yet at the NUL.
        end = unsafe { end.add(1) };
    }
}

/// The first entry that is ours. `$LIB` and the like are for the dynamic linker alone.
fn absolute_entry(value: &[u8]) -> Option<&[u8]> {
    value.split(|b| matches!(b, b' ' | b':')).find(|entry| is_ours(entry) && !entry.contains(&b'$'))
}

/// An absolute path with our file name?
fn is_ours(entry: &[u8]) -> bool {
    entry.first() == Some(&b'/') && entry.strip_suffix(LIBRARY_NAME).is_some_and(|folder| folder.ends_with(b"/"))
}

/// Rare: a relative entry, /etc/ld.so.preload, another file name.
#[cold]
#[inline(never)]
fn keep_own_path(kept: &mut Kept) -> Option<()> {
    type Dladdr = unsafe extern "C" fn(*const c_void, *mut libc::Dl_info) -> c_int;
    extern "C" fn absent() -> isize {
        0
    }
    static SLOT: Slot = Slot::new();
    let found = SLOT.get(c"dladdr", absent);
    // SAFETY: the C library's dladdr has this type; `absent` returns 0 whatever it is passed.
    let dladdr = unsafe { core::mem::transmute::<*mut c_void, Dladdr>(found) };
    // SAFETY: all-zero bytes are a valid `Dl_info`.
    let mut info: libc::Dl_info = unsafe { core::mem::zeroed() };
    // SAFETY: an address inside of this library, and room for the answer.
    if unsafe { dladdr(&raw const SLOT as *const c_void, &raw mut info) } == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the dynamic linker's name of a loaded library, a C string.
    let name = unsafe { bytes_of(info.dli_fname) };
    if name.first() == Some(&b'/') {
        return kept.keep_library(&[name]);
    }
    let mut folder = PathText::new();
    folder.fill(sys::getcwd).ok()?;
    kept.keep_library(&[folder.bytes(), b"/", name])
}

/// What the kernel put above the environment.
#[derive(Clone, Copy)]
struct Stack {
    /// The path that was executed, as it was passed to the kernel.
    executed: *const c_char,
    /// Where that path's address stands in the auxiliary vector.
    executed_slot: *mut usize,
    is_secure: bool,
}

impl Stack {
    /// For a program that the dynamic linker was told to start: `getauxval(AT_EXECFN)` says what it would without.
    fn rename(&self, name: &'static CStr) {
        // SAFETY: the kernel's vector lies on the stack, and nobody else runs yet.
        unsafe { *self.executed_slot = name.as_ptr() as usize };
    }
}

/// The kernel's initial stack, found through the environment: argc, argv, NULL, environment, NULL, auxiliary vector. No
/// symbol is imported for it. `None` when an earlier constructor has moved the environment elsewhere.
fn initial_stack(envp: Strings, len: usize) -> Option<Stack> {
    /// The initial stack lies above the current frame, and the kernel bounds its size (a quarter of the stack limit, at
    /// most 6 MiB, for strings; the pointers to them are what can be in between).
    const REACH_BYTES: usize = 64 << 20;
    /// The kernel passes some twenty pairs.
    const PAIRS_MAX: usize = 64;
    let here = 0u8;
    let distance = (envp as usize).wrapping_sub(&raw const here as usize);
    if envp.is_null() || distance > REACH_BYTES {
        return None;
    }
    // SAFETY: the vector follows the environment's NULL on the initial stack.
    let mut pair = unsafe { envp.add(len + 1) }.cast::<[usize; 2]>();
    let mut executed = core::ptr::null();
    let mut executed_slot = core::ptr::null_mut();
    let mut is_secure = false;
    for _ in 0..PAIRS_MAX {
        // SAFETY: AT_NULL ends the vector and the loop.
        let [kind, value] = unsafe { *pair };
        match kind as u64 {
            libc::AT_NULL => break,
            libc::AT_EXECFN => {
                executed = value as *const c_char;
                // SAFETY: the second half of the pair.
                executed_slot = unsafe { pair.cast::<usize>().add(1) }.cast_mut();
            }
            libc::AT_SECURE => is_secure = value != 0,
            _ => {}
        }
        // SAFETY: not yet at the end.
        pair = unsafe { pair.add(1) };
    }
    (!executed.is_null()).then_some(Stack { executed, executed_slot, is_secure })
}

/// argv lies before the environment: walk back until the number of words passed is the word in front of them, argc. No
/// argument's address is as small as a count.
fn arguments(envp: Strings) -> Option<Strings> {
    let here = 0u8;
    let mut count = 0;
    // SAFETY: argv's NULL is in front of the environment, here and below: this is the initial stack.
    let mut first = unsafe { envp.sub(1) };
    while first as usize > &raw const here as usize {
        // SAFETY: above our own frame, so still on the stack.
        let before = unsafe { first.sub(1) };
        // SAFETY: as above.
        if unsafe { *before } as usize == count {
            return Some(first);
        }
        first = before;
        count += 1;
    }
    None
}

/// The safety net. Returns when this is no driver, or when the client could not be started: then the driver runs as it
/// is. It cannot loop: the client's environment is without the library.
unsafe fn catch(stack: &Stack, envp: Strings, survey: &Survey) {
    // SAFETY: the kernel's C string, here and below.
    if !unsafe { target::looks_like_driver(stack.executed) } || !survey.wants_client() {
        return;
    }
    // For a script this is the interpreter.
    // SAFETY: a C string.
    if !unsafe { target::inspect(c"/proc/self/exe".as_ptr(), true) }.is_driver {
        return;
    }
    let Some(argv) = arguments(envp) else { return };
    // SAFETY: the kernel's strings, and the survey is of this `envp`.
    unsafe { as_client(stack.executed, envp, survey, &|client, envp| sys::execve(client, argv, envp)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_entry_among_others() {
        let ours: &[u8] = b"/opt/libmpicc-proxy.so";
        assert_eq!(absolute_entry(ours), Some(ours));
        assert_eq!(absolute_entry(b"a.so /opt/libmpicc-proxy.so:b.so"), Some(ours));
        for other in
            ["", ":", "libmpicc-proxy.so", "./libmpicc-proxy.so", "/usr/$LIB/libmpicc-proxy.so", "/opt/libx.so"]
        {
            assert_eq!(absolute_entry(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn the_first_entry_ends_at_a_separator() {
        // SAFETY: C strings.
        unsafe {
            assert_eq!(first_entry(c"".as_ptr()), Some(b"".as_slice()));
            assert_eq!(first_entry(c"/a/b.so".as_ptr()), Some(b"/a/b.so".as_slice()));
            assert_eq!(first_entry(c"/a-0/b+.so:c".as_ptr()), Some(b"/a-0/b+.so".as_slice()));
            assert_eq!(first_entry(c"a d".as_ptr()), Some(b"a".as_slice()));
            assert_eq!(first_entry(c"/$LIB/b.so".as_ptr()), None);
        }
    }
}
