//! Rank 0's decisions against a world of makes, clients and ranks in which everything goes wrong: the real queue, liveness,
//! tokens, locks and slots, in virtual time. A seed is a world, and gives the same story each time.
//!
//! After each turn of rank 0 [the books](books) are compared, and [what must hold](world) is looked at. What is not here:
//! sockets, MPI, the head's tree, and the few lines of [`Dispatcher`](super::Dispatcher) between the machines, which
//! [`head`] says once more.
//!
//! ```text
//! MPICC_PROXY_SIM_SEED=7 cargo test -p mpicc-proxy --lib simulation -- --nocapture    the story of a seed
//! integration/simulate 10000                                                          many of them
//! ```

mod books;
mod head;
mod machine;
mod world;

use nix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use world::World;

/// Seeds that `cargo test` runs.
const SEEDS: u64 = 300;

/// One seed in so many is a wide world (more ranks have something to say than rank 0 reads in one turn), a large one, and a
/// huge one.
const WIDE: u64 = 20;
const LARGE: u64 = 100;
const HUGE: u64 = 5_000;

/// Says how to see it again.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "the simulation of seed {0} failed; again, with its story: \
                 MPICC_PROXY_SIM_SEED={0} cargo test -p mpicc-proxy --lib simulation -- --nocapture",
                self.0
            );
        }
    }
}

fn simulate(seed: u64, log: bool) -> BTreeMap<&'static str, u64> {
    let seed = Seed(seed);
    let mut random = super::random::numbers(seed.0);
    let (ranks, slots_max, actions) = if seed.0.is_multiple_of(HUGE) {
        (1000, 16, 100_000)
    } else if seed.0.is_multiple_of(LARGE) {
        (50 + random(200), 8, 3_000)
    } else if seed.0.is_multiple_of(WIDE) {
        (70 + random(130), 2, 1 + random(200))
    } else {
        (1 + random(12), 4, 1 + random(120))
    };
    let mut world = World::new(seed.0, ranks, slots_max, actions, log);
    world.run();
    world.figures
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is a number, not {value}")))
}

fn cpu_s() -> f64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9
}

#[test]
fn whatever_happens_every_action_ends_once_and_nothing_is_lost() {
    if let Some(seed) = number("MPICC_PROXY_SIM_SEED") {
        println!("{:?}", simulate(seed, true));
        return;
    }
    let first = number("MPICC_PROXY_SIM_FIRST").unwrap_or(1);
    let seeds = number("MPICC_PROXY_SIM_SEEDS").unwrap_or(SEEDS);
    let began = cpu_s();
    let mut sums: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in first..first + seeds {
        for (what, count) in simulate(seed, false) {
            *sums.entry(what).or_default() += count;
        }
    }
    println!("seeds {seeds}, from {first}");
    for (what, count) in sums {
        println!("{what} {count}");
    }
    println!("CPU seconds {:.1}", cpu_s() - began);
}
