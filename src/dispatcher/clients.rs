//! The clients' end of the dispatcher: connections on the Unix socket, frames in and out. Knows nothing of actions
//! beyond the number a connection waits for.
//!
//! # Trust
//! The socket lives in a folder only its owner may enter, and a peer with another uid is turned away. What a client
//! sends is length-limited; a malformed frame closes its connection and nothing else.

use super::broker::JobserverId;
use super::slots::User;
use crate::event::Interest;
use crate::wire::{self, ActionId, ToClient, ToDispatcher};
use anyhow::{Context, Result, bail};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Names a connection; never reused.
pub type ClientId = u64;

/// Bytes taken from one connection in one turn, so that no client starves the others.
const READ_BYTES: usize = 256 << 10;

struct Client {
    stream: UnixStream,
    /// Its process; `None`: it cannot be seen from here.
    pid: Option<u32>,
    input: Vec<u8>,
    output: Vec<u8>,
    greeted: bool,
    action: Option<ActionId>,
}

/// What poll(2) can wake the dispatcher for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    Listener,
    Client(ClientId),
    /// The read end of a jobserver.
    Jobserver(JobserverId),
    /// A process that has a slot of the head.
    SlotUser(User),
    /// A descriptor of the loop itself.
    Wake,
    Signal,
    Doorbell,
}

/// All connections.
pub struct Clients {
    listener: UnixListener,
    path: PathBuf,
    clients: BTreeMap<ClientId, Client>,
    next: ClientId,
    /// Given up for a moment to turn away whom there is no descriptor for.
    reserve: Option<File>,
}

impl Clients {
    /// Listens on `path`, whose folder must exist.
    ///
    /// # Errors
    /// Another dispatcher answers there, or the socket cannot be made.
    pub fn listen(path: &Path) -> Result<Clients> {
        check_free(path)?;
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove the stale socket {}", path.display()));
            }
            _ => {}
        }
        let listener =
            UnixListener::bind(path).with_context(|| format!("cannot listen on the socket {}", path.display()))?;
        listener.set_nonblocking(true)?;
        let reserve = reserve();
        Ok(Clients { listener, path: path.to_path_buf(), clients: BTreeMap::new(), next: 1, reserve })
    }

    pub fn interest(&self, interest: &mut Interest<Token>) {
        for (id, client) in &self.clients {
            interest.add(client.stream.as_raw_fd(), !client.output.is_empty(), Token::Client(*id));
        }
        // Those that end make room for those that come.
        interest.add(self.listener.as_raw_fd(), false, Token::Listener);
    }

    /// Takes all waiting connections. Whom there is no descriptor for is turned away at once and compiles where it is: left
    /// alone, it would find the dispatcher silent.
    pub fn accept(&mut self) {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                // Also said where nobody waits.
                Err(error) if error.raw_os_error() == Some(libc::EMFILE) && self.reserve.take().is_some() => {
                    let turned_away = self.listener.accept().is_ok();
                    self.reserve = reserve();
                    if turned_away {
                        continue;
                    }
                    return;
                }
                Err(_) => return,
            };
            let own = nix::unistd::getuid().as_raw();
            let Ok(peer) = getsockopt(&stream, PeerCredentials) else { continue };
            if peer.uid() != own || stream.set_nonblocking(true).is_err() {
                continue;
            }
            let pid = u32::try_from(peer.pid()).ok().filter(|pid| *pid != 0);
            let client = Client { stream, pid, input: Vec::new(), output: Vec::new(), greeted: false, action: None };
            self.clients.insert(self.next, client);
            self.next += 1;
        }
    }

    /// Reads what a client sent. The frames, and whether the connection is over (its action, if it waited for one, is
    /// then nobody's).
    pub fn read(&mut self, id: ClientId) -> (Vec<ToDispatcher>, Option<Over>) {
        let Some(client) = self.clients.get_mut(&id) else { return (Vec::new(), None) };
        let mut frames = Vec::new();
        let over = match client.read(&mut frames) {
            Ok(open) => !open,
            Err(_) => true,
        };
        if !over {
            return (frames, None);
        }
        let action = self.clients.remove(&id).and_then(|client| client.action);
        (frames, Some(Over { action }))
    }

    /// Sends a frame to the client, without waiting.
    pub fn send(&mut self, id: ClientId, head: &ToClient, payload: &[u8]) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        match wire::frame_before(head, payload) {
            Ok(before) => {
                // What the kernel takes at once needs no room here. An error shows again when the rest is written.
                let parts = [IoSlice::new(&before), IoSlice::new(payload)];
                let at_once = if client.output.is_empty() { client.stream.write_vectored(&parts) } else { Ok(0) };
                let written = at_once.unwrap_or(0);
                client.output.extend_from_slice(before.get(written..).unwrap_or_default());
                client.output.extend_from_slice(&payload[written.saturating_sub(before.len())..]);
                self.write(id);
            }
            // Nothing of ours exceeds the limits; without its answer the client compiles locally.
            Err(_) => drop(self.clients.remove(&id)),
        }
    }

    /// Writes what waits to be written.
    pub fn write(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let open = client.write();
        if !open {
            // A client that waits for an action is told apart by its end of file when it is read next.
            if client.action.is_none() {
                self.clients.remove(&id);
            }
        }
    }

    /// The process at the other end of a connection.
    pub fn pid(&self, id: ClientId) -> Option<u32> {
        self.clients.get(&id)?.pid
    }

    /// The action that a connection waits for.
    pub fn action(&self, id: ClientId) -> Option<ActionId> {
        self.clients.get(&id)?.action
    }

    /// Notes which action a connection waits for.
    pub fn set_action(&mut self, id: ClientId, action: Option<ActionId>) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.action = action;
        }
    }

    /// Blocks until everything is written or a second is over, then removes the socket.
    pub fn close(mut self) {
        for client in self.clients.values_mut() {
            let _ = client.stream.set_nonblocking(false);
            let _ = client.stream.set_write_timeout(Some(std::time::Duration::from_secs(1)));
            let _ = client.stream.write_all(&client.output);
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

fn reserve() -> Option<File> {
    File::open("/dev/null").ok()
}

/// # Errors
/// Another dispatcher answers on `path`.
pub fn check_free(path: &Path) -> Result<()> {
    if UnixStream::connect(path).is_ok() {
        bail!(
            "another dispatcher listens on {}; stop it (`mpicc-proxy stop`) or choose another --socket",
            path.display()
        );
    }
    Ok(())
}

/// A connection's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over {
    pub action: Option<ActionId>,
}

impl Client {
    /// `Ok(false)`: end of file.
    fn read(&mut self, frames: &mut Vec<ToDispatcher>) -> io::Result<bool> {
        let mut open = true;
        let mut taken = 0;
        let mut chunk = [0u8; 16 << 10];
        while taken < READ_BYTES {
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    open = false;
                    break;
                }
                Ok(count) => {
                    self.input.extend_from_slice(&chunk[..count]);
                    taken += count;
                    if count < chunk.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        while let Some((frame, _)) = wire::take_frame::<ToDispatcher>(&mut self.input)? {
            match frame {
                ToDispatcher::Hello { version } if version == wire::VERSION => self.greeted = true,
                _ if !self.greeted => return Err(io::ErrorKind::InvalidData.into()),
                frame => frames.push(frame),
            }
        }
        Ok(open)
    }

    /// `false`: the peer is gone.
    fn write(&mut self) -> bool {
        let mut written = 0;
        let open = loop {
            if written == self.output.len() {
                break true;
            }
            match self.stream.write(&self.output[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break false,
            }
        };
        self.output.drain(..written);
        open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connected() -> (tempfile::TempDir, Clients, UnixStream) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut clients = Clients::listen(&path).unwrap();
        let stream = UnixStream::connect(&path).unwrap();
        clients.accept();
        (dir, clients, stream)
    }

    #[test]
    fn frames_come_in_pieces_and_garbage_closes_one_connection() {
        let (dir, mut clients, mut good) = connected();
        let mut bad = UnixStream::connect(dir.path().join("s")).unwrap();
        clients.accept();
        let hello = wire::frame(&ToDispatcher::Hello { version: wire::VERSION }, b"").unwrap();
        let status = wire::frame(&ToDispatcher::Status, b"").unwrap();
        good.write_all(&hello).unwrap();
        good.write_all(&status[..5]).unwrap();
        assert!(matches!(clients.read(1), (frames, None) if frames.is_empty()));
        good.write_all(&status[5..]).unwrap();
        assert!(matches!(&clients.read(1).0[..], [ToDispatcher::Status]));
        bad.write_all(&[0xff; 64]).unwrap();
        assert_eq!(clients.read(2).1, Some(Over { action: None }));
        clients.send(1, &ToClient::Stopping, b"");
        let mut answer = vec![0; 12];
        good.read_exact(&mut answer).unwrap();
        assert!(matches!(wire::take_frame::<ToClient>(&mut answer), Ok(Some((ToClient::Stopping, _)))));
    }

    #[test]
    fn a_request_without_greeting_and_another_version_are_refused() {
        let (_dir, mut clients, mut stream) = connected();
        stream.write_all(&wire::frame(&ToDispatcher::Hello { version: wire::VERSION + 1 }, b"").unwrap()).unwrap();
        assert!(clients.read(1).1.is_some());
    }

    #[test]
    fn a_client_that_goes_gives_up_its_action() {
        let (_dir, mut clients, stream) = connected();
        clients.set_action(1, Some(42));
        drop(stream);
        assert_eq!(clients.read(1).1, Some(Over { action: Some(42) }));
    }

    #[test]
    fn a_second_dispatcher_is_refused_and_a_stale_socket_is_not_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = Clients::listen(&path).unwrap();
        assert!(Clients::listen(&path).err().unwrap().to_string().contains("another dispatcher"));
        drop(first);
        assert!(path.exists());
        assert!(Clients::listen(&path).is_ok());
    }

    #[test]
    fn what_the_kernel_does_not_take_at_once_follows() {
        let (_dir, mut clients, mut stream) = connected();
        let payload: Vec<u8> = (0..wire::PAYLOAD_BYTES_MAX).map(|at| (at % 251) as u8).collect();
        let chunk = ToClient::Chunk { stream: wire::Stream::Output(0) };
        clients.send(1, &chunk, &payload);
        clients.send(1, &chunk, b"last");
        assert!(!clients.clients[&1].output.is_empty(), "more than a socket holds");
        let mut received = Vec::new();
        let mut next = || {
            loop {
                if let Some((_, payload)) = wire::take_frame::<ToClient>(&mut received).unwrap() {
                    return payload;
                }
                let mut bytes = [0; 16 << 10];
                let count = stream.read(&mut bytes).unwrap();
                received.extend_from_slice(&bytes[..count]);
                clients.write(1);
            }
        };
        assert_eq!(next(), payload);
        assert_eq!(next(), b"last");
    }
}
