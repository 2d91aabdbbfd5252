//! One intercepted driver: classify, ask the dispatcher, publish the result, exit with the compiler's status. Whatever
//! goes wrong on the way, it becomes the real driver instead; the build cannot tell.

use crate::comeback;
use crate::connection::Connection;
use crate::driver::native::{self, Question};
use crate::driver::{self, Cause, Compile, Reason, Verdict};
use crate::environment::{self, variable};
use crate::paths;
use crate::publish::publish;
use crate::rusage::{self, Laps};
use crate::wire::{
    ActionResult, Bytes, ClientCpu, Exit, Invocation, LocalNote, Place, SlotUser, Stdin, Stream, ToClient, ToDispatcher,
};
use crate::{jobserver, signals, stdin, viewpoint};
use mpicc_proxy_abi::driver::{self as names, Dialect};
use mpicc_proxy_abi::{env, step};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::ffi::{CString, OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Exit status when `MPICC_PROXY_FALLBACK=forbid` keeps a compile from running locally (EX_UNAVAILABLE).
const EXIT_FORBIDDEN: u8 = 69;
/// Exit status when the client is started without the hook's variable (EX_USAGE).
const EXIT_USAGE: u8 = 64;
/// As a shell's: the driver could not be executed.
const EXIT_NOT_EXECUTABLE: u8 = 126;

/// A dispatcher that says nothing for this long is stuck or stopped: it shows life every [`crate::wire::SIGN_OF_LIFE`].
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// How often a waiting client looks whether another one has given up already.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How long a client whose dispatcher died waits for the token that was lent: many may, and make takes tokens, too. They
/// may all be held by jobs that wait for this one, which then has to go on without.
const TOKEN_PATIENCE: Duration = Duration::from_secs(30);

/// How often a client asks another dispatcher when one is gone. More, and a compile that kills dispatchers kills them all.
const RETURNS_MAX: u32 = 2;

/// The reason of a compile whose dispatcher is stuck. It would not be the last to wait for nothing.
const SILENT: &str = "dispatcher-silent";

/// Why a compile that was meant for a rank runs here.
struct Fallback {
    reason: String,
    detail: String,
    /// The dispatcher counted it already, or cannot.
    counted: bool,
}

/// Nobody has counted it yet.
fn uncounted(reason: &str, error: io::Error) -> Fallback {
    Fallback { reason: reason.to_owned(), detail: error.to_string(), counted: false }
}

/// What goes to a rank instead of what the client was given.
struct Prepared {
    argv: Vec<Bytes>,
    stdin: Option<Stdin>,
}

struct Client {
    driver: OsString,
    argv: Vec<OsString>,
    /// As it came, without the variables between hook and client.
    environment: Vec<Bytes>,
}

/// The whole program.
pub fn main() -> ExitCode {
    let mut laps = Laps::default();
    let start_us = laps.lap_us();
    let Some(driver) = variable(env::DRIVER) else {
        eprintln!(
            "mpicc-proxy-client: it is started by libmpicc-proxy.so in place of a compiler; \
             to run one command by hand use `mpicc-proxy exec -- gcc ...`"
        );
        return EXIT_USAGE.into();
    };
    let environment = environment::of_compiler();
    Client { driver, argv: std::env::args_os().collect(), environment }.run(laps, start_us)
}

/// Does the user want to hear of it when a compile that was meant for a rank would run here?
fn may_not_fall_back() -> bool {
    variable(env::FALLBACK).is_some_and(|value| env::is_forbid(value.as_bytes()))
}

fn without(mut entries: Vec<Bytes>, names: &[&[u8]]) -> Vec<Bytes> {
    entries.retain(|entry| !names.iter().any(|name| environment::is_named(entry, name)));
    entries
}

impl Client {
    fn run(&self, laps: Laps, start_us: u64) -> ExitCode {
        if variable(env::SWITCH).is_some_and(|value| env::is_off(value.as_bytes())) {
            return self.become_driver();
        }
        let prepared = match self.classify() {
            Verdict::Remote(compile) => self.prepare(&compile),
            Verdict::Local(reason) => Err(reason),
        };
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(reason) => {
                let detail = reason.detail.as_deref().map(String::from_utf8_lossy).unwrap_or_default().into_owned();
                self.log("local", reason.name(), &detail);
                self.enter_locally(reason.name(), &detail, reason.is_work(), RETURNS_MAX);
                return self.become_driver();
            }
        };
        match self.run_remotely(prepared, laps, start_us) {
            Ok((code, misses)) => {
                self.log("remote", "-", &format!("misses={misses}"));
                code
            }
            Err(fallback) => self.fall_back(&fallback),
        }
    }

    /// # Errors
    /// Something beside the command line keeps the compile here.
    fn prepare(&self, compile: &Compile) -> Result<Prepared, Reason> {
        if signals::closed_at_start().next().is_some() {
            return Err(Reason::new(Cause::ClosedDescriptor));
        }
        if let Some(reason) = driver::keeps_here(&self.environment) {
            return Err(reason);
        }
        // Its order with messages depends on the sizes of buffers, and those on what it is; on a rank it is a pipe.
        if compile.to_stdout && same_file(io::stdout(), io::stderr()) && !is_pipe(io::stdout()) {
            return Err(Reason::at(Cause::OutputToStdout, b"with messages, and no pipe"));
        }
        let argv = self.spell_out(compile)?;
        let unreadable = |_| Reason::at(Cause::Stdin, b"-");
        let stdin = if compile.stdin { Some(self.source_on_stdin().map_err(unreadable)?) } else { None };
        Ok(Prepared { argv, stdin })
    }

    fn source_on_stdin(&self) -> io::Result<Stdin> {
        if io::stdin().is_terminal() {
            return Err(io::Error::other("a terminal"));
        }
        stdin::take()?.ok_or_else(|| io::Error::other("not for others to read"))
    }

    /// The command line for a rank, on which nothing means this host.
    fn spell_out(&self, compile: &Compile) -> Result<Vec<Bytes>, Reason> {
        let argv: Vec<Bytes> = self.argv.iter().map(|word| word.as_bytes().to_vec()).collect();
        let Some(machine) = &compile.native else { return Ok(argv) };
        let question = Question {
            driver: self.driver.as_bytes(),
            dialect: driver::driver_at(self.driver.as_bytes()).map_or(Dialect::Either, |name| name.dialect),
            machine,
            environment: &self.environment,
        };
        let spelled_out =
            native::folder().map_err(Into::into).and_then(|dir| native::spell_out(&question, &argv, &dir));
        spelled_out.map_err(|error| Reason::at(Cause::MarchNative, format!("{error:#}").as_bytes()))
    }

    /// What this process takes on the head as long as it runs here.
    fn place(&self) -> Place {
        match jobserver::find(&self.environment) {
            Some(Ok(jobserver)) => Place::Token(jobserver),
            Some(Err(reason)) => Place::FixedToken(reason.to_owned()),
            None => Place::Slot(self.slot()),
        }
    }

    fn slot(&self) -> SlotUser {
        let value = variable(env::STEP).unwrap_or_default();
        if value.as_bytes() == step::UNNAMED {
            // ninja started nothing but this.
            return SlotUser::Step(std::process::id());
        }
        step::parse(value.as_bytes()).map_or(SlotUser::Client, |(id, _)| SlotUser::Step(id))
    }

    fn classify(&self) -> Verdict {
        let unknown = || Verdict::Local(driver::Reason::new(driver::Cause::UnknownOption));
        let name = |path: &OsStr| names::recognise(names::base_name(path.as_bytes()));
        let Some(driver) = name(&self.driver) else { return unknown() };
        // A driver called by another driver's name behaves as that one, or as a mixture.
        if self.argv.first().and_then(|argv0| name(argv0)).is_some_and(|called| called != driver) {
            return unknown();
        }
        let arguments: Vec<Bytes> = self.argv.iter().skip(1).map(|word| word.as_bytes().to_vec()).collect();
        let driver = driver::driver_at(self.driver.as_bytes()).unwrap_or(driver);
        driver::classify(driver, &arguments, &mut read_response_file)
    }

    fn invocation(&self, Prepared { argv, stdin }: Prepared) -> io::Result<Invocation> {
        let umask = nix::sys::stat::umask(nix::sys::stat::Mode::empty());
        nix::sys::stat::umask(umask);
        let terminals = [io::stdin().is_terminal(), io::stdout().is_terminal(), io::stderr().is_terminal()];
        Ok(Invocation {
            driver: self.driver.as_bytes().to_vec(),
            argv,
            // What steers us must not make one compile's environment differ from another's.
            environment: without(self.environment.clone(), &env::KEPT),
            cwd: nix::unistd::getcwd()?.into_os_string().into_vec(),
            umask: umask.bits(),
            terminals: (0..).zip(terminals).fold(0, |bits, (fd, yes)| bits | u32::from(yes) << fd),
            window: terminals[0].then(window_of_stdin).flatten(),
            merged_output: same_file(io::stdout(), io::stderr()),
            limits: narrow_limits(),
            viewpoint: viewpoint::own()?,
            stdin: stdin.map(Box::new),
        })
    }

    /// The exit status, and how many questions the compile had to ask.
    fn run_remotely(&self, prepared: Prepared, mut laps: Laps, start_us: u64) -> Result<(ExitCode, u64), Fallback> {
        let invocation = self.invocation(prepared).map_err(|error| uncounted("no-working-directory", error))?;
        let umask = invocation.umask;
        let has_stdin = invocation.stdin.is_some();
        let socket = paths::own_socket_path();
        let silent = paths::silence_mark(&socket);
        if silent.exists() {
            return Err(uncounted(SILENT, io::ErrorKind::TimedOut.into()));
        }
        let parse_us = laps.lap_us();
        let request = ToDispatcher::Compile {
            invocation: Box::new(invocation),
            place: self.place(),
            lent: false,
            only_ranks: may_not_fall_back(),
        };
        let request = CompileRequest { socket, silent, request };
        let Answered { mut connection, ask_us, answer } = request.ask(&mut laps)?;
        let (result, received) = match answer {
            Answer::Result(result, received) => (result, received),
            Answer::RunLocally { reason, detail } => return Err(Fallback { reason, detail, counted: true }),
        };
        let wait_us = laps.lap_us();
        let code = match result.exit {
            Exit::Code(code) => code as u8,
            Exit::Signal(signal) => {
                let killed = io::Error::other(format!("the driver was killed by signal {signal}"));
                return Err(uncounted("driver-killed", killed));
            }
        };
        if (!received.stdout.is_empty() && reader_is_gone(io::stdout()))
            || (!received.stderr.is_empty() && reader_is_gone(io::stderr()))
        {
            // The compiler would not survive its first message.
            return Err(uncounted("reader-gone", io::ErrorKind::BrokenPipe.into()));
        }
        publish(&result.outputs, &received.outputs, umask).map_err(|error| uncounted("cannot-publish", error))?;
        if has_stdin {
            stdin::leave_at(result.stdin_read);
        }
        let print = || {
            File::from(io::stdout().as_fd().try_clone_to_owned()?).write_all(&received.stdout)?;
            // A compiler whose messages go nowhere does not fail for that.
            let _ = io::stderr().write_all(&received.stderr);
            Ok(())
        };
        signals::without_limit_signal(print).map_err(|error| uncounted("cannot-print", error))?;
        let cpu = ClientCpu { start_us, parse_us, ask_us, wait_us, publish_us: laps.lap_us() };
        let _ = connection.send(&ToDispatcher::Published(cpu));
        Ok((code.into(), result.misses))
    }

    fn fall_back(&self, fallback: &Fallback) -> ExitCode {
        let Fallback { reason, detail, counted } = fallback;
        if may_not_fall_back() {
            self.log("forbidden", reason, detail);
            eprintln!(
                "mpicc-proxy: `{}` was meant for a rank but would run locally ({reason}{}{detail}), which \
                 MPICC_PROXY_FALLBACK=forbid does not allow",
                self.command_line(),
                if detail.is_empty() { "" } else { ": " },
            );
            return EXIT_FORBIDDEN.into();
        }
        self.log("local", reason, detail);
        if !counted {
            // It has waited for another dispatcher already, if one was promised.
            self.enter_locally(reason, detail, true, 0);
        }
        self.become_driver()
    }

    /// Tells the dispatcher, if there is one, that this invocation runs here, and waits for a slot if it is work that no
    /// jobserver counts. A stuck dispatcher is left alone: once its backlog is full, connecting would wait. `returns`: how
    /// often another one is asked when it is gone.
    fn enter_locally(&self, reason: &str, detail: &str, is_work: bool, returns: u32) {
        let socket = paths::own_socket_path();
        let silent = paths::silence_mark(&socket);
        if silent.exists() {
            return;
        }
        let slot = (is_work && !jobserver::is_named(&self.environment)).then(|| self.slot());
        let note = ToDispatcher::Local(Box::new(LocalNote {
            reason: reason.to_owned(),
            detail: detail.to_owned(),
            output: self.output().unwrap_or_default(),
            package: environment::value_among(&self.environment, env::SPACK_SHORT_SPEC).unwrap_or_default().to_vec(),
            client_cpu_us: rusage::own_cpu_us(),
            slot,
        }));
        let tell = || {
            let mut connection = Connection::open(&socket)?;
            connection.send(&note)?;
            while slot.is_some() && !matches!(receive_from_living(&mut connection, &silent)?.0, ToClient::Go) {}
            Ok(())
        };
        // Without an answer it runs all the same.
        let mut told: io::Result<()> = tell();
        for _ in 0..returns {
            if told.is_ok() || slot.is_none() || silent.exists() || !comeback::wait(&socket) {
                return;
            }
            told = tell();
        }
    }

    /// What the command line names with `-o`, absolute; for the event log.
    fn output(&self) -> Option<Bytes> {
        let mut words = self.argv.iter().map(|word| word.as_bytes()).rev();
        let mut after = None;
        let named = words.find_map(|word| match word.strip_prefix(b"-o") {
            Some(b"") => after,
            Some(name) => Some(name),
            None => {
                after = Some(word);
                None
            }
        })?;
        let cwd = nix::unistd::getcwd().ok()?;
        Some(paths::absolute(cwd.as_os_str().as_bytes(), named))
    }

    /// Executes the real driver in this process: same pid, same descriptors, same parent.
    fn become_driver(&self) -> ExitCode {
        // None of these can hold a NUL byte: they came from execve(2) themselves.
        let strings = |parts: Vec<Bytes>| parts.into_iter().flat_map(CString::new).collect::<Vec<_>>();
        let argv = strings(self.argv.iter().map(|word| word.as_bytes().to_vec()).collect());
        // The library must not catch it again, should it be loaded in spite of all (ld.so.preload).
        let mut environment = without(self.environment.clone(), &[env::SWITCH]);
        environment.push([env::SWITCH, b"=off"].concat());
        let driver = CString::new(self.driver.as_bytes()).unwrap_or_default();
        let error = signals::exec_exactly(&driver, &argv, &strings(environment));
        eprintln!("mpicc-proxy-client: cannot execute {}: {error}", self.driver.display());
        EXIT_NOT_EXECUTABLE.into()
    }

    fn command_line(&self) -> String {
        let words: Vec<_> = self.argv.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        words.join(" ")
    }

    /// One line in the file named by `MPICC_PROXY_LOG`: verdict, reason, detail, working directory, command, separated
    /// by tabs. A single write, so that lines of many clients do not mix.
    fn log(&self, verdict: &str, reason: &str, detail: &str) {
        let Some(path) = variable(env::LOG) else { return };
        let cwd = nix::unistd::getcwd().unwrap_or_default();
        let one_line = |text: &str| text.replace(['\n', '\t'], " ");
        let line = format!(
            "{verdict}\t{reason}\t{}\t{}\t{}\n",
            one_line(detail),
            one_line(&cwd.to_string_lossy()),
            one_line(&self.command_line())
        );
        // Where it would exceed a limit on the size of files (RLIMIT_FSIZE), the line is lost, and not the compile.
        let _ = signals::without_limit_signal(|| {
            // Nobody may be reading a FIFO.
            let file = OpenOptions::new().append(true).create(true).custom_flags(libc::O_NONBLOCK).open(path);
            file.and_then(|mut file| file.write_all(line.as_bytes()))
        });
    }
}

/// A compile that a dispatcher is asked for.
struct CompileRequest {
    socket: PathBuf,
    silent: PathBuf,
    request: ToDispatcher,
}

/// What comes of it, and the connection it came by.
struct Answered {
    connection: Connection,
    /// CPU of connecting and asking.
    ask_us: u64,
    answer: Answer,
}

impl CompileRequest {
    /// Asks, and asks the next dispatcher where one is promised to take the place of one that is gone.
    fn ask(mut self, laps: &mut Laps) -> Result<Answered, Fallback> {
        let mut returns = 0;
        loop {
            let fallback = match self.ask_once(laps) {
                Err(fallback) => fallback,
                answered => return answered,
            };
            if fallback.reason != SILENT && returns < RETURNS_MAX && comeback::wait(&self.socket) {
                returns += 1;
                continue;
            }
            if let ToDispatcher::Compile { place: Place::Token(jobserver), lent: true, .. } = &self.request {
                // Nobody else will take it, and what runs here from now on needs it.
                jobserver::take(jobserver, TOKEN_PATIENCE);
            }
            return Err(fallback);
        }
    }

    fn ask_once(&mut self, laps: &mut Laps) -> Result<Answered, Fallback> {
        let mut connection = Connection::open(&self.socket).map_err(|error| uncounted("no-dispatcher", error))?;
        connection.send(&self.request).map_err(|error| uncounted("dispatcher-gone", error))?;
        let ask_us = laps.lap_us();
        let ToDispatcher::Compile { lent, .. } = &mut self.request else { unreachable!("it is made of nothing else") };
        match receive(&mut connection, &self.silent, lent) {
            Ok(answer) => Ok(Answered { connection, ask_us, answer }),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                if *lent {
                    // A dispatcher that lives after all has to know first that its client takes the token itself.
                    let _ = connection.send(&ToDispatcher::TakesBack);
                }
                Err(uncounted(SILENT, error))
            }
            Err(error) => Err(uncounted("dispatcher-gone", error)),
        }
    }
}

/// What arrived for one action.
#[derive(Default)]
struct Received {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    outputs: Vec<Vec<u8>>,
}

enum Answer {
    Result(ActionResult, Received),
    RunLocally { reason: String, detail: String },
}

/// The next message of a dispatcher that is alive; `TimedOut` when it is not, which `silent` then tells the others.
fn receive_from_living(connection: &mut Connection, silent: &Path) -> io::Result<(ToClient, Vec<u8>)> {
    let give_up_at = Instant::now() + SILENCE_MAX;
    loop {
        let look_at = Instant::now() + LOOK_EVERY;
        match connection.receive_by(look_at.min(give_up_at)) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                if Instant::now() >= give_up_at {
                    let _ = File::create(silent);
                }
                if silent.exists() {
                    return Err(error);
                }
            }
            result => return result,
        }
    }
}

/// Collects a result. Nothing is published before it is whole. `lent`: the dispatcher has the token of this job.
fn receive(connection: &mut Connection, silent: &Path, lent: &mut bool) -> io::Result<Answer> {
    let mut received = Received::default();
    loop {
        let (head, payload) = receive_from_living(connection, silent)?;
        match head {
            ToClient::Heartbeat => {}
            ToClient::Lent => *lent = true,
            ToClient::Chunk { stream: Stream::Stdout } => append(&mut received.stdout, payload),
            ToClient::Chunk { stream: Stream::Stderr } => append(&mut received.stderr, payload),
            ToClient::Chunk { stream: Stream::Output(index) } => {
                let index = index as usize;
                if index >= mpicc_proxy_abi::task::WRITES_MAX as usize {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "a result has too many outputs"));
                }
                if received.outputs.len() <= index {
                    received.outputs.resize_with(index + 1, Vec::new);
                }
                append(&mut received.outputs[index], payload);
            }
            ToClient::Restart => received = Received::default(),
            ToClient::Done(result) => {
                received.outputs.resize_with(result.outputs.len(), Vec::new);
                return Ok(Answer::Result(result, received));
            }
            ToClient::RunLocally { reason, detail } => return Ok(Answer::RunLocally { reason, detail }),
            ToClient::Status(_) | ToClient::Stopping | ToClient::Go | ToClient::Parallelism { .. } => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer to another question"));
            }
        }
    }
}

/// The first part, which is mostly the only one, is not copied.
fn append(whole: &mut Vec<u8>, part: Vec<u8>) {
    if whole.is_empty() {
        *whole = part;
    } else {
        whole.extend_from_slice(&part);
    }
}

fn same_file(a: impl AsFd, b: impl AsFd) -> bool {
    let identity = |fd: &dyn AsFd| nix::sys::stat::fstat(fd.as_fd()).ok().map(|stat| (stat.st_dev, stat.st_ino));
    let (a, b) = (identity(&a), identity(&b));
    a.is_some() && a == b
}

fn is_pipe(fd: impl AsFd) -> bool {
    nix::sys::stat::fstat(fd).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFIFO)
}

/// Nobody will read what is written to this pipe.
fn reader_is_gone(fd: impl AsFd) -> bool {
    let mut polled = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
    let answered = poll(&mut polled, PollTimeout::ZERO).is_ok();
    answered && polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR))
}

/// A response file is read here and again by the driver: only a regular file gives the same twice.
fn read_response_file(path: &[u8]) -> io::Result<Vec<u8>> {
    let path = OsStr::from_bytes(path);
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut content = Vec::new();
    File::open(path)?.take(driver::RESPONSE_BYTES_MAX as u64 + 1).read_to_end(&mut content)?;
    if content.len() > driver::RESPONSE_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(content)
}

/// Limits that a compile could run into, if they are narrower than what systems come with.
fn narrow_limits() -> Vec<(u32, u64, u64)> {
    /// Every driver raises its stack to 64 MiB if it may.
    const STACK_BYTES: u64 = 8 << 20;
    const DESCRIPTORS: u64 = 1024;
    let usual = [
        (libc::RLIMIT_FSIZE, libc::RLIM_INFINITY),
        (libc::RLIMIT_AS, libc::RLIM_INFINITY),
        (libc::RLIMIT_DATA, libc::RLIM_INFINITY),
        (libc::RLIMIT_CPU, libc::RLIM_INFINITY),
        (libc::RLIMIT_STACK, STACK_BYTES),
        (libc::RLIMIT_NOFILE, DESCRIPTORS),
    ];
    let limit = |resource| {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: fills the struct.
        (unsafe { libc::getrlimit(resource, &raw mut limit) } == 0).then_some((limit.rlim_cur, limit.rlim_max))
    };
    let narrow = usual.into_iter().filter_map(|(resource, usual)| {
        let (soft, hard) = limit(resource)?;
        let raised = resource == libc::RLIMIT_STACK && hard != libc::RLIM_INFINITY;
        (soft < usual || raised).then_some((resource, soft, hard))
    });
    narrow.collect()
}

fn window_of_stdin() -> Option<[u16; 4]> {
    let mut size = [0u16; 4];
    // SAFETY: TIOCGWINSZ fills a `winsize`, four u16 without padding.
    let result = unsafe { libc::ioctl(0, libc::TIOCGWINSZ, &raw mut size) };
    (result == 0).then_some(size)
}
