//! Programs of the system that start no compiler. They go without the library, whose loading is most of what we cost a
//! script: of the programs that curl's configure starts more than half are these.
//!
//! Only where the system has them: a file of such a name elsewhere may be somebody's wrapper of anything.

use mpicc_proxy_abi::driver::base_name;

/// Is the program at this path one of them?
pub fn is_leaf(path: &[u8]) -> bool {
    let name = base_name(path);
    matches!(path.strip_suffix(name), Some(b"/usr/bin/" | b"/bin/")) && is_name(name)
}

/// GNU sed's `e` and sort's `--compress-program` start what they are told; nobody tells them to compile.
fn is_name(name: &[u8]) -> bool {
    matches!(
        name,
        b"as"
            | b"basename"
            | b"cat"
            | b"chmod"
            | b"cmp"
            | b"comm"
            | b"cp"
            | b"cut"
            | b"date"
            | b"diff"
            | b"dirname"
            | b"echo"
            | b"expr"
            | b"false"
            | b"grep"
            | b"head"
            | b"hostname"
            | b"id"
            | b"ln"
            | b"ls"
            | b"mkdir"
            | b"mktemp"
            | b"mv"
            | b"printf"
            | b"pwd"
            | b"readlink"
            | b"realpath"
            | b"rm"
            | b"rmdir"
            | b"sed"
            | b"sleep"
            | b"sort"
            | b"stat"
            | b"tail"
            | b"tee"
            | b"test"
            | b"touch"
            | b"tr"
            | b"true"
            | b"uname"
            | b"uniq"
            | b"wc"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_are_the_systems_own() {
        for path in ["/bin/sed", "/usr/bin/mkdir", "/usr/bin/as"] {
            assert!(is_leaf(path.as_bytes()), "{path}");
        }
        for path in
            ["sed", "./sed", "/usr/local/bin/sed", "/opt/bin/cat", "/usr/bin/env", "/bin/sh", "/usr/bin/x/sed", ""]
        {
            assert!(!is_leaf(path.as_bytes()), "{path}");
        }
    }
}
