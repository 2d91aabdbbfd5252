//! The GNU make jobserver that a process belongs to, found by its environment and its ancestors, and the way to a token
//! of it. Speaks for the client; the dispatcher, which lends and takes, is `dispatcher::broker`.
//!
//! The numbers in MAKEFLAGS are those of make's own descriptors, and in a recipe's commands they are closed, or something
//! else. So the ends are opened by /proc, from the nearest ancestor that is a make and has one pipe on both numbers.
//! Protocol: the GNU make manual, "Job Slots".

use crate::environment::value_of;
use crate::identity;
use crate::wire::{Bytes, Jobserver};
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, fstat};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::SysconfVar;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A process further away has started something that is no part of its build.
const ANCESTORS_MAX: usize = 64;

/// Programs that take part in a jobserver under the numbers they tell their children. Others (a script in between, say)
/// may have pipes of their own under the same numbers.
const PARTICIPANTS: [&[u8]; 8] =
    [b"make", b"gmake", b"gnumake", b"remake", b"ninja", b"ninja-build", b"samu", b"cargo"];

/// Where MAKEFLAGS says that the tokens are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place<'a> {
    Fifo(&'a [u8]),
    Pipe { read: u32, write: u32 },
}

/// The jobserver of this process, or the name of the reason why nothing can be lent to it. `None`: the environment names
/// none (`-j1`, `-j` without a number, no make at all).
///
/// # Errors
/// `jobserver-gone`: no ancestor has it.
pub fn find(environment: &[Bytes]) -> Option<Result<Jobserver, &'static str>> {
    named(environment).map(find_at)
}

/// Does the environment name a jobserver?
pub fn is_named(environment: &[Bytes]) -> bool {
    named(environment).is_some()
}

fn named(environment: &[Bytes]) -> Option<Place<'_>> {
    let flags = |name| environment.iter().find_map(|entry| value_of(entry, name)).and_then(place);
    flags(b"MAKEFLAGS").or_else(|| flags(b"MFLAGS"))
}

fn find_at(place: Place<'_>) -> Result<Jobserver, &'static str> {
    let mut job = Process::read("self").ok_or("jobserver-gone")?;
    for _ in 0..ANCESTORS_MAX {
        let Some(parent) = Process::read(&job.parent.to_string()) else { break };
        if let Some([read, write]) = parent.ends(place) {
            let id = identity::of(&read).ok().filter(|id| identity::is(&write, *id)).ok_or("jobserver-gone")?;
            let [read, write] = [read, write].map(|end| end.into_os_string().into_vec());
            return Ok(Jobserver { id, read, write, job: (job.pid, job.started) });
        }
        job = parent;
    }
    Err("jobserver-gone")
}

/// Takes a token. Waits until none has been there, not even for others, for as long as `patience`. `false`: there was none,
/// or there is no jobserver any more.
pub fn take(jobserver: &Jobserver, patience: Duration) -> bool {
    let Some(end) = open_end(&jobserver.read, OFlag::O_RDONLY, jobserver.id) else { return false };
    let mut deadline = Instant::now() + patience;
    loop {
        match nix::unistd::read(&end, &mut [0]) {
            Ok(1) => return true,
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => {}
            Ok(_) | Err(_) => return false,
        }
        let rest = deadline.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return false;
        }
        let mut polled = [PollFd::new(end.as_fd(), PollFlags::POLLIN)];
        if let Ok(1..) = poll(&mut polled, PollTimeout::try_from(rest).unwrap_or(PollTimeout::MAX)) {
            // Somebody may be faster.
            deadline = Instant::now() + patience;
        }
    }
}

/// Opens one end of the jobserver `id`, with a file description of its own that does not block. `None`: it is gone.
pub fn open_end(path: &[u8], how: OFlag, id: (u64, u64)) -> Option<OwnedFd> {
    let flags = how | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    let end = open(OsStr::from_bytes(path), flags, Mode::empty()).ok()?;
    let found = fstat(&end).ok()?;
    ((found.st_dev, found.st_ino) == id).then_some(end)
}

/// The last place that is one; what follows ` -- ` are variables. Negative numbers tell that a command is no make.
fn place(flags: &[u8]) -> Option<Place<'_>> {
    let words = flags.split(|byte| *byte == b' ').take_while(|word| *word != b"--");
    let values = words
        .filter_map(|word| word.strip_prefix(b"--jobserver-auth=").or_else(|| word.strip_prefix(b"--jobserver-fds=")));
    let places = values.filter_map(|value| match value.strip_prefix(b"fifo:") {
        Some(path) => Some(Place::Fifo(path)),
        None => {
            let (read, write) = std::str::from_utf8(value).ok()?.split_once(',')?;
            Some(Place::Pipe { read: read.parse().ok()?, write: write.parse().ok()? })
        }
    });
    places.last()
}

/// How long ago a process began, of which /proc says so ([`Process::started`]).
pub fn age_of(started: u64) -> Duration {
    let ticks_per_s = nix::unistd::sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as u64;
    let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    since_boot.saturating_sub(Duration::from_millis(started.saturating_mul(1000) / ticks_per_s))
}

/// What /proc tells of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
    /// Clock ticks since the machine started: tells processes with the same id apart.
    started: u64,
}

impl Process {
    fn read(name: &str) -> Option<Process> {
        Process::parse(&fs::read(format!("/proc/{name}/stat")).ok()?)
    }

    /// Fields 1, 4 and 22 of proc(5)'s stat. The second is a name in parentheses, which may hold anything.
    fn parse(stat: &[u8]) -> Option<Process> {
        let end_of_name = stat.iter().rposition(|byte| *byte == b')')?;
        let number = |bytes: &[u8]| std::str::from_utf8(bytes).ok().and_then(|text| text.trim().parse::<u64>().ok());
        let pid = number(stat.split(|byte| *byte == b' ').next()?)?;
        let mut rest = stat[end_of_name + 1..].split(|byte| *byte == b' ').skip(1);
        let parent = number(rest.nth(1)?)?;
        let started = number(rest.nth(17)?)?;
        Some(Process { pid: pid as i32, parent: parent as i32, started })
    }

    fn folder(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.pid))
    }

    /// What opens the read and the write end, if this process is a participant of the jobserver at `place`.
    fn ends(&self, place: Place<'_>) -> Option<[PathBuf; 2]> {
        if !fs::read_link(self.folder().join("exe")).is_ok_and(|program| is_participant(&program)) {
            return None;
        }
        let fds = self.folder().join("fd");
        match place {
            Place::Fifo(path) => {
                let path = Path::new(OsStr::from_bytes(path));
                let fifo = identity::of(path).ok()?;
                let mut open = fs::read_dir(fds).ok()?.flatten();
                open.any(|fd| identity::is(fd.path(), fifo)).then(|| [path.to_path_buf(), path.to_path_buf()])
            }
            Place::Pipe { read, write } => {
                let ends = [read, write].map(|fd| fds.join(fd.to_string()));
                // It may have a name: Spack tells an old make the descriptors of its FIFO.
                let pipe = fs::metadata(&ends[0]).ok().filter(|found| found.file_type().is_fifo())?;
                let is_same = |fd: PathBuf| identity::is(fd, identity::among(&pipe));
                if !is_same(ends[1].clone()) {
                    return None;
                }
                // Who only inherited them leaves them as they are; Kitware's ninja does so, too, but has its own beside them.
                let takes_part = self.closes_on_exec(read)
                    || fs::read_dir(fds).ok()?.flatten().filter(|fd| is_same(fd.path())).count() > ends.len();
                takes_part.then_some(ends)
            }
        }
    }

    /// Is this descriptor closed when the process starts another program? proc(5): fdinfo, in octal.
    fn closes_on_exec(&self, fd: u32) -> bool {
        let info = fs::read_to_string(self.folder().join(format!("fdinfo/{fd}"))).unwrap_or_default();
        let flags = info.lines().find_map(|line| i32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
        flags.is_some_and(|flags| flags & libc::O_CLOEXEC != 0)
    }
}

/// Is this a program of that name, or of that name with a version?
fn is_participant(program: &Path) -> bool {
    let name = program.file_name().unwrap_or_default().as_bytes();
    PARTICIPANTS.iter().any(|known| {
        name.strip_prefix(*known)
            .is_some_and(|rest| rest.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'.')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::process::{Command, Stdio};

    #[test]
    fn places_in_makeflags() {
        let table: [(&[u8], Option<Place<'_>>); 11] = [
            (b" -j4 --jobserver-auth=3,4", Some(Place::Pipe { read: 3, write: 4 })),
            (b" -j4 --jobserver-auth=3,4 --jobserver-auth=-2,-2", Some(Place::Pipe { read: 3, write: 4 })),
            (b" -j --jobserver-auth=3,4 --jobserver-auth=5,6", Some(Place::Pipe { read: 5, write: 6 })),
            (b"k -j4 --jobserver-auth=fifo:/tmp/GMfifo7", Some(Place::Fifo(b"/tmp/GMfifo7"))),
            (b" --jobserver-fds=3,4 -j", Some(Place::Pipe { read: 3, write: 4 })),
            (b" -j4 -- CFLAGS=--jobserver-auth=9,9", None),
            (b" -j4 -- A=1 --jobserver-auth=9,9", None),
            (b" -j", None),
            (b" -j1", None),
            (b"", None),
            (b" --jobserver-auth=x,y --jobserver-auth=3", None),
        ];
        for (flags, expected) in table {
            assert_eq!(place(flags), expected, "{}", String::from_utf8_lossy(flags));
        }
    }

    #[test]
    fn a_time_that_has_not_come_is_no_age() {
        assert_eq!(age_of(u64::MAX), Duration::ZERO);
        assert!(age_of(0) > Duration::ZERO);
    }

    #[test]
    fn a_name_in_stat_may_hold_anything() {
        let rest = "S 42 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 777 0 0";
        for name in ["make", "a) R 1 (b", " "] {
            let parsed = Process::parse(format!("7 ({name}) {rest}\n").as_bytes());
            assert_eq!(parsed, Some(Process { pid: 7, parent: 42, started: 777 }), "{name}");
        }
        let own = Process::read("self").unwrap();
        assert_eq!((own.pid, own.parent), (std::process::id() as i32, nix::unistd::getppid().as_raw()));
        assert_eq!(Process::parse(b""), None);
    }

    #[test]
    fn participants_by_name() {
        for name in ["make", "gmake", "make-4.4.1", "ninja", "ninja-1.13", "ninja-build", "cargo"] {
            assert!(is_participant(&Path::new("/usr/bin").join(name)), "{name}");
        }
        for name in ["cmake", "makeinfo", "python3", "bash", ""] {
            assert!(!is_participant(&Path::new("/usr/bin").join(name)), "{name}");
        }
    }

    #[test]
    fn without_a_jobserver_there_is_a_reason() {
        assert_eq!(find(&[b"PATH=/bin".to_vec()]), None);
        assert_eq!(find(&[b"MAKEFLAGS= -j1".to_vec()]), None);
        // Whatever these numbers are in this process or its ancestors, no participant has them.
        assert_eq!(find(&[b"MAKEFLAGS= -j4 --jobserver-auth=801,802".to_vec()]), Some(Err("jobserver-gone")));
        assert_eq!(find(&[b"MFLAGS=-j4 --jobserver-auth=fifo:/no/such".to_vec()]), Some(Err("jobserver-gone")));
    }

    #[test]
    fn a_token_is_taken_once_and_none_when_the_jobserver_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        let path = fifo.as_os_str().as_bytes().to_vec();
        let id = identity::of(&fifo).unwrap();
        let jobserver = Jobserver { id, read: path.clone(), write: path.clone(), job: (1, 1) };
        let keeper = fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
        nix::unistd::write(&keeper, b"+").unwrap();
        assert!(take(&jobserver, Duration::from_secs(5)));
        assert!(!take(&jobserver, Duration::from_millis(20)));
        drop(keeper);
        assert!(!take(&jobserver, Duration::from_secs(60)), "nobody writes any more");
        assert!(open_end(&path, OFlag::O_RDONLY, (id.0, id.1 + 1)).is_none(), "another one");
    }

    const CHILD: &str = "JOBSERVER_TEST_CHILD";

    /// make, a recipe, and in it this test's program: the environment and the ancestors are real.
    #[test]
    fn the_jobserver_of_a_real_make() {
        if let Some(out) = std::env::var_os(CHILD) {
            let found = find(&crate::environment::entries()).unwrap().unwrap();
            let make = nix::unistd::getppid().as_raw();
            assert!(found.read.starts_with(format!("/proc/{make}/fd/").as_bytes()) || found.read == found.write);
            assert_eq!(found.job.0, std::process::id() as i32);
            assert!(open_end(&found.write, OFlag::O_WRONLY, found.id).is_some());
            assert!(take(&found, Duration::from_secs(5)), "-j3 has two tokens, and nobody else wants one");
            let end = open_end(&found.write, OFlag::O_WRONLY, found.id).unwrap();
            nix::unistd::write(&end, b"+").unwrap();
            fs::write(out, "found").unwrap();
            return;
        }
        run_in_a_make(&|make| {
            make.arg("-j3");
        });
    }

    /// As Spack's installer has it for a make before 4.4: a FIFO of its own, by the numbers of inherited descriptors.
    #[test]
    fn a_fifo_by_its_descriptors() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        let keeper = fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
        nix::unistd::write(&keeper, b"++").unwrap();
        // What dup(2) gives is open in what is started, too.
        let [read, write] = [(); 2].map(|()| nix::unistd::dup(&keeper).unwrap());
        let flags = format!(" -j3 --jobserver-auth={},{}", read.as_raw_fd(), write.as_raw_fd());
        run_in_a_make(&|make| {
            make.env("MAKEFLAGS", &flags);
        });
        let mut tokens = [0; 3];
        assert_eq!(nix::unistd::read(&keeper, &mut tokens), Ok(2), "all are back");
    }

    /// Runs [`the_jobserver_of_a_real_make`] below a make with what `change` adds.
    fn run_in_a_make(change: &dyn Fn(&mut Command)) {
        let dir = tempfile::tempdir().unwrap();
        let program = std::env::current_exe().unwrap();
        let recipe = format!("all:\n\t{} --exact jobserver::tests::the_jobserver_of_a_real_make\n", program.display());
        fs::write(dir.path().join("Makefile"), recipe).unwrap();
        let out = dir.path().join("out");
        let mut make = Command::new("make");
        make.current_dir(dir.path()).env(CHILD, &out).env_remove("MAKEFLAGS").env_remove("MFLAGS").stdin(Stdio::null());
        change(&mut make);
        let make = make.output().unwrap();
        assert!(make.status.success(), "{}", String::from_utf8_lossy(&make.stdout));
        assert!(make.stderr.is_empty(), "{}", String::from_utf8_lossy(&make.stderr));
        assert_eq!(fs::read(out).unwrap(), b"found");
    }
}
