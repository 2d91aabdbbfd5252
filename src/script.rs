//! `mpicc-proxy script`: a batch script around one `mpicc-proxy run`. Options in, bytes out.
//!
//! # Shape of the allocation
//! Hosts and ranks per host are always asked for together. With the number of ranks alone Slurm puts all on one host, with
//! hosts and a number of ranks it spreads them unevenly, and PBS packs its chunks unless it is told to scatter them.
//!
//! # Flux
//! No mpiexec knows of Flux, so it gets a list of hosts, in the variables that Open MPI 4 and 5 and MPICH read. Flux tells
//! its batch scripts of no number of hosts either, hence `--workers`.
//!
//! Written by the manuals of Slurm, PBS Professional and Flux.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;

/// Batch systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum System {
    /// Slurm (sbatch)
    Slurm,
    /// Flux (flux batch)
    Flux,
    /// PBS Professional or OpenPBS (qsub)
    Pbs,
}

/// Options of `mpicc-proxy script`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The batch system
    #[arg(value_enum)]
    pub system: System,

    /// Hosts to ask for
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub nodes: u32,

    /// Time limit: HH:MM:SS, D-HH:MM:SS, or a number with s, m, h or d [default: the site's]
    #[arg(long, value_name = "T")]
    pub time: Option<Time>,

    /// Partition or queue [default: the site's]
    #[arg(long, value_name = "P")]
    pub partition: Option<Name>,

    /// Whom to charge [default: the site's]
    #[arg(long, value_name = "A")]
    pub account: Option<Name>,

    /// Workers on each host; one fills all CPUs of its host
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub workers_per_node: u32,

    /// CPUs for each worker [default: whole hosts; PBS must be told]
    #[arg(long, value_name = "C", required_if_eq("system", "pbs"), value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub cpus: Option<u32>,

    /// The build command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// A time limit, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(u64);

impl FromStr for Time {
    type Err = String;

    /// A bare number would be minutes to Slurm and seconds to PBS.
    fn from_str(text: &str) -> Result<Time, String> {
        const SHAPE: &str = "expected HH:MM:SS, D-HH:MM:SS, or a number with s, m, h or d behind it";
        let number = |digits: &str| -> Option<u64> {
            let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            digits.parse().ok().filter(|_| is_number)
        };
        let clock = |days: u64, text: &str| -> Option<u64> {
            let parts: Vec<u64> = text.split(':').map(number).collect::<Option<_>>()?;
            let [hours, minutes @ 0..60, seconds @ 0..60] = parts[..] else { return None };
            days.checked_mul(24)?.checked_add(hours)?.checked_mul(3600)?.checked_add(minutes * 60 + seconds)
        };
        let unit = |unit: &str| [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)].into_iter().find(|(u, _)| *u == unit);
        let seconds = match text.split_once('-') {
            Some((days, rest)) => number(days).filter(|_| rest.len() == "HH:MM:SS".len()).and_then(|d| clock(d, rest)),
            None if text.contains(':') => clock(0, text),
            None => {
                let (digits, name) = text.split_at_checked(text.len().saturating_sub(1)).ok_or(SHAPE)?;
                number(digits).zip(unit(name)).and_then(|(n, (_, seconds))| n.checked_mul(seconds))
            }
        };
        match seconds {
            Some(0) => Err("a job needs some time".to_owned()),
            Some(seconds) => Ok(Time(seconds)),
            None => Err(SHAPE.to_owned()),
        }
    }
}

impl Time {
    /// As Slurm and PBS both read it; hours may be more than 24.
    fn clock(self) -> String {
        format!("{:02}:{:02}:{:02}", self.0 / 3600, self.0 / 60 % 60, self.0 % 60)
    }
}

/// A name for a directive, where nothing can be quoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Name, String> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-+,:@/".contains(&b);
        match text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.bytes().all(fits) {
            true => Ok(Name(text.to_owned())),
            false => Err("expected letters, digits and . _ - + , : @ /, a letter or digit first".to_owned()),
        }
    }
}

/// The script. `program` is the absolute path of `mpicc-proxy`: batch systems start scripts with PATHs of their own.
pub fn script(options: &Options, program: &Path) -> Vec<u8> {
    let mut script = b"#!/bin/sh\n".to_vec();
    let mark = match options.system {
        System::Slurm => "#SBATCH",
        System::Flux => "#flux:",
        System::Pbs => "#PBS",
    };
    for directive in directives(options) {
        script.extend(format!("{mark} {directive}\n").into_bytes());
    }
    script.push(b'\n');
    script.extend(
        match options.system {
            System::Slurm => "exec ",
            System::Flux => FLUX_HOSTS,
            System::Pbs => "cd \"$PBS_O_WORKDIR\" || exit\nexec ",
        }
        .bytes(),
    );
    script.extend(quoted(program.as_os_str().as_bytes()));
    script.extend(b" run");
    // Else `run` counts the hosts itself.
    if options.workers_per_node > 1 || options.system == System::Flux {
        script.extend(format!(" --workers {}", workers(options)).into_bytes());
    }
    script.extend(b" --");
    for word in &options.command {
        script.push(b' ');
        script.extend(quoted(word.as_bytes()));
    }
    script.push(b'\n');
    script
}

fn workers(options: &Options) -> u64 {
    u64::from(options.nodes) * u64::from(options.workers_per_node)
}

/// Not `exec`: the list is removed in the end.
const FLUX_HOSTS: &str = r#"# mpiexec knows nothing of Flux: it reads here which hosts there are, and reaches them by ssh.
hosts=$(mktemp) || exit
trap 'rm -f "$hosts"' EXIT
flux hostlist --expand instance | tr ' ' '\n' >"$hosts"
export OMPI_MCA_orte_default_hostfile="$hosts" PRTE_MCA_prte_default_hostfile="$hosts" HYDRA_HOST_FILE="$hosts"
"#;

fn directives(options: &Options) -> Vec<String> {
    let Options { nodes, workers_per_node, cpus, .. } = options;
    let given = |name: &str, value: &Option<Name>| value.as_ref().map(|Name(value)| format!("{name}{value}"));
    let time = |name: &str| options.time.map(|time| format!("{name}{}", time.clock()));
    let mut directives = match options.system {
        System::Slurm => vec![
            format!("--nodes={nodes}"),
            format!("--ntasks-per-node={workers_per_node}"),
            cpus.map_or("--exclusive".into(), |cpus| format!("--cpus-per-task={cpus}")),
        ],
        System::Flux => match cpus {
            None => vec![format!("--nodes={nodes}"), "--exclusive".into()],
            Some(cpus) => vec![
                format!("--nodes={nodes}"),
                format!("--nslots={}", workers(options)),
                format!("--cores-per-slot={cpus}"),
            ],
        },
        System::Pbs => {
            // A chunk is a host, with all its workers.
            let cpus = u64::from(cpus.unwrap_or(1)) * u64::from(*workers_per_node);
            vec![
                // Slurm and Flux hand on the environment, with the MPI module that was loaded, without being asked.
                "-V".into(),
                format!("-l select={nodes}:ncpus={cpus}:mpiprocs={workers_per_node}"),
                "-l place=scatter".into(),
            ]
        }
    };
    directives.extend(
        match options.system {
            System::Slurm => {
                [time("--time="), given("--partition=", &options.partition), given("--account=", &options.account)]
            }
            System::Flux => [
                options.time.map(|Time(seconds)| format!("--time-limit={seconds}s")),
                given("--queue=", &options.partition),
                given("--bank=", &options.account),
            ],
            System::Pbs => [time("-l walltime="), given("-q ", &options.partition), given("-A ", &options.account)],
        }
        .into_iter()
        .flatten(),
    );
    directives
}

/// A word that a shell reads back as these bytes.
fn quoted(word: &[u8]) -> Vec<u8> {
    let is_plain = |b: &u8| b.is_ascii_alphanumeric() || b"_-+=./,:@%".contains(b);
    if !word.is_empty() && word.iter().all(is_plain) {
        return word.to_vec();
    }
    let parts: Vec<&[u8]> = word.split(|b| *b == b'\'').collect();
    [b"'", &parts.join(&br"'\''"[..])[..], b"'"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(line: &str) -> Options {
        Line::try_parse_from(["script"].into_iter().chain(line.split(' ')))
            .unwrap_or_else(|e| panic!("{line}: {e}"))
            .options
    }

    fn text(line: &str) -> String {
        String::from_utf8(script(&options(line), Path::new("/opt/bin/mpicc-proxy"))).unwrap()
    }

    #[test]
    fn slurm() {
        assert_eq!(
            text("slurm --nodes 4 -- make -j8"),
            "#!/bin/sh\n#SBATCH --nodes=4\n#SBATCH --ntasks-per-node=1\n#SBATCH --exclusive\n\n\
             exec /opt/bin/mpicc-proxy run -- make -j8\n"
        );
        assert_eq!(
            text("slurm --nodes 2 --time 90m --partition a,b --account p-1 --workers-per-node 2 --cpus 16 -- ninja"),
            "#!/bin/sh\n#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=2\n#SBATCH --cpus-per-task=16\n\
             #SBATCH --time=01:30:00\n#SBATCH --partition=a,b\n#SBATCH --account=p-1\n\n\
             exec /opt/bin/mpicc-proxy run --workers 4 -- ninja\n"
        );
    }

    #[test]
    fn flux() {
        let head = "#!/bin/sh\n#flux: --nodes=4\n#flux: --exclusive\n#flux: --time-limit=172800s\n#flux: --queue=q\n\
                    #flux: --bank=b\n\n";
        let tail = "\n/opt/bin/mpicc-proxy run --workers 4 -- make\n";
        let whole = text("flux --nodes 4 --time 2d --partition q --account b -- make");
        assert!(whole.starts_with(head) && whole.ends_with(tail), "{whole}");
        let part = text("flux --nodes 4 --workers-per-node 2 --cpus 8 -- make");
        let head = "#!/bin/sh\n#flux: --nodes=4\n#flux: --nslots=8\n#flux: --cores-per-slot=8\n\n";
        assert!(part.starts_with(head) && part.ends_with(" run --workers 8 -- make\n"), "{part}");
    }

    #[test]
    fn pbs() {
        assert_eq!(
            text("pbs --nodes 3 --cpus 8 --workers-per-node 2 --time 2-01:00:05 --partition q --account a -- make"),
            "#!/bin/sh\n#PBS -V\n#PBS -l select=3:ncpus=16:mpiprocs=2\n#PBS -l place=scatter\n\
             #PBS -l walltime=49:00:05\n#PBS -q q\n#PBS -A a\n\ncd \"$PBS_O_WORKDIR\" || exit\n\
             exec /opt/bin/mpicc-proxy run --workers 6 -- make\n"
        );
    }

    #[test]
    fn options_that_make_no_sense() {
        for line in [
            "",
            "slurm",
            "slurm --",
            "lsf -- make",
            "pbs -- make",
            "slurm --nodes 0 -- make",
            "slurm --workers-per-node 0 -- make",
            "slurm --cpus 0 -- make",
            "slurm --time 30 -- make",
            "slurm --partition a;b -- make",
            "slurm --partition=-x -- make",
            "slurm --account= -- make",
            "slurm --workers 3 -- make",
        ] {
            let words = ["script"].into_iter().chain(line.split(' ').filter(|word| !word.is_empty()));
            let Err(error) = Line::try_parse_from(words) else { panic!("{line}") };
            assert_eq!(error.exit_code(), 2, "{line}");
        }
        assert!("a\n#SBATCH -n".parse::<Name>().is_err() && "a b".parse::<Name>().is_err());
    }

    #[test]
    fn times() {
        let table: [(&str, Option<u64>); 18] = [
            ("90s", Some(90)),
            ("90m", Some(5400)),
            ("2h", Some(7200)),
            ("2d", Some(172_800)),
            ("01:30:00", Some(5400)),
            ("100:00:00", Some(360_000)),
            ("1-00:00:01", Some(86_401)),
            ("30", None),
            ("", None),
            ("h", None),
            ("0m", None),
            ("1:60:00", None),
            ("10:00", None),
            ("1-2", None),
            ("+1h", None),
            ("1é", None),
            ("-1h", None),
            ("99999999999999999999d", None),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse().ok(), expected.map(Time), "{text}");
        }
    }

    /// Every shell reads the words back, whatever is in them.
    #[test]
    fn words_come_back() {
        let dir = tempfile::Builder::new().prefix("it's \"a\" $(dir)").tempdir().unwrap();
        let executable = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
            path
        };
        let program = executable("mpicc-proxy", r#"printf '%s\0' "$@"; exit 7"#);
        executable("flux", "echo a b");
        let words: [&[u8]; 12] = [
            b"make",
            b"",
            b"a b",
            b"it's",
            b"'",
            b"$HOME `id` \\ \"",
            b"\xff\xfe",
            b"a\n#SBATCH -n 1\n",
            b"*",
            b"~",
            b"-x",
            b"!",
        ];
        for line in ["slurm -- make", "flux -- make", "pbs --cpus 2 -- make"] {
            let mut options = options(line);
            options.command = words.iter().map(|word| OsStr::from_bytes(word).to_owned()).collect();
            let file = dir.path().join("script");
            fs::write(&file, script(&options, &program)).unwrap();
            let path = format!("{}:/usr/bin:/bin", dir.path().display());
            for shell in ["sh", "bash"] {
                let syntax = Command::new(shell).arg("-n").arg(&file).output().unwrap();
                assert!(syntax.status.success() && syntax.stderr.is_empty(), "{shell} -n: {line}");
                let mut run = Command::new(shell);
                let run = run.arg(&file).env("PATH", &path).env("PBS_O_WORKDIR", dir.path()).env("TMPDIR", dir.path());
                let output = run.output().unwrap();
                assert_eq!(output.status.code(), Some(7), "the command's status: {line}");
                let read: Vec<&[u8]> = output.stdout.split(|b| *b == 0).collect();
                let begin = read.iter().position(|word| *word == b"--").unwrap() + 1;
                assert_eq!(read[begin..read.len() - 1], words, "{shell}: {line}");
            }
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "nothing is left");
    }
}
