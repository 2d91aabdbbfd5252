//! The report for a terminal.

use super::figures::{Compile, Figures, Rank};
use super::{plain, short};
use std::fmt::Write;

/// Of what there may be very many.
const ROWS_MAX: usize = 10;

pub fn text(figures: &Figures) -> String {
    let mut text = String::new();
    let f = figures;
    let command = if f.command.is_empty() { "(mpicc-proxy dispatch)".to_owned() } else { plain(&f.command.join(" ")) };
    let state = match (f.complete, f.status) {
        (true, Some(status)) => format!("status {status}"),
        (true, None) => "ended".into(),
        (false, _) if f.killed => "killed".into(),
        (false, _) => "not ended".into(),
    };
    let [id, cwd, host] = [&f.id, &f.cwd, &f.host].map(|name| plain(name));
    let ready =
        if f.ready_s < 0.1 { String::new() } else { format!(", {:.1} s of it until the ranks were ready", f.ready_s) };
    let _ = writeln!(text, "session {id}: {command}\n  in {cwd} on {host}; {state} after {:.1} s{ready}", f.wall_s);
    let _ = writeln!(
        text,
        "  {} remote ({} failed), {} local, {} retried; {:.1} s of compiler CPU, {:.1} at a time; {} slots, {:.0} % busy",
        f.remote,
        f.failed,
        f.local,
        f.retries,
        f.compile_cpu_s,
        f.parallelism,
        f.slots,
        100.0 * f.utilisation
    );
    let _ = writeln!(
        text,
        "  head: {:.2} s dispatcher, {:.2} s clients; {} to workers, {} back; {} misses, {} tokens lent",
        f.dispatcher_cpu_s,
        f.clients_cpu_s,
        bytes(f.bytes_to_workers),
        bytes(f.bytes_from_workers),
        f.misses,
        f.tokens_lent
    );
    if f.relaunches > 0 {
        let _ = writeln!(text, "  ranks were started again {} times", f.relaunches);
    }
    if f.truncated {
        let _ = writeln!(text, "  the log was too long: the last compiles are missing");
    }
    section(&mut text, "why here", f.local_reasons.iter().map(|(reason, count)| format!("{count:>6}  {reason}")));
    section(
        &mut text,
        "packages: remote, local, CPU",
        f.packages
            .iter()
            .map(|(name, p)| format!("{:>6}  {:>6}  {:>8.1} s  {name}", p.remote, p.local, p.compile_cpu_s)),
    );
    section(
        &mut text,
        "slowest: on the rank, waited",
        f.slowest.iter().take(ROWS_MAX).map(|compile| {
            let Compile { wall_s, waited_s, rank, host, output, .. } = compile;
            format!("{wall_s:>8.2} s  {waited_s:>7.2} s  {}  (rank {rank} on {host})", short(output))
        }),
    );
    let skipped = f.chain.len().saturating_sub(ROWS_MAX);
    let title = match skipped {
        0 => "what the end waited for".to_owned(),
        n => format!("what the end waited for ({n} steps before)"),
    };
    section(
        &mut text,
        &title,
        f.chain.iter().skip(skipped).map(|link| {
            let gap = if link.gap_s >= 0.1 { format!("  after {:.1} s without", link.gap_s) } else { String::new() };
            let (began, ended) = (link.began_s, link.ended_s);
            format!("{began:>8.2} to {ended:>8.2} s  {}  {}{gap}", short(&link.output), link.place)
        }),
    );
    section(
        &mut text,
        "ranks: slots, compiles, CPU, busy",
        f.ranks.iter().take(ROWS_MAX).map(|rank| {
            let lost = if rank.lost { "  gone" } else { "" };
            let Rank { rank, host, slots, actions, cpu_s, utilisation, .. } = rank;
            let busy = 100.0 * utilisation;
            format!("{slots:>6}  {actions:>6}  {cpu_s:>8.1} s  {busy:>3.0} %  rank {rank} on {host}{lost}")
        }),
    );
    if f.ranks.len() > ROWS_MAX {
        let _ = writeln!(text, "  ... and {} more; --json and --html have all", f.ranks.len() - ROWS_MAX);
    }
    text
}

fn section(text: &mut String, title: &str, lines: impl Iterator<Item = String>) {
    let mut lines = lines.peekable();
    if lines.peek().is_some() {
        let _ = writeln!(text, "{title}:");
        lines.for_each(|line| _ = writeln!(text, "  {}", plain(&line)));
    }
}

/// `12.3 MiB`
pub fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::replay::tests::small;

    #[test]
    fn a_report_for_a_terminal() {
        let session = small("a");
        let text = text(&Figures::of(&session));
        let head = "\
session 20260101-000000-1: make -j8
  in /build on head; status 2 after 5.0 s
  1 remote (0 failed), 1 local, 0 retried; 2.0 s of compiler CPU, 0.4 at a time; 4 slots, 15 % busy
  head: 0.00 s dispatcher, 0.00 s clients; 0 B to workers, 0 B back; 0 misses, 0 tokens lent
why here:
       1  link
slowest: on the rank, waited:
";
        assert!(text.starts_with(head), "{text}");
        for line in [
            "      3.00 s     0.50 s  a.o  (rank 2 on beta)",
            "      1.00 to     4.00 s  a.o  rank 2 on beta  after 0.5 s without",
            "      4.50 to     5.00 s  prog  here (link)  after 0.5 s without",
            "       2       1       2.0 s   30 %  rank 2 on beta",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn names_do_nothing_to_the_terminal() {
        let text = text(&Figures::of(&small("a\u{1b}[2J\nb")));
        assert!(text.contains("  a?[2J?b.o  (rank 2"), "{text}");
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text}");
    }

    #[test]
    fn sizes_have_units() {
        let table = [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1 << 20, "1.0 MiB"), (5 << 40, "5.0 TiB")];
        for (size, expected) in table {
            assert_eq!(bytes(size), expected);
        }
    }
}
