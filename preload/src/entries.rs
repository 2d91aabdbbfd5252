//! `LD_PRELOAD` as a list: pure functions on its value. Foreign entries keep their order and their spelling; the dynamic
//! linker separates them by spaces or colons.

use crate::fixed::Fixed;
use mpicc_proxy_abi::driver::base_name;

/// How a value mentions a library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mention {
    /// With this very path.
    Exact,
    /// By a path with the same file name: a relative one, or one from before a move.
    Respelt,
    No,
}

fn is_separator(byte: &u8) -> bool {
    matches!(byte, b' ' | b':')
}

fn is_respelt(entry: &[u8], library: &[u8]) -> bool {
    base_name(entry) == base_name(library)
}

/// Does `value` mention `library`?
pub fn mention(value: &[u8], library: &[u8]) -> Mention {
    if value == library {
        return Mention::Exact;
    }
    let mut answer = Mention::No;
    for entry in value.split(is_separator) {
        if entry == library {
            return Mention::Exact;
        }
        if is_respelt(entry, library) {
            answer = Mention::Respelt;
        }
    }
    answer
}

/// Is there an entry whose file name passes `test`?
pub fn any(value: &[u8], test: &impl Fn(&[u8]) -> bool) -> bool {
    value.split(is_separator).any(|entry| test(base_name(entry)))
}

/// Appends to `out` the value with `library` in it once: in place of the first entry with its file name, else at the end.
/// `None`: no room.
pub fn with<const N: usize>(value: &[u8], library: &[u8], out: &mut Fixed<N>) -> Option<()> {
    let mut there = false;
    let mut start = out.bytes().len();
    for (separator, entry) in entries(value) {
        let ours = is_respelt(entry, library);
        if ours && there {
            continue;
        }
        there |= ours;
        add(separator, if ours { library } else { entry }, &mut start, out)?;
    }
    if !there {
        add(b":", library, &mut start, out)?;
    }
    Some(())
}

/// Appends to `out` the value without any entry for `library`. `None`: no room.
pub fn without<const N: usize>(value: &[u8], library: &[u8], out: &mut Fixed<N>) -> Option<()> {
    let mut start = out.bytes().len();
    for (separator, entry) in entries(value) {
        if !is_respelt(entry, library) {
            add(separator, entry, &mut start, out)?;
        }
    }
    Some(())
}

/// Appends an entry, with a separator unless it is the first one behind `start`.
fn add<const N: usize>(separator: &[u8], entry: &[u8], start: &mut usize, out: &mut Fixed<N>) -> Option<()> {
    if out.bytes().len() > *start {
        out.push(separator)?;
    }
    out.push(entry)
}

/// The entries that are not empty, each with the separator in front of it.
fn entries(value: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut at = 0;
    core::iter::from_fn(move || {
        while at < value.len() {
            let rest = &value[at..];
            let len = rest.iter().position(is_separator).unwrap_or(rest.len());
            let separator = if at == 0 { b":".as_slice() } else { &value[at - 1..at] };
            at += len + 1;
            if len > 0 {
                return Some((separator, &rest[..len]));
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: &[u8] = b"/opt/lib/libmpicc-proxy.so";

    fn inserted(value: &str) -> String {
        let mut out = Fixed::<256>::new();
        out.push(b"LD_PRELOAD=").unwrap();
        with(value.as_bytes(), US, &mut out).unwrap();
        String::from_utf8(out.bytes()[11..].to_vec()).unwrap()
    }

    fn removed(value: &str) -> String {
        let mut out = Fixed::<256>::new();
        without(value.as_bytes(), US, &mut out).unwrap();
        String::from_utf8(out.bytes().to_vec()).unwrap()
    }

    #[test]
    fn mentions() {
        assert_eq!(mention(US, US), Mention::Exact);
        assert_eq!(mention(b"a.so /opt/lib/libmpicc-proxy.so:b.so", US), Mention::Exact);
        assert_eq!(mention(b"./libmpicc-proxy.so", US), Mention::Respelt);
        assert_eq!(mention(b"./libmpicc-proxy.so:/opt/lib/libmpicc-proxy.so", US), Mention::Exact);
        assert_eq!(mention(b"", US), Mention::No);
        assert_eq!(mention(b"a.so:/opt/lib/libmpicc-proxy.so.1", US), Mention::No);
    }

    #[test]
    fn foreign_entries_stay_in_order() {
        assert_eq!(inserted(""), "/opt/lib/libmpicc-proxy.so");
        assert_eq!(inserted("a.so b.so"), "a.so b.so:/opt/lib/libmpicc-proxy.so");
        assert_eq!(inserted("a.so:./libmpicc-proxy.so b.so"), "a.so:/opt/lib/libmpicc-proxy.so b.so");
        assert_eq!(inserted("libmpicc-proxy.so:x/libmpicc-proxy.so"), "/opt/lib/libmpicc-proxy.so");
        assert_eq!(inserted("a.so:"), "a.so:/opt/lib/libmpicc-proxy.so");
    }

    #[test]
    fn taken_out() {
        assert_eq!(removed("/opt/lib/libmpicc-proxy.so"), "");
        assert_eq!(removed("a.so /opt/lib/libmpicc-proxy.so b.so"), "a.so b.so");
        assert_eq!(removed("/opt/lib/libmpicc-proxy.so:a.so"), "a.so");
        assert_eq!(removed("./libmpicc-proxy.so:a.so"), "a.so");
        assert_eq!(removed("a.so"), "a.so");
    }

    #[test]
    fn no_room_is_an_answer() {
        assert_eq!(with(b"a.so", US, &mut Fixed::<16>::new()), None);
        assert_eq!(without(b"a-rather-long-name.so", US, &mut Fixed::<16>::new()), None);
    }
}
