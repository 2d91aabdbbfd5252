//! What the places of clients are made of outside of this process: tokens in make's pipes, processes, and the time. The
//! [`tokens`](super::tokens) and [slots](super::local) reach it through a trait, so that a simulation can bring its own.

use super::broker::Job;
use super::slots::User;
use crate::jobserver::{age_of, open_end};
use crate::pidfd;
use crate::wire::Jobserver;
use nix::fcntl::OFlag;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// What came of looking for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    Token,
    NotNow,
    /// Nobody can write one any more.
    Gone,
}

pub trait Outside {
    /// The read end of a jobserver.
    type ReadEnd: AsRawFd;
    /// Readable when the process has ended.
    type Process: AsRawFd;

    fn now(&self) -> Instant;

    /// How long ago a job began.
    fn age_of(&self, job: Job) -> Duration;

    /// `None`: the jobserver is gone.
    fn open(&self, jobserver: &Jobserver) -> Option<Self::ReadEnd>;

    /// Writes a token. `false`: that is impossible.
    fn put(&self, jobserver: &Jobserver) -> bool;

    fn take(&self, end: &Self::ReadEnd) -> Taken;

    /// `None`: there is no such process, for all that can be seen.
    fn watch(&self, user: User) -> Option<Self::Process>;
}

/// The machine that rank 0 runs on.
#[derive(Clone, Copy)]
pub struct Head;

impl Outside for Head {
    type ReadEnd = OwnedFd;
    type Process = OwnedFd;

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn age_of(&self, job: Job) -> Duration {
        age_of(job.1)
    }

    fn open(&self, jobserver: &Jobserver) -> Option<OwnedFd> {
        open_end(&jobserver.read, OFlag::O_RDONLY, jobserver.id)
    }

    fn put(&self, jobserver: &Jobserver) -> bool {
        open_end(&jobserver.write, OFlag::O_WRONLY, jobserver.id)
            .is_some_and(|end| nix::unistd::write(&end, b"+").is_ok_and(|bytes| bytes == 1))
    }

    fn take(&self, end: &OwnedFd) -> Taken {
        match nix::unistd::read(end, &mut [0]) {
            Ok(1) => Taken::Token,
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => Taken::NotNow,
            Ok(_) | Err(_) => Taken::Gone,
        }
    }

    fn watch(&self, user: User) -> Option<OwnedFd> {
        pidfd::open(user).ok()
    }
}
