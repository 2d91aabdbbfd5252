//! `mpicc-proxy doctor`: what would make a session on this machine or in this allocation fail, or crawl.
//!
//! [`facts`] asks the system, and starts ranks that only say what they see; [`checks`] decides what that means, and asks
//! nothing. Here is how it is printed.

pub mod checks;
pub mod facts;

use crate::error::{Failure, exit};
use crate::ranks::LaunchOptions;
use crate::signals::Signals;
use checks::{Finding, Level};
use facts::Facts;
use std::fmt::Write;

/// Options of `mpicc-proxy doctor`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub launch: LaunchOptions,
}

/// Examines this machine; returns what is to be printed, and the exit status.
///
/// # Errors
/// An option makes no sense, or a signal came.
pub fn examine(options: &Options) -> Result<(String, u8), Failure> {
    let signals =
        Signals::watch().map_err(|e| Failure::new(exit::NO_RANKS, format!("cannot watch for signals: {e}")))?;
    let facts = Facts::gather(&options.launch, &signals)?;
    let findings = checks::findings(&facts);
    let text = if options.json { json(&findings, &facts) } else { text(&findings, &facts) };
    let is_bad = findings.iter().any(|finding| finding.level == Level::Error);
    Ok((text, if is_bad { exit::ERRORS_FOUND } else { 0 }))
}

/// A line for each finding, with two more below it where something is wrong. What the launcher wrote comes last, if the
/// ranks did not start.
fn text(findings: &[Finding], facts: &Facts) -> String {
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { name, level, finding, consequence, remedy } in findings {
        let _ = writeln!(text, "{:7}  {name:width$}  {finding}", level.word());
        for (head, sentence) in [("so", consequence), ("do", remedy)] {
            if let Some(sentence) = sentence {
                let _ = writeln!(text, "{:7}  {:>width$}  {sentence}", "", head);
            }
        }
    }
    let count = |level: Level, word: &str| {
        let n = findings.iter().filter(|finding| finding.level == level).count();
        format!("{n} {word}{}", if n == 1 { "" } else { "s" })
    };
    let _ = writeln!(text, "{}, {}", count(Level::Error, "error"), count(Level::Warning, "warning"));
    if let Ok(start) = &facts.start
        && start.has_failed()
    {
        let output = if start.output.is_empty() { "(nothing)\n" } else { &start.output };
        let _ = write!(text, "command: {}\noutput:\n{output}", start.command);
    }
    text
}

fn json(findings: &[Finding], facts: &Facts) -> String {
    let start = facts.start.as_ref().ok();
    let object = serde_json::json!({
        "findings": findings,
        "command": start.map(|start| &start.command),
        "output": start.map(|start| &start.output),
    });
    format!("{object:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_for_people_and_for_programs() {
        let mut facts = facts::tests::healthy();
        facts.start.as_mut().unwrap().trouble = Some("mpiexec ended with 1".into());
        facts.start.as_mut().unwrap().seen.pop();
        facts.start.as_mut().unwrap().output = "no such host\n".into();
        let findings = checks::findings(&facts);
        let text = text(&findings, &facts);
        let lines: Vec<&str> = text.lines().collect();
        let at = lines.iter().position(|line| line.starts_with("error    ranks-start ")).unwrap();
        assert!(lines[at + 1].trim_start().starts_with("so  ") && lines[at + 2].trim_start().starts_with("do  "));
        assert!(text.ends_with("1 error, 0 warnings\ncommand: mpiexec -n 4\noutput:\nno such host\n"), "{text}");

        let object: serde_json::Value = serde_json::from_str(&json(&findings, &facts)).unwrap();
        let rows = object["findings"].as_array().unwrap();
        let row = rows.iter().find(|row| row["name"] == "ranks-start").unwrap();
        assert_eq!(row["level"], "error");
        assert!(["finding", "consequence", "remedy"].iter().all(|part| row[part].is_string()), "{row}");
        assert!(rows.iter().any(|row| row["level"] == "ok" && row["remedy"].is_null()));
        assert_eq!(object["output"], "no such host\n");
    }
}
