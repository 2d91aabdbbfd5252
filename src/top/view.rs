//! What `top` shows of a session, on a terminal of any size or as a line. Knows no terminal and no clock.

use crate::journal::replay::{Session, WorkerState};
use crate::report::{bytes, plain, short};
use ratatui::Frame;
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;
use std::time::Duration;

/// What there is to show.
pub struct View<'a> {
    pub session: &'a Session,
    /// Since the session began.
    pub now_us: u64,
    /// Until it will probably end.
    pub left: Option<Duration>,
}

/// One character for how much of a rank is busy, from nothing to everything.
const LEVELS: [char; 9] = ['·', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Who hears nothing of a session for so long is told.
const SILENT_US: u64 = 60_000_000;

/// Columns of a bar.
const BAR: usize = 20;

/// Lines around ranks and running compiles: four of numbers, two headings, and the reasons.
const AROUND: usize = 7;

pub fn draw(frame: &mut Frame, view: &View) {
    let area = frame.area();
    frame.render_widget(Paragraph::new(lines(view, area.width as usize, area.height as usize)), area);
}

/// `1:02:03` or `2:03`
fn clock(seconds: u64) -> String {
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if h > 0 { format!("{h}:{m:02}:{s:02}") } else { format!("{m}:{s:02}") }
}

/// No more than `width` characters; what is cut off is at the front where the end says more.
fn fit(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return format!("{text:width$}");
    }
    let tail: String = text.chars().skip(length - width.saturating_sub(1)).collect();
    if width == 0 { String::new() } else { format!("…{tail}") }
}

fn busy(worker: &WorkerState) -> usize {
    worker.taken.iter().flatten().count()
}

fn bar(part: usize, whole: usize, width: usize) -> String {
    let full = (part * width).checked_div(whole).unwrap_or(0).min(width);
    "█".repeat(full) + &"░".repeat(width - full)
}

fn command(session: &Session) -> String {
    match session.command.is_empty() {
        true => "mpicc-proxy dispatch".to_owned(),
        false => plain(&session.command.join(" ")),
    }
}

fn state(view: &View) -> String {
    let at = clock(view.now_us / 1_000_000);
    let silent_us = view.now_us.saturating_sub(view.session.now_us);
    match (view.session.end, view.left) {
        (Some(end), _) => {
            let status = end.status.map_or(String::new(), |status| format!(", status {status}"));
            format!("ended after {}{status}", clock(view.session.wall_us() / 1_000_000))
        }
        (None, _) if view.session.is_dead => format!("killed after {}", clock(view.session.now_us / 1_000_000)),
        // With nothing to do, or on a host whose locks are not seen here.
        (None, _) if silent_us >= SILENT_US => format!("{at}, no event for {}", clock(silent_us / 1_000_000)),
        (None, Some(left)) => format!("{at}, about {} left", clock(left.as_secs())),
        (None, None) => at,
    }
}

fn lines(view: &View, width: usize, height: usize) -> Vec<Line<'static>> {
    let session = view.session;
    let state = state(view);
    let room = width.saturating_sub(state.chars().count() + 2);
    let mut command = command(session);
    if command.chars().count() > room {
        command = command.chars().take(room.saturating_sub(1)).chain(['…']).collect();
    }
    let (slots, running) = (session.slots() as usize, session.running.len());
    let totals = &session.totals;
    let counts = &session.counts;
    let mut lines = vec![
        Line::from(vec![format!("{command:room$}  ").bold(), state.into()]),
        Line::from(vec![
            "slots  ".dim(),
            bar(running, slots, BAR).fg(Color::Blue),
            format!("  {running} of {slots} busy, {} waiting, {} here", session.waiting.len(), session.local.len())
                .into(),
        ]),
        Line::from(vec![
            "done   ".dim(),
            format!("{} on ranks, {} here", totals.remote, totals.local).into(),
            count(totals.failed, "failed", Color::Red),
            count(totals.retries, "retried", Color::Yellow),
            count(totals.relaunches, "times ranks started again", Color::Yellow),
            format!(", {:.1} s of CPU", totals.compile_cpu_us as f64 / 1e6).into(),
        ]),
        Line::from(vec![
            "head   ".dim(),
            format!(
                "{} out, {} back, {} misses, {} tokens lent, {:.1} s of CPU",
                bytes(counts.bytes_to_workers),
                bytes(counts.bytes_from_workers),
                counts.misses,
                counts.tokens_lent,
                (counts.dispatcher_cpu_us + counts.clients_cpu_us) as f64 / 1e6
            )
            .into(),
        ]),
    ];
    let room = height.saturating_sub(AROUND).max(2);
    // What runs has the larger part.
    let ranks = rank_lines(session, width, (room / 2).max(1));
    let rest = room.saturating_sub(ranks.len()).max(1);
    lines.push(heading("ranks", width));
    lines.extend(ranks);
    lines.push(heading("running longest", width));
    let mut actions = running_lines(view, width, rest);
    actions.resize(rest, Line::default());
    lines.extend(actions);
    lines.push(reasons(session, width));
    lines
}

fn count(n: u64, what: &str, color: Color) -> Span<'static> {
    if n == 0 { "".into() } else { format!(", {n} {what}").fg(color) }
}

fn heading(text: &str, width: usize) -> Line<'static> {
    Line::from(format!("{text} {}", "─".repeat(width.saturating_sub(text.len() + 1)))).style(Style::new().dim())
}

/// A line each, if there is room; else a character each.
fn rank_lines(session: &Session, width: usize, room: usize) -> Vec<Line<'static>> {
    let workers = session.present();
    if workers.is_empty() {
        return vec!["none yet".dim().into()];
    }
    if workers.len() <= room {
        let host_width = workers.iter().map(|worker| worker.host.chars().count()).max().unwrap_or(0).clamp(4, 24);
        let line = |worker: &WorkerState| {
            let slots = worker.slots as usize;
            let name = format!("{:>4} {}  ", worker.rank, fit(&plain(&worker.host), host_width));
            if worker.until_us.is_some() && session.end.is_none() {
                return Line::from(vec![name.into(), "lost".fg(Color::Red)]);
            }
            let numbers = format!(
                "  {:>3} of {slots:<3}  {:>6} done {:>9.1} s",
                busy(worker),
                worker.finished,
                worker.cpu_us as f64 / 1e6
            );
            Line::from(vec![name.into(), bar(busy(worker), slots, BAR).fg(Color::Blue), numbers.into()])
        };
        return workers.iter().map(line).collect();
    }
    let cell = |worker: &WorkerState| match worker.until_us {
        Some(_) if session.end.is_none() => "x".fg(Color::Red),
        _ => {
            let slots = (worker.slots as usize).max(1);
            // Whoever is busy at all shows it.
            let level = (busy(worker) * (LEVELS.len() - 1)).div_ceil(slots).min(LEVELS.len() - 1);
            LEVELS[level].to_string().fg(Color::Blue)
        }
    };
    // In groups of ten, so that a rank can be found.
    let per_line = (width.saturating_sub(6) / 11).max(1) * 10;
    let mut lines: Vec<Line<'static>> = workers
        .chunks(per_line)
        .map(|part| {
            let mut spans = vec![format!("{:>4}  ", part[0].rank).dim()];
            for (at, worker) in part.iter().enumerate() {
                if at > 0 && at % 10 == 0 {
                    spans.push(" ".into());
                }
                spans.push(cell(worker));
            }
            Line::from(spans)
        })
        .collect();
    if lines.len() > room {
        let shown = room.saturating_sub(1);
        let hidden = workers.len() - shown * per_line;
        lines.truncate(shown);
        lines.push(format!("      and {hidden} more ranks").dim().into());
    }
    lines
}

fn running_lines(view: &View, width: usize, room: usize) -> Vec<Line<'static>> {
    let session = view.session;
    let started = |index: &usize| session.actions[*index].run.as_ref().map_or(u64::MAX, |run| run.since_us);
    let mut running: Vec<usize> = session.running.iter().copied().collect();
    running.sort_by_key(started);
    let line = |index: usize| {
        let action = &session.actions[index];
        let Some(run) = &action.run else { return Line::default() };
        let worker = &session.workers[run.worker];
        let seconds = view.now_us.saturating_sub(run.since_us) as f64 / 1e6;
        let expected = match action.expected_us {
            Some(us) => format!("of {:>6.1}", us as f64 / 1e6),
            None => " ".repeat(9),
        };
        let place = format!("{:>4} {}", worker.rank, fit(&plain(&worker.host), 12));
        let rest = width.saturating_sub(8 + 2 + 9 + 2 + 17 + 2);
        let package = if action.what.package.is_empty() { String::new() } else { format!("{}: ", action.what.package) };
        let name = if action.what.source.is_empty() { &action.what.output } else { &action.what.source };
        let name = if rest < 40 { short(name) } else { name };
        let name = fit(&plain(&format!("{package}{name}")), rest);
        let late = action.expected_us.is_some_and(|us| seconds * 1e6 > 2.0 * us as f64);
        let time = format!("{seconds:>6.1} s");
        let time = if late { time.fg(Color::Yellow) } else { time.into() };
        Line::from(vec![time, format!("  {expected}  {place}  {name}").into()])
    };
    if running.is_empty() {
        return vec!["nothing".dim().into()];
    }
    running.into_iter().take(room).map(line).collect()
}

fn reasons(session: &Session, width: usize) -> Line<'static> {
    let mut reasons: Vec<(&String, &u64)> = session.reasons.iter().collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let text: Vec<String> = reasons.iter().map(|(reason, count)| format!("{} {count}", plain(reason))).collect();
    let text = if text.is_empty() { "nothing".to_owned() } else { text.join(", ") };
    let text: String = format!("here: {text}").chars().take(width).collect();
    Line::from(text).style(Style::new().dim())
}

/// The same as one line, for what is no terminal.
pub fn line(view: &View) -> String {
    let session = view.session;
    let totals = &session.totals;
    let failed = if totals.failed > 0 { format!(", {} failed", totals.failed) } else { String::new() };
    format!(
        "{}: {} of {} slots busy, {} waiting; {} done on ranks, {} here{failed}, {} retried",
        state(view),
        session.running.len(),
        session.slots(),
        session.waiting.len(),
        totals.remote,
        totals.local,
        totals.retries
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Event;
    use crate::journal::Worker;
    use crate::journal::replay::tests::{finished, local, queued, started, told};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn screen(view: &View, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, view)).unwrap();
        let buffer = terminal.backend().buffer();
        let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(row).collect()
    }

    fn events() -> Vec<(f64, Event)> {
        vec![
            (0.0, queued(1)),
            (1.0, started(1, 2, "long\x1b[2Jname")),
            (2.0, started(2, 1, "quick")),
            (2.5, finished(2, 0.4)),
            (3.0, queued(3)),
            (3.0, local(4, "link", "prog")),
            (3.0, Event::Lost { rank: 1 }),
        ]
    }

    #[test]
    fn a_small_screen() {
        let session = told(events());
        let view = View { session: &session, now_us: 62_500_000, left: Some(Duration::from_secs(130)) };
        let screen = screen(&view, 80, 24);
        let end = "1:02, about 2:10 left";
        assert_eq!(screen[0], format!("make -j8{end:>72}"));
        assert_eq!(screen[1], "slots  ██████████░░░░░░░░░░  1 of 2 busy, 1 waiting, 1 here");
        assert_eq!(screen[2], "done   1 on ranks, 1 here, 0.4 s of CPU");
        assert_eq!(screen[5], "   1 alpha  lost");
        assert_eq!(screen[6], "   2 beta   ██████████░░░░░░░░░░    1 of 2         0 done       0.0 s");
        assert_eq!(screen[8], "  61.5 s                2 beta          /src/long?[2Jname.c");
        assert_eq!(screen[23], "here: link 1");
        assert_eq!(
            line(&view),
            "1:02, about 2:10 left: 1 of 2 slots busy, 1 waiting; 1 done on ranks, 1 here, 0 retried"
        );
    }

    #[test]
    fn a_killed_session_is_silent() {
        let session = told(events());
        let view = View { session: &session, now_us: 93_000_000, left: Some(Duration::from_secs(1)) };
        assert!(line(&view).starts_with("1:33, no event for 1:30: "));
    }

    #[test]
    fn two_hundred_ranks() {
        let worker = |rank| Worker { rank, host: format!("node{rank:03}"), slots: 8 };
        let mut events = vec![(0.5, Event::Ranks { ranks: (1..=200).map(worker).collect() })];
        events.extend((0..500).map(|n| (1.0, started(n, 1 + (n % 100) as i32, &format!("f{n}")))));
        events.push((2.0, Event::Lost { rank: 200 }));
        let session = told(events);
        let view = View { session: &session, now_us: 3_000_000, left: None };
        for (width, height) in [(80, 24), (200, 50), (40, 12), (20, 5), (1, 1)] {
            let screen = screen(&view, width, height);
            if width >= 80 {
                assert!(screen[5].starts_with("   1  ▅▅▅▅▅▅▅▅▅▅ ▅▅▅▅"), "{screen:#?}");
                assert!(screen.iter().any(|row| row.ends_with('x')), "the lost one is seen");
                let running = screen.iter().position(|row| row.starts_with("running longest")).unwrap();
                assert!(screen[running + 1].contains("node001"));
                assert!(screen[height as usize - 1].starts_with("here: "));
            }
        }
    }

    #[test]
    fn the_end_is_seen() {
        let mut events = events();
        events.push((9.0, Event::End { status: Some(2), command_us: None }));
        let session = told(events);
        let view = View { session: &session, now_us: 70_000_000, left: None };
        assert!(screen(&view, 80, 24)[0].ends_with("ended after 0:09, status 2"));
    }
}
