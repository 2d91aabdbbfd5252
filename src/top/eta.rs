//! When a build may be done: by what an earlier session of the same command in the same directory compiled, and how fast
//! this one goes. Only make knows what is left; so there is no answer unless what was done so far is what was done then.

use crate::journal::folder;
use crate::journal::replay::{self, Action, Outcome, Session};
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

/// Earlier logs that are looked into.
const LOGS_MAX: usize = 20;

/// Of what is done, so much must have been done by the earlier session as well.
const ALIKE: f64 = 0.8;

/// What an earlier session compiled: wall time by output, in microseconds.
pub struct Expectation {
    outputs: HashMap<String, u64>,
}

fn wall_us(action: &Action) -> Option<u64> {
    let (Some(Outcome::Remote(_)), Some(run)) = (action.outcome, &action.run) else { return None };
    run.wall_us()
}

impl Expectation {
    /// From the newest log beside `log`, older than it, of a session like this that ended well.
    pub fn find(session: &Session, log: &Path) -> Option<Expectation> {
        let earlier = folder::files(log.parent()?).ok()?.into_iter().filter(|file| file.as_path() < log);
        let like = |other: &Session| {
            !session.command.is_empty()
                && (&other.command, &other.cwd) == (&session.command, &session.cwd)
                && other.end.is_some_and(|end| end.status == Some(0))
                && other.totals.remote > 0
        };
        let mut sessions = earlier.take(LOGS_MAX).filter_map(|file| replay::load(&file).ok());
        sessions.find(like).map(|session| Expectation::of(&session))
    }

    fn of(session: &Session) -> Expectation {
        let outputs = session.actions.iter().filter_map(|action| Some((action.what.output.clone(), wall_us(action)?)));
        Expectation { outputs: outputs.collect() }
    }

    /// How much longer; `None`: that cannot be told. `now_us`: since the session began.
    pub fn left(&self, session: &Session, now_us: u64) -> Option<Duration> {
        let (mut done, mut known, mut done_us, mut was_us) = (0u64, 0u64, 0, 0);
        for action in &session.actions {
            let Some(wall_us) = wall_us(action) else { continue };
            done += 1;
            done_us += wall_us;
            if let Some(was) = self.outputs.get(&action.what.output) {
                (known, was_us) = (known + 1, was_us + was);
            }
        }
        if done == 0 || (known as f64) < ALIKE * done as f64 {
            return None;
        }
        let all_us: u64 = self.outputs.values().sum();
        // It may be slower or faster on these hosts, and more or less side by side.
        let pace = done_us as f64 / now_us.max(1) as f64;
        let scale = done_us as f64 / was_us.max(1) as f64;
        let left_us = all_us.saturating_sub(was_us) as f64 * scale;
        (pace > 0.0).then(|| Duration::from_micros((left_us / pace) as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Event;
    use crate::journal::replay::tests::{finished, started, told};

    fn session(names: &[&str], each_s: f64) -> Session {
        let mut events: Vec<(f64, Event)> = Vec::new();
        for (at, name) in names.iter().enumerate() {
            let (at, number) = (at as f64, at as u64);
            events.extend([(at * each_s, started(number, 1, name)), ((at + 1.0) * each_s, finished(number, 0.5))]);
        }
        told(events)
    }

    #[test]
    fn by_what_is_left_and_how_fast_it_goes() {
        let expectation = Expectation::of(&session(&["a", "b", "c", "d"], 1.0));
        // Twice as slow: two of four are done after 4 s.
        let now = session(&["b", "a"], 2.0);
        assert_eq!(expectation.left(&now, 4_000_000), Some(Duration::from_secs(4)));
        assert_eq!(expectation.left(&session(&["a", "b", "c", "d"], 1.0), 4_000_000), Some(Duration::ZERO));
    }

    #[test]
    fn another_build_says_nothing() {
        let expectation = Expectation::of(&session(&["a", "b"], 1.0));
        assert_eq!(expectation.left(&session(&["x", "a"], 1.0), 2_000_000), None);
        assert_eq!(expectation.left(&session(&[], 1.0), 2_000_000), None);
    }
}
