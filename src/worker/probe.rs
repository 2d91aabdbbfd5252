//! What a rank finds out about itself and its host for `doctor`: it joins the job as any other, says it ([`crate::probe`])
//! and leaves.

use super::home;
use super::joining::{leave, own_facts};
use crate::link::{self, Link};
use crate::paths::Installation;
use crate::probe::{Folder, Limits, Seen};
use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{AccessFlags, access, geteuid};
use std::io::Write;
use std::path::Path;

/// Joins the job, says what is here, and leaves. Whatever MPI waits for, the process is gone after `patience_s`.
///
/// # Errors
/// MPI fails.
pub fn run(patience_s: u32) -> Result<()> {
    // By a signal: MPI wants to be initialised before there are other threads.
    nix::unistd::alarm::set(patience_s);
    let link = Link::start()?;
    let seen = Seen {
        rank: link.rank(),
        size: link.size(),
        facts: own_facts(None)?,
        mpi: link::library_version()?.lines().next().unwrap_or_default().trim_matches(['\0', ' ']).to_owned(),
        programs: digest_of_programs().map_err(|error| format!("{error:#}")),
        folders: home::bases().iter().map(|base| look_at(base)).collect(),
        limits: limits()?,
    };
    std::io::stdout().write_all(seen.line().as_bytes()).context("nobody reads what this rank says")?;
    leave(link);
    Ok(())
}

/// What must be the same on all hosts.
fn digest_of_programs() -> Result<String> {
    let installation = Installation::of_this_program()?;
    // Removes the folder of killed ranks.
    installation.command()?;
    let mut hasher = blake3::Hasher::new();
    for path in [Path::new("/proc/self/exe").to_path_buf(), installation.library()?] {
        hasher.update(&std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn look_at(base: &Path) -> Folder {
    let obstacle = access(base, AccessFlags::W_OK | AccessFlags::X_OK).err();
    let room = home::room(base);
    Folder {
        path: base.display().to_string(),
        obstacle: obstacle.map(|errno| errno.desc().to_owned()),
        free_bytes: room.map_or(0, |room| room.free_bytes),
        executable: room.is_some_and(|room| room.executable),
        roomy: room.is_some_and(|room| room.is_roomy()),
    }
}

fn limits() -> Result<Limits> {
    let finite = |limit| (limit != nix::sys::resource::RLIM_INFINITY).then_some(limit);
    let soft = |resource| -> Result<Option<u64>> { Ok(finite(getrlimit(resource)?.0)) };
    Ok(Limits {
        // A rank raises its own as far as it may.
        open_files: finite(getrlimit(Resource::RLIMIT_NOFILE)?.1),
        // Root is not held to it.
        processes: if geteuid().is_root() { None } else { soft(Resource::RLIMIT_NPROC)? },
        memory_bytes: [soft(Resource::RLIMIT_AS)?, soft(Resource::RLIMIT_DATA)?].into_iter().flatten().min(),
    })
}
