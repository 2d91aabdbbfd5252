//! CPU time of this process, from getrusage(2).

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// user + system CPU of this process and its threads so far, in microseconds.
pub fn own_cpu_us() -> u64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF);
    usage.map_or(0, |u| (u.user_time().num_microseconds() + u.system_time().num_microseconds()) as u64)
}
