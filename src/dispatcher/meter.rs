//! Where the dispatcher's CPU goes: the loop says what it does next, and the CPU time of its thread is booked to what
//! it did until then. One clock_gettime(2) a change, some 200 ns.

use crate::rusage;
use std::collections::BTreeMap;

/// What the loop does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// poll(2), the wake-ups, rings of the doorbell.
    Wait,
    /// Looking whether predicted paths are as they were, and reading what is new.
    Validate,
    /// Encoding and decoding messages of ranks.
    Codec,
    /// Calls into MPI.
    Mpi,
    /// Clients: accepting, reading, writing, with the codec of their frames.
    Sockets,
    Rest,
}

/// In the order of their numbers, with their names in the statistics.
const PARTS: [(Part, &str); 6] = [
    (Part::Wait, "wait"),
    (Part::Validate, "validate"),
    (Part::Codec, "codec"),
    (Part::Mpi, "mpi"),
    (Part::Sockets, "sockets"),
    (Part::Rest, "rest"),
];

pub struct Meter {
    part: Part,
    since_ns: u64,
    spent_ns: [u64; PARTS.len()],
}

impl Default for Meter {
    fn default() -> Self {
        Meter { part: Part::Rest, since_ns: rusage::thread_cpu_ns(), spent_ns: [0; PARTS.len()] }
    }
}

impl Meter {
    /// What follows is `part`. Returns what it was before, for those who come back to it.
    pub fn enter(&mut self, part: Part) -> Part {
        let now = rusage::thread_cpu_ns();
        self.spent_ns[self.part as usize] += now.saturating_sub(self.since_ns);
        self.since_ns = now;
        std::mem::replace(&mut self.part, part)
    }

    /// CPU seconds of each part so far; `threads` is what `process_us` has beyond them (toolchains being hashed, MPI's
    /// own).
    pub fn seconds(&self, process_us: u64) -> BTreeMap<String, f64> {
        let parts = PARTS.iter().map(|(part, name)| ((*name).to_owned(), self.spent_ns[*part as usize] as f64 / 1e9));
        let mut seconds: BTreeMap<String, f64> = parts.collect();
        let known: f64 = seconds.values().sum();
        seconds.insert("threads".to_owned(), (process_us as f64 / 1e6 - known).max(0.0));
        seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_to_the_part_it_was_spent_in() {
        let mut meter = Meter::default();
        assert_eq!(meter.enter(Part::Validate), Part::Rest);
        let start = rusage::thread_cpu_ns();
        while rusage::thread_cpu_ns() < start + 5_000_000 {}
        assert_eq!(meter.enter(Part::Mpi), Part::Validate);
        meter.enter(Part::Rest);
        let seconds = meter.seconds(1_000_000);
        assert!(seconds["validate"] >= 0.005 && seconds["mpi"] < 0.005, "{seconds:?}");
        assert!((seconds.values().sum::<f64>() - 1.0).abs() < 1e-6, "the parts make up the whole: {seconds:?}");
        assert_eq!(seconds.len(), PARTS.len() + 1);
    }

    #[test]
    fn parts_are_listed_by_number() {
        assert!(PARTS.iter().enumerate().all(|(number, (part, _))| *part as usize == number));
    }
}
