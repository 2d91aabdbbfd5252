//! Waiting: poll(2) over descriptors with a time-out that backs off, because MPI has no descriptor to wait for.
//!
//! Any activity resets the time-out to `SHORTEST`; each idle turn lengthens it up to a cap the owner chooses by what
//! it has in flight. A wake-up costs about 30 µs, and several times that when it finds the caches full of a compiler's
//! data, so that a rank uses about a third of a percent of a core at [`CAP_IDLE`], and next to nothing at [`CAP_RUNG`].

use nix::poll::{PollFd, PollFlags};
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const SHORTEST: Duration = Duration::from_micros(20);

/// Cap while an answer is awaited that some process is blocked on.
pub const CAP_URGENT: Duration = Duration::from_micros(150);
/// Cap while compiles run.
pub const CAP_BUSY: Duration = Duration::from_millis(1);
/// Cap when nothing is going on, and while rank 0 and a worker exchange a message too long to be sent at once: the worker
/// shares its CPUs with compilers, and may leave rank 0 waiting.
pub const CAP_IDLE: Duration = Duration::from_millis(10);
/// Cap while the doorbell is trusted to wake us; what a lost ring costs at most.
pub const CAP_RUNG: Duration = Duration::from_secs(1);
/// With the doorbell, the first time-out after a send: MPI may need us to push the last of it out.
const SETTLE: Duration = Duration::from_millis(1);

/// The longest time-outs of a wait.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// Where the doorbell cannot be relied on.
    pub unrung: Duration,
    /// Where it can, and a message is in flight.
    pub in_flight: Duration,
    /// Where it can.
    pub rung: Duration,
}

impl Caps {
    /// For an owner who does not leave it to the doorbell what is in flight.
    pub fn new(unrung: Duration) -> Caps {
        Caps { unrung, in_flight: unrung, rung: CAP_RUNG }
    }
}

/// The next time-out.
pub struct Backoff {
    next: Duration,
    settle: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { next: SHORTEST, settle: CAP_RUNG }
    }
}

impl Backoff {
    pub fn reset(&mut self) {
        self.next = SHORTEST;
    }

    /// Something was sent.
    pub fn sent(&mut self) {
        self.settle = SETTLE;
    }

    /// Time to wait now, at most `cap`, if the doorbell will ring: not long after a send, then for good.
    pub fn step_rung(&mut self, cap: Duration) -> Duration {
        let now = self.settle.min(cap);
        self.settle = (now * 32).min(CAP_RUNG);
        now
    }

    /// Time to wait now, at most `cap`; the following one is twice as long.
    pub fn step(&mut self, cap: Duration) -> Duration {
        let now = self.next.min(cap);
        self.next = (now * 2).min(cap);
        now
    }
}

/// Descriptors to wait for, each with a token that says what it is.
pub struct Interest<T> {
    fds: Vec<(RawFd, bool, T)>,
}

/// A descriptor that became ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready<T> {
    pub token: T,
    pub readable: bool,
    pub writable: bool,
}

impl<T: Copy> Default for Interest<T> {
    fn default() -> Self {
        Interest { fds: Vec::new() }
    }
}

impl<T: Copy> Interest<T> {
    /// Waits for input on `fd`, and with `output` also for room to write.
    pub fn add(&mut self, fd: RawFd, output: bool, token: T) {
        self.fds.push((fd, output, token));
    }

    /// What is waited for.
    #[cfg(test)]
    pub fn tokens(&self) -> impl Iterator<Item = T> {
        self.fds.iter().map(|(_, _, token)| *token)
    }

    /// Waits until a descriptor is ready or `timeout` is over. Hang-ups and errors count as readable: reading tells.
    ///
    /// # Errors
    /// As ppoll(2); an interrupting signal ends the wait without an error.
    pub fn wait(&self, timeout: Duration) -> io::Result<Vec<Ready<T>>> {
        let mut polled: Vec<PollFd<'_>> = self
            .fds
            .iter()
            .map(|(fd, output, _)| {
                // SAFETY: the owner keeps its descriptors open while it waits for them.
                let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
                let output = if *output { PollFlags::POLLOUT } else { PollFlags::empty() };
                PollFd::new(fd, PollFlags::POLLIN | output)
            })
            .collect();
        match nix::poll::ppoll(&mut polled, Some(timeout.into()), None) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => return Ok(Vec::new()),
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready = polled.iter().zip(&self.fds).filter_map(|(polled, (_, _, token))| {
            let events = polled.revents()?;
            let writable = events.contains(PollFlags::POLLOUT);
            let readable =
                events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL);
            (readable || writable).then_some(Ready { token: *token, readable, writable })
        });
        Ok(ready.collect())
    }
}

/// A stream that becomes readable when one of `signals` arrives.
///
/// # Errors
/// A handler cannot be installed.
pub fn signal_stream(signals: &[i32]) -> io::Result<UnixStream> {
    let (reader, writer) = UnixStream::pair()?;
    for signal in signals {
        signal_hook::low_level::pipe::register(*signal, writer.try_clone()?)?;
    }
    Ok(reader)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsRawFd;

    #[test]
    fn waiting_grows_up_to_its_cap_and_starts_over() {
        let mut backoff = Backoff::default();
        let waits: Vec<Duration> = (0..40).map(|_| backoff.step(CAP_IDLE)).collect();
        assert_eq!(waits[0], SHORTEST);
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(waits[39], CAP_IDLE);
        assert_eq!(backoff.step(CAP_URGENT), CAP_URGENT);
        backoff.reset();
        assert_eq!(backoff.step(CAP_IDLE), SHORTEST);
    }

    #[test]
    fn with_a_doorbell_only_sends_are_looked_after() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.step_rung(CAP_RUNG), CAP_RUNG);
        backoff.reset();
        assert_eq!(backoff.step_rung(CAP_RUNG), CAP_RUNG);
        backoff.sent();
        assert_eq!([(); 3].map(|()| backoff.step_rung(CAP_RUNG)), [SETTLE, SETTLE * 32, CAP_RUNG]);
        assert_eq!([(); 2].map(|()| backoff.step_rung(CAP_BUSY)), [CAP_BUSY; 2]);
    }

    #[test]
    fn only_ready_descriptors_are_reported() {
        let (mut a, b) = UnixStream::pair().unwrap();
        let mut interest = Interest::default();
        interest.add(a.as_raw_fd(), true, 'a');
        interest.add(b.as_raw_fd(), false, 'b');
        let ready = interest.wait(Duration::ZERO).unwrap();
        assert_eq!(ready, [Ready { token: 'a', readable: false, writable: true }]);
        a.write_all(b"x").unwrap();
        assert!(interest.wait(Duration::from_secs(1)).unwrap().iter().any(|r| r.token == 'b' && r.readable));
    }
}
