//! Steps of a ninja, see [`mpicc_proxy_abi::step`]: a ninja that no jobserver governs hears how many it may run at once,
//! and a process of a step asks before it runs something on this host for the first time.
//!
//! Waiting may happen in a vfork child, whose parent then waits as well; it would for the program itself. Without a
//! dispatcher that answers, everything goes on as if there were no slots.

use crate::elf::Image;
use crate::env::{Survey, socket_path};
use crate::fixed::{Fixed, bytes_of, strings};
use crate::hook;
use crate::keep::Name;
use crate::sys;
use crate::table::{Strings, real};
use core::ffi::{c_char, c_int, c_void};
use core::sync::atomic::{AtomicU32, Ordering};
use libc::{FILE, pid_t, size_t};
use mpicc_proxy_abi::driver::base_name;
use mpicc_proxy_abi::step::{self, Question};
use mpicc_proxy_abi::{env as names, socket};

/// A dispatcher that says nothing for this long is stuck; it beats every 5 s.
const SILENCE_S: i64 = 30;

/// What ninja adds to the number of CPUs to find its default of parallel steps.
const ADDED_BY_NINJA: u32 = 2;

/// Steps that this process, a ninja whose steps are counted, may run at once. 0: it is no such thing.
static PARALLELISM: AtomicU32 = AtomicU32::new(0);

/// `MPICC_PROXY_STEP=<id>+`
pub type Variable = Fixed<{ names::STEP.len() + 1 + step::DIGITS + 1 + 1 }>;

/// The first process of a step writes down who it is.
///
/// # Safety
/// For the constructor: the environment is the process's own, and nobody else reads it yet.
pub unsafe fn name_own(survey: &Survey) {
    if let Some(value) = survey.value(Name::Step)
        && value == step::UNNAMED
    {
        // SAFETY: promised by the caller; the strings of an environment are the program's to write to.
        let room = unsafe { core::slice::from_raw_parts_mut(value.as_ptr().cast_mut(), value.len()) };
        step::write(sys::getpid() as u32, room);
    }
}

/// A ninja that is not part of a jobserver asks how many steps it may run.
///
/// # Safety
/// For the constructor: `executed` is a C string, `envp` the environment that was surveyed.
pub unsafe fn start(executed: *const c_char, envp: Strings, survey: &Survey) {
    // SAFETY: promised by the caller, here and below.
    if !matches!(base_name(unsafe { bytes_of(executed) }), b"ninja" | b"ninja-build") {
        return;
    }
    // SAFETY: as above.
    if unsafe { has_jobserver(envp) } {
        return;
    }
    let outer = survey.value(Name::Step).and_then(step::parse).map_or(0, |(id, _)| id);
    if let Some(steps) = ask(Question::Parallelism, outer, survey) {
        PARALLELISM.store(steps, Ordering::Relaxed);
    }
}

/// Does the environment name a jobserver? Then its tokens count, or the ninja is too old to know them.
///
/// # Safety
/// `envp` is null or a NULL-terminated array of C strings.
unsafe fn has_jobserver(envp: Strings) -> bool {
    const OPTION: &[u8] = b"--jobserver-";
    // SAFETY: promised by the caller.
    unsafe { strings(envp) }.any(|variable| {
        (variable.starts_with(b"MAKEFLAGS=") || variable.starts_with(b"MFLAGS="))
            && variable.windows(OPTION.len()).any(|window| window == OPTION)
    })
}

/// Is this a ninja whose steps take slots? The first process of a step has to be with the library.
pub fn are_counted() -> bool {
    PARALLELISM.load(Ordering::Relaxed) > 0
}

/// What a child that executes `image` finds as its step instead of what `survey` found. May wait for a slot.
pub fn of_child(survey: &Survey, image: Image) -> Option<Variable> {
    let mut variable = Variable::new();
    variable.push(names::STEP)?;
    variable.push(b"=")?;
    if are_counted() {
        variable.push(&step::UNNAMED)?;
        return Some(variable);
    }
    let value = survey.effective_value(Name::Step)?;
    let (id, is_entered) = step::parse(value)?;
    // What is not there, or no program, is not going to run.
    if is_entered || image == Image::Other {
        return None;
    }
    // Whatever the answer: nobody below has to ask again.
    ask(Question::Enter, id, survey);
    variable.push(value)?;
    variable.push(&[step::ENTERED])?;
    Some(variable)
}

/// ninja also looks at what its control group may use of the CPUs, which is beside the point as well: without this file it
/// does without.
///
/// # Safety
/// As fopen(3).
pub unsafe fn fopen(real: real::fopen, path: *const c_char, mode: *const c_char) -> *mut FILE {
    // SAFETY: a C string, promised by the caller.
    if are_counted() && unsafe { bytes_of(path) } == b"/proc/self/cgroup" {
        hook::set_errno(libc::ENOENT);
        return core::ptr::null_mut();
    }
    // SAFETY: the caller's own call.
    unsafe { real(path, mode) }
}

/// The CPUs that ninja derives its number of parallel steps from.
///
/// # Safety
/// As sched_getaffinity(3).
pub unsafe fn sched_getaffinity(real: real::sched_getaffinity, pid: pid_t, size: size_t, mask: *mut c_void) -> c_int {
    // SAFETY: the caller's own call.
    let result = unsafe { real(pid, size, mask) };
    let steps = PARALLELISM.load(Ordering::Relaxed);
    if result == 0 && steps > 0 {
        // SAFETY: the real function has filled it.
        let bits = unsafe { core::slice::from_raw_parts_mut(mask.cast::<u8>(), size) };
        let has: u32 = bits.iter().map(|byte| byte.count_ones()).sum();
        let mut lacks = steps.saturating_sub(ADDED_BY_NINJA).saturating_sub(has);
        for bit in 0..size * 8 {
            let (byte, mask) = (bit / 8, 1 << (bit % 8));
            if lacks > 0 && bits.get(byte).is_some_and(|byte| byte & mask == 0) {
                bits[byte] |= mask;
                lacks -= 1;
            }
        }
    }
    result
}

/// Asks the dispatcher and waits for its answer: the number in it, else 0. `None`: there was none.
fn ask(question: Question, id: u32, survey: &Survey) -> Option<u32> {
    let mut path = [0; socket::SOCKET_PATH_BYTES_MAX];
    let len = socket_path(survey, &mut path)?;
    // Somebody waited for it in vain.
    let mut mark = Fixed::<{ socket::SOCKET_PATH_BYTES_MAX + socket::SILENCE_SUFFIX.len() }>::new();
    mark.push(path.get(..len)?)?;
    mark.push(socket::SILENCE_SUFFIX)?;
    // SAFETY: `Fixed` is NUL-terminated.
    if unsafe { sys::access(mark.as_ptr(), libc::F_OK) }.is_ok() {
        return None;
    }
    let stream = sys::connect_stream(path.get(..len)?, SILENCE_S)?;
    if !sys::send_all(stream.raw(), &step::question(question, id)) {
        return None;
    }
    let mut head = [0u8; step::ANSWER_BYTES_MAX];
    loop {
        let mut lengths = [0u8; step::LENGTHS_BYTES];
        if !sys::receive_whole(stream.raw(), &mut lengths) {
            return None;
        }
        let [a, b, c, d, ..] = lengths;
        let head = head.get_mut(..u32::from_le_bytes([a, b, c, d]) as usize)?;
        if !sys::receive_whole(stream.raw(), head) {
            return None;
        }
        let word = |at: usize| head.get(at..at + 4)?.first_chunk::<4>().map(|word| u32::from_le_bytes(*word));
        if word(0)? != step::HEARTBEAT {
            return Some(word(4).unwrap_or(0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jobserver_in_the_environment() {
        let of = |variable: &core::ffi::CStr| {
            let envp = [c"PATH=/bin".as_ptr(), variable.as_ptr(), core::ptr::null()];
            // SAFETY: a NULL-terminated array of C strings.
            unsafe { has_jobserver(envp.as_ptr()) }
        };
        assert!(of(c"MAKEFLAGS= -j4 --jobserver-auth=3,4"));
        assert!(of(c"MFLAGS=-j4 --jobserver-fds=3,4"));
        assert!(!of(c"MAKEFLAGS= -j4"));
        assert!(!of(c"XMAKEFLAGS=--jobserver-auth=3,4"));
    }

    #[test]
    fn cpus_are_added_and_never_taken() {
        unsafe extern "C" fn two(_: pid_t, size: size_t, mask: *mut c_void) -> c_int {
            // SAFETY: room for `size` bytes.
            unsafe { core::slice::from_raw_parts_mut(mask.cast::<u8>(), size) }.fill(0);
            // SAFETY: as above.
            unsafe { *mask.cast::<u8>() = 0b101 };
            0
        }
        for (steps, cpus) in [(0, 2), (1, 2), (4, 2), (12, 10), (5000, 1024)] {
            PARALLELISM.store(steps, Ordering::Relaxed);
            let mut mask = [0u64; 16];
            // SAFETY: room for 128 bytes.
            assert_eq!(unsafe { sched_getaffinity(two, 0, 128, mask.as_mut_ptr().cast()) }, 0);
            assert_eq!(mask.iter().map(|word| word.count_ones()).sum::<u32>(), cpus, "{steps}");
            assert_eq!(mask[0] & 0b101, 0b101);
        }
        PARALLELISM.store(0, Ordering::Relaxed);
    }
}
