//! Figures of single actions, of which the statistics give medians: a build's first compiles cost more than its
//! later ones, and a mean hides both.

use crate::wire::{ActionFigures, PerAction};
use std::collections::{BTreeMap, VecDeque};

/// Actions that medians are made of: the last so many.
const KEPT: usize = 4096;

/// Figures of single actions in the statistics, so that a reader can judge a part of a session.
const RECENT: usize = 512;

/// Reasons that are told apart, and how long one may be. There are fewer than a hundred of ours, all short; clients say
/// which.
const REASONS_MAX: usize = 200;
const REASON_BYTES_MAX: usize = 40;

/// What reasons beyond that are counted as.
const ODD_REASON: &str = "odd";

/// Counts a reason. What is no name is not repeated: it may end up on somebody's terminal.
pub fn count(reasons: &mut BTreeMap<String, u64>, reason: String) {
    let is_name =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    let is_known = reason.len() <= REASON_BYTES_MAX
        && is_name(&reason)
        && (reasons.len() < REASONS_MAX || reasons.contains_key(&reason));
    *reasons.entry(if is_known { reason } else { ODD_REASON.to_owned() }).or_default() += 1;
}

#[derive(Default)]
pub struct Figures {
    actions: VecDeque<ActionFigures>,
    /// CPU of clients whose compile ran on a rank, in microseconds.
    client_us: VecDeque<u64>,
}

impl Figures {
    pub fn note_action(&mut self, figures: ActionFigures) {
        keep(&mut self.actions, figures);
    }

    pub fn note_client(&mut self, us: u64) {
        keep(&mut self.client_us, us);
    }

    pub fn per_action(&self) -> PerAction {
        let [misses_median, misses_p90] = spread(self.actions.iter().map(|action| action.misses).collect());
        let [sent_bytes_median, sent_bytes_p90] = spread(self.actions.iter().map(|action| action.sent_bytes).collect());
        let [client_us_median, client_us_p90] = spread(self.client_us.iter().copied().collect());
        let recent = self.actions.iter().skip(self.actions.len().saturating_sub(RECENT)).copied().collect();
        PerAction {
            misses_median,
            misses_p90,
            sent_bytes_median,
            sent_bytes_p90,
            client_us_median,
            client_us_p90,
            recent,
        }
    }
}

fn keep<T>(kept: &mut VecDeque<T>, one: T) {
    if kept.len() == KEPT {
        kept.pop_front();
    }
    kept.push_back(one);
}

/// Median and 90th percentile (nearest rank); zeros when there is nothing.
fn spread(mut values: Vec<u64>) -> [u64; 2] {
    values.sort_unstable();
    let at = |percent: usize| values.get((values.len() * percent).div_ceil(100).saturating_sub(1)).copied();
    [50, 90].map(|percent| at(percent).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles() {
        assert_eq!(spread(vec![]), [0, 0]);
        assert_eq!(spread(vec![7]), [7, 7]);
        assert_eq!(spread((1..=100).rev().collect()), [50, 90]);
        assert_eq!(spread(vec![1, 2, 3]), [2, 3]);
    }

    #[test]
    fn reasons_are_names_and_not_too_many() {
        let mut reasons = BTreeMap::new();
        for reason in ["link", "link", "\x1b[2J", "", &"x".repeat(REASON_BYTES_MAX + 1)] {
            count(&mut reasons, reason.to_owned());
        }
        assert_eq!(reasons, [("".into(), 1), ("link".into(), 2), (ODD_REASON.into(), 2)].into());
        (0..2 * REASONS_MAX).for_each(|number| count(&mut reasons, format!("reason-{number}")));
        count(&mut reasons, "link".to_owned());
        assert_eq!((reasons.len(), reasons["link"]), (REASONS_MAX, 3));
    }

    #[test]
    fn old_actions_are_forgotten() {
        let mut figures = Figures::default();
        for misses in 0..(KEPT + 10) as u64 {
            figures.note_action(ActionFigures { misses, sent_bytes: 1 });
        }
        let per_action = figures.per_action();
        assert_eq!(figures.actions.len(), KEPT);
        assert_eq!(per_action.recent.len(), RECENT);
        assert_eq!(per_action.recent.last().unwrap().misses, (KEPT + 9) as u64);
        assert_eq!(per_action.sent_bytes_median, 1);
    }
}
