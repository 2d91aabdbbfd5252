//! Where things are: the dispatcher's socket, and the files installed beside the running program. The rules are pure
//! functions of the environment; only the functions that say so look at the file system.

use crate::identity;
use mpicc_proxy_abi as abi;
use nix::unistd::geteuid;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// File name of the program that the ranks run.
pub const RANK_NAME: &str = "mpicc-proxy-rank";

/// File name of the user's command.
const COMMAND_NAME: &str = "mpicc-proxy";

/// Default name of the history's file, in the user's cache directory. It ends in the version of the tables' layout.
pub const HISTORY_NAME: &str = "history-1.sqlite";

/// Names the file of the history, or switches it off.
pub const HISTORY_VARIABLE: &str = "MPICC_PROXY_HISTORY";

/// Longest path of a Unix socket: `sun_path` has 108 bytes with the final NUL.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Where execvp(3) looks when there is no `PATH`.
const DEFAULT_SEARCH: &[u8] = b"/bin:/usr/bin";

/// Path of the dispatcher's socket: `$MPICC_PROXY_SOCKET`, else `$XDG_RUNTIME_DIR/mpicc-proxy/socket`, else
/// `/tmp/mpicc-proxy-$UID/socket`. An empty variable counts as absent.
pub fn socket_path(variable: impl Fn(&OsStr) -> Option<OsString>, uid: u32) -> PathBuf {
    let set = |name: &[u8]| variable(OsStr::from_bytes(name)).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(socket) = set(abi::env::SOCKET) {
        return socket;
    }
    match set(b"XDG_RUNTIME_DIR") {
        Some(runtime) => runtime.join("mpicc-proxy/socket"),
        None => PathBuf::from(format!("/tmp/mpicc-proxy-{uid}/socket")),
    }
}

/// [`socket_path`] for this process, whatever `$MPICC_PROXY_SOCKET` says.
pub fn usual_socket_path() -> PathBuf {
    socket_path(|name| env::var_os(name).filter(|_| name.as_bytes() != abi::env::SOCKET), geteuid().as_raw())
}

/// [`socket_path`] for this process.
pub fn own_socket_path() -> PathBuf {
    socket_path(|name| env::var_os(name), geteuid().as_raw())
}

/// [`history_file`] for this process.
pub fn own_history_file(given: Option<&Path>) -> Option<PathBuf> {
    history_file(given, |name| env::var_os(name))
}

/// Where what compiles use is kept: `given` (an option), else `$MPICC_PROXY_HISTORY`, else a file in
/// `$XDG_CACHE_HOME/mpicc-proxy` or `~/.cache/mpicc-proxy`. `None`: nowhere, because `off` or `0` says so or there is no
/// home directory. An empty variable counts as absent.
pub fn history_file(given: Option<&Path>, variable: impl Fn(&OsStr) -> Option<OsString>) -> Option<PathBuf> {
    match given.map(Path::to_path_buf).or_else(|| set(&variable, HISTORY_VARIABLE)) {
        Some(file) if abi::env::is_off(file.as_os_str().as_bytes()) => None,
        Some(file) => Some(file),
        None => Some(own_folder(&variable, "XDG_CACHE_HOME", ".cache")?.join(HISTORY_NAME)),
    }
}

/// The value of an environment variable that is not empty.
pub fn set(variable: impl Fn(&OsStr) -> Option<OsString>, name: &str) -> Option<PathBuf> {
    variable(OsStr::new(name)).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The folder for our files of some kind: in that of the XDG Base Directory Specification, the value of `name` or
/// `fallback` in the home directory. A relative path counts as absent, and so does a home directory that does not exist:
/// builds that must not have one name such a folder on purpose, and check that it stays so.
pub fn own_folder(variable: impl Fn(&OsStr) -> Option<OsString>, name: &str, fallback: &str) -> Option<PathBuf> {
    let directory = |name: &str| set(&variable, name).filter(|path| path.is_absolute());
    let home = || directory("HOME").filter(|home| home.is_dir());
    let base = directory(name).or_else(|| Some(home()?.join(fallback)))?;
    Some(base.join("mpicc-proxy"))
}

/// The file that says that the dispatcher on `socket` is stuck: made by a client that waited for it in vain, so that
/// the others need not, removed by the dispatcher when it is alive.
pub fn silence_mark(socket: &Path) -> PathBuf {
    beside(socket, abi::socket::SILENCE_SUFFIX)
}

/// The file whose lock promises a new dispatcher on `socket` when one is gone ([`crate::comeback`]).
pub fn promise_mark(socket: &Path) -> PathBuf {
    beside(socket, b".promise")
}

fn beside(socket: &Path, suffix: &[u8]) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(OsStr::from_bytes(suffix));
    name.into()
}

/// Makes the directory of a socket, with mode 0700, if it is not there, and makes sure that nobody else decides what
/// is in it: it belongs to this user or to root, and not everybody may write to it unless it is sticky as /tmp is.
/// (The group may: where every user has a group of their own that is the usual umask, and both ends check each other's
/// uid anyway.)
///
/// # Errors
/// The directory cannot be made, or somebody else has it in hand (`PermissionDenied`).
pub fn prepare_socket_directory(socket: &Path) -> io::Result<()> {
    let directory = match socket.parent() {
        None => return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket path names no file")),
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
    };
    let explain =
        |e: io::Error| io::Error::new(e.kind(), format!("cannot use {} for the socket: {e}", directory.display()));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(explain)?;
    // The name itself first: a symbolic link somebody else left in /tmp leads where they like.
    let by_name = fs::symlink_metadata(directory).map_err(explain)?;
    let behind = fs::metadata(directory).map_err(explain)?;
    let refuse = |why: String| {
        let what = format!(
            "cannot use {} for the socket: {why}; set MPICC_PROXY_SOCKET to a path in a directory of yours",
            directory.display()
        );
        Err(io::Error::new(io::ErrorKind::PermissionDenied, what))
    };
    for owner in [by_name.uid(), behind.uid()] {
        if owner != geteuid().as_raw() && owner != 0 {
            return refuse(format!("it belongs to user {owner}"));
        }
    }
    let mode = behind.permissions().mode();
    if mode & 0o002 != 0 && mode & 0o1000 == 0 {
        return refuse(format!("everybody may write to it (mode {:04o})", mode & 0o7777));
    }
    Ok(())
}

/// A path as asked for, from the root on: no empty parts, no `.`; `..` stays, since links may lie before it.
pub fn absolute(cwd: &[u8], path: &[u8]) -> Vec<u8> {
    let joined = if path.starts_with(b"/") { path.to_vec() } else { [cwd, b"/", path].concat() };
    let mut out = Vec::with_capacity(joined.len());
    for part in joined.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".") {
        out.push(b'/');
        out.extend_from_slice(part);
    }
    if out.is_empty() {
        out.push(b'/');
    }
    out
}

/// The path by its folder's real name, now; `None`: there is no such folder.
pub fn with_real_folder(path: &Path) -> Option<PathBuf> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Some(fs::canonicalize(folder).ok()?.join(path.file_name()?))
}

/// Do both paths mean the same file, also if it is not there yet?
pub fn is_same_place(one: &Path, other: &Path) -> bool {
    let place = destination(one);
    identity::is_same(one, other) || place.is_some() && place == destination(other)
}

/// Where a file is made that is opened by this path, behind symbolic links that lead nowhere yet.
fn destination(path: &Path) -> Option<PathBuf> {
    /// As the kernel's.
    const LINKS_MAX: usize = 40;
    let mut place = with_real_folder(path)?;
    for _ in 0..LINKS_MAX {
        let Ok(target) = fs::read_link(&place) else { return Some(place) };
        place = with_real_folder(&place.parent()?.join(target))?;
    }
    None
}

/// What was installed together. Asks the file system.
#[derive(Clone, Debug)]
pub struct Installation {
    directory: PathBuf,
}

impl Installation {
    /// The installation of the running program, symbolic links resolved.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn of_this_program() -> io::Result<Installation> {
        let mut directory = env::current_exe().map_err(|e| {
            io::Error::new(e.kind(), format!("cannot tell where this program is (/proc/self/exe): {e}"))
        })?;
        directory.pop();
        Ok(Installation { directory })
    }

    /// A program beside this one.
    ///
    /// # Errors
    /// `NotFound`: it is not there. `PermissionDenied`: it cannot be executed.
    pub fn sibling(&self, name: &OsStr) -> io::Result<PathBuf> {
        let program = self.first_of(name, &[self.directory.join(name)])?;
        nix::unistd::access(&program, nix::unistd::AccessFlags::X_OK).map_err(|errno| {
            let what = format!("the installation is damaged: {} cannot be executed: {errno}", program.display());
            io::Error::new(io::ErrorKind::PermissionDenied, what)
        })?;
        Ok(program)
    }

    /// The user's command.
    ///
    /// # Errors
    /// As [`Installation::sibling`].
    pub fn command(&self) -> io::Result<PathBuf> {
        self.sibling(OsStr::new(COMMAND_NAME))
    }

    /// The program that ranks run.
    ///
    /// # Errors
    /// As [`Installation::sibling`].
    pub fn rank(&self) -> io::Result<PathBuf> {
        self.sibling(OsStr::new(RANK_NAME))
    }

    /// The program that stands in for a driver.
    ///
    /// # Errors
    /// As [`Installation::sibling`].
    pub fn client(&self) -> io::Result<PathBuf> {
        self.sibling(OsStr::from_bytes(abi::CLIENT_NAME))
    }

    /// The preload library: beside this program, or in `../lib`.
    ///
    /// # Errors
    /// `NotFound`: in neither place. `InvalidInput`: its path has a colon or a space, which `LD_PRELOAD` cannot hold.
    pub fn library(&self) -> io::Result<PathBuf> {
        let name = OsStr::from_bytes(abi::LIBRARY_NAME);
        let parent = self.directory.parent().unwrap_or(&self.directory);
        let library = self.first_of(name, &[self.directory.join(name), parent.join("lib").join(name)])?;
        if library.as_os_str().as_bytes().iter().any(|b| matches!(b, b':' | b' ')) {
            let what = format!(
                "{} cannot be preloaded: LD_PRELOAD has no way to write a colon or a space; install it elsewhere",
                library.display()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        Ok(library)
    }

    fn first_of(&self, name: &OsStr, places: &[PathBuf]) -> io::Result<PathBuf> {
        places.iter().find(|place| place.is_file()).cloned().ok_or_else(|| {
            let looked: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
            let what = format!(
                "the installation is incomplete: {} is missing (looked for {})",
                name.display(),
                looked.join(" and ")
            );
            io::Error::new(io::ErrorKind::NotFound, what)
        })
    }
}

/// Why a command cannot be executed, with the exit status that shells give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotFound {
    /// No such file: 127.
    Missing,
    /// A file, but not one that may be executed: 126.
    NotExecutable,
}

/// Finds a command as execvp(3) would: a name with a slash is a path, another one is looked up in `search` (the value
/// of `PATH`). Files for which `accept` says no are passed over. Asks the file system.
///
/// # Errors
/// See [`NotFound`].
pub fn find_command(
    name: &OsStr,
    search: Option<&OsStr>,
    mut accept: impl FnMut(&Path) -> bool,
) -> Result<PathBuf, NotFound> {
    let mut seen = NotFound::Missing;
    let mut usable = |path: &Path| {
        let is_file = fs::metadata(path).is_ok_and(|m| !m.is_dir());
        let executable = is_file && nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok();
        if !executable && path.exists() {
            seen = NotFound::NotExecutable;
        }
        executable && accept(path)
    };
    if name.as_bytes().contains(&b'/') {
        let path = PathBuf::from(name);
        return if usable(&path) { Ok(path) } else { Err(seen) };
    }
    if name.is_empty() {
        return Err(NotFound::Missing);
    }
    let search = search.map_or(DEFAULT_SEARCH, OsStrExt::as_bytes);
    let found = search.split(|&b| b == b':').find_map(|directory| {
        let directory = if directory.is_empty() { b"." } else { directory };
        Some(Path::new(OsStr::from_bytes(directory)).join(name)).filter(|path| usable(path))
    });
    found.ok_or(seen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn socket_paths() {
        let table: [(&[(&str, &str)], &str); 5] = [
            (&[("MPICC_PROXY_SOCKET", "/s"), ("XDG_RUNTIME_DIR", "/run/user/7")], "/s"),
            (&[("XDG_RUNTIME_DIR", "/run/user/7")], "/run/user/7/mpicc-proxy/socket"),
            (&[("MPICC_PROXY_SOCKET", ""), ("XDG_RUNTIME_DIR", "/r")], "/r/mpicc-proxy/socket"),
            (&[("XDG_RUNTIME_DIR", "")], "/tmp/mpicc-proxy-7/socket"),
            (&[], "/tmp/mpicc-proxy-7/socket"),
        ];
        for (environment, expected) in table {
            let variable =
                |name: &OsStr| environment.iter().find(|(key, _)| name == *key).map(|(_, value)| value.into());
            assert_eq!(socket_path(variable, 7), Path::new(expected), "{environment:?}");
        }
    }

    #[test]
    fn paths_from_the_root_on() {
        for (path, expected) in
            [("a/./b", "/w/a/b"), ("../a", "/w/../a"), ("//a/", "/a"), (".", "/w"), ("/", "/"), ("//.", "/")]
        {
            assert_eq!(absolute(b"/w", path.as_bytes()), expected.as_bytes(), "{path}");
        }
    }

    #[test]
    fn places_of_files_that_are_not_there_yet() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        symlink("file", at("link")).unwrap();
        symlink(at("link"), at("chain")).unwrap();
        symlink("loop", at("loop")).unwrap();
        for name in ["file", "./file", "link", "chain"] {
            assert!(is_same_place(&at(name), &at("file")), "{name}");
        }
        for name in ["other", "loop", "none/file"] {
            assert!(!is_same_place(&at(name), &at("file")), "{name}");
        }
    }

    #[test]
    fn history_files() {
        type Variables = &'static [(&'static str, &'static str)];
        let table: [(Option<&str>, Variables, Option<&str>); 9] = [
            (Some("/f"), &[("MPICC_PROXY_HISTORY", "/g")], Some("/f")),
            (Some("off"), &[("MPICC_PROXY_HISTORY", "/g")], None),
            (None, &[("MPICC_PROXY_HISTORY", "g"), ("HOME", "/h")], Some("g")),
            (None, &[("MPICC_PROXY_HISTORY", "off"), ("HOME", "/h")], None),
            (None, &[("XDG_CACHE_HOME", "/c"), ("HOME", "/h")], Some("/c/mpicc-proxy/history-1.sqlite")),
            (None, &[("XDG_CACHE_HOME", "c"), ("HOME", "/usr")], Some("/usr/.cache/mpicc-proxy/history-1.sqlite")),
            (None, &[("MPICC_PROXY_HISTORY", ""), ("HOME", "/usr")], Some("/usr/.cache/mpicc-proxy/history-1.sqlite")),
            (None, &[("HOME", "/nonexistent/home")], None),
            (None, &[], None),
        ];
        for (given, environment, expected) in table {
            let variable =
                |name: &OsStr| environment.iter().find(|(key, _)| name == *key).map(|(_, value)| value.into());
            assert_eq!(
                history_file(given.map(Path::new), variable).as_deref(),
                expected.map(Path::new),
                "{environment:?}"
            );
        }
    }

    #[test]
    fn socket_directories_are_private_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let fresh = dir.path().join("a/b/socket");
        prepare_socket_directory(&fresh).unwrap();
        prepare_socket_directory(&fresh).unwrap();
        assert_eq!(fs::metadata(dir.path().join("a/b")).unwrap().permissions().mode() & 0o777, 0o700);

        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        for (mode, fine) in [(0o755, true), (0o777, false), (0o1777, true), (0o775, true), (0o700, true)] {
            fs::set_permissions(&open, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(prepare_socket_directory(&open.join("socket")).is_ok(), fine, "{mode:o}");
        }

        if geteuid().is_root() {
            std::os::unix::fs::lchown(&open, Some(12345), None).unwrap();
            let error = prepare_socket_directory(&open.join("socket")).unwrap_err();
            assert!(error.to_string().contains("user 12345"), "{error}");
            let link = dir.path().join("link");
            symlink("/tmp", &link).unwrap();
            prepare_socket_directory(&link.join("socket")).unwrap();
            std::os::unix::fs::lchown(&link, Some(12345), None).unwrap();
            assert!(prepare_socket_directory(&link.join("socket")).is_err());
        }
    }

    #[test]
    fn commands_are_found_as_execvp_finds_them() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (name, mode) in [("one/tool", 0o644), ("two/tool", 0o755), ("two/other", 0o755), ("three/tool", 0o755)] {
            fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            fs::write(at(name), "").unwrap();
            fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir(at("one/other")).unwrap();
        let search = |parts: &[&str]| {
            OsString::from(parts.iter().map(|p| at(p).display().to_string()).collect::<Vec<_>>().join(":"))
        };
        let find = |name: &str, parts: &[&str]| find_command(OsStr::new(name), Some(&search(parts)), |_| true);
        assert_eq!(find("tool", &["one", "two", "three"]), Ok(at("two/tool")));
        assert_eq!(find("other", &["one", "two"]), Ok(at("two/other")));
        assert_eq!(find("tool", &["one"]), Err(NotFound::NotExecutable));
        assert_eq!(find("none", &["one", "two"]), Err(NotFound::Missing));
        assert_eq!(find("", &["one", "two"]), Err(NotFound::Missing));
        assert_eq!(find(at("two/tool").to_str().unwrap(), &[]), Ok(at("two/tool")));
        assert_eq!(find(at("one/tool").to_str().unwrap(), &[]), Err(NotFound::NotExecutable));
        let third = |path: &Path| !path.starts_with(at("two"));
        let found = find_command(OsStr::new("tool"), Some(&search(&["one", "two", "three"])), third);
        assert_eq!(found, Ok(at("three/tool")));
        assert_eq!(find_command(OsStr::new("sh"), None, |_| true), Ok("/bin/sh".into()));
    }

    #[test]
    fn the_library_is_beside_or_in_lib() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        let lib = dir.path().join("lib");
        fs::create_dir(&bin).unwrap();
        fs::create_dir(&lib).unwrap();
        let installation = Installation { directory: bin.clone() };
        let error = installation.library().unwrap_err();
        assert!(error.to_string().contains("libmpicc-proxy.so is missing"), "{error}");
        fs::write(lib.join("libmpicc-proxy.so"), "").unwrap();
        assert_eq!(installation.library().unwrap(), lib.join("libmpicc-proxy.so"));
        fs::write(bin.join("libmpicc-proxy.so"), "").unwrap();
        assert_eq!(installation.library().unwrap(), bin.join("libmpicc-proxy.so"));
        assert_eq!(installation.rank().unwrap_err().kind(), io::ErrorKind::NotFound);

        let odd = dir.path().join("a b");
        fs::create_dir(&odd).unwrap();
        fs::write(odd.join("libmpicc-proxy.so"), "").unwrap();
        let error = Installation { directory: odd }.library().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
