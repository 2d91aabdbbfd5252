//! The questions that processes of remote compiles ask their rank, over one `SOCK_SEQPACKET` socket; the protocol is in
//! `mpicc-proxy-abi`. Keeps who asked what until it is answered; knows no answers.

use crate::event::Interest;
use crate::wire::{Bytes, Digest, Want};
use anyhow::{Context, Result};
use mpicc_proxy_abi::miss::{self, Answer, REQUEST_BYTES_MAX, Request, Status};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, listen, recv, send, socket,
};
use std::collections::{BTreeMap, HashSet};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub task: u32,
    pub want: Want,
    pub path: Bytes,
}

struct Open {
    asker: u64,
    question: Question,
    /// The record is there; only this content is missing.
    content: Option<Digest>,
}

/// The socket, its connections and all open questions.
pub struct Questions {
    listener: OwnedFd,
    path: PathBuf,
    askers: BTreeMap<u64, OwnedFd>,
    next: u64,
    open: Vec<Open>,
    /// Contents rank 0 was asked for.
    requested: HashSet<Digest>,
}

impl Questions {
    /// # Errors
    /// The socket cannot be made.
    pub fn listen(path: &Path) -> Result<Questions> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        bind(listener.as_raw_fd(), &UnixAddr::new(path)?)
            .with_context(|| format!("cannot bind the socket {}", path.display()))?;
        listen(&listener, Backlog::new(128)?)?;
        Ok(Questions {
            listener,
            path: path.to_path_buf(),
            askers: BTreeMap::new(),
            next: 1,
            open: Vec::new(),
            requested: HashSet::new(),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn interest<T: Copy>(&self, interest: &mut Interest<T>, listener: T, asker: impl Fn(u64) -> T) {
        interest.add(self.listener.as_raw_fd(), false, listener);
        for (id, fd) in &self.askers {
            interest.add(fd.as_raw_fd(), false, asker(*id));
        }
    }

    /// Is a process blocked on us?
    pub fn any_open(&self) -> bool {
        !self.open.is_empty()
    }

    pub fn accept(&mut self) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        while let Ok(fd) = accept4(self.listener.as_raw_fd(), flags) {
            // SAFETY: a fresh descriptor of ours.
            self.askers.insert(self.next, unsafe { OwnedFd::from_raw_fd(fd) });
            self.next += 1;
        }
    }

    /// Takes one question from a connection, which stays open until it is answered. `None`: nothing, or the
    /// connection is over.
    pub fn read(&mut self, asker: u64) -> Option<Question> {
        let fd = self.askers.get(&asker)?.as_raw_fd();
        let mut datagram = [0u8; REQUEST_BYTES_MAX];
        match recv(fd, &mut datagram, MsgFlags::empty()) {
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => return None,
            Ok(length) if length > 0 => {
                if let Some(question) = decode(&datagram[..length]) {
                    self.open.push(Open { asker, question: question.clone(), content: None });
                    return Some(question);
                }
            }
            Ok(_) | Err(_) => {}
        }
        self.askers.remove(&asker);
        self.open.retain(|open| open.asker != asker);
        None
    }

    /// Answers the questions of `task` about `path` that want something `which` accepts.
    pub fn answer(&mut self, task: u32, path: &[u8], which: impl Fn(Want) -> bool, ready: bool) {
        let Questions { open, askers, .. } = self;
        open.retain(|one| {
            let meant = one.question.task == task && one.question.path == path && which(one.question.want);
            if meant {
                reply(askers, one.asker, ready);
            }
            !meant
        });
    }

    /// The questions of `task` about `path` now only wait for a content. `true`: rank 0 must be asked for it.
    pub fn await_content(&mut self, task: u32, path: &[u8], digest: Digest) -> bool {
        for open in &mut self.open {
            if open.question.task == task && open.question.path == path {
                open.content = Some(digest);
            }
        }
        self.requested.insert(digest)
    }

    /// The tasks that wait for a content.
    pub fn tasks_awaiting(&self, digest: Digest) -> Vec<u32> {
        self.open.iter().filter(|open| open.content == Some(digest)).map(|open| open.question.task).collect()
    }

    /// Answers everybody who waited for a content.
    pub fn answer_content(&mut self, digest: Digest, ready: bool) {
        self.requested.remove(&digest);
        let Questions { open, askers, .. } = self;
        open.retain(|one| {
            let meant = one.content == Some(digest);
            if meant {
                reply(askers, one.asker, ready);
            }
            !meant
        });
    }

    /// Drops the questions of a task that is over.
    pub fn forget(&mut self, task: u32) {
        self.open.retain(|open| open.question.task != task);
    }
}

fn decode(datagram: &[u8]) -> Option<Question> {
    let (head, path) = datagram.split_first_chunk::<{ size_of::<Request>() }>()?;
    // SAFETY: `Request` is four u32 without padding; any bits are valid.
    let request = unsafe { std::mem::transmute::<[u8; size_of::<Request>()], Request>(*head) };
    if request.version != mpicc_proxy_abi::VERSION || request.path_bytes as usize != path.len() {
        return None;
    }
    let want = match miss::Want::from_wire(request.want)? {
        miss::Want::Record => Want::Record,
        miss::Want::Content => Want::Content,
        miss::Want::Listing => Want::Listing,
    };
    Some(Question { task: request.task, want, path: path.to_vec() })
}

/// A datagram of 4 bytes into an empty buffer does not block; an asker that is gone needs no answer.
fn reply(askers: &BTreeMap<u64, OwnedFd>, asker: u64, ready: bool) {
    let status = if ready { Status::Ready } else { Status::Failed };
    let answer = Answer { status: status as u32 };
    // SAFETY: `Answer` is one u32.
    let bytes = unsafe { std::mem::transmute::<Answer, [u8; size_of::<Answer>()]>(answer) };
    if let Some(fd) = askers.get(&asker) {
        let _ = send(fd.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT);
    }
}
