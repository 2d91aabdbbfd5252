//! What a driver runs, by content: a toolchain's identity is everything that decides what it does with a given tree: the
//! driver, the programs it runs, all their shared libraries ([`closure`]), and the few files that libc opens where the
//! preload library cannot see it ([`behind`]).
//!
//! The programs are those the driver itself names (`-print-prog-name`).

pub mod behind;
pub mod closure;
pub mod readings;
pub mod stamps;

use super::search;
use crate::wire::{Bytes, Invocation, Toolchain};
use anyhow::{Context, Result, bail};
use closure::Closure;
use readings::Readings;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Programs a driver may run for a compile, by the names `-print-prog-name` knows.
const PROGRAMS: [&str; 5] = ["cc1", "cc1plus", "f951", "as", "objcopy"];

/// Environment variables that decide which programs, libraries and files of libc's a driver uses.
const DECISIVE: [&str; 3] = ["PATH", "LD_LIBRARY_PATH", "TZ"];

/// What tells one toolchain question from another: the driver, the decisive variables and options.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ToolchainKey {
    driver: Bytes,
    variables: Vec<(&'static str, Option<Bytes>)>,
    search: Vec<Bytes>,
    /// What relative folders in `search` are relative to; empty without such options.
    cwd: Bytes,
}

impl ToolchainKey {
    pub fn of(invocation: &Invocation) -> ToolchainKey {
        let value = |name: &'static str| (name, invocation.variable(name.as_bytes()).map(<[u8]>::to_vec));
        let search = search::options(&invocation.driver, &invocation.argv);
        let cwd = if search.is_empty() { Bytes::new() } else { invocation.cwd.clone() };
        let variables = DECISIVE.into_iter().map(value).collect();
        ToolchainKey { driver: invocation.driver.clone(), variables, search, cwd }
    }

    /// For a driver that is started from here without options that matter.
    pub fn here(driver: &Path) -> ToolchainKey {
        let value = |name: &'static str| (name, std::env::var_os(name).map(OsStringExt::into_vec));
        let variables = DECISIVE.into_iter().map(value).collect();
        ToolchainKey { driver: driver.as_os_str().as_bytes().to_vec(), variables, ..ToolchainKey::default() }
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

/// Why a driver's compiles stay on this host.
#[derive(Debug)]
pub struct Unusable {
    /// A stable name.
    pub reason: &'static str,
    pub detail: String,
}

impl Unusable {
    fn new(reason: &'static str, detail: String) -> Unusable {
        Unusable { reason, detail }
    }
}

impl From<anyhow::Error> for Unusable {
    fn from(error: anyhow::Error) -> Unusable {
        Unusable::new("toolchain-unknown", format!("{error:#}"))
    }
}

/// Finds out what `key`'s driver runs, and the digests of all of it. Starts the driver a few times; takes a tenth of a
/// second if no file was read before.
///
/// # Errors
/// The driver cannot be run, a program cannot be read, or the preload library cannot be loaded into one. The invocation
/// then runs locally.
pub fn inspect(key: &ToolchainKey, readings: &Readings) -> Result<Toolchain, Unusable> {
    let driver = Path::new(OsStr::from_bytes(&key.driver));
    let mut closure = Closure::new(key.variable("LD_LIBRARY_PATH"), readings);
    // Before it is run: a script could do anything.
    closure.add(driver)?;
    let mut programs = vec![driver.to_path_buf()];
    for name in PROGRAMS {
        if let Some(program) = program(key, driver, name)?
            && !programs.contains(&program)
        {
            closure.add(&program)?;
            programs.push(program);
        }
    }
    let (files, shipment) = closure.finish();
    let real = |program: &PathBuf| -> Result<Bytes> {
        let real = std::fs::canonicalize(program).with_context(|| format!("no {}", program.display()))?;
        Ok(real.into_os_string().into_vec())
    };
    let reals = programs.iter().map(real).collect::<Result<_>>()?;
    let programs = programs.into_iter().map(|p| p.into_os_string().into_vec()).collect();
    Ok(Toolchain { programs, reals, files, shipment, behind: behind::collect(key, readings)? })
}

/// Where the driver would find a program; `None` when it has no such program.
fn program(key: &ToolchainKey, driver: &Path, name: &str) -> Result<Option<PathBuf>> {
    let mut command = Command::new(driver);
    let cwd = Path::new(OsStr::from_bytes(&key.cwd));
    if !key.search.is_empty() {
        command.args(key.search.iter().map(|word| OsStr::from_bytes(word))).current_dir(cwd);
    }
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
    if line.contains(&b'/') {
        // Found through a relative option.
        return Ok((!key.search.is_empty()).then(|| cwd.join(answer)));
    }
    // A bare name: the driver will look for it in PATH.
    let path = key.variable("PATH").unwrap_or(OsStr::new("/bin:/usr/bin"));
    let found = std::env::split_paths(path).map(|dir| dir.join(answer)).find(|candidate| candidate.is_file());
    Ok(found.filter(|candidate| candidate.is_absolute()))
}

#[cfg(test)]
mod tests {
    use super::readings::{Known, Reading, Use};
    use super::*;
    use crate::wire::Digest;

    fn gcc() -> ToolchainKey {
        let variables = vec![("PATH", std::env::var_os("PATH").map(OsStringExt::into_vec))];
        ToolchainKey { driver: b"/usr/bin/gcc".to_vec(), variables, ..Default::default() }
    }

    #[test]
    fn gcc_is_its_parts_and_their_libraries() {
        let toolchain = inspect(&gcc(), &Readings::default()).unwrap();
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
    }

    /// Known by digests that nobody could find in the files.
    #[test]
    fn what_was_read_before_is_not_read_again() {
        let first = Readings::default();
        inspect(&gcc(), &first).unwrap();
        let forged = |Use { version, new }: Use| Some((version, Reading { digest: Digest::of(b"forged"), ..new? }));
        let known: Known = first.take_uses().into_iter().filter_map(forged).collect();
        let second = Readings::after(Box::new({
            let known = known.clone();
            || known
        }));
        let toolchain = inspect(&gcc(), &second).unwrap();
        let digest = |path: &Bytes| toolchain.files.iter().find(|file| file.path == *path).and_then(|file| file.digest);
        for program in known.keys().filter(|version| toolchain.programs.contains(&version.path)) {
            assert_eq!(digest(&program.path), Some(Digest::of(b"forged")));
        }
        assert!(second.take_uses().iter().all(|used| used.new.is_none() || !known.contains_key(&used.version)));
    }

    #[test]
    fn a_driver_that_cannot_run_is_an_error() {
        let key = ToolchainKey { driver: b"/nonexistent/gcc".to_vec(), ..Default::default() };
        assert!(inspect(&key, &Readings::default()).unwrap_err().detail.contains("/nonexistent/gcc"));
    }
}
