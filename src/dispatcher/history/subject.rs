//! Who an action is, as far as predictions go: its identity, whose sibling it is, and the names that are its own. A
//! path that contains one of them ([`Subject::templates`]) says what a sibling will ask about ([`Subject::expand`]).

use crate::driver::{self, Verdict};
use crate::paths::absolute;
use crate::wire::{Bytes, Invocation};
use mpicc_proxy_abi::driver as names;
use std::hash::{Hash, Hasher};
use std::io;

/// Identity of an action over its runs: a hash of driver, working directory and command line.
pub type ActionKey = u64;

/// Identity of a group of siblings, in this process.
pub type Scope = u64;

/// Begins a placeholder. Nothing that is asked for contains it: C strings end there.
const MARK: u8 = 0;

/// What a placeholder stands for, and the byte that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Variable {
    /// The source without its suffix.
    SourceStem = b'S',
    /// The output without its suffix.
    OutputStem = b'O',
    /// The folder of the source.
    SourceFolder = b'D',
    /// The folder of the output.
    OutputFolder = b'P',
    /// The working directory.
    Directory = b'C',
    /// The file name of the source without its suffix, in any folder.
    Name = b'N',
}

/// How close a sibling is. In this order, from the closest to the most distant.
pub const LEVELS: usize = 5;
/// Same driver and working directory.
pub const SAME_DIRECTORY: usize = 0;
/// Same driver, sources in the same folder.
pub const SAME_FOLDER: usize = 1;
/// Same driver, whatever the project.
pub const SAME_DRIVER: usize = 4;

/// What is kept of an invocation for as long as its action is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub driver: Bytes,
    pub cwd: Bytes,
    /// The (first) source and the output, absolute; empty where the command line does not tell.
    pub source: Bytes,
    pub output: Bytes,
}

impl Origin {
    pub fn of(invocation: &Invocation) -> Origin {
        let mut origin = Origin {
            driver: invocation.driver.clone(),
            cwd: invocation.cwd.clone(),
            source: Bytes::new(),
            output: Bytes::new(),
        };
        let name = names::base_name(&invocation.driver);
        let written_name = invocation.argv.first().map_or(name, |word| names::base_name(word));
        let called = names::recognise(written_name).filter(|driver| driver.dialect != names::Dialect::Either);
        let Some(driver) = called.or_else(|| driver::driver_at(&invocation.driver)) else { return origin };
        let arguments = invocation.argv.get(1..).unwrap_or_default();
        // Reading response files once more, which the client did already, is not worth a sharper prediction.
        let mut read = |name: &[u8]| match driver::native::is_kept(name) {
            true => Ok(Vec::new()),
            false => Err(io::ErrorKind::Unsupported.into()),
        };
        if let Verdict::Remote(compile) = driver::classify(driver, arguments, &mut read) {
            if let Some(source) = compile.sources.first() {
                origin.source = absolute(&origin.cwd, &source.path);
            }
            origin.output = match compile.output {
                Some(output) => absolute(&origin.cwd, &output),
                None => absolute(&origin.cwd, &[without_suffix(names::base_name(&origin.source)), b".o"].concat()),
            };
        }
        origin
    }
}

/// An action, with all that is asked about it.
#[derive(Clone, Debug)]
pub struct Subject {
    pub key: ActionKey,
    pub origin: Origin,
    pub scopes: [Scope; LEVELS],
    variables: Vec<(Variable, Bytes)>,
    /// Where the environment says that the working directory is. Drivers look whether it is true.
    pub stated_directory: Option<Bytes>,
}

impl Subject {
    pub fn of(invocation: &Invocation) -> Subject {
        let stated = invocation.variable(b"PWD").filter(|path| path.starts_with(b"/")).map(|path| absolute(b"", path));
        Subject { stated_directory: stated, ..Subject::new(action_key(invocation), Origin::of(invocation)) }
    }

    pub fn new(key: ActionKey, origin: Origin) -> Subject {
        let scopes = scopes(&origin);
        let mut variables = Vec::new();
        let mut add = |variable, value: &[u8]| {
            if !value.is_empty() {
                variables.push((variable, value.to_vec()));
            }
        };
        add(Variable::SourceStem, without_suffix(&origin.source));
        add(Variable::OutputStem, without_suffix(&origin.output));
        add(Variable::SourceFolder, folder(&origin.source));
        add(Variable::OutputFolder, folder(&origin.output));
        add(Variable::Directory, &origin.cwd);
        add(Variable::Name, without_suffix(names::base_name(&origin.source)));
        Subject { key, origin, scopes, variables, stated_directory: None }
    }

    /// Writes `path` with this action's own names replaced, in each way that makes sense for a sibling; and whether
    /// the path as it is says anything about siblings.
    pub fn templates(&self, path: &[u8], mut with: impl FnMut(&[u8])) -> bool {
        for (variable, value) in &self.variables {
            let template = match variable {
                Variable::SourceStem | Variable::OutputStem => {
                    let Some(rest) = path.strip_prefix(&value[..]).filter(|rest| rest.starts_with(b".")) else {
                        continue;
                    };
                    with(&[&[MARK, *variable as u8], rest].concat());
                    // Its object is nobody else's; and who else needs a header named like the source says so itself.
                    return false;
                }
                Variable::Name => {
                    let at = path.len() - names::base_name(path).len();
                    let Some(rest) = path[at..].strip_prefix(&value[..]).filter(|rest| rest.starts_with(b".")) else {
                        continue;
                    };
                    [&path[..at], &[MARK, *variable as u8], rest].concat()
                }
                _ => {
                    let Some(rest) = path.strip_prefix(&value[..]) else { continue };
                    if !rest.is_empty() && rest[0] != b'/' {
                        continue;
                    }
                    [&[MARK, *variable as u8], rest].concat()
                }
            };
            with(&template);
        }
        true
    }

    /// The path that a template means here; a path is its own.
    pub fn expand(&self, template: &[u8]) -> Option<Bytes> {
        let Some(at) = template.iter().position(|byte| *byte == MARK) else { return Some(template.to_vec()) };
        let code = *template.get(at + 1)?;
        let (_, value) = self.variables.iter().find(|(variable, _)| *variable as u8 == code)?;
        Some([&template[..at], value, &template[at + 2..]].concat())
    }
}

/// Does this stand for another path in every action?
pub fn is_template(path: &[u8]) -> bool {
    path.contains(&MARK)
}

/// Does this placeholder mean the same for all members of a group of this level, so that the path as it is says it all?
pub fn is_constant(template: &[u8], level: usize) -> bool {
    match template {
        [MARK, code, ..] if *code == Variable::Directory as u8 => level == SAME_DIRECTORY,
        [MARK, code, ..] if *code == Variable::SourceFolder as u8 => level == SAME_FOLDER,
        _ => false,
    }
}

/// Is it a path that belongs to the system or to the driver's installation, not to a project?
pub fn is_of_system(path: &[u8], driver: &[u8]) -> bool {
    let installation = folder(folder(driver));
    let below = |root: &[u8]| path.strip_prefix(root).is_some_and(|rest| rest.starts_with(b"/"));
    [&b"/usr"[..], b"/lib", b"/lib64", b"/etc"].into_iter().any(below)
        || (installation.len() > 1 && below(installation))
}

fn scopes(origin: &Origin) -> [Scope; LEVELS] {
    let near = folder(&origin.source);
    let wider = [near, folder(near), folder(folder(near))];
    let scope = |level: usize, place: &[u8]| {
        let mut hasher = std::collections::hash_map::DefaultHasher::new();
        (level, &origin.driver, place).hash(&mut hasher);
        hasher.finish()
    };
    // To lie below the root is nothing in common.
    let above = |level: usize| scope(level, if wider[level - 1].is_empty() { near } else { wider[level - 1] });
    [scope(SAME_DIRECTORY, &origin.cwd), above(SAME_FOLDER), above(2), above(3), scope(SAME_DRIVER, b"")]
}

pub fn action_key(invocation: &Invocation) -> ActionKey {
    let mut hasher = blake3::Hasher::new();
    for part in [&invocation.driver, &invocation.cwd].into_iter().chain(&invocation.argv) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    u64::from_le_bytes(hasher.finalize().as_bytes()[..8].try_into().expect("8 bytes of a digest"))
}

/// As the worker's library asks: joined with the working directory, `//` and `/./` collapsed, `..` kept.
fn folder(path: &[u8]) -> &[u8] {
    &path[..path.iter().rposition(|byte| *byte == b'/').unwrap_or(0)]
}

fn without_suffix(path: &[u8]) -> &[u8] {
    let name = path.len() - names::base_name(path).len();
    match path.iter().rposition(|byte| *byte == b'.') {
        Some(dot) if dot > name => &path[..dot],
        _ => path,
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn invocation(cwd: &str, words: &str) -> Invocation {
        Invocation {
            driver: b"/usr/bin/gcc".to_vec(),
            argv: words.split(' ').map(|word| word.as_bytes().to_vec()).collect(),
            environment: vec![],
            cwd: cwd.into(),
            umask: 0o22,
            terminals: 0,
            window: None,
            merged_output: false,
            limits: vec![],
            viewpoint: Default::default(),
            stdin: None,
        }
    }

    fn carried_over(from: &Subject, to: &Subject, path: &str) -> Vec<String> {
        let mut out = Vec::new();
        from.templates(path.as_bytes(), |template| {
            out.extend(to.expand(template).map(|path| String::from_utf8(path).unwrap()));
        });
        out
    }

    #[test]
    fn own_names_carry_over() {
        let subject = |cwd, words| Subject::of(&invocation(cwd, words));
        let a = subject("/s/b", "gcc -c ../db/a.cc -o ./o/db/a.cc.o");
        let b = subject("/s/b", "gcc -c ../util/b.cc -o o/util/b.cc.o");
        assert_eq!(a.origin.source, b"/s/b/../db/a.cc");
        assert_eq!(a.origin.output, b"/s/b/o/db/a.cc.o");
        let table: [(&str, &[&str]); 9] = [
            ("/s/b/../db/a.cc", &["/s/b/../util/b.cc"]),
            ("/s/b/../db/a.h", &["/s/b/../util/b.h"]),
            ("/s/b/../db/ab.h", &["/s/b/../util/ab.h", "/s/b/../db/ab.h"]),
            ("/s/b/o/db/a.cc.d", &["/s/b/o/util/b.cc.d"]),
            ("/s/b/o/db", &["/s/b/o/util", "/s/b/o/db"]),
            ("/s/include/a.h", &["/s/include/b.h"]),
            ("/s/include/abc.h", &[]),
            ("/s/b", &["/s/b"]),
            ("/usr/include/stdio.h", &[]),
        ];
        for (path, expected) in table {
            let got = carried_over(&a, &b, path);
            assert!(expected.iter().all(|path| got.contains(&(*path).to_owned())), "{path}: {got:?}");
            assert_eq!(got.is_empty(), expected.is_empty(), "{path}: {got:?}");
        }
        assert!(!a.templates(b"/s/b/../db/a.cc", |_| ()), "nobody else compiles it");
        assert!(a.templates(b"/s/include/a.h", |_| ()), "anybody may include it");
    }

    #[test]
    fn siblings_share_scopes() {
        let of = |cwd, words| Subject::of(&invocation(cwd, words)).scopes;
        let same = |a: [Scope; LEVELS], b: [Scope; LEVELS]| {
            a.iter().zip(&b).map(|(a, b)| u8::from(a == b).to_string()).collect::<String>()
        };
        let a = of("/p/x/y", "gcc -c a.c");
        assert_eq!(same(a, of("/p/x/y", "gcc -c b.c -O2")), "11111");
        assert_eq!(same(a, of("/p/x/z", "gcc -c b.c")), "00111");
        assert_eq!(same(a, of("/p/x/z", "gcc -c ../y/b.c")), "00001", "a path is what it is written as");
        assert_eq!(same(a, of("/p/w/z", "gcc -c b.c")), "00011");
        assert_eq!(same(a, of("/q", "gcc -c b.c")), "00001");
        assert_eq!(same(a, of("/p/x/y", "gcc -c z/b.c")), "10001");
    }

    #[test]
    fn an_action_is_its_command_line() {
        let key = |cwd, words| Subject::of(&invocation(cwd, words)).key;
        assert_eq!(key("/p", "gcc -c a.c"), key("/p", "gcc -c a.c"));
        assert_ne!(key("/p", "gcc -c a.c"), key("/q", "gcc -c a.c"));
        assert_ne!(key("/p", "gcc -c a.c"), key("/p", "gcc -ca.c"));
    }

    #[test]
    fn system_and_project() {
        assert!(is_of_system(b"/usr/include/stdio.h", b"/usr/bin/gcc"));
        assert!(is_of_system(b"/opt/gcc-14/include/x", b"/opt/gcc-14/bin/gcc"));
        assert!(!is_of_system(b"/opt/other/x", b"/opt/gcc-14/bin/gcc"));
        assert!(!is_of_system(b"/home/u/x", b"/usr/bin/gcc"));
        assert!(!is_of_system(b"/home/u/x", b"/bin/gcc"));
    }
}
