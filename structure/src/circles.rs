//! Circles of imports, which are the strongly connected components of a directed graph.

use std::collections::{BTreeMap, BTreeSet};

/// Returns every group of two or more nodes that reach each other; each group and the list are
/// sorted.
///
/// Two nodes belong to one group if each is reachable from the other. Plain reachability is
/// enough here: a crate has some hundred modules.
#[must_use]
pub fn of<N: Ord + Clone>(arrows: &BTreeMap<N, BTreeSet<N>>) -> Vec<Vec<N>> {
    let reachable: BTreeMap<&N, BTreeSet<&N>> =
        arrows.keys().map(|node| (node, reachable_from(node, arrows))).collect();
    let mut groups: BTreeSet<Vec<N>> = BTreeSet::new();
    for (node, ahead) in &reachable {
        if ahead.contains(*node) {
            let group: Vec<N> = ahead
                .iter()
                .filter(|other| reachable.get(**other).is_some_and(|back| back.contains(*node)))
                .map(|other| (*other).clone())
                .collect();
            groups.insert(group);
        }
    }
    groups.into_iter().collect()
}

fn reachable_from<'a, N: Ord>(
    start: &'a N,
    arrows: &'a BTreeMap<N, BTreeSet<N>>,
) -> BTreeSet<&'a N> {
    let mut seen = BTreeSet::new();
    let mut next = vec![start];
    while let Some(node) = next.pop() {
        for target in arrows.get(node).into_iter().flatten() {
            if seen.insert(target) {
                next.push(target);
            }
        }
    }
    seen
}

/// Returns the arrows between folders. `folder` names the group of a node; arrows within one group
/// are left out.
#[must_use]
pub fn between_groups<N: Ord, G: Ord + Clone>(
    arrows: &BTreeMap<N, BTreeSet<N>>,
    group: impl Fn(&N) -> Option<G>,
) -> BTreeMap<G, BTreeSet<G>> {
    let mut between: BTreeMap<G, BTreeSet<G>> = BTreeMap::new();
    for (from, targets) in arrows {
        let Some(from) = group(from) else { continue };
        let reached = between.entry(from.clone()).or_default();
        reached.extend(targets.iter().filter_map(&group).filter(|target| *target != from));
    }
    between
}
