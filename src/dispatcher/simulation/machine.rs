//! The machine of rank 0 as far as places go: pipes as counts, processes as numbers, and the time.

use crate::dispatcher::broker::{Job, JobserverId};
use crate::dispatcher::outside::{Outside, Taken};
use crate::dispatcher::slots::User;
use crate::wire::Jobserver;
use std::cell::{Ref, RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Milliseconds since the simulation began.
pub type Ms = u64;

/// A jobserver's pipe.
#[derive(Default)]
pub struct Pipe {
    pub bytes: u64,
    /// Makes hold its write end.
    pub open: bool,
    /// By the dispatcher.
    pub written: u64,
    pub taken: u64,
}

pub struct State {
    start: Instant,
    pub now: Ms,
    pub pipes: BTreeMap<JobserverId, Pipe>,
    pub processes: BTreeSet<User>,
}

/// Shared by the world and the places.
#[derive(Clone)]
pub struct Machine(Rc<RefCell<State>>);

impl Machine {
    pub fn new() -> Machine {
        let start = Instant::now();
        Machine(Rc::new(RefCell::new(State { start, now: 0, pipes: BTreeMap::new(), processes: BTreeSet::new() })))
    }

    pub fn state(&self) -> Ref<'_, State> {
        self.0.borrow()
    }

    pub fn change(&self) -> RefMut<'_, State> {
        self.0.borrow_mut()
    }

    /// Can be read, or is at its end.
    pub fn is_readable(&self, jobserver: JobserverId) -> bool {
        self.state().pipes.get(&jobserver).is_none_or(|pipe| pipe.bytes > 0 || !pipe.open)
    }
}

/// What a pipe or a process is opened as. Nothing polls it.
pub struct Opened<T>(T);

impl<T> AsRawFd for Opened<T> {
    fn as_raw_fd(&self) -> RawFd {
        -1
    }
}

impl Outside for Machine {
    type ReadEnd = Opened<JobserverId>;
    type Process = Opened<User>;

    fn now(&self) -> Instant {
        let state = self.state();
        state.start + Duration::from_millis(state.now)
    }

    /// Jobs say when they began.
    fn age_of(&self, (_, began): Job) -> Duration {
        Duration::from_millis(self.state().now - began)
    }

    fn open(&self, jobserver: &Jobserver) -> Option<Opened<JobserverId>> {
        self.state().pipes.get(&jobserver.id).filter(|pipe| pipe.open).map(|_| Opened(jobserver.id))
    }

    fn put(&self, jobserver: &Jobserver) -> bool {
        let mut state = self.change();
        let Some(pipe) = state.pipes.get_mut(&jobserver.id).filter(|pipe| pipe.open) else { return false };
        pipe.bytes += 1;
        pipe.written += 1;
        true
    }

    fn take(&self, end: &Opened<JobserverId>) -> Taken {
        let mut state = self.change();
        match state.pipes.get_mut(&end.0) {
            Some(pipe) if pipe.bytes > 0 => {
                pipe.bytes -= 1;
                pipe.taken += 1;
                Taken::Token
            }
            Some(pipe) if pipe.open => Taken::NotNow,
            _ => Taken::Gone,
        }
    }

    fn watch(&self, user: User) -> Option<Opened<User>> {
        self.state().processes.contains(&user).then_some(Opened(user))
    }
}
