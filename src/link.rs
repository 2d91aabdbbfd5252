//! The fabric: messages between ranks, over MPI. The only file that names `mpi::`; it knows nothing of what a message
//! means.
//!
//! # Never wait inside MPI
//! A blocked `MPI_Recv` burns the CPU the compilers need, so every call into MPI returns at once. The owner sleeps in
//! poll(2) by [`Link::wait`] and calls [`Link::receive`] when it wakes. One probe only drives MPI's progress engine and
//! often reports the message on the *next* call, hence two probes before giving up. Open MPI must not give up the CPU
//! in these calls either ([`keep_the_cpu`]).
//!
//! # The doorbell
//! Before a rank sleeps it rings those it has sent something to ([`crate::doorbell`]), so that a rank that is rung
//! reliably sleeps long. Bells introduce themselves by a message of their own tag that precedes the first to a rank.
//! While something is in flight that needs progress at both ends, while a ring is ahead of its message, and with peers
//! that do not ring, the time-out is short. A rank that was woken by something else than a ring need not ask MPI at all.
//!
//! # Order
//! Messages of one rank are handed out in the order they were sent, although a long one may complete after a short one
//! behind it.
//!
//! # Ranks that fail
//! An operation that fails is the end of the rank at the other end ([`Link::take_failed`]), and of nothing else: so say
//! MPI libraries with ULFM (`MPI_ERR_PROC_FAILED`), others hang in silence. ULFM reports the failure of any rank to a probe
//! of all; from then on they are probed one by one.
//!
//! # Requests
//! The safe interface of the `mpi` crate drops return codes and aborts the process when a request is dropped
//! unfinished, so requests are raw here, each with the buffer it uses. A request to a dead rank never completes; its
//! buffer stays with it until the process ends.

use crate::doorbell::{Address, Doorbell};
use crate::event::{Backoff, CAP_URGENT, Caps, Interest, Ready};
use mpi::environment::Universe;
use mpi::ffi;
use mpi::traits::{AsRaw, Communicator};
use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

/// Messages of the owner; their heads say what they are.
const TAG: i32 = 1;
/// How the sender's doorbell is rung.
const TAG_BELL: i32 = 2;

/// A message in flight; `buffer` must stay where it is until `request` completes.
struct Pending {
    request: ffi::MPI_Request,
    buffer: Vec<u8>,
    /// The rank at the other end.
    peer: i32,
    tag: i32,
}

/// One rank's end of the fabric. All calls come from the thread that made it.
pub struct Link {
    universe: Option<Universe>,
    comm: ffi::MPI_Comm,
    rank: i32,
    size: i32,
    sends: Vec<Pending>,
    /// Per source rank: receives in the order their messages were sent.
    receives: Vec<VecDeque<Pending>>,
    bell: Doorbell,
    /// Ranks that know our bell.
    introduced: Vec<bool>,
    /// Something was sent since the last wait.
    has_sent: bool,
    /// When a message to each rank was last begun.
    sent_at: Vec<Instant>,
    /// A message has begun to arrive, or has left, since the last wait.
    has_moved: bool,
    /// The owner stopped taking messages before there were none left.
    has_more: bool,
    /// When MPI was last asked for messages.
    asked_at: Instant,
    /// The owner awaits a message that may need us to make progress.
    expects: bool,
    /// Nothing can have arrived: whatever ended the last wait, it was no ring.
    is_quiet: bool,
    bytes_sent: u64,
    bytes_received: u64,
    /// Ranks that an operation with failed.
    failed: Vec<bool>,
    /// Those of them that the owner was not told of.
    newly_failed: Vec<i32>,
    /// A probe of all fails.
    one_by_one: bool,
}

impl Link {
    /// Initialises MPI.
    ///
    /// # Errors
    /// MPI was already initialised, or refuses to return errors.
    pub fn start() -> io::Result<Link> {
        keep_the_cpu();
        let universe = mpi::initialize().ok_or_else(|| io::Error::other("MPI could not be initialised"))?;
        let world = universe.world();
        let (comm, rank, size) = (world.as_raw(), world.rank(), world.size());
        // SAFETY: a valid communicator and a predefined handler.
        check("set the error handler", unsafe { ffi::MPI_Comm_set_errhandler(comm, ffi::RSMPI_ERRORS_RETURN) })?;
        let receives = (0..size).map(|_| VecDeque::new()).collect();
        Ok(Link {
            universe: Some(universe),
            comm,
            rank,
            size,
            sends: Vec::new(),
            receives,
            bell: Doorbell::new(rank, size),
            introduced: vec![false; size as usize],
            has_sent: false,
            sent_at: vec![Instant::now(); size as usize],
            has_moved: false,
            has_more: false,
            asked_at: Instant::now(),
            expects: false,
            is_quiet: false,
            bytes_sent: 0,
            bytes_received: 0,
            failed: vec![false; size as usize],
            newly_failed: Vec::new(),
            one_by_one: false,
        })
    }

    pub fn rank(&self) -> i32 {
        self.rank
    }

    /// Number of ranks in the job.
    pub fn size(&self) -> i32 {
        self.size
    }

    /// Bytes handed to and taken from MPI so far.
    pub fn bytes(&self) -> (u64, u64) {
        (self.bytes_sent, self.bytes_received)
    }

    /// Is anything in flight whose progress depends on us?
    pub fn busy(&self) -> bool {
        !self.sends.is_empty() || self.receives.iter().any(|queue| !queue.is_empty())
    }

    /// Bytes of messages to a rank that MPI has not yet taken from us.
    pub fn in_flight_bytes(&self, to: i32) -> usize {
        self.sends.iter().filter(|pending| pending.peer == to).map(|pending| pending.buffer.len()).sum()
    }

    /// Ranks that are gone, for all that MPI says, each once.
    pub fn take_failed(&mut self) -> Vec<i32> {
        std::mem::take(&mut self.newly_failed)
    }

    fn fail(&mut self, rank: i32, what: &str, code: i32) {
        if let Some(failed) = self.failed.get_mut(rank as usize)
            && !std::mem::replace(failed, true)
        {
            eprintln!("mpicc-proxy-rank: MPI could not {what} rank {rank}: error {code}");
            self.newly_failed.push(rank);
        }
    }

    fn has_failed(&self, rank: i32) -> bool {
        self.failed.get(rank as usize).is_some_and(|failed| *failed)
    }

    /// Starts sending `message` to `to`; returns at once. To a rank that has failed nothing is sent.
    ///
    /// # Errors
    /// The message is longer than an MPI count.
    pub fn send(&mut self, to: i32, message: Vec<u8>) -> io::Result<()> {
        if let Some(introduced) = self.introduced.get_mut(to as usize)
            && !std::mem::replace(introduced, true)
        {
            let address = self.bell.address().encode();
            self.post(to, address, TAG_BELL)?;
        }
        self.bytes_sent += message.len() as u64;
        self.post(to, message, TAG)?;
        self.bell.sent(to);
        self.has_sent = true;
        if let Some(sent_at) = self.sent_at.get_mut(to as usize) {
            *sent_at = Instant::now();
        }
        Ok(())
    }

    /// Was no message sent to the rank for so long?
    pub fn is_silent_to(&self, rank: i32, limit: Duration) -> bool {
        self.sent_at.get(rank as usize).is_some_and(|sent_at| sent_at.elapsed() >= limit)
    }

    /// Does the owner await something from a rank it may have no connection to yet? MPI makes one only while both
    /// ranks look for messages.
    pub fn expect(&mut self, expects: bool) {
        self.expects = expects;
    }

    /// Rings whoever was sent something, then waits as [`Interest::wait`] for the owner's descriptors and the own bell,
    /// which is reported as `bell`.
    ///
    /// # Errors
    /// As [`Interest::wait`].
    pub fn wait<T: Copy + PartialEq>(
        &mut self,
        mut interest: Interest<T>,
        bell: T,
        backoff: &mut Backoff,
        caps: Caps,
    ) -> io::Result<Vec<Ready<T>>> {
        self.bell.ring();
        if let Some(fd) = self.bell.fd() {
            interest.add(fd, false, bell);
        }
        if std::mem::take(&mut self.has_sent) {
            backoff.sent();
        }
        if std::mem::take(&mut self.has_moved) {
            backoff.reset();
        }
        let timeout = if self.has_more {
            Duration::ZERO
        } else if self.bell.expects() {
            backoff.step(caps.unrung.min(CAP_URGENT))
        } else if self.expects || !self.bell.is_trusted() {
            backoff.step(caps.unrung)
        } else if self.busy() {
            backoff.step(caps.in_flight)
        } else {
            backoff.step_rung(caps.rung)
        };
        let ready = interest.wait(timeout)?;
        self.bell.waited(ready.is_empty(), timeout);
        let is_rung = ready.iter().any(|ready| ready.token == bell);
        if is_rung {
            self.bell.listen();
        }
        // Only a wait of full length relied on the bell alone. However often others wake us, a lost ring costs no more
        // than it would in silence.
        self.is_quiet = timeout == caps.rung && !ready.is_empty() && !is_rung && self.asked_at.elapsed() < caps.rung;
        Ok(ready)
    }

    /// Rings whoever was sent something; for an owner that does not wait by [`Link::wait`].
    pub fn ring(&mut self) {
        self.bell.ring();
    }

    /// How `rank` is rung, as it told us; empty if it did not.
    pub fn bell_of(&self, rank: i32) -> Vec<u8> {
        self.bell.address_of(rank).map(Address::encode).unwrap_or_default()
    }

    /// Takes what another rank knows by [`Link::bell_of`] of `rank`, which has not spoken to us yet.
    pub fn introduce(&mut self, rank: i32, bell: &[u8]) {
        if let Some(address) = Address::decode(bell) {
            self.bell.introduce(rank, address);
        }
    }

    /// A rank that is gone.
    pub fn forget(&mut self, rank: i32) {
        self.bell.forget(rank);
    }

    fn post(&mut self, to: i32, message: Vec<u8>, tag: i32) -> io::Result<()> {
        if self.has_failed(to) {
            return Ok(());
        }
        let count = i32::try_from(message.len()).map_err(|_| io::Error::other("a message exceeds 2 GiB"))?;
        // SAFETY: all-zero bytes are overwritten by MPI_Isend before use.
        let mut request: ffi::MPI_Request = unsafe { std::mem::zeroed() };
        // SAFETY: the buffer's heap memory moves into `sends` and stays put until the request completes.
        let code = unsafe {
            ffi::MPI_Isend(message.as_ptr().cast(), count, ffi::RSMPI_UINT8_T, to, tag, self.comm, &raw mut request)
        };
        match is_ok(code) {
            true => self.sends.push(Pending { request, buffer: message, tag, peer: to }),
            false => self.fail(to, "send to", code),
        }
        Ok(())
    }

    /// The next message that has arrived, with the rank that sent it. Never waits.
    ///
    /// # Errors
    /// MPI does what it never should.
    pub fn receive(&mut self) -> io::Result<Option<(i32, Vec<u8>)>> {
        if std::mem::take(&mut self.is_quiet) {
            return Ok(None);
        }
        self.asked_at = Instant::now();
        let next = self.next();
        self.has_more = matches!(next, Ok(Some(_)));
        next
    }

    fn next(&mut self) -> io::Result<Option<(i32, Vec<u8>)>> {
        self.complete_sends();
        if let Some(arrived) = self.arrived() {
            return Ok(Some(arrived));
        }
        for _ in 0..2 {
            self.accept()?;
            if let Some(arrived) = self.arrived() {
                return Ok(Some(arrived));
            }
        }
        Ok(None)
    }

    /// Leaves the job. MPI_Finalize may hang when a rank died; the caller bounds the time.
    pub fn finish(mut self) {
        drop(self.universe.take());
    }

    fn complete_sends(&mut self) {
        let mut index = 0;
        while index < self.sends.len() {
            match test(&mut self.sends[index].request) {
                Ok(false) => index += 1,
                Ok(true) => {
                    self.sends.swap_remove(index);
                    self.has_moved = true;
                }
                Err(code) => {
                    let pending = self.sends.swap_remove(index);
                    self.abandon(pending, "send to", code);
                }
            }
        }
    }

    /// What MPI still does with the buffer of a failed operation is not known: it stays.
    fn abandon(&mut self, pending: Pending, what: &str, code: i32) {
        std::mem::forget(pending.buffer);
        self.fail(pending.peer, what, code);
    }

    /// Starts the receives of all announced messages.
    fn accept(&mut self) -> io::Result<()> {
        if !self.one_by_one {
            // SAFETY: a constant of the library's.
            match self.accept_from(unsafe { ffi::RSMPI_ANY_SOURCE })? {
                Ok(()) => return Ok(()),
                Err(_) => self.one_by_one = true,
            }
        }
        for rank in 0..self.size {
            if rank != self.rank
                && !self.has_failed(rank)
                && let Err(code) = self.accept_from(rank)?
            {
                self.fail(rank, "hear", code);
            }
        }
        Ok(())
    }

    /// Starts the receives of the messages announced by `source`. The inner error: a probe failed.
    fn accept_from(&mut self, source: i32) -> io::Result<Result<(), i32>> {
        loop {
            match self.accept_one(source)? {
                Ok(true) => {}
                end => return Ok(end.map(drop)),
            }
        }
    }

    /// As [`Link::accept_from`], for one message; `false` when none is announced.
    fn accept_one(&mut self, source: i32) -> io::Result<Result<bool, i32>> {
        let mut flag = 0;
        // SAFETY: both are written by MPI_Improbe before they are read.
        let (mut message, mut status): (ffi::MPI_Message, ffi::MPI_Status) = unsafe { std::mem::zeroed() };
        // SAFETY: out-parameters of the right types.
        let code = unsafe {
            ffi::MPI_Improbe(source, ffi::RSMPI_ANY_TAG, self.comm, &raw mut flag, &raw mut message, &raw mut status)
        };
        if !is_ok(code) {
            return Ok(Err(code));
        }
        if flag == 0 {
            return Ok(Ok(false));
        }
        let mut count = 0;
        // SAFETY: `status` was filled by the successful probe.
        check("read a length", unsafe { ffi::MPI_Get_count(&raw const status, ffi::RSMPI_UINT8_T, &raw mut count) })?;
        let mut buffer = vec![0u8; usize::try_from(count).unwrap_or(0)];
        // SAFETY: overwritten by MPI_Imrecv before use.
        let mut request: ffi::MPI_Request = unsafe { std::mem::zeroed() };
        // SAFETY: the buffer has `count` bytes and stays put in `receives` until the request completes.
        let code = unsafe {
            ffi::MPI_Imrecv(buffer.as_mut_ptr().cast(), count, ffi::RSMPI_UINT8_T, &raw mut message, &raw mut request)
        };
        let pending = Pending { request, buffer, tag: status.MPI_TAG, peer: status.MPI_SOURCE };
        if !is_ok(code) {
            self.abandon(pending, "receive from", code);
            return Ok(Ok(true));
        }
        let source = usize::try_from(status.MPI_SOURCE).unwrap_or(usize::MAX);
        let queue = self.receives.get_mut(source).ok_or_else(|| io::Error::other("a message from no rank"))?;
        queue.push_back(pending);
        self.has_moved = true;
        Ok(Ok(true))
    }

    fn arrived(&mut self) -> Option<(i32, Vec<u8>)> {
        for source in 0..self.receives.len() {
            while let Some(front) = self.receives[source].front_mut() {
                let outcome = test(&mut front.request);
                if outcome == Ok(false) {
                    break;
                }
                let done = self.receives[source].pop_front()?;
                match outcome {
                    Err(code) => self.abandon(done, "receive from", code),
                    Ok(_) if done.tag == TAG_BELL => {
                        if let Some(address) = Address::decode(&done.buffer) {
                            self.bell.introduce(done.peer, address);
                        }
                        // What it announced follows.
                    }
                    Ok(_) => {
                        self.bell.took(done.peer);
                        self.bytes_received += done.buffer.len() as u64;
                        return Some((done.peer, done.buffer));
                    }
                }
            }
        }
        None
    }
}

/// What the MPI library says it is.
///
/// # Errors
/// It does not say it in UTF-8.
pub fn library_version() -> io::Result<String> {
    mpi::environment::library_version().map_err(io::Error::other)
}

/// Open MPI, when it was told that ranks share CPUs, calls sched_yield(2) whenever it finds nothing to do. That is meant
/// for those who spin; we sleep instead, and beside a compiler each call costs a time slice, 4 ms and more. Nothing of
/// ours blocks in MPI; its own start and end sleep. A user's own setting stands.
fn keep_the_cpu() {
    const SETTING: &str = "OMPI_MCA_mpi_yield_when_idle";
    if std::env::var_os(SETTING).is_none() {
        // SAFETY: no other thread exists before MPI is initialised.
        unsafe { std::env::set_var(SETTING, "0") };
    }
}

/// Is the operation complete? The error is MPI's.
fn test(request: &mut ffi::MPI_Request) -> Result<bool, i32> {
    let mut flag = 0;
    // SAFETY: a request made by MPI_Isend or MPI_Imrecv, not yet completed.
    let code = unsafe { ffi::MPI_Test(request, &raw mut flag, ffi::RSMPI_STATUS_IGNORE) };
    if is_ok(code) { Ok(flag != 0) } else { Err(code) }
}

fn is_ok(code: i32) -> bool {
    code == ffi::MPI_SUCCESS as i32
}

fn check(what: &str, code: i32) -> io::Result<()> {
    if is_ok(code) { Ok(()) } else { Err(io::Error::other(format!("MPI could not {what}: error {code}"))) }
}
