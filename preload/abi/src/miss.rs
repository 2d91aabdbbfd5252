//! One question from a process of a remote compile to its rank, over a `SOCK_SEQPACKET` Unix socket: one datagram
//! `Request` followed by the path, answered by one `Answer`. The fact itself travels through the shared table: after
//! [`Status::Ready`] the asker probes the table again.

use crate::PATH_BYTES_MAX;

/// What the asker needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Want {
    /// The record of the path (existence, identity, link target, permissions).
    Record = 1,
    /// The record, and for a regular file its content in the host's store.
    Content = 2,
    /// The record, and for a directory its names in the host's store; see [`crate::listing`].
    Listing = 3,
}

impl Want {
    pub fn from_wire(raw: u32) -> Option<Want> {
        [Want::Record, Want::Content, Want::Listing].into_iter().find(|w| *w as u32 == raw)
    }
}

/// Head of a question; the path's bytes (no NUL) follow in the same datagram.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Request {
    pub version: u32,
    pub task: u32,
    pub want: u32,
    pub path_bytes: u32,
}

pub const REQUEST_BYTES_MAX: usize = size_of::<Request>() + PATH_BYTES_MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    /// The table now holds a record of the path that is valid for this task.
    Ready = 1,
    /// The rank could not find out; the compile's result will be thrown away.
    Failed = 2,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Answer {
    pub status: u32,
}
