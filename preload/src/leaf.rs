//! Programs of the system that start no compiler, and shells that start nothing but these. They go without the library,
//! whose loading is most of what we cost a script: of the programs that curl's configure starts nine in ten are these.
//!
//! Only where the system has them: a file of such a name elsewhere may be somebody's wrapper of anything.

use crate::fixed::strings;
use crate::table::Strings;
use mpicc_proxy_abi::driver::base_name;

/// Is the program at this path one of them?
pub fn is_leaf(path: &[u8]) -> bool {
    systems_own(path).is_some_and(is_name)
}

/// Is it a shell that was told, in this environment, to start nothing but leaves: a recipe such as
/// `/usr/bin/mkdir -p .deps`?
///
/// # Safety
/// `argv` and `envp` are null or NULL-terminated arrays of C strings.
pub unsafe fn starts_leaves(path: &[u8], argv: Strings, envp: Strings) -> bool {
    let Some(shell) = systems_own(path).filter(|name| matches!(*name, b"sh" | b"bash" | b"dash")) else { return false };
    // SAFETY: promised by the caller, here and below.
    let mut arguments = unsafe { strings(argv) };
    let mut next = || arguments.next();
    let (called, option, command, more) = (next(), next(), next(), next());
    // Which files it reads first goes by what it is called; with a dash in front, it is a login shell.
    called.is_some_and(|called| base_name(called) == shell)
        && matches!(option, Some(b"-c" | b"-ec"))
        && more.is_none()
        && command.is_some_and(is_of_leaves)
        // SAFETY: as above.
        && !unsafe { strings(envp) }.any(|variable| has_say(variable, shell))
        // bash that no shell has started may be one that sshd has, which reads ~/.bashrc.
        // SAFETY: as above.
        && (shell != b"bash" || unsafe { strings(envp) }.any(is_below_a_shell))
}

/// The name of a program that the system has.
fn systems_own(path: &[u8]) -> Option<&[u8]> {
    let name = base_name(path);
    matches!(path.strip_suffix(name), Some(b"/usr/bin/" | b"/bin/")).then_some(name)
}

/// Does whatever a shell could run in this text begin with a leaf or a builtin? What may hold a command in the middle of
/// words (bash's subscripts may, of variables in `test -v` and `{x}>`) is refused; each byte that may end one is taken for
/// its end, also where it is quoted.
fn is_of_leaves(command: &[u8]) -> bool {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let is_end = |byte: &u8| matches!(byte, b';' | b'&' | b'|' | b'\n');
    !command.iter().any(|byte| matches!(byte, b'$' | b'`' | b'(' | b')' | b'[' | b'{'))
        && command.split(is_end).all(|part| {
            let first = part.split(is_blank).find(|word| !word.is_empty());
            first.is_none_or(|word| is_builtin(word) || is_leaf(word))
        })
}

fn is_builtin(word: &[u8]) -> bool {
    matches!(word, b":" | b"cd" | b"echo" | b"exit" | b"test" | b"true")
}

/// May the variable change what the shell runs: a file that bash reads first, options that make it evaluate more, or a
/// function in place of a builtin?
fn has_say(variable: &[u8], shell: &[u8]) -> bool {
    let function =
        variable.strip_prefix(b"BASH_FUNC_").and_then(|rest| rest.split(|byte| matches!(byte, b'%' | b'(')).next());
    variable.starts_with(b"SHELLOPTS=")
        || shell == b"bash" && variable.starts_with(b"BASH_ENV=")
        || function.is_some_and(is_builtin)
}

fn is_below_a_shell(variable: &[u8]) -> bool {
    variable.strip_prefix(b"SHLVL=").is_some_and(|level| matches!(level.first(), Some(b'1'..=b'9')))
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
    use std::ffi::CString;

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

    fn starts_only_leaves(words: &[&str], variables: &[&str]) -> bool {
        leaves_at(words[0], words, variables)
    }

    fn leaves_at(path: &str, words: &[&str], variables: &[&str]) -> bool {
        let owned = |texts: &[&str]| texts.iter().map(|text| CString::new(*text).unwrap()).collect::<Vec<_>>();
        let pointers = |texts: &[CString]| {
            let mut pointers: Vec<_> = texts.iter().map(|text| text.as_ptr()).collect();
            pointers.push(core::ptr::null());
            pointers
        };
        let (argv, envp) = (owned(words), owned(variables));
        let (argv, envp) = (pointers(&argv), pointers(&envp));
        // SAFETY: NULL-terminated arrays of C strings.
        unsafe { starts_leaves(path.as_bytes(), argv.as_ptr(), envp.as_ptr()) }
    }

    #[test]
    fn recipes_that_start_only_leaves() {
        for command in [
            "/usr/bin/mkdir -p .deps",
            "echo '# dummy' >.deps/a.Po",
            "test -d x || /bin/mkdir x",
            "cd sub && test -f a && /usr/bin/rm -f a; true",
            "",
            "\techo a; ",
        ] {
            assert!(starts_only_leaves(&["/bin/sh", "-c", command], &["PATH=/bin"]), "{command}");
        }
        for command in [
            "gcc -c a.c",
            "/usr/bin/mkdir x; gcc -c a.c",
            "echo a\ngcc -c a.c",
            "echo $(gcc -c a.c)",
            "echo `gcc -c a.c`",
            "echo a & gcc -c a.c",
            "echo() gcc -c a.c",
            "$CC -c a.c",
            "cat <(gcc -c a.c)",
            ">a gcc -c a.c",
            "A=b gcc -c a.c",
            "! gcc -c a.c",
            "{ gcc -c a.c; }",
            "if true; then gcc -c a.c; fi",
            "trap 'gcc -c a.c' EXIT",
            "echo\\\ngcc",
            "mkdir x",
            "eval gcc",
            "\"/usr/bin/mkdir\" x",
            "test -v 'a[b]'",
            "echo {a}>b",
        ] {
            assert!(!starts_only_leaves(&["/bin/sh", "-c", command], &[]), "{command}");
        }
    }

    #[test]
    fn how_a_shell_is_started() {
        let (below, module) = ("SHLVL=2", "BASH_FUNC_module%%=() { eval x; }");
        for (words, variables) in [
            (&["/usr/bin/bash", "-ec", "echo"], &[below, module][..]),
            (&["/bin/dash", "-c", "echo"], &[]),
            (&["/bin/sh", "-c", "echo"], &["BASH_ENV=/opt/lmod/init/bash"]),
        ] {
            assert!(starts_only_leaves(words, variables), "{words:?} {variables:?}");
        }
        for words in [
            &["/bin/sh"][..],
            &["/bin/sh", "-c"],
            &["/bin/sh", "-ic", "echo"],
            &["/bin/sh", "echo", "-c"],
            &["/bin/sh", "-c", "echo", "x"],
            &["/opt/sh", "-c", "echo"],
            &["/bin/zsh", "-c", "echo"],
        ] {
            assert!(!starts_only_leaves(words, &[below]), "{words:?}");
        }
        for (path, called, variables) in [
            ("/bin/bash", "bash", &[][..]),
            ("/bin/bash", "bash", &["SHLVL=0"]),
            ("/bin/bash", "bash", &[below, "BASH_ENV=/opt/lmod/init/bash"]),
            ("/bin/bash", "bash", &[below, "SHELLOPTS=xtrace"]),
            ("/bin/bash", "-bash", &[below]),
            ("/bin/sh", "bash", &[below]),
            ("/bin/sh", "sh", &["BASH_FUNC_echo%%=() { gcc -c a.c; }"]),
            ("/bin/sh", "sh", &["BASH_FUNC_echo()=() { gcc -c a.c; }"]),
        ] {
            assert!(!leaves_at(path, &[called, "-c", "echo"], variables), "{path} {called} {variables:?}");
        }
    }
}
