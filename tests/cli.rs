//! The user's command as a user meets it, with stand-ins for everything around it: a launcher that is a script, a
//! dispatcher that is a thread, a client and drivers that are copies of cat(1), which can print the command line and
//! the environment it was given. No MPI. Every process has a deadline.

use mpicc_proxy::probe::{Folder, Limits, Seen};
use mpicc_proxy::wire::{self, ActionCounts, RankStats, Stats, ToClient, ToDispatcher};
use nix::fcntl::OFlag;
use nix::pty;
use nix::sys::signal::{SigHandler, Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Far above what anything here takes, even on a busy machine.
const PROCESS_TIMEOUT_S: u64 = 60;

/// An installation in a temporary directory: `bin/mpicc-proxy`, and what a test puts beside it.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Place {
        let place = Place { dir: tempfile::Builder::new().prefix("cli").tempdir_in("/tmp").unwrap() };
        for name in ["bin", "lib", "path", "run"] {
            fs::create_dir(place.at(name)).unwrap();
        }
        let built = env!("CARGO_BIN_EXE_mpicc-proxy");
        let installed = place.at("bin/mpicc-proxy");
        fs::hard_link(built, &installed).or_else(|_| fs::copy(built, &installed).map(drop)).unwrap();
        place
    }

    /// With a rank program, a library and a launcher, all of them fake.
    fn with_launcher() -> Place {
        let place = Place::new();
        place.script("bin/mpicc-proxy-rank", "exit 99");
        place.script("bin/mpicc-proxy-client", "exit 98");
        fs::copy(harmless_library(), place.at("lib/libmpicc-proxy.so")).unwrap();
        place.script("path/mpiexec", FAKE_MPIEXEC);
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn script(&self, name: &str, text: &str) {
        fs::write(self.at(name), format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(self.at(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// cat(1) under another name: an ELF file that shows `/proc/self/cmdline`.
    fn elf(&self, name: &str) {
        fs::create_dir_all(self.at(name).parent().unwrap()).unwrap();
        fs::copy("/bin/cat", self.at(name)).unwrap();
    }

    /// `mpicc-proxy` with these arguments and a tidy environment.
    fn command(&self, arguments: &[&str]) -> Command {
        self.program("bin/mpicc-proxy", arguments)
    }

    fn program(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.at(program));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", self.at("path").display()))
            .env("XDG_RUNTIME_DIR", self.at("run"))
            .env("FAKE", self.dir.path())
            .env("MPICC_PROXY_EVENTS", self.at("events"))
            .stdin(Stdio::null());
        // Whoever runs the tests may ignore them (nohup, a shell's background).
        for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
            // SAFETY: signal(2) is async-signal-safe.
            unsafe { command.pre_exec(move || Ok(nix::sys::signal::signal(signal, SigHandler::SigDfl).map(drop)?)) };
        }
        command
    }

    fn output(&self, arguments: &[&str]) -> Output {
        output(&mut self.command(arguments))
    }

    /// The files that sessions left behind.
    fn leftovers(&self) -> Vec<PathBuf> {
        fs::read_dir(self.at("run")).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

/// A shared library that can be preloaded into anything: the one that unwinds this test.
fn harmless_library() -> PathBuf {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let path = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|path| path.contains("/libgcc_s"));
    path.expect("Rust programs are linked with libgcc_s").into()
}

/// Understands `--version`; otherwise writes down what it was given and does what the file `mode` says.
const FAKE_MPIEXEC: &str = r#"
PATH=$PATH:/usr/bin:/bin
if [ "$1" = --version ]; then echo "mpiexec (OpenRTE) 4.1.4"; exit 0; fi
for last; do :; done
if [ "$last" = true ]; then exit 0; fi # a roll call
echo $$ >"$FAKE/launcher.pid"
env >"$FAKE/launcher.env"
printf '%s\n' "$@" >"$FAKE/launcher.tmp"
mv "$FAKE/launcher.tmp" "$FAKE/launcher.args"
case "$(cat "$FAKE/mode")" in
fail) echo "a complaint on stdout"; echo "a complaint on stderr" >&2; exit 3 ;;
hang) exec sleep 1000 ;;
work) while [ ! -e "$FAKE/stopped" ]; do sleep 0.02; done ;;
esac
"#;

fn wait(child: &mut Child) -> std::process::ExitStatus {
    let deadline = Instant::now() + Duration::from_secs(PROCESS_TIMEOUT_S);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("a process did not end within {PROCESS_TIMEOUT_S} s");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn finish(mut child: Child) -> Output {
    fn reader(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).unwrap();
            bytes
        })
    }
    let stdout = reader(child.stdout.take().unwrap());
    let stderr = reader(child.stderr.take().unwrap());
    let status = wait(&mut child);
    Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

fn output(command: &mut Command) -> Output {
    finish(start(command))
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Asserts on status, and that stderr is one line that starts with our name and contains `sentence`.
#[track_caller]
fn assert_sentence(output: &Output, status: i32, sentence: &str) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(status), "{text}");
    assert!(text.starts_with("mpicc-proxy: ") && text.ends_with('\n'), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains(sentence), "{text}");
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(PROCESS_TIMEOUT_S);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn is_alive(pid: i32) -> bool {
    // A zombie that nobody reaps is dead enough.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

// The dispatcher

fn example() -> Stats {
    let rank = |rank| RankStats { rank, host: "alpha".into(), slots: 2, actions: 17, cpu_s: 6.0 };
    Stats {
        wall_s: 1000.0,
        actions: ActionCounts { remote: 34, local: 3, hit: 0, failed: 0 },
        local_reasons: [("link".to_string(), 2), ("query".to_string(), 1)].into(),
        ranks: vec![rank(1), rank(2), rank(3), rank(4)],
        compile_cpu_s: 12.34,
        ..Stats::default()
    }
}

/// A dispatcher that answers with [`example`]. It ends, and removes the socket, when told to stop.
fn serve(listener: UnixListener, socket: &Path) {
    for stream in listener.incoming() {
        if serve_one(stream.unwrap()) {
            break;
        }
    }
    fs::remove_file(socket).unwrap();
}

/// Returns whether the client said stop.
fn serve_one(mut stream: UnixStream) -> bool {
    let mut buffer = Vec::new();
    let mut greeted = false;
    loop {
        while let Some((message, _)) = wire::take_frame(&mut buffer).unwrap() {
            let answer = match message {
                ToDispatcher::Hello { version } => {
                    assert_eq!(version, wire::VERSION);
                    greeted = true;
                    continue;
                }
                ToDispatcher::Status => ToClient::Status(Box::new(example())),
                ToDispatcher::Stop => ToClient::Stopping,
                other => panic!("{other:?}"),
            };
            assert!(greeted, "every connection starts with a greeting");
            stream.write_all(&wire::frame(&answer, b"").unwrap()).unwrap();
            if matches!(answer, ToClient::Stopping) {
                return true;
            }
        }
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes) {
            Ok(n) if n > 0 => buffer.extend_from_slice(&bytes[..n]),
            _ => return false,
        }
    }
}

fn dispatcher_at(socket: &Path) -> JoinHandle<()> {
    let listener = UnixListener::bind(socket).unwrap();
    let socket = socket.to_path_buf();
    thread::spawn(move || serve(listener, &socket))
}

/// The name of the newest session that has an event log.
fn newest_session(place: &Place) -> String {
    let logs = fs::read_dir(place.at("events")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    logs.max().unwrap().strip_suffix(".jsonl").unwrap().to_owned()
}

/// What the fake launcher was given.
fn launcher_args(place: &Place) -> Vec<String> {
    eventually("the launcher was started", || place.at("launcher.args").exists());
    fs::read_to_string(place.at("launcher.args")).unwrap().lines().map(String::from).collect()
}

fn option(args: &[String], name: &str) -> PathBuf {
    let at = args.iter().position(|word| word == name).unwrap_or_else(|| panic!("no {name} in {args:?}"));
    args[at + 1].clone().into()
}

/// Plays rank 0 for the session that is about to start, until it is told to stop.
fn play_rank_0(place: &Place) -> JoinHandle<()> {
    fs::write(place.at("mode"), "work").unwrap();
    let dir = place.dir.path().to_path_buf();
    thread::spawn(move || {
        eventually("the launcher was started", || dir.join("launcher.args").exists());
        let args: Vec<String> =
            fs::read_to_string(dir.join("launcher.args")).unwrap().lines().map(String::from).collect();
        let socket = option(&args, "--socket");
        let listener = UnixListener::bind(&socket).unwrap();
        fs::write(option(&args, "--ready-file"), "").unwrap();
        serve(listener, &socket);
        fs::write(dir.join("stopped"), "").unwrap();
    })
}

// Help and mistakes

#[test]
fn help_documents_exit_statuses() {
    let place = Place::new();
    for command in ["run", "dispatch", "exec", "explain", "doctor", "script", "status", "stop", "report", "top"] {
        let output = place.output(&[command, "--help"]);
        assert!(output.status.success());
        assert!(stdout(&output).contains("Exit status:"), "{command}");
    }
    let output = place.output(&["--help"]);
    assert!(output.status.success() && stdout(&output).contains("MPICC_PROXY_SOCKET"));
    assert!(stdout(&place.output(&["--version"])).starts_with("mpicc-proxy "));
    for mistake in [&["frobnicate"][..], &[], &["run"], &["run", "--workers", "many", "make"], &["status", "x"]] {
        assert_eq!(place.output(mistake).status.code(), Some(2), "{mistake:?}");
    }
}

// status, stop, dispatch, explain

#[test]
fn without_a_dispatcher() {
    let place = Place::new();
    for command in ["status", "stop"] {
        let default = place.output(&[command]);
        assert_sentence(&default, 69, &place.at("run/mpicc-proxy/socket").display().to_string());
        let named = output(place.command(&[command]).env("MPICC_PROXY_SOCKET", "/nonexistent/s"));
        assert_sentence(&named, 69, "no dispatcher listens at /nonexistent/s");
        let long = format!("/{}", "x".repeat(200));
        assert_sentence(&place.output(&[command, "--socket", &long]), 69, "longer than the 107 bytes");
    }
    // Left behind by a dispatcher that was killed.
    drop(UnixListener::bind(place.at("stale")).unwrap());
    let output = place.output(&["status", "--socket", place.at("stale").to_str().unwrap()]);
    assert_sentence(&output, 69, "no dispatcher listens");
}

#[test]
fn status_and_stop() {
    let place = Place::new();
    let socket = place.at("socket");
    let dispatcher = dispatcher_at(&socket);
    let at = ["--socket", socket.to_str().unwrap()];

    let text = place.output(&[&["status"], &at[..]].concat());
    assert!(text.status.success(), "{}", stderr(&text));
    assert!(stdout(&text).starts_with("up 1000.0 s: 34 compiles on 4 ranks, 3 local (link 2, query 1)\n"));
    assert_eq!(stdout(&text).lines().count(), 11);

    let json = output(place.command(&["status", "--json"]).env("MPICC_PROXY_SOCKET", &socket));
    let object: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(serde_json::from_value::<Stats>(object).unwrap(), example());

    let stop = place.output(&[&["stop"], &at[..]].concat());
    assert!(stop.status.success() && stop.stdout.is_empty() && stop.stderr.is_empty(), "{}", stderr(&stop));
    dispatcher.join().unwrap();
    assert!(!socket.exists());
}

/// Answers a number of connections as a dispatcher of another version does, whatever they say.
fn refuse(listener: UnixListener, connections: usize) {
    for stream in listener.incoming().take(connections) {
        let mut stream = stream.unwrap();
        let refusal = ToClient::RunLocally { reason: wire::OTHER_VERSION.to_owned(), detail: String::new() };
        stream.write_all(&wire::frame(&refusal, b"").unwrap()).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

#[test]
fn another_version_is_named() {
    let place = Place::new();
    let socket = place.at("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let dispatcher = thread::spawn(move || refuse(listener, 3));
    for command in ["status", "stop"] {
        let output = output(place.command(&[command]).env("MPICC_PROXY_SOCKET", &socket));
        assert_sentence(&output, 69, "the dispatcher is of another version of mpicc-proxy");
    }
    place.elf("path/gcc");
    let output = Command::new(env!("CARGO_BIN_EXE_mpicc-proxy-client"))
        .args(["-c", "a.c"])
        .env_clear()
        .env("MPICC_PROXY_SOCKET", &socket)
        .env("MPICC_PROXY_DRIVER", place.at("path/gcc"))
        .env("MPICC_PROXY_LOG", place.at("log"))
        .env("MPICC_PROXY_FALLBACK", "forbid")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_sentence(&output, 69, "would run locally (other-version)");
    assert!(fs::read_to_string(place.at("log")).unwrap().starts_with("forbidden\tother-version\t"));
    dispatcher.join().unwrap();
}

#[test]
fn dispatch_becomes_the_rank_program() {
    let place = Place::new();
    assert_sentence(&place.output(&["dispatch"]), 70, "mpicc-proxy-rank is missing");
    place.script("bin/mpicc-proxy-rank", r#"printf '%s\n' "$@" "$PMIX_RANK"; exit 5"#);
    let arguments = ["dispatch", "--slots", "3", "--socket", "/a b", "--ready-file", "r"];
    let output = output(place.command(&arguments).env("PMIX_RANK", "7"));
    assert_eq!(output.status.code(), Some(5));
    assert_eq!(stdout(&output), "--socket\n/a b\n--slots\n3\n--ready-file\nr\n7\n");
}

#[test]
fn explain_needs_neither_dispatcher_nor_compiler() {
    let place = Place::new();
    let text = place.output(&["explain", "--", "/usr/bin/ld", "x.o"]);
    assert!(text.status.success());
    assert!(stdout(&text).starts_with("local (not-a-driver)"), "{}", stdout(&text));
    let json = place.output(&["explain", "--json", "--", "ar", "x"]);
    let object: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&object["verdict"], &object["reason"]), (&"local".into(), &"not-a-driver".into()));
    let driver = place.output(&["explain", "--json", "--", "gcc", "--version"]);
    let object: serde_json::Value = serde_json::from_slice(&driver.stdout).unwrap();
    assert_eq!(object["verdict"], "local");
}

// doctor and script

/// What the fake launcher gets from its ranks: `size` of them, each of which believes to be one of `believed`.
fn ranks_say(place: &Place, size: i32, believed: i32) {
    let facts = |rank| wire::RankFacts {
        version: wire::VERSION,
        host: "alpha".into(),
        pid: rank,
        cpus: vec![0, 1, 2, 3],
        host_cpus: 4,
        free_bytes: None,
        slots: None,
    };
    let folder = Folder { path: "/dev/shm".into(), obstacle: None, free_bytes: 1 << 40, executable: true, roomy: true };
    let seen = |rank: i32| Seen {
        rank: rank % believed,
        size: believed,
        facts: facts(rank as u32),
        mpi: "Open MPI v4.1.4, package: x".into(),
        programs: Ok("digest".into()),
        folders: vec![folder.clone()],
        limits: Limits::default(),
    };
    let lines: String = (0..size).map(|rank| format!("noise {}", seen(rank).line())).collect();
    fs::write(place.at("said"), lines).unwrap();
    place.script(
        "path/mpiexec",
        r#"PATH=$PATH:/usr/bin:/bin
        if [ "$1" = --version ]; then echo "mpiexec (OpenRTE) 4.1.4"; exit 0; fi
        printf '%s\n' "$@" >"$FAKE/launcher.args"; env >"$FAKE/launcher.env"; cat "$FAKE/said""#,
    );
}

/// `mpicc-proxy doctor` with a PATH that has no compiler and no launcher of this machine.
fn doctor(place: &Place, arguments: &[&str]) -> Command {
    let _ = symlink("/usr/bin/env", place.at("path/env"));
    let mut command = place.command(&[&["doctor"], arguments].concat());
    command.env("PATH", place.at("path"));
    command
}

/// The findings that are not `ok`, as "name level", but for what this machine's name leads to.
fn ill(output: &Output) -> Vec<String> {
    let object: serde_json::Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    let rows = object["findings"].as_array().unwrap();
    let word = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap().to_owned();
    let ill = rows.iter().filter(|row| row["level"] != "ok" && row["name"] != "host-name");
    ill.map(|row| format!("{} {}", word(row, "name"), word(row, "level"))).collect()
}

#[test]
fn doctor_starts_ranks_as_run_does_and_judges_what_they_say() {
    let place = Place::with_launcher();
    ranks_say(&place, 3, 3);
    let well = output(&mut doctor(&place, &["--json", "--workers", "2", "--wrap-worker", "env A=x"]));
    assert!(well.status.success() && well.stderr.is_empty(), "{}", stderr(&well));
    assert_eq!(ill(&well), [] as [&str; 0]);
    let args = launcher_args(&place);
    let rank = place.at("bin/mpicc-proxy-rank").display().to_string();
    let expected = ["-n", "1", &rank, "--probe", "65", ":", "-n", "2", "env", "A=x", &rank, "--probe", "65"];
    assert!(args.ends_with(&expected.map(String::from)), "{args:?}");
    let text = output(&mut doctor(&place, &["--workers", "2"]));
    assert!(text.status.success() && stdout(&text).contains("\n0 errors, "), "{}", stdout(&text));

    ranks_say(&place, 3, 1);
    let alone = output(&mut doctor(&place, &["--json", "--workers", "2"]));
    assert_eq!(alone.status.code(), Some(1));
    assert_eq!(ill(&alone), ["world-size error"]);

    ranks_say(&place, 2, 3);
    let silent = output(&mut doctor(&place, &["--workers", "2"]));
    assert_eq!(silent.status.code(), Some(1));
    assert!(stdout(&silent).contains("\nerror    ranks-start"), "{}", stdout(&silent));
    assert!(stdout(&silent).contains("\ncommand: ") && stdout(&silent).ends_with("noise \n"), "{}", stdout(&silent));
    assert!(place.leftovers().is_empty());
}

#[test]
fn doctor_without_what_it_needs() {
    let place = Place::with_launcher();
    let quote = output(&mut doctor(&place, &["--wrap-worker", "env 'A"]));
    assert_sentence(&quote, 2, "--wrap-worker");
    let timeout = output(doctor(&place, &[]).env("MPICC_PROXY_START_TIMEOUT_S", "soon"));
    assert_sentence(&timeout, 2, "MPICC_PROXY_START_TIMEOUT_S=soon");
    // A PATH without any launcher of this machine.
    let mut without = doctor(&place, &["--json"]);
    let off = output(without.env("MPICC_PROXY", "off").env("PATH", place.at("few")));
    assert_eq!((off.status.code(), ill(&off)), (Some(1), vec!["switched-off warning".into(), "launcher error".into()]));
    fs::remove_file(place.at("lib/libmpicc-proxy.so")).unwrap();
    fs::remove_file(place.at("bin/mpicc-proxy-rank")).unwrap();
    let incomplete = output(&mut doctor(&place, &["--json"]));
    assert_eq!((incomplete.status.code(), ill(&incomplete)), (Some(1), vec!["installation error".into()]));
    assert!(!place.at("launcher.args").exists() && place.leftovers().is_empty());
}

#[test]
fn doctor_ends_a_launcher_that_hangs() {
    let place = Place::with_launcher();
    fs::write(place.at("mode"), "hang").unwrap();
    let output = output(doctor(&place, &["--json"]).env("MPICC_PROXY_START_TIMEOUT_S", "1"));
    assert_eq!((output.status.code(), ill(&output)), (Some(1), vec!["ranks-start error".into()]));
    assert!(!is_alive(launcher_pid(&place)));

    fs::remove_file(place.at("launcher.args")).unwrap();
    let child = start(&mut doctor(&place, &[]));
    let pid = launcher_pid(&place);
    signal(&child, Signal::SIGINT);
    assert_sentence(&finish(child), 130, "SIGINT while the ranks were looked at");
    assert!(!is_alive(pid) && place.leftovers().is_empty());
}

#[test]
fn scripts_name_this_program() {
    let place = Place::new();
    let script = place.output(&["script", "slurm", "--nodes", "2", "--", "make", "a b"]);
    assert!(script.status.success(), "{}", stderr(&script));
    let line = format!("exec {} run -- make 'a b'\n", place.at("bin/mpicc-proxy").display());
    assert!(stdout(&script).ends_with(&line), "{}", stdout(&script));
    for mistake in [&["script", "pbs", "make"][..], &["script", "slurm"], &["script", "lsf", "--", "make"]] {
        assert_eq!(place.output(mistake).status.code(), Some(2), "{mistake:?}");
    }
}

// exec

/// Runs a driver that is cat(1), or the client that is; returns its command line and environment, as words.
fn show(command: &mut Command) -> (Vec<String>, Vec<String>) {
    let output = output(command);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    let (line, environment) = text.split_once("/proc/self/environ\0").unwrap();
    let words = |text: &str| text.split_terminator('\0').map(String::from).collect::<Vec<_>>();
    (words(line), words(environment))
}

const SHOW: [&str; 2] = ["/proc/self/cmdline", "/proc/self/environ"];

fn is_client(place: &Place, environment: &[String], driver: &str) -> bool {
    environment.contains(&format!("MPICC_PROXY_DRIVER={}", place.at(driver).display()))
}

#[test]
fn exec_becomes_the_client() {
    let place = Place::new();
    place.elf("bin/mpicc-proxy-client");
    place.elf("path/gcc");
    let (line, environment) = show(&mut place.command(&[&["exec", "--", "gcc"], &SHOW[..]].concat()));
    assert_eq!(line, ["gcc", SHOW[0]], "the command line is untouched");
    assert!(is_client(&place, &environment, "path/gcc"), "{environment:?}");

    let path = place.at("path/gcc");
    let (line, environment) = show(&mut place.command(&[&["exec", path.to_str().unwrap()], &SHOW[..]].concat()));
    assert_eq!(line[0], path.to_str().unwrap());
    assert!(is_client(&place, &environment, "path/gcc"));

    let (line, environment) =
        show(place.command(&[&["exec", "path/../path/gcc"], &SHOW[..]].concat()).current_dir(place.at("")));
    assert_eq!(line[0], "path/../path/gcc");
    assert!(environment.iter().any(|entry| entry.starts_with("MPICC_PROXY_DRIVER=/")), "{environment:?}");
}

#[test]
fn a_symbolic_link_named_like_a_driver_is_an_exec() {
    let place = Place::new();
    place.elf("bin/mpicc-proxy-client");
    place.elf("path/real/x86_64-linux-gnu-gcc-12");
    fs::create_dir(place.at("masks")).unwrap();
    symlink(place.at("bin/mpicc-proxy"), place.at("masks/gcc")).unwrap();
    symlink(place.at("path/real/x86_64-linux-gnu-gcc-12"), place.at("path/gcc")).unwrap();
    let search = format!("{}:{}:/usr/bin:/bin", place.at("masks").display(), place.at("path").display());
    // By name through PATH, and by its path.
    for argv0 in ["gcc", place.at("masks/gcc").to_str().unwrap()] {
        let mut command = place.program("masks/gcc", &SHOW);
        let (line, environment) = show(command.arg0(argv0).env("PATH", &search));
        // A driver that is called by the link's path, or finds the link in PATH, would look for its parts beside us.
        assert_eq!(line, [place.at("path/gcc").to_str().unwrap(), SHOW[0]]);
        assert!(is_client(&place, &environment, "path/gcc"), "{environment:?}");
    }
    // Nothing but disguises in PATH, another copy among them.
    fs::create_dir(place.at("copy")).unwrap();
    fs::copy(place.at("bin/mpicc-proxy"), place.at("copy/mpicc-proxy")).unwrap();
    symlink(place.at("copy/mpicc-proxy"), place.at("copy/gcc")).unwrap();
    let search = format!("{}:{}", place.at("masks").display(), place.at("copy").display());
    let output = output(place.program("masks/gcc", &["-c", "x.c"]).arg0("gcc").env("PATH", search));
    assert_sentence(&output, 127, "gcc: command not found");
}

#[test]
fn a_symbolic_link_named_ccache_is_an_exec_of_what_follows() {
    let place = Place::new();
    place.elf("bin/mpicc-proxy-client");
    place.elf("path/gcc");
    place.elf("path/tool");
    fs::create_dir(place.at("masks")).unwrap();
    symlink(place.at("bin/mpicc-proxy"), place.at("masks/ccache")).unwrap();
    let gcc = place.at("path/gcc");
    for argv0 in ["ccache", place.at("masks/ccache").to_str().unwrap()] {
        let mut command = place.program("masks/ccache", &[&[gcc.to_str().unwrap()], &SHOW[..]].concat());
        let (line, environment) = show(command.arg0(argv0));
        assert_eq!(line, [gcc.to_str().unwrap(), SHOW[0]]);
        assert!(is_client(&place, &environment, "path/gcc"), "{environment:?}");
    }
    let (line, environment) = show(place.program("masks/ccache", &[&["tool"], &SHOW[..]].concat()).arg0("ccache"));
    assert_eq!(line[0], "tool");
    assert!(!environment.iter().any(|entry| entry.starts_with("MPICC_PROXY_DRIVER")));
    // Whoever asks for a cache hears that there is none.
    for arguments in [&["--version"][..], &["-sv"], &["-M", "2G"], &["--get-config", "cache_dir"]] {
        let output = output(place.program("masks/ccache", arguments).arg0("ccache"));
        assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &b""[..]), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("mpicc-proxy"), "{arguments:?}");
    }
    assert_sentence(&output(place.program("masks/ccache", &[]).arg0("ccache")), 2, "nothing is cached");
}

#[test]
fn exec_leaves_alone_what_is_no_plain_driver() {
    let place = Place::new();
    place.elf("bin/mpicc-proxy-client");
    place.elf("path/gcc");
    place.elf("path/tool");
    place.elf("path/ccache");
    symlink("ccache", place.at("path/g++")).unwrap();
    place.script("path/clang", r#"exec cat /proc/self/cmdline /proc/self/environ"#);
    for name in ["tool", "g++", "clang"] {
        let (_, environment) = show(&mut place.command(&[&["exec", "--", name], &SHOW[..]].concat()));
        assert!(!environment.iter().any(|entry| entry.starts_with("MPICC_PROXY_DRIVER")), "{name}");
    }
    for switch in ["off", "0"] {
        let mut command = place.command(&[&["exec", "--", "gcc"], &SHOW[..]].concat());
        let (_, environment) = show(command.env("MPICC_PROXY", switch));
        assert!(!is_client(&place, &environment, "path/gcc"));
    }
    // Without the client there is still a compiler.
    fs::remove_file(place.at("bin/mpicc-proxy-client")).unwrap();
    let (line, _) = show(&mut place.command(&[&["exec", "--", "gcc"], &SHOW[..]].concat()));
    assert_eq!(line, ["gcc", SHOW[0]]);
}

#[test]
fn run_without_stderr_gives_none_to_the_command() {
    let place = Place::new();
    let program = place.at("bin/mpicc-proxy");
    for (closed, expected) in [("", " 0 1 2"), ("2>&-", " 0 1"), ("0<&- 2>&-", " 1")] {
        let open = "for n in 0 1 2; do [ ! -e /proc/$$/fd/$n ] || printf \" $n\"; done";
        let script = format!("exec \"$0\" run sh -c '{open}' {closed}");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).arg(&program).env("MPICC_PROXY", "off").stdin(Stdio::null());
        let output = output(&mut command);
        assert_eq!(
            (String::from_utf8_lossy(&output.stdout).as_ref(), output.status.code()),
            (expected, Some(0)),
            "{closed}"
        );
    }
}

#[test]
fn explain_looks_at_the_environment() {
    let place = Place::new();
    let explained = |name: &str, value: &str| {
        let mut command = place.command(&["explain", "--", "gcc", "-c", "a.c"]);
        let output = output(command.env_clear().env(name, value));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(explained("LANG", "C").starts_with("remote: "));
    assert!(explained("COMPILER_PATH", "/x").starts_with("local (environment"), "{}", explained("COMPILER_PATH", "/x"));
    assert!(explained("LC_ALL", "de_DE.UTF-8").starts_with("local (locale"));
}

#[test]
fn exec_of_nothing() {
    let place = Place::new();
    fs::write(place.at("path/g++"), "").unwrap();
    let empty = place.at("path").display().to_string();
    let run = |name: &str| output(place.command(&["exec", "--", name]).env("PATH", &empty));
    assert_sentence(&run("gcc"), 127, "gcc: command not found");
    assert_sentence(&run("g++"), 126, "g++: found, but");
    assert_sentence(&run("/nonexistent/gcc"), 127, "/nonexistent/gcc: command not found");
}

// run

#[test]
fn run_of_nothing_starts_no_ranks() {
    let place = Place::with_launcher();
    fs::write(place.at("mode"), "hang").unwrap();
    fs::write(place.at("path/plain"), "").unwrap();
    assert_sentence(&place.output(&["run", "--", "no-such-command"]), 127, "no-such-command: command not found");
    assert_sentence(&place.output(&["run", "--", "plain"]), 126, "plain: found, but");
    assert_sentence(&place.output(&["run", "--stats", "/nonexistent/s", "true"]), 73, "/nonexistent/s");
    let twice = place.output(&["run", "--stats", "both", "--events", "./both", "true"]);
    assert_sentence(&twice, 2, "--stats and --events both name ./both; name two files");
    let history = output(place.command(&["run", "--stats", "both", "true"]).env("MPICC_PROXY_HISTORY", "both"));
    assert_sentence(&history, 2, "--stats and MPICC_PROXY_HISTORY both name both; name two files");
    nix::unistd::mkfifo(&place.at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let fifo = place.output(&["run", "--stats", &place.at("fifo").display().to_string(), "true"]);
    assert_sentence(&fifo, 73, "/fifo: nobody reads it");
    let quote = place.output(&["run", "--wrap-worker", "env 'A", "true"]);
    assert_sentence(&quote, 2, "--wrap-worker");
    assert_sentence(&place.output(&["run", "--wrap-worker", " ", "true"]), 2, "--wrap-worker names no command");
    assert_eq!(place.output(&["run", "--store-bytes", "0", "true"]).status.code(), Some(2));
    let timeout = output(place.command(&["run", "true"]).env("MPICC_PROXY_START_TIMEOUT_S", "soon"));
    assert_sentence(&timeout, 2, "MPICC_PROXY_START_TIMEOUT_S=soon");
    assert!(!place.at("launcher.args").exists());
    assert!(place.leftovers().is_empty());
}

#[test]
fn run_without_what_it_needs() {
    let place = Place::with_launcher();
    let search = |command: &mut Command| {
        // A PATH with commands but without any MPI of this machine.
        fs::create_dir_all(place.at("few")).unwrap();
        let _ = symlink("/bin/true", place.at("few/true"));
        output(command.env("PATH", place.at("few")))
    };
    assert_sentence(&search(&mut place.command(&["run", "true"])), 70, "there is no mpiexec in PATH");
    assert_sentence(&search(&mut place.command(&["run", "--launcher", "srun", "true"])), 70, "there is no srun");
    fs::remove_file(place.at("lib/libmpicc-proxy.so")).unwrap();
    assert_sentence(&place.output(&["run", "true"]), 70, "libmpicc-proxy.so is missing");
    fs::write(place.at("bin/libmpicc-proxy.so"), "").unwrap();
    fs::remove_file(place.at("bin/mpicc-proxy-rank")).unwrap();
    assert_sentence(&place.output(&["run", "true"]), 70, "mpicc-proxy-rank is missing");
    fs::write(place.at("bin/mpicc-proxy-rank"), "").unwrap();
    assert_sentence(&place.output(&["run", "true"]), 70, "mpicc-proxy-rank cannot be executed");
    place.script("bin/mpicc-proxy-rank", "exit 99");
    fs::remove_file(place.at("bin/mpicc-proxy-client")).unwrap();
    assert_sentence(&place.output(&["run", "true"]), 70, "mpicc-proxy-client is missing");
    place.script("bin/mpicc-proxy-client", "exit 98");
    let wrapped = place.output(&["run", "--wrap-worker", "no-such-wrapper", "true"]);
    assert_sentence(&wrapped, 70, "no-such-wrapper: command not found");
}

#[test]
fn ranks_that_do_not_start() {
    let place = Place::with_launcher();
    fs::write(place.at("mode"), "fail").unwrap();
    let output_ = place.output(&["run", "--", "touch", place.at("built").to_str().unwrap()]);
    let text = stderr(&output_);
    assert_eq!(output_.status.code(), Some(70));
    assert!(text.starts_with("mpicc-proxy: cannot start the ranks: mpiexec ended (exit status: 3) before"), "{text}");
    for part in ["nothing was built\n", "\ncommand: ", "a complaint on stdout\n", "a complaint on stderr\n"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!place.at("built").exists() && place.leftovers().is_empty());

    fs::write(place.at("mode"), "hang").unwrap();
    let begun = Instant::now();
    let output = output(place.command(&["run", "true"]).env("MPICC_PROXY_START_TIMEOUT_S", "1"));
    assert_eq!(output.status.code(), Some(70));
    assert!(stderr(&output).contains("not ready after 1 s"), "{}", stderr(&output));
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(!is_alive(launcher_pid(&place)) && place.leftovers().is_empty());
}

fn launcher_pid(place: &Place) -> i32 {
    launcher_args(place);
    fs::read_to_string(place.at("launcher.pid")).unwrap().trim().parse().unwrap()
}

#[test]
fn a_session() {
    let place = Place::with_launcher();
    let rank_0 = play_rank_0(&place);
    let stats = place.at("stats.json");
    let script = r#"echo "$LD_PRELOAD"; echo "$MPICC_PROXY_SOCKET"; echo "$MPICC_PROXY_DRIVER"
        stat -c %a "${MPICC_PROXY_SOCKET%/*}"; exit 7"#;
    let arguments = ["run", "--workers", "4", "--slots", "2", "--wrap-worker", "env 'A=x y'", "--stats"];
    let mut command = place.command(&arguments);
    command.arg(&stats).args(["--", "sh", "-c", script]);
    let old = place.at("old/libmpicc-proxy.so");
    fs::create_dir(place.at("old")).unwrap();
    fs::copy(harmless_library(), &old).unwrap();
    let output = output(command.env("MPICC_PROXY_DRIVER", "/stale").env("LD_PRELOAD", old));
    rank_0.join().unwrap();
    assert_sentence(&output, 7, "");
    let session = newest_session(&place);
    let last = stderr(&output);
    let begins = "mpicc-proxy: 34 compiles on 4 ranks, 3 local (link 2, query 1), 12.3 s of compiler CPU remote in ";
    assert!(
        last.starts_with(begins) && last.ends_with(&format!("; mpicc-proxy report --session {session}\n")),
        "{last}"
    );

    let args = launcher_args(&place);
    let socket = option(&args, "--socket");
    let library = place.at("lib/libmpicc-proxy.so").display().to_string();
    assert_eq!(stdout(&output), format!("{library}\n{}\n\n700\n", socket.display()));

    let rank = place.at("bin/mpicc-proxy-rank").display().to_string();
    let ready = option(&args, "--ready-file").display().to_string();
    let events = place.at("events").join(session + ".jsonl").display().to_string();
    let session = option(&args, "--session").display().to_string();
    let socket_name = socket.to_str().unwrap();
    let options = ["--socket", socket_name, "--slots", "2", "--ready-file", &ready, "--events", &events];
    let rank = [&[rank.as_str()], &options[..], &["--session", &session]].concat();
    let expected = [&["-n", "1"], &rank[..], &[":", "-n", "4", "env", "A=x y"], &rank].concat();
    assert!(args.ends_with(&expected.iter().map(|word| word.to_string()).collect::<Vec<_>>()), "{args:?}");
    assert!(args.starts_with(&["--enable-recovery".to_string()]), "Open MPI was recognised: {args:?}");
    let environment = fs::read_to_string(place.at("launcher.env")).unwrap();
    assert!(!environment.contains("LD_PRELOAD=") && !environment.contains("MPICC_PROXY_SOCKET="), "{environment}");

    let object: serde_json::Value = serde_json::from_str(&fs::read_to_string(&stats).unwrap()).unwrap();
    let wall_s = object["wall_s"].as_f64().unwrap();
    assert!(wall_s > 0.0 && wall_s < PROCESS_TIMEOUT_S as f64, "the command's time, not the dispatcher's: {wall_s}");
    assert_eq!(object["complete"], true);
    assert_eq!(serde_json::from_value::<Stats>(object).unwrap(), Stats { wall_s, ..example() });
    assert!(place.leftovers().is_empty());
}

#[test]
fn events_of_a_session() {
    let place = Place::with_launcher();
    let run = |options: &[&str]| {
        // Of the launcher before.
        for name in ["launcher.args", "stopped"] {
            let _ = fs::remove_file(place.at(name));
        }
        let rank_0 = play_rank_0(&place);
        let arguments = [&["run"], options, &["--", "sh", "-c", "exit 3"]].concat();
        let output = output(&mut place.command(&arguments));
        rank_0.join().unwrap();
        output
    };
    // What the ranks would write lies between these.
    run(&[]);
    let session = newest_session(&place);
    let text = fs::read_to_string(place.at("events").join(session.clone() + ".jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert_eq!((&lines[0]["event"], &lines[0]["schema"]), (&"session".into(), &1.into()));
    assert_eq!(lines[0]["command"], serde_json::json!(["sh", "-c", "exit 3"]));
    assert_eq!((&lines[1]["event"], &lines[1]["status"]), (&"end".into(), &3.into()));
    assert!(lines[1]["command_us"].as_u64().unwrap() <= lines[1]["at_us"].as_u64().unwrap());

    let asked = |arguments: &[&str]| output(&mut place.command(arguments));
    let newest = asked(&["report"]);
    assert!(stdout(&newest).starts_with(&format!("session {session}: sh -c exit 3\n")), "{newest:?}");
    assert_eq!(stdout(&asked(&["report", "--session", &session])), stdout(&newest));
    let page = place.at("page.html").display().to_string();
    let trace = place.at("trace.json").display().to_string();
    assert_eq!(asked(&["report", "--html", &page, "--trace", &trace, "--json"]).status.code(), Some(0));
    assert!(fs::read_to_string(&page).unwrap().contains(&session));
    serde_json::from_str::<serde_json::Value>(&fs::read_to_string(&trace).unwrap()).unwrap();
    let object: serde_json::Value = serde_json::from_str(&stdout(&asked(&["report", "--json"]))).unwrap();
    assert_eq!((&object["id"], &object["status"], &object["complete"]), (&session.into(), &3.into(), &true.into()));
    assert!(stdout(&asked(&["top"])).contains("ended after 0:00, status 3: 0 of 0 slots busy"));

    // Elsewhere, or nowhere.
    let own = place.at("own.jsonl").display().to_string();
    assert!(stderr(&run(&["--events", &own])).ends_with(&format!("; mpicc-proxy report --events {own}\n")));
    run(&["--events", &own]);
    assert_eq!(fs::read_to_string(&own).unwrap().lines().count(), 2, "a file of the user's own is written anew");
    assert!(!stderr(&run(&["--events", "off"])).contains("report"));
    assert_eq!(fs::read_dir(place.at("events")).unwrap().count(), 1);

    let no_folder = output(&mut place.command(&["run", "--events", "/nonexistent/e", "true"]));
    assert_sentence(&no_folder, 73, "cannot write events to /nonexistent/e: ");
    for (arguments, sentence) in [
        (&["report", "--session", "nope"][..], "there is no event log of a session nope in "),
        (&["top", "--session", "nope"], "there is no event log of a session nope in "),
        (&["report", "--events", "/bin/true"], "cannot read the events in /bin/true: it is no event log"),
        (&["explain", "--last", "x.o"], "has x.o as the (first) output of a compiler: it was not made by one"),
        (&["report", "--session", "../nope"], "there is no event log of a session ../nope in "),
        (&["report", "--events", "/dev/zero"], "cannot read the events in /dev/zero: it is not a regular file"),
    ] {
        assert_sentence(&asked(arguments), 66, sentence);
    }
    let off = output(place.command(&["report"]).env("MPICC_PROXY_EVENTS", "off"));
    assert_sentence(&off, 66, "no event logs are kept");
    let unwritable = asked(&["report", "--html", "/nonexistent/page"]);
    assert_sentence(&unwritable, 73, "cannot write /nonexistent/page: ");
    for same in [&["--html", &own][..], &["--html", &page, "--trace", &page]] {
        let onto_itself = asked(&[&["report", "--events", &own][..], same].concat());
        assert_sentence(&onto_itself, 73, "it is the event log, or what was just written");
    }
    assert_eq!(fs::read_to_string(&own).unwrap().lines().count(), 2);

    // What is no log is neither waited for, nor written to, nor removed, nor taken for the newest session.
    let fifo = place.at("events").join("20991231-235959-1.jsonl");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::write(place.at("events").join("20991231-235959-2.jsonl"), "").unwrap();
    fs::write(place.at("events").join("20991231-235959-3.jsonl"), "{\"at_us\":1,\"event\":\"session\"}\n").unwrap();
    let local = r#"{"at_us":1,"event":"local","action":1,"reason":"link","output":"/build/x"}"#;
    fs::write(place.at("events").join("20991231-235959-4.jsonl"), format!("torn\n{local}\n")).unwrap();
    assert_eq!(stdout(&asked(&["report"])), stdout(&newest));
    let of_nobody = "has /build/x as the (first) output of a compiler";
    assert_sentence(&asked(&["explain", "--last", "/build/x"]), 66, of_nobody);
    let query = r#"{"at_us":1,"event":"local","action":1,"reason":"query"}"#;
    fs::write(place.at("events").join("20991231-235959-5.jsonl"), format!("{}\n{query}\n", lines[0])).unwrap();
    assert_sentence(&asked(&["explain", "--last", "/"]), 66, "has / as the (first) output of a compiler");
    fs::remove_file(place.at("events").join("20991231-235959-5.jsonl")).unwrap();
    for path in [&*fifo.display().to_string(), "/dev/null"] {
        let irregular = output(&mut place.command(&["run", "--events", path, "true"]));
        assert_sentence(&irregular, 73, &format!("cannot write events to {path}: it is not a regular file"));
        assert!(fs::symlink_metadata(path).is_ok());
    }
    fs::write(&own, "precious\n").unwrap();
    fs::write(place.at("mode"), "fail").unwrap();
    let unstarted = output(&mut place.command(&["run", "--relaunches", "0", "--events", &own, "true"]));
    assert_eq!(unstarted.status.code(), Some(70), "{unstarted:?}");
    assert!(fs::read_to_string(&own).unwrap().contains(r#""event":"end","status":70"#));
}

#[test]
fn a_foreign_preload_stays_in_front() {
    let place = Place::with_launcher();
    let rank_0 = play_rank_0(&place);
    // Preloaded into everything, so it must be a library that exists and does nothing.
    let foreign = "libc.so.6";
    let output = output(place.command(&["run", "sh", "-c", "echo $LD_PRELOAD"]).env("LD_PRELOAD", foreign));
    rank_0.join().unwrap();
    assert_eq!(stdout(&output), format!("{foreign}:{}\n", place.at("lib/libmpicc-proxy.so").display()));
    let environment = fs::read_to_string(place.at("launcher.env")).unwrap();
    assert!(environment.contains("LD_PRELOAD=libc.so.6\n"), "{environment}");
}

#[test]
fn a_dispatcher_that_dies_costs_the_figures_and_nothing_else() {
    let place = Place::with_launcher();
    fs::write(place.at("mode"), "work").unwrap();
    let stats = place.at("stats.json");
    let script = r#"touch "$FAKE/begun"; while [ ! -e "$FAKE/go" ]; do sleep 0.02; done; echo done; exit 4"#;
    let mut command = place.command(&["run", "--relaunches", "0", "--stats"]);
    let child = start(command.arg(&stats).args(["sh", "-c", script]));
    let socket = play_rank_0_that_dies(&place);
    assert!(!socket.with_file_name("socket.promise").exists());
    fs::write(place.at("go"), "").unwrap();

    let output = finish(child);
    assert_eq!(stdout(&output), "done\n");
    let log = socket.with_file_name("log");
    assert_sentence(&output, 4, "the dispatcher was lost (mpiexec ended, exit status: 0), so compiles ran locally");
    assert_sentence(&output, 4, "34 compiles on 4 ranks, 3 local (link 2, query 1)");
    assert_sentence(&output, 4, &format!("see {}", log.display()));
    assert!(log.exists() && !socket.exists());
    let object: serde_json::Value = serde_json::from_str(&fs::read_to_string(&stats).unwrap()).unwrap();
    assert_eq!(object["complete"], false);
    let wall_s = object["wall_s"].as_f64().unwrap();
    assert_eq!(serde_json::from_value::<Stats>(object).unwrap(), Stats { wall_s, ..example() });
}

/// Plays a rank 0 that answers once and then is gone, and its launcher, too; its socket.
fn play_rank_0_that_dies(place: &Place) -> PathBuf {
    let args = launcher_args(place);
    let socket = option(&args, "--socket");
    let listener = UnixListener::bind(&socket).unwrap();
    fs::write(option(&args, "--ready-file"), "").unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let mut bytes = [0; 4096];
    assert!(stream.read(&mut bytes).unwrap() > 0);
    stream.write_all(&wire::frame(&ToClient::Status(Box::new(example())), b"").unwrap()).unwrap();
    drop((stream, listener));
    let pid = launcher_pid(place);
    fs::remove_file(place.at("launcher.args")).unwrap();
    fs::write(place.at("stopped"), "").unwrap();
    eventually("the launcher ended", || !is_alive(pid));
    socket
}

#[test]
fn ranks_that_died_are_started_again() {
    let place = Place::with_launcher();
    fs::write(place.at("mode"), "work").unwrap();
    let stats = place.at("stats.json");
    let script = r#"while [ ! -e "$FAKE/go" ]; do sleep 0.02; done; exit 4"#;
    let mut command = place.command(&["run", "--stats"]);
    let child = start(command.arg(&stats).args(["sh", "-c", script]));
    let first = launcher_args(&place);
    let socket = play_rank_0_that_dies(&place);
    assert!(socket.with_file_name("socket.promise").exists());
    fs::remove_file(place.at("stopped")).unwrap();
    assert_eq!(launcher_args(&place), first);
    let listener = UnixListener::bind(&socket).unwrap();
    fs::write(option(&first, "--ready-file"), "").unwrap();
    let (stream, _) = listener.accept().unwrap();
    fs::write(place.at("go"), "").unwrap();
    serve_one(stream);
    fs::write(place.at("stopped"), "").unwrap();

    let output = finish(child);
    assert_sentence(&output, 4, "68 compiles on 4 ranks, 6 local (link 4, query 2), 24.7 s of compiler CPU remote in ");
    assert_sentence(
        &output,
        4,
        "were started again once (at last: mpiexec ended, exit status: 0), so some compiles are not counted; see ",
    );
    let log = socket.with_file_name("log");
    assert!(log.exists() && !socket.exists() && !socket.with_file_name("socket.promise").exists());
    let object: serde_json::Value = serde_json::from_str(&fs::read_to_string(&stats).unwrap()).unwrap();
    assert_eq!((&object["relaunches"], &object["complete"]), (&1.into(), &false.into()));
}

#[test]
fn switched_off() {
    let place = Place::with_launcher();
    let stats = place.at("stats.json");
    let mut command = place.command(&["run", "--stats"]);
    command.arg(&stats).args(["sh", "-c", "echo \"<$LD_PRELOAD>\"; exit 3"]).env("MPICC_PROXY", "off");
    let output = output(&mut command);
    assert_sentence(&output, 3, "MPICC_PROXY=off");
    assert_eq!(stdout(&output), "<>\n");
    assert!(!place.at("launcher.args").exists());
    assert!(fs::read_to_string(stats).unwrap().contains("\"remote\": 0"));
}

// Signals

/// Starts a session around a shell script and waits until the script has made the file `begun`.
fn begin(place: &Place, script: &str) -> (Child, JoinHandle<()>) {
    let rank_0 = play_rank_0(place);
    let child = start(&mut place.command(&["run", "sh", "-c", script]));
    eventually("the command has begun", || place.at("begun").exists());
    (child, rank_0)
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).unwrap();
}

#[test]
fn a_command_killed_by_a_signal() {
    let place = Place::with_launcher();
    let (child, rank_0) = begin(&place, r#"touch "$FAKE/begun"; kill -KILL $$"#);
    assert_eq!(finish(child).status.code(), Some(128 + 9));
    rank_0.join().unwrap();
}

#[test]
fn sigterm_and_sighup_are_passed_on_and_sigint_is_not() {
    for (sent, name) in [(Signal::SIGTERM, "TERM"), (Signal::SIGHUP, "HUP")] {
        let place = Place::with_launcher();
        let script = format!(
            r#"trap 'echo {name}; exit 9' {name}; trap 'echo INT' INT
            list=$(seq 6000); touch "$FAKE/begun"; for turn in $list; do sleep 0.02; done"#
        );
        let (child, rank_0) = begin(&place, &script);
        signal(&child, Signal::SIGINT);
        signal(&child, Signal::SIGQUIT);
        signal(&child, sent);
        let output = finish(child);
        rank_0.join().unwrap();
        assert_eq!(stdout(&output), format!("{name}\n"));
        assert_sentence(&output, 9, "34 compiles");
        assert!(place.leftovers().is_empty());
    }
}

#[test]
fn signals_of_the_terminal() {
    // Ctrl-C reaches the command directly, once; a hang-up reaches the session leader, which passes it on.
    let script = r#"trap 'echo INT >>"$FAKE/got"' INT; trap 'echo HUP >>"$FAKE/got"; exit 6' HUP
        list=$(seq 6000); touch "$FAKE/begun"; for turn in $list; do sleep 0.02; done"#;
    let place = Place::with_launcher();
    let rank_0 = play_rank_0(&place);
    // Close-on-exec from the start: a copy of the master in any process, of other tests too, would delay the hang-up.
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let mut master = pty::posix_openpt(flags).unwrap();
    pty::grantpt(&master).unwrap();
    pty::unlockpt(&master).unwrap();
    let name = pty::ptsname_r(&master).unwrap();
    let terminal = fs::File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(name).unwrap();
    let mut command = place.command(&["run", "sh", "-c", script]);
    command.stdin(terminal).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: both calls are async-signal-safe; descriptor 0 is the terminal.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            nix::errno::Errno::result(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
            Ok(())
        });
    }
    let mut child = command.spawn().unwrap();
    drop(command);
    let got = || fs::read_to_string(place.at("got")).unwrap_or_default();
    eventually("the command has begun", || place.at("begun").exists());
    master.write_all(b"\x03").unwrap();
    eventually("Ctrl-C arrived", || got() == "INT\n");
    drop(master);
    assert_eq!(wait(&mut child).code(), Some(6));
    assert_eq!(got(), "INT\nHUP\n");
    rank_0.join().unwrap();
    assert!(place.leftovers().is_empty());
}

#[test]
fn a_signal_while_the_ranks_start() {
    for (sent, status) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let place = Place::with_launcher();
        fs::write(place.at("mode"), "hang").unwrap();
        let child = start(&mut place.command(&["run", "true"]));
        let pid = launcher_pid(&place);
        signal(&child, sent);
        let output = finish(child);
        assert_sentence(&output, status, "while the ranks were starting; nothing was built");
        assert!(!is_alive(pid) && place.leftovers().is_empty());
    }
}

#[test]
fn a_launcher_that_ignores_everything_is_killed() {
    let place = Place::with_launcher();
    let stubborn = r#"if [ "$1" = --version ]; then exit 0; fi
        trap '' TERM INT HUP; echo $$ >"$FAKE/launcher.pid"; touch "$FAKE/launcher.args"; for turn in $(seq 1200); do sleep 0.1; done"#;
    place.script("path/mpiexec", stubborn);
    let child = start(&mut place.command(&["run", "true"]));
    let pid = launcher_pid(&place);
    signal(&child, Signal::SIGTERM);
    assert_eq!(finish(child).status.code(), Some(143));
    assert!(!is_alive(pid));
}

#[test]
fn a_session_that_is_killed_takes_its_launcher_along() {
    let place = Place::with_launcher();
    fs::write(place.at("mode"), "hang").unwrap();
    let mut child = start(&mut place.command(&["run", "true"]));
    let pid = launcher_pid(&place);
    eventually("the launcher hangs", || fs::read(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == b"sleep\n"));
    child.kill().unwrap();
    assert_eq!(wait(&mut child).signal(), Some(9));
    eventually("the launcher ended", || !is_alive(pid));
}

#[test]
fn the_command_inherits_the_signal_state() {
    let place = Place::with_launcher();
    let state = |command: &mut Command| {
        let text = stdout(&output(command));
        text.lines().filter(|line| line.starts_with("Sig") && !line.starts_with("SigQ")).collect::<Vec<_>>().join("\n")
    };
    let ignore = |command: &mut Command| {
        // SAFETY: signal(2) is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                libc::signal(libc::SIGPIPE, libc::SIG_IGN);
                libc::signal(libc::SIGHUP, libc::SIG_IGN);
                Ok(())
            });
        }
    };
    for ignored in [false, true] {
        let mut plain = place.program("/bin/cat", &["/proc/self/status"]);
        let mut exec = place.command(&["exec", "--", "cat", "/proc/self/status"]);
        let mut off = place.command(&["run", "--", "cat", "/proc/self/status"]);
        off.env("MPICC_PROXY", "off");
        if ignored {
            for command in [&mut plain, &mut exec, &mut off] {
                ignore(command);
            }
        }
        let expected = state(&mut plain);
        assert!(expected.contains("SigIgn:"), "{expected}");
        assert_eq!(state(&mut exec), expected, "ignored: {ignored}");
        assert_eq!(state(&mut off), expected, "ignored: {ignored}");
    }
}

#[test]
fn bytes_stay_bytes() {
    use std::os::unix::ffi::OsStrExt;
    let place = Place::with_launcher();
    let rank_0 = play_rank_0(&place);
    let mut command = place.command(&["run", "--", "printf", "%s"]);
    let output = output(command.arg(OsStr::from_bytes(b"\xff\n\xfe")));
    rank_0.join().unwrap();
    assert_eq!(output.stdout, b"\xff\n\xfe");
    assert_eq!(output.status.code(), Some(0));
}
