//! Where the dispatcher's socket is when [`crate::env::SOCKET`] does not say: one rule for the library, the client and
//! the command.

/// Room for a path in `sockaddr_un`, its NUL included.
pub const SOCKET_PATH_BYTES_MAX: usize = 108;

/// Behind the socket's path: the name of a file that says that the dispatcher does not answer.
pub const SILENCE_SUFFIX: &[u8] = b".silent";

/// `<runtime folder>/mpicc-proxy/socket` when there is an absolute `XDG_RUNTIME_DIR`, else
/// `/tmp/mpicc-proxy-<uid>/socket`. NUL-terminated in `out`; the answer is the length without the NUL. `None`: a socket
/// with such a long name cannot exist.
pub fn default_path(runtime_dir: Option<&[u8]>, uid: u32, out: &mut [u8; SOCKET_PATH_BYTES_MAX]) -> Option<usize> {
    let mut digits = [0u8; 10];
    match runtime_dir {
        Some(dir) if dir.starts_with(b"/") => join(&[dir, b"/mpicc-proxy/socket"], out),
        _ => join(&[b"/tmp/mpicc-proxy-", decimal(uid, &mut digits), b"/socket"], out),
    }
}

/// Name of the variable that the rule looks at.
pub const RUNTIME_DIR: &[u8] = b"XDG_RUNTIME_DIR";

fn join(parts: &[&[u8]], out: &mut [u8; SOCKET_PATH_BYTES_MAX]) -> Option<usize> {
    let mut len = 0;
    for part in parts {
        out.get_mut(len..len + part.len())?.copy_from_slice(part);
        len += part.len();
    }
    *out.get_mut(len)? = 0;
    Some(len)
}

/// A number's digits; the library has no `core::fmt`, which would cost every process relocations.
pub fn decimal(mut number: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut start = digits.len();
    for (index, digit) in digits.iter_mut().enumerate().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
        start = index;
        if number == 0 {
            break;
        }
    }
    digits.get(start..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    fn path(runtime_dir: Option<&[u8]>, uid: u32) -> Option<std::vec::Vec<u8>> {
        let mut out = [1; SOCKET_PATH_BYTES_MAX];
        let len = default_path(runtime_dir, uid, &mut out)?;
        assert_eq!(out[len], 0);
        Some(out[..len].to_vec())
    }

    #[test]
    fn the_rule() {
        assert_eq!(path(Some(b"/run/user/7"), 7).unwrap(), b"/run/user/7/mpicc-proxy/socket");
        assert_eq!(path(None, 0).unwrap(), b"/tmp/mpicc-proxy-0/socket");
        assert_eq!(path(Some(b""), 1000).unwrap(), b"/tmp/mpicc-proxy-1000/socket");
        assert_eq!(path(Some(b"relative"), u32::MAX).unwrap(), b"/tmp/mpicc-proxy-4294967295/socket");
        assert_eq!(path(Some(&[b'/'; 100]), 1), None);
    }
}
