//! CPU time of this process and of the calling thread.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// user + system CPU of this process and its threads so far, in microseconds.
pub fn own_cpu_us() -> u64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF);
    usage.map_or(0, |u| (u.user_time().num_microseconds() + u.system_time().num_microseconds()) as u64)
}

/// CPU of the calling thread so far, in nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    clock_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// CPU time in laps, in microseconds; the first began with the process.
#[derive(Default)]
pub struct Laps {
    so_far_ns: u64,
}

impl Laps {
    /// CPU of this process since the last lap.
    pub fn lap_us(&mut self) -> u64 {
        let now = clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID);
        let before = std::mem::replace(&mut self.so_far_ns, now);
        now.saturating_sub(before) / 1000
    }
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills the struct.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    if result == 0 { time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64 } else { 0 }
}
