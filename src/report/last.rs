//! `explain --last FILE`: what became of the output FILE when it was last made, by the newest event log that knows.

use super::{figures::seconds, load, no_log, plain, the_folder};
use crate::error::Failure;
use crate::journal::folder;
use crate::journal::replay::{Action, Outcome, Session};
use crate::paths;
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// # Errors
/// No log knows the file.
pub fn explain_last(file: &OsStr, json: bool) -> Result<String, Failure> {
    let cwd = std::env::current_dir().unwrap_or_default();
    let asked = paths::absolute(cwd.as_os_str().as_bytes(), file.as_bytes());
    let asked = String::from_utf8_lossy(&asked).into_owned();
    let folder = the_folder()?;
    // A log has the name that the command line gave. Here the name may be another one of the folder, or of the file.
    let known_as = [paths::with_real_folder(Path::new(&asked)), std::fs::canonicalize(&asked).ok()];
    let is_it = |output: &str| {
        output == asked
            || known_as.iter().flatten().any(|known| {
                let output = Path::new(output);
                known.file_name() == output.file_name() && paths::with_real_folder(output).as_ref() == Some(known)
            })
    };
    for log in folder::files(&folder).unwrap_or_default() {
        // A log that cannot be read knows nothing, nor is one of use whose session nobody can name.
        let Some(session) = load(&log).ok().filter(|session| !session.id.is_empty()) else { continue };
        if let Some(action) = session.actions.iter().rev().find(|action| is_it(&action.what.output)) {
            let object = object(&session, action);
            return Ok(if json { format!("{object:#}\n") } else { sentence(&object) });
        }
    }
    let (file, folder) = (file.display(), folder.display());
    Err(no_log(&format!(
        "no event log in {folder} has {file} as the (first) output of a compiler: it was not made by one below \
         mpicc-proxy, or long ago"
    )))
}

fn object(session: &Session, action: &Action) -> Value {
    let mut object = json!({
        "output": action.what.output,
        "session": session.id,
        "at": seconds(session.began_us + action.queued_us),
        "causes": action.causes,
    });
    if let Some(run) = &action.run {
        let worker = &session.workers[run.worker];
        object["rank"] = json!(worker.rank);
        object["host"] = json!(worker.host);
        object["waited_s"] = json!(seconds(action.waited_us()));
        object["wall_s"] = json!(run.wall_us().map(seconds));
    }
    let verdict = match (&action.local, action.outcome) {
        (Some(local), _) => {
            object["reason"] = json!(local.reason);
            object["detail"] = json!(local.detail);
            "local"
        }
        (None, Some(Outcome::Remote(figures))) => {
            object["cpu_s"] = json!(seconds(figures.cpu_us));
            object["misses"] = json!(figures.misses);
            object["exit"] = json!(figures.exit);
            "remote"
        }
        (None, Some(Outcome::Abandoned)) => "abandoned",
        (None, Some(Outcome::Lost | Outcome::Local)) => "lost",
        (None, None) if session.is_dead => "lost",
        (None, None) if action.run.is_some() => "running",
        (None, None) => "waiting",
    };
    object["verdict"] = json!(verdict);
    object
}

fn sentence(object: &Value) -> String {
    let text = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
    let number = |name: &str| object[name].as_f64().unwrap_or_default();
    let on = || format!("rank {} on {}", object["rank"], text("host"));
    let causes: Vec<String> = object["causes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|cause| Some(cause.as_str()?.to_owned()))
        .collect();
    let after = if causes.is_empty() { String::new() } else { format!("; before that: {}", causes.join("; ")) };
    let what = match text("verdict").as_str() {
        "remote" => format!(
            "{}: {}, after {:.2} s of waiting, in {:.2} s ({:.2} s of CPU, {} misses)",
            match &object["exit"]["code"] {
                Value::Number(code) if code.as_i64() == Some(0) => "remote".to_owned(),
                Value::Number(code) => format!("remote, with status {code}"),
                _ => format!("remote, by signal {}", object["exit"]["signal"]),
            },
            on(),
            number("waited_s"),
            number("wall_s"),
            number("cpu_s"),
            object["misses"]
        ),
        "local" => {
            let detail = text("detail");
            let detail = if detail.is_empty() { detail } else { format!(": {detail}") };
            format!("local ({}){detail}", text("reason"))
        }
        "running" => format!("running: {}", on()),
        "waiting" => "waiting for a slot".to_owned(),
        "abandoned" => "abandoned: its build was cancelled".to_owned(),
        _ => "lost: its session or dispatcher died, and the log does not say where it was made then".to_owned(),
    };
    let name = format!("{} in session {}", text("output"), text("session"));
    format!("{}\n  {}\n", plain(&format!("{what}{after}")), plain(&name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Event;
    use crate::journal::replay::tests::{finished, local, queued, started, told};

    #[test]
    fn one_output_is_explained() {
        let session = told(vec![
            (0.0, queued(1)),
            (0.5, started(1, 2, "a")),
            (2.0, finished(1, 1.25)),
            (2.0, queued(2)),
            (2.0, started(2, 1, "b")),
            (3.0, Event::Retried { action: 2, cause: "rank 1 on alpha: killed".into() }),
            (3.0, local(2, "rank-trouble", "b\u{7}\n.o")),
            (3.0, queued(3)),
        ]);
        let of = |index: usize| sentence(&object(&session, &session.actions[index]));
        assert_eq!(
            of(0),
            "remote: rank 2 on beta, after 0.50 s of waiting, in 1.50 s (1.25 s of CPU, 2 misses)\n  /build/a.o in session \
             20260101-000000-1\n"
        );
        assert!(of(1).starts_with("local (rank-trouble); before that: rank 1 on alpha: killed\n"), "{}", of(1));
        assert!(of(1).ends_with("  /build/b??.o in session 20260101-000000-1\n"), "{}", of(1));
        assert!(of(2).starts_with("waiting for a slot\n"));
    }
}
