//! Is the compiler on another host the same as on the head? A toolchain's identity is the content of everything that
//! decides what it does with a given tree: the driver, the programs it runs, all their shared libraries, and the few
//! files that libc opens where the preload library cannot see it (locale, time zone).
//!
//! The programs are those the driver itself names (`-print-prog-name`); libraries are found as ld.so(8) does:
//! DT_RPATH, LD_LIBRARY_PATH, DT_RUNPATH, the folders of /etc/ld.so.conf, the default folders. A place where a library
//! was looked for in vain is part of the identity too: the file must be absent on the other host as well.
//! Not covered: `glibc-hwcaps` subfolders.

use crate::wire::{Bytes, Digest, Invocation, SameFile, Toolchain};
use anyhow::{Context, Result, bail};
use goblin::elf::Elf;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Programs a driver may run for a compile, by the names `-print-prog-name` knows.
const PROGRAMS: [&str; 4] = ["cc1", "cc1plus", "as", "objcopy"];

/// Environment variables that decide which programs, libraries and files of libc's a driver uses.
const DECISIVE: [&str; 3] = ["PATH", "LD_LIBRARY_PATH", "TZ"];

/// Where libc looks for what TZ names.
const ZONES: &str = "/usr/share/zoneinfo";

/// Files that libc opens by itself: they change quotes in diagnostics, and `__TIMESTAMP__`.
const BEHIND_LIBC: [&str; 6] = [
    "/usr/lib/locale/locale-archive",
    "/usr/lib/locale/C.utf8/LC_CTYPE",
    "/usr/lib/locale/en_US.utf8/LC_CTYPE",
    "/usr/lib/locale/en_US.utf8/LC_MESSAGES/SYS_LC_MESSAGES",
    "/etc/localtime",
    "/etc/ld.so.preload",
];

/// What tells one toolchain question from another: the driver and the decisive variables.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ToolchainKey {
    driver: Bytes,
    variables: Vec<(&'static str, Option<Bytes>)>,
}

impl ToolchainKey {
    pub fn of(invocation: &Invocation) -> ToolchainKey {
        let value = |name: &'static str| (name, invocation.variable(name.as_bytes()).map(<[u8]>::to_vec));
        ToolchainKey { driver: invocation.driver.clone(), variables: DECISIVE.into_iter().map(value).collect() }
    }

    /// Absolute path of the driver.
    pub fn driver(&self) -> &[u8] {
        &self.driver
    }

    /// Does LD_LIBRARY_PATH name folders?
    pub fn has_library_path(&self) -> bool {
        self.variable("LD_LIBRARY_PATH").is_some_and(|folders| !folders.is_empty())
    }

    fn variable(&self, name: &str) -> Option<&OsStr> {
        let (_, value) = self.variables.iter().find(|(known, _)| *known == name)?;
        value.as_deref().map(OsStr::from_bytes)
    }
}

/// A file's identity without its content: enough to notice that it was replaced.
pub type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// The stamp of `path` now; `None` when it is absent.
pub fn stamp(path: &[u8]) -> Stamp {
    let m = std::fs::metadata(OsStr::from_bytes(path)).ok()?;
    Some((m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec()))
}

/// Finds out what `key`'s driver runs, and hashes all of it. Starts the driver a few times; takes a tenth of a second.
///
/// # Errors
/// The driver cannot be run or a program cannot be read. The invocation then runs locally.
pub fn inspect(key: &ToolchainKey) -> Result<Toolchain> {
    let driver = Path::new(OsStr::from_bytes(&key.driver));
    let mut programs = vec![driver.to_path_buf()];
    // clang starts itself again by the name that /proc/self/exe has.
    if let Ok(real) = std::fs::canonicalize(driver)
        && real != driver
    {
        programs.push(real);
    }
    for name in PROGRAMS {
        if let Some(program) = program(key, driver, name)? {
            programs.push(program);
        }
    }
    let mut closure = Closure::new(key.variable("LD_LIBRARY_PATH"));
    for program in &programs {
        closure.add(program)?;
    }
    for path in BEHIND_LIBC {
        closure.add_plain(Path::new(path))?;
    }
    if let Some(zone) = key.variable("TZ") {
        let name = zone.as_bytes().strip_prefix(b":").unwrap_or(zone.as_bytes());
        // A rule like "CET-1" names no file; it is then absent on both hosts.
        closure.add_plain(&Path::new(ZONES).join(OsStr::from_bytes(name)))?;
    }
    let programs = programs.into_iter().map(|p| p.into_os_string().into_vec()).collect();
    let same = |(path, digest): (PathBuf, _)| SameFile { path: path.into_os_string().into_vec(), digest };
    Ok(Toolchain { programs, files: closure.files.into_iter().map(same).collect() })
}

/// Where the driver would find a program; `None` when it has no such program.
fn program(key: &ToolchainKey, driver: &Path, name: &str) -> Result<Option<PathBuf>> {
    let mut command = Command::new(driver);
    command.arg(format!("-print-prog-name={name}")).stdin(Stdio::null()).stderr(Stdio::null()).env_clear();
    for (variable, value) in &key.variables {
        if let Some(value) = value {
            command.env(variable, OsStr::from_bytes(value));
        }
    }
    let output = command.output().with_context(|| format!("cannot run {}", driver.display()))?;
    if !output.status.success() {
        bail!("{} -print-prog-name={name} ended with {}", driver.display(), output.status);
    }
    let line = output.stdout.split(|b| *b == b'\n').next().unwrap_or_default();
    let answer = Path::new(OsStr::from_bytes(line));
    if answer.is_absolute() {
        return Ok(answer.exists().then(|| answer.to_path_buf()));
    }
    // A bare name: the driver will look for it in PATH.
    let path = key.variable("PATH").unwrap_or(OsStr::new("/bin:/usr/bin"));
    let found = std::env::split_paths(path).map(|dir| dir.join(answer)).find(|candidate| candidate.is_file());
    Ok(found.filter(|candidate| candidate.is_absolute()))
}

/// Programs and libraries reached from them, each with its digest or `None` for "looked for in vain".
struct Closure {
    library_path: Vec<PathBuf>,
    system: Vec<PathBuf>,
    files: BTreeMap<PathBuf, Option<Digest>>,
}

impl Closure {
    fn new(library_path: Option<&OsStr>) -> Closure {
        let library_path = library_path.map(|dirs| std::env::split_paths(dirs).collect()).unwrap_or_default();
        Closure { library_path, system: system_folders(), files: BTreeMap::new() }
    }

    fn add_plain(&mut self, path: &Path) -> Result<()> {
        let digest = match std::fs::read(path) {
            Ok(content) => Some(Digest::of(&content)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::IsADirectory) => None,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        self.files.insert(path.to_path_buf(), digest);
        Ok(())
    }

    fn add(&mut self, program: &Path) -> Result<()> {
        let mut todo = VecDeque::from([program.to_path_buf()]);
        while let Some(path) = todo.pop_front() {
            if self.files.contains_key(&path) {
                continue;
            }
            let content = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            self.files.insert(path.clone(), Some(Digest::of(&content)));
            let elf = Elf::parse(&content).with_context(|| format!("{} is not an ELF program", path.display()))?;
            if let Some(interpreter) = elf.interpreter {
                todo.push_back(PathBuf::from(interpreter));
            }
            let folders = self.folders(&elf, &path);
            for library in &elf.libraries {
                // One not found is the interpreter under its soname, or something ld.so will complain about.
                todo.extend(self.find(library, &folders, elf.is_64, elf.header.e_machine)?);
            }
        }
        Ok(())
    }

    /// Folders searched for the libraries of one ELF file, in ld.so's order.
    fn folders(&self, elf: &Elf<'_>, path: &Path) -> Vec<PathBuf> {
        let origin = std::fs::canonicalize(path).ok().and_then(|real| real.parent().map(Path::to_path_buf));
        let origin = origin.unwrap_or_default().into_os_string().into_string().unwrap_or_default();
        let expand = |list: &[&str]| -> Vec<PathBuf> {
            let dirs = list.iter().flat_map(|dirs| dirs.split(':'));
            dirs.map(|d| d.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin).into()).collect()
        };
        let rpaths = if elf.runpaths.is_empty() { expand(&elf.rpaths) } else { Vec::new() };
        [rpaths, self.library_path.clone(), expand(&elf.runpaths), self.system.clone()].concat()
    }

    fn find(&mut self, library: &str, folders: &[PathBuf], is_64: bool, machine: u16) -> Result<Option<PathBuf>> {
        for folder in folders {
            let candidate = folder.join(library);
            match elf_kind(&candidate) {
                ElfKind::Absent => {
                    self.files.entry(candidate).or_insert(None);
                }
                ElfKind::Of(kind) if kind == (is_64, machine) => return Ok(Some(candidate)),
                // ld.so skips libraries for another machine.
                ElfKind::Of(_) => self.add_plain(&candidate)?,
                ElfKind::Broken => bail!("{} is not a library; the driver will not start", candidate.display()),
            }
        }
        Ok(None)
    }
}

enum ElfKind {
    Absent,
    /// Is it of 64 bits, and for which machine?
    Of((bool, u16)),
    Broken,
}

fn elf_kind(path: &Path) -> ElfKind {
    use std::io::Read;
    let mut head = [0u8; 20];
    let Ok(mut file) = std::fs::File::open(path) else { return ElfKind::Absent };
    if file.read_exact(&mut head).is_err() || !head.starts_with(b"\x7fELF") {
        return ElfKind::Broken;
    }
    ElfKind::Of((head[4] == 2, u16::from_ne_bytes([head[18], head[19]])))
}

/// The folders of /etc/ld.so.conf (with its includes) and ld.so's defaults.
fn system_folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let mut seen = BTreeSet::new();
    read_conf(Path::new("/etc/ld.so.conf"), &mut folders, &mut seen);
    let defaults = [
        "/lib/x86_64-linux-gnu",
        "/usr/lib/x86_64-linux-gnu",
        "/lib/aarch64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/lib64",
        "/usr/lib64",
        "/lib",
        "/usr/lib",
    ];
    folders.extend(defaults.map(PathBuf::from));
    folders.retain(|folder| folder.is_dir());
    folders
}

fn read_conf(path: &Path, folders: &mut Vec<PathBuf>, seen: &mut BTreeSet<PathBuf>) {
    if !seen.insert(path.to_path_buf()) {
        return;
    }
    let Ok(text) = std::fs::read(path) else { return };
    for line in text.split(|b| *b == b'\n') {
        let line = line.split(|b| *b == b'#').next().unwrap_or_default().trim_ascii();
        if let Some(pattern) = line.strip_prefix(b"include ") {
            for included in expand_pattern(Path::new(OsStr::from_bytes(pattern.trim_ascii()))) {
                read_conf(&included, folders, seen);
            }
        } else if !line.is_empty() {
            folders.push(OsStr::from_bytes(line).into());
        }
    }
}

/// The `DIR/*.conf` that distributions use, in name order; other patterns are taken as plain names.
fn expand_pattern(pattern: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (pattern.parent(), pattern.file_name()) else { return Vec::new() };
    let Some(suffix) = name.as_bytes().strip_prefix(b"*") else { return vec![pattern.to_path_buf()] };
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut names: Vec<OsString> = names.filter(|name| name.as_bytes().ends_with(suffix)).collect();
    names.sort();
    names.into_iter().map(|name| dir.join(name)).collect()
}

/// Compares this host's files with the head's; remembers digests while a file's stamp stays the same.
#[derive(Default)]
pub struct Verifier {
    digests: HashMap<Bytes, (Stamp, Option<Digest>)>,
}

impl Verifier {
    /// # Errors
    /// Says which file differs.
    pub fn verify(&mut self, toolchain: &Toolchain) -> Result<(), String> {
        for file in &toolchain.files {
            let own = self.digest(&file.path);
            if own != file.digest {
                let name = String::from_utf8_lossy(&file.path);
                return Err(match (own, file.digest) {
                    (None, _) => format!("{name} is missing on this host"),
                    (_, None) => format!("{name} exists on this host only"),
                    _ => format!("{name} differs from the head's"),
                });
            }
        }
        Ok(())
    }

    fn digest(&mut self, path: &Bytes) -> Option<Digest> {
        let now = stamp(path);
        if let Some((then, digest)) = self.digests.get(path)
            && *then == now
        {
            return *digest;
        }
        let digest = std::fs::read(OsStr::from_bytes(path)).ok().map(|content| Digest::of(&content));
        self.digests.insert(path.clone(), (now, digest));
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gcc() -> ToolchainKey {
        let variables = vec![("PATH", std::env::var_os("PATH").map(OsStringExt::into_vec))];
        ToolchainKey { driver: b"/usr/bin/gcc".to_vec(), variables }
    }

    #[test]
    fn gcc_is_its_parts_and_their_libraries() {
        let toolchain = inspect(&gcc()).unwrap();
        let has = |end: &str| toolchain.files.iter().any(|f| f.digest.is_some() && f.path.ends_with(end.as_bytes()));
        for part in ["/gcc", "/cc1", "/as", "libc.so.6", "libmpfr.so.6", "libz.so.1"] {
            assert!(has(part), "{part} of {:?}", toolchain.programs);
        }
        assert!(toolchain.programs.iter().all(|p| p.starts_with(b"/")));
        // The closure agrees with ld.so's own opinion.
        let cc1 = toolchain.programs.iter().find(|p| p.ends_with(b"/cc1")).unwrap();
        let listed = Command::new("ldd").arg(OsStr::from_bytes(cc1)).output().unwrap();
        for line in String::from_utf8(listed.stdout).unwrap().lines() {
            let path = line.split_whitespace().find(|word| word.starts_with('/'));
            if let Some(path) = path {
                assert!(has(path), "{path}");
            }
        }
        assert_eq!(Verifier::default().verify(&toolchain), Ok(()));
    }

    #[test]
    fn a_changed_missing_or_added_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lib.so").into_os_string().into_vec();
        let with = |digest| Toolchain { programs: vec![], files: vec![SameFile { path: path.clone(), digest }] };
        let (one, two) = (with(Some(Digest::of(b"one"))), with(Some(Digest::of(b"two"))));
        let mut verifier = Verifier::default();
        assert!(verifier.verify(&one).unwrap_err().contains("missing"));
        std::fs::write(OsStr::from_bytes(&path), "one").unwrap();
        assert_eq!(verifier.verify(&one), Ok(()));
        assert!(verifier.verify(&two).unwrap_err().contains("differs"));
        assert!(verifier.verify(&with(None)).unwrap_err().contains("only"));
    }

    #[test]
    fn a_driver_that_cannot_run_is_an_error() {
        let key = ToolchainKey { driver: b"/nonexistent/gcc".to_vec(), variables: vec![] };
        assert!(inspect(&key).unwrap_err().to_string().contains("/nonexistent/gcc"));
    }
}
