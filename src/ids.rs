//! A set of record ids as it travels: sorted, each as the distance from the one before, seven bits a byte (LEB128).
//! An action of C++ names a thousand records; most distances fit one byte.

use crate::wire::RecordId;
use serde::{Deserialize, Serialize};

/// A set of record ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids(Vec<u8>);

impl Ids {
    pub fn of(mut ids: Vec<RecordId>) -> Ids {
        ids.sort_unstable();
        ids.dedup();
        let mut bytes = Vec::with_capacity(ids.len() + ids.len() / 4);
        let mut before = 0;
        for id in ids {
            let mut distance = id - before;
            before = id;
            while distance >= 0x80 {
                bytes.push(distance as u8 | 0x80);
                distance >>= 7;
            }
            bytes.push(distance as u8);
        }
        Ids(bytes)
    }

    /// The ids in ascending order. `None`: the bytes do not come from [`Ids::of`].
    pub fn list(&self) -> Option<Vec<RecordId>> {
        let mut ids = Vec::with_capacity(self.0.len());
        let mut before: RecordId = 0;
        let mut bytes = self.0.iter();
        while let Some(first) = bytes.next() {
            let mut distance = u64::from(first & 0x7f);
            let mut last = *first;
            let mut shift = 7;
            while last & 0x80 != 0 {
                last = *bytes.next()?;
                distance |= u64::from(last & 0x7f) << shift;
                shift += 7;
                if shift > 35 {
                    return None;
                }
            }
            before = before.checked_add(RecordId::try_from(distance).ok()?)?;
            ids.push(before);
        }
        Some(ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_survive() {
        for ids in [vec![], vec![0], vec![0, 1, 127, 128, 129, 16_512, RecordId::MAX], (5..2000).collect()] {
            assert_eq!(Ids::of(ids.clone()).list(), Some(ids));
        }
        assert_eq!(Ids::of(vec![9, 3, 9]).list(), Some(vec![3, 9]));
        assert_eq!(Ids::of((100..1100).collect()).0.len(), 1000, "neighbours take a byte each");
    }

    #[test]
    fn garbage_is_refused() {
        assert_eq!(Ids(vec![0x80]).list(), None, "cut short");
        assert_eq!(Ids(vec![0xff; 12]).list(), None, "too long a number");
        assert_eq!(Ids(vec![0xff, 0xff, 0xff, 0xff, 0x0f, 1]).list(), None, "beyond the last id");
    }
}
