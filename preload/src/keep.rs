//! What the library remembers from the moment it was loaded: its own path and our variables. Copies, because the
//! environment's memory belongs to the program (shells free it, `setproctitle` writes over it). Written once by the
//! constructor, read-only from then on; knows nothing of where the values go.

use crate::fixed::Fixed;
use core::cell::UnsafeCell;

/// Our variables, as indices. The first five are [`mpicc_proxy_abi::env::KEPT`], in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    Switch,
    Socket,
    Fallback,
    Log,
    Step,
    Worker,
}

impl Name {
    pub const ALL: [Name; 6] = [Name::Switch, Name::Socket, Name::Fallback, Name::Log, Name::Step, Name::Worker];
}

/// Room for the library's path, the longest log path, a socket's path and change. What does not fit is not kept.
const ARENA_BYTES_MAX: usize = 12 * 1024;

#[derive(Clone, Copy)]
struct Span {
    at: u16,
    len: u16,
}

const EMPTY: Span = Span { at: 0, len: 0 };

pub struct Kept {
    arena: Fixed<ARENA_BYTES_MAX>,
    library: Span,
    variables: [Span; Name::ALL.len()],
    runtime_dir: Span,
}

impl Kept {
    const fn new() -> Kept {
        Kept { arena: Fixed::new(), library: EMPTY, variables: [EMPTY; Name::ALL.len()], runtime_dir: EMPTY }
    }

    /// Absolute path of this library, as an entry of `LD_PRELOAD`.
    pub fn library(&self) -> &[u8] {
        self.bytes(self.library)
    }

    /// `NAME=value`, followed by a NUL; `None` when it was not set.
    pub fn variable(&self, name: Name) -> Option<&[u8]> {
        let span = self.variables[name as usize];
        (span.len > 0).then(|| self.bytes(span))
    }

    /// The folder that the rule for the socket's path looked at, see [`mpicc_proxy_abi::socket`].
    pub fn runtime_dir(&self) -> Option<&[u8]> {
        (self.runtime_dir.len > 0).then(|| self.bytes(self.runtime_dir))
    }

    pub fn keep_runtime_dir(&mut self, folder: &[u8]) -> Option<()> {
        self.runtime_dir = self.store(&[folder])?;
        Some(())
    }

    pub fn keep_library(&mut self, parts: &[&[u8]]) -> Option<()> {
        self.library = self.store(parts)?;
        Some(())
    }

    pub fn keep_variable(&mut self, name: Name, parts: &[&[u8]]) -> Option<()> {
        self.variables[name as usize] = self.store(parts)?;
        Some(())
    }

    fn store(&mut self, parts: &[&[u8]]) -> Option<Span> {
        let at = self.arena.bytes().len();
        for part in parts {
            self.arena.push(part)?;
        }
        let len = self.arena.bytes().len() - at;
        self.arena.push(b"\0")?;
        Some(Span { at: u16::try_from(at).ok()?, len: u16::try_from(len).ok()? })
    }

    fn bytes(&self, span: Span) -> &[u8] {
        let (at, len) = (usize::from(span.at), usize::from(span.len));
        self.arena.bytes().get(at..at + len).unwrap_or(&[])
    }
}

struct Global(UnsafeCell<Kept>);

// SAFETY: written by the constructor, before the process has a second thread; only read after that.
unsafe impl Sync for Global {}

static KEPT: Global = Global(UnsafeCell::new(Kept::new()));

/// What was kept; empty until the constructor has set a mode.
pub fn kept() -> &'static Kept {
    // SAFETY: no exclusive reference exists outside of the constructor.
    unsafe { &*KEPT.0.get() }
}

/// # Safety
/// For the constructor alone, while no reference from [`kept`] is alive.
pub unsafe fn kept_mut() -> &'static mut Kept {
    // SAFETY: promised by the caller.
    unsafe { &mut *KEPT.0.get() }
}
