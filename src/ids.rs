//! A set of record ids as it travels: an action of C++ names a thousand records, most of them neighbours.

use crate::sets;
use crate::wire::RecordId;
use serde::{Deserialize, Serialize};

/// A set of record ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids(Vec<u8>);

impl Ids {
    pub fn of(mut ids: Vec<RecordId>) -> Ids {
        ids.sort_unstable();
        ids.dedup();
        Ids(sets::encode(&ids))
    }

    /// The ids in ascending order. `None`: the bytes do not come from [`Ids::of`].
    pub fn list(&self) -> Option<Vec<RecordId>> {
        sets::decode(&self.0)
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
