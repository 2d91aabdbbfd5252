//! The ranks of a session, from launcher to end: what starts them, where their socket and their output are, how they
//! are made to go. How a launcher is called is [`launcher`]'s business.

use crate::environment::{self, apply, variable};
use crate::error::{Failure, exit};
use crate::launcher::{self, Family, Launcher, Plan};
use crate::paths::{self, Installation, SOCKET_PATH_BYTES_MAX};
use crate::session;
use crate::signals::Signals;
use crate::size::Size;
use mpicc_proxy_abi as abi;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, geteuid};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long the ranks may take to get ready. An mpiexec over ssh to a few hundred hosts takes some 20 s.
const START_TIMEOUT_S: u64 = 60;
/// Overrides [`START_TIMEOUT_S`].
const START_TIMEOUT_VARIABLE: &str = "MPICC_PROXY_START_TIMEOUT_S";
/// How often to look for the ready file. Starting takes at least a quarter of a second.
const READY_POLL_MS: u64 = 10;
/// How long `mpiexec --version` may take before we do without an answer.
const VERSION_TIMEOUT_S: u64 = 10;
/// How long a launcher may take to end after SIGTERM.
const TERMINATE_TIMEOUT_S: u64 = 5;
/// How much of the launcher's output an error message shows; the whole of any real complaint.
const LOG_SHOWN_BYTES_MAX: u64 = 64 << 10;

/// The ranks of a session, from launcher to end.
pub struct Ranks {
    directory: TempDir,
    pub socket: PathBuf,
    launcher: Child,
    /// File name of the launcher, for sentences.
    name: String,
    ended: Option<ExitStatus>,
}

impl Ranks {
    /// Starts the ranks and waits until all are ready.
    pub fn start(options: &session::Options, installation: &Installation, signals: &Signals) -> Result<Ranks, Failure> {
        let rank = installation.rank().map_err(Failure::no_ranks)?;
        installation.client().map_err(Failure::no_ranks)?;
        let timeout_s = start_timeout_s()?;
        let wrap = launcher::split_words(options.wrap_worker.as_deref().unwrap_or_default())
            .map_err(|why| Failure::new(exit::USAGE, format!("cannot split --wrap-worker into words: {why}")))?;
        if options.wrap_worker.is_some() && wrap.is_empty() {
            let why = "--wrap-worker names no command; leave it out, or say what is to start the workers";
            return Err(Failure::new(exit::USAGE, why.to_owned()));
        }
        let search = std::env::var_os("PATH");
        let find = |name: &str| {
            let found = paths::find_command(OsStr::new(name), search.as_deref(), |_| true).ok()?;
            std::path::absolute(found).ok()
        };
        if let Some(first) = wrap.first()
            && let Err(why) = paths::find_command(first, search.as_deref(), |_| true)
        {
            let cause = Failure::command(first, why).sentence;
            return Err(Failure::no_ranks(format!("--wrap-worker: {cause}")));
        }
        let allocation = launcher::allocation(|name| std::env::var_os(name), |path| fs::read(path).ok());
        let launcher = launcher::choose(options.launcher, find("mpiexec"), find("srun"), allocation.slurm)
            .map_err(Failure::no_ranks)?;
        let directory = private_directory().map_err(Failure::no_ranks)?;
        let family = match (&launcher, find("mpiexec")) {
            (Launcher::Mpiexec(mpiexec), _) => probe_family(mpiexec, directory.path(), signals),
            // srun must be told which PMI the rank program's MPI speaks; the mpiexec beside it tells.
            (Launcher::Srun(_), Some(mpiexec)) => probe_family(&mpiexec, directory.path(), signals),
            (Launcher::Srun(_), None) => Ok(Family::Other),
        }
        .map_err(Failure::no_ranks)?;

        let socket = directory.path().join("socket");
        let ready_file = directory.path().join("ready");
        let rank_options = RankOptions {
            socket: Some(socket.clone()),
            slots: options.slots,
            store_bytes: options.store_bytes,
            local_jobs: options.local_jobs,
            ready_file: Some(ready_file.clone()),
            history: options.history.clone(),
        };
        let in_allocation = allocation.hosts > 1 || allocation.slurm;
        let plan = Plan {
            launcher,
            family,
            workers: options.workers.unwrap_or(allocation.hosts),
            allocation,
            wrap,
            rank: std::iter::once(rank.into_os_string()).chain(rank_options.to_arguments()).collect(),
            root: geteuid().is_root(),
        };
        let line = launcher::command_line(&plan);
        let child = spawn_launcher(&line, &log_path(&directory), signals)
            .map_err(|e| Failure::no_ranks(format!("cannot execute {}: {e}", line[0].display())))?;
        let name = Path::new(&line[0]).file_name().unwrap_or_default().display().to_string();
        let mut ranks = Ranks { directory, socket, launcher: child, name, ended: None };

        let deadline = Instant::now() + Duration::from_secs(timeout_s);
        loop {
            if ready_file.exists() {
                return Ok(ranks);
            }
            let why = if let Some(signal) = signals.asked_to_end() {
                ranks.end(signals, Duration::ZERO);
                let sentence = format!("{signal} while the ranks were starting; nothing was built");
                return Err(Failure::new(exit::SIGNAL_BASE + signal as u8, sentence));
            } else if let Some(status) = ranks.poll() {
                format!("{} ended ({status}) before they were ready", ranks.name)
            } else if Instant::now() >= deadline {
                let hint = match in_allocation {
                    true => "; rank 0 must be on this machine: is it the first host of the allocation?",
                    false => "",
                };
                format!("they were not ready after {timeout_s} s (set {START_TIMEOUT_VARIABLE} for more){hint}")
            } else {
                let soon = Instant::now() + Duration::from_millis(READY_POLL_MS);
                signals.wait(Some(soon)).map_err(Failure::no_ranks)?;
                continue;
            };
            ranks.end(signals, Duration::ZERO);
            return Err(ranks.start_failure(&why, &line));
        }
    }

    /// The launcher's status, once it has ended.
    pub fn poll(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.launcher.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Waits for the launcher, then makes it end. Open MPI 4 and 5 end their ranks up to two seconds later.
    pub fn end(&mut self, signals: &Signals, patience: Duration) {
        let pid = Pid::from_raw(self.launcher.id() as i32);
        type Step = (fn(Pid) -> nix::Result<()>, Duration);
        let steps: [Step; 3] = [
            (|_| Ok(()), patience),
            (|pid| kill(pid, Signal::SIGTERM), Duration::from_secs(TERMINATE_TIMEOUT_S)),
            (|pid| killpg(pid, Signal::SIGKILL), Duration::from_secs(TERMINATE_TIMEOUT_S)),
        ];
        for (action, patience) in steps {
            if self.poll().is_some() {
                return;
            }
            // It is not reaped yet, so the id is still the launcher's.
            let _ = action(pid);
            self.ended = signals.wait_for(&mut self.launcher, Instant::now() + patience).ok().flatten();
        }
    }

    /// Why the dispatcher does not answer, in words.
    pub fn cause_of_loss(&mut self, error: &io::Error) -> String {
        match self.poll() {
            Some(status) => format!("{} ended, {status}", self.name),
            None if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                "nobody listens on its socket any more".into()
            }
            None => error.to_string(),
        }
    }

    /// Removes all but the log, and returns its path.
    pub fn keep_log(self) -> String {
        let directory = self.directory.keep();
        for name in ["socket", "ready", "version"] {
            let _ = fs::remove_file(directory.join(name));
        }
        directory.join("log").display().to_string()
    }

    fn start_failure(self, why: &str, line: &[OsString]) -> Failure {
        let words: Vec<_> = line.iter().map(|word| word.to_string_lossy()).collect();
        let output = read_tail(&log_path(&self.directory), LOG_SHOWN_BYTES_MAX)
            .unwrap_or_else(|e| format!("(cannot be read: {e})"));
        let output = if output.is_empty() { "(nothing)" } else { output.trim_end() };
        Failure::no_ranks(why).with_details(format!("command: {}\noutput:\n{output}", words.join(" ")))
    }
}

fn log_path(directory: &TempDir) -> PathBuf {
    directory.path().join("log")
}

fn start_timeout_s() -> Result<u64, Failure> {
    let Some(value) = std::env::var_os(START_TIMEOUT_VARIABLE) else { return Ok(START_TIMEOUT_S) };
    value.to_str().and_then(|text| text.parse().ok()).ok_or_else(|| {
        let sentence = format!("{START_TIMEOUT_VARIABLE}={} is not a number of seconds", value.display());
        Failure::new(exit::USAGE, sentence)
    })
}

/// A directory for the session, mode 0700, under a name short enough for a socket in it.
fn private_directory() -> Result<TempDir, String> {
    let runtime = variable(b"XDG_RUNTIME_DIR").map(PathBuf::from);
    let mut tried = Vec::new();
    for base in runtime.into_iter().chain([PathBuf::from("/tmp")]) {
        let made = tempfile::Builder::new()
            .prefix("mpicc-proxy.")
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(&base);
        match made {
            Ok(directory) if directory.path().join("socket").as_os_str().len() <= SOCKET_PATH_BYTES_MAX => {
                return Ok(directory);
            }
            Ok(_) => tried.push(format!("{} is too long for a socket", base.display())),
            Err(e) => tried.push(format!("{}: {e}", base.display())),
        }
    }
    Err(format!("cannot make a directory for the session: {}", tried.join("; ")))
}

/// Asks mpiexec what it is.
fn probe_family(mpiexec: &Path, directory: &Path, signals: &Signals) -> Result<Family, String> {
    let path = directory.join("version");
    let asked = || -> io::Result<Family> {
        let output = File::create(&path)?;
        let line = [mpiexec.into(), "--version".into()];
        let mut command = rank_side_command(&line, output, signals)?;
        let mut child = command.spawn()?;
        let deadline = Instant::now() + Duration::from_secs(VERSION_TIMEOUT_S);
        if signals.wait_for(&mut child, deadline)?.is_none() {
            child.kill()?;
            child.wait()?;
        }
        Ok(launcher::family(&fs::read(&path)?))
    };
    asked().map_err(|e| format!("cannot ask {} for its version: {e}", mpiexec.display()))
}

/// A command on the ranks' side: without our library, without the terminal, ended by the kernel if we die.
fn rank_side_command(line: &[OsString], output: File, signals: &Signals) -> io::Result<Command> {
    let mut command = Command::new(&line[0]);
    command.args(&line[1..]).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    apply(&mut command, &environment::of_launcher(variable(abi::env::LD_PRELOAD).as_deref().map(OsStrExt::as_bytes)));
    signals.hide_from(&mut command);
    let parent = nix::unistd::getpid();
    // SAFETY: the closure makes async-signal-safe calls only, and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::setsid()?;
            nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
            // The parent may have died before the kernel was told.
            if nix::unistd::getppid() != parent { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
        });
    }
    Ok(command)
}

fn spawn_launcher(line: &[OsString], log: &Path, signals: &Signals) -> io::Result<Child> {
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(log)?;
    rank_side_command(line, log, signals)?.spawn()
}

/// The end of a file, as text for people.
fn read_tail(path: &Path, bytes_max: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let skipped = length.saturating_sub(bytes_max);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes)?;
    let note = if skipped > 0 { format!("[{skipped} bytes before this are not shown]\n") } else { String::new() };
    Ok(note + &String::from_utf8_lossy(&bytes))
}

/// Options of the rank program, and of `mpicc-proxy dispatch`, which becomes it. All ranks get the same.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RankOptions {
    /// Where the dispatcher (rank 0) listens [default: $MPICC_PROXY_SOCKET, else
    /// $XDG_RUNTIME_DIR/mpicc-proxy/socket, else /tmp/mpicc-proxy-$UID/socket]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Compiles that one worker runs at a time [default: the CPUs it may use]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub slots: Option<u32>,

    /// Memory for files of the head on each host: bytes, or with K, M or G [default: a quarter of what is free, at
    /// most 8G]
    #[arg(long, value_name = "SIZE")]
    pub store_bytes: Option<Size>,

    /// Jobs on this machine at a time, for builds without a jobserver (ninja, `make -j` without a number) [default: the
    /// CPUs that rank 0 may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub local_jobs: Option<u32>,

    /// Make this file, on rank 0, when every rank is ready
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,

    /// Keep here what compiles use, so that later sessions know what to send; `off` keeps it nowhere [default:
    /// $MPICC_PROXY_HISTORY, else $XDG_CACHE_HOME/mpicc-proxy/history-1.sqlite, else the same in ~/.cache]
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
}

impl RankOptions {
    /// The socket to listen on.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(paths::own_socket_path)
    }

    /// Where what compiles use is kept.
    pub fn history(&self) -> Option<PathBuf> {
        paths::history_file(self.history.as_deref(), |name| std::env::var_os(name))
    }

    /// The command line that reads back as these options.
    pub fn to_arguments(&self) -> Vec<OsString> {
        let slots = self.slots.map(|slots| OsString::from(slots.to_string()));
        let store_bytes = self.store_bytes.map(|size| OsString::from(size.bytes().to_string()));
        let local_jobs = self.local_jobs.map(|jobs| OsString::from(jobs.to_string()));
        let options = [
            ("--socket", self.socket.as_deref().map(Path::as_os_str)),
            ("--slots", slots.as_deref()),
            ("--store-bytes", store_bytes.as_deref()),
            ("--local-jobs", local_jobs.as_deref()),
            ("--ready-file", self.ready_file.as_deref().map(Path::as_os_str)),
            ("--history", self.history.as_deref().map(Path::as_os_str)),
        ];
        let given = options.into_iter().filter_map(|(name, value)| Some((name, value?)));
        given.flat_map(|(name, value)| [name.into(), value.to_os_string()]).collect()
    }
}
