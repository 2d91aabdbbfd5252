//! `mpicc-proxy exec -- gcc ...`, and `mpicc-proxy` under the name of a driver: standing in front of a compiler where
//! LD_PRELOAD is forbidden. It finds the driver that would have run and becomes the client; anything it is not sure
//! of it executes as it is.

use crate::error::Failure;
use crate::identity;
use crate::paths::{self, Installation};
use crate::signals;
use mpicc_proxy_abi as abi;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The name of a driver that this process was called by, if it was.
pub fn as_driver(argv0: &OsStr) -> bool {
    abi::driver::recognise(abi::driver::base_name(argv0.as_bytes())).is_some()
}

/// Was this process called by the name of the compiler cache? Builds have a setting for that (Spack's `config:ccache`,
/// CMAKE_C_COMPILER_LAUNCHER=ccache), and call it with the compiler behind it.
pub fn as_ccache(argv0: &OsStr) -> bool {
    abi::driver::base_name(argv0.as_bytes()) == b"ccache"
}

/// As [`exec`], for what stands behind the name of a compiler cache. What is not a compile but asked of the cache (its size,
/// its statistics) gets the sentence that says who is there: nothing of it concerns one that keeps nothing.
///
/// # Errors
/// Always, when it returns at all and was not asked for something about itself.
pub fn exec_as_ccache(arguments: &[OsString]) -> Result<String, Failure> {
    let sentence = concat!(
        "this ccache is mpicc-proxy ",
        env!("CARGO_PKG_VERSION"),
        ": `ccache gcc ...` compiles on a rank, and nothing is cached"
    );
    match arguments.first() {
        Some(first) if !first.as_bytes().starts_with(b"-") => Err(exec(arguments)),
        Some(_) => Ok(format!("{sentence}\n")),
        None => Err(Failure::new(crate::error::exit::USAGE, sentence)),
    }
}

/// Becomes the client for `argv`, or the command itself. Returns only when neither can be executed.
pub fn exec(argv: &[OsString]) -> Failure {
    let Some((argv0, arguments)) = argv.split_first() else {
        return Failure::new(crate::error::exit::USAGE, "there is no command to execute");
    };
    // Called by its own name with a path (a symbolic link in a build's compiler setting): the path leads back here.
    let mut found = find(argv0);
    if found.is_err() && argv0.as_bytes().contains(&b'/') {
        found = find(OsStr::from_bytes(abi::driver::base_name(argv0.as_bytes()))).or(found);
    }
    let path = match found {
        Ok(path) => path,
        Err(why) => return Failure::command(argv0, why),
    };
    // A driver looks for its parts from the place that argv[0] leads to. Where that is this program, it must not.
    let leads_here =
        paths::find_command(argv0, env::var_os("PATH").as_deref(), |_| true).is_ok_and(|first| first != path);
    let called = if leads_here { path.as_os_str() } else { argv0 };
    if let Some((client, driver)) = client_for(argv0, &path) {
        let mut command = Command::new(client);
        command.arg0(called).args(arguments).env(OsStr::from_bytes(abi::env::DRIVER), driver);
        // Only a missing or broken client comes back from this; then the driver runs itself.
        let _ = signals::exec(&mut command);
    }
    let error = signals::exec(Command::new(&path).arg0(called).args(arguments));
    Failure::execution(argv0, &error)
}

/// Finds a command as execvp(3) would, but passes over this program in any disguise.
fn find(name: &OsStr) -> Result<PathBuf, paths::NotFound> {
    let own = identity::of("/proc/self/exe");
    let is_other = |path: &Path| {
        let same = own.as_ref().is_ok_and(|own| identity::is(path, *own));
        // Another copy of this program would find this one in turn, for ever.
        let copy = fs::canonicalize(path).is_ok_and(|p| p.file_name().is_some_and(|name| name == "mpicc-proxy"));
        !same && !copy
    };
    paths::find_command(name, env::var_os("PATH").as_deref(), is_other)
}

/// The client and the absolute path of the driver, when `path` is a compiler driver that may be intercepted.
fn client_for(argv0: &OsStr, path: &Path) -> Option<(PathBuf, PathBuf)> {
    if env::var_os(OsStr::from_bytes(abi::env::SWITCH)).is_some_and(|value| abi::env::is_off(value.as_bytes())) {
        return None;
    }
    if !as_driver(argv0) {
        return None;
    }
    // A script (Spack's wrapper) edits the command line and a compiler cache (ccache under the name gcc) has its own
    // idea of what to run: both must see the command first.
    let target = fs::canonicalize(path).ok()?;
    if !as_driver(target.as_os_str()) || !is_elf(&target) {
        return None;
    }
    let client = Installation::of_this_program().ok()?.client().ok()?;
    // Symbolic links stay: a driver finds its parts and its defaults by the name it is called by.
    Some((client, std::path::absolute(path).ok()?))
}

fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"\x7fELF"
}
