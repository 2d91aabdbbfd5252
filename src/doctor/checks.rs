//! What the facts mean. Each check looks at one thing that has made a session fail or crawl, and says what it found, what
//! follows from that and what to do. Pure: every trap is a row of a test.
//!
//! An error is what makes a session fail, or leaves most of the allocation idle. A warning is what makes it slower or
//! what fails only under further conditions.

use super::facts::{Facts, Obstacle, Slurm, Start};
use crate::launcher::{self, Family, Launcher};
use crate::probe::{Folder, Seen};
use crate::wire;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Descriptors that a rank may need: rank 0 has one for every compile that waits, and `make -j` without a number starts as
/// many as a folder has sources; a worker has four for each slot.
const OPEN_FILES_MIN: u64 = 1024;

/// Processes that a slot takes at most: driver, compiler proper and assembler, and one that is just ending.
const PROCESSES_PER_SLOT: u64 = 4;

/// Processes and threads that ranks, launcher and the user's own session take.
const PROCESSES_BESIDES: u64 = 64;

/// What a C++ compiler takes for a large source.
const MEMORY_BYTES_MIN: u64 = 2 << 30;

/// What becomes of a session whose ranks do not start.
const NOT_STARTED: &str = "`run` stops with status 70 and builds nothing";

/// How many names a sentence lists.
const NAMES_MAX: usize = 4;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    Warning,
    Error,
}

impl Level {
    pub fn word(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}

/// The outcome of one check: a sentence each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Never renamed: scripts look for it.
    pub name: &'static str,
    pub level: Level,
    pub finding: String,
    /// What follows from it, and what to do about it; none where all is well.
    pub consequence: Option<String>,
    pub remedy: Option<String>,
}

/// A finding without its name.
struct Verdict {
    level: Level,
    finding: String,
    consequence: Option<String>,
    remedy: Option<String>,
}

fn well(finding: impl Into<String>) -> Option<Verdict> {
    Some(Verdict { level: Level::Ok, finding: finding.into(), consequence: None, remedy: None })
}

fn ill(
    level: Level,
    finding: impl Into<String>,
    consequence: impl Into<String>,
    remedy: impl Into<String>,
) -> Option<Verdict> {
    Some(Verdict { level, finding: finding.into(), consequence: Some(consequence.into()), remedy: Some(remedy.into()) })
}

/// `None`: it does not apply here.
type Check = fn(&Facts) -> Option<Verdict>;

/// All checks, in the order in which a session would run into what they look for.
const CHECKS: [(&str, Check); 23] = [
    ("switched-off", switched_off),
    ("environment", environment),
    ("installation", installation),
    ("libraries", libraries),
    ("compilers", compilers),
    ("session-folder", session_folder),
    ("launcher", launcher),
    ("root", root),
    ("host-name", host_name),
    ("slurm-ntasks", slurm_ntasks),
    ("slurm-tasks-per-node", slurm_tasks_per_node),
    ("slurm-pmi", slurm_pmi),
    ("ranks-start", ranks_start),
    ("world-size", world_size),
    ("mpi-library", mpi_library),
    ("programs", programs),
    ("hosts", hosts),
    ("balance", balance),
    ("affinity", affinity),
    ("store-folder", store_folder),
    ("open-files", open_files),
    ("process-limit", process_limit),
    ("memory-limit", memory_limit),
];

/// What there is to say.
pub fn findings(facts: &Facts) -> Vec<Finding> {
    let finding = |(name, check): &(&'static str, Check)| {
        let Verdict { level, finding, consequence, remedy } = check(facts)?;
        Some(Finding { name, level, finding, consequence, remedy })
    };
    CHECKS.iter().filter_map(finding).collect()
}

// This machine

fn switched_off(facts: &Facts) -> Option<Verdict> {
    if !facts.switched_off {
        return None;
    }
    ill(
        Level::Warning,
        "MPICC_PROXY=off is in the environment",
        "`run` starts no ranks, and the library passes everything on",
        "unset MPICC_PROXY",
    )
}

fn environment(facts: &Facts) -> Option<Verdict> {
    let reason = facts.kept_here.as_ref()?;
    let detail = String::from_utf8_lossy(reason.detail.as_deref().unwrap_or_default());
    ill(
        Level::Warning,
        format!("compiles in this environment stay on this machine ({}: {detail})", reason.name()),
        "the workers get nothing of a build that is started from here",
        "unset the variable for the build, or set LC_ALL=C.UTF-8 where it is the locale",
    )
}

fn installation(facts: &Facts) -> Option<Verdict> {
    if facts.incomplete.is_empty() {
        return well("programs and library are in their places");
    }
    ill(
        Level::Error,
        facts.incomplete.join("; "),
        "no session can start",
        "install again (`integration/install PREFIX`), and move programs and library together",
    )
}

fn libraries(facts: &Facts) -> Option<Verdict> {
    let missing = &facts.libraries_not_found;
    if missing.is_empty() {
        return facts.incomplete.is_empty().then(|| well("the rank program finds its shared libraries"))?;
    }
    let finding = format!("ld.so finds no {} for mpicc-proxy-rank", names(missing.iter().map(String::as_str)));
    let remedy = "load the MPI module it was built with, put the library's folder into LD_LIBRARY_PATH, or build again \
                  with this MPI's mpicc";
    // Open MPI's mpiexec sets LD_LIBRARY_PATH for its ranks.
    if start(facts).is_some_and(|start| !start.seen.is_empty()) {
        let consequence = "ranks start only through a launcher that sets LD_LIBRARY_PATH, as this one does";
        return ill(Level::Warning, finding, consequence, remedy);
    }
    ill(Level::Error, finding, "no rank starts on this machine", remedy)
}

fn compilers(facts: &Facts) -> Option<Verdict> {
    let usable = facts.compilers.iter().filter(|compiler| compiler.obstacle.is_none());
    let usable = names(usable.map(|compiler| compiler.path.as_str()));
    let obstacles: Vec<String> = facts
        .compilers
        .iter()
        .filter_map(|compiler| {
            let (reason, detail) = compiler.obstacle.as_ref()?;
            Some(format!("{} ({reason}: {detail})", compiler.path))
        })
        .collect();
    if !obstacles.is_empty() {
        return ill(
            Level::Warning,
            format!("compiles by {} stay on this machine", names(obstacles.iter().map(String::as_str))),
            "the workers get nothing of a build that uses it",
            "use a compiler that is linked dynamically against this machine's C library and gains no privileges",
        );
    }
    match facts.compilers.is_empty() {
        true => well("PATH has no compiler; builds bring their own"),
        false => well(format!("{usable} can be run on workers")),
    }
}

fn session_folder(facts: &Facts) -> Option<Verdict> {
    let Err(Obstacle::Folder(why)) = &facts.start else { return None };
    ill(
        Level::Error,
        why,
        NOT_STARTED,
        "set XDG_RUNTIME_DIR to a folder of yours with a short path, or make /tmp writable",
    )
}

fn launcher(facts: &Facts) -> Option<Verdict> {
    match &facts.start {
        Ok(start) => {
            let program = start.launcher.program().display();
            match launcher_version(start).as_str() {
                "" => well(format!("{program} starts the ranks")),
                version => well(format!("{program} starts the ranks: {version}")),
            }
        }
        Err(Obstacle::Launcher(why)) => {
            let remedy = "load the site's MPI module, or name a launcher that is there (--launcher)";
            ill(Level::Error, why, NOT_STARTED, remedy)
        }
        Err(_) => None,
    }
}

/// What mpiexec says it is, in one line; hydra has its version in the second.
fn launcher_version(start: &Start) -> String {
    let mut lines = start.version.lines().map(one_line);
    let first = lines.next().unwrap_or_default();
    match (version_number(&first), lines.next()) {
        (None, Some(second)) => format!("{first} {second}"),
        _ => first,
    }
}

/// What the MPI library says it is, as far as people say it: `Open MPI v4.1.4`.
fn library_name(seen: &Seen) -> String {
    one_line(seen.mpi.split(',').next().unwrap_or_default())
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn root(facts: &Facts) -> Option<Verdict> {
    let start = start(facts)?;
    let is_open_mpi = matches!(start.family, Family::OpenMpi4 | Family::OpenMpi5);
    if !facts.root || !is_open_mpi || !matches!(start.launcher, Launcher::Mpiexec(_)) {
        return None;
    }
    well(match facts.root_is_allowed {
        true => "Open MPI runs as root, since OMPI_ALLOW_RUN_AS_ROOT is set".to_owned(),
        false => {
            "Open MPI runs as root: `run` passes --allow-run-as-root, and an mpiexec line of your own needs it too"
                .to_owned()
        }
    })
}

fn host_name(facts: &Facts) -> Option<Verdict> {
    let start = start(facts)?;
    let name = &facts.host.name;
    let is_hydra = matches!(start.family, Family::Hydra | Family::Intel);
    let several = start.allocation.hosts > 1;
    let addresses = match &facts.host.addresses {
        Ok(addresses) if !addresses.is_empty() => addresses,
        found => {
            let why = found.as_ref().err().map_or("there is no address", String::as_str);
            return ill(
                if is_hydra { Level::Error } else { Level::Warning },
                format!("the name of this machine, {name}, leads nowhere: {why}"),
                "ranks cannot find the launcher by this name: MPICH's and Intel's do not start, others may need long",
                format!("add a line for {name} with this machine's address to /etc/hosts"),
            );
        }
    };
    let listed = names(addresses.iter().map(ToString::to_string).collect::<Vec<_>>().iter().map(String::as_str));
    let is_loopback = addresses.iter().all(|address| address.is_loopback());
    if !is_loopback || !several {
        let note = if is_loopback { ", which is enough for one machine" } else { "" };
        return well(format!("{name} leads to {listed}{note}"));
    }
    ill(
        if is_hydra { Level::Error } else { Level::Warning },
        format!("the name of this machine, {name}, leads to {listed}, which on other hosts means themselves"),
        "ranks of other hosts that are given this name connect to themselves; MPICH's and Intel's do not start",
        format!("give {name} this machine's address in /etc/hosts, instead of the one it has"),
    )
}

// Slurm

fn slurm_ntasks(facts: &Facts) -> Option<Verdict> {
    let slurm = facts.slurm.as_ref()?;
    match &slurm.ntasks {
        Some(ntasks) => well(format!("SLURM_NTASKS={ntasks}")),
        None => ill(
            Level::Warning,
            "SLURM_NTASKS is not set: the job was submitted without a number of tasks",
            "srun and MPI launchers without a number of their own start as many ranks as they guess",
            SLURM_REMEDY,
        ),
    }
}

/// `-n` alone puts all ranks on one host, and `-N` with `-n` may spread them unevenly.
const SLURM_REMEDY: &str = "submit with -N HOSTS and --ntasks-per-node=1, as `mpicc-proxy script slurm` writes it";

fn slurm_tasks_per_node(facts: &Facts) -> Option<Verdict> {
    let Slurm { tasks_per_node, .. } = facts.slurm.as_ref()?;
    let text = tasks_per_node.as_ref()?;
    let Some(tasks) = tasks_per_host(text) else {
        return ill(
            Level::Warning,
            format!("SLURM_TASKS_PER_NODE={text} is not what Slurm writes"),
            "launchers that read it fail, or start too few ranks",
            "leave the variable to Slurm",
        );
    };
    if tasks.windows(2).all(|pair| pair[0] == pair[1]) {
        return well(format!("SLURM_TASKS_PER_NODE={text} is even"));
    }
    ill(
        Level::Warning,
        format!("SLURM_TASKS_PER_NODE={text} is uneven"),
        "launchers put ranks where tasks are: several workers on one host, and perhaps none on another",
        SLURM_REMEDY,
    )
}

/// Reads `4,1(x2)` as 4, 1, 1. `None`: it is not of that form.
fn tasks_per_host(text: &str) -> Option<Vec<u32>> {
    /// More hosts than there are in any allocation.
    const HOSTS_MAX: usize = 1 << 20;
    let mut tasks = Vec::new();
    for part in text.split(',') {
        let (count, times) = match part.split_once("(x") {
            Some((count, times)) => (count, times.strip_suffix(')')?.parse().ok()?),
            None => (part, 1usize),
        };
        if times == 0 || tasks.len() + times > HOSTS_MAX {
            return None;
        }
        tasks.resize(tasks.len() + times, count.trim().parse().ok()?);
    }
    Some(tasks)
}

fn slurm_pmi(facts: &Facts) -> Option<Verdict> {
    let start = start(facts)?;
    let types = start.pmi_types.as_ref()?;
    let needed = launcher::pmi(start.family);
    let is_there = |word: &str| word == needed || word.strip_prefix(needed).is_some_and(|rest| rest.starts_with('_'));
    let words = || types.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    // Every Slurm has this one. Where it is not listed srun said something else, and `ranks-start` will tell.
    if !words().any(|word| word == "none") {
        return None;
    }
    if words().any(is_there) {
        return well(format!("srun knows --mpi={needed}"));
    }
    ill(
        Level::Error,
        format!("`srun --mpi=list` does not name {needed}"),
        "srun starts no ranks, or each believes to be alone",
        "use --launcher mpiexec, or ask for a Slurm with that plug-in",
    )
}

// The ranks

fn ranks_start(facts: &Facts) -> Option<Verdict> {
    let start = start(facts)?;
    let (answered, expected) = (start.seen.len(), start.expected());
    if !start.has_failed() {
        return well(format!("{expected} ranks started and ended ({})", plural(start.workers as usize, "worker")));
    }
    let trouble = start.trouble.as_ref().map(|trouble| format!("; {trouble}")).unwrap_or_default();
    let complaint = complaint(&start.output).map(|line| format!("; it says: {line}")).unwrap_or_default();
    let finding = format!("{answered} of {expected} ranks said what they see{trouble}{complaint}");
    let remedy = match start.is_wrapped {
        true => {
            "see whether the ranks start without --wrap-worker, what the launcher wrote, and try the command by hand"
        }
        false => "see what the launcher wrote, and try the command by hand",
    };
    if answered < expected {
        return ill(Level::Error, finding, NOT_STARTED, remedy);
    }
    ill(Level::Warning, finding, "sessions work, and may end late or with noise", remedy)
}

/// The first line of a launcher's output that says something.
fn complaint(output: &str) -> Option<String> {
    const CHARACTERS_MAX: usize = 200;
    let line = output.lines().map(str::trim).find(|line| line.chars().any(char::is_alphabetic))?;
    Some(line.chars().take(CHARACTERS_MAX).collect())
}

fn world_size(facts: &Facts) -> Option<Verdict> {
    let start = some_seen(facts)?;
    let expected = start.expected();
    if all_know_each_other(start) {
        return well(format!("every rank knows of all {expected}"));
    }
    let sizes: BTreeSet<i32> = start.seen.iter().map(|seen| seen.size).collect();
    let library = library_name(&start.seen[0]);
    let remedy = match start.launcher {
        Launcher::Mpiexec(_) => format!("put the mpiexec of the rank program's MPI first in PATH ({library})"),
        Launcher::Srun(_) => {
            format!("use --launcher mpiexec, or put the mpiexec of the rank program's MPI in PATH ({library})")
        }
    };
    let finding = match sizes.iter().eq([&1]) {
        true => format!("each of {} believes to be alone", plural(start.seen.len(), "rank")),
        false => {
            let sizes: Vec<String> = sizes.iter().map(i32::to_string).collect();
            format!("ranks believe to be {} in number, and {expected} were started", sizes.join(" or "))
        }
    };
    let consequence = "rank 0 finds no workers, since launcher and MPI library do not talk to each other";
    ill(Level::Error, finding, consequence, remedy)
}

fn all_know_each_other(start: &Start) -> bool {
    start.seen.iter().all(|seen| seen.size as usize == start.expected())
}

fn mpi_library(facts: &Facts) -> Option<Verdict> {
    let start = some_seen(facts)?;
    let remedy = "load the same MPI on all hosts as at build time, and put its mpiexec first in PATH";
    let kinds: BTreeSet<&str> = start.seen.iter().map(|seen| seen.mpi.as_str()).collect();
    if kinds.len() > 1 {
        let finding = format!("the ranks have different MPI libraries: {}", names(kinds.into_iter()));
        return ill(Level::Error, finding, "messages between them may be lost or misread", remedy);
    }
    let library = library_name(&start.seen[0]);
    let found = library_family(&library);
    let version = launcher_version(start);
    let is_known = found.is_some() && start.family != Family::Other;
    if is_known && found != Some(start.family) {
        // Launchers of one kind of PMI start each other's ranks.
        let works = all_know_each_other(start);
        let mpiexec = if version.is_empty() { "the mpiexec in PATH" } else { &version };
        let finding = format!("the rank program's MPI is {library}, and its launcher is of another: {mpiexec}");
        let consequence = "ranks that are started by another MPI's launcher may each believe to be alone";
        return ill(if works { Level::Warning } else { Level::Error }, finding, consequence, remedy);
    }
    if let (Some(one), Some(other)) = (version_number(&library), version_number(&version))
        && is_known
        && one != other
    {
        let finding = format!("the rank program's MPI is {library}, and its launcher is of version {other}");
        let consequence = "it works here; versions that differ much do not understand each other";
        return ill(Level::Warning, finding, consequence, remedy);
    }
    well(library)
}

/// Reads what MPI_Get_library_version(3) says. MPICH's relatives are of its family.
fn library_family(library: &str) -> Option<Family> {
    if library.contains("Open MPI") {
        let major: u32 = version_number(library)?.split('.').next()?.parse().ok()?;
        return Some(if major >= 5 { Family::OpenMpi5 } else { Family::OpenMpi4 });
    }
    let table = [("Intel(R) MPI", Family::Intel), ("MPICH", Family::Hydra), ("MVAPICH", Family::Hydra)];
    table.into_iter().find(|(name, _)| library.contains(name)).map(|(_, family)| family)
}

/// The first thing in a text that looks like a version: `4.1.4`.
fn version_number(text: &str) -> Option<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.'));
    let mut trimmed = words.map(|word| word.trim_start_matches('v').trim_end_matches('.'));
    let is_version = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
    trimmed.find(is_version)
}

fn programs(facts: &Facts) -> Option<Verdict> {
    let start = some_seen(facts)?;
    let remedy = "install the same build on all hosts, in the same place";
    let broken = |seen: &&Seen| seen.programs.is_err();
    if let Some((seen, why)) =
        start.seen.iter().find(broken).and_then(|seen| Some((seen, seen.programs.as_ref().err()?)))
    {
        let finding = format!("on {}: {why}", seen.facts.host);
        return ill(Level::Error, finding, "the ranks there do not start", remedy);
    }
    let own = |seen: &&Seen| seen.facts.version == wire::VERSION;
    if let Some(seen) = start.seen.iter().find(|seen| !own(seen)) {
        let finding = format!(
            "on {}: mpicc-proxy-rank speaks version {} of the messages, and this command {}",
            seen.facts.host,
            seen.facts.version,
            wire::VERSION
        );
        return ill(Level::Error, finding, NOT_STARTED, remedy);
    }
    let kinds: BTreeSet<_> = start.seen.iter().map(|seen| &seen.programs).collect();
    if kinds.len() > 1 {
        let first = &start.seen[0];
        let others = hosts_where(start.seen.iter(), |seen| seen.programs != first.programs);
        let finding = format!("mpicc-proxy-rank or libmpicc-proxy.so on {others} is not that of {}", first.facts.host);
        return ill(Level::Warning, finding, "they speak the same language, and may differ in what they do", remedy);
    }
    well("the ranks run the same programs")
}

fn hosts(facts: &Facts) -> Option<Verdict> {
    let start = some_seen(facts)?;
    let seen: BTreeSet<&str> = start.seen.iter().map(|seen| seen.facts.host.as_str()).collect();
    let (found, allocated) = (seen.len(), start.allocation.hosts as usize);
    if found >= allocated {
        return well(format!("the ranks are on {}", plural(found, "host")));
    }
    let list = names(seen.into_iter());
    // Who asks for fewer workers than hosts gets fewer; rank 0 may be on a host of its own.
    let wanted = allocated.min(start.workers as usize);
    if found >= wanted {
        let finding = format!("the ranks are on {found} of {allocated} hosts, since --workers says so: {list}");
        return ill(Level::Warning, finding, "the other hosts stay idle", "leave --workers out: one per host is best");
    }
    let finding = match found {
        1 => format!("all ranks are on {list}, one of {allocated} hosts of the allocation"),
        _ => format!("the ranks are on {found} of {allocated} hosts of the allocation: {list}"),
    };
    ill(
        if found == 1 { Level::Error } else { Level::Warning },
        finding,
        "the other hosts stay idle, and these do everything",
        "ask for hosts and ranks per host together (sbatch -N HOSTS --ntasks-per-node=1), and use an mpiexec that was \
         built for the batch system",
    )
}

fn balance(facts: &Facts) -> Option<Verdict> {
    // Else other findings say why.
    let start = some_seen(facts).filter(|start| all_know_each_other(start))?;
    let mut workers: BTreeMap<&str, usize> = start.seen.iter().map(|seen| (seen.facts.host.as_str(), 0)).collect();
    if workers.len() < start.allocation.hosts as usize {
        return None;
    }
    for seen in start.seen_workers() {
        *workers.entry(&seen.facts.host).or_default() += 1;
    }
    let (least, most) = (workers.values().min()?, workers.values().max()?);
    let listed =
        names(workers.iter().map(|(host, n)| format!("{n} on {host}")).collect::<Vec<_>>().iter().map(|s| &**s));
    if workers.len() > 1 && most - least > 1 || *least == 0 && *most > 1 {
        return ill(
            Level::Warning,
            format!("the workers are spread unevenly: {listed}"),
            "workers of one host share its CPUs, and a host without one compiles nothing",
            "have as many slots on each host, and one worker for each host",
        );
    }
    // A rank that may use no CPU alone compiles one file at a time all the same.
    for (host, n) in &workers {
        let here = || start.seen_workers().filter(|seen| seen.facts.host == *host);
        let cpus: BTreeSet<u32> = here().flat_map(|seen| seen.facts.cpus.iter().copied()).collect();
        if cpus.len() < *n {
            return ill(
                Level::Warning,
                format!("{n} workers on {host} share {}", plural(cpus.len(), "CPU")),
                "each compiles one file at a time at least, so compiles get less than a CPU each",
                "start one worker for each host: it fills all CPUs by itself",
            );
        }
    }
    well(format!("workers: {listed}"))
}

// The workers' hosts

fn affinity(facts: &Facts) -> Option<Verdict> {
    let start = some_seen(facts)?;
    let is_narrow = |seen: &Seen| (seen.facts.cpus.len() as u32) < seen.facts.host_cpus;
    let of = |seen: &Seen| format!("{} of {} CPUs", seen.facts.cpus.len(), seen.facts.host_cpus);
    let Some(first) = start.seen_workers().find(|seen| is_narrow(seen)) else {
        let cpus: BTreeSet<(&str, u32)> =
            start.seen_workers().flat_map(|seen| seen.facts.cpus.iter().map(|cpu| (&*seen.facts.host, *cpu))).collect();
        return well(format!("workers may use all CPUs of their hosts: {}", cpus.len()));
    };
    ill(
        Level::Warning,
        format!("a worker on {} may use {}", hosts_where(start.seen_workers(), is_narrow), of(first)),
        "it compiles no more files at a time than that, whatever else the host has",
        "if the job was given more: have the launcher bind nothing (--bind-to none, --cpu-bind=none), and ask for whole \
         hosts (--exclusive) or --cpus-per-task",
    )
}

fn store_folder(facts: &Facts) -> Option<Verdict> {
    let start = some_seen(facts)?;
    let is_good = |folder: &Folder| folder.obstacle.is_none() && folder.roomy && folder.executable;
    let best = |seen: &Seen| seen.folders.iter().position(is_good);
    let state = |seen: &Seen| {
        let state = |folder: &Folder| match &folder.obstacle {
            Some(why) => format!("{}: {why}", folder.path),
            None if !folder.roomy => format!("{} has {} free", folder.path, size(folder.free_bytes)),
            None if !folder.executable => format!("{} is noexec", folder.path),
            None => format!("{} is fine", folder.path),
        };
        seen.folders.iter().map(state).collect::<Vec<_>>().join(", ")
    };
    if let Some(seen) = start.seen_workers().find(|seen| seen.folders.iter().all(|folder| folder.obstacle.is_some())) {
        return ill(
            Level::Error,
            format!("{} has no folder for a worker's files: {}", seen.facts.host, state(seen)),
            "the host compiles nothing (store-full)",
            "mount /dev/shm there, or set TMPDIR to a folder that can be written to",
        );
    }
    if let Some(seen) = start.seen_workers().find(|seen| best(seen).is_none()) {
        return ill(
            Level::Warning,
            format!("{} has no good folder for a worker's files: {}", seen.facts.host, state(seen)),
            "compiles that find no room run elsewhere (store-full), and so do those whose compiler must be brought there \
             (toolchain-store)",
            "enlarge /dev/shm, or set TMPDIR to a folder with 1 GiB free from which programs may be executed",
        );
    }
    if let Some(seen) = start.seen_workers().find(|seen| best(seen) != Some(0)) {
        let finding = format!("workers' files on {} do not go to memory: {}", seen.facts.host, state(seen));
        let consequence = "they go to TMPDIR, which is slower where that is a disk";
        return ill(
            Level::Warning,
            finding,
            consequence,
            "give the host a /dev/shm of 1 GiB or more that is not noexec",
        );
    }
    well("all workers have room in /dev/shm")
}

fn open_files(facts: &Facts) -> Option<Verdict> {
    let start = some_seen(facts)?;
    let limit = |seen: &Seen| seen.limits.open_files.unwrap_or(u64::MAX);
    let least = start.seen.iter().map(limit).min()?;
    if least >= OPEN_FILES_MIN {
        return well(format!("every rank may open {OPEN_FILES_MIN} files and more"));
    }
    ill(
        Level::Warning,
        format!("a rank on {} may open {least} files", hosts_where(start.seen.iter(), |seen| limit(seen) == least)),
        "with many compiles at a time some are refused, and run locally",
        format!("raise the hard limit to {OPEN_FILES_MIN} or more (ulimit -Hn, limits.conf)"),
    )
}

fn process_limit(facts: &Facts) -> Option<Verdict> {
    let start = some_seen(facts)?;
    let needed = |seen: &Seen| PROCESSES_BESIDES + PROCESSES_PER_SLOT * seen.facts.cpus.len() as u64;
    let is_short = |seen: &Seen| seen.limits.processes.is_some_and(|limit| limit < needed(seen));
    let Some(seen) = start.seen_workers().find(|seen| is_short(seen)) else {
        return well("the workers may have as many processes as their slots need");
    };
    ill(
        Level::Warning,
        format!(
            "{} processes are allowed on {}, and {} are needed for {}",
            seen.limits.processes.unwrap_or_default(),
            hosts_where(start.seen_workers(), is_short),
            needed(seen),
            plural(seen.facts.cpus.len(), "slot")
        ),
        "compilers cannot be started (rank-trouble), and their compiles run locally",
        "raise the limit (ulimit -u, limits.conf), or start fewer compiles at a time (--slots)",
    )
}

fn memory_limit(facts: &Facts) -> Option<Verdict> {
    let start = some_seen(facts)?;
    let limit = |seen: &Seen| seen.limits.memory_bytes.unwrap_or(u64::MAX);
    let least = start.seen_workers().map(limit).min()?;
    if least >= MEMORY_BYTES_MIN {
        return well(format!("a compiler on a worker may take {} of memory and more", size(MEMORY_BYTES_MIN)));
    }
    let hosts = hosts_where(start.seen_workers(), |seen| limit(seen) == least);
    ill(
        Level::Warning,
        format!("a process on {hosts} may take {} of memory", size(least)),
        "large compiles fail there (rank-trouble), and run locally",
        "raise the limit (ulimit -v, ulimit -d), or ask the batch system for more memory",
    )
}

// Words

fn start(facts: &Facts) -> Option<&Start> {
    facts.start.as_ref().ok()
}

fn some_seen(facts: &Facts) -> Option<&Start> {
    start(facts).filter(|start| !start.seen.is_empty())
}

/// A list for a sentence.
fn names<'a>(all: impl Iterator<Item = &'a str>) -> String {
    let all: Vec<&str> = all.collect();
    let (shown, rest) = all.split_at(all.len().min(NAMES_MAX));
    let rest = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    format!("{}{rest}", shown.join(", "))
}

fn hosts_where<'a>(seen: impl Iterator<Item = &'a Seen>, is: impl Fn(&Seen) -> bool) -> String {
    let hosts: BTreeSet<&str> = seen.filter(|seen| is(seen)).map(|seen| seen.facts.host.as_str()).collect();
    names(hosts.into_iter())
}

fn plural(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// Bytes, for people: rounded down.
fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        _ if bytes < 1 << 20 => format!("{} KiB", bytes >> 10),
        _ if bytes < 1 << 30 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

#[cfg(test)]
mod tests;
