//! Which paths a compile will ask about, learned from what compiles asked about before: the same action's last run, or
//! its siblings (same driver, same working directory). In memory for now; the interface is what a persistent store has
//! to offer.
//!
//! A wrong prediction costs time, never correctness: what is predicted is validated like anything else, and what is
//! missing is asked for.

use crate::dispatcher::files::PathId;
use crate::wire::Invocation;
use std::collections::{HashMap, HashSet};

/// Most paths predicted for one action; validating them costs the head about 0.5 µs each.
const PREDICTED_PATHS_MAX: usize = 8192;

/// Identity of an action over its runs: a hash of driver, working directory and command line.
type ActionKey = u64;
/// Identity of a group of siblings: a hash of driver and working directory.
type GroupKey = u64;

#[derive(Default)]
struct Group {
    /// How many finished siblings used a path.
    uses: HashMap<PathId, u32>,
    /// Actions learned from.
    actions: u32,
}

/// What compiles have used.
#[derive(Default)]
pub struct History {
    actions: HashMap<ActionKey, Vec<PathId>>,
    groups: HashMap<GroupKey, Group>,
}

impl History {
    /// Paths that this invocation will probably ask about.
    pub fn predict(&self, invocation: &Invocation) -> Vec<PathId> {
        if let Some(paths) = self.actions.get(&action_key(invocation)) {
            return paths.clone();
        }
        let Some(group) = self.groups.get(&group_key(invocation)) else { return Vec::new() };
        // What only one of several siblings used is its own source and the like.
        let least = if group.actions > 1 { 2 } else { 1 };
        let mut paths: Vec<(u32, PathId)> =
            group.uses.iter().filter(|(_, uses)| **uses >= least).map(|(path, uses)| (*uses, *path)).collect();
        if paths.len() > PREDICTED_PATHS_MAX {
            paths.sort_unstable_by(|a, b| b.cmp(a));
            paths.truncate(PREDICTED_PATHS_MAX);
        }
        paths.into_iter().map(|(_, path)| path).collect()
    }

    /// Takes note of what an action used.
    pub fn learn(&mut self, invocation: &Invocation, used: Vec<PathId>) {
        let group = self.groups.entry(group_key(invocation)).or_default();
        let key = action_key(invocation);
        let before: HashSet<PathId> =
            self.actions.get(&key).map(|paths| paths.iter().copied().collect()).unwrap_or_default();
        if before.is_empty() {
            group.actions += 1;
        }
        for path in &used {
            if !before.contains(path) {
                *group.uses.entry(*path).or_default() += 1;
            }
        }
        self.actions.insert(key, used);
    }
}

fn action_key(invocation: &Invocation) -> ActionKey {
    key_of([&invocation.driver, &invocation.cwd].into_iter().chain(&invocation.argv))
}

fn group_key(invocation: &Invocation) -> GroupKey {
    key_of([&invocation.driver, &invocation.cwd].into_iter())
}

fn key_of<'a>(parts: impl Iterator<Item = &'a Vec<u8>>) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    u64::from_le_bytes(hasher.finalize().as_bytes()[..8].try_into().expect("8 bytes of a digest"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatcher::files::HeadTree;

    fn invocation(source: &str) -> Invocation {
        Invocation {
            driver: b"/usr/bin/gcc".to_vec(),
            argv: vec![b"gcc".to_vec(), b"-c".to_vec(), source.into()],
            environment: vec![],
            cwd: b"/src".to_vec(),
            umask: 0o22,
            terminals: 0,
            window: None,
            merged_output: false,
            limits: vec![],
            viewpoint: Default::default(),
            stdin: None,
        }
    }

    #[test]
    fn an_action_repeats_itself_and_siblings_share() {
        let mut tree = HeadTree::default();
        let mut id = |name: &str| tree.path_id(name.as_bytes());
        let (stdio, config, a, b) = (id("/usr/include/stdio.h"), id("/src/config.h"), id("/src/a.c"), id("/src/b.c"));
        let mut history = History::default();
        assert_eq!(history.predict(&invocation("a.c")), []);
        history.learn(&invocation("a.c"), vec![stdio, a]);
        let mut first = history.predict(&invocation("b.c"));
        first.sort_unstable();
        assert_eq!(first, [stdio, a], "one sibling is all there is to go by");
        history.learn(&invocation("b.c"), vec![stdio, config, b]);
        assert_eq!(history.predict(&invocation("c.c")), [stdio]);
        assert_eq!(history.predict(&invocation("b.c")), [stdio, config, b]);
        history.learn(&invocation("b.c"), vec![stdio, b]);
        assert_eq!(history.predict(&invocation("b.c")), [stdio, b]);
    }
}
