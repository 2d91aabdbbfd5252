//! What the tests of the preload library share: the library as cargo builds it, C programs compiled once, and a small
//! installation per test whose client and compilers only record that they ran.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Nothing here takes a second; a hook that hangs must not hang the tests.
const DEADLINE: Duration = Duration::from_secs(30);

/// The library and the C programs, made once per test program.
struct Built {
    library: PathBuf,
    programs: TempDir,
}

fn built() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| Built { library: build_library(), programs: compile_programs() })
}

/// The library, from the target folder that this test program lies in (`<target>/<profile>/deps/<program>`). `cargo test`
/// builds no cdylib for the tests of another package, so it is asked for here; cargo does nothing when it is fresh.
fn build_library() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let profile = program.parent().and_then(Path::parent).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--package", "mpicc-proxy-preload", "--manifest-path"]);
    cargo.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    cargo.arg("--target-dir").arg(profile.parent().unwrap());
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().unwrap().success(), "cargo cannot build the preload library");
    profile.join("libmpicc-proxy.so")
}

fn compile_programs() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/preload");
    let gcc = |arguments: &[&str], source: &str, out: &str| {
        let mut command = Command::new("gcc");
        command.args(["-O1", "-w"]).arg(sources.join(source)).args(arguments);
        command.arg("-o").arg(folder.path().join(out));
        (command.spawn().unwrap(), source.to_owned())
    };
    let mut running = vec![gcc(&["-shared", "-fPIC"], "guard.c", "libguard.so")];
    running.push(gcc(&["-static"], "posix_spawn.c", "static_spawn"));
    running.push(gcc(&["-static"], "syscall.c", "static_syscall"));
    running.push(gcc(&["-static"], "record.c", "static_record"));
    for entry in fs::read_dir(&sources).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(stem) = name.strip_suffix(".c")
            && !["guard", "vfork"].contains(&stem)
        {
            running.push(gcc(&[], &name, stem));
        }
        // One at a time is slow, all at once is rude.
        if running.len() >= 4 {
            let (mut child, source) = running.remove(0);
            assert!(child.wait().unwrap().success(), "{source}");
        }
    }
    for (mut child, source) in running {
        assert!(child.wait().unwrap().success(), "{source}");
    }
    let library = folder.path().join("libguard.so");
    let (mut child, source) = gcc(&[library.to_str().unwrap()], "vfork.c", "vfork");
    assert!(child.wait().unwrap().success(), "{source}");
    folder
}

/// Path of the library as cargo leaves it.
pub fn library() -> &'static Path {
    &built().library
}

/// Path of a compiled program of `tests/preload`.
pub fn program(name: &str) -> PathBuf {
    built().programs.path().join(name)
}

/// One start of the client or of a compiler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// File name of the program that ran.
    pub who: String,
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
}

/// What a command printed, and how it ended (128 + n for signal n).
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

/// `lib/` with the library and the client, `bin/` with a compiler named gcc, `socket`.
pub struct Site {
    folder: TempDir,
}

impl Site {
    pub fn new() -> Site {
        let site = Site { folder: tempfile::tempdir().unwrap() };
        for folder in ["lib", "bin", "work"] {
            fs::create_dir(site.path(folder)).unwrap();
        }
        fs::copy(library(), site.library()).unwrap();
        fs::copy(program("static_record"), site.path("lib/mpicc-proxy-client")).unwrap();
        fs::write(site.path("socket"), "").unwrap();
        fs::write(site.path("work/x.c"), "int x;\n").unwrap();
        site.compiler("bin/gcc");
        site
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub fn library(&self) -> PathBuf {
        self.path("lib/libmpicc-proxy.so")
    }

    pub fn gcc(&self) -> String {
        self.text("bin/gcc")
    }

    /// Makes a compiler (an ELF program that records) at `name`.
    pub fn compiler(&self, name: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::copy(program("record"), self.path(name)).unwrap();
    }

    /// Makes an executable script at `name`.
    pub fn script(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// A command in `work/` without the library, in a small environment with `bin/` first in PATH.
    pub fn plain(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.path("work")).env_clear();
        command.env("PATH", format!("{}:/usr/bin:/bin", self.text("bin")));
        command
    }

    /// The same under the library, with a dispatcher that seems to be there.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.plain(program);
        command.env("LD_PRELOAD", self.library()).env("MPICC_PROXY_SOCKET", self.path("socket"));
        command
    }

    /// What ran since the last call.
    pub fn records(&self) -> Vec<Record> {
        let bytes = fs::read(self.path("record")).unwrap_or_default();
        let _ = fs::remove_file(self.path("record"));
        String::from_utf8(bytes).unwrap().lines().map(parse).collect()
    }
}

fn parse(line: &str) -> Record {
    let mut fields = line.split_terminator('\x01');
    let who = fields.next().unwrap().rsplit('/').next().unwrap().to_owned();
    let argc: usize = fields.next().unwrap().parse().unwrap();
    let argv = fields.by_ref().take(argc).map(str::to_owned).collect();
    let env = fields
        .map(|variable| {
            let (name, value) = variable.split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        })
        .collect();
    Record { who, argv, env }
}

/// Runs to the end, or fails at the deadline.
pub fn run(command: &mut Command) -> Outcome {
    use std::os::unix::process::ExitStatusExt;
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("cannot start");
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > DEADLINE {
            child.kill().unwrap();
            panic!("{command:?} did not end");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let (mut stdout, mut stderr) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    let status = status.code().unwrap_or_else(|| 128 + status.signal().unwrap());
    Outcome { status, stdout, stderr }
}
