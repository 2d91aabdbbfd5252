//! What the end of a build waited for: a chain of compiles, links and other invocations, each of which could not have
//! come earlier.
//!
//! make's own dependencies are not known here, so the chain goes by times, from the last end backwards. A compile that
//! waited for a slot came after the one that had the slot before. Anything else came after the last that had ended when it
//! was asked for: with `-jN` because that made room, else because it was needed, or by chance. The chain is what to look
//! at first when a build is to end earlier: long compiles that begin late, links, and gaps, in which no compiler ran.

use super::figures::{Link, seconds};
use crate::journal::replay::{Action, Index, Session};
use std::collections::HashMap;

/// Who waits longer for a slot has waited for one.
const WAITED_US: u64 = 20_000;

pub fn chain(session: &Session) -> Vec<Link> {
    let mut ends: Vec<(u64, Index)> = Vec::new();
    let mut by_slot: HashMap<(usize, usize), Vec<(u64, Index)>> = HashMap::new();
    for (index, action) in session.actions.iter().enumerate() {
        let Some(end) = action.ended_us.filter(|_| action.run.is_some() || action.local.is_some()) else { continue };
        ends.push((end, index));
        if let Some((run, until)) = action.run.as_ref().and_then(|run| Some((run, run.until_us?))) {
            by_slot.entry((run.worker, run.slot)).or_default().push((until, index));
        }
    }
    ends.sort_unstable();
    by_slot.values_mut().for_each(|ends| ends.sort_unstable());
    let before = |ends: &[(u64, Index)], at: u64| {
        let count = ends.partition_point(|(end, _)| *end <= at);
        count.checked_sub(1).map(|last| ends[last])
    };
    let mut links = Vec::new();
    let mut next = ends.last().copied();
    while let Some((_, index)) = next {
        let action = &session.actions[index];
        let began = began_of(action);
        let waited = action.waited_us();
        let of_slot = action.run.as_ref().filter(|_| waited > WAITED_US);
        let holder = of_slot.and_then(|run| before(by_slot.get(&(run.worker, run.slot))?, run.since_us));
        // Ends grow smaller on the way back, or an action without a length would follow itself.
        let earlier = holder
            .or_else(|| before(&ends, action.queued_us))
            .filter(|(end, other)| *other != index && *end < action.ended_us.unwrap_or(0));
        let asked = if holder.is_some() { began } else { action.queued_us };
        links.push(Link {
            output: action.what.output.clone(),
            place: place(session, action),
            began_s: seconds(began),
            ended_s: seconds(action.ended_us.unwrap_or(began)),
            gap_s: seconds(asked.saturating_sub(earlier.map_or(0, |(end, _)| end))),
            waited_s: seconds(if holder.is_some() { 0 } else { waited }),
        });
        next = earlier;
    }
    links.reverse();
    links
}

fn began_of(action: &Action) -> u64 {
    let local = action.local.as_ref().map(|local| local.since_us);
    local.or(action.run.as_ref().map(|run| run.since_us)).unwrap_or(action.queued_us)
}

fn place(session: &Session, action: &Action) -> String {
    match (&action.local, &action.run) {
        (Some(local), _) => format!("here ({})", local.reason),
        (None, Some(run)) => {
            let worker = &session.workers[run.worker];
            format!("rank {} on {}", worker.rank, worker.host)
        }
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Event;
    use crate::journal::replay::tests::{finished, local, queued, started, told};

    fn names(session: &Session) -> Vec<String> {
        chain(session).iter().map(|link| super::super::short(&link.output).to_owned()).collect()
    }

    #[test]
    fn a_link_waits_for_the_last_compile() {
        let session = told(vec![
            (0.5, queued(1)),
            (0.5, started(1, 1, "a")),
            (0.5, queued(2)),
            (0.5, started(2, 2, "b")),
            (2.0, finished(1, 1.0)),
            (4.0, finished(2, 1.0)),
            (4.5, local(3, "link", "prog")),
            (6.0, Event::Ended { action: 3 }),
        ]);
        assert_eq!(names(&session), ["b.o", "prog"]);
        let chain = chain(&session);
        assert_eq!((chain[0].gap_s, chain[1].gap_s), (0.5, 0.5));
        assert_eq!(chain[1].place, "here (link)");
        assert_eq!((chain[1].began_s, chain[1].ended_s), (4.5, 6.0));
    }

    #[test]
    fn who_waits_for_a_slot_comes_after_its_holder() {
        let mut events: Vec<(f64, Event)> = (1..=4).map(|n| (0.0, queued(n))).collect();
        events.extend([(0.0, started(1, 1, "a")), (0.0, started(2, 1, "b")), (0.0, queued(5))]);
        // The short one elsewhere is not what the last one waited for.
        events.extend([(0.0, started(3, 2, "c")), (1.0, finished(3, 1.0))]);
        events.extend([(3.0, finished(2, 3.0)), (3.0, started(5, 1, "late")), (7.0, finished(5, 1.0))]);
        events.extend([(6.0, finished(1, 1.0))]);
        events.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert_eq!(names(&told(events)), ["b.o", "late.o"]);
    }

    #[test]
    fn nothing_follows_itself() {
        let session = told(vec![
            (1.0, local(1, "query", "x")),
            (1.0, Event::Ended { action: 1 }),
            (1.0, local(2, "query", "y")),
            (1.0, Event::Ended { action: 2 }),
        ]);
        assert_eq!(names(&session), ["y"]);
        assert!(chain(&told(vec![])).is_empty());
    }
}
