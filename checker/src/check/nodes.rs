//! The nodes' files hold the same rows in the end.

use std::collections::{BTreeMap, HashMap};

use super::Violation;
use crate::history::{History, Rows};

/// Rows shown of a difference.
const ROWS_MOST: usize = 3;

pub(super) fn check(history: &History, found: &mut Vec<Violation>) {
    let mut tables: BTreeMap<&str, Vec<&Rows>> = BTreeMap::new();
    for rows in &history.rows {
        tables.entry(&rows.table).or_default().push(rows);
    }
    for (table, nodes) in tables {
        let Some((first, others)) = nodes.split_first() else {
            continue;
        };
        for other in others {
            let mut evidence = only_in(first, other);
            evidence.extend(only_in(other, first));
            if !evidence.is_empty() {
                let what = format!(
                    "nodes {} and {} hold different rows in {table}",
                    first.node, other.node
                );
                found.push(Violation::new("replicas", what, evidence));
            }
        }
    }
}

fn only_in(here: &Rows, there: &Rows) -> Vec<String> {
    let mut counts: HashMap<&str, i64> = HashMap::new();
    there
        .rows
        .iter()
        .for_each(|row| *counts.entry(row).or_default() += 1);
    let missing = here.rows.iter().filter(|row| {
        let count = counts.entry(row).or_default();
        *count -= 1;
        *count < 0
    });
    missing
        .take(ROWS_MOST)
        .map(|row| format!("only on node {}: {row}", here.node))
        .collect()
}
