//! A rank's doorbell: a datagram that says "look for an MPI message". MPI has no descriptor that poll(2) could wait
//! for, so without it a rank has to look again and again while compiles run. It knows no MPI and no messages; `link`
//! rings for every message it sends.
//!
//! # What a ring is worth
//! A ring only wakes. It names the receiver's token, the sender's rank and how many messages that rank has sent so far;
//! a wrong token is ignored, and a lie in the rest makes a rank look once in vain. UDP over IPv4, because it is the same
//! for ranks of one host and of many; nothing ever waits for a ring.
//!
//! # When rings do not arrive
//! Firewalls, containers and hosts with several networks lose them. A peer is *trusted* while messages come with their
//! rings ([`Trust`]); with a peer that is not trusted, the owner looks for messages at short intervals as if there were
//! no doorbell. A ring lost in spite of trust delays its message by [`crate::event::CAP_RUNG`] at most.
//!
//! # Finding the address
//! A rank does not know which of its addresses its peers can reach. It announces all; the first rings go to each of
//! them, and the one a ring came from is where the answers go. Who never hears a peer stops ringing it.

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

type Token = [u8; 16];

/// Bytes of a ring: the receiver's token, the sender's rank, its count of messages.
const RING_BYTES: usize = 16 + 4 + 8;

/// Addresses of a host that are tried; hosts of clusters have two or three.
const ADDRESSES_MAX: usize = 8;

/// Rings to all addresses of a peer that never rang back.
const BLIND_RINGS_MAX: u32 = 16;

/// Rings taken in one turn. More are left for the next.
const RINGS_PER_TURN: usize = 256;

/// A ring may overtake its message; this long it is looked for at short intervals.
const OVERTAKEN_BY: Duration = Duration::from_millis(3);

/// How a rank is rung, as it tells its peers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Address {
    token: Token,
    /// The kernel the rank runs on: ranks of one host reach each other by 127.0.0.1.
    boot: Token,
    port: u16,
    addresses: Vec<Ipv4Addr>,
}

impl Address {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = [&self.token[..], &self.boot, &self.port.to_le_bytes()].concat();
        bytes.extend(self.addresses.iter().flat_map(Ipv4Addr::octets));
        bytes
    }

    /// `None`: not what [`Address::encode`] makes.
    pub fn decode(bytes: &[u8]) -> Option<Address> {
        let (token, rest) = bytes.split_first_chunk()?;
        let (boot, rest) = rest.split_first_chunk()?;
        let (port, rest) = rest.split_first_chunk()?;
        let (addresses, rest) = rest.as_chunks::<4>();
        let addresses: Vec<Ipv4Addr> = addresses.iter().map(|octets| Ipv4Addr::from(*octets)).collect();
        let valid = rest.is_empty() && addresses.len() <= ADDRESSES_MAX;
        valid.then(|| Address { token: *token, boot: *boot, port: u16::from_le_bytes(*port), addresses })
    }

    /// Where to ring it from a host that runs `boot`.
    fn candidates(&self, boot: Token) -> Vec<SocketAddrV4> {
        let local = (self.boot == boot).then_some(Ipv4Addr::LOCALHOST);
        local.into_iter().chain(self.addresses.iter().copied()).map(|ip| SocketAddrV4::new(ip, self.port)).collect()
    }
}

/// Do a peer's messages come with their rings? Pure.
///
/// One ring is a point, one message that had to be found by a time-out takes `LOST` away; above zero the peer is
/// trusted. So a start without rings is distrust, one loss among many rings is forgiven, and a peer that loses more
/// than one of nine is not trusted for long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Trust(i32);

impl Trust {
    const MOST: i32 = 16;
    const LOST: i32 = 8;

    fn rang(&mut self) {
        self.0 = (self.0 + 1).min(Self::MOST);
    }

    fn came_unannounced(&mut self) {
        self.0 = (self.0 - Self::LOST).max(-Self::MOST);
    }

    /// The ring was not lost, only late: a loaded host stops a rank between the two.
    fn came_late(&mut self) {
        self.0 = (self.0 + Self::LOST).min(Self::MOST);
    }

    fn holds(self) -> bool {
        self.0 > 0
    }
}

/// One rank at the other end.
#[derive(Default)]
struct Peer {
    address: Option<Address>,
    /// Where it rang from.
    proven: Option<SocketAddr>,
    blind_rings: u32,
    /// Messages sent to it, and whether it was rung since the last.
    sent: u64,
    to_ring: bool,
    /// Messages taken from it, and how many it rang for.
    taken: u64,
    announced: u64,
    announced_at: Option<Instant>,
    /// The message that came without a ring, by its number.
    unannounced: Option<u64>,
    trust: Trust,
}

/// A rank's own bell and those of its peers.
pub struct Doorbell {
    /// `None`: this host gives us no socket. Nobody is trusted then.
    socket: Option<UdpSocket>,
    own: Address,
    rank: u32,
    peers: Vec<Peer>,
    /// The last wait ended by its time-out, and was long enough for a ring to have ended it.
    undisturbed: bool,
}

impl Doorbell {
    /// The bell of `rank` among `size`. `MPICC_PROXY_DOORBELL=off` and a host without sockets give one that is never
    /// heard.
    pub fn new(rank: i32, size: i32) -> Doorbell {
        let peers = (0..size).map(|_| Peer::default()).collect();
        let (socket, own) = match hang() {
            Ok((socket, own)) => (Some(socket), own),
            Err(_) => (None, Address::default()),
        };
        Doorbell { socket, own, rank: rank as u32, peers, undisturbed: false }
    }

    /// What peers must know.
    pub fn address(&self) -> &Address {
        &self.own
    }

    pub fn fd(&self) -> Option<RawFd> {
        self.socket.as_ref().map(AsRawFd::as_raw_fd)
    }

    pub fn introduce(&mut self, peer: i32, address: Address) {
        if let Some(peer) = self.peers.get_mut(peer as usize) {
            peer.address = Some(address);
        }
    }

    pub fn address_of(&self, peer: i32) -> Option<&Address> {
        self.peers.get(peer as usize)?.address.as_ref()
    }

    /// A peer that is gone: its silence is no reason to look for its messages.
    pub fn forget(&mut self, peer: i32) {
        if let Some(peer) = self.peers.get_mut(peer as usize) {
            *peer = Peer::default();
        }
    }

    /// A message to `peer` is on its way; [`Doorbell::ring`] follows.
    pub fn sent(&mut self, peer: i32) {
        if let Some(peer) = self.peers.get_mut(peer as usize) {
            peer.sent += 1;
            peer.to_ring = true;
        }
    }

    /// Rings everybody who was sent something: one ring for all messages of a turn.
    pub fn ring(&mut self) {
        let Some(socket) = &self.socket else { return };
        for peer in &mut self.peers {
            if !std::mem::take(&mut peer.to_ring) {
                continue;
            }
            let Some(address) = &peer.address else {
                // Not introduced yet: the ring is owed until then.
                peer.to_ring = true;
                continue;
            };
            let mut ring = [0; RING_BYTES];
            ring[..16].copy_from_slice(&address.token);
            ring[16..20].copy_from_slice(&self.rank.to_le_bytes());
            ring[20..].copy_from_slice(&peer.sent.to_le_bytes());
            match peer.proven {
                Some(to) => drop(socket.send_to(&ring, to)),
                None if peer.blind_rings < BLIND_RINGS_MAX => {
                    peer.blind_rings += 1;
                    for to in address.candidates(self.own.boot) {
                        drop(socket.send_to(&ring, to));
                    }
                }
                None => {}
            }
        }
    }

    /// Takes the rings that have come.
    pub fn listen(&mut self) {
        let Some(socket) = &self.socket else { return };
        let mut ring = [0; RING_BYTES + 1];
        for _ in 0..RINGS_PER_TURN {
            let (bytes, from) = match socket.recv_from(&mut ring) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => continue,
            };
            let Some((rank, sent)) = understood(&ring[..bytes], &self.own.token) else { continue };
            let Some(peer) = self.peers.get_mut(rank as usize) else { continue };
            peer.proven.get_or_insert(from);
            peer.trust.rang();
            // A later ring, for a later message, says nothing about the one that is missing.
            if peer.unannounced.take().is_some_and(|number| number <= sent && sent <= peer.taken) {
                peer.trust.came_late();
            }
            if sent > peer.announced {
                peer.announced = sent;
                peer.announced_at = Some(Instant::now());
            }
        }
    }

    /// How the owner's wait ended: `timed_out` after at least a millisecond means that no ring came.
    pub fn waited(&mut self, timed_out: bool, at_most: Duration) {
        self.undisturbed = timed_out && at_most >= Duration::from_millis(1);
    }

    /// A message of `peer` was taken.
    pub fn took(&mut self, peer: i32) {
        let Some(peer) = self.peers.get_mut(peer as usize) else { return };
        peer.taken += 1;
        if std::mem::take(&mut self.undisturbed) && peer.announced < peer.taken {
            peer.unannounced = Some(peer.taken);
            peer.trust.came_unannounced();
        }
    }

    /// May the owner sleep until it is rung? All peers that ever sent something must be trusted.
    pub fn is_trusted(&self) -> bool {
        let mut speaking = self.peers.iter().filter(|peer| peer.taken > 0).peekable();
        self.socket.is_some() && speaking.peek().is_some() && speaking.all(|peer| peer.trust.holds())
    }

    /// Did a ring overtake its message a moment ago?
    pub fn expects(&self) -> bool {
        let overtook = |peer: &Peer| peer.announced > peer.taken;
        let lately = |peer: &Peer| peer.announced_at.is_some_and(|at| at.elapsed() < OVERTAKEN_BY);
        self.peers.iter().any(|peer| overtook(peer) && lately(peer))
    }
}

/// The sender's rank and its count of messages.
fn understood(ring: &[u8], token: &Token) -> Option<(u32, u64)> {
    let ring: &[u8; RING_BYTES] = ring.try_into().ok()?;
    let (named, rest) = ring.split_first_chunk::<16>()?;
    let (rank, sent) = rest.split_first_chunk::<4>()?;
    (named == token).then_some((u32::from_le_bytes(*rank), u64::from_le_bytes(sent.try_into().ok()?)))
}

fn hang() -> io::Result<(UdpSocket, Address)> {
    if std::env::var_os("MPICC_PROXY_DOORBELL").is_some_and(|value| value == "off") {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_nonblocking(true)?;
    let port = socket.local_addr()?.port();
    let mut token = Token::default();
    std::fs::File::open("/dev/urandom")?.read_exact(&mut token)?;
    let boot = boot().unwrap_or(token);
    Ok((socket, Address { token, boot, port, addresses: own_addresses() }))
}

/// Names the running kernel.
fn boot() -> io::Result<Token> {
    let id = std::fs::read("/proc/sys/kernel/random/boot_id")?;
    let mut boot = Token::default();
    boot.copy_from_slice(&blake3::hash(&id).as_bytes()[..16]);
    Ok(boot)
}

/// IPv4 addresses of this host's interfaces that are up, loopback left out.
fn own_addresses() -> Vec<Ipv4Addr> {
    use nix::net::if_::InterfaceFlags;
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let usable =
        |flags: InterfaceFlags| flags.contains(InterfaceFlags::IFF_UP) && !flags.contains(InterfaceFlags::IFF_LOOPBACK);
    let addresses =
        interfaces.filter(|one| usable(one.flags)).filter_map(|one| Some(one.address?.as_sockaddr_in()?.ip()));
    addresses.take(ADDRESSES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, poll};
    use std::os::fd::AsFd;

    /// Rank 0 and rank 1, introduced to each other.
    fn pair() -> (Doorbell, Doorbell) {
        let (mut a, mut b) = (Doorbell::new(0, 2), Doorbell::new(1, 2));
        a.introduce(1, b.address().clone());
        b.introduce(0, a.address().clone());
        (a, b)
    }

    /// As [`pair`], and `b` rang already: `a` knows where it is, and rings it as long as it likes.
    fn acquainted_pair() -> (Doorbell, Doorbell) {
        let (mut a, mut b) = pair();
        b.sent(0);
        b.ring();
        assert!(is_rung(&a));
        a.listen();
        (a, b)
    }

    fn is_rung(bell: &Doorbell) -> bool {
        let mut polled = [PollFd::new(bell.socket.as_ref().unwrap().as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, 5000u16).unwrap() == 1
    }

    #[test]
    fn a_ring_wakes_and_announces() {
        let (mut a, mut b) = pair();
        a.sent(1);
        a.sent(1);
        a.ring();
        assert!(is_rung(&b));
        assert!(!b.is_trusted());
        b.listen();
        assert!(b.expects(), "the ring overtook its messages");
        b.took(0);
        assert!(b.expects());
        b.took(0);
        assert!(!b.expects() && b.is_trusted());
        // The answer goes to the address the ring came from, once.
        b.sent(0);
        b.ring();
        assert!(is_rung(&a));
        a.listen();
        assert_eq!(a.peers[1].announced, 1);
        a.listen();
        b.ring();
        assert_eq!(a.peers[1].trust, Trust(1), "nothing was sent, so nobody is rung");
    }

    #[test]
    fn a_wrong_token_and_garbage_are_ignored() {
        let (mut a, mut b) = pair();
        let port = b.own.port;
        b.own.token = [7; 16];
        a.sent(1);
        a.ring();
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        stranger.send_to(b"hello", ("127.0.0.1", port)).unwrap();
        stranger.send_to(&[0; 4096], ("127.0.0.1", port)).unwrap();
        assert!(is_rung(&b));
        b.listen();
        b.took(0);
        assert!(!b.expects() && !b.is_trusted());
        assert!(b.peers[0].proven.is_none());
        let ranks_beyond = [&b.own.token[..], &9u32.to_le_bytes(), &1u64.to_le_bytes()].concat();
        stranger.send_to(&ranks_beyond, ("127.0.0.1", port)).unwrap();
        assert!(is_rung(&b));
        b.listen();
    }

    #[test]
    fn messages_without_rings_cost_the_trust() {
        let (mut a, mut b) = acquainted_pair();
        let long = Duration::from_millis(50);
        let exchange = |a: &mut Doorbell, b: &mut Doorbell, rung: bool| {
            a.sent(1);
            if rung {
                a.ring();
                assert!(is_rung(b));
                b.listen();
            } else {
                a.peers[1].to_ring = false;
            }
            b.waited(!rung, long);
            b.took(0);
        };
        for _ in 0..20 {
            exchange(&mut a, &mut b, true);
        }
        exchange(&mut a, &mut b, false);
        assert!(b.is_trusted(), "one loss is forgiven");
        exchange(&mut a, &mut b, false);
        assert!(!b.is_trusted());
        exchange(&mut a, &mut b, true);
        assert!(b.is_trusted());
        // A short wait, or one that something else ended, proves nothing.
        a.sent(1);
        b.waited(true, Duration::from_micros(150));
        b.took(0);
        b.waited(false, long);
        b.took(0);
        assert!(b.is_trusted());
    }

    #[test]
    fn a_late_ring_is_not_a_lost_one() {
        let (mut a, mut b) = acquainted_pair();
        let mut exchange = |ring_comes: &str| {
            a.sent(1);
            b.waited(true, Duration::from_millis(50));
            b.took(0);
            match ring_comes {
                "late" => {
                    a.ring();
                    assert!(is_rung(&b));
                    b.listen();
                }
                _ => a.peers[1].to_ring = false,
            }
            b.peers[0].trust
        };
        for _ in 0..20 {
            exchange("late");
        }
        assert_eq!(exchange("late"), Trust(Trust::MOST));
        assert_eq!(exchange("never"), Trust(Trust::MOST - Trust::LOST));
        assert!(!exchange("never").holds());
    }

    #[test]
    fn trust_has_bounds() {
        let mut trust = Trust::default();
        assert!(!trust.holds());
        for _ in 0..100 {
            trust.came_unannounced();
        }
        for _ in 0..=Trust::MOST {
            trust.rang();
        }
        assert!(trust.holds());
    }

    #[test]
    fn a_silent_peer_is_not_rung_for_ever_and_a_lost_one_is_forgotten() {
        let (mut a, mut b) = pair();
        for _ in 0..BLIND_RINGS_MAX + 5 {
            a.sent(1);
            a.ring();
        }
        assert_eq!(a.peers[1].blind_rings, BLIND_RINGS_MAX);
        assert!(is_rung(&b));
        b.took(0);
        assert!(!b.is_trusted());
        b.forget(0);
        assert!(!b.is_trusted(), "nobody is left to be trusted");
    }

    #[test]
    fn addresses_travel() {
        let bell = Doorbell::new(0, 1);
        let own = bell.address();
        assert_eq!(Address::decode(&own.encode()).as_ref(), Some(own));
        assert_eq!(own.candidates(own.boot)[0], SocketAddrV4::new(Ipv4Addr::LOCALHOST, own.port));
        assert_eq!(own.candidates([1; 16]).len(), own.addresses.len(), "no loopback to another host");
        assert!(Address::decode(&own.encode()[1..]).is_none());
        assert!(Address::decode(&[0; 34 + 4 * (ADDRESSES_MAX + 1)]).is_none());
    }
}
