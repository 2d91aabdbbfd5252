//! Do the jobs of a build wait for each other, and not only for make? With a lock around the compiler, a compile that lends
//! its token has make start a job that waits for the lock, and so for this compile, which waits for its token: each of them
//! would go without it only after a while ([`super::broker`]). Pure.
//!
//! # The sign
//! A client went without its token, and at once a job that was there all the while has a compile. (Had make been the one
//! that waited, the job would be new; but a new job may also be the first at a lock.) After two signs of three nothing is
//! lent for a while, and jobs are as many as in a build without us; then one more sign is enough.

use super::broker::JobserverId;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A job that waited for the client has its compile within this time.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Chance makes one, and hides one.
const SIGNS: u32 = 2;
const SIGNS_OF: u32 = 3;

/// How long nothing is lent; twice as long each time, at most [`REST_MAX`].
const REST: Duration = Duration::from_secs(30);
const REST_MAX: Duration = Duration::from_secs(480);

struct Suspect {
    /// When a client last went without its token.
    gave_up: Instant,
    /// The next compile has told what that meant.
    is_told: bool,
    /// What was told, a bit each: a sign. The last one is the lowest.
    told: u32,
    rests: u32,
    rests_until: Instant,
}

/// Jobservers of which clients went without their tokens.
#[derive(Default)]
pub struct Locks {
    suspects: BTreeMap<JobserverId, Suspect>,
}

impl Locks {
    /// A client went without its token.
    pub fn gave_up(&mut self, jobserver: JobserverId, now: Instant) {
        let is_recent = |at: Instant| now.saturating_duration_since(at) < REST_MAX;
        self.suspects.retain(|_, suspect| is_recent(suspect.gave_up.max(suspect.rests_until)));
        let new = Suspect { gave_up: now, is_told: false, told: 0, rests: 0, rests_until: now };
        let suspect = self.suspects.entry(jobserver).or_insert(new);
        (suspect.gave_up, suspect.is_told) = (now, false);
    }

    /// May a compile lend its token whose job began `age` ago (asked for only where it matters)? `patience`: how long clients
    /// wait for theirs.
    pub fn allow(
        &mut self,
        jobserver: JobserverId,
        age: impl FnOnce() -> Duration,
        patience: Duration,
        now: Instant,
    ) -> bool {
        let Some(suspect) = self.suspects.get_mut(&jobserver) else { return true };
        if !std::mem::replace(&mut suspect.is_told, true) {
            let is_sign = now.saturating_duration_since(suspect.gave_up) < AT_ONCE && age() >= patience;
            suspect.told = (suspect.told << 1 | u32::from(is_sign)) & ((1 << SIGNS_OF) - 1);
            if suspect.told.count_ones() < SIGNS {
                suspect.rests = 0;
            } else if is_sign {
                suspect.rests_until = now + REST.saturating_mul(2u32.saturating_pow(suspect.rests)).min(REST_MAX);
                suspect.rests += 1;
            }
        }
        suspect.rests_until <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIPE: JobserverId = (1, 2);
    const PATIENCE: Duration = Duration::from_secs(5);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn after_two_signs_nothing_is_lent_for_a_while() {
        let start = Instant::now();
        let mut locks = Locks::default();
        let mut one = |at: u64| {
            locks.gave_up(PIPE, start + seconds(at));
            locks.allow(PIPE, || PATIENCE, PATIENCE, start + seconds(at) + AT_ONCE / 2)
        };
        assert_eq!([one(0), one(5)], [true, false]);
        let at = |at: u64, locks: &mut Locks| locks.allow(PIPE, || seconds(9), PATIENCE, start + seconds(at));
        assert!(!at(34, &mut locks) && at(36, &mut locks), "30 s");
        locks.gave_up(PIPE, start + seconds(41));
        assert!(!at(41, &mut locks) && !at(100, &mut locks) && at(101, &mut locks), "then 60 s");
        assert!(locks.allow((1, 3), || seconds(9), PATIENCE, start + seconds(42)), "another build");
    }

    #[test]
    fn a_new_job_that_is_first_at_the_lock_hides_one_sign() {
        let start = Instant::now();
        let mut locks = Locks::default();
        let mut one = |at: u64, age: u64| {
            locks.gave_up(PIPE, start + seconds(at));
            locks.allow(PIPE, || seconds(age), PATIENCE, start + seconds(at))
        };
        assert_eq!([one(0, 9), one(6, 0), one(12, 9)], [true, true, false]);
        // After the rest: it takes two again once two were none.
        assert_eq!([one(50, 0), one(56, 0), one(62, 9), one(68, 9)], [true, true, true, false]);
        let mut at = |at: u64| locks.allow(PIPE, || seconds(9), PATIENCE, start + seconds(at));
        assert!(!at(97) && at(98), "30 s, not 60");
    }

    #[test]
    fn a_new_job_or_a_late_one_is_no_sign() {
        let start = Instant::now();
        let mut locks = Locks::default();
        for turn in 0..9 {
            let now = start + seconds(10 * turn);
            locks.gave_up(PIPE, now);
            let (age, later) = if turn % 2 == 0 { (Duration::ZERO, Duration::ZERO) } else { (seconds(9), AT_ONCE) };
            assert!(locks.allow(PIPE, || age, PATIENCE, now + later));
            assert!(locks.allow(PIPE, || seconds(9), PATIENCE, now + later), "what comes afterwards says nothing");
        }
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let start = Instant::now();
        let mut locks = Locks::default();
        locks.gave_up(PIPE, start);
        locks.gave_up((1, 3), start + REST_MAX);
        assert_eq!(locks.suspects.len(), 1);
    }
}
