//! How this process sees files: its own [`Viewpoint`], from stat(2), getgroups(2) and capget(2).

use crate::identity;
use crate::wire::Viewpoint;
use std::io;

/// # Errors
/// /proc is not mounted.
pub fn own() -> io::Result<Viewpoint> {
    let group = nix::unistd::getegid().as_raw();
    let mut groups: Vec<u32> = nix::unistd::getgroups()?.into_iter().map(nix::unistd::Gid::as_raw).collect();
    // To be in one's group once more gives nothing; Slurm's srun lists it where a shell may not.
    groups.retain(|&other| other != group);
    groups.sort_unstable();
    Ok(Viewpoint {
        mounts: identity::of("/proc/self/ns/mnt")?,
        root: identity::of("/")?,
        user: nix::unistd::geteuid().as_raw(),
        group,
        groups,
        capabilities: effective_capabilities()?,
    })
}

fn effective_capabilities() -> io::Result<u64> {
    /// `_LINUX_CAPABILITY_VERSION_3`: two words of 32 bits.
    const VERSION: u32 = 0x2008_0522;
    let mut header = [VERSION, 0];
    // Effective, permitted, inheritable; low words, then high words.
    let mut data = [0u32; 6];
    // SAFETY: buffers of the sizes that this version asks for; pid 0 is this process.
    let result = unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), data.as_mut_ptr()) };
    if result == 0 { Ok(u64::from(data[3]) << 32 | u64::from(data[0])) } else { Err(io::Error::last_os_error()) }
}
