//! Starts one driver under the preload library and waits for it. Knows the environment a remote compile gets, and
//! nothing of ranks.

use crate::environment;
use crate::pidfd;
use crate::wire::{Bytes, Exit, Invocation};
use anyhow::{Context, Result};
use mpicc_proxy_abi::env;
use mpicc_proxy_abi::task::{Page, TABLE_FD, TASK_FD};
use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A driver that runs (or has ended and was not yet waited for). Dropped, it is killed with all it started.
pub struct Running {
    pid: libc::pid_t,
    pidfd: OwnedFd,
    ended: bool,
}

/// What a driver needs beside its invocation.
pub struct Surroundings<'a> {
    pub library: &'a Path,
    pub scratch: &'a Path,
    pub table_fd: RawFd,
    pub task_fd: RawFd,
    /// How the toolchain's programs are run.
    pub page: &'a Page,
    /// Variables in place of the invocation's own.
    pub variables: &'a [(Bytes, Bytes)],
    /// `None`: nothing to read.
    pub stdin: Option<RawFd>,
    pub stdout: RawFd,
    pub stderr: RawFd,
}

/// How a driver ended, the user + system CPU of it and all it waited for, in microseconds, and the most resident memory
/// of one of these.
pub struct Ended {
    pub exit: Exit,
    pub cpu_us: u64,
    pub peak_bytes: u64,
}

/// Starts the invocation's driver with posix_spawn(3), which does not copy an MPI process's registered memory, in a
/// process group of its own.
///
/// # Errors
/// The driver cannot be started on this host.
pub fn start(invocation: &Invocation, around: &Surroundings<'_>) -> Result<Running> {
    let (driver, argv) = command(invocation, around.page)?;
    let environment = strings(&remote_environment(invocation, around))?;
    let scratch = CString::new(around.scratch.as_os_str().as_bytes())?;
    // MPI libraries do not mark all their descriptors; a compiler must not keep a peer's connection open.
    crate::signals::close_all_on_exec();
    let actions = FileActions::new()?;
    match around.stdin {
        Some(fd) => actions.duplicate(fd, 0)?,
        None => actions.open_null(0)?,
    }
    actions.duplicate(around.stdout, 1)?;
    actions.duplicate(around.stderr, 2)?;
    actions.duplicate(around.table_fd, TABLE_FD)?;
    actions.duplicate(around.task_fd, TASK_FD)?;
    actions.change_folder(&scratch)?;
    let attributes = Attributes::new()?;
    let mut pid = 0;
    // SAFETY: all pointers are to live, NULL-terminated arrays of NUL-terminated strings.
    let code = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            driver.as_ptr(),
            &raw const actions.0,
            &raw const attributes.0,
            pointers(&argv).as_ptr(),
            pointers(&environment).as_ptr(),
        )
    };
    if code != 0 {
        return Err(Errno::from_raw(code)).with_context(|| format!("cannot start {}", driver.to_string_lossy()));
    }
    // Our child cannot vanish before we wait for it.
    let pidfd = pidfd::open(pid as u32).inspect_err(|_| {
        kill_group(pid);
        // SAFETY: our child, just killed.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    });
    Ok(Running { pid, pidfd: pidfd.context("cannot watch the driver")?, ended: false })
}

impl Running {
    /// Readable when the driver has ended.
    pub fn fd(&self) -> RawFd {
        self.pidfd.as_raw_fd()
    }

    /// How the driver ended, if it has. What it left running is killed.
    ///
    /// # Errors
    /// As wait4(2).
    pub fn try_wait(&mut self) -> io::Result<Option<Ended>> {
        let how = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        if waitid(Id::Pid(Pid::from_raw(self.pid)), how)? == WaitStatus::StillAlive {
            return Ok(None);
        }
        // Before it is waited for: its number, and so its group's, is still its own.
        kill_group(self.pid);
        let mut status = 0;
        let mut usage = MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: out-parameters of the right types.
        if unsafe { libc::wait4(self.pid, &raw mut status, 0, usage.as_mut_ptr()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        self.ended = true;
        // SAFETY: filled by the successful wait4.
        let usage = unsafe { usage.assume_init() };
        let us = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
        let exit = if libc::WIFSIGNALED(status) {
            Exit::Signal(libc::WTERMSIG(status))
        } else {
            Exit::Code(libc::WEXITSTATUS(status))
        };
        let peak_bytes = usage.ru_maxrss as u64 * 1024;
        Ok(Some(Ended { exit, cpu_us: us(usage.ru_utime) + us(usage.ru_stime), peak_bytes }))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            kill_group(self.pid);
            // SAFETY: our child, just killed.
            unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
        }
    }
}

/// The driver leads a group of its own, so this reaches all it started. It must not have been waited for yet: until
/// then the number cannot belong to anybody else.
fn kill_group(pid: libc::pid_t) {
    // SAFETY: no memory is involved.
    unsafe { libc::kill(-pid, libc::SIGKILL) };
}

/// The client's environment, with the library in worker mode. TMPDIR stays: temporary files land in scratch like all
/// others, and their names show up in messages of the assembler.
fn remote_environment(invocation: &Invocation, around: &Surroundings<'_>) -> Vec<Bytes> {
    let is_replaced = |entry: &Bytes| {
        [env::LD_PRELOAD, env::WORKER].iter().any(|name| environment::is_named(entry, name))
            || around.variables.iter().any(|(name, _)| environment::is_named(entry, name))
    };
    let mut entries: Vec<Bytes> = invocation.environment.iter().filter(|entry| !is_replaced(entry)).cloned().collect();
    let version = mpicc_proxy_abi::VERSION.to_string();
    for (name, value) in [(env::LD_PRELOAD, around.library.as_os_str().as_bytes()), (env::WORKER, version.as_bytes())] {
        entries.push([name, b"=", value].concat());
    }
    entries.extend(around.variables.iter().map(|(name, value)| [name.as_slice(), b"=", value].concat()));
    entries
}

/// The driver's file and command line on this host. The driver is the first program of its toolchain.
fn command(invocation: &Invocation, page: &Page) -> Result<(CString, Vec<CString>)> {
    let driver = CString::new(invocation.driver.clone())?;
    let argv = strings(&invocation.argv)?;
    let name = argv.first().map_or(c"", CString::as_c_str);
    let Some(loaded) = page.loaded(0, name) else { return Ok((driver, argv)) };
    let loader = loaded.arguments().iter().map(|argument| (*argument).to_owned());
    Ok((loaded.path.to_owned(), loader.chain(argv.iter().skip(1).cloned()).collect()))
}

fn strings(parts: &[Bytes]) -> Result<Vec<CString>> {
    parts.iter().map(|part| CString::new(part.clone()).context("a NUL byte in an argument")).collect()
}

fn pointers(strings: &[CString]) -> Vec<*mut libc::c_char> {
    strings.iter().map(|s| s.as_ptr().cast_mut()).chain([std::ptr::null_mut()]).collect()
}

fn check(code: i32) -> Result<()> {
    if code == 0 { Ok(()) } else { Err(Errno::from_raw(code).into()) }
}

struct FileActions(libc::posix_spawn_file_actions_t);

impl FileActions {
    fn new() -> Result<FileActions> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: initialises the value.
        check(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        // SAFETY: initialised above.
        Ok(FileActions(unsafe { actions.assume_init() }))
    }

    fn raw(&self) -> *mut libc::posix_spawn_file_actions_t {
        (&raw const self.0).cast_mut()
    }

    fn open_null(&self, fd: RawFd) -> Result<()> {
        const NULL: &CStr = c"/dev/null";
        // SAFETY: initialised actions and a static string.
        check(unsafe { libc::posix_spawn_file_actions_addopen(self.raw(), fd, NULL.as_ptr(), libc::O_RDONLY, 0) })
    }

    fn duplicate(&self, from: RawFd, to: RawFd) -> Result<()> {
        // SAFETY: initialised actions.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(self.raw(), from, to) })
    }

    fn change_folder(&self, path: &CStr) -> Result<()> {
        // SAFETY: initialised actions; the path is copied.
        check(unsafe { libc::posix_spawn_file_actions_addchdir_np(self.raw(), path.as_ptr()) })
    }
}

impl Drop for FileActions {
    fn drop(&mut self) {
        // SAFETY: initialised by `new`.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    /// Own process group; signals as a shell would have them, whatever this process ignores or blocks.
    fn new() -> Result<Attributes> {
        let mut attributes = MaybeUninit::uninit();
        let mut signals = MaybeUninit::uninit();
        let flags = libc::POSIX_SPAWN_SETPGROUP | libc::POSIX_SPAWN_SETSIGDEF | libc::POSIX_SPAWN_SETSIGMASK;
        // SAFETY: initialises the values, then fills them in.
        unsafe {
            check(libc::posix_spawnattr_init(attributes.as_mut_ptr()))?;
            libc::sigemptyset(signals.as_mut_ptr());
            check(libc::posix_spawnattr_setsigmask(attributes.as_mut_ptr(), signals.as_ptr()))?;
            libc::sigfillset(signals.as_mut_ptr());
            check(libc::posix_spawnattr_setsigdefault(attributes.as_mut_ptr(), signals.as_ptr()))?;
            check(libc::posix_spawnattr_setpgroup(attributes.as_mut_ptr(), 0))?;
            check(libc::posix_spawnattr_setflags(attributes.as_mut_ptr(), flags as i16))?;
            Ok(Attributes(attributes.assume_init()))
        }
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised by `new`.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}
