//! Circles between the modules of one folder.

use std::collections::{BTreeMap, BTreeSet};

use super::paths::ModulePath;

/// Who names whom, where it was seen first.
#[derive(Default)]
pub struct Siblings {
    /// Folder → module → (module that it names → where).
    folders: BTreeMap<ModulePath, BTreeMap<String, BTreeMap<String, String>>>,
}

impl Siblings {
    /// Notes that `from` names `to`. They meet in the folder that both are below; a module that names its own folder or
    /// something inside itself draws no arrow between siblings.
    pub fn note(&mut self, from: &[String], to: &[String], place: &str) {
        let shared = from.iter().zip(to).take_while(|(a, b)| a == b).count();
        let (Some(source), Some(target)) = (from.get(shared), to.get(shared)) else {
            return;
        };
        self.folders
            .entry(from[..shared].to_vec())
            .or_default()
            .entry(source.clone())
            .or_default()
            .entry(target.clone())
            .or_insert_with(|| place.to_owned());
    }

    /// One line for every circle, its modules in order and where each names the next.
    pub fn circles(&self) -> Vec<String> {
        let mut found = BTreeSet::new();
        for (folder, arrows) in &self.folders {
            for start in arrows.keys() {
                if let Some(circle) = shortest_circle(arrows, start) {
                    found.insert(describe(folder, arrows, &circle));
                }
            }
        }
        found.into_iter().collect()
    }
}

/// Breadth first, so that the circle that is told is one that can be read.
fn shortest_circle(
    arrows: &BTreeMap<String, BTreeMap<String, String>>,
    start: &str,
) -> Option<Vec<String>> {
    let mut ways = vec![vec![start.to_owned()]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            let last = way.last()?;
            for next in arrows.get(last).into_iter().flat_map(BTreeMap::keys) {
                if next == start {
                    return Some(way);
                }
                if seen.insert(next.clone()) {
                    longer.push([way.as_slice(), std::slice::from_ref(next)].concat());
                }
            }
        }
        ways = longer;
    }
    None
}

fn describe(
    folder: &[String],
    arrows: &BTreeMap<String, BTreeMap<String, String>>,
    circle: &[String],
) -> String {
    // The smallest name begins, so that one circle is one line wherever the search began.
    let first = circle.iter().enumerate().min_by_key(|(_, name)| *name);
    let first = first.map_or(0, |(at, _)| at);
    let ring: Vec<&String> = circle
        .iter()
        .cycle()
        .skip(first)
        .take(circle.len())
        .collect();
    let arrow = |at: usize| {
        let (from, to) = (ring[at], ring[(at + 1) % ring.len()]);
        let place = arrows.get(from).and_then(|named| named.get(to));
        format!("{from} → {to} ({})", place.map_or("?", String::as_str))
    };
    let arrows: Vec<String> = (0..ring.len()).map(arrow).collect();
    format!("circle in {}: {}", folder.join("/"), arrows.join(", "))
}

#[cfg(test)]
mod tests {
    use super::Siblings;

    fn path(text: &str) -> Vec<String> {
        text.split('/').map(str::to_owned).collect()
    }

    #[test]
    fn a_circle_of_three_is_told_once_and_a_chain_is_none() {
        let mut siblings = Siblings::default();
        siblings.note(&path("raft/b"), &path("raft/c/X"), "b.rs:1");
        siblings.note(&path("raft/c"), &path("raft/a/Y"), "c.rs:2");
        siblings.note(&path("raft/a"), &path("store"), "a.rs:9");
        siblings.note(&path("raft/a"), &path("raft"), "a.rs:9");
        assert!(siblings.circles().is_empty());
        siblings.note(&path("raft/a/inner"), &path("raft/b"), "a/inner.rs:3");
        assert_eq!(
            siblings.circles(),
            ["circle in raft: a → b (a/inner.rs:3), b → c (b.rs:1), c → a (c.rs:2)"]
        );
    }
}
