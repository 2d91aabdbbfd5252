//! Signals as something to wait for, and the signal state that a child must inherit as if we had not been there.
//!
//! The signals that `run` acts on are blocked and read from a descriptor; no handler ever runs. What the user set to
//! "ignore" (nohup) stays alone.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// The signals that end a session early or must not end it.
const WATCHED: [Signal; 5] = [Signal::SIGCHLD, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGHUP];

/// `si_code` of a signal that the kernel made: Ctrl-C and Ctrl-\ reach the whole foreground group, so the command has
/// them already; a hang-up may reach the session leader alone.
const SI_KERNEL: i32 = 0x80;

/// One signal that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    pub signal: Signal,
    pub by_terminal: bool,
}

/// Watches `WATCHED` from its making to the end of the process.
#[derive(Debug)]
pub struct Signals {
    descriptor: SignalFd,
    /// The mask we were started with.
    inherited: SigSet,
    asked_to_end: Cell<Option<Signal>>,
}

impl Signals {
    /// Blocks the signals and starts to watch. Call it before the first child and the first thread.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn watch() -> io::Result<Signals> {
        let watched: SigSet = WATCHED.into_iter().filter(|signal| !is_ignored(*signal)).collect();
        let mut inherited = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&watched), Some(&mut inherited))?;
        let descriptor = SignalFd::with_flags(&watched, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Signals { descriptor, inherited, asked_to_end: Cell::new(None) })
    }

    /// Waits for signals, not for longer than until `deadline`, and returns all that are there.
    ///
    /// # Errors
    /// The kernel refuses to poll or read; nothing sensible can follow.
    pub fn wait(&self, deadline: Option<Instant>) -> io::Result<Vec<Arrived>> {
        let timeout = deadline.map_or(PollTimeout::NONE, |deadline| {
            let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut [PollFd::new(self.descriptor.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let mut arrived = Vec::new();
        while let Some(info) = self.descriptor.read_signal()? {
            let signal = Signal::try_from(info.ssi_signo as i32)?;
            if signal != Signal::SIGCHLD {
                self.asked_to_end.set(Some(signal));
            }
            arrived.push(Arrived { signal, by_terminal: info.ssi_code == SI_KERNEL });
        }
        Ok(arrived)
    }

    /// The last signal so far that asked this process to end.
    pub fn asked_to_end(&self) -> Option<Signal> {
        self.asked_to_end.get()
    }

    /// Waits for a child, not for longer than until `deadline`.
    ///
    /// # Errors
    /// As [`Signals::wait`].
    pub fn wait_for(&self, child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            self.wait(Some(deadline))?;
        }
    }

    /// Has a command start with the signal state that we were started with.
    pub fn hide_from(&self, command: &mut Command) {
        let inherited = self.inherited;
        // SAFETY: the closure makes async-signal-safe calls only, and allocates nothing.
        unsafe {
            command.pre_exec(move || {
                sigprocmask(SigmaskHow::SIG_SETMASK, Some(&inherited), None)?;
                restore_sigpipe();
                Ok(())
            });
        }
    }
}

fn is_ignored(signal: Signal) -> bool {
    // SAFETY: a null new action only asks, and an all-zero sigaction is a valid place for the answer.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal as libc::c_int, std::ptr::null(), &mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}

/// Whether we were started with SIGPIPE ignored, noted before Rust's start-up code ignores it for itself.
static SIGPIPE_WAS_IGNORED: AtomicBool = AtomicBool::new(false);

/// Bit n: descriptor n (0 to 2) was closed, noted before Rust's start-up code opens /dev/null in its place.
static CLOSED: AtomicU8 = AtomicU8::new(0);

extern "C" fn note_start() {
    SIGPIPE_WAS_IGNORED.store(is_ignored(Signal::SIGPIPE), Ordering::Relaxed);
    // SAFETY: only asks for a flag of each descriptor.
    let closed = (0..3).filter(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } < 0).fold(0, |bits, fd| bits | 1 << fd);
    CLOSED.store(closed, Ordering::Relaxed);
}

/// Descriptors among 0 to 2 that this process was started without.
pub fn closed_at_start() -> impl Iterator<Item = i32> {
    let closed = CLOSED.load(Ordering::Relaxed);
    (0..3).filter(move |fd| closed & 1 << fd != 0)
}

// SAFETY: .init_array is a list of functions that the C library calls once, before main.
#[used]
#[unsafe(link_section = ".init_array")]
static NOTE_START: extern "C" fn() = note_start;

/// No descriptor but the standard ones outlives an exec.
pub fn close_all_on_exec() {
    const FIRST: u32 = 3;
    const CLOEXEC: u32 = 1 << 2;
    // SAFETY: marks descriptors; nothing is closed here. Kernels before 5.11 refuse, and descriptors stay as they are.
    unsafe { libc::syscall(libc::SYS_close_range, FIRST, u32::MAX, CLOEXEC) };
}

/// Calls `write` so that going beyond RLIMIT_FSIZE is an error, which it is not by default: SIGXFSZ ends the process.
pub fn without_limit_signal<T>(write: impl FnOnce() -> T) -> T {
    // SAFETY: the process is our own, and no handler is installed.
    let before = unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let result = write();
    if before != libc::SIG_ERR {
        // SAFETY: the disposition it had.
        unsafe { libc::signal(libc::SIGXFSZ, before) };
    }
    result
}

/// Gives SIGPIPE back the disposition that this process was started with. Rust ignores it in its own programs and sets
/// it to the default in what they execute, but a build started with it ignored must stay so. Async-signal-safe.
fn restore_sigpipe() {
    let disposition = if SIGPIPE_WAS_IGNORED.load(Ordering::Relaxed) { libc::SIG_IGN } else { libc::SIG_DFL };
    // SAFETY: neither disposition is a function of ours.
    unsafe { libc::signal(libc::SIGPIPE, disposition) };
}

/// Has a command that inherits our standard descriptors start without those that we were started without.
pub fn close_again(command: &mut Command) {
    // SAFETY: the closure makes async-signal-safe calls only, and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            close_what_was_closed();
            Ok(())
        });
    }
}

/// Async-signal-safe.
fn close_what_was_closed() {
    for fd in closed_at_start() {
        // SAFETY: Rust's start-up code put /dev/null there; nothing of ours uses it.
        unsafe { libc::close(fd) };
    }
}

/// Becomes the command, with the signal state that this process was started with. Returns only if that fails.
pub fn exec(command: &mut Command) -> io::Error {
    // SAFETY: the closure makes async-signal-safe calls only, and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            restore_sigpipe();
            Ok(())
        });
    }
    command.exec()
}

/// Becomes `program` with exactly these words and this environment, and with the descriptors and the signal state that
/// this process was started with. Returns only if that fails.
pub fn exec_exactly(program: &CStr, argv: &[CString], environment: &[CString]) -> io::Error {
    close_what_was_closed();
    restore_sigpipe();
    match nix::unistd::execve(program, argv, environment) {
        Ok(never) => match never {},
        Err(errno) => errno.into(),
    }
}
