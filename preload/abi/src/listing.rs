//! The content of a directory: its names as readdir(3) shows them on the head, in that order, `.` and `..` included. One
//! record a name, laid out as `struct dirent64`, so that the library can hand out pointers into it:
//!
//! ```text
//! u64 inode | i64 offset of the next record | u16 record bytes | u8 type | name | NUL | padding to 8
//! ```

/// Where the length of a record lies.
pub const LENGTH_AT: usize = 16;
/// Where the type (`DT_*`) lies.
pub const KIND_AT: usize = 18;
/// Where the name begins.
pub const NAME_AT: usize = 19;
/// Longest record: a name of 255 bytes.
pub const RECORD_BYTES_MAX: usize = 280;

/// Bytes of the record of a name.
pub const fn record_bytes(name: &[u8]) -> usize {
    (NAME_AT + name.len() + 1).next_multiple_of(8)
}

/// Writes a record at the start of `out`, whose end has the offset `next`. `None`: no room, or no name of a file.
pub fn write(out: &mut [u8], inode: u64, kind: u8, name: &[u8], next: usize) -> Option<()> {
    let bytes = record_bytes(name);
    if bytes > RECORD_BYTES_MAX {
        return None;
    }
    let record = out.get_mut(..bytes)?;
    record.fill(0);
    record[..8].copy_from_slice(&inode.to_ne_bytes());
    record[8..LENGTH_AT].copy_from_slice(&(next as u64).to_ne_bytes());
    record[LENGTH_AT..KIND_AT].copy_from_slice(&(bytes as u16).to_ne_bytes());
    record[KIND_AT] = kind;
    record[NAME_AT..NAME_AT + name.len()].copy_from_slice(name);
    Some(())
}

/// One name of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name<'a> {
    pub inode: u64,
    pub kind: u8,
    pub name: &'a [u8],
}

/// The names in a listing; ends at the first record that does not fit.
pub fn names(listing: &[u8]) -> impl Iterator<Item = Name<'_>> {
    let mut rest = listing;
    core::iter::from_fn(move || {
        let length = u16::from_ne_bytes([*rest.get(LENGTH_AT)?, *rest.get(LENGTH_AT + 1)?]);
        let (record, after) = rest.split_at_checked(usize::from(length))?;
        let name = record.get(NAME_AT..)?.split(|b| *b == 0).next()?;
        let inode = u64::from_ne_bytes(*record.first_chunk::<8>()?);
        rest = after;
        Some(Name { inode, kind: *record.get(KIND_AT)?, name })
    })
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::{vec, vec::Vec};

    #[test]
    fn what_is_written_is_read() {
        let mut listing = Vec::new();
        for (inode, kind, name) in [(1, 4, &b"."[..]), (2, 8, b"a name of some length"), (3, 10, b"\xff")] {
            let (start, bytes) = (listing.len(), record_bytes(name));
            listing.resize(start + bytes, 1);
            write(&mut listing[start..], inode, kind, name, start + bytes).unwrap();
        }
        let found: Vec<_> = names(&listing).map(|n| (n.inode, n.kind, n.name)).collect();
        assert_eq!(found, [(1, 4, &b"."[..]), (2, 8, b"a name of some length"), (3, 10, b"\xff")]);
        assert_eq!(names(&listing[..listing.len() - 1]).count(), 2);
        assert_eq!(names(&[0; 40]).count(), 0);
        assert!(write(&mut vec![0; 400], 1, 8, &[b'x'; 255], 0).is_some());
        assert!(write(&mut vec![0; 400], 1, 8, &[b'x'; 262], 0).is_none());
        assert!(write(&mut [0; 8], 1, 8, b"x", 0).is_none());
    }
}
