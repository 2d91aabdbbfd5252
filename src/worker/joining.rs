//! How a worker rank joins the job and leaves it, and what it does instead of working when its host has no room.

use super::home::Session;
use super::{SILENCE_MAX, Token};
use crate::event::{Backoff, CAP_BUSY, CAP_IDLE, Caps, Interest};
use crate::link::Link;
use crate::wire::{self, FromRank, RankFacts, ToRank, Unfit};
use anyhow::{Result, bail};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A rank on a host that has no place for its folder: it says so, compiles nothing, and ends with the others.
pub fn without_room(mut link: Link, signals: &UnixStream, why: &str) -> Result<()> {
    eprintln!("mpicc-proxy-rank: rank {} compiles nothing, its host has no place for files: {why}", link.rank());
    let launcher = nix::unistd::getppid();
    link.send(0, wire::message(&FromRank::Room { enough: false }, &[])?)?;
    let mut heard = Instant::now();
    let mut backoff = Backoff::default();
    while heard.elapsed() < SILENCE_MAX && nix::unistd::getppid() == launcher {
        while let Some((from, message)) = link.receive()? {
            let head = wire::take_message(&message)?.0;
            if let ToRank::Bring { contents } = head {
                for digest in contents {
                    link.send(from, wire::message(&ToRank::BlobGone { digest }, &[])?)?;
                }
                continue;
            }
            heard = Instant::now();
            let answer = match head {
                ToRank::Toolchain { id, .. } => {
                    let unfit = Unfit { reason: "store-full".to_owned(), detail: why.to_owned() };
                    FromRank::Toolchain { id, verdict: Err(unfit) }
                }
                ToRank::Assign(assignment) => FromRank::Refused {
                    action: assignment.action,
                    reason: "store-full".to_owned(),
                    detail: why.to_owned(),
                    retry: true,
                },
                ToRank::Stop => {
                    leave(link);
                    return Ok(());
                }
                _ => continue,
            };
            link.send(0, wire::message(&answer, &[])?)?;
        }
        if link.is_silent_to(0, wire::SILENCE) {
            link.send(0, wire::message(&FromRank::Heartbeat, &[])?)?;
        }
        let mut interest = Interest::default();
        interest.add(signals.as_raw_fd(), false, Token::Signal);
        let woken = link.wait(interest, Token::Doorbell, &mut backoff, Caps::new(CAP_IDLE))?;
        if woken.iter().any(|woken| woken.token == Token::Signal) {
            break;
        }
    }
    leave(link);
    Ok(())
}

/// Leaves MPI, within bounds: a rank that died can make it wait forever.
pub fn leave(link: Link) {
    const PATIENCE: Duration = Duration::from_secs(3);
    crate::watchdog::exit_after(PATIENCE, 0);
    link.finish();
}

pub fn own_facts(slots: Option<u32>) -> Result<RankFacts> {
    let affinity = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0))?;
    let cpus = (0..nix::sched::CpuSet::count()).filter(|cpu| affinity.is_set(*cpu).unwrap_or(false));
    let host_cpus = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN)?.unwrap_or(1);
    Ok(RankFacts {
        version: wire::VERSION,
        host: nix::unistd::gethostname()?.to_string_lossy().into_owned(),
        pid: std::process::id(),
        cpus: cpus.map(|cpu| cpu as u32).collect(),
        host_cpus: host_cpus as u32,
        free_bytes: crate::free_memory::bytes(),
        slots,
    })
}

/// Waits for rank 0's first message. `None`: a signal came first.
pub fn welcome(link: &mut Link, signals: &UnixStream) -> Result<Option<Session>> {
    let mut backoff = Backoff::default();
    loop {
        if let Some((_, message)) = link.receive()? {
            let (head, _) = wire::take_message(&message)?;
            return match head {
                ToRank::Welcome { session, returns } => Ok(Some(Session::new(session, returns))),
                ToRank::Stop => Ok(None),
                other => bail!("rank 0 began with {other:?}"),
            };
        }
        let mut interest = Interest::default();
        interest.add(signals.as_raw_fd(), false, Token::Signal);
        let woken = link.wait(interest, Token::Doorbell, &mut backoff, Caps::new(CAP_BUSY))?;
        if woken.iter().any(|woken| woken.token == Token::Signal) {
            return Ok(None);
        }
    }
}
