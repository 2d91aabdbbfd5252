//! Raw system calls: no errno, no cancellation point, no symbol that could be hooked (by us or by another library). They
//! return the kernel's answer, a negative errno on failure. Knows the two machines' instructions and call numbers.

use core::ffi::{c_char, c_int, c_void};

/// The largest errno the kernel returns.
const ERRNO_MAX: isize = 4095;

/// Why a system call failed, as an errno.
pub type Errno = c_int;

/// # Safety
/// `number` and the arguments are a system call whose effects the caller vouches for.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub unsafe fn call(number: i64, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
    let result: isize;
    // SAFETY: the kernel clobbers rcx and r11 only; the rest is the caller's promise.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// # Safety
/// `number` and the arguments are a system call whose effects the caller vouches for.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub unsafe fn call(number: i64, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
    let result: isize;
    // SAFETY: the kernel preserves all registers but x0; the rest is the caller's promise.
    unsafe {
        core::arch::asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a => result,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            options(nostack),
        );
    }
    result
}

/// Splits the kernel's answer.
fn check(result: isize) -> Result<usize, Errno> {
    if (-ERRNO_MAX..0).contains(&result) { Err(-result as Errno) } else { Ok(result as usize) }
}

/// A descriptor that is closed when it goes out of scope. None of ours outlives the function that opened it.
#[derive(Debug)]
pub struct Fd(c_int);

impl Fd {
    pub fn raw(&self) -> c_int {
        self.0
    }

    /// Opens for reading, close-on-exec; never waits for the other side of a FIFO.
    ///
    /// # Safety
    /// `path` is NUL-terminated.
    pub unsafe fn open(path: *const c_char) -> Result<Fd, Errno> {
        let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NOCTTY | libc::O_NONBLOCK;
        // SAFETY: openat reads the path and nothing else.
        let result = unsafe { call(libc::SYS_openat, libc::AT_FDCWD as usize, path as usize, flags as usize, 0, 0, 0) };
        check(result).map(|fd| Fd(fd as c_int))
    }

    /// Reads up to `buffer.len()` bytes from `offset` on.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        let (at, len) = (buffer.as_mut_ptr() as usize, buffer.len());
        // SAFETY: the kernel writes within the buffer.
        let result = unsafe { call(libc::SYS_pread64, self.0 as usize, at, len, offset as usize, 0, 0) };
        check(result)
    }

    pub fn mode(&self) -> Result<u32, Errno> {
        // SAFETY: all-zero bytes are a valid `stat`.
        let mut stat: libc::stat = unsafe { core::mem::zeroed() };
        // SAFETY: the kernel fills the struct.
        let result = unsafe { call(libc::SYS_fstat, self.0 as usize, &raw mut stat as usize, 0, 0, 0, 0) };
        check(result).map(|_| stat.st_mode)
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: ours alone.
        unsafe { call(libc::SYS_close, self.0 as usize, 0, 0, 0, 0, 0) };
    }
}

/// access(2) relative to the working directory.
///
/// # Safety
/// `path` is NUL-terminated.
pub unsafe fn access(path: *const c_char, how: c_int) -> Result<(), Errno> {
    // SAFETY: faccessat reads the path and nothing else.
    let result = unsafe { call(libc::SYS_faccessat, libc::AT_FDCWD as usize, path as usize, how as usize, 0, 0, 0) };
    check(result).map(drop)
}

/// `st_mode` of what a path leads to.
///
/// # Safety
/// `path` is NUL-terminated.
pub unsafe fn mode(path: *const c_char) -> Result<u32, Errno> {
    // SAFETY: all-zero bytes are a valid `stat`.
    let mut stat: libc::stat = unsafe { core::mem::zeroed() };
    let at = libc::AT_FDCWD as usize;
    // SAFETY: the kernel reads the path and fills the struct.
    let result = unsafe { call(libc::SYS_newfstatat, at, path as usize, &raw mut stat as usize, 0, 0, 0) };
    check(result).map(|_| stat.st_mode)
}

/// The inode of a name; symbolic links are not followed.
///
/// # Safety
/// `path` is NUL-terminated.
pub unsafe fn inode(path: *const c_char) -> Option<u64> {
    // SAFETY: all-zero bytes are a valid `stat`.
    let mut stat: libc::stat = unsafe { core::mem::zeroed() };
    let (at, flags) = (libc::AT_FDCWD as usize, libc::AT_SYMLINK_NOFOLLOW as usize);
    // SAFETY: the kernel reads the path and fills the struct.
    let result = unsafe { call(libc::SYS_newfstatat, at, path as usize, &raw mut stat as usize, flags, 0, 0) };
    check(result).ok().map(|_| stat.st_ino)
}

/// readlink(2): bytes written to `out`, which is not NUL-terminated.
///
/// # Safety
/// `path` is NUL-terminated.
pub unsafe fn readlink(path: *const c_char, out: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes within the buffer.
    let result = unsafe {
        call(libc::SYS_readlinkat, libc::AT_FDCWD as usize, path as usize, out.as_mut_ptr() as usize, out.len(), 0, 0)
    };
    check(result)
}

/// getcwd(2): bytes written to `out`, without the NUL. An unreachable directory is an error.
pub fn getcwd(out: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes within the buffer.
    let result = unsafe { call(libc::SYS_getcwd, out.as_mut_ptr() as usize, out.len(), 0, 0, 0, 0) };
    let with_nul = check(result)?;
    if out.first() == Some(&b'/') { Ok(with_nul - 1) } else { Err(libc::ENOENT) }
}

pub fn getuid() -> u32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { call(libc::SYS_getuid, 0, 0, 0, 0, 0, 0) as u32 }
}

/// Fresh private memory of whole pages; never freed by us except through [`unmap`].
pub fn map(bytes: usize) -> Option<*mut c_void> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping touches nobody's memory.
    let result = unsafe { call(libc::SYS_mmap, 0, bytes, protection as usize, flags as usize, usize::MAX, 0) };
    check(result).ok().map(|address| address as *mut c_void)
}

/// # Safety
/// `memory` came from [`map`] with the same size and is not used any more.
pub unsafe fn unmap(memory: *mut c_void, bytes: usize) {
    // SAFETY: promised by the caller.
    unsafe { call(libc::SYS_munmap, memory as usize, bytes, 0, 0, 0, 0) };
}

/// The raw execve: returns only on failure.
///
/// # Safety
/// As execve(2).
pub unsafe fn execve(path: *const c_char, argv: *const *const c_char, envp: *const *const c_char) -> Errno {
    // SAFETY: promised by the caller.
    let result = unsafe { call(libc::SYS_execve, path as usize, argv as usize, envp as usize, 0, 0, 0) };
    -result as Errno
}

/// A shared mapping of `fd` from its start.
pub fn map_shared(fd: c_int, bytes: usize, writable: bool) -> Option<*mut c_void> {
    let protection = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
    // SAFETY: a new mapping touches nobody's memory.
    let result =
        unsafe { call(libc::SYS_mmap, 0, bytes, protection as usize, libc::MAP_SHARED as usize, fd as usize, 0) };
    check(result).ok().map(|address| address as *mut c_void)
}

pub fn getpid() -> c_int {
    // SAFETY: no arguments, cannot fail.
    unsafe { call(libc::SYS_getpid, 0, 0, 0, 0, 0, 0) as c_int }
}

pub fn yield_now() {
    // SAFETY: no arguments, cannot fail.
    unsafe { call(libc::SYS_sched_yield, 0, 0, 0, 0, 0, 0) };
}

pub fn set_umask(mask: u32) {
    // SAFETY: changes this process's umask and nothing else.
    unsafe { call(libc::SYS_umask, mask as usize, 0, 0, 0, 0, 0) };
}

pub fn close(fd: c_int) {
    // SAFETY: the caller owns the descriptor.
    unsafe { call(libc::SYS_close, fd as usize, 0, 0, 0, 0, 0) };
}

/// fstat(2), the real one.
pub fn fstat(fd: c_int) -> Option<libc::stat> {
    // SAFETY: all-zero bytes are a valid `stat`.
    let mut stat: libc::stat = unsafe { core::mem::zeroed() };
    // SAFETY: the kernel fills the struct.
    let result = unsafe { call(libc::SYS_fstat, fd as usize, &raw mut stat as usize, 0, 0, 0, 0) };
    check(result).ok().map(|_| stat)
}

/// openat(2) relative to the working directory, the real one.
///
/// # Safety
/// `path` is NUL-terminated.
pub unsafe fn open(path: *const c_char, flags: c_int, mode: u32) -> Result<c_int, Errno> {
    // SAFETY: openat reads the path and nothing else.
    let result =
        unsafe { call(libc::SYS_openat, libc::AT_FDCWD as usize, path as usize, flags as usize, mode as usize, 0, 0) };
    check(result).map(|fd| fd as c_int)
}

/// Copies the whole of `from` to `to`, both regular files, from their current positions.
pub fn copy(from: c_int, to: c_int) -> Result<(), Errno> {
    const AT_ONCE: usize = 1 << 30;
    loop {
        // SAFETY: sendfile takes two descriptors and a null offset.
        let result = unsafe { call(libc::SYS_sendfile, to as usize, from as usize, 0, AT_ONCE, 0, 0) };
        if check(result)? == 0 {
            return Ok(());
        }
    }
}

/// mkdirat(2) relative to the working directory, the real one.
///
/// # Safety
/// `path` is NUL-terminated.
pub unsafe fn mkdir(path: *const c_char, mode: u32) -> Result<(), Errno> {
    // SAFETY: mkdirat reads the path.
    let result = unsafe { call(libc::SYS_mkdirat, libc::AT_FDCWD as usize, path as usize, mode as usize, 0, 0, 0) };
    check(result).map(drop)
}

/// symlinkat(2), the real one.
///
/// # Safety
/// Both are NUL-terminated.
pub unsafe fn symlink(target: *const c_char, path: *const c_char) -> Result<(), Errno> {
    // SAFETY: symlinkat reads the two strings.
    let result = unsafe { call(libc::SYS_symlinkat, target as usize, libc::AT_FDCWD as usize, path as usize, 0, 0, 0) };
    check(result).map(drop)
}

/// A connected `SOCK_SEQPACKET` Unix socket, close-on-exec, with a number of at least `lowest`.
pub fn connect_seqpacket(path: &[u8], lowest: c_int) -> Option<c_int> {
    let low = unix_socket(libc::SOCK_SEQPACKET)?;
    let lowest = lowest as usize;
    // SAFETY: duplicates our own descriptor.
    let high = unsafe { call(libc::SYS_fcntl, low.raw() as usize, libc::F_DUPFD_CLOEXEC as usize, lowest, 0, 0, 0) };
    drop(low);
    let fd = Fd(check(high).ok()? as c_int);
    connect(&fd, path)?;
    let raw = fd.raw();
    core::mem::forget(fd);
    Some(raw)
}

/// A connected `SOCK_STREAM` Unix socket; connecting, writing and reading wait for at most so long.
pub fn connect_stream(path: &[u8], timeout_s: i64) -> Option<Fd> {
    let fd = unix_socket(libc::SOCK_STREAM)?;
    let timeout = libc::timeval { tv_sec: timeout_s, tv_usec: 0 };
    for option in [libc::SO_SNDTIMEO, libc::SO_RCVTIMEO] {
        let (level, at, len) = (libc::SOL_SOCKET as usize, &raw const timeout as usize, size_of::<libc::timeval>());
        // SAFETY: the kernel reads the time.
        check(unsafe { call(libc::SYS_setsockopt, fd.raw() as usize, level, option as usize, at, len, 0) }).ok()?;
    }
    connect(&fd, path)?;
    Some(fd)
}

fn unix_socket(kind: c_int) -> Option<Fd> {
    let kind = kind | libc::SOCK_CLOEXEC;
    // SAFETY: no memory is involved.
    let fd = unsafe { call(libc::SYS_socket, libc::AF_UNIX as usize, kind as usize, 0, 0, 0, 0) };
    Some(Fd(check(fd).ok()? as c_int))
}

fn connect(fd: &Fd, path: &[u8]) -> Option<()> {
    // SAFETY: all-zero bytes are a valid address.
    let mut address: libc::sockaddr_un = unsafe { core::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    if path.len() >= address.sun_path.len() {
        return None;
    }
    for (to, from) in address.sun_path.iter_mut().zip(path) {
        *to = *from as c_char;
    }
    let length = size_of::<libc::sockaddr_un>();
    // SAFETY: the kernel reads the address.
    let result = unsafe { call(libc::SYS_connect, fd.raw() as usize, &raw const address as usize, length, 0, 0, 0) };
    check(result).ok().map(drop)
}

/// Sends one datagram; a peer that is gone is an answer, not a signal.
pub fn send_all(fd: c_int, bytes: &[u8]) -> bool {
    loop {
        let flags = libc::MSG_NOSIGNAL as usize;
        // SAFETY: the kernel reads the bytes.
        let result = unsafe { call(libc::SYS_sendto, fd as usize, bytes.as_ptr() as usize, bytes.len(), flags, 0, 0) };
        match check(result) {
            Err(libc::EINTR) => {}
            sent => return sent == Ok(bytes.len()),
        }
    }
}

/// Fills `out` from a stream, in however many pieces.
pub fn receive_whole(fd: c_int, mut out: &mut [u8]) -> bool {
    while !out.is_empty() {
        // SAFETY: the kernel writes within the buffer.
        let result = unsafe { call(libc::SYS_recvfrom, fd as usize, out.as_mut_ptr() as usize, out.len(), 0, 0, 0) };
        match check(result) {
            Err(libc::EINTR) => {}
            Ok(received @ 1..) => out = out.get_mut(received..).unwrap_or_default(),
            Ok(_) | Err(_) => return false,
        }
    }
    true
}

/// Waits for one datagram of exactly `out.len()` bytes.
pub fn receive(fd: c_int, out: &mut [u8]) -> bool {
    loop {
        // SAFETY: the kernel writes within the buffer.
        let result = unsafe { call(libc::SYS_recvfrom, fd as usize, out.as_mut_ptr() as usize, out.len(), 0, 0, 0) };
        match check(result) {
            Err(libc::EINTR) => {}
            received => return received == Ok(out.len()),
        }
    }
}

/// 64 random bits, for temporary names.
pub fn random() -> u64 {
    let mut bits = [0u8; 8];
    // SAFETY: the kernel writes within the buffer.
    unsafe { call(libc::SYS_getrandom, bits.as_mut_ptr() as usize, bits.len(), 0, 0, 0, 0) };
    u64::from_ne_bytes(bits)
}

/// The kernel kills this process when its parent ends: no compiler outlives its rank.
pub fn die_with_parent() {
    // SAFETY: changes this process's own attribute.
    unsafe { call(libc::SYS_prctl, libc::PR_SET_PDEATHSIG as usize, libc::SIGKILL as usize, 0, 0, 0, 0) };
}

/// Ends the process at once.
pub fn exit(status: c_int) -> ! {
    loop {
        // SAFETY: does not return.
        unsafe { call(libc::SYS_exit_group, status as usize, 0, 0, 0, 0, 0) };
    }
}

/// Lowers (or raises, as far as allowed) a resource limit. Memory limits make room for our own mappings.
pub fn set_limit(limit: &mpicc_proxy_abi::task::Limit) {
    use mpicc_proxy_abi::{table::TABLE_BYTES, task::PAGE_BYTES};
    /// Our code and data, in bytes, generously.
    const LIBRARY_BYTES: u64 = 1 << 20;
    let ours =
        if limit.resource == libc::RLIMIT_AS { TABLE_BYTES as u64 + PAGE_BYTES as u64 + LIBRARY_BYTES } else { 0 };
    let wanted = [limit.soft.saturating_add(ours), limit.hard.saturating_add(ours)];
    // SAFETY: prlimit64 reads two words; it changes this process only.
    unsafe { call(libc::SYS_prlimit64, 0, limit.resource as usize, wanted.as_ptr() as usize, 0, 0, 0) };
}
