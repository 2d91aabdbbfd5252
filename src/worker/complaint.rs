//! A failure that may be this host's fault, and not the source's: a compiler that was killed for want of memory, or ran
//! into a limit that the head does not have. It shows in what the compiler says; such a compile is repeated on the head,
//! whose word counts. To doubt too much costs a second compile, and only of what fails.

/// What compilers, the assembler and libc say when the host is to blame, or may be. A locale in which they would say it
/// otherwise keeps compiles on the head.
const OF_THE_HOST: &[&str] = &[
    "signal terminated program",
    "internal compiler error",
    "PLEASE submit a bug report",
    "due to signal",
    "out of memory",
    "memory exhausted",
    "bad_alloc",
    "Cannot allocate memory",
    "Resource temporarily unavailable",
    "Too many open files",
    "Input/output error",
    "Stale file handle",
    "Text file busy",
    "Exec format error",
];

/// What of a failed compile's messages puts the blame on this host.
pub fn of_the_host(printed: [&[u8]; 2]) -> Option<String> {
    complaint(OF_THE_HOST, printed)
}

/// The first of `complaints` that occurs in what was printed.
pub fn complaint(complaints: &[&str], printed: [&[u8]; 2]) -> Option<String> {
    let occurs =
        |words: &&&str| printed.iter().any(|text| text.windows(words.len()).any(|part| part == words.as_bytes()));
    complaints.iter().find(occurs).map(|words| format!("the compiler says: {words}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_to_blame() {
        let table: [(&str, bool); 6] = [
            ("gcc: fatal error: Killed signal terminated program cc1\ncompilation terminated.\n", true),
            ("gcc: internal compiler error: Segmentation fault signal terminated program cc1\n", true),
            ("cc1: out of memory allocating 65536 bytes after a total of 7438336 bytes\n", true),
            ("virtual memory exhausted: Cannot allocate memory\n", true),
            ("clang: error: clang frontend command failed due to signal (use -v to see invocation)\n", true),
            ("x.c:1:10: fatal error: y.h: No such file or directory\n", false),
        ];
        for (text, blames_host) in table {
            assert_eq!(of_the_host([text.as_bytes(), b""]).is_some(), blames_host, "{text}");
            assert_eq!(of_the_host([b"", text.as_bytes()]).is_some(), blames_host, "{text}");
        }
    }
}
