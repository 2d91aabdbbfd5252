//! What compiles have used, and what the next one will: pure memory, without files, ranks or clock.
//!
//! # An action that ran before
//! will ask what it asked then.
//!
//! # One that never ran
//! will ask what its siblings ask: those of the same working directory and those whose sources lie in the same folder;
//! if there are few, those of the folders above; if there are still few, whatever the same driver compiled. What a
//! sibling used that contains its own names is carried over to this action's names ([`Subject::templates`]).
//!
//! A path is worth a guess when the risk is smaller than the gain. A wrong guess costs the head a stat (0.5 µs) and,
//! once per rank, a record on the way (about 1 µs); a path that is not guessed costs a round trip of about 100 µs, CPU
//! on both sides included. So what one sibling in 64 used is predicted. Contents cost more (to be read, hashed and sent,
//! some 30 µs for a header), but only once per host: they go ahead if one sibling in 16 needed them.

use super::costs::Cost;
use super::subject::{self, ActionKey, LEVELS, Origin, SAME_DIRECTORY, SAME_DRIVER, SAME_FOLDER, Scope, Subject};
use crate::sets;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

/// Most paths predicted for one action; validating them costs the head about 0.5 µs each.
const PREDICTED_PATHS_MAX: usize = 8192;

/// Siblings that are enough to go by; more distant ones are not asked then.
const SIBLINGS_ENOUGH: u32 = 8;

/// Siblings of an earlier session that a group is made of; the latest ones. Adding one up takes some 20 µs.
const SIBLINGS_RECALLED_MAX: usize = 64;

/// One sibling in so many must have used a path, for each level: the more distant, the more of them. See the head of
/// this file for the first.
const ONE_IN: [u32; LEVELS] = [64, 64, 8, 4, 4];

/// One sibling in so many must have needed a content for it to be sent ahead.
const ONE_IN_FOR_CONTENT: u32 = 16;

/// A path or template, in this process.
pub type Name = u32;

/// Names, and the database's numbers, are dense, so a multiplication spreads them well enough.
#[derive(Default)]
pub struct NameHasher(u64);

impl Hasher for NameHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

pub type ByName<V> = HashMap<Name, V, BuildHasherDefault<NameHasher>>;

/// All paths that were ever heard of.
#[derive(Default)]
pub struct Names {
    index: HashMap<Arc<[u8]>, Name>,
    paths: Vec<Arc<[u8]>>,
    /// Somebody read the content.
    opened: Vec<bool>,
}

impl Names {
    pub fn name(&mut self, path: &[u8]) -> Name {
        if let Some(name) = self.index.get(path) {
            return *name;
        }
        let path: Arc<[u8]> = path.into();
        let name = self.paths.len() as Name;
        self.paths.push(Arc::clone(&path));
        self.opened.push(false);
        self.index.insert(path, name);
        name
    }

    pub fn path(&self, name: Name) -> &Arc<[u8]> {
        &self.paths[name as usize]
    }

    pub fn is_opened(&self, name: Name) -> bool {
        self.opened[name as usize]
    }

    /// Was this not known before?
    pub fn mark_opened(&mut self, name: Name) -> bool {
        !std::mem::replace(&mut self.opened[name as usize], true)
    }
}

/// The names of an [`Origin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginNames {
    pub driver: Name,
    pub cwd: Name,
    pub source: Name,
    pub output: Name,
}

struct Entry {
    origin: OriginNames,
    /// Index of the set that `paths` is a difference to; without one, `paths` is a set.
    base: Option<u32>,
    paths: Box<[u8]>,
}

#[derive(Default)]
struct Group {
    actions: u32,
    uses: ByName<u32>,
}

/// A path that will probably be asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guess {
    /// May be a template, to be expanded by the subject.
    pub name: Name,
    /// Its content, too.
    pub content: bool,
}

/// What compiles have used.
#[derive(Default)]
pub struct Knowledge {
    pub names: Names,
    pub costs: HashMap<ActionKey, Cost>,
    actions: HashMap<ActionKey, Entry>,
    bases: Vec<Box<[u8]>>,
    /// The base that actions of a scope are compared with next.
    latest_base: HashMap<Scope, u32>,
    /// In the order in which they were learned.
    members: HashMap<Scope, Vec<ActionKey>>,
    /// Made when they are first needed.
    groups: HashMap<(usize, Scope), Group>,
}

impl Knowledge {
    pub fn origin_names(&mut self, origin: &Origin) -> OriginNames {
        let mut name = |path: &[u8]| self.names.name(path);
        OriginNames {
            driver: name(&origin.driver),
            cwd: name(&origin.cwd),
            source: name(&origin.source),
            output: name(&origin.output),
        }
    }

    fn subject(&self, key: ActionKey, names: OriginNames) -> Subject {
        let path = |name| self.names.path(name).to_vec();
        let OriginNames { driver, cwd, source, output } = names;
        let origin = Origin { driver: path(driver), cwd: path(cwd), source: path(source), output: path(output) };
        Subject::new(key, origin)
    }

    /// What the action used last time, in ascending order.
    pub fn recall(&self, key: ActionKey) -> Option<Vec<Name>> {
        let entry = self.actions.get(&key)?;
        match entry.base {
            None => sets::decode(&entry.paths),
            Some(base) => sets::apply(&sets::decode(&self.bases[base as usize])?, &entry.paths),
        }
    }

    /// What this action will probably ask about.
    pub fn predict(&mut self, subject: &Subject) -> Vec<Guess> {
        if let Some(set) = self.recall(subject.key) {
            return set.into_iter().map(|name| Guess { name, content: self.names.is_opened(name) }).collect();
        }
        let mut guesses: ByName<(u32, bool)> = ByName::default();
        let mut siblings = 0;
        for (level, scope) in subject.scopes.into_iter().enumerate() {
            if level > SAME_FOLDER && siblings >= SIBLINGS_ENOUGH {
                break;
            }
            self.make_group(level, scope);
            let group = &self.groups[&(level, scope)];
            siblings = siblings.max(group.actions);
            for (&name, &uses) in &group.uses {
                if uses.saturating_mul(ONE_IN[level]) < group.actions {
                    continue;
                }
                let path = self.names.path(name);
                if level == SAME_DRIVER
                    && !subject::is_template(path)
                    && !subject::is_of_system(path, &subject.origin.driver)
                {
                    continue; // another project's, perhaps on a file server that is gone
                }
                let content = self.names.is_opened(name) && uses.saturating_mul(ONE_IN_FOR_CONTENT) >= group.actions;
                let guess = guesses.entry(name).or_default();
                // In parts per thousand, so that small groups and large ones compare.
                *guess = (guess.0.max(uses.saturating_mul(1000) / group.actions.max(1)), guess.1 || content);
            }
        }
        let mut guesses: Vec<(u32, Guess)> =
            guesses.into_iter().map(|(name, (share, content))| (share, Guess { name, content })).collect();
        guesses.sort_unstable_by_key(|(share, guess)| (std::cmp::Reverse(*share), guess.name));
        guesses.truncate(PREDICTED_PATHS_MAX);
        guesses.into_iter().map(|(_, guess)| guess).collect()
    }

    /// How many siblings with the same driver and working directory are known.
    pub fn siblings(&self, subject: &Subject) -> usize {
        self.members.get(&subject.scopes[SAME_DIRECTORY]).map_or(0, Vec::len)
    }

    /// Takes note of what an action used (in ascending order); `false` if that was known.
    pub fn learn(&mut self, subject: &Subject, used: &[Name]) -> bool {
        let before = self.recall(subject.key);
        if before.as_deref() == Some(used) {
            return false;
        }
        let names = self.origin_names(&subject.origin);
        for (level, scope) in subject.scopes.into_iter().enumerate() {
            if let Some(mut group) = self.groups.remove(&(level, scope)) {
                self.add_up(level, &mut group, subject, used, before.as_deref());
                self.groups.insert((level, scope), group);
            }
        }
        if before.is_none() {
            self.enlist(subject.key, &subject.scopes);
        }
        let scope = subject.scopes[SAME_DIRECTORY];
        let full = sets::encode(used);
        let near = self.latest_base.get(&scope).and_then(|base| {
            let difference = sets::difference(&sets::decode(&self.bases[*base as usize])?, used);
            is_worth_it(&difference, &full).then_some((*base, difference))
        });
        let (base, paths) = match near {
            Some(near) => near,
            None => (self.add_base(scope, full), sets::difference(used, used)),
        };
        self.actions.insert(subject.key, Entry { origin: names, base: Some(base), paths: paths.into() });
        true
    }

    /// Adds a set that actions of `scope` may be compared with.
    fn add_base(&mut self, scope: Scope, set: Vec<u8>) -> u32 {
        let base = self.bases.len() as u32;
        self.bases.push(set.into());
        self.latest_base.insert(scope, base);
        base
    }

    /// Takes over an action of an earlier session: `base` came from [`Knowledge::recall_base`].
    pub fn recall_action(&mut self, key: ActionKey, origin: OriginNames, base: Option<u32>, paths: Vec<u8>) {
        let scopes = self.subject(key, origin).scopes;
        if let Some(base) = base {
            self.latest_base.insert(scopes[SAME_DIRECTORY], base);
        }
        if self.actions.insert(key, Entry { origin, base, paths: paths.into() }).is_none() {
            self.enlist(key, &scopes);
        }
    }

    pub fn recall_base(&mut self, set: Vec<u8>) -> u32 {
        self.bases.push(set.into());
        (self.bases.len() - 1) as u32
    }

    fn enlist(&mut self, key: ActionKey, scopes: &[Scope]) {
        for scope in scopes {
            self.members.entry(*scope).or_default().push(key);
        }
    }

    fn make_group(&mut self, level: usize, scope: Scope) {
        if self.groups.contains_key(&(level, scope)) {
            return;
        }
        let members = self.members.get(&scope).map(Vec::as_slice).unwrap_or_default();
        let members = members[members.len().saturating_sub(SIBLINGS_RECALLED_MAX)..].to_vec();
        let mut group = Group::default();
        for key in members {
            let Some(used) = self.recall(key) else { continue };
            let sibling = self.subject(key, self.actions[&key].origin);
            self.add_up(level, &mut group, &sibling, &used, None);
        }
        self.groups.insert((level, scope), group);
    }

    fn add_up(&mut self, level: usize, group: &mut Group, sibling: &Subject, used: &[Name], before: Option<&[Name]>) {
        if before.is_none() {
            group.actions += 1;
        }
        for &name in used {
            if before.is_some_and(|before| before.binary_search(&name).is_ok()) {
                continue;
            }
            let names = &mut self.names;
            let (path, opened) = (Arc::clone(names.path(name)), names.is_opened(name));
            let shared = sibling.templates(&path, |template| {
                if !subject::is_constant(template, level) {
                    let template = names.name(template);
                    if opened {
                        names.mark_opened(template);
                    }
                    *group.uses.entry(template).or_default() += 1;
                }
            });
            if shared {
                *group.uses.entry(name).or_default() += 1;
            }
        }
        // What is too rare to be predicted is forgotten, now and then.
        if group.actions.is_power_of_two() {
            let (actions, one_in) = (group.actions, ONE_IN[level]);
            group.uses.retain(|_, uses| uses.saturating_mul(one_in) >= actions);
        }
    }
}

/// Is a difference so much smaller than the set itself that the base stays the one to compare with?
pub fn is_worth_it(difference: &[u8], full: &[u8]) -> bool {
    difference.len() * 2 <= full.len()
}

#[cfg(test)]
mod tests {
    use super::super::subject::tests::invocation;
    use super::*;

    struct Bench(Knowledge);

    impl Bench {
        fn names(&mut self, paths: &[&str]) -> Vec<Name> {
            let mut names: Vec<Name> = paths.iter().map(|path| self.0.names.name(path.as_bytes())).collect();
            names.sort_unstable();
            names
        }

        /// A `*` behind a path: opened.
        fn learn(&mut self, cwd: &str, words: &str, paths: &[&str]) {
            for path in paths.iter().filter_map(|path| path.strip_suffix('*')) {
                let name = self.0.names.name(path.as_bytes());
                self.0.names.mark_opened(name);
            }
            let paths: Vec<&str> = paths.iter().map(|path| path.trim_end_matches('*')).collect();
            let used = self.names(&paths);
            self.0.learn(&Subject::of(&invocation(cwd, words)), &used);
        }

        fn predict(&mut self, cwd: &str, words: &str) -> Vec<String> {
            let subject = Subject::of(&invocation(cwd, words));
            let mut paths: Vec<String> = Vec::new();
            for Guess { name, content } in self.0.predict(&subject) {
                let path = subject.expand(self.0.names.path(name)).unwrap();
                paths.push(String::from_utf8(path).unwrap() + if content { "*" } else { "" });
            }
            paths.sort();
            paths.dedup();
            paths
        }
    }

    #[test]
    fn an_action_repeats_itself() {
        let mut bench = Bench(Knowledge::default());
        assert!(bench.predict("/s", "gcc -c a.c").is_empty());
        bench.learn("/s", "gcc -c a.c", &["/s/a.c*", "/usr/include/stdio.h*", "/s/stdio.h"]);
        assert_eq!(bench.predict("/s", "gcc -c a.c"), ["/s/a.c*", "/s/stdio.h", "/usr/include/stdio.h*"]);
        bench.learn("/s", "gcc -c a.c", &["/s/a.c*", "/s/b.h"]);
        assert_eq!(bench.predict("/s", "gcc -c a.c"), ["/s/a.c*", "/s/b.h"]);
    }

    #[test]
    fn a_new_action_gets_what_siblings_used_with_its_own_names() {
        let mut bench = Bench(Knowledge::default());
        for stem in ["a", "b"] {
            let own = |suffix: &str| format!("/s/{stem}{suffix}");
            bench.learn(
                "/s",
                &format!("gcc -c {stem}.c"),
                &[&own(".c*"), &own(".o"), &own(".gcda"), "/usr/include/stdio.h*", "/s/stdio.h"],
            );
        }
        assert_eq!(
            bench.predict("/s", "gcc -c new.c"),
            ["/s/new.c*", "/s/new.gcda", "/s/new.o", "/s/stdio.h", "/usr/include/stdio.h*"]
        );
    }

    #[test]
    fn distant_siblings_serve_when_there_are_no_closer_ones() {
        let mut bench = Bench(Knowledge::default());
        bench.learn(
            "/s/one",
            "gcc -I. -c a.c",
            &["/s/one/a.c*", "/s/one/stdio.h", "/s/config.h*", "/usr/include/stdio.h*"],
        );
        let sibling = ["/s/config.h*", "/s/one/stdio.h", "/s/two/b.c*", "/s/two/stdio.h", "/usr/include/stdio.h*"];
        assert_eq!(bench.predict("/s/two", "gcc -I. -c b.c"), sibling);
        let stranger = ["/elsewhere/b.c*", "/elsewhere/stdio.h", "/usr/include/stdio.h*"];
        assert_eq!(bench.predict("/elsewhere", "gcc -I. -c b.c"), stranger, "nothing of the other project");
    }

    #[test]
    fn rare_paths_are_not_predicted_nor_rare_contents() {
        let mut bench = Bench(Knowledge::default());
        for number in 0..130 {
            let mut used = vec!["/s/all.h*"];
            if number < 5 {
                used.push("/s/some.h*");
            }
            if number == 0 {
                used.push("/s/once.h*");
            }
            bench.learn("/s", &format!("gcc -c {number}.c"), &used);
            if number == 0 {
                // From here on the groups are there, and added to one by one.
                assert_eq!(bench.predict("/s", "gcc -c new.c"), ["/s/all.h*", "/s/once.h*", "/s/some.h*"]);
            }
        }
        assert_eq!(bench.predict("/s", "gcc -c new.c"), ["/s/all.h*", "/s/some.h"]);
    }

    #[test]
    fn what_is_predicted_is_bounded_and_the_most_used_stays() {
        let mut bench = Bench(Knowledge::default());
        let many: Vec<String> = (0..2 * PREDICTED_PATHS_MAX).map(|number| format!("/s/{number}.h")).collect();
        let mut used: Vec<&str> = many.iter().map(String::as_str).collect();
        used.push("/s/all.h");
        bench.learn("/s", "gcc -c a.c", &used);
        bench.learn("/s", "gcc -c b.c", &["/s/all.h"]);
        let predicted = bench.predict("/s", "gcc -c new.c");
        assert!(predicted.len() <= PREDICTED_PATHS_MAX && predicted.contains(&"/s/all.h".to_owned()));
    }

    #[test]
    fn similar_actions_share_their_sets() {
        let mut bench = Bench(Knowledge::default());
        let common: Vec<String> = (0..500).map(|number| format!("/s/{number}.h")).collect();
        for number in 0..20 {
            let source = format!("/s/{number}.c");
            let mut used: Vec<&str> = common.iter().map(String::as_str).collect();
            used.push(&source);
            bench.learn("/s", &format!("gcc -c {number}.c"), &used);
        }
        assert_eq!(bench.0.bases.len(), 1);
        let bytes: usize = bench.0.actions.values().map(|entry| entry.paths.len()).sum();
        assert!(bytes < 20 * 10, "{bytes} bytes");
        let source = bench.names(&["/s/7.c"])[0];
        let set = bench.0.recall(Subject::of(&invocation("/s", "gcc -c 7.c")).key).unwrap();
        assert!(set.len() == 501 && set.contains(&source));
    }
}
