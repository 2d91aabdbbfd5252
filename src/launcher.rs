//! How the ranks of a session are started: facts in, a command line out. Nothing here asks the system anything, so that
//! every combination of launcher, MPI and allocation is a row of a test.
//!
//! # Placement
//! A rank is a host: with as many workers as hosts, every host must get exactly one, whichever host rank 0 is on. All
//! rows ask for round robin by host, and W consecutive ranks on W hosts are then one each. Known exception: Open MPI 4
//! skips a host whose only slot rank 0 took while other hosts have several (seen with `--host a:1,b:4,c:4`), so an
//! allocation should be even (`sbatch -N3 --ntasks-per-node=1`).
//!
//! # Binding
//! Launchers bind a rank to one core by default, and every compiler below inherits that. All rows turn it off.
//!
//! # Survival
//! Where the launcher has a way to let a job outlive one of its ranks, it is asked for.
//!
//! Run: Open MPI 4.1.4 and 5.0.11, MPICH 4.0.2 and 4.3.2 (hydra), srun of Slurm 22.05 with the first of each. Written by
//! the manual and not run: Intel MPI.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// `--launcher`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// mpiexec if it is in PATH, else srun inside a Slurm allocation
    #[default]
    Auto,
    /// mpiexec from PATH (Open MPI, MPICH, Intel MPI)
    Mpiexec,
    /// Slurm's srun, with PMIx (Open MPI) or PMI2 (MPICH)
    Srun,
}

/// The program that starts the ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Launcher {
    Mpiexec(PathBuf),
    Srun(PathBuf),
}

impl Launcher {
    pub fn program(&self) -> &Path {
        match self {
            Launcher::Mpiexec(path) | Launcher::Srun(path) => path,
        }
    }
}

/// Decides on the launcher, given what PATH has.
///
/// # Errors
/// A sentence: what is missing and what to do.
pub fn choose(
    choice: Choice,
    mpiexec: Option<PathBuf>,
    srun: Option<PathBuf>,
    in_slurm: bool,
) -> Result<Launcher, String> {
    match (choice, mpiexec, srun) {
        (Choice::Auto | Choice::Mpiexec, Some(mpiexec), _) => Ok(Launcher::Mpiexec(mpiexec)),
        (Choice::Auto, None, Some(srun)) if in_slurm => Ok(Launcher::Srun(srun)),
        (Choice::Srun, _, Some(srun)) => Ok(Launcher::Srun(srun)),
        (Choice::Srun, _, None) => Err("there is no srun in PATH; use --launcher mpiexec".into()),
        (Choice::Mpiexec, None, _) => Err("there is no mpiexec in PATH; load the site's MPI module, install one \
             (Debian: apt-get install openmpi-bin), or use --launcher srun"
            .into()),
        (Choice::Auto, None, _) => Err("there is no mpiexec in PATH, and no Slurm allocation for srun; load the \
             site's MPI module or install one (Debian: apt-get install openmpi-bin)"
            .into()),
    }
}

/// Who wrote mpiexec, as far as its options differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Open MPI up to 4: orterun.
    OpenMpi4,
    /// Open MPI from 5 on: prterun.
    OpenMpi5,
    /// MPICH and its relatives.
    Hydra,
    /// Intel MPI: hydra, with its own pinning.
    Intel,
    /// Something else: only what the MPI standard says mpiexec understands.
    Other,
}

/// Reads the output of `mpiexec --version`.
pub fn family(version: &[u8]) -> Family {
    let text = String::from_utf8_lossy(version);
    // `mpiexec (OpenRTE) 4.1.4`, `mpirun (Open MPI) 5.0.11`, `prterun (PRRTE) 3.0.6`
    let major_after = |name: &str| -> Option<u32> {
        let rest = text.split_once(name)?.1.trim_start();
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    if let Some(major) = major_after("(OpenRTE)").or_else(|| major_after("(Open MPI)")) {
        return if major >= 5 { Family::OpenMpi5 } else { Family::OpenMpi4 };
    }
    if text.contains("(PRRTE)") {
        Family::OpenMpi5
    } else if text.contains("Intel(R) MPI") {
        Family::Intel
    } else if text.contains("HYDRA") {
        Family::Hydra
    } else {
        Family::Other
    }
}

/// What the batch system gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    pub hosts: u32,
    /// A list of hosts to hand to an mpiexec that was built without support for the batch system.
    pub host_file: Option<PathBuf>,
    /// Inside a Slurm job.
    pub slurm: bool,
}

/// Where a batch system tells the number of hosts.
enum Source {
    /// The value is the number.
    Count,
    /// The value is a list of hosts, one word a slot.
    Words,
    /// The value is a list `host slots host slots`.
    Pairs,
    /// The value names a file; the first word of each line is a host.
    File,
    /// As [`Source::File`], in the form that mpiexec takes as a host file.
    HostFile,
}

/// The only list of batch systems. The first variable that is set and makes sense decides.
const SOURCES: [(&str, Source); 10] = [
    ("SLURM_JOB_NUM_NODES", Source::Count),
    ("SLURM_NNODES", Source::Count),
    ("PBS_NODEFILE", Source::HostFile),
    ("LSB_DJOB_HOSTFILE", Source::File),
    ("LSB_MCPU_HOSTS", Source::Pairs),
    ("LSB_HOSTS", Source::Words),
    ("PE_HOSTFILE", Source::File),
    ("COBALT_NODEFILE", Source::HostFile),
    ("OAR_NODEFILE", Source::HostFile),
    ("FLUX_JOB_NNODES", Source::Count),
];

/// Reads the allocation from the environment; `read` gives the content of a file. Outside any: this machine.
pub fn allocation(variable: impl Fn(&str) -> Option<OsString>, read: impl Fn(&Path) -> Option<Vec<u8>>) -> Allocation {
    let slurm = variable("SLURM_JOB_ID").is_some();
    for (name, source) in SOURCES {
        let Some(value) = variable(name) else { continue };
        let words = || words(value.as_bytes());
        let hosts = match source {
            Source::Count => value.to_str().and_then(|text| text.trim().parse().ok()).unwrap_or(0),
            Source::Words => distinct(words()),
            Source::Pairs => distinct(words().step_by(2)),
            Source::File | Source::HostFile => read(Path::new(&value)).map_or(0, |content| {
                distinct(content.split(|&b| b == b'\n').filter_map(|line| self::words(line).next()))
            }),
        };
        if hosts > 0 {
            let host_file = matches!(source, Source::HostFile).then(|| PathBuf::from(&value));
            return Allocation { hosts, host_file, slurm };
        }
    }
    Allocation { hosts: 1, host_file: None, slurm }
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

fn distinct<'a>(names: impl Iterator<Item = &'a [u8]>) -> u32 {
    names.collect::<std::collections::BTreeSet<_>>().len() as u32
}

/// Everything that decides how ranks are started.
#[derive(Clone, Debug)]
pub struct Plan {
    pub launcher: Launcher,
    pub family: Family,
    pub allocation: Allocation,
    /// Only these, the one of rank 0 first; empty for all that the allocation has.
    pub hosts: Vec<String>,
    /// Worker ranks; rank 0 comes on top.
    pub workers: u32,
    /// What each worker rank is started through (`--wrap-worker`), empty for nothing.
    pub wrap: Vec<OsString>,
    /// The rank program with its options, the same for all ranks.
    pub rank: Vec<OsString>,
    pub root: bool,
}

/// The command line that starts the ranks.
pub fn command_line(plan: &Plan) -> Vec<OsString> {
    let mut line = vec![plan.launcher.program().into()];
    match plan.launcher {
        Launcher::Mpiexec(_) => {
            line.extend(mpiexec_options(plan));
            line.extend(["-n", "1"].map(OsString::from));
            line.extend_from_slice(&plan.rank);
            line.extend([":".into(), "-n".into(), plan.workers.to_string().into()]);
            line.extend(folder_elsewhere(plan.family));
            line.extend_from_slice(&plan.wrap);
            line.extend_from_slice(&plan.rank);
        }
        Launcher::Srun(_) => {
            line.extend(srun_options(plan));
            if !plan.wrap.is_empty() {
                // One program for all: srun's own forms for several have quoting rules that a path may break.
                line.extend(["/bin/sh", "-c", WRAP_UNLESS_RANK_0, "mpicc-proxy"].map(OsString::from));
                line.push(plan.wrap.len().to_string().into());
                line.extend_from_slice(&plan.wrap);
            }
            line.extend_from_slice(&plan.rank);
        }
    }
    line
}

/// Hydra starts nothing on a host that has no such folder as the one it was started in. Open MPI goes home.
fn folder_elsewhere(family: Family) -> impl Iterator<Item = OsString> {
    let is_hydra = matches!(family, Family::Hydra | Family::Intel);
    is_hydra.then_some(["-wdir", "/"]).into_iter().flatten().map(OsString::from)
}

/// The command line that finds out whether the launcher reaches a host: it ends with status 0 if it does.
pub fn roll_call(plan: &Plan, host: &str) -> Vec<OsString> {
    let plan = Plan { hosts: vec![host.to_owned()], workers: 0, ..plan.clone() };
    let mut line = vec![plan.launcher.program().into()];
    match plan.launcher {
        Launcher::Mpiexec(_) => {
            line.extend(mpiexec_options(&plan));
            line.extend(["-n", "1"].map(OsString::from));
            line.extend(folder_elsewhere(plan.family));
        }
        Launcher::Srun(_) => line.extend(srun_options(&plan)),
    }
    line.push("true".into());
    line
}

/// `$1`: how many of the words that follow wrap a worker.
const WRAP_UNLESS_RANK_0: &str = r#"n=$1; shift; if [ "${SLURM_PROCID:-0}" = 0 ]; then shift "$n"; fi; exec "$@""#;

fn mpiexec_options(plan: &Plan) -> Vec<OsString> {
    let options: &[&str] = match plan.family {
        Family::OpenMpi4 => &["--enable-recovery", "--oversubscribe", "--bind-to", "none", "--map-by", "node"],
        // A build of it that knows --enable-recovery also knows --with-ft, whether or not its library has ULFM.
        Family::OpenMpi5 => {
            &["--enable-recovery", "--with-ft", "ulfm", "--bind-to", "none", "--map-by", "node:oversubscribe"]
        }
        Family::Hydra => &["-bind-to", "none", "-ppn", "1"],
        Family::Intel => &["-genv", "I_MPI_PIN", "0", "-ppn", "1"],
        Family::Other => &[],
    };
    let mut options: Vec<OsString> = options.iter().map(OsString::from).collect();
    if plan.root && matches!(plan.family, Family::OpenMpi4 | Family::OpenMpi5) {
        options.push("--allow-run-as-root".into());
    }
    // Open MPI takes a file and some of its hosts, hydra either.
    let (list, file) = match plan.family {
        Family::OpenMpi4 | Family::OpenMpi5 => (Some("--host"), Some("--hostfile")),
        Family::Hydra | Family::Intel if plan.hosts.is_empty() => (None, Some("-f")),
        Family::Hydra | Family::Intel => (Some("-hosts"), None),
        Family::Other => (None, None),
    };
    if let Some(option) = list.filter(|_| !plan.hosts.is_empty()) {
        options.extend([option.into(), plan.hosts.join(",").into()]);
    }
    if let (Some(option), Some(file)) = (file, &plan.allocation.host_file) {
        options.extend([option.into(), file.into()]);
    }
    options
}

/// What srun and the MPI of the family agree on.
pub fn pmi(family: Family) -> &'static str {
    if matches!(family, Family::Hydra | Family::Intel) { "pmi2" } else { "pmix" }
}

fn srun_options(plan: &Plan) -> Vec<OsString> {
    let ranks = plan.workers + 1;
    let hosts = if plan.hosts.is_empty() { plan.allocation.hosts } else { plan.hosts.len() as u32 }.min(ranks);
    let fixed = ["--cpu-bind=none", "--overlap", "--overcommit", "--no-kill", "--kill-on-bad-exit=0", "--wait=0"];
    let mut options: Vec<OsString> = fixed.map(OsString::from).to_vec();
    options.extend([
        format!("--mpi={}", pmi(plan.family)).into(),
        "--distribution=cyclic".into(),
        format!("--nodes={hosts}").into(),
        format!("--ntasks={ranks}").into(),
        // Overrides what sbatch left in the environment.
        format!("--ntasks-per-node={}", ranks.div_ceil(hosts)).into(),
    ]);
    if !plan.hosts.is_empty() {
        options.push(format!("--nodelist={}", plan.hosts.join(",")).into());
    }
    options
}

/// Splits `--wrap-worker` into words as a shell would, with quotes and backslashes but without expansions.
///
/// # Errors
/// A sentence: a quote is not closed.
pub fn split_words(text: &OsStr) -> Result<Vec<OsString>, String> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quote: Option<u8> = None;
    let mut bytes = text.as_bytes().iter().copied();
    while let Some(byte) = bytes.next() {
        match (quote, byte) {
            (Some(open), _) if byte == open => quote = None,
            (None, b'\'' | b'"') => {
                quote = Some(byte);
                word.get_or_insert_default();
            }
            (None | Some(b'"'), b'\\') => {
                let next = bytes.next().ok_or_else(|| "it ends in a backslash".to_string())?;
                // Within double quotes a backslash stays unless it protects something.
                if quote.is_some() && !matches!(next, b'"' | b'\\' | b'$' | b'`') {
                    word.get_or_insert_default().push(b'\\');
                }
                word.get_or_insert_default().push(next);
            }
            (None, _) if byte.is_ascii_whitespace() => words.extend(word.take().map(OsString::from_vec)),
            _ => word.get_or_insert_default().push(byte),
        }
    }
    if let Some(quote) = quote {
        return Err(format!("a {} is not closed", char::from(quote)));
    }
    words.extend(word.map(OsString::from_vec));
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launchers() {
        let mpiexec = || Some(PathBuf::from("/bin/mpiexec"));
        let srun = || Some(PathBuf::from("/bin/srun"));
        let table = [
            (Choice::Auto, mpiexec(), srun(), true, Ok(Launcher::Mpiexec("/bin/mpiexec".into()))),
            (Choice::Auto, None, srun(), true, Ok(Launcher::Srun("/bin/srun".into()))),
            (Choice::Auto, None, srun(), false, Err("no mpiexec in PATH, and no Slurm allocation")),
            (Choice::Auto, None, None, true, Err("no mpiexec in PATH, and no Slurm allocation")),
            (Choice::Srun, mpiexec(), srun(), false, Ok(Launcher::Srun("/bin/srun".into()))),
            (Choice::Srun, mpiexec(), None, true, Err("no srun in PATH")),
            (Choice::Mpiexec, None, srun(), true, Err("no mpiexec in PATH")),
        ];
        for (choice, mpiexec, srun, in_slurm, expected) in table {
            match (choose(choice, mpiexec, srun, in_slurm), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(sentence), Err(expected)) => assert!(sentence.contains(expected), "{sentence}"),
                (found, expected) => panic!("{choice:?}: {found:?} instead of {expected:?}"),
            }
        }
    }

    #[test]
    fn families() {
        let table = [
            ("mpiexec (OpenRTE) 4.1.4\n\nReport bugs to http://www.open-mpi.org/community/help/\n", Family::OpenMpi4),
            ("mpirun (Open MPI) 2.1.1\n", Family::OpenMpi4),
            ("mpirun (Open MPI) 4.1.5rc2\n", Family::OpenMpi4),
            (
                "mpiexec (Open MPI) 5.0.11\n\nReport bugs to https://www.open-mpi.org/community/help/\n",
                Family::OpenMpi5,
            ),
            ("prterun (PRRTE) 3.0.6\n", Family::OpenMpi5),
            ("HYDRA build details:\n    Version:                                 4.3.2\n", Family::Hydra),
            ("Intel(R) MPI Library for Linux* OS, Version 2021.13 Build 20240515\n", Family::Intel),
            ("mpiexec version 1.2.12 PALS\n", Family::Other),
            ("", Family::Other),
        ];
        for (version, expected) in table {
            assert_eq!(family(version.as_bytes()), expected, "{version}");
        }
    }

    #[test]
    fn allocations() {
        type Row = (&'static [(&'static str, &'static str)], u32, Option<&'static str>);
        let table: [Row; 14] = [
            (&[], 1, None),
            (&[("SLURM_JOB_NUM_NODES", "3"), ("SLURM_NNODES", "2")], 3, None),
            (&[("SLURM_NNODES", "2")], 2, None),
            (&[("SLURM_NNODES", "many")], 1, None),
            (&[("SLURM_NNODES", "0")], 1, None),
            (&[("PBS_NODEFILE", "/nodes")], 3, Some("/nodes")),
            (&[("PBS_NODEFILE", "/absent")], 1, None),
            (&[("LSB_DJOB_HOSTFILE", "/nodes")], 3, None),
            (&[("LSB_MCPU_HOSTS", "a 4 b 4"), ("LSB_HOSTS", "a a a a b b b b")], 2, None),
            (&[("LSB_HOSTS", "a a b c")], 3, None),
            (&[("PE_HOSTFILE", "/sge")], 2, None),
            (&[("OAR_NODEFILE", "/nodes")], 3, Some("/nodes")),
            (&[("FLUX_JOB_NNODES", "5")], 5, None),
            (&[("PBS_NODEFILE", "/empty")], 1, None),
        ];
        let read = |path: &Path| match path.to_str()? {
            "/nodes" => Some(b"a\nb\na\nb\n\nc\n".to_vec()),
            "/sge" => Some(b"a 4 all.q@a UNDEFINED\nb 4 all.q@b UNDEFINED\n".to_vec()),
            "/empty" => Some(vec![]),
            _ => None,
        };
        for (environment, hosts, host_file) in table {
            let variable = |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, v)| v.into());
            let expected = Allocation { hosts, host_file: host_file.map(PathBuf::from), slurm: false };
            assert_eq!(allocation(variable, read), expected, "{environment:?}");
        }
        assert!(allocation(|name| (name == "SLURM_JOB_ID").then(|| "1".into()), read).slurm);
    }

    fn plan(launcher: Launcher, family: Family, hosts: u32, workers: u32, wrap: &str, root: bool) -> Plan {
        Plan {
            launcher,
            family,
            allocation: Allocation { hosts, host_file: None, slurm: false },
            hosts: Vec::new(),
            workers,
            wrap: split_words(wrap.as_ref()).unwrap(),
            rank: ["RANK", "--socket", "S"].map(OsString::from).to_vec(),
            root,
        }
    }

    fn line(plan: &Plan) -> String {
        let line: Vec<_> = command_line(plan).iter().map(|word| word.to_string_lossy().into_owned()).collect();
        line.join(" ")
    }

    #[test]
    fn command_lines_of_mpiexec() {
        let mpiexec = || Launcher::Mpiexec("mpiexec".into());
        let table = [
            (Family::OpenMpi4, "mpiexec --enable-recovery --oversubscribe --bind-to none --map-by node"),
            (Family::OpenMpi5, "mpiexec --enable-recovery --with-ft ulfm --bind-to none --map-by node:oversubscribe"),
            (Family::Hydra, "mpiexec -bind-to none -ppn 1"),
            (Family::Intel, "mpiexec -genv I_MPI_PIN 0 -ppn 1"),
            (Family::Other, "mpiexec"),
        ];
        for (family, options) in table {
            let folder = if matches!(family, Family::Hydra | Family::Intel) { " -wdir /" } else { "" };
            let ranks = format!("-n 1 RANK --socket S : -n 4{folder} RANK --socket S");
            assert_eq!(line(&plan(mpiexec(), family, 4, 4, "", false)), format!("{options} {ranks}"));
            let root = match family {
                Family::OpenMpi4 | Family::OpenMpi5 => " --allow-run-as-root",
                _ => "",
            };
            assert_eq!(line(&plan(mpiexec(), family, 4, 4, "", true)), format!("{options}{root} {ranks}"));
        }
        let wrapped = line(&plan(mpiexec(), Family::Other, 1, 2, "unshare -m", false));
        assert_eq!(wrapped, "mpiexec -n 1 RANK --socket S : -n 2 unshare -m RANK --socket S");

        let mut few = plan(mpiexec(), Family::OpenMpi4, 3, 2, "", false);
        few.hosts = vec!["a".into(), "c".into()];
        few.allocation.host_file = Some("/nodes".into());
        assert!(line(&few).contains("--map-by node --host a,c --hostfile /nodes -n 1 RANK"));
        few.family = Family::Hydra;
        assert!(line(&few).contains("-ppn 1 -hosts a,c -n 1 RANK"));
        let call = roll_call(&few, "b").iter().map(|word| word.to_str().unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(call.join(" "), "mpiexec -bind-to none -ppn 1 -hosts b -n 1 -wdir / true");

        let listing = [
            (Family::OpenMpi4, "--map-by node --hostfile /nodes -n 1 RANK"),
            (Family::OpenMpi5, "--map-by node:oversubscribe --hostfile /nodes -n 1 RANK"),
            (Family::Hydra, "-ppn 1 -f /nodes -n 1 RANK"),
            (Family::Intel, "-ppn 1 -f /nodes -n 1 RANK"),
            (Family::Other, "mpiexec -n 1 RANK"),
        ];
        for (family, part) in listing {
            let mut listed = plan(mpiexec(), family, 2, 2, "", false);
            listed.allocation.host_file = Some("/nodes".into());
            assert!(line(&listed).contains(part), "{}", line(&listed));
        }
    }

    #[test]
    fn command_lines_of_srun() {
        let srun = || Launcher::Srun("srun".into());
        let fixed = "srun --cpu-bind=none --overlap --overcommit --no-kill --kill-on-bad-exit=0 --wait=0";
        let table = [
            (Family::Other, 3, 3, "--mpi=pmix --distribution=cyclic --nodes=3 --ntasks=4 --ntasks-per-node=2"),
            (Family::Hydra, 3, 1, "--mpi=pmi2 --distribution=cyclic --nodes=2 --ntasks=2 --ntasks-per-node=1"),
            (Family::OpenMpi5, 1, 4, "--mpi=pmix --distribution=cyclic --nodes=1 --ntasks=5 --ntasks-per-node=5"),
        ];
        for (family, hosts, workers, options) in table {
            let expected = format!("{fixed} {options} RANK --socket S");
            assert_eq!(line(&plan(srun(), family, hosts, workers, "", true)), expected);
        }
        let few = Plan { hosts: vec!["a".into(), "c".into()], ..plan(srun(), Family::Other, 3, 2, "", false) };
        assert!(line(&few).contains("--nodes=2 --ntasks=3 --ntasks-per-node=2 --nodelist=a,c RANK"), "{}", line(&few));
    }

    #[test]
    fn under_srun_a_shell_wraps_the_workers_only() {
        let mut wrapped = plan(Launcher::Srun("srun".into()), Family::Other, 1, 1, "echo 'a  wrap'", false);
        wrapped.rank = ["echo", "rank $HOME", "*"].map(OsString::from).to_vec();
        let line = command_line(&wrapped);
        let shell = line.iter().position(|word| word == "/bin/sh").unwrap();
        for (rank, expected) in [("0", "rank $HOME *\n"), ("1", "a  wrap echo rank $HOME *\n")] {
            let output = std::process::Command::new(&line[shell])
                .args(&line[shell + 1..])
                .env("SLURM_PROCID", rank)
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
        }
    }

    #[test]
    fn words_of_a_wrapper() {
        let table: [(&str, &[&str]); 9] = [
            ("", &[]),
            ("  ", &[]),
            ("unshare -m", &["unshare", "-m"]),
            (
                "sh -c 'mount -t tmpfs none /src; exec \"$@\"' sh",
                &["sh", "-c", "mount -t tmpfs none /src; exec \"$@\"", "sh"],
            ),
            ("a\\ b c", &["a b", "c"]),
            ("\"a 'b'\" ''", &["a 'b'", ""]),
            ("\"a\\\"b\\n\"", &["a\"b\\n"]),
            ("a\"b c\"d", &["ab cd"]),
            ("\ta\nb ", &["a", "b"]),
        ];
        for (text, expected) in table {
            assert_eq!(split_words(text.as_ref()).unwrap(), expected, "{text}");
        }
        assert!(split_words("'a".as_ref()).unwrap_err().contains("not closed"));
        assert!(split_words("a\\".as_ref()).unwrap_err().contains("backslash"));
        let odd = OsStr::from_bytes(b"\xff 'b\xfe'");
        assert_eq!(split_words(odd).unwrap(), [OsStr::from_bytes(b"\xff"), OsStr::from_bytes(b"b\xfe")]);
    }
}
