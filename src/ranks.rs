//! The ranks of a session, from launcher to end: what starts them, where their socket and their output are, how they
//! are made to go, and to come again. How a launcher is called is [`launcher`]'s business, and when it is called again that
//! of [`crate::upkeep`].

use crate::environment::{self, apply, variable};
use crate::error::{Failure, exit};
use crate::journal;
use crate::launcher::{self, Choice, Family, Launcher, Plan};
use crate::paths::{self, Installation};
use crate::pidfd;
use crate::private_folder::PrivateFolder;
use crate::session;
use crate::signals::Signals;
use crate::size::Size;
use mpicc_proxy_abi as abi;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, geteuid};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{io, mem};

/// How long the ranks may take to get ready. An mpiexec over ssh to a few hundred hosts takes some 20 s.
const START_TIMEOUT_S: u64 = 60;
/// Overrides [`START_TIMEOUT_S`].
const START_TIMEOUT_VARIABLE: &str = "MPICC_PROXY_START_TIMEOUT_S";
/// In the folder of the session.
pub const SOCKET_NAME: &str = "socket";
/// The file in which rank 0 says that all are ready.
const READY_NAME: &str = "ready";
/// The file of what the ranks and their launcher write.
const LOG_NAME: &str = "log";
/// How often to look for the ready file. Starting takes at least a quarter of a second.
const READY_POLL_MS: u64 = 10;
/// How long `mpiexec --version` and its like may take before we do without an answer.
const ANSWER_TIMEOUT_S: u64 = 10;
/// How long a launcher may take to end after SIGTERM.
const TERMINATE_TIMEOUT_S: u64 = 5;
/// How much of the launcher's output an error message shows; the whole of any real complaint.
const LOG_SHOWN_BYTES_MAX: u64 = 64 << 10;

/// The ranks of a session, from launcher to end.
pub struct Ranks {
    directory: PrivateFolder,
    pub socket: PathBuf,
    plan: Plan,
    launcher: Child,
    ended: Option<ExitStatus>,
    /// Rank 0, once it is ready; `None`: it cannot be seen from here.
    rank_0: Option<OwnedFd>,
    start_timeout_s: u64,
    start_by: Instant,
}

/// How far ranks are that were started.
pub enum Progress {
    Starting,
    Ready,
    /// Why they are not, and will not be.
    Failed(String),
}

impl Ranks {
    /// Starts the ranks and waits until all are ready. A session that starts ranks again when they die also does so when
    /// the first start fails, once: one of them may have been struck while it started, and what will never start costs its
    /// user twice the time, before anything was built.
    /// `events`: the session's event log, if there is one.
    pub fn start(
        options: &session::Options,
        installation: &Installation,
        events: Option<&Path>,
        signals: &Signals,
    ) -> Result<Ranks, Failure> {
        let rank = installation.rank().map_err(Failure::no_ranks)?;
        installation.client().map_err(Failure::no_ranks)?;
        let start_timeout_s = start_timeout_s()?;
        let wrap = options.launch.wrap()?;
        let directory = PrivateFolder::make(SOCKET_NAME).map_err(Failure::no_ranks)?;
        let rank_options = RankOptions {
            socket: Some(socket_in(&directory)),
            slots: options.slots,
            store_bytes: options.store_bytes,
            local_jobs: options.local_jobs,
            ready_file: Some(ready_file(&directory)),
            history: options.history.clone(),
            events: Some(events.unwrap_or(Path::new("off")).to_path_buf()),
            session: (options.relaunches > 0).then(session::new_name),
        };
        let rank = std::iter::once(rank.into_os_string()).chain(rank_options.to_arguments()).collect();
        let plan = options.launch.plan(wrap, rank, directory.path(), signals).map_err(Failure::no_ranks)?;
        let mut ranks = Ranks::launch(plan, directory, start_timeout_s, signals).map_err(Failure::no_ranks)?;
        let mut again = options.relaunches > 0;
        loop {
            let why = match ranks.progress() {
                Progress::Ready => return Ok(ranks),
                Progress::Failed(why) => why,
                Progress::Starting => {
                    let soon = Instant::now() + Duration::from_millis(READY_POLL_MS);
                    signals.wait(Some(soon)).map_err(Failure::no_ranks)?;
                    let Some(signal) = signals.asked_to_end() else { continue };
                    ranks.end(signals, Duration::ZERO);
                    let sentence = format!("{signal} while the ranks were starting; nothing was built");
                    return Err(Failure::new(exit::SIGNAL_BASE + signal as u8, sentence));
                }
            };
            ranks.end(signals, Duration::ZERO);
            if !mem::take(&mut again) || signals.asked_to_end().is_some() {
                return Err(ranks.start_failure(&why));
            }
            // Of two complaints the second is shown.
            let _ = fs::write(ranks.log(), "");
            let workers = ranks.workers();
            ranks.start_again(Vec::new(), workers, signals).map_err(Failure::no_ranks)?;
        }
    }

    /// Starts the launcher. Its ranks are to be ready within so many seconds.
    ///
    /// # Errors
    /// A sentence: it cannot be executed.
    pub fn launch(
        plan: Plan,
        directory: PrivateFolder,
        start_timeout_s: u64,
        signals: &Signals,
    ) -> Result<Ranks, String> {
        let line = launcher::command_line(&plan);
        let launcher = spawn_launcher(&line, &log_path(&directory), signals)?;
        Ok(Ranks {
            socket: socket_in(&directory),
            directory,
            plan,
            launcher,
            ended: None,
            rank_0: None,
            start_timeout_s,
            start_by: Instant::now() + Duration::from_secs(start_timeout_s),
        })
    }

    /// File name of the launcher, for sentences.
    pub fn name(&self) -> String {
        self.plan.launcher.program().file_name().unwrap_or_default().display().to_string()
    }

    /// What the ranks and their launcher wrote, or the end of it.
    pub fn output(&self) -> String {
        read_tail(&log_path(&self.directory), LOG_SHOWN_BYTES_MAX).unwrap_or_else(|e| format!("(cannot be read: {e})"))
    }

    /// Are those that were started ready?
    pub fn progress(&mut self) -> Progress {
        if let Ok(pid) = fs::read_to_string(ready_file(&self.directory)) {
            self.rank_0 = pid.trim().parse().ok().and_then(|pid| pidfd::open(pid).ok());
            return Progress::Ready;
        }
        if let Some(status) = self.poll() {
            return Progress::Failed(format!("{} ended ({status}) before they were ready", self.name()));
        }
        if Instant::now() < self.start_by {
            return Progress::Starting;
        }
        let in_allocation = self.plan.allocation.hosts > 1 || self.plan.allocation.slurm;
        let hint = match in_allocation {
            true => "; rank 0 must be on this machine: is it the first host of the allocation?",
            false => "",
        };
        let timeout_s = self.start_timeout_s;
        Progress::Failed(format!(
            "they were not ready after {timeout_s} s (set {START_TIMEOUT_VARIABLE} for more){hint}"
        ))
    }

    /// What died of ranks that were ready: rank 0, with which all others end, or the launcher.
    pub fn loss(&mut self) -> Option<String> {
        if let Some(status) = self.poll() {
            return Some(format!("{} ended, {status}", self.name()));
        }
        let is_gone = self.rank_0.as_ref().is_some_and(pidfd::has_ended);
        is_gone.then(|| "rank 0 ended".to_owned())
    }

    /// Tells what is left of ranks that lost one of them to go, without waiting.
    pub fn dismiss(&mut self, signal: Signal) {
        if self.poll().is_none() {
            // It is not reaped yet, so the id is still the launcher's.
            let launcher = Pid::from_raw(self.launcher.id() as i32);
            let _ = if signal == Signal::SIGKILL { killpg(launcher, signal) } else { kill(launcher, signal) };
        }
        if let Some(rank_0) = &self.rank_0 {
            pidfd::kill(rank_0);
        }
    }

    /// Starts ranks again, on these hosts (the one of rank 0 first; none: all of the allocation), after the others have
    /// ended. Their output goes where that of the others went.
    ///
    /// # Errors
    /// The launcher cannot be executed.
    pub fn start_again(&mut self, hosts: Vec<String>, workers: u32, signals: &Signals) -> Result<(), String> {
        for name in [ready_file(&self.directory), self.socket.clone()] {
            let _ = fs::remove_file(name);
        }
        (self.plan.hosts, self.plan.workers) = (hosts, workers);
        self.launcher = spawn_launcher(&launcher::command_line(&self.plan), &log_path(&self.directory), signals)?;
        (self.ended, self.rank_0) = (None, None);
        self.start_by = Instant::now() + Duration::from_secs(self.start_timeout_s);
        Ok(())
    }

    /// Worker ranks of the last start.
    pub fn workers(&self) -> u32 {
        self.plan.workers
    }

    /// Has the launcher call one of its hosts, which it reaches if the call ends with status 0.
    ///
    /// # Errors
    /// The launcher cannot be executed.
    pub fn call(&self, host: &str, signals: &Signals) -> Result<Child, String> {
        spawn_launcher(&launcher::roll_call(&self.plan, host), &log_path(&self.directory), signals)
    }

    /// The launcher's status, once it has ended.
    pub fn poll(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.launcher.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Waits for the launcher to end by itself, or for a signal that asks us to.
    pub fn wait(&mut self, signals: &Signals, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        while self.poll().is_none() && signals.asked_to_end().is_none() && Instant::now() < deadline {
            if signals.wait(Some(deadline)).is_err() {
                break;
            }
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

    /// Removes all but the log, and returns its path.
    pub fn keep_log(self) -> String {
        self.directory.keep(LOG_NAME).display().to_string()
    }

    /// The file of what the ranks and their launcher write.
    pub fn log(&self) -> PathBuf {
        log_path(&self.directory)
    }

    fn start_failure(self, why: &str) -> Failure {
        let line = launcher::command_line(&self.plan);
        let words: Vec<_> = line.iter().map(|word| word.to_string_lossy()).collect();
        let output = self.output();
        let output = if output.is_empty() { "(nothing)" } else { output.trim_end() };
        Failure::no_ranks(why).with_details(format!("command: {}\noutput:\n{output}", words.join(" ")))
    }
}

fn ready_file(directory: &PrivateFolder) -> PathBuf {
    directory.path().join(READY_NAME)
}

fn log_path(directory: &PrivateFolder) -> PathBuf {
    directory.path().join(LOG_NAME)
}

fn socket_in(directory: &PrivateFolder) -> PathBuf {
    directory.path().join(SOCKET_NAME)
}

/// How long the ranks may take to get ready.
///
/// # Errors
/// The variable that overrides it makes no sense.
pub fn start_timeout_s() -> Result<u64, Failure> {
    let Some(value) = std::env::var_os(START_TIMEOUT_VARIABLE) else { return Ok(START_TIMEOUT_S) };
    value.to_str().and_then(|text| text.parse().ok()).ok_or_else(|| {
        let sentence = format!("{START_TIMEOUT_VARIABLE}={} is not a number of seconds", value.display());
        Failure::new(exit::USAGE, sentence)
    })
}

/// What a command on the ranks' side prints. One that takes long is ended, and what it printed until then counts.
///
/// # Errors
/// It cannot be executed.
pub fn ask(line: &[OsString], directory: &Path, signals: &Signals) -> io::Result<Vec<u8>> {
    let path = directory.join("answer");
    let mut child = rank_side_command(line, File::create(&path)?, signals)?.spawn()?;
    let deadline = Instant::now() + Duration::from_secs(ANSWER_TIMEOUT_S);
    if signals.wait_for(&mut child, deadline)?.is_none() {
        child.kill()?;
        child.wait()?;
    }
    fs::read(&path)
}

/// Asks mpiexec what it is.
fn family(mpiexec: &Path, directory: &Path, signals: &Signals) -> Result<Family, String> {
    ask(&version_question(mpiexec), directory, signals)
        .map(|version| launcher::family(&version))
        .map_err(|e| format!("cannot ask {} for its version: {e}", mpiexec.display()))
}

/// The command that makes mpiexec say what it is.
pub fn version_question(mpiexec: &Path) -> [OsString; 2] {
    [mpiexec.into(), "--version".into()]
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

fn spawn_launcher(line: &[OsString], log: &Path, signals: &Signals) -> Result<Child, String> {
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(log);
    log.and_then(|log| rank_side_command(line, log, signals)?.spawn())
        .map_err(|e| format!("cannot execute {}: {e}", line[0].display()))
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

/// Finds a program in PATH; its absolute path.
pub fn find(name: &str) -> Option<PathBuf> {
    let found = paths::find_command(OsStr::new(name), std::env::var_os("PATH").as_deref(), |_| true).ok()?;
    std::path::absolute(found).ok()
}

/// Options of all commands that start ranks: how many, and through what.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct LaunchOptions {
    /// Worker ranks to start [default: one per host of the allocation; outside any, one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub workers: Option<u32>,

    /// What starts the ranks
    #[arg(long, value_enum, default_value_t, value_name = "LAUNCHER")]
    pub launcher: Choice,

    /// Start each worker rank through this command (a container, a namespace, numactl)
    #[arg(long, value_name = "'CMD ARGS'")]
    pub wrap_worker: Option<OsString>,
}

impl LaunchOptions {
    /// The words of `--wrap-worker`.
    ///
    /// # Errors
    /// It makes no sense.
    pub fn wrap(&self) -> Result<Vec<OsString>, Failure> {
        let wrap = launcher::split_words(self.wrap_worker.as_deref().unwrap_or_default())
            .map_err(|why| Failure::new(exit::USAGE, format!("cannot split --wrap-worker into words: {why}")))?;
        if self.wrap_worker.is_some() && wrap.is_empty() {
            let why = "--wrap-worker names no command; leave it out, or say what is to start the workers";
            return Err(Failure::new(exit::USAGE, why.to_owned()));
        }
        Ok(wrap)
    }

    /// How ranks with the command line `rank` are started here.
    ///
    /// # Errors
    /// A sentence: what is missing.
    pub fn plan(
        &self,
        mut wrap: Vec<OsString>,
        rank: Vec<OsString>,
        directory: &Path,
        signals: &Signals,
    ) -> Result<Plan, String> {
        if let Some(first) = wrap.first_mut() {
            paths::find_command(first, std::env::var_os("PATH").as_deref(), |_| true)
                .map_err(|why| format!("--wrap-worker: {}", Failure::command(first, why)))?;
            // Workers start in another folder than this one.
            if first.as_bytes().contains(&b'/') {
                *first = std::path::absolute(&*first).map_err(|e| e.to_string())?.into_os_string();
            }
        }
        let allocation = launcher::allocation(|name| std::env::var_os(name), |path| fs::read(path).ok());
        let launcher = launcher::choose(self.launcher, find("mpiexec"), find("srun"), allocation.slurm)?;
        let family = match (&launcher, find("mpiexec")) {
            (Launcher::Mpiexec(mpiexec), _) => family(mpiexec, directory, signals),
            // srun must be told which PMI the rank program's MPI speaks; the mpiexec beside it tells.
            (Launcher::Srun(_), Some(mpiexec)) => family(&mpiexec, directory, signals),
            (Launcher::Srun(_), None) => Ok(Family::Other),
        }?;
        let workers = self.workers.unwrap_or(allocation.hosts);
        let root = geteuid().is_root();
        Ok(Plan { launcher, family, allocation, hosts: Vec::new(), workers, wrap, rank, root })
    }
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

    /// Write what happens to FILE, as lines of JSON for `report` and `top`; `off` writes nothing [default: a new file in
    /// $MPICC_PROXY_EVENTS, else in $XDG_STATE_HOME/mpicc-proxy/sessions, else in ~/.local/state/mpicc-proxy/sessions]
    #[arg(long, value_name = "FILE")]
    pub events: Option<PathBuf>,

    /// The session, which may have had other ranks before (`run` sets it)
    #[arg(long, hide = true)]
    pub session: Option<String>,
}

impl RankOptions {
    /// The socket to listen on.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(paths::own_socket_path)
    }

    /// Where what compiles use is kept.
    pub fn history(&self) -> Option<PathBuf> {
        paths::own_history_file(self.history.as_deref())
    }

    /// The event log. To be called once: it may be a new file.
    pub fn events(&self) -> Option<PathBuf> {
        journal::folder::new_file(self.events.as_deref(), journal::folder::own_folder())
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
            ("--events", self.events.as_deref().map(Path::as_os_str)),
            ("--session", self.session.as_deref().map(OsStr::new)),
        ];
        let given = options.into_iter().filter_map(|(name, value)| Some((name, value?)));
        given.flat_map(|(name, value)| [name.into(), value.to_os_string()]).collect()
    }
}
