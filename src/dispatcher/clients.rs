//! The clients' end of the dispatcher: connections on the Unix socket, frames in and out. Knows nothing of actions
//! beyond the number a connection waits for.
//!
//! # Trust
//! The socket lives in a folder only its owner may enter, and a peer with another uid is turned away. What a client
//! sends is length-limited, and what it does not read, too; a malformed frame closes its connection and nothing else.
//! One of another version hears so ([`wire`], "Versions").

use super::broker::JobserverId;
use super::slots::User;
use crate::event::Interest;
use crate::wire::{self, ActionId, Greeting, ToClient, ToDispatcher};
use anyhow::{Context, Result, bail};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Names a connection; never reused.
pub type ClientId = u64;

/// Bytes taken from one connection in one turn, so that no client starves the others.
const READ_BYTES: usize = 256 << 10;

/// Requests of one client in one turn. Those that are answered come one by one, and a client has three others at most;
/// one that asks on and on would keep us from hearing the ranks.
const REQUESTS_AT_ONCE_MAX: usize = 16;

/// What may wait for one client to read it, in bytes. The largest results have some hundred MiB, and a client that was
/// stopped (Ctrl-Z) reads them later; one that only writes is hung up on.
const UNREAD_BYTES_MAX: usize = 1 << 30;

/// What a client is to us.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Silent,
    Greeted,
    /// It asked for its compile: a connection is for one.
    Asked,
    /// It is of another version. What it says is not listened to, but taken, so that it comes to read our answer.
    Refused,
}

struct Client {
    stream: UnixStream,
    /// Its process; `None`: it cannot be seen from here.
    pid: Option<u32>,
    input: Vec<u8>,
    output: VecDeque<u8>,
    stage: Stage,
    action: Option<ActionId>,
}

/// What poll(2) can wake the dispatcher for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    Listener,
    Client(ClientId),
    /// The read end of a jobserver.
    Jobserver(JobserverId),
    /// A process that runs here, and is watched for the event log.
    Local(ActionId),
    /// A process that has a slot of the head.
    SlotUser(User),
    /// A process that runs here as a probe.
    Probe,
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
    unread_bytes_max: usize,
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
        let (path, clients, unread_bytes_max) = (path.to_path_buf(), BTreeMap::new(), UNREAD_BYTES_MAX);
        Ok(Clients { listener, path, clients, next: 1, unread_bytes_max, reserve })
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
            let (input, output) = Default::default();
            self.clients.insert(self.next, Client { stream, pid, input, output, stage: Stage::Silent, action: None });
            self.next += 1;
        }
    }

    /// Reads what a client sent. The frames, and whether the connection is over (its action, if it waited for one, is
    /// then nobody's). A greeting among the frames: a compile of another version, which was refused.
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
                client.output.extend(before.get(written..).unwrap_or_default());
                client.output.extend(&payload[written.saturating_sub(before.len())..]);
                if client.output.len() > self.unread_bytes_max {
                    client.hang_up();
                }
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
            let _ = client.stream.write_all(client.output.make_contiguous());
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
        if self.stage == Stage::Silent {
            self.be_greeted(frames)?;
        }
        if self.stage == Stage::Refused {
            self.input.clear();
        }
        while let Some((frame, _)) = wire::take_frame::<ToDispatcher>(&mut self.input)? {
            match (self.stage, &frame) {
                (Stage::Silent, ToDispatcher::Hello { version: wire::VERSION }) => {
                    self.stage = Stage::Greeted;
                    continue;
                }
                (Stage::Silent, _) | (_, ToDispatcher::Hello { .. }) | (Stage::Asked, ToDispatcher::Compile { .. }) => {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                (_, ToDispatcher::Compile { .. }) => self.stage = Stage::Asked,
                _ => {}
            }
            if frames.len() == REQUESTS_AT_ONCE_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            frames.push(frame);
        }
        if wire::lacking(&self.input)? > wire::REQUEST_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(open)
    }

    /// # Errors
    /// It does not greet.
    fn be_greeted(&mut self, frames: &mut Vec<ToDispatcher>) -> io::Result<()> {
        let Some(Greeting { version, compiles }) = wire::greeting(&self.input)? else { return Ok(()) };
        if version != wire::VERSION {
            self.stage = Stage::Refused;
            frames.extend(compiles.then_some(ToDispatcher::Hello { version }));
            let refusal = ToClient::RunLocally { reason: wire::OTHER_VERSION.to_owned(), detail: String::new() };
            self.output.extend(wire::frame(&refusal, &[])?);
            self.write();
        }
        Ok(())
    }

    /// What it finds out when it is read next.
    fn hang_up(&mut self) {
        self.output = VecDeque::new();
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// `false`: the peer is gone.
    fn write(&mut self) -> bool {
        while !self.output.is_empty() {
            match self.stream.write(self.output.as_slices().0) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Place, SlotUser};

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

    fn frames(requests: &[ToDispatcher]) -> Vec<u8> {
        requests.iter().flat_map(|request| wire::frame(request, b"").unwrap()).collect()
    }

    fn compile() -> ToDispatcher {
        let invocation = Box::new(wire::tests::invocation());
        ToDispatcher::Compile { invocation, place: Place::Slot(SlotUser::Client), lent: false, only_ranks: false }
    }

    #[test]
    fn a_request_without_greeting_is_refused() {
        let (_dir, mut clients, mut stream) = connected();
        stream.write_all(&frames(&[ToDispatcher::Status])).unwrap();
        assert_eq!(clients.read(1).1, Some(Over { action: None }));
    }

    #[test]
    fn another_version_hears_so_whatever_it_says() {
        let hello = ToDispatcher::Hello { version: wire::VERSION + 1 };
        // No message of ours, but one that begins like a compile; then one that we could not even tell the end of.
        let odd = |number: u32| [&[9, 0, 0, 0, 0, 0, 0, 0][..], &number.to_le_bytes(), &[0xff; 5]].concat();
        for (number, counts) in [(1, true), (5, false)] {
            let (_dir, mut clients, mut stream) = connected();
            stream.write_all(&[frames(std::slice::from_ref(&hello)), odd(number), vec![0xff; 64]].concat()).unwrap();
            let (read, over) = clients.read(1);
            assert_eq!((read.len(), over), (usize::from(counts), None));
            assert!(read.iter().all(|frame| matches!(frame, ToDispatcher::Hello { .. })));
            let mut answer = vec![0; 41];
            stream.read_exact(&mut answer).unwrap();
            let answer = wire::take_frame::<ToClient>(&mut answer).unwrap();
            assert!(matches!(answer, Some((ToClient::RunLocally { reason, .. }, _)) if reason == wire::OTHER_VERSION));
            stream.write_all(&[0xff; 64]).unwrap();
            assert!(matches!(clients.read(1), (frames, None) if frames.is_empty()), "it is not listened to");
            drop(stream);
            assert!(clients.read(1).1.is_some());
        }
    }

    #[test]
    fn a_connection_is_for_one_compile() {
        let (_dir, mut clients, mut stream) = connected();
        let hello = ToDispatcher::Hello { version: wire::VERSION };
        stream.write_all(&frames(&[hello, compile(), ToDispatcher::Published(Default::default())])).unwrap();
        assert!(matches!(clients.read(1), (frames, None) if frames.len() == 2));
        stream.write_all(&frames(&[compile()])).unwrap();
        assert!(clients.read(1).1.is_some());
    }

    #[test]
    fn who_asks_on_and_on_is_hung_up_on() {
        let (_dir, mut clients, mut stream) = connected();
        let hello = frames(&[ToDispatcher::Hello { version: wire::VERSION }]);
        let asks = |times: usize| frames(&vec![ToDispatcher::Status; times]);
        stream.write_all(&[hello, asks(REQUESTS_AT_ONCE_MAX)].concat()).unwrap();
        assert!(matches!(clients.read(1), (frames, None) if frames.len() == REQUESTS_AT_ONCE_MAX));
        stream.write_all(&asks(5000)).unwrap();
        assert!(matches!(clients.read(1), (frames, Some(_)) if frames.len() == REQUESTS_AT_ONCE_MAX));
    }

    #[test]
    fn what_is_announced_is_not_believed() {
        for bytes in [wire::REQUEST_BYTES_MAX as u32 + 100, wire::HEAD_BYTES_MAX as u32 + 1, u32::MAX] {
            let (_dir, mut clients, mut stream) = connected();
            stream.write_all(&frames(&[ToDispatcher::Hello { version: wire::VERSION }])).unwrap();
            stream.write_all(&[bytes.to_le_bytes(), [0; 4]].concat()).unwrap();
            assert_eq!(clients.read(1).1, Some(Over { action: None }), "{bytes}");
        }
        // What is allowed takes memory as it comes, and may come as slowly as it likes.
        let (_dir, mut clients, mut stream) = connected();
        stream.write_all(&frames(&[ToDispatcher::Hello { version: wire::VERSION }])).unwrap();
        stream.write_all(&[(wire::REQUEST_BYTES_MAX as u32).to_le_bytes(), [0; 4]].concat()).unwrap();
        for _ in 0..100 {
            stream.write_all(&[7]).unwrap();
            assert!(matches!(clients.read(1), (frames, None) if frames.is_empty()));
        }
        assert!(clients.clients[&1].input.capacity() < 1 << 10);
    }

    #[test]
    fn who_never_reads_is_hung_up_on() {
        let (_dir, mut clients, _stream) = connected();
        clients.unread_bytes_max = 3 * wire::PAYLOAD_BYTES_MAX;
        clients.set_action(1, Some(42));
        let payload = vec![7; wire::PAYLOAD_BYTES_MAX];
        let mut send = || {
            clients.send(1, &ToClient::Chunk { stream: wire::Stream::Stdout }, &payload);
            clients.clients[&1].output.capacity()
        };
        assert!((0..3).all(|_| send() > 0), "it may read later");
        assert_eq!(send(), 0);
        assert_eq!(clients.read(1).1, Some(Over { action: Some(42) }));
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
