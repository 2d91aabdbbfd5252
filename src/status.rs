//! The numbers of a session, fetched and put into words: the summary line of `run`, the table of `status`, the JSON
//! object of both. It measures nothing.

use crate::connection::Connection;
use crate::wire::{RankStats, Stats, ToClient, ToDispatcher};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::time::{Duration, Instant};

/// How many reasons the summary line names; the JSON object has all.
const REASONS_MAX: usize = 4;

/// Asks the dispatcher for its numbers.
///
/// # Errors
/// Those of [`Connection`]; `InvalidData` when it answers something else, or is of another version.
pub fn fetch(connection: &mut Connection, deadline: Instant) -> io::Result<Stats> {
    connection.send(&ToDispatcher::Status)?;
    match connection.receive_by(deadline)?.0 {
        ToClient::Status(stats) => Ok(*stats),
        ToClient::RunLocally { .. } => Err(other_version()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the dispatcher answered something else than its status")),
    }
}

/// What the only refusal means for those that do not compile.
fn other_version() -> io::Error {
    let what = "the dispatcher is of another version of mpicc-proxy; only that one's own command can talk to it";
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Asks the dispatcher to end, and waits until it has heard.
///
/// # Errors
/// Those of [`Connection`], but not that it hangs up: that is what was asked for.
pub fn stop(connection: &mut Connection, deadline: Instant) -> io::Result<()> {
    connection.send(&ToDispatcher::Stop)?;
    loop {
        match connection.receive_by(deadline) {
            Ok((ToClient::Stopping, _)) => return Ok(()),
            Ok((ToClient::RunLocally { .. }, _)) => return Err(other_version()),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(e) => return Err(e),
        }
    }
}

/// The numbers of a session over all its dispatchers, the last of which says `later`. Spreads are its own.
pub fn added(earlier: &Stats, mut later: Stats) -> Stats {
    if later == Stats::default() {
        // It has not said anything yet.
        return earlier.clone();
    }
    let (actions, before) = (&mut later.actions, &earlier.actions);
    for (sum, more) in [
        (&mut actions.remote, before.remote),
        (&mut actions.local, before.local),
        (&mut actions.hit, before.hit),
        (&mut actions.failed, before.failed),
        (&mut later.bytes_to_workers, earlier.bytes_to_workers),
        (&mut later.bytes_from_workers, earlier.bytes_from_workers),
        (&mut later.misses, earlier.misses),
        (&mut later.retries, earlier.retries),
        (&mut later.relaunches, earlier.relaunches),
        (&mut later.tokens.lent, earlier.tokens.lent),
        (&mut later.tokens.handed_on, earlier.tokens.handed_on),
        (&mut later.tokens.late, earlier.tokens.late),
        (&mut later.local_slots.waited, earlier.local_slots.waited),
        (&mut later.local_slots.lent, earlier.local_slots.lent),
        (&mut later.local_slots.beyond, earlier.local_slots.beyond),
    ] {
        *sum += more;
    }
    for (sum, more) in [
        (&mut later.wall_s, earlier.wall_s),
        (&mut later.dispatcher_cpu_s, earlier.dispatcher_cpu_s),
        (&mut later.client_cpu_s, earlier.client_cpu_s),
        (&mut later.compile_cpu_s, earlier.compile_cpu_s),
    ] {
        *sum += more;
    }
    add_each(&mut later.local_reasons, &earlier.local_reasons);
    add_each(&mut later.tokens.unlent_reasons, &earlier.tokens.unlent_reasons);
    add_each(&mut later.dispatcher_cpu_parts_s, &earlier.dispatcher_cpu_parts_s);
    add_each(&mut later.client_cpu_parts_s, &earlier.client_cpu_parts_s);
    for rank in &earlier.ranks {
        match later.ranks.iter_mut().find(|now| (now.rank, &now.host) == (rank.rank, &rank.host)) {
            Some(now) => (now.actions, now.cpu_s) = (now.actions + rank.actions, now.cpu_s + rank.cpu_s),
            None => later.ranks.push(RankStats { slots: 0, ..rank.clone() }),
        }
    }
    later
}

fn add_each<T: Copy + Default + std::ops::AddAssign>(sums: &mut BTreeMap<String, T>, more: &BTreeMap<String, T>) {
    for (name, number) in more {
        *sums.entry(name.clone()).or_default() += *number;
    }
}

/// One object with all fields of [`Stats`], and `complete`: false when the dispatcher was lost and the counts end
/// before the build did.
pub fn json(stats: &Stats, complete: bool) -> serde_json::Value {
    let mut object = serde_json::to_value(stats).expect("Stats are numbers and strings");
    object["complete"] = complete.into();
    object
}

fn count(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

fn workers(stats: &Stats) -> u64 {
    stats.ranks.iter().filter(|rank| rank.slots > 0).count() as u64
}

/// `3 local (link 2, query 1)`
fn locals(stats: &Stats) -> String {
    let mut reasons: Vec<(&String, u64)> = stats.local_reasons.iter().map(|(reason, n)| (reason, *n)).collect();
    reasons.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let mut named: Vec<String> = reasons.iter().take(REASONS_MAX).map(|(reason, n)| format!("{reason} {n}")).collect();
    let others: u64 = reasons.iter().skip(REASONS_MAX).map(|(_, n)| n).sum();
    if others > 0 {
        named.push(format!("other {others}"));
    }
    let reasons = if named.is_empty() { String::new() } else { format!(" ({})", named.join(", ")) };
    format!("{} local{reasons}", stats.actions.local)
}

/// What went where, as the middle of a sentence.
fn outcome(stats: &Stats) -> String {
    let remote = format!("{} on {}", count(stats.actions.remote, "compile"), count(workers(stats), "rank"));
    let failed = if stats.actions.failed > 0 { format!(" ({} failed)", stats.actions.failed) } else { String::new() };
    let hit = if stats.actions.hit > 0 { format!(", {} from the cache", stats.actions.hit) } else { String::new() };
    format!("{remote}{failed}{hit}, {}", locals(stats))
}

/// The line that ends a session in which nothing went wrong.
pub fn summary(stats: &Stats) -> String {
    let retries = if stats.retries > 0 { format!(", {} retried", stats.retries) } else { String::new() };
    let parallelism = stats.compile_cpu_s / stats.wall_s.max(1e-3);
    let (cpu_s, wall_s) = (stats.compile_cpu_s, stats.wall_s);
    format!(
        "{}{retries}, {cpu_s:.1} s of compiler CPU remote in {wall_s:.1} s ({parallelism:.1} at a time)",
        outcome(stats)
    )
}

/// What is added to it when ranks died and were started again, the last time for this `cause`.
pub fn relaunched(times: u64, cause: &str, log: &str) -> String {
    let often = if times == 1 { "once".to_owned() } else { format!("{times} times") };
    format!(
        "; ranks died and were started again {often} (at last: {cause}), so some compiles are not counted; see {log}"
    )
}

/// What is added to it when workers died or were given up, and the others went on.
pub fn lost(stats: &Stats, log: &str) -> Option<String> {
    let lost = stats.ranks.iter().filter(|rank| rank.slots == 0).count();
    let workers = count(stats.ranks.len() as u64, "worker");
    (lost > 0).then(|| format!("; {lost} of {workers} died or fell silent, see {log}"))
}

/// The line that ends a session whose dispatcher was lost. `known`: the last numbers it gave, and how long after the
/// start of the build. `cause`: how the loss showed. `log`: what the ranks and their launcher wrote.
pub fn trouble(known: Option<&(Stats, Duration)>, cause: &str, log: &str) -> String {
    let figures = match known {
        Some((stats, at)) => format!("known up to {:.1} s: {}", at.as_secs_f64(), outcome(stats)),
        None => "it gave no figures before".into(),
    };
    format!("the dispatcher was lost ({cause}), so compiles ran locally from then on; {figures}; see {log}")
}

/// What `mpicc-proxy status` prints.
pub fn table(stats: &Stats) -> String {
    let mut text = format!(
        "up {:.1} s: {}\nCPU: {:.1} s compilers, {:.2} s dispatcher, {:.2} s clients\n\
         bytes: {} to workers, {} from workers; {}, {}\n",
        stats.wall_s,
        outcome(stats),
        stats.compile_cpu_s,
        stats.dispatcher_cpu_s,
        stats.client_cpu_s,
        stats.bytes_to_workers,
        stats.bytes_from_workers,
        match stats.misses {
            1 => "1 miss".into(),
            n => format!("{n} misses"),
        },
        match stats.retries {
            1 => "1 retry".into(),
            n => format!("{n} retries"),
        },
    );
    let parts = |parts: &BTreeMap<String, f64>| {
        let parts: Vec<String> = parts.iter().map(|(name, seconds)| format!("{name} {seconds:.3}")).collect();
        if parts.is_empty() { "none yet".to_owned() } else { parts.join(", ") }
    };
    let _ = writeln!(
        text,
        "dispatcher CPU by part, in seconds: {}\nclients' CPU by part, in seconds: {}",
        parts(&stats.dispatcher_cpu_parts_s),
        parts(&stats.client_cpu_parts_s)
    );
    let tokens = &stats.tokens;
    if tokens.lent > 0 {
        let _ = writeln!(
            text,
            "jobserver: {} lent, {} of them handed on at once, {} late",
            count(tokens.lent, "token"),
            tokens.handed_on,
            tokens.late
        );
    }
    let each = &stats.per_action;
    let _ = writeln!(
        text,
        "per compile, median and 90th percentile: misses {} and {}, bytes sent {} and {}, client {} and {} us",
        each.misses_median,
        each.misses_p90,
        each.sent_bytes_median,
        each.sent_bytes_p90,
        each.client_us_median,
        each.client_us_p90
    );
    let host_width = stats.ranks.iter().map(|rank| rank.host.chars().count()).max().unwrap_or(0).max(4);
    let _ = writeln!(text, "{:>4}  {:host_width$}  {:>5}  {:>7}  {:>9}", "rank", "host", "slots", "actions", "cpu_s");
    for rank in &stats.ranks {
        let _ = writeln!(
            text,
            "{:>4}  {:host_width$}  {:>5}  {:>7}  {:>9.1}",
            rank.rank, rank.host, rank.slots, rank.actions, rank.cpu_s
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ActionCounts;

    fn stats() -> Stats {
        let rank = |rank, slots| RankStats { rank, host: "alpha".into(), slots, actions: 17, cpu_s: 6.0 };
        Stats {
            wall_s: 3.5,
            actions: ActionCounts { remote: 34, local: 3, hit: 0, failed: 0 },
            local_reasons: [("query".to_string(), 1), ("link".to_string(), 2)].into(),
            ranks: vec![rank(1, 2), rank(2, 2)],
            compile_cpu_s: 12.34,
            dispatcher_cpu_parts_s: [("wait".to_string(), 0.1), ("mpi".to_string(), 0.004)].into(),
            per_action: crate::wire::PerAction { misses_median: 3, ..Default::default() },
            ..Stats::default()
        }
    }

    #[test]
    fn summaries() {
        assert_eq!(
            summary(&stats()),
            "34 compiles on 2 ranks, 3 local (link 2, query 1), 12.3 s of compiler CPU remote in 3.5 s (3.5 at a time)"
        );
        let mut one = stats();
        one.actions = ActionCounts { remote: 1, local: 21, hit: 4, failed: 1 };
        one.ranks.truncate(1);
        one.local_reasons = (1..=6).map(|n| (format!("r{n}"), n)).collect();
        assert_eq!(
            summary(&one),
            "1 compile on 1 rank (1 failed), 4 from the cache, 21 local (r6 6, r5 5, r4 4, r3 3, other 3), 12.3 s of \
             compiler CPU remote in 3.5 s (3.5 at a time)"
        );
        assert_eq!(
            summary(&Stats { retries: 2, ..Stats::default() }),
            "0 compiles on 0 ranks, 0 local, 2 retried, 0.0 s of compiler CPU remote in 0.0 s (0.0 at a time)"
        );
    }

    #[test]
    fn workers_that_were_lost_are_counted() {
        let mut stats = stats();
        assert_eq!(lost(&stats, "log"), None);
        stats.ranks[1].slots = 0;
        assert_eq!(lost(&stats, "log").unwrap(), "; 1 of 2 workers died or fell silent, see log");
        stats.ranks.remove(0);
        assert_eq!(lost(&stats, "log").unwrap(), "; 1 of 1 worker died or fell silent, see log");
    }

    #[test]
    fn a_session_with_two_dispatchers() {
        let mut later = stats();
        later.ranks[1].host = "beta".into();
        let sum = added(&stats(), later);
        assert_eq!((sum.actions.remote, sum.actions.local, sum.compile_cpu_s), (68, 6, 24.68));
        assert_eq!(sum.local_reasons["link"], 4);
        assert_eq!(sum.dispatcher_cpu_parts_s["wait"], 0.2);
        let ranks: Vec<_> =
            sum.ranks.iter().map(|rank| (rank.rank, rank.host.as_str(), rank.slots, rank.actions)).collect();
        assert_eq!(ranks, [(1, "alpha", 2, 34), (2, "beta", 2, 17), (2, "alpha", 0, 17)]);
        assert_eq!(added(&Stats::default(), stats()), stats());
        assert_eq!(added(&stats(), Stats::default()), stats());
        let text = relaunched(2, "rank 0 ended", "/log");
        assert_eq!(
            text,
            "; ranks died and were started again 2 times (at last: rank 0 ended), so some compiles are not counted; see /log"
        );
    }

    #[test]
    fn trouble_is_one_sentence() {
        let known = (stats(), Duration::from_millis(2500));
        assert_eq!(
            trouble(Some(&known), "mpiexec ended with exit status 137", "/tmp/x/log"),
            "the dispatcher was lost (mpiexec ended with exit status 137), so compiles ran locally from then on; known \
             up to 2.5 s: 34 compiles on 2 ranks, 3 local (link 2, query 1); see /tmp/x/log"
        );
        assert!(trouble(None, "x", "/log").contains("no figures"));
    }

    #[test]
    fn the_object_has_the_documented_fields() {
        let object = json(&stats(), true);
        for field in [
            "wall_s",
            "actions",
            "local_reasons",
            "ranks",
            "dispatcher_cpu_s",
            "client_cpu_s",
            "dispatcher_cpu_parts_s",
            "client_cpu_parts_s",
            "per_action",
            "compile_cpu_s",
            "bytes_to_workers",
            "bytes_from_workers",
            "misses",
            "retries",
        ] {
            assert!(!object[field].is_null(), "{field}");
        }
        assert_eq!(object["actions"]["remote"], 34);
        assert_eq!(object["ranks"][1]["cpu_s"], 6.0);
        assert_eq!(object["complete"], true);
        // Nothing is lost on the way through JSON.
        assert_eq!(serde_json::from_value::<Stats>(object).unwrap(), stats());
    }

    #[test]
    fn the_table_is_aligned() {
        let text = table(&stats());
        let rows: Vec<&str> = text.lines().collect();
        assert_eq!(rows[0], "up 3.5 s: 34 compiles on 2 ranks, 3 local (link 2, query 1)");
        assert_eq!(rows[3], "dispatcher CPU by part, in seconds: mpi 0.004, wait 0.100");
        assert_eq!(rows[4], "clients' CPU by part, in seconds: none yet");
        assert!(rows[5].ends_with("misses 3 and 0, bytes sent 0 and 0, client 0 and 0 us"), "{}", rows[5]);
        assert_eq!(rows[6], "rank  host   slots  actions      cpu_s");
        assert_eq!(rows[7], "   1  alpha      2       17        6.0");
    }
}
