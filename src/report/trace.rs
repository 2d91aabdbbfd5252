//! The session as a trace in the Trace Event Format (docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU),
//! which Perfetto and chrome://tracing read: a process a worker, a thread a slot, and the head as process 0.

use super::{figures::seconds, short};
use crate::journal::replay::{Outcome, Session};
use serde_json::{Value, json};

/// Lanes for what runs on the head at the same time.
const LANES_MAX: usize = 64;

/// On which lane each of these runs, so that what overlaps is on different ones; what finds none is left out.
pub fn lanes(spans: impl Iterator<Item = (u64, u64)>) -> Vec<Option<usize>> {
    let mut free_from: Vec<u64> = Vec::new();
    let lane = |(from, to): (u64, u64)| {
        let lane = free_from.iter().position(|free| *free <= from).unwrap_or(free_from.len());
        if lane == LANES_MAX {
            return None;
        }
        if lane == free_from.len() {
            free_from.push(0);
        }
        free_from[lane] = to;
        Some(lane)
    };
    spans.map(lane).collect()
}

pub fn trace(session: &Session) -> String {
    let name =
        |pid: usize, name: String| json!({"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}});
    let mut events: Vec<Value> = vec![name(0, format!("head: {}", session.host))];
    for (index, worker) in session.workers.iter().enumerate() {
        events.push(name(index + 1, format!("rank {} on {}", worker.rank, worker.host)));
    }
    let last_us = session.last_us();
    for action in &session.actions {
        let Some(run) = &action.run else { continue };
        let mut args = json!({"output": action.what.output, "source": action.what.source});
        if let Some(Outcome::Remote(figures)) = action.outcome {
            args["cpu_s"] = json!(seconds(figures.cpu_us));
            args["peak_bytes"] = json!(figures.peak_bytes);
            args["misses"] = json!(figures.misses);
            args["exit"] = json!(figures.exit);
        }
        args["waited_s"] = json!(seconds(action.waited_us()));
        events.push(json!({
            "ph": "X", "cat": "remote", "name": short(&action.what.output), "pid": run.worker + 1, "tid": run.slot,
            "ts": run.since_us, "dur": run.until_us.unwrap_or(last_us) - run.since_us, "args": args,
        }));
    }
    let local: Vec<_> =
        session.actions.iter().filter_map(|action| action.local.as_ref().map(|local| (action, local))).collect();
    let until = |until_us: Option<u64>| until_us.unwrap_or(last_us);
    let lanes = lanes(local.iter().map(|(_, local)| (local.since_us, until(local.until_us))));
    for ((action, local), lane) in local.into_iter().zip(lanes) {
        let Some(lane) = lane else { continue };
        events.push(json!({
            "ph": "X", "cat": "local", "name": format!("{} ({})", short(&action.what.output), local.reason),
            "pid": 0, "tid": lane, "ts": local.since_us, "dur": until(local.until_us) - local.since_us,
            "args": {"output": action.what.output, "detail": local.detail},
        }));
    }
    json!({"displayTimeUnit": "ms", "traceEvents": events}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::replay::tests::small;

    #[test]
    fn what_overlaps_is_on_different_lanes() {
        assert_eq!(lanes([(0, 5), (1, 2), (2, 9), (5, 6)].into_iter()), [0, 1, 1, 0].map(Some));
        let many = lanes((0..LANES_MAX as u64 + 1).map(|n| (n, 1000)));
        assert_eq!((many[LANES_MAX - 1], many[LANES_MAX]), (Some(LANES_MAX - 1), None));
    }

    #[test]
    fn a_trace_has_every_action() {
        let session = small("a");
        let trace: Value = serde_json::from_str(&trace(&session)).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let spans: Vec<_> = events.iter().filter(|event| event["ph"] == "X").collect();
        assert_eq!(spans.len(), 2);
        assert_eq!((&spans[0]["pid"], &spans[0]["tid"]), (&json!(2), &json!(0)));
        assert_eq!((&spans[0]["ts"], &spans[0]["dur"]), (&json!(1_000_000), &json!(3_000_000)));
        assert_eq!((&spans[1]["name"], &spans[1]["dur"]), (&json!("prog (link)"), &json!(500_000)));
        assert_eq!(events.iter().filter(|event| event["ph"] == "M").count(), 3);
    }
}
