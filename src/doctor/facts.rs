//! Everything that is found out before anything is decided. Asks the system, other programs, and ranks that are started
//! as `run` would start them and only say what they see ([`crate::probe`]). Nothing of it stays.

use crate::driver::toolchain::readings::Readings;
use crate::driver::toolchain::{self, ToolchainKey};
use crate::driver::{self, Reason};
use crate::environment::{self, variable};
use crate::error::{Failure, exit};
use crate::launcher::{self, Allocation, Family, Launcher};
use crate::paths::Installation;
use crate::private_folder::PrivateFolder;
use crate::probe::{self, Seen};
use crate::ranks::{self, LaunchOptions, Ranks};
use crate::signals::Signals;
use mpicc_proxy_abi as abi;
use nix::unistd::{geteuid, gethostname};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::{IpAddr, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::mpsc;
use std::time::Duration;
use std::{fs, thread};

/// How long a name service may take. resolv.conf(5) has it try two servers twice, for 5 s each.
const RESOLVE_TIMEOUT_S: u64 = 20;

/// How long a rank that says what it sees outlives the patience for it: whoever kills it else is faster.
const PROBE_EXTRA_S: u64 = 5;

/// Compilers that are looked at, if PATH has them.
const COMPILERS: [&str; 7] = ["cc", "c++", "gcc", "g++", "gfortran", "clang", "clang++"];

/// What is known of this machine and of the ranks.
#[derive(Clone, Debug)]
pub struct Facts {
    /// `MPICC_PROXY=off`.
    pub switched_off: bool,
    /// Why compiles in this environment stay on this machine.
    pub kept_here: Option<Reason>,
    /// Sentences about parts of the installation.
    pub incomplete: Vec<String>,
    /// Shared libraries of the rank program that ld.so does not find here.
    pub libraries_not_found: Vec<String>,
    pub compilers: Vec<Compiler>,
    pub host: Host,
    pub root: bool,
    /// Open MPI was told by the environment that root may start it.
    pub root_is_allowed: bool,
    /// In a Slurm job.
    pub slurm: Option<Slurm>,
    pub start: Result<Start, Obstacle>,
}

/// Why no ranks were started.
#[derive(Clone, Debug)]
pub enum Obstacle {
    /// [`Facts::incomplete`] says it.
    Installation,
    /// There is no folder for a session's socket, for this reason.
    Folder(String),
    /// There is no launcher, for this reason.
    Launcher(String),
}

/// A compiler of this machine.
#[derive(Clone, Debug)]
pub struct Compiler {
    pub path: String,
    /// Why its compiles stay here, as the log says it.
    pub obstacle: Option<(&'static str, String)>,
}

/// This machine.
#[derive(Clone, Debug)]
pub struct Host {
    pub name: String,
    /// What its own name leads to, or why to nothing.
    pub addresses: Result<Vec<IpAddr>, String>,
}

/// What Slurm says of the job.
#[derive(Clone, Debug, Default)]
pub struct Slurm {
    pub ntasks: Option<String>,
    /// `4,1(x2)`
    pub tasks_per_node: Option<String>,
}

/// Ranks that were started to say what they see.
#[derive(Clone, Debug)]
pub struct Start {
    pub launcher: Launcher,
    pub family: Family,
    /// First lines of `mpiexec --version`, or nothing.
    pub version: String,
    pub allocation: Allocation,
    pub workers: u32,
    /// What `srun --mpi=list` prints, where srun starts the ranks.
    pub pmi_types: Option<String>,
    /// The command line that started them.
    pub command: String,
    /// It has a wrapper around workers.
    pub is_wrapped: bool,
    /// How the launcher ended, if not well.
    pub trouble: Option<String>,
    pub seen: Vec<Seen>,
    /// What was written besides.
    pub output: String,
}

impl Start {
    /// The ranks that there should be: the workers and rank 0.
    pub fn expected(&self) -> usize {
        self.workers as usize + 1
    }

    /// Did a rank not say what it sees, or the launcher not end well?
    pub fn has_failed(&self) -> bool {
        self.trouble.is_some() || self.seen.len() < self.expected()
    }

    /// Those that would compile.
    pub fn seen_workers(&self) -> impl Iterator<Item = &Seen> {
        // Where every rank believes to be alone, nobody knows which.
        self.seen.iter().filter(|seen| seen.rank > 0 || seen.size == 1)
    }
}

impl Facts {
    /// Finds out everything; takes as long as the start of a session, and some more.
    ///
    /// # Errors
    /// An option or a variable makes no sense, or a signal came.
    pub fn gather(options: &LaunchOptions, signals: &Signals) -> Result<Facts, Failure> {
        let wrap = options.wrap()?;
        let patience_s = ranks::start_timeout_s()?;
        let set = |name: &str| variable(name.as_bytes()).map(|value| value.to_string_lossy().into_owned());
        let installation = Installation::of_this_program().map_err(|e| Failure::new(exit::NO_RANKS, e.to_string()))?;
        let parts = [installation.rank(), installation.client(), installation.library()];
        let directory = PrivateFolder::make(ranks::SOCKET_NAME);
        let libraries_not_found = match (&parts[0], &directory) {
            (Ok(rank), Ok(directory)) => libraries_not_found(rank, directory.path(), signals),
            _ => Vec::new(),
        };
        let compilers = compilers();
        let start = match (&parts[0], directory) {
            (Ok(rank), Ok(directory)) => {
                let words = [rank.into(), "--probe".into(), (patience_s + PROBE_EXTRA_S).to_string().into()].to_vec();
                start(options, wrap, words, directory, signals, Duration::from_secs(patience_s))?
            }
            (Err(_), _) => Err(Obstacle::Installation),
            (_, Err(why)) => Err(Obstacle::Folder(why)),
        };
        let slurm = Slurm { ntasks: set("SLURM_NTASKS"), tasks_per_node: set("SLURM_TASKS_PER_NODE") };
        let in_slurm = ["SLURM_JOB_ID", "SLURM_JOB_NUM_NODES", "SLURM_TASKS_PER_NODE"].iter().any(|n| set(n).is_some());
        Ok(Facts {
            switched_off: variable(abi::env::SWITCH).is_some_and(|value| abi::env::is_off(value.as_bytes())),
            kept_here: driver::keeps_here(&environment::of_compiler()),
            incomplete: parts.into_iter().filter_map(|part| part.err().map(|e| e.to_string())).collect(),
            libraries_not_found,
            compilers,
            host: host(),
            root: geteuid().is_root(),
            root_is_allowed: ["OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"]
                .iter()
                .all(|name| set(name).as_deref() == Some("1")),
            slurm: in_slurm.then_some(slurm),
            start,
        })
    }
}

/// As ldd(1) does it.
fn libraries_not_found(rank: &Path, directory: &Path, signals: &Signals) -> Vec<String> {
    let line = ["/usr/bin/env".into(), "LD_TRACE_LOADED_OBJECTS=1".into(), rank.into()];
    let listed = ranks::ask(&line, directory, signals).unwrap_or_default();
    not_found(&String::from_utf8_lossy(&listed))
}

fn not_found(listed: &str) -> Vec<String> {
    listed.lines().filter_map(|line| Some(line.strip_suffix(" => not found")?.trim().to_owned())).collect()
}

/// Starts the ranks, and waits until all have said what they see and left.
fn start(
    options: &LaunchOptions,
    wrap: Vec<OsString>,
    rank: Vec<OsString>,
    directory: PrivateFolder,
    signals: &Signals,
    patience: Duration,
) -> Result<Result<Start, Obstacle>, Failure> {
    let plan = match options.plan(wrap, rank, directory.path(), signals) {
        Ok(plan) => plan,
        Err(why) => return Ok(Err(Obstacle::Launcher(why))),
    };
    let ask = |line: &[OsString]| -> String {
        let answer = ranks::ask(line, directory.path(), signals).unwrap_or_default();
        String::from_utf8_lossy(&answer).into_owned()
    };
    let (version, pmi_types) = match &plan.launcher {
        Launcher::Mpiexec(mpiexec) => (ask(&ranks::version_question(mpiexec)), None),
        Launcher::Srun(srun) => (String::new(), Some(ask(&[srun.into(), "--mpi=list".into()]))),
    };
    let line = launcher::command_line(&plan);
    let mut ranks = match Ranks::launch(plan.clone(), directory, patience.as_secs(), signals) {
        Ok(ranks) => ranks,
        Err(why) => return Ok(Err(Obstacle::Launcher(why))),
    };
    let ended = ranks.wait(signals, patience);
    ranks.end(signals, Duration::ZERO);
    if let Some(signal) = signals.asked_to_end() {
        let sentence = format!("{signal} while the ranks were looked at; they were ended");
        return Err(Failure::new(exit::SIGNAL_BASE + signal as u8, sentence));
    }
    let trouble = match ended {
        Some(status) if status.success() => None,
        Some(status) => Some(format!("{} ended with {}", ranks.name(), in_words(status))),
        None => Some(format!("{} had not ended after {} s", ranks.name(), patience.as_secs())),
    };
    let output = ranks.output();
    let words: Vec<_> = line.iter().map(|word| word.to_string_lossy()).collect();
    Ok(Ok(Start {
        is_wrapped: !plan.wrap.is_empty(),
        launcher: plan.launcher,
        family: plan.family,
        version,
        allocation: plan.allocation,
        workers: plan.workers,
        pmi_types,
        command: words.join(" "),
        trouble,
        seen: probe::read(&output),
        output: probe::others(&output),
    }))
}

fn in_words(status: ExitStatus) -> String {
    status.code().map_or_else(|| status.to_string(), |code| format!("status {code}"))
}

fn host() -> Host {
    let name = gethostname().unwrap_or_default().to_string_lossy().into_owned();
    let (send, receive) = mpsc::channel();
    let asked = name.clone();
    // A name service that does not answer must not keep us.
    thread::spawn(move || {
        let found = (asked.as_str(), 0).to_socket_addrs().map(|found| found.map(|address| address.ip()).collect());
        let _ = send.send(found);
    });
    let addresses = match receive.recv_timeout(Duration::from_secs(RESOLVE_TIMEOUT_S)) {
        Ok(found) => found.map(|found: BTreeSet<IpAddr>| found.into_iter().collect()).map_err(|e| e.to_string()),
        Err(_) => Err(format!("no answer within {RESOLVE_TIMEOUT_S} s")),
    };
    Host { name, addresses }
}

/// Compilers in PATH, each program once. Scripts and compiler caches under such a name are passed over: a build's own
/// calls go through them.
fn compilers() -> Vec<Compiler> {
    let readings = Readings::default();
    let mut known = BTreeSet::new();
    let mut compilers = Vec::new();
    for path in COMPILERS.iter().filter_map(|name| ranks::find(name)) {
        let Ok(real) = fs::canonicalize(&path) else { continue };
        let is_driver = driver::driver_at(real.as_os_str().as_bytes()).is_some();
        if !is_driver || !known.insert(real) {
            continue;
        }
        let obstacle = toolchain::inspect(&ToolchainKey::here(&path), &readings).err();
        let obstacle = obstacle.filter(|unusable| unusable.reason != "script-compiler");
        let path = path.display().to_string();
        compilers.push(Compiler { path, obstacle: obstacle.map(|unusable| (unusable.reason, unusable.detail)) });
    }
    compilers
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::probe::tests::healthy as rank;

    /// Three hosts, each with a worker, and Open MPI.
    pub fn healthy() -> Facts {
        let start = Start {
            launcher: Launcher::Mpiexec("/usr/bin/mpiexec".into()),
            family: Family::OpenMpi4,
            version: "mpiexec (OpenRTE) 4.1.4\n".into(),
            allocation: Allocation { hosts: 3, host_file: None, slurm: false },
            workers: 3,
            pmi_types: None,
            is_wrapped: false,
            command: "mpiexec -n 4".into(),
            trouble: None,
            seen: [(0, "alpha"), (1, "beta"), (2, "gamma"), (3, "alpha")].map(|(n, host)| rank(n, 4, host)).to_vec(),
            output: String::new(),
        };
        Facts {
            switched_off: false,
            kept_here: None,
            incomplete: Vec::new(),
            libraries_not_found: Vec::new(),
            compilers: vec![Compiler { path: "/usr/bin/gcc".into(), obstacle: None }],
            host: Host { name: "alpha".into(), addresses: Ok(vec!["10.0.0.1".parse().unwrap()]) },
            root: false,
            root_is_allowed: false,
            slurm: None,
            start: Ok(start),
        }
    }

    #[test]
    fn what_ld_so_does_not_find() {
        let listed = "\tlinux-vdso.so.1 (0x1)\n\tlibmpi.so.12 => not found\n\tlibm.so.6 => /lib/libm.so.6 (0x2)\n\t\
                      libucp.so.0 => not found\n";
        assert_eq!(not_found(listed), ["libmpi.so.12", "libucp.so.0"]);
        assert!(not_found("").is_empty());
    }
}
