//! The user's command: what it understands and what each part does. Every subcommand returns the exit status, or a
//! [`Failure`] that says it in a sentence.

use crate::connection::Connection;
use crate::doctor;
use crate::driver;
use crate::environment;
use crate::error::{Failure, exit};
use crate::keeper;
use crate::manual;
use crate::masquerade;
use crate::paths::{self, Installation};
use crate::ranks::RankOptions;
use crate::report;
use crate::script;
use crate::session;
use crate::signals;
use crate::status;
use crate::top;
use clap::{Args, CommandFactory, Parser, Subcommand};
use mpicc_proxy_abi as abi;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

/// How long the dispatcher may take to answer. Its loop turns every few ms; a head node can be busy for a while.
const ANSWER_TIMEOUT_S: u64 = 10;

/// How long `stop` waits for the dispatcher to be gone.
const STOP_TIMEOUT_S: u64 = 20;

/// Compile on all ranks of an MPI job, without an edit to any build file.
///
/// A build under mpicc-proxy may be slower, never different: links and everything it is not sure of run here,
/// and so does every compile when there is no dispatcher.
#[derive(Debug, Parser)]
#[command(name = "mpicc-proxy", version, after_help = HELP)]
struct Cli {
    #[command(subcommand)]
    action: Action,
}

const HELP: &str = "\
Start here:
  mpicc-proxy run -- make                 inside an allocation, or on one machine
  mpicc-proxy explain -- gcc -c x.c       would this run on a rank, and if not, why
  mpicc-proxy doctor                      what would make a session fail here, or crawl

Or start the ranks once, and build in another shell as often as you like:
  mpiexec -n 9 mpicc-proxy dispatch
  LD_PRELOAD=/path/to/libmpicc-proxy.so make -j8

Environment:
  MPICC_PROXY=off                switch everything off
  MPICC_PROXY_SOCKET=PATH        the dispatcher's socket [default: $XDG_RUNTIME_DIR/mpicc-proxy/socket,
                                 else /tmp/mpicc-proxy-$UID/socket]
  MPICC_PROXY_FALLBACK=forbid    a compile meant for a rank fails instead of running here (for debugging)
  MPICC_PROXY_LOG=FILE           one line for every intercepted command: verdict, reason, command
  MPICC_PROXY_EVENTS=FOLDER      where sessions' events go, for `top` and `report`, or off
                                 [default: $XDG_STATE_HOME/mpicc-proxy/sessions, else the same in ~/.local/state]
  MPICC_PROXY_HISTORY=FILE       where what compiles use is kept over sessions, or off
                                 [default: $XDG_CACHE_HOME/mpicc-proxy/history-1.sqlite]

Exit status:
  2    the command line makes no sense
  69   no dispatcher (status, stop)
  70   the ranks could not be started (run), or the installation is incomplete
  See `mpicc-proxy COMMAND --help` for the others.

A symbolic link to mpicc-proxy that is named like a driver (gcc, g++, clang-14 ...) acts as `mpicc-proxy exec`; one
that is named ccache does so for the compiler behind it (`ccache gcc -c x.c`).";

const RUN_HELP: &str = "\
Examples:
  mpicc-proxy run -- make                              a worker on every host of the allocation
  mpicc-proxy run --workers 4 -- ninja -C build        four workers, wherever the launcher puts them
  mpicc-proxy run --launcher srun -- make -j16         Slurm starts the ranks; 16 jobs on this machine
  mpicc-proxy run -- spack install hdf5

One line on stderr tells at the end what ran where.

Exit status:
  that of COMMAND; 128+N if signal N killed it
  2    the command line makes no sense
  70   the ranks could not be started; COMMAND was not run
  73   the file of --stats or --events cannot be written; COMMAND was not run
  126  COMMAND cannot be executed
  127  there is no COMMAND
  130  Ctrl-C (128+N: signal N) while the ranks were starting; COMMAND was not run

The ranks may take 60 s to start; MPICC_PROXY_START_TIMEOUT_S=N allows more.";

const DISPATCH_HELP: &str = "\
Examples:
  mpiexec --bind-to none --map-by node --enable-recovery --oversubscribe -n 9 mpicc-proxy dispatch
  mpiexec -n 9 mpicc-proxy dispatch --slots 16 --socket ~/build.socket

Start it with an MPI launcher that does not bind ranks to cores.
Rank 0 must be on the machine where the build runs; one worker per host is best.

Exit status:
  0    ended by `mpicc-proxy stop`
  2    the command line makes no sense
  70   the installation is incomplete
  otherwise that of mpicc-proxy-rank";

const EXEC_HELP: &str = "\
Examples:
  mpicc-proxy exec -- gcc -O2 -c x.c
  make CC=\"mpicc-proxy exec -- gcc\"

A command that is no compiler driver, and any command under MPICC_PROXY=off, is executed as it is.

Exit status:
  that of COMMAND
  126  COMMAND cannot be executed
  127  there is no COMMAND";

const EXPLAIN_HELP: &str = "\
Examples:
  mpicc-proxy explain -- gcc -O2 -c x.c        would this run on a rank
  mpicc-proxy explain --last build/x.o         where was this made, and why there

Nothing is executed and no dispatcher is needed.

Exit status:
  0    explained, whatever the verdict
  2    the command line makes no sense
  66   no event log knows the FILE of --last";

const REPORT_HELP: &str = "\
Examples:
  mpicc-proxy report                       what the newest session did
  mpicc-proxy report --html report.html    a page with the timeline of every slot
  mpicc-proxy report --trace trace.json    for ui.perfetto.dev
  mpicc-proxy report --json                the figures, for programs

Sessions write their events into files in ~/.local/state/mpicc-proxy/sessions (see `run --events`).

Exit status:
  0    printed or written
  2    the command line makes no sense
  66   there is no such session
  73   a file cannot be written";

const TOP_HELP: &str = "\
Examples:
  mpicc-proxy top                          the newest session as it goes on
  mpicc-proxy top --plain --interval 60    a line a minute, for a batch job's log

It reads what the session writes, and can be started and left at any time; what is left is told where the same command
was run before.

Exit status:
  0    left, or the session has ended
  2    the command line makes no sense
  66   there is no such session";

const DOCTOR_HELP: &str = "\
Examples:
  mpicc-proxy doctor                       in the allocation where a build is to run
  mpicc-proxy doctor --launcher srun --workers 8

Ranks are started as `run` would start them, say what they see, and end. One finding a line (`ok`, `warning`, `error`,
a name that is never changed, a sentence), with what follows from it and what to do below it.

Exit status:
  0    no error was found
  1    something was found that makes sessions fail, or leaves most of the allocation idle
  2    the command line makes no sense
  130  Ctrl-C (128+N: signal N)

The ranks may take 60 s; MPICC_PROXY_START_TIMEOUT_S=N allows more.";

const SCRIPT_HELP: &str = "\
Examples:
  mpicc-proxy script slurm --nodes 8 --time 1h -- make >build.sbatch && sbatch build.sbatch
  mpicc-proxy script pbs --nodes 4 --cpus 32 -- ninja >build.pbs && qsub build.pbs

The script goes to stdout.

Exit status:
  0    printed
  2    the command line makes no sense
  70   this program's own path is not known";

const STATUS_HELP: &str = "\
Examples:
  mpicc-proxy status                       compiles by where they ran and why; ranks and hosts
  mpicc-proxy status --json                all numbers

Exit status:
  0    printed
  2    the command line makes no sense
  69   no dispatcher listens there, or it does not answer";

const STOP_HELP: &str = "\
Examples:
  mpicc-proxy stop
  mpicc-proxy stop --socket ~/build.socket

Compiles that are on a rank then run where their build runs; no build fails.

Exit status:
  0    the dispatcher has ended
  2    the command line makes no sense
  69   no dispatcher listens there, or it does not answer
  75   it was told to end, and is still there after 20 s";

#[derive(Debug, Subcommand)]
enum Action {
    /// Start the ranks, run a build on them, stop them
    #[command(after_help = RUN_HELP)]
    Run(session::Options),
    /// Be one rank of the job: rank 0 the dispatcher, the others workers
    #[command(after_help = DISPATCH_HELP)]
    Dispatch(RankOptions),
    /// Run one compiler command through the dispatcher, where LD_PRELOAD is not allowed
    #[command(after_help = EXEC_HELP)]
    Exec {
        /// The compiler driver and its arguments
        #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Say whether a compiler command would run on a rank, and why not
    #[command(after_help = EXPLAIN_HELP)]
    Explain {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        /// Say where FILE, an output, was made the last time, and why there
        #[arg(long, value_name = "FILE")]
        last: Option<OsString>,
        /// The compiler driver and its arguments
        #[arg(
            required_unless_present = "last",
            conflicts_with = "last",
            trailing_var_arg = true,
            value_name = "COMMAND"
        )]
        command: Vec<OsString>,
    },
    /// Say what a session did: where its compiles ran and when, what took longest, what its end waited for
    #[command(after_help = REPORT_HELP)]
    Report(report::Options),
    /// Watch a session: its ranks, what compiles where, what waits (q leaves)
    #[command(after_help = TOP_HELP)]
    Top(top::Options),
    /// Find what would make a session on this machine or in this allocation fail, or crawl
    #[command(after_help = DOCTOR_HELP)]
    Doctor(doctor::Options),
    /// Print a batch script that runs a build in an allocation of its own
    #[command(after_help = SCRIPT_HELP)]
    Script(script::Options),
    /// Print the numbers of the running dispatcher, and which rank is on which host
    #[command(after_help = STATUS_HELP)]
    Status {
        /// Print one JSON object, as `run --stats` writes it
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        dispatcher: Dispatcher,
    },
    /// See to the removal of a session's folder on this host, when all its ranks are gone (ranks start this)
    #[command(name = keeper::COMMAND, hide = true)]
    Keep {
        folder: PathBuf,
        #[arg(long)]
        returns: bool,
    },
    /// Write man pages and completions for shells below SHARE (integration/install does this)
    #[command(name = "install-manual", hide = true)]
    Manual {
        #[arg(value_name = "SHARE")]
        share: PathBuf,
    },
    /// End the running dispatcher and all its ranks
    #[command(after_help = STOP_HELP)]
    Stop {
        #[command(flatten)]
        dispatcher: Dispatcher,
    },
}

/// Which dispatcher.
#[derive(Debug, Args)]
struct Dispatcher {
    /// Its socket [default: $MPICC_PROXY_SOCKET, else $XDG_RUNTIME_DIR/mpicc-proxy/socket, else
    /// /tmp/mpicc-proxy-$UID/socket]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// The whole command: understands `argv`, does it, and returns the exit status.
pub fn main(argv: Vec<OsString>) -> u8 {
    if argv.first().is_some_and(|name| masquerade::as_driver(name)) {
        return report(Err(masquerade::exec(&argv)));
    }
    if argv.first().is_some_and(|name| masquerade::as_ccache(name)) {
        return report(masquerade::exec_as_ccache(&argv[1..]).map(|text| print(text.as_bytes())));
    }
    report(match Cli::parse_from(argv).action {
        Action::Run(options) => session::run(&options),
        Action::Dispatch(options) => Err(dispatch(&options)),
        Action::Exec { command } => Err(masquerade::exec(&command)),
        Action::Explain { json, last: Some(file), .. } => {
            report::explain_last(&file, json).map(|text| print(text.as_bytes()))
        }
        Action::Explain { json, last: None, command } => explain(json, &command),
        Action::Report(options) => report::report(&options).map(|text| print(text.as_bytes())),
        Action::Top(options) => top::watch(&options).map(|()| 0),
        Action::Doctor(options) => doctor::examine(&options).map(|(text, status)| {
            print(text.as_bytes());
            status
        }),
        Action::Script(options) => print_script(&options),
        Action::Status { json, dispatcher } => print_status(json, &dispatcher.path()),
        Action::Stop { dispatcher } => stop(&dispatcher.path()),
        Action::Manual { share } => manual::write(Cli::command(), &share)
            .map(|()| 0)
            .map_err(|e| Failure::new(exit::CANNOT_CREATE, format!("cannot write to {}: {e}", share.display()))),
        Action::Keep { folder, returns } => keep(&folder, returns),
    })
}

fn report(outcome: Result<u8, Failure>) -> u8 {
    outcome.unwrap_or_else(|failure| {
        let _ = writeln!(io::stderr(), "mpicc-proxy: {failure}");
        failure.status
    })
}

/// Prints to stdout. A reader that went away (`| head`) is no error.
fn print(text: &[u8]) -> u8 {
    let _ = io::stdout().write_all(text);
    0
}

/// Becomes the rank program; returns only if that fails.
fn dispatch(options: &RankOptions) -> Failure {
    let rank = match Installation::of_this_program().and_then(|installation| installation.rank()) {
        Ok(rank) => rank,
        Err(e) => return Failure::new(exit::NO_RANKS, e.to_string()),
    };
    let mut command = Command::new(&rank);
    command.args(options.to_arguments());
    // The launcher may have been given the build's environment. A rank asks the compilers themselves.
    command.env(OsStr::from_bytes(abi::env::SWITCH), "off");
    let error = signals::exec(&mut command);
    Failure::new(exit::NO_RANKS, format!("cannot execute {}: {error}", rank.display()))
}

fn explain(json: bool, command: &[OsString]) -> Result<u8, Failure> {
    let name = abi::driver::base_name(command[0].as_bytes());
    let arguments: Vec<Vec<u8>> = command[1..].iter().map(|word| word.clone().into_vec()).collect();
    let mut read = |path: &[u8]| fs::read(OsStr::from_bytes(path));
    let path = paths::find_command(&command[0], std::env::var_os("PATH").as_deref(), |_| true);
    let path = path.map_or_else(|_| command[0].clone(), PathBuf::into_os_string);
    let driver = driver::driver_at(path.as_bytes());
    let verdict = driver.map(|driver| match driver::classify(driver, &arguments, &mut read) {
        remote @ driver::Verdict::Remote(_) => {
            driver::keeps_here(&environment::of_compiler()).map_or(remote, driver::Verdict::Local)
        }
        verdict => verdict,
    });
    let lossy = String::from_utf8_lossy(name);
    let sentence = "it is not a compiler driver that mpicc-proxy knows";
    let text = match (verdict, json) {
        (Some(verdict), false) => driver::explain_text(&verdict) + "\n",
        (Some(verdict), true) => format!("{:#}\n", driver::explain_json(&verdict)),
        (None, false) => format!("local (not-a-driver): {sentence}: {lossy}\n"),
        (None, true) => {
            let object = serde_json::json!({
                "verdict": "local", "reason": "not-a-driver", "detail": lossy, "sentence": sentence,
            });
            format!("{object:#}\n")
        }
    };
    Ok(print(text.as_bytes()))
}

fn print_script(options: &script::Options) -> Result<u8, Failure> {
    let program = Installation::of_this_program().and_then(|installation| installation.command());
    let program = program.map_err(|e| Failure::new(exit::NO_RANKS, e.to_string()))?;
    Ok(print(&script::script(options, &program)))
}

impl Dispatcher {
    fn path(self) -> PathBuf {
        self.socket.unwrap_or_else(paths::own_socket_path)
    }
}

fn no_dispatcher(socket: &Path, error: &io::Error) -> Failure {
    let absent = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused);
    let sentence = if absent {
        format!(
            "no dispatcher listens at {}; start one with `mpicc-proxy run -- COMMAND` or `mpiexec -n N mpicc-proxy \
             dispatch`, or set MPICC_PROXY_SOCKET to the socket of one",
            socket.display()
        )
    } else {
        format!("cannot talk to the dispatcher at {}: {error}", socket.display())
    };
    Failure::new(exit::NO_DISPATCHER, sentence)
}

fn answer_deadline() -> Instant {
    Instant::now() + Duration::from_secs(ANSWER_TIMEOUT_S)
}

fn print_status(json: bool, socket: &Path) -> Result<u8, Failure> {
    let stats = Connection::open(socket)
        .and_then(|mut connection| status::fetch(&mut connection, answer_deadline()))
        .map_err(|e| no_dispatcher(socket, &e))?;
    let text = match json {
        true => format!("{:#}\n", status::json(&stats, true)),
        false => status::table(&stats),
    };
    Ok(print(text.as_bytes()))
}

fn keep(folder: &Path, returns: bool) -> Result<u8, Failure> {
    let explain = |e: io::Error| Failure::new(exit::USAGE, format!("cannot keep {}: {e}", folder.display()));
    keeper::keep(folder, returns).map(|()| 0).map_err(explain)
}

fn stop(socket: &Path) -> Result<u8, Failure> {
    Connection::open(socket)
        .and_then(|mut connection| status::stop(&mut connection, answer_deadline()))
        .map_err(|e| no_dispatcher(socket, &e))?;
    let deadline = Instant::now() + Duration::from_secs(STOP_TIMEOUT_S);
    while Connection::open(socket).is_ok() {
        if Instant::now() >= deadline {
            let sentence = format!(
                "the dispatcher at {} was told to end and is still there after {STOP_TIMEOUT_S} s; if it stays, end \
                 its launcher (mpiexec or srun)",
                socket.display()
            );
            return Err(Failure::new(exit::STILL_THERE, sentence));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    fn parse(words: &[&str]) -> Action {
        Cli::try_parse_from([&["mpicc-proxy"], words].concat()).unwrap_or_else(|e| panic!("{words:?}: {e}")).action
    }

    #[test]
    fn every_command_has_examples_that_are_understood() {
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let help = command.get_after_help().unwrap().to_string();
            let examples: Vec<&str> = help.lines().skip_while(|line| *line != "Examples:").skip(1).collect();
            let of_ours = examples.iter().map_while(|line| line.strip_prefix("  ")).filter_map(|line| {
                // A comment is two columns away; a shell's words follow.
                let words = line.split("  ").next()?.split(['>', '"']).next()?;
                let (_, words) = words.split_once("mpicc-proxy ")?;
                Some(words.split_whitespace().collect::<Vec<_>>())
            });
            let parsed = of_ours.map(|words| format!("{:?}", parse(&words))).count();
            assert!(parsed > 0, "{}", command.get_name());
        }
    }

    #[test]
    fn what_follows_belongs_to_the_command() {
        let table: [(&[&str], &[&str]); 5] = [
            (&["run", "--", "make", "-j8"], &["make", "-j8"]),
            (&["run", "make", "-j8", "--workers", "3"], &["make", "-j8", "--workers", "3"]),
            (&["run", "--workers", "2", "--", "sh", "-c", "--", "x"], &["sh", "-c", "--", "x"]),
            (&["run", "--stats=f", "make", "--help"], &["make", "--help"]),
            (&["run", "--", "--odd"], &["--odd"]),
        ];
        for (words, expected) in table {
            let Action::Run(options) = parse(words) else { panic!("{words:?}") };
            assert_eq!(options.command, expected, "{words:?}");
        }
        let Action::Exec { command } = parse(&["exec", "--", "gcc", "--version"]) else { panic!() };
        assert_eq!(command, ["gcc", "--version"]);
        let Action::Explain { json: true, last: None, command } =
            parse(&["explain", "--json", "--", "gcc", "-c", "--json"])
        else {
            panic!()
        };
        assert_eq!(command, ["gcc", "-c", "--json"]);
    }

    #[test]
    fn mistakes_are_usage_errors() {
        let table: [&[&str]; 8] = [
            &[],
            &["frobnicate"],
            &["run"],
            &["run", "--"],
            &["run", "--workers", "0", "make"],
            &["run", "--worker", "2", "make"],
            &["run", "--launcher", "ssh", "make"],
            &["dispatch", "make"],
        ];
        for words in table {
            let error = Cli::try_parse_from([&["mpicc-proxy"], words].concat()).unwrap_err();
            assert_eq!(error.exit_code(), i32::from(exit::USAGE), "{words:?}");
        }
    }

    #[test]
    fn rank_options_read_back() {
        #[derive(Parser)]
        struct Rank {
            #[command(flatten)]
            options: RankOptions,
        }
        let options = RankOptions {
            socket: Some(PathBuf::from(OsStr::from_bytes(b"/tmp/\xff"))),
            slots: Some(3),
            store_bytes: Some("64M".parse().unwrap()),
            local_jobs: Some(5),
            ready_file: Some("r".into()),
            history: Some("h".into()),
            events: Some("e".into()),
            session: Some("s".into()),
        };
        let words = [vec!["rank".into()], options.to_arguments()].concat();
        let back = Rank::try_parse_from(words).unwrap().options;
        assert_eq!(back.to_arguments(), options.to_arguments());
        assert_eq!((back.slots, back.store_bytes), (options.slots, options.store_bytes));
        assert_eq!(back.local_jobs, options.local_jobs);
        assert!(RankOptions::default().to_arguments().is_empty());
    }
}
