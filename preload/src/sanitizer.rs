//! Programs that want a sanitizer's runtime to be their first library. AddressSanitizer's refuses to start behind another
//! one ("ASan runtime does not come first in initial library list"), and all of them mean to stand in front of every
//! other library that has functions of libc. So a program that has such a runtime runs without us, and what it starts too,
//! which is only slower: compiles below it run locally.
//!
//! Who has one: a program that names it as a library of its own (`DT_NEEDED`; gcc's default, clang's `-shared-libasan`), a
//! script that such a program interprets, and everything when somebody put the runtime into `LD_PRELOAD`, in whatever
//! place. A runtime that is linked statically (clang's default), LeakSanitizer's and UBSan's work behind us and need
//! nothing.
//!
//! Out of reach, because no hook of ours sees the start or knows the file: the user's own shell with `LD_PRELOAD` exported,
//! a static parent or one that makes the system call itself, `/lib64/ld-linux-x86-64.so.2 ./program`, a program that
//! cannot be read, a relative path together with `posix_spawn_file_actions_addchdir_np`, a symlink from a system folder to
//! such a program, and all starts with `MPICC_PROXY=off`, which leaves every call as it is.

/// Does this file name, as in `DT_NEEDED` or behind the last `/` of an entry in `LD_PRELOAD`, belong to such a runtime?
pub fn is_runtime(name: &[u8]) -> bool {
    let Some(name) = name.strip_prefix(b"lib") else { return false };
    // clang's names go on with a variant or the machine: `libclang_rt.hwasan_aliases-x86_64.so`.
    let (name, end) = match name.strip_prefix(b"clang_rt.") {
        Some(name) => (name, b"".as_slice()),
        None => (name, b".so".as_slice()),
    };
    let is = |kind: &[u8]| name.strip_prefix(kind).is_some_and(|rest| rest.starts_with(end));
    // No array: a table of addresses would be relocated in every process of the build.
    is(b"asan") || is(b"tsan") || is(b"hwasan")
}

/// Is this the absolute path of a program of the system? Those have no such runtime, and are most of what a build starts:
/// no need to look. `/usr/local` and `/usr/src` are not the system's.
pub fn is_system(path: &[u8]) -> bool {
    let below = path.strip_prefix(b"/usr").unwrap_or(path);
    let is_there = below.starts_with(b"/bin/")
        || below.starts_with(b"/lib/")
        || below.starts_with(b"/sbin/")
        || below.starts_with(b"/lib64/")
        || below.starts_with(b"/libexec/");
    is_there && !path.windows(4).any(|four| four == b"/../")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes() {
        for name in [
            "libasan.so",
            "libasan.so.8",
            "libtsan.so.2",
            "libhwasan.so.0",
            "libclang_rt.asan-x86_64.so",
            "libclang_rt.asan.so",
            "libclang_rt.tsan-aarch64.so",
            "libclang_rt.hwasan_aliases-x86_64.so",
        ] {
            assert!(is_runtime(name.as_bytes()), "{name}");
        }
        for name in [
            "",
            "lib",
            "libc.so.6",
            "liblsan.so.0",
            "libubsan.so.1",
            "libasan-tools.so",
            "asan.so",
            "libclang_rt.ubsan.so",
        ] {
            assert!(!is_runtime(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn folders_of_the_system() {
        for path in ["/usr/bin/make", "/bin/sh", "/usr/lib/gcc/x86_64-linux-gnu/12/cc1", "/usr/libexec/x", "/lib64/x"] {
            assert!(is_system(path.as_bytes()), "{path}");
        }
        for path in
            ["", "a.out", "./a.out", "/usr/local/bin/x", "/usr/src/x", "/usr", "/bin/../home/x", "/usrbin/x", "bin/x"]
        {
            assert!(!is_system(path.as_bytes()), "{path}");
        }
    }
}
