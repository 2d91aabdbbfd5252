//! The report for a browser: one file, with its data, that asks nobody for anything.

use super::figures::{Figures, seconds};
use super::trace::lanes;
use crate::journal::Exit;
use crate::journal::replay::{Action, Outcome, Session, WorkerState};
use serde_json::{Value, json};

const PAGE: &str = include_str!("page.html");

/// Where the data goes in the page.
const DATA: &str = "/*DATA*/null";

pub fn page(session: &Session, figures: &Figures) -> String {
    let lanes = local_lanes(session);
    let here = lanes.iter().flatten().max().map_or(0, |last| last + 1);
    let data =
        json!({"figures": figures, "rows": rows(session, here), "spans": spans(session, &lanes, here)}).to_string();
    // Inside of a script element the only thing that matters is how it ends.
    PAGE.replacen(DATA, &data.replace('<', "\\u003c"), 1)
}

/// Rows of a worker: one for each slot, and for what was taken beyond.
fn rows_of(worker: &WorkerState) -> usize {
    worker.taken.len().max(worker.slots as usize)
}

/// Rows of the timeline that belong to workers: `[worker, slot]`.
fn worker_rows(session: &Session) -> Vec<(usize, usize)> {
    let slots = |(worker, state): (usize, &WorkerState)| (0..rows_of(state)).map(move |slot| (worker, slot));
    session.workers.iter().enumerate().flat_map(slots).collect()
}

/// Groups of rows, from the top: a name, and how many rows it has. `here`: those of the head.
fn rows(session: &Session, here: usize) -> Value {
    let workers = session
        .workers
        .iter()
        .map(|worker| json!([format!("rank {} on {}", worker.rank, worker.host), rows_of(worker)]));
    std::iter::once(json!([format!("here, on {}", session.host), here])).chain(workers).collect()
}

fn local_actions(session: &Session) -> impl Iterator<Item = &Action> {
    session.actions.iter().filter(|action| action.local.is_some())
}

fn local_lanes(session: &Session) -> Vec<Option<usize>> {
    let last_us = session.last_us();
    let span = |action: &Action| {
        let local = action.local.as_ref()?;
        Some((local.since_us, local.until_us.unwrap_or(last_us)))
    };
    lanes(local_actions(session).filter_map(span))
}

/// What ran: `[row, from, to, kind, output, detail]`, times in seconds. `kind`: 0 compiled on a rank, 1 the same with
/// an error, 2 not finished there, 3 here.
fn spans(session: &Session, lanes: &[Option<usize>], here: usize) -> Value {
    let last_us = session.last_us();
    let rows = worker_rows(session);
    let row_of = |worker, slot| rows.binary_search(&(worker, slot)).ok().map(|row| row + here);
    let mut spans = Vec::new();
    for action in &session.actions {
        let Some((run, row)) = action.run.as_ref().and_then(|run| Some((run, row_of(run.worker, run.slot)?))) else {
            continue;
        };
        let (kind, detail) = match action.outcome {
            Some(Outcome::Remote(figures)) => {
                let kind = u8::from(figures.exit != Exit::Code(0));
                (kind, format!("{:.2} s of CPU, {} misses", seconds(figures.cpu_us), figures.misses))
            }
            _ => (2, action.causes.join("; ")),
        };
        let waited = seconds(action.waited_us());
        let detail = if waited >= 0.01 { format!("{detail}; waited {waited:.2} s") } else { detail };
        let (from, to) = (seconds(run.since_us), seconds(run.until_us.unwrap_or(last_us)));
        spans.push(json!([row, from, to, kind, action.what.output, detail]));
    }
    for (action, lane) in local_actions(session).zip(lanes) {
        let (Some(local), Some(lane)) = (&action.local, *lane) else { continue };
        let detail =
            if local.detail.is_empty() { local.reason.clone() } else { format!("{}: {}", local.reason, local.detail) };
        let (from, to) = (seconds(local.since_us), seconds(local.until_us.unwrap_or(last_us)));
        spans.push(json!([lane, from, to, 3, action.what.output, detail]));
    }
    spans.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::replay::tests::small;

    fn data(page: &str) -> Value {
        let begin = page.find("const data = ").unwrap() + "const data = ".len();
        let end = begin + page[begin..].find(";\n").unwrap();
        serde_json::from_str(&page[begin..end]).unwrap()
    }

    #[test]
    fn a_page_has_its_data_and_asks_nobody() {
        let session = small("a</script><b>");
        let page = page(&session, &Figures::of(&session));
        assert_eq!(page.matches("</script>").count(), 1);
        assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("src="));
        let data = data(&page);
        assert_eq!(data["rows"], json!([["here, on head", 1], ["rank 1 on alpha", 2], ["rank 2 on beta", 2]]));
        let spans = data["spans"].as_array().unwrap();
        assert_eq!(
            spans[0],
            json!([3, 1.0, 4.0, 0, "/build/a</script><b>.o", "2.00 s of CPU, 2 misses; waited 0.50 s"])
        );
        assert_eq!(spans[1], json!([0, 4.5, 5.0, 3, "/build/prog", "link"]));
    }
}
