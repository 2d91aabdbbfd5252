//! What `-march=native`, `-mtune=native` and `-mcpu=native` mean on this host, so that the compile can run on another.
//! The driver itself is asked with `-###` what it would give the compiler proper; a command line that spells it out must
//! bring the same, down to the order of words where that counts, or the compile runs here. What was learned is kept in a
//! small file per driver and `-m` options, until the host starts anew or the driver changes: a compile costs the look-up.
//!
//! # GCC
//! Its specs (the named spec `cc1_cpu`) call `local_cpu_detect`. A specs file of ours replaces the calls by what they
//! return, and goes to the command line as `-specs=FILE`; everything else, the place of the words among the others
//! included, stays what it was. Words of our own on the command line could not do that: they would come in another order,
//! which is seen in debug information.
//!
//! # clang
//! The processor's name replaces `native`; its features, which clang takes from the processor itself rather than from
//! its name, are given to the compiler proper with `-Xclang -target-feature`, in the same order. Where they stand among
//! other options does not matter to `clang -cc1`.
//!
//! Knows neither sockets nor the rest of the command line.

use crate::wire::{Bytes, Digest};
use anyhow::{Context, Result, bail};
use mpicc_proxy_abi::driver::{Dialect, base_name};
use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, io};

/// Changes with the host and whenever it starts: its processor is the same as long as this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What the names of kept files begin with.
const KEPT_AS: &str = "native-";

/// The named spec with GCC's calls, and the calls.
const SPEC: &str = "*cc1_cpu:";
const CALL: &str = "%:local_cpu_detect(";

/// A driver on this host, and what it is asked about.
pub struct Question<'a> {
    pub driver: &'a [u8],
    pub dialect: Dialect,
    /// All options of the command line that name processors and their features, with their values.
    pub machine: &'a [Bytes],
    /// `NAME=value` entries that the driver gets.
    pub environment: &'a [Bytes],
}

/// The command line that means the same on every host.
///
/// # Errors
/// The driver's answer is not understood, or cannot be spelled out.
pub fn spell_out(question: &Question<'_>, argv: &[Bytes], folder: &Path) -> Result<Vec<Bytes>> {
    let file = folder.join(question.file_name()?);
    if question.dialect == Dialect::Gnu {
        if !file.exists() {
            keep(&file, question.gnu_specs(folder)?.as_bytes())?;
        }
        let mut words = argv.to_vec();
        words.insert(1, [b"-specs=", file.as_os_str().as_bytes()].concat());
        return Ok(words);
    }
    // clang does not take it for this processor, and its warning repeats the word.
    if cfg!(target_arch = "x86_64") && argv.iter().any(|word| word == b"-mcpu=native") {
        bail!("-mcpu=native means nothing to clang here");
    }
    let answer = match fs::read(&file) {
        Ok(answer) => answer,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let answer = question.clang_words()?.join("\n").into_bytes();
            keep(&file, &answer)?;
            answer
        }
        Err(error) => return Err(error.into()),
    };
    let answer = String::from_utf8(answer)?;
    Ok(replace(argv, &answer.split('\n').collect::<Vec<_>>()))
}

/// Does this look like a file of ours, without a look at it?
pub fn is_kept(path: &[u8]) -> bool {
    base_name(path).starts_with(KEPT_AS.as_bytes())
}

/// Other clients may write the same file at the same time, with the same content.
fn keep(file: &Path, content: &[u8]) -> io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("/"));
    let mut fresh = tempfile::NamedTempFile::new_in(folder)?;
    fresh.write_all(content)?;
    fresh.persist(file).map_err(|error| error.error)?;
    Ok(())
}

impl Question<'_> {
    fn file_name(&self) -> Result<String> {
        let driver = fs::metadata(OsStr::from_bytes(self.driver))?;
        let stamp = format!("{} {} {} {}", driver.ino(), driver.size(), driver.mtime(), driver.mtime_nsec());
        let boot = fs::read(BOOT_ID)?;
        let mut all = vec![self.driver, stamp.as_bytes(), &boot];
        all.extend(self.machine.iter().map(Vec::as_slice));
        Ok(format!("{KEPT_AS}{}", Digest::of(&all.join(&0)).file_name()))
    }

    /// Runs the driver with the options in question and `more`; what it prints on both streams.
    fn ask(&self, more: &[&OsStr]) -> Result<String> {
        let mut command = Command::new(OsStr::from_bytes(self.driver));
        command.args(self.machine.iter().map(|word| OsStr::from_bytes(word))).args(more).env_clear();
        for entry in self.environment {
            if let Some(at) = entry.iter().position(|b| *b == b'=') {
                command.env(OsStr::from_bytes(&entry[..at]), OsStr::from_bytes(&entry[at + 1..]));
            }
        }
        command.env("MPICC_PROXY", "off").env("LC_ALL", "C").stdin(Stdio::null());
        let output =
            command.output().with_context(|| format!("cannot run {}", String::from_utf8_lossy(self.driver)))?;
        Ok(String::from_utf8([output.stdout, output.stderr].concat())?)
    }

    /// The compiler proper's command line, in words.
    fn plan(&self, more: &[&OsStr]) -> Result<Vec<String>> {
        let fixed = ["-###", "-S", "-O2", "-g", "-x", "c", "/dev/null", "-o", "/dev/null"].map(OsStr::new);
        let text = self.ask(&[more, &fixed].concat())?;
        // clang says in a line of its own that it starts no process for it.
        let mut commands = text.lines().filter(|line| line.starts_with(' ') && !line.starts_with(" ("));
        match (commands.next(), commands.next()) {
            (Some(command), None) => words(command),
            _ => bail!("the driver does not say what it would run: {text}"),
        }
    }

    fn gnu_specs(&self, folder: &Path) -> Result<String> {
        let specs = self.ask(&[OsStr::new("-dumpspecs")])?;
        let mut lines = specs.lines().skip_while(|line| *line != SPEC);
        let spec =
            lines.nth(1).filter(|_| lines.next() == Some("")).context("the driver has no spec of one line for it")?;
        // One after the other between marks, and the driver evaluates them.
        let calls = calls(spec)?;
        if calls.is_empty() {
            bail!("the driver's specs do not ask for this processor");
        }
        let probe: Vec<String> = calls.iter().map(|call| format!("BEGIN {call} END")).collect();
        let probed = self.plan_with_specs(&probe.join(" "), folder)?;
        let mut values = probed.split(|word| word == "BEGIN").skip(1);
        let mut literal = spec.to_owned();
        for call in calls {
            let value = values.next().context("the driver did not evaluate its specs")?;
            let value = value.split(|word| word == "END").next().unwrap_or_default();
            let plain = |word: &String| word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-=._+".contains(&b));
            if !value.iter().all(plain) {
                bail!("odd words for this processor: {value:?}");
            }
            literal = literal.replace(call, &value.join(" "));
        }
        if self.plan(&[])? != self.plan_with_specs(&literal, folder)? {
            bail!("it is not the same when spelled out");
        }
        Ok(specs_file(&literal))
    }

    fn plan_with_specs(&self, spec: &str, folder: &Path) -> Result<Vec<String>> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(specs_file(spec).as_bytes())?;
        let mut option = OsString::from("-specs=");
        option.push(file.path());
        self.plan(&[&option])
    }

    /// The processor to generate code for, the one to tune for (or nothing), and the features.
    fn clang_words(&self) -> Result<Vec<String>> {
        let (features, others) = features(&self.plan(&[])?);
        let value = |option: &str| {
            let at = others.iter().position(|word| word == option);
            at.and_then(|at| others.get(at + 1)).cloned().unwrap_or_default()
        };
        let mut answer = vec![value("-target-cpu"), value("-tune-cpu")];
        if answer[0].is_empty() {
            bail!("clang does not name this processor");
        }
        let spelled_out = |answer: &[String]| -> Result<_> {
            let machine = replace(self.machine, &answer.iter().map(String::as_str).collect::<Vec<_>>());
            let plan = Question { machine: &machine, ..*self }.plan(&[])?;
            Ok(self::features(&plan))
        };
        let by_name = spelled_out(&answer)?;
        if by_name.0 != features {
            answer.extend(features.iter().cloned());
        }
        if spelled_out(&answer)? != (features, others) {
            bail!("it is not the same when spelled out");
        }
        Ok(answer)
    }
}

fn specs_file(spec: &str) -> String {
    format!("{SPEC}\n{spec}\n\n")
}

/// The calls in a spec, each with its arguments, which may have parentheses of their own.
pub fn calls(spec: &str) -> Result<Vec<&str>> {
    let mut found = Vec::new();
    let mut rest = spec;
    while let Some(start) = rest.find(CALL) {
        let call = &rest[start..];
        let mut depth = 0;
        let end = call.bytes().position(|b| {
            depth += i32::from(b == b'(') - i32::from(b == b')');
            b == b')' && depth == 0
        });
        let end = end.context("a call without an end")?;
        if !found.contains(&&call[..=end]) {
            found.push(&call[..=end]);
        }
        rest = &call[end + 1..];
    }
    Ok(found)
}

/// Words of a command that a driver prints: plain, or in double quotes with backslashes.
pub fn words(command: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut letters = command.trim_start_matches(' ').chars().peekable();
    while letters.peek().is_some() {
        let mut word = String::new();
        if letters.next_if_eq(&'"').is_some() {
            loop {
                match letters.next().context("an open quote")? {
                    '"' => break,
                    '\\' => word.extend(letters.next()),
                    letter => word.push(letter),
                }
            }
        }
        while let Some(letter) = letters.next_if(|letter| *letter != ' ') {
            word.push(letter);
        }
        words.push(word);
        while letters.next_if_eq(&' ').is_some() {}
    }
    Ok(words)
}

/// The features on clang's command line, and the other words.
fn features(plan: &[String]) -> (Vec<String>, Vec<String>) {
    let (mut features, mut others) = (Vec::new(), Vec::new());
    let mut words = plan.iter().cloned();
    while let Some(word) = words.next() {
        if word == "-target-feature" { features.extend(words.next()) } else { others.push(word) }
    }
    (features, others)
}

/// clang's command line with this host's processor by name, and its features for the compiler proper.
fn replace(argv: &[Bytes], answer: &[&str]) -> Vec<Bytes> {
    let [processor, tune, features @ ..] = answer else { return argv.to_vec() };
    let mut words: Vec<Bytes> = argv
        .iter()
        .map(|word| match word.as_slice() {
            b"-march=native" => format!("-march={processor}").into_bytes(),
            b"-mcpu=native" => format!("-mcpu={processor}").into_bytes(),
            b"-mtune=native" if tune.is_empty() => format!("-mtune={processor}").into_bytes(),
            b"-mtune=native" => format!("-mtune={tune}").into_bytes(),
            other => other.to_vec(),
        })
        .collect();
    // Behind `--` they would be sources.
    let end = words.iter().position(|word| word == b"--").unwrap_or(words.len());
    let features = features.iter().flat_map(|feature| ["-Xclang", "-target-feature", "-Xclang", feature]);
    words.splice(end..end, features.map(|word| word.as_bytes().to_vec()));
    words
}

/// Where the files are kept: beside the dispatcher's usual socket, since those who write there write for themselves.
///
/// # Errors
/// Others could write there.
pub fn folder() -> io::Result<PathBuf> {
    let usual = crate::paths::usual_socket_path();
    crate::paths::prepare_socket_directory(&usual)?;
    Ok(usual.parent().unwrap_or(Path::new("/")).to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn calls_with_parentheses_of_their_own() {
        let spec = "%{march=native:%:local_cpu_detect(arch %{!m32:64}) %:local_cpu_detect(tune (x))} %:local_cpu_detect(tune (x))";
        assert_eq!(calls(spec).unwrap(), ["%:local_cpu_detect(arch %{!m32:64})", "%:local_cpu_detect(tune (x))"]);
        assert!(calls("%:local_cpu_detect(arch").is_err());
    }

    #[test]
    fn words_of_a_printed_command() {
        assert_eq!(
            words(r#" /p/cc1 "-mtune=x" "a \"b" -D "" y"#).unwrap(),
            ["/p/cc1", "-mtune=x", "a \"b", "-D", "", "y"]
        );
        assert!(words(" \"a").is_err());
    }

    #[test]
    fn clang_is_told_by_name_and_features() {
        let argv: Vec<Bytes> =
            ["clang", "-march=native", "-mtune=native", "-c", "--", "x.c"].map(|word| word.as_bytes().to_vec()).into();
        let words = replace(&argv, &["cascadelake", "", "+avx", "-amx"]);
        let text = String::from_utf8(words.join(&b' ')).unwrap();
        assert_eq!(
            text,
            "clang -march=cascadelake -mtune=cascadelake -c -Xclang -target-feature -Xclang +avx \
             -Xclang -target-feature -Xclang -amx -- x.c"
        );
    }

    /// Also what [`spell_out`] checks by itself, but here with the drivers of this host, and another option.
    #[test]
    fn the_drivers_of_this_host_are_understood() {
        let folder = tempfile::tempdir().unwrap();
        let environment: Vec<Bytes> =
            std::env::vars_os().map(|(name, value)| [name.into_vec(), value.into_vec()].join(&b'=')).collect();
        for (driver, dialect) in [("/usr/bin/gcc", Dialect::Gnu), ("/usr/bin/clang", Dialect::Clang)] {
            for options in [&["-march=native"][..], &["-mtune=native"], &["-march=native", "-mtune=generic", "-mavx"]] {
                let machine: Vec<Bytes> = options.iter().map(|word| word.as_bytes().to_vec()).collect();
                let question =
                    Question { driver: driver.as_bytes(), dialect, machine: &machine, environment: &environment };
                let argv = [vec![driver.into()], machine.clone()].concat();
                let spelled_out = spell_out(&question, &argv, folder.path());
                if dialect == Dialect::Clang && options.contains(&"-mavx") {
                    // The order of features would be another one.
                    assert!(spelled_out.is_err());
                    continue;
                }
                let spelled_out = spelled_out.unwrap();
                assert_ne!(spelled_out, argv);
                let names = || fs::read_dir(folder.path()).unwrap().count();
                let before = names();
                assert_eq!(spell_out(&question, &argv, folder.path()).unwrap(), spelled_out);
                assert_eq!(names(), before);
                let other = Question { machine: &spelled_out[1..], ..question };
                assert!(
                    other.plan(&[]).unwrap().iter().all(|word| dialect == Dialect::Gnu || !word.contains("native"))
                );
            }
        }
    }
}
