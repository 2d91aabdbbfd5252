//! Pure path arithmetic in fixed buffers: from a path as a program wrote it to a key of the table. Knows no file system.

use mpicc_proxy_abi::PATH_BYTES_MAX;

/// A path in a buffer of its own, NUL-terminated, so that it serves as key and as C string.
pub struct PathBuf {
    bytes: [u8; PATH_BYTES_MAX + 1],
    len: usize,
}

impl PathBuf {
    pub const fn new() -> PathBuf {
        PathBuf { bytes: [0; PATH_BYTES_MAX + 1], len: 0 }
    }

    /// The path without its NUL.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub fn as_ptr(&self) -> *const core::ffi::c_char {
        self.bytes.as_ptr().cast()
    }

    /// Appends; `false` (and nothing appended) when there is no room.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        let end = self.len + bytes.len();
        if end > PATH_BYTES_MAX {
            return false;
        }
        self.bytes[self.len..end].copy_from_slice(bytes);
        self.len = end;
        self.bytes[end] = 0;
        true
    }

    /// Appends a number in decimal.
    pub fn push_number(&mut self, number: u32) -> bool {
        let mut digits = [0u8; 10];
        let mut at = digits.len();
        let mut rest = number;
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break self.push(&digits[at..]);
            }
        }
    }

    /// Appends a digest in lower-case hexadecimal.
    pub fn push_hex(&mut self, digest: &[u8]) -> bool {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        digest.iter().all(|byte| self.push(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]))
    }
}

/// A key, and whether the path ended in a slash (it must then be a directory, and a final link is followed).
pub struct Key {
    pub path: PathBuf,
    pub directory: bool,
}

impl Key {
    pub fn bytes(&self) -> &[u8] {
        self.path.as_bytes()
    }
}

/// Joins `path` with `cwd` and collapses `//` and `/./`; `..` stays, because only the head knows what lies behind a
/// symbolic link. `None`: empty, or too long.
pub fn absolute(cwd: &[u8], path: &[u8]) -> Option<Key> {
    if path.is_empty() {
        return None;
    }
    let mut out = PathBuf::new();
    if path[0] != b'/' && !append(&mut out, cwd) {
        return None;
    }
    if !append(&mut out, path) {
        return None;
    }
    let directory = path.ends_with(b"/") || path.ends_with(b"/.");
    if out.len == 0 && !out.push(b"/") {
        return None;
    }
    Some(Key { path: out, directory })
}

/// Appends the components of `path`, each with a slash before it.
fn append(out: &mut PathBuf, path: &[u8]) -> bool {
    path.split(|b| *b == b'/')
        .filter(|component| !component.is_empty() && *component != b".")
        .all(|component| out.push(b"/") && out.push(component))
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

    #[track_caller]
    fn check(path: &str, expected: &str, directory: bool) {
        let key = absolute(b"/home/u", path.as_bytes()).unwrap();
        assert_eq!((str::from_utf8(key.bytes()).unwrap(), key.directory), (expected, directory), "{path}");
    }

    #[test]
    fn keys() {
        check("/", "/", true);
        check(".", "/home/u", false);
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

    #[test]
    fn numbers_and_digests() {
        let mut path = PathBuf::new();
        assert!(
            path.push(b"/w") && path.push_number(0) && path.push_number(4_294_967_295) && path.push_hex(&[0xa0, 0x0f])
        );
        assert_eq!(path.as_bytes(), b"/w04294967295a00f");
    }
}
