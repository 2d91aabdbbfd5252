//! Our entries in an environment: what the build gets, and what the ranks must not get. Decided purely; [`variable`] and
//! [`apply`] touch the real ones.

use mpicc_proxy_abi::{LIBRARY_NAME, driver::base_name, env};
use std::ffi::{CStr, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

/// Separators of entries in `LD_PRELOAD` (ld.so(8)).
fn is_separator(byte: &u8) -> bool {
    matches!(byte, b':' | b' ')
}

fn is_ours(entry: &[u8]) -> bool {
    base_name(entry) == LIBRARY_NAME
}

/// An `LD_PRELOAD` without our library; `None` when nothing is left. Without an entry of ours the bytes are returned
/// as they were.
pub fn preload_without_ours(value: &[u8]) -> Option<Vec<u8>> {
    let entries = || value.split(is_separator).filter(|entry| !entry.is_empty());
    let rest = match entries().any(is_ours) {
        true => entries().filter(|entry| !is_ours(entry)).collect::<Vec<_>>().join(&b':'),
        false => value.to_vec(),
    };
    (!rest.is_empty()).then_some(rest)
}

/// An `LD_PRELOAD` with `library` (an absolute path) behind what others put there.
pub fn preload_with_ours(value: Option<&[u8]>, library: &[u8]) -> Vec<u8> {
    match value.and_then(preload_without_ours) {
        Some(foreign) => [&foreign[..], b":", library].concat(),
        None => library.to_vec(),
    }
}

/// A change to one variable: a new value, or `None` to remove it.
pub type Change = (&'static [u8], Option<Vec<u8>>);

/// What the build's environment differs in from ours, given our `LD_PRELOAD`.
pub fn of_command(preload: Option<&[u8]>, library: &[u8], socket: &[u8]) -> Vec<Change> {
    let mut changes =
        vec![(env::LD_PRELOAD, Some(preload_with_ours(preload, library))), (env::SOCKET, Some(socket.to_vec()))];
    changes.extend(env::INTERNAL.map(|name| (name, None)));
    changes
}

/// What the launcher's environment differs in from ours. `MPICC_PROXY=off` is for a library that is loaded all the
/// same (a session inside a session, a site that preloads it everywhere): it keeps itself alive in children, and this
/// makes it a bystander. Compilers never see it: they get their client's environment.
pub fn of_launcher(preload: Option<&[u8]>) -> Vec<Change> {
    let mut changes = vec![
        (env::LD_PRELOAD, preload.and_then(preload_without_ours)),
        (env::SWITCH, Some(b"off".to_vec())),
        (env::SOCKET, None),
    ];
    changes.extend(env::INTERNAL.map(|name| (name, None)));
    changes
}

/// The environment of this process as execve(2) passed it: in order, with names that occur twice and entries without
/// `=`, all of which programs can see.
pub fn entries() -> Vec<Vec<u8>> {
    unsafe extern "C" {
        static environ: *const *const std::ffi::c_char;
    }
    let mut entries = Vec::new();
    // SAFETY: the C library's variable; nothing in this program changes the environment while it is read.
    let mut next = unsafe { environ };
    // SAFETY: a NULL-terminated array of C strings.
    while !next.is_null() && !unsafe { *next }.is_null() {
        // SAFETY: as above.
        entries.push(unsafe { CStr::from_ptr(*next) }.to_bytes().to_vec());
        // SAFETY: not yet at the NULL.
        next = unsafe { next.add(1) };
    }
    entries
}

/// The [`entries`] as a compiler is to get them. The hook takes our entry out of LD_PRELOAD; who comes by another road
/// (`exec`, a symlink, `explain`) has it still.
pub fn of_compiler() -> Vec<Vec<u8>> {
    let clean = |entry: Vec<u8>| match value_of(&entry, env::LD_PRELOAD) {
        Some(value) => preload_without_ours(value).map(|rest| [env::LD_PRELOAD, b"=", &rest].concat()),
        None => (!env::INTERNAL.iter().any(|name| is_named(&entry, name))).then_some(entry),
    };
    entries().into_iter().filter_map(clean).collect()
}

/// The value, if `entry` is `name=value`.
pub fn value_of<'a>(entry: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    entry.strip_prefix(name)?.strip_prefix(b"=")
}

/// The value of the variable `name`, if it is among `entries`.
pub fn value_among<'a>(entries: &'a [Vec<u8>], name: &[u8]) -> Option<&'a [u8]> {
    entries.iter().find_map(|entry| value_of(entry, name))
}

/// Is `entry` a value of the variable `name`?
pub fn is_named(entry: &[u8], name: &[u8]) -> bool {
    value_of(entry, name).is_some()
}

/// A variable of this process.
pub fn variable(name: &[u8]) -> Option<OsString> {
    std::env::var_os(OsStr::from_bytes(name))
}

/// Makes the changes to the environment that a command will get.
pub fn apply(command: &mut Command, changes: &[Change]) {
    for (name, value) in changes {
        let name = OsStr::from_bytes(name);
        match value {
            Some(value) => command.env(name, OsStr::from_bytes(value)),
            None => command.env_remove(name),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_comes_behind_what_others_preload() {
        let ours = b"/opt/lib/libmpicc-proxy.so";
        let table: [(Option<&[u8]>, &[u8]); 7] = [
            (None, b"/opt/lib/libmpicc-proxy.so"),
            (Some(b""), b"/opt/lib/libmpicc-proxy.so"),
            (Some(b"libfoo.so"), b"libfoo.so:/opt/lib/libmpicc-proxy.so"),
            (Some(b"liba.so  libb.so"), b"liba.so  libb.so:/opt/lib/libmpicc-proxy.so"),
            (Some(b"/old/libmpicc-proxy.so"), b"/opt/lib/libmpicc-proxy.so"),
            (Some(b"liba.so:/old/libmpicc-proxy.so libb.so"), b"liba.so:libb.so:/opt/lib/libmpicc-proxy.so"),
            (Some(b"\xff.so"), b"\xff.so:/opt/lib/libmpicc-proxy.so"),
        ];
        for (before, expected) in table {
            assert_eq!(preload_with_ours(before, ours), expected, "{before:?}");
        }
    }

    #[test]
    fn the_launcher_gets_none_of_ours() {
        let of = |preload| of_launcher(preload).into_iter().find(|(name, _)| *name == env::LD_PRELOAD).unwrap().1;
        assert_eq!(of(None), None);
        assert_eq!(of(Some(b"/opt/libmpicc-proxy.so")), None);
        assert_eq!(of(Some(b"liba.so:/opt/libmpicc-proxy.so")), Some(b"liba.so".to_vec()));
        assert_eq!(of(Some(b"liba.so:libb.so")), Some(b"liba.so:libb.so".to_vec()));
    }
}
