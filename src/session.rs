//! One `mpicc-proxy run`: start the ranks, run the command under the preload library, stop the ranks, say what
//! happened. It does not know how a compile works; it talks to the dispatcher as any client does.
//!
//! # Who gets which signal
//! The command stays in our process group, so the terminal's signals reach it directly and we only have to outlive
//! them. The ranks are in a session of their own: neither Ctrl-C nor a closing terminal touches them before the
//! command has ended. If we are killed outright, the kernel ends the launcher (PR_SET_PDEATHSIG), and ranks end with
//! their launcher.

use crate::environment::{self, Change};
use crate::error::{Failure, exit};
use crate::jobs;
use crate::journal::{self, Log};
use crate::paths::{self, Installation};
use crate::ranks::{LaunchOptions, Ranks};
use crate::signals::{self, Signals};
use crate::size::Size;
use crate::status;
use crate::upkeep::{Outcome, Upkeep};
use crate::wire::Stats;
use mpicc_proxy_abi as abi;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

/// How long the ranks may take to end: workers kill their compilers, MPI_Finalize synchronises all hosts.
const STOP_TIMEOUT_S: u64 = 10;

/// Options of `mpicc-proxy run`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    pub launch: LaunchOptions,

    /// Compiles that one worker runs at a time [default: the CPUs it may use]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub slots: Option<u32>,

    /// Memory for files of the head on each host: bytes, or with K, M or G [default: a quarter of what is free, at
    /// most 8G]
    #[arg(long, value_name = "SIZE")]
    pub store_bytes: Option<Size>,

    /// Jobs on this machine at a time, for a build that does not say itself (`make -jN` does) [default: the CPUs that
    /// may be used]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub local_jobs: Option<u32>,

    /// Start the ranks again when they died, so many times in a row
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub relaunches: u32,

    /// Write the numbers of the session to FILE, as one JSON object
    #[arg(long, value_name = "FILE")]
    pub stats: Option<PathBuf>,

    /// Keep here what compiles use, so that later sessions know what to send; `off` keeps it nowhere [default:
    /// $MPICC_PROXY_HISTORY, else $XDG_CACHE_HOME/mpicc-proxy/history-1.sqlite, else the same in ~/.cache]
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,

    /// Write what happens to FILE, as lines of JSON for `report` and `top`; `off` writes nothing [default: a new file in
    /// $MPICC_PROXY_EVENTS, else in $XDG_STATE_HOME/mpicc-proxy/sessions, else in ~/.local/state/mpicc-proxy/sessions]
    #[arg(long, value_name = "FILE")]
    pub events: Option<PathBuf>,

    /// The build command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Runs a session; returns the exit status of the command.
///
/// # Errors
/// The command was not run, for the reason in the sentence.
pub fn run(options: &Options) -> Result<u8, Failure> {
    let signals = Signals::watch().map_err(|e| Failure::no_ranks(format!("cannot watch for signals: {e}")))?;
    let name = &options.command[0];
    // Before the ranks: a typo should not cost a second and a screen of output.
    paths::find_command(name, std::env::var_os("PATH").as_deref(), |_| true)
        .map_err(|why| Failure::command(name, why))?;
    check_distinct(options)?;
    let stats_file = options.stats.as_deref().map(StatsFile::create).transpose()?;

    if environment::variable(abi::env::SWITCH).is_some_and(|value| abi::env::is_off(value.as_bytes())) {
        let start = Instant::now();
        let ended = run_command(&signals, &options.command, &[], |_| None)?;
        let nothing = Stats { wall_s: start.elapsed().as_secs_f64(), ..Stats::default() };
        conclude(stats_file, &nothing, true, "switched off (MPICC_PROXY=off), so everything ran locally");
        return Ok(exit_status(ended));
    }

    let installation = Installation::of_this_program().map_err(Failure::no_ranks)?;
    let library = installation.library().map_err(Failure::no_ranks)?;
    let log = Log::begin(options.events.as_deref(), &options.command)?;
    let ranks = Ranks::start(options, &installation, log.file(), &signals).inspect_err(|e| log.abandon(e.status))?;
    let mut upkeep = Upkeep::new(ranks, options.relaunches, &signals);
    let mut changes = environment::of_command(
        environment::variable(abi::env::LD_PRELOAD).as_deref().map(OsStrExt::as_bytes),
        library.as_os_str().as_bytes(),
        upkeep.socket().as_os_str().as_bytes(),
    );
    let [makeflags, gnumakeflags] =
        [jobs::MAKEFLAGS, jobs::GNUMAKEFLAGS].map(|name| environment::variable(name).unwrap_or_default());
    let flags = jobs::Flags { makeflags: makeflags.as_bytes(), gnumakeflags: gnumakeflags.as_bytes() };
    let read = |path: &Path| std::fs::read(path);
    changes.extend(jobs::change(&options.command, flags, options.local_jobs, jobs::own_cpus(), read));
    let start = Instant::now();
    let ended = run_command(&signals, &options.command, &changes, |now| Some(upkeep.look(now)));
    let wall_s = start.elapsed().as_secs_f64();
    let command_us = journal::unix_us();
    let (outcome, ranks) = upkeep.finish(Duration::from_secs(STOP_TIMEOUT_S));
    let status = ended.as_ref().map_or_else(|failure| failure.status, |ended| exit_status(*ended));
    log.end(status, Some(command_us));
    ended?;
    match outcome {
        Outcome::Complete { stats, note } => {
            let complete = note.is_none();
            let note = note.or_else(|| status::lost(&stats, &ranks.log().display().to_string()));
            let stats = Stats { wall_s, ..stats };
            let sentence = status::summary(&stats) + note.as_deref().unwrap_or_default() + &log.hint();
            conclude(stats_file, &stats, complete, &sentence);
            if note.is_some() {
                ranks.keep_log();
            }
        }
        Outcome::Lost { known, cause } => {
            let sentence = status::trouble(known.as_ref(), &cause, &ranks.keep_log()) + &log.hint();
            let stats = known.map(|(stats, _)| stats).unwrap_or_default();
            conclude(stats_file, &Stats { wall_s, ..stats }, false, &sentence);
        }
    }
    Ok(status)
}

/// Files that are written must not be one.
fn check_distinct(options: &Options) -> Result<(), Failure> {
    let history = paths::own_history_file(options.history.as_deref());
    let events = options.events.clone().filter(|file| !abi::env::is_off(file.as_os_str().as_bytes()));
    let history_option = if options.history.is_some() { "--history" } else { "MPICC_PROXY_HISTORY" };
    let named = [("--stats", options.stats.clone()), (history_option, history), ("--events", events)];
    let files: Vec<(&str, PathBuf)> = named.into_iter().filter_map(|(option, file)| Some((option, file?))).collect();
    for (number, (option, file)) in files.iter().enumerate() {
        for (other, earlier) in &files[..number] {
            if paths::is_same_place(file, earlier) {
                let sentence = format!("{other} and {option} both name {}; name two files", file.display());
                return Err(Failure::new(exit::USAGE, sentence));
            }
        }
    }
    Ok(())
}

/// A name for a session that no other has.
pub fn new_name() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    format!("{:08x}{:08x}", std::process::id(), now.map_or(0, |since| since.as_secs()) as u32)
}

/// The command's status, as a shell reports it.
fn exit_status(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, Some(signal)) => exit::SIGNAL_BASE.wrapping_add(signal as u8),
        (None, None) => exit::NOT_EXECUTABLE,
    }
}

/// The last things a session does: the file of `--stats`, and one line.
fn conclude(stats_file: Option<StatsFile>, stats: &Stats, complete: bool, sentence: &str) {
    let unwritten = stats_file.and_then(|file| file.write(stats, complete).err()).unwrap_or_default();
    // Whatever stderr is by now, a build that succeeded must not fail over it.
    let _ = writeln!(io::stderr(), "mpicc-proxy: {sentence}{unwritten}");
}

/// The file of `--stats`, opened before anything is done so that a wrong path is found at once.
struct StatsFile {
    path: PathBuf,
    file: File,
}

impl StatsFile {
    fn create(path: &Path) -> Result<StatsFile, Failure> {
        // A FIFO that nobody reads would be waited for.
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).custom_flags(libc::O_NONBLOCK);
        let open = || {
            let file = options.open(path)?;
            fcntl(&file, FcntlArg::F_SETFL(OFlag::empty()))?;
            Ok(file)
        };
        let failed = |e: io::Error| {
            let why = if e.raw_os_error() == Some(libc::ENXIO) { "nobody reads it".to_owned() } else { e.to_string() };
            Failure::new(exit::CANNOT_CREATE, format!("cannot write the statistics to {}: {why}", path.display()))
        };
        Ok(StatsFile { path: path.into(), file: open().map_err(failed)? })
    }

    /// The error is an appendix to the session's sentence.
    fn write(mut self, stats: &Stats, complete: bool) -> Result<(), String> {
        let text = format!("{:#}\n", status::json(stats, complete));
        let written = self.file.write_all(text.as_bytes());
        written.map_err(|e| format!("; cannot write the statistics to {}: {e}", self.path.display()))
    }
}

/// Runs the command to its end. `tick` is called whenever something happened or the moment it gave has come.
fn run_command(
    signals: &Signals,
    words: &[OsString],
    changes: &[Change],
    mut tick: impl FnMut(Instant) -> Option<Instant>,
) -> Result<ExitStatus, Failure> {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    environment::apply(&mut command, changes);
    signals.hide_from(&mut command);
    signals::close_again(&mut command);
    let mut child = command.spawn().map_err(|e| Failure::execution(&words[0], &e))?;
    let pid = Pid::from_raw(child.id() as i32);
    let broken = |e: io::Error| Failure::new(exit::NO_RANKS, format!("cannot wait for {}: {e}", words[0].display()));
    loop {
        if let Some(status) = child.try_wait().map_err(broken)? {
            return Ok(status);
        }
        let next = tick(Instant::now());
        for arrived in signals.wait(next).map_err(broken)? {
            let has_it = arrived.by_terminal && !is_session_leader();
            if matches!(arrived.signal, Signal::SIGTERM | Signal::SIGHUP) && !has_it {
                // Cannot hit a stranger: the child is not reaped yet. It may have ended, and then nothing happens.
                let _ = kill(pid, arrived.signal);
            }
        }
    }
}

/// A terminal that hangs up tells the session leader alone (a shell passes it on); when the leader is gone, the whole
/// foreground group is told.
fn is_session_leader() -> bool {
    nix::unistd::getsid(None) == Ok(nix::unistd::getpid())
}
