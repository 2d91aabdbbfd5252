//! Programs and the libraries ld.so(8) finds for them: DT_RPATH, LD_LIBRARY_PATH, DT_RUNPATH, the folders of
//! /etc/ld.so.conf, the default folders, each with its `glibc-hwcaps` subfolders. A place where a library was looked for
//! in vain belongs to the result: the file must be absent on another host as well.
//!
//! The search is ours because ld.so does not say where it looked in vain; that it found the same files is checked
//! against the program's own interpreter (`ld.so --list`).
//!
//! Also decided here: can the preload library reach each program, and can all of them be laid out in one folder and be
//! run there through their interpreter?

use super::Unusable;
use super::readings::{Format, Linkage, Reading, Readings};
use crate::identity;
use crate::wire::{Bytes, Digest, SameFile, Shipment, ShippedFile};
use anyhow::{Context, Result, anyhow, bail};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{CString, OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// File name of the dynamic linker that can load the preload library.
#[cfg(target_arch = "x86_64")]
const LOADER: &str = "ld-linux-x86-64.so.2";
#[cfg(target_arch = "aarch64")]
const LOADER: &str = "ld-linux-aarch64.so.1";

/// `e_machine` of this host's programs.
#[cfg(target_arch = "x86_64")]
pub const MACHINE: u16 = goblin::elf::header::EM_X86_64;
#[cfg(target_arch = "aarch64")]
pub const MACHINE: u16 = goblin::elf::header::EM_AARCH64;

/// Subfolder of a library folder with libraries for better processors.
const HWCAPS: &str = "glibc-hwcaps";

/// One of ld.so's names for a processor, and whether this host's is that good.
struct Level {
    name: String,
    searched: bool,
}

/// What the programs added so far need.
pub struct Closure<'a> {
    readings: &'a Readings,
    library_path: Option<OsString>,
    folders: Vec<PathBuf>,
    levels: Vec<Level>,
    /// Digest, or `None` for "looked for in vain".
    files: BTreeMap<PathBuf, Option<Digest>>,
    interpreter: Option<PathBuf>,
    programs: Vec<PathBuf>,
    /// Libraries by the names they are asked for.
    libraries: BTreeMap<Bytes, PathBuf>,
    /// Those with a DT_RPATH, which ld.so prefers to everything else.
    with_rpath: BTreeSet<PathBuf>,
    /// Why all this cannot be laid out in one folder.
    obstacle: Option<String>,
}

impl<'a> Closure<'a> {
    pub fn new(library_path: Option<&OsStr>, readings: &'a Readings) -> Closure<'a> {
        Closure {
            readings,
            library_path: library_path.map(OsStr::to_os_string),
            folders: system_folders(),
            levels: Vec::new(),
            files: BTreeMap::new(),
            interpreter: None,
            programs: Vec::new(),
            libraries: BTreeMap::new(),
            with_rpath: BTreeSet::new(),
            obstacle: None,
        }
    }

    /// Adds a program and all that is loaded into it.
    ///
    /// # Errors
    /// The preload library cannot reach it, or it cannot be read.
    pub fn add(&mut self, program: &Path) -> Result<(), Unusable> {
        let reading = self.read(program)?;
        let interpreter = reachable(program, &reading.format)?;
        self.programs.push(program.to_path_buf());
        match &self.interpreter {
            None => {
                self.levels = levels_of(&interpreter);
                let loader = std::fs::read(&interpreter).with_context(|| format!("no {}", interpreter.display()))?;
                if !contains(&loader, b"--argv0") {
                    self.hinder(format!("{} is too old to run programs under another name", interpreter.display()));
                }
                self.files.insert(interpreter.clone(), Some(Digest::of(&loader)));
                self.interpreter = Some(interpreter.clone());
            }
            Some(known) if *known != interpreter => {
                self.hinder(format!("two interpreters: {} and {}", known.display(), interpreter.display()));
                let loader = std::fs::read(&interpreter).with_context(|| format!("no {}", interpreter.display()))?;
                self.files.insert(interpreter.clone(), Some(Digest::of(&loader)));
            }
            Some(_) => {}
        }
        self.add_with_libraries(program, reading)?;
        self.compare_with_loader(program, &interpreter)?;
        Ok(())
    }

    fn hinder(&mut self, why: String) {
        self.obstacle.get_or_insert(why);
    }

    fn add_with_libraries(&mut self, program: &Path, reading: Reading) -> Result<()> {
        let mut todo = VecDeque::from([(program.to_path_buf(), Some(reading))]);
        while let Some((path, reading)) = todo.pop_front() {
            if self.files.contains_key(&path) {
                continue;
            }
            let reading = match reading {
                Some(reading) => reading,
                None => self.read(&path)?,
            };
            self.files.insert(path.clone(), Some(reading.digest));
            let linkage = match &reading.format {
                Format::Elf(linkage) => linkage,
                Format::Script => bail!("{} is not a library: it is a script", path.display()),
                Format::Other(why) => bail!("{} is not a library: {why}", path.display()),
            };
            if !linkage.rpaths.is_empty() {
                self.with_rpath.insert(path.clone());
            }
            let folders = self.folders(linkage, &path);
            for library in &linkage.libraries {
                if library.contains('/') {
                    self.hinder(format!("{} names a library by its path: {library}", path.display()));
                }
                // One not found is the interpreter under its soname, or something ld.so will complain about.
                if let Some(found) = self.find(library, &folders)? {
                    self.note_library(library, &found);
                    todo.push_back((found, None));
                }
            }
        }
        Ok(())
    }

    fn read(&self, path: &Path) -> Result<Reading> {
        self.readings.of(path).with_context(|| format!("cannot read {}", path.display()))
    }

    fn note_library(&mut self, name: &str, path: &Path) {
        if path.components().any(|part| part.as_os_str() == HWCAPS) {
            self.hinder(format!("{} is for this host's processor", path.display()));
        }
        match self.libraries.get(name.as_bytes()) {
            Some(known) if !is_same_file(known, path) => {
                self.hinder(format!("two libraries are called {name}: {} and {}", known.display(), path.display()));
            }
            Some(_) => {}
            None => {
                self.libraries.insert(name.into(), path.to_path_buf());
            }
        }
    }

    /// Folders searched for the libraries of one ELF file, in ld.so's order.
    fn folders(&self, linkage: &Linkage, path: &Path) -> Vec<PathBuf> {
        let origin = std::fs::canonicalize(path).ok().and_then(|real| real.parent().map(Path::to_path_buf));
        let origin = origin.unwrap_or_default().into_os_string().into_string().unwrap_or_default();
        let expand = |list: &[String]| -> Vec<PathBuf> {
            let dirs = list.iter().flat_map(|dirs| dirs.split(':'));
            dirs.map(|d| d.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin).into()).collect()
        };
        let rpaths = if linkage.runpaths.is_empty() { expand(&linkage.rpaths) } else { Vec::new() };
        let library_path = self.library_path.iter().flat_map(std::env::split_paths).collect();
        [rpaths, library_path, expand(&linkage.runpaths), self.folders.clone()].concat()
    }

    fn find(&mut self, library: &str, folders: &[PathBuf]) -> Result<Option<PathBuf>> {
        for folder in folders {
            let hwcaps = folder.join(HWCAPS);
            let mut candidates = Vec::new();
            if hwcaps.is_dir() {
                let level = |level: &Level| (hwcaps.join(&level.name).join(library), level.searched);
                candidates.extend(self.levels.iter().map(level));
            } else {
                // With the slash it means the folder.
                self.files.insert(hwcaps.join(""), None);
            }
            candidates.push((folder.join(library), true));
            for (candidate, searched) in candidates {
                match elf_kind(&candidate) {
                    ElfKind::Absent => {
                        self.files.entry(candidate).or_insert(None);
                    }
                    // A host with a better processor would take it, so no host may have it.
                    _ if !searched => {
                        self.files.entry(candidate).or_insert(None);
                    }
                    ElfKind::Of(true, MACHINE) => return Ok(Some(candidate)),
                    // ld.so skips libraries for another machine.
                    ElfKind::Of(..) => {
                        let same = same_file(&candidate, self.readings)?;
                        self.files.insert(candidate, same);
                    }
                    ElfKind::Broken => bail!("{} is not a library; the driver will not start", candidate.display()),
                }
            }
        }
        Ok(None)
    }

    /// Does the program's own interpreter find what we found?
    fn compare_with_loader(&self, program: &Path, interpreter: &Path) -> Result<()> {
        let mut command = Command::new(interpreter);
        command.arg("--list").arg(program).stdin(Stdio::null()).stderr(Stdio::null()).env_clear();
        if let Some(folders) = &self.library_path {
            command.env("LD_LIBRARY_PATH", folders);
        }
        let output = command.output().with_context(|| format!("cannot run {}", interpreter.display()))?;
        if !output.status.success() {
            bail!("{} does not find the libraries of {}", interpreter.display(), program.display());
        }
        let known: BTreeSet<PathBuf> = self
            .files
            .iter()
            .filter(|(_, digest)| digest.is_some())
            .filter_map(|(path, _)| std::fs::canonicalize(path).ok())
            .collect();
        for line in output.stdout.split(|b| *b == b'\n') {
            let Some(path) = listed_path(line) else { continue };
            // Loaded into this process, ours is loaded into its children as well; it is no part of any toolchain.
            if path.file_name() == Some(OsStr::from_bytes(mpicc_proxy_abi::LIBRARY_NAME)) {
                continue;
            }
            if !std::fs::canonicalize(path).is_ok_and(|real| known.contains(&real)) {
                bail!("{} takes {}, which our search did not find", program.display(), path.display());
            }
        }
        Ok(())
    }

    /// All files, and how they are laid out elsewhere.
    pub fn finish(self) -> (Vec<SameFile>, Result<Shipment, String>) {
        let shipment = self.shipment();
        let same = |(path, digest): (PathBuf, _)| SameFile { path: path.into_os_string().into_vec(), digest };
        (self.files.into_iter().map(same).collect(), shipment)
    }

    fn shipment(&self) -> Result<Shipment, String> {
        if let Some(why) = &self.obstacle {
            return Err(why.clone());
        }
        let mut files = Vec::new();
        let mut ship = |name: Bytes, path: &Path| {
            let digest = self.files.get(path).copied().flatten().ok_or(format!("no {}", path.display()))?;
            files.push(ShippedFile { name, source: path.as_os_str().as_bytes().to_vec(), digest });
            Ok::<(), String>(())
        };
        ship(b"ld.so".to_vec(), self.interpreter.as_deref().ok_or("no interpreter")?)?;
        for (index, program) in self.programs.iter().enumerate() {
            ship(format!("bin/{index}").into_bytes(), program)?;
        }
        let mut rpaths = BTreeSet::new();
        for (name, path) in &self.libraries {
            let name = [b"lib/".as_slice(), name].concat();
            if self.with_rpath.contains(path) {
                rpaths.insert(name.clone());
            }
            ship(name, path)?;
        }
        if self.programs.iter().any(|program| self.with_rpath.contains(program)) {
            rpaths.insert(Vec::new());
        }
        Ok(Shipment { machine: MACHINE, files, rpaths: rpaths.into_iter().collect() })
    }
}

/// The program's interpreter, if the preload library can be loaded into the program.
fn reachable(program: &Path, format: &Format) -> Result<PathBuf, Unusable> {
    let name = program.display();
    let linkage = match format {
        Format::Elf(linkage) => linkage,
        Format::Script => return Err(Unusable::new("script-compiler", format!("{name} is a script"))),
        Format::Other(why) => return Err(anyhow!("{name} is not a program: {why}").into()),
    };
    if !linkage.is_64 || linkage.machine != MACHINE {
        return Err(Unusable::new("foreign-compiler", format!("{name} is for another machine")));
    }
    let Some(interpreter) = &linkage.interpreter else {
        return Err(Unusable::new("static-compiler", format!("{name} is linked statically")));
    };
    let interpreter = Path::new(interpreter);
    if interpreter.file_name() != Some(OsStr::new(LOADER)) {
        return Err(Unusable::new("foreign-compiler", format!("{name} uses another C library")));
    }
    let mode = std::fs::metadata(program).with_context(|| format!("cannot look at {name}"))?.mode();
    if mode & (libc::S_ISUID | libc::S_ISGID) != 0 || has_capabilities(program) {
        return Err(Unusable::new("privileged-compiler", format!("{name} gains privileges when it starts")));
    }
    Ok(interpreter.to_path_buf())
}

/// The kernel drops LD_PRELOAD for such a file.
fn has_capabilities(program: &Path) -> bool {
    let Ok(path) = CString::new(program.as_os_str().as_bytes()) else { return true };
    // SAFETY: two C strings; with no room the call only says how long the value is.
    let length = unsafe { libc::getxattr(path.as_ptr(), c"security.capability".as_ptr(), std::ptr::null_mut(), 0) };
    length > 0
}

fn contains(content: &[u8], text: &[u8]) -> bool {
    content.windows(text.len()).any(|window| window == text)
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    one == other || identity::is_same(one, other)
}

/// The path in a line of `ld.so --list`: `<tab>name => path (0x...)` or `<tab>path (0x...)`.
fn listed_path(line: &[u8]) -> Option<&Path> {
    let end = line.windows(4).rposition(|window| window == b" (0x")?;
    let line = line.strip_prefix(b"\t")?.get(..end - 1)?;
    let path = match line.windows(4).position(|window| window == b" => ") {
        Some(arrow) => &line[arrow + 4..],
        None => line,
    };
    // What has no path is the kernel's own (linux-vdso.so.1).
    path.starts_with(b"/").then(|| Path::new(OsStr::from_bytes(path)))
}

/// The processor names that this interpreter knows, best first. One too old for the list has none.
fn levels_of(interpreter: &Path) -> Vec<Level> {
    let output =
        Command::new(interpreter).arg("--help").stdin(Stdio::null()).stderr(Stdio::null()).env_clear().output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    // The options, listed before, name the folders as well.
    let is_heading = |line: &str| !line.starts_with(' ') && line.contains(HWCAPS);
    let list = text.lines().skip_while(|line| !is_heading(line)).skip(1).take_while(|line| line.starts_with("  "));
    let level = |line: &str| {
        let name = line.split_whitespace().next()?;
        Some(Level { name: name.to_owned(), searched: line.contains("searched") })
    };
    list.filter_map(level).collect()
}

/// The identity of one file.
///
/// # Errors
/// It exists and cannot be read.
pub fn same_file(path: &Path, readings: &Readings) -> Result<Option<Digest>> {
    match readings.of(path) {
        Ok(reading) => Ok(Some(reading.digest)),
        Err(error)
            if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory) =>
        {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

enum ElfKind {
    Absent,
    /// Is it of 64 bits, and for which machine?
    Of(bool, u16),
    Broken,
}

fn elf_kind(path: &Path) -> ElfKind {
    use std::io::Read;
    let mut head = [0u8; 20];
    let Ok(mut file) = std::fs::File::open(path) else { return ElfKind::Absent };
    if file.read_exact(&mut head).is_err() || !head.starts_with(b"\x7fELF") {
        return ElfKind::Broken;
    }
    ElfKind::Of(head[4] == 2, u16::from_ne_bytes([head[18], head[19]]))
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn gcc(dir: &Path, arguments: &str) {
        let mut command = Command::new("gcc");
        let status = command.args(arguments.split_whitespace()).current_dir(dir).env_remove("LD_PRELOAD").status();
        assert!(status.unwrap().success(), "gcc {arguments}");
    }

    /// A folder with a program's source, whose libx.so.1 in `a` and `b` return 1 and 2.
    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("main.c"), "int x(void); int main(void) { return x(); }\n").unwrap();
        std::fs::write(dir.path().join("alone.c"), "int main(void) { return 0; }\n").unwrap();
        for (name, value) in [("a", 1), ("b", 2)] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join("x.c"), format!("int x(void) {{ return {value}; }}\n")).unwrap();
            gcc(dir.path(), &format!("-shared -fPIC -Wl,-soname,libx.so.1 x.c -o {name}/libx.so.1"));
        }
        dir
    }

    /// A program that looks for its library in `folder` before anything else.
    fn with_rpath(dir: &Path, name: &str, folder: &str) -> PathBuf {
        let at = dir.display();
        gcc(dir, &format!("main.c -o {name} {folder}/libx.so.1 -Wl,--disable-new-dtags,-rpath,{at}/{folder}"));
        dir.join(name)
    }

    fn closure_of(programs: &[&Path], library_path: Option<&Path>) -> (Vec<SameFile>, Result<Shipment, String>) {
        let readings = Readings::default();
        let mut closure = Closure::new(library_path.map(Path::as_os_str), &readings);
        for program in programs {
            closure.add(program).unwrap();
        }
        closure.finish()
    }

    #[test]
    fn programs_that_the_library_cannot_reach_are_named() {
        let dir = folder();
        let program = dir.path().join("alone");
        let reason = || Closure::new(None, &Readings::default()).add(&program).map_err(|unusable| unusable.reason);
        gcc(dir.path(), "alone.c -o alone");
        assert_eq!(reason(), Ok(()));
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o4755)).unwrap();
        assert_eq!(reason(), Err("privileged-compiler"));
        std::fs::remove_file(&program).unwrap();
        gcc(dir.path(), "-static alone.c -o alone");
        assert_eq!(reason(), Err("static-compiler"));
        gcc(dir.path(), "-Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1 alone.c -o alone");
        assert_eq!(reason(), Err("foreign-compiler"));
        let mut content = std::fs::read(&program).unwrap();
        content[18] = 3;
        std::fs::write(&program, content).unwrap();
        assert_eq!(reason(), Err("foreign-compiler"));
        std::fs::write(&program, "#!/bin/sh\n").unwrap();
        assert_eq!(reason(), Err("script-compiler"));
        std::fs::write(&program, "").unwrap();
        assert_eq!(reason(), Err("toolchain-unknown"));
    }

    /// What ld.so runs is what was laid out, whatever lies where DT_RPATH leads.
    #[test]
    fn a_folder_with_the_shipment_is_enough() {
        let dir = folder();
        let program = with_rpath(dir.path(), "main", "a");
        let (_, shipment) = closure_of(&[&program], None);
        let shipment = shipment.unwrap();
        assert_eq!(shipment.rpaths, [b""]);
        let to = dir.path().join("shipped");
        for file in &shipment.files {
            let path = to.join(OsStr::from_bytes(&file.name));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::copy(OsStr::from_bytes(&file.source), path).unwrap();
        }
        std::fs::copy(dir.path().join("b/libx.so.1"), dir.path().join("a/libx.so.1")).unwrap();
        let run = |more: &[&str]| {
            let mut command = Command::new(to.join("ld.so"));
            command.arg("--library-path").arg(to.join("lib")).args(more).arg(to.join("bin/0"));
            command.env_remove("LD_PRELOAD").status().unwrap().code()
        };
        assert_eq!(run(&["--inhibit-rpath", "", "--argv0", "main"]), Some(1));
        assert_eq!(run(&["--argv0", "main"]), Some(2), "without it, the other library is taken");
    }

    #[test]
    fn what_does_not_fit_into_one_folder_is_named() {
        let dir = folder();
        let (one, two) = (with_rpath(dir.path(), "one", "a"), with_rpath(dir.path(), "two", "b"));
        let (files, shipment) = closure_of(&[&one, &two], None);
        assert!(shipment.unwrap_err().contains("two libraries are called libx.so.1"));
        let end = |end: &str| files.iter().any(|f| f.digest.is_some() && f.path.ends_with(end.as_bytes()));
        assert!(end("a/libx.so.1") && end("b/libx.so.1"));

        let by_path = dir.path().join("noname.so");
        gcc(dir.path(), &format!("-shared -fPIC x.c -o {}", by_path.display()));
        gcc(dir.path(), &format!("main.c -o path {}", by_path.display()));
        let (_, shipment) = closure_of(&[&dir.path().join("path")], None);
        assert!(shipment.unwrap_err().contains("by its path"));
    }

    /// ld.so prefers a library for a better processor (aarch64 has no names for such); where there is none, the folder must be absent elsewhere too.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn libraries_for_this_processor_are_found() {
        let dir = folder();
        let plain = dir.path().join("a");
        gcc(dir.path(), "main.c -o main a/libx.so.1");
        let program = dir.path().join("main");
        let (files, shipment) = closure_of(&[&program], Some(&plain));
        assert!(shipment.is_ok());
        let folder = plain.join(HWCAPS).join("").into_os_string().into_vec();
        assert!(files.contains(&SameFile { path: folder, digest: None }));

        let levels = levels_of(Path::new("/lib64").join(LOADER).as_path());
        // Every processor of today is x86-64-v2.
        let level = levels.iter().find(|level| level.searched).unwrap();
        let better = plain.join(HWCAPS).join(&level.name);
        std::fs::create_dir_all(&better).unwrap();
        std::fs::copy(dir.path().join("b/libx.so.1"), better.join("libx.so.1")).unwrap();
        let (files, shipment) = closure_of(&[&program], Some(&plain));
        assert!(shipment.unwrap_err().contains("processor"));
        let found = better.join("libx.so.1").into_os_string().into_vec();
        assert!(files.iter().any(|file| file.path == found && file.digest.is_some()));
    }
}
