//! The client's end of the dispatcher's Unix socket: used by `mpicc-proxy-client` and by the user's command. Blocking,
//! no threads, as few system calls as the job allows. It knows frames, not what they mean.
//!
//! The `Hello` frame is not answered, so it waits here and leaves in the same write as the first message: one system
//! call for the client and one wake-up of the dispatcher less.

use crate::wire::{self, ToClient, ToDispatcher};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, sockopt};
use nix::sys::time::TimeVal;
use nix::unistd::geteuid;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long connecting and each write may take. A dispatcher accepts within milliseconds; one that is stopped or
/// stuck must not hold up a build for longer than a slow compile takes.
pub const SEND_TIMEOUT_S: i64 = 10;

/// Bytes asked of the kernel where it is not known how many will come: a result without its outputs is smaller.
const RECEIVE_BYTES: usize = 8 << 10;

/// Bytes asked of the kernel at most: a Unix socket holds about 200 KiB (net.core.rmem_default).
const RECEIVE_BYTES_MAX: usize = 256 << 10;

/// A connection to the dispatcher.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    /// The `Hello` frame, until it has left.
    hello: Vec<u8>,
    received: Vec<u8>,
}

impl Connection {
    /// Connects to the dispatcher that listens on `path`.
    ///
    /// # Errors
    /// `NotFound` and `ConnectionRefused`: no dispatcher. `PermissionDenied`: something that neither this user nor
    /// root runs listens there. `InvalidInput`: the path exceeds the 107 bytes of a Unix socket address. `WouldBlock`:
    /// not accepted within [`SEND_TIMEOUT_S`].
    pub fn open(path: &Path) -> io::Result<Connection> {
        let address = UnixAddr::new(path).map_err(|_| {
            let what = format!("the socket path {} is longer than the 107 bytes the kernel allows", path.display());
            io::Error::new(io::ErrorKind::InvalidInput, what)
        })?;
        let socket = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        // Bounds connect(2) as well, which otherwise waits for ever on a full backlog.
        socket::setsockopt(&socket, sockopt::SendTimeout, &TimeVal::new(SEND_TIMEOUT_S, 0))?;
        socket::connect(socket.as_raw_fd(), &address)?;
        let peer = socket::getsockopt(&socket, sockopt::PeerCredentials)?.uid();
        if peer != geteuid().as_raw() && peer != 0 {
            let what =
                format!("the dispatcher at {} belongs to user {peer}, which is not to be trusted", path.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
        }
        let hello = wire::frame(&ToDispatcher::Hello { version: wire::VERSION }, b"")?;
        Ok(Connection { socket, hello, received: Vec::new() })
    }

    /// Sends one message.
    ///
    /// # Errors
    /// The message exceeds the limits of [`wire`], or the dispatcher is gone or takes nothing for [`SEND_TIMEOUT_S`].
    pub fn send(&mut self, message: &ToDispatcher) -> io::Result<()> {
        let mut bytes = std::mem::take(&mut self.hello);
        bytes.extend(wire::frame(message, b"")?);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match socket::send(self.socket.as_raw_fd(), rest, MsgFlags::MSG_NOSIGNAL) {
                Ok(sent) => rest = &rest[sent..],
                Err(nix::Error::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Waits for the next message, however long it takes.
    ///
    /// # Errors
    /// `UnexpectedEof`: the dispatcher is gone. `InvalidData`: it sent something malformed. `Interrupted` never.
    pub fn receive(&mut self) -> io::Result<(ToClient, Vec<u8>)> {
        self.receive_before(None)
    }

    /// As [`Connection::receive`], but not for longer than until `deadline`.
    ///
    /// # Errors
    /// In addition `TimedOut`; what had arrived by then is kept.
    pub fn receive_by(&mut self, deadline: Instant) -> io::Result<(ToClient, Vec<u8>)> {
        self.receive_before(Some(deadline))
    }

    fn receive_before(&mut self, deadline: Option<Instant>) -> io::Result<(ToClient, Vec<u8>)> {
        loop {
            if let Some(message) = wire::take_frame(&mut self.received)? {
                return Ok(message);
            }
            if let Some(deadline) = deadline {
                self.wait_until(deadline)?;
            }
            self.fill()?;
        }
    }

    fn wait_until(&self, deadline: Instant) -> io::Result<()> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up, so that the last millisecond is not spent in a busy loop.
            let left_ms = PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
            let timed_out = || io::Error::new(io::ErrorKind::TimedOut, "the dispatcher did not answer in time");
            match poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], left_ms) {
                Ok(0) if left.is_zero() => return Err(timed_out()),
                Ok(0) | Err(nix::Error::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Appends what the kernel has, at least one byte; where a large frame has begun, no more than belongs to it.
    fn fill(&mut self) -> io::Result<()> {
        let old = self.received.len();
        let lacking = wire::lacking(&self.received)?;
        self.received.reserve_exact(lacking.max(RECEIVE_BYTES));
        self.received.resize(old + lacking.clamp(RECEIVE_BYTES, RECEIVE_BYTES_MAX), 0);
        let outcome = loop {
            match socket::recv(self.socket.as_raw_fd(), &mut self.received[old..], MsgFlags::empty()) {
                Err(nix::Error::EINTR) => {}
                other => break other,
            }
        };
        self.received.truncate(old + *outcome.as_ref().unwrap_or(&0));
        match outcome {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the dispatcher closed the connection")),
            Ok(_) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

/// For poll(2) beside other descriptors. Readable means that [`Connection::receive`] can make progress; a message that
/// arrived together with an earlier one does not show here, so ask [`Connection::receive_by`] first.
impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Stats, Stream};
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::thread;

    /// A dispatcher of one connection that runs `serve` in a thread.
    fn with_server<T>(serve: impl FnOnce(UnixStream) + Send + 'static, talk: impl FnOnce(&Path) -> T) -> T {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || serve(listener.accept().unwrap().0));
        let result = talk(&path);
        server.join().unwrap();
        result
    }

    fn next(stream: &mut UnixStream, buffer: &mut Vec<u8>) -> ToDispatcher {
        loop {
            if let Some((message, _)) = wire::take_frame(buffer).unwrap() {
                return message;
            }
            let mut bytes = [0; 4096];
            let n = stream.read(&mut bytes).unwrap();
            assert_ne!(n, 0, "the client hung up");
            buffer.extend_from_slice(&bytes[..n]);
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn hello_leaves_with_the_first_message() {
        let serve = |mut stream: UnixStream| {
            let mut bytes = vec![0; 4096];
            let n = stream.read(&mut bytes).unwrap();
            bytes.truncate(n);
            let mut take = || wire::take_frame::<ToDispatcher>(&mut bytes).unwrap().unwrap().0;
            assert!(matches!(take(), ToDispatcher::Hello { version: wire::VERSION }));
            assert!(matches!(take(), ToDispatcher::Status));
            let answer = ToClient::Status(Box::new(Stats { misses: 7, ..Stats::default() }));
            stream.write_all(&wire::frame(&answer, b"").unwrap()).unwrap();
            assert!(matches!(next(&mut stream, &mut bytes), ToDispatcher::Stop), "hello is sent once");
            stream.write_all(&wire::frame(&ToClient::Stopping, b"").unwrap()).unwrap();
        };
        with_server(serve, |path| {
            let mut connection = Connection::open(path).unwrap();
            connection.send(&ToDispatcher::Status).unwrap();
            let (ToClient::Status(stats), _) = connection.receive_by(soon()).unwrap() else { panic!() };
            assert_eq!(stats.misses, 7);
            connection.send(&ToDispatcher::Stop).unwrap();
            assert!(matches!(connection.receive().unwrap().0, ToClient::Stopping));
        });
    }

    #[test]
    fn large_and_split_messages_arrive_whole_and_in_order() {
        let payload: Vec<u8> = (0..wire::PAYLOAD_BYTES_MAX).map(|i| (i * 7 + i / 251) as u8).collect();
        let expected = payload.clone();
        let serve = move |mut stream: UnixStream| {
            next(&mut stream, &mut Vec::new());
            let mut bytes = wire::frame(&ToClient::Chunk { stream: Stream::Output(3) }, &payload).unwrap();
            bytes.extend(wire::frame(&ToClient::Chunk { stream: Stream::Stderr }, b"warning").unwrap());
            for part in bytes.chunks(77_777) {
                stream.write_all(part).unwrap();
            }
        };
        with_server(serve, |path| {
            let mut connection = Connection::open(path).unwrap();
            connection.send(&ToDispatcher::Status).unwrap();
            let (head, bytes) = connection.receive().unwrap();
            assert!(matches!(head, ToClient::Chunk { stream: Stream::Output(3) }));
            assert!(bytes == expected);
            let (head, bytes) = connection.receive_by(soon()).unwrap();
            assert!(matches!(head, ToClient::Chunk { stream: Stream::Stderr }));
            assert_eq!(bytes, b"warning");
            assert_eq!(connection.receive().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        });
    }

    #[test]
    fn a_silent_dispatcher_costs_no_more_than_the_deadline() {
        let (finish, finished) = std::sync::mpsc::channel::<()>();
        let serve = move |mut stream: UnixStream| {
            next(&mut stream, &mut Vec::new());
            stream.write_all(&[1, 0]).unwrap();
            finished.recv().unwrap();
        };
        with_server(serve, |path| {
            let mut connection = Connection::open(path).unwrap();
            connection.send(&ToDispatcher::Status).unwrap();
            let start = Instant::now();
            let error = connection.receive_by(start + Duration::from_millis(50)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(start.elapsed() >= Duration::from_millis(50));
            finish.send(()).unwrap();
            assert_eq!(connection.receive().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        });
    }

    #[test]
    fn malformed_answers_are_refused() {
        let serve = |mut stream: UnixStream| stream.write_all(&[0xff; 64]).unwrap();
        with_server(serve, |path| {
            let error = Connection::open(path).unwrap().receive().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        });
    }

    #[test]
    fn a_dispatcher_that_left_is_an_error_and_not_a_signal() {
        with_server(drop, |path| {
            let mut connection = Connection::open(path).unwrap();
            let sent = (0..100).try_for_each(|_| connection.send(&ToDispatcher::Status));
            if sent.is_ok() {
                assert!(connection.receive().is_err());
            }
        });
    }

    #[test]
    fn no_dispatcher() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        assert_eq!(Connection::open(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        drop(UnixListener::bind(&path).unwrap());
        assert_eq!(Connection::open(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let long = dir.path().join("x".repeat(120));
        assert_eq!(Connection::open(&long).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
