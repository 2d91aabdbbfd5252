//! The targets of `integration/fuzz`, each with changed seeds, always the same ones: quick, and without a fuzzer.

#[path = "../preload/src/elf.rs"]
#[allow(dead_code)]
mod elf;
#[path = "../preload/src/entries.rs"]
mod entries;
#[path = "../preload/src/fixed.rs"]
#[allow(dead_code)]
mod fixed;
#[path = "../preload/src/path.rs"]
#[allow(dead_code)]
mod path;
#[path = "fuzz/src/targets.rs"]
mod targets;

/// What `path` needs of the module of this name.
mod target {
    pub type PathText = crate::fixed::Fixed<{ mpicc_proxy_abi::PATH_BYTES_MAX + 1 }>;
}

use targets::TARGETS;

/// xorshift64*.
struct Random(u64);

impl Random {
    /// Less than `limit`.
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize) % limit.max(1)
    }

    fn byte(&mut self) -> u8 {
        const TELLING: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b'\n', b'-', b'/'];
        if self.below(2) == 0 { TELLING[self.below(TELLING.len())] } else { self.below(256) as u8 }
    }

    /// What fuzzers do: a byte, a bit, a word, a piece left out, doubled or taken from elsewhere, an end.
    fn change(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(input.len());
        let end = (at + 1 + self.below(16)).min(input.len());
        match self.below(8) {
            _ if input.is_empty() => input.extend_from_slice(other),
            0 => input[at] = self.byte(),
            1 => input[at] ^= 1 << self.below(8),
            2 => input.insert(at, self.byte()),
            3 => input[at..end].fill(self.byte()),
            4 => drop(input.drain(at..end)),
            5 => {
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece);
            }
            6 => {
                let from = self.below(other.len());
                let piece = &other[from..(from + 1 + self.below(32)).min(other.len())];
                input.splice(at..end, piece.iter().copied());
            }
            _ => input.truncate(at),
        }
    }
}

fn run(name: &str, inputs: usize) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let seeds = (target.seeds)();
    for seed in &seeds {
        (target.run)(seed);
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..inputs {
        let mut input = seeds[random.below(seeds.len())].clone();
        let other = &seeds[random.below(seeds.len())];
        for _ in 0..=random.below(4) {
            random.change(&mut input, other);
        }
        (target.run)(&input);
    }
}

/// A test for each target, with so many inputs: what a second or two have room for.
macro_rules! tests {
    ($($name:ident $inputs:literal,)*) => {
        $(#[test]
        fn $name() {
            run(stringify!($name), $inputs);
        })*

        #[test]
        fn every_target_is_here() {
            assert_eq!([$(stringify!($name)),*], TARGETS.map(|target| target.name));
        }
    };
}

tests! {
    frames 4000,
    messages 4000,
    socket 2000,
    invocations 2000,
    commands 1200,
    makeflags 4000,
    history 80,
    sets 4000,
    doorbell 1000,
    words 4000,
    programs 2000,
    memory 2000,
    results 1000,
}
