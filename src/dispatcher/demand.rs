//! How much memory of its host a compile is expected to need.

/// Less than this is not told apart.
const BYTES_MIN: u64 = 64 << 20;

/// Of an action, before it runs. Few different ones, so that actions which wait for the same can stand in one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Demand {
    /// It never ran: as much as a slot has on average, so that among themselves such actions wait for slots only.
    Unknown,
    /// Bytes: rounded up, by a quarter at most where it is more than 64 MiB.
    Known(u64),
}

impl Demand {
    /// Of what took `peak_bytes` when it last ran.
    pub fn of(peak_bytes: Option<u64>) -> Demand {
        let Some(bytes) = peak_bytes else { return Demand::Unknown };
        let bytes = bytes.clamp(BYTES_MIN, 1 << 60);
        // Four steps from one power of two to the next.
        Demand::Known(bytes.next_multiple_of(bytes.next_power_of_two() / 8))
    }

    /// On a host with that much memory for all its slots.
    pub fn bytes(self, memory_bytes: u64, slots: u32) -> u64 {
        match self {
            Demand::Unknown => (memory_bytes / u64::from(slots.max(1))).max(1),
            Demand::Known(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounded_up_to_a_few() {
        let rounded = |bytes| Demand::of(Some(bytes)).bytes(0, 1);
        assert_eq!([rounded(0), rounded(64 << 20)], [64 << 20; 2]);
        assert_eq!(rounded((64 << 20) + 1), 80 << 20);
        assert_eq!(rounded(1 << 30), 1 << 30);
        assert_eq!(rounded((1 << 30) + 1), (1 << 30) + (1 << 28));
        assert!(rounded(u64::MAX) >= 1 << 60);
        let mut all: Vec<u64> = (0..100_000).map(|n| rounded(n * (1 << 20))).collect();
        assert!((0..).zip(&all).all(|(n, bytes)| *bytes >= n << 20 && (n < 64 || *bytes <= (n << 20) / 4 * 5 + 5)));
        all.dedup();
        assert!(all.is_sorted() && all.len() <= 4 * 11 + 1);
    }

    #[test]
    fn what_never_ran_takes_a_slots_share() {
        assert_eq!(Demand::of(None).bytes(100, 8), 12);
    }
}
