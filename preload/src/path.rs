//! Pure path arithmetic in fixed buffers: from a path as a program wrote it to a key of the table. Knows no file system.

use crate::target::PathText;

/// A key, and whether the path ended in a slash or a dot (it must then be a directory, and a final link is followed).
pub struct Key {
    pub path: PathText,
    pub directory: bool,
}

impl Key {
    pub fn bytes(&self) -> &[u8] {
        self.path.bytes()
    }
}

/// Joins `path` with `cwd` and collapses `//` and `/./`; `..` stays, because only the head knows what lies behind a
/// symbolic link. `None`: empty, or too long.
pub fn absolute(cwd: &[u8], path: &[u8]) -> Option<Key> {
    let first = path.first()?;
    let mut out = PathText::new();
    if *first != b'/' {
        append(&mut out, cwd)?;
    }
    append(&mut out, path)?;
    if out.bytes().is_empty() {
        out.push(b"/")?;
    }
    Some(Key { path: out, directory: path == b"." || path.ends_with(b"/") || path.ends_with(b"/.") })
}

/// Appends the components of `path`, each with a slash before it.
fn append(out: &mut PathText, path: &[u8]) -> Option<()> {
    path.split(|b| *b == b'/').filter(|component| !component.is_empty() && *component != b".").try_for_each(
        |component| {
            out.push(b"/")?;
            out.push(component)
        },
    )
}

/// The folder a key lies in.
pub fn parent(key: &[u8]) -> &[u8] {
    match key.iter().rposition(|b| *b == b'/') {
        Some(0) | None => b"/",
        Some(slash) => &key[..slash],
    }
}

/// The last component of a key.
pub fn file_name(key: &[u8]) -> &[u8] {
    mpicc_proxy_abi::driver::base_name(key)
}

/// Does `key` lie in `folder` (or is it)?
pub fn is_below(key: &[u8], folder: &[u8]) -> bool {
    match key.strip_prefix(folder) {
        Some(rest) => rest.is_empty() || rest[0] == b'/',
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mpicc_proxy_abi::PATH_BYTES_MAX;

    #[track_caller]
    fn check(path: &str, expected: &str, directory: bool) {
        let key = absolute(b"/home/u", path.as_bytes()).unwrap();
        assert_eq!((str::from_utf8(key.bytes()).unwrap(), key.directory), (expected, directory), "{path}");
    }

    #[test]
    fn keys() {
        check("/", "/", true);
        check(".", "/home/u", true);
        check("a.c", "/home/u/a.c", false);
        check("./x//y/./z", "/home/u/x/y/z", false);
        check("../up", "/home/u/../up", false);
        check("/usr/bin/../lib/", "/usr/bin/../lib", true);
        check("//usr///include", "/usr/include", false);
        check("d/.", "/home/u/d", true);
        assert!(absolute(b"/", b"").is_none());
        assert!(absolute(b"/", &[b'a'; PATH_BYTES_MAX + 1]).is_none());
        assert_eq!(absolute(b"/", &[b'a'; PATH_BYTES_MAX - 1]).unwrap().bytes().len(), PATH_BYTES_MAX);
    }

    #[test]
    fn parts() {
        assert_eq!(parent(b"/a/b"), b"/a");
        assert_eq!(parent(b"/a"), b"/");
        assert_eq!(file_name(b"/a/b"), b"b");
        assert!(is_below(b"/dev/null", b"/dev") && is_below(b"/dev", b"/dev") && !is_below(b"/devel", b"/dev"));
    }
}
