//! Man pages and completions for shells, made from the command line's definition, in the folders of an installation where
//! man(1) and shells look for them. Plus mpicc-proxy-events(5), which is written by hand.

use clap::Command;
use clap_complete::Shell;
use std::fs;
use std::io;
use std::path::Path;

/// The event log, for those who read it by programs of their own.
const EVENTS_PAGE: &str = include_str!("journal/mpicc-proxy-events.5");

/// Where a shell looks for completions below `share`, and under which name.
const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash-completion/completions/mpicc-proxy"),
    (Shell::Zsh, "zsh/site-functions/_mpicc-proxy"),
    (Shell::Fish, "fish/vendor_completions.d/mpicc-proxy.fish"),
];

/// Hidden subcommands are nobody's to type.
fn completion(shell: Shell, command: &Command) -> String {
    let visible = command.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let mut shown = Command::new("mpicc-proxy").version("").subcommands(visible);
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut shown, "mpicc-proxy", &mut script);
    // clap_complete 4.6 spells a program's name that has a hyphen in two ways in a script for bash.
    String::from_utf8_lossy(&script).replace("mpicc__subcmd__proxy", "mpicc__proxy")
}

/// Writes all below `share`, for instance `/usr/local/share`.
///
/// # Errors
/// A file cannot be written.
pub fn write(command: Command, share: &Path) -> io::Result<()> {
    let pages = share.join("man/man1");
    fs::create_dir_all(&pages)?;
    clap_mangen::generate_to(command.clone().disable_help_subcommand(true), &pages)?;
    for (shell, file) in COMPLETIONS {
        let file = share.join(file);
        fs::create_dir_all(file.parent().unwrap_or(share))?;
        fs::write(file, completion(shell, &command))?;
    }
    let formats = share.join("man/man5");
    fs::create_dir_all(&formats)?;
    fs::write(formats.join("mpicc-proxy-events.5"), EVENTS_PAGE)
}
