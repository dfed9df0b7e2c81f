//! Imports within each crate: no circle across folders, few within one, no arrow upward.

#![allow(clippy::unwrap_used, reason = "a failure here fails the test")]

use std::collections::{BTreeMap, BTreeSet};

use clarion_structure::{
    CRATES, circles,
    floors::Floors,
    imports,
    modules::{ModulePath, Modules},
    workspace,
};

/// Circles within one folder that a crate may have: two halves of one machine, at most.
const SMALL_CIRCLES_MAX: usize = 3;

struct Crate {
    folder: &'static str,
    arrows: BTreeMap<ModulePath, BTreeSet<ModulePath>>,
}

fn crates() -> Vec<Crate> {
    CRATES
        .into_iter()
        .filter(|folder| workspace().join(folder).exists())
        .map(|folder| {
            let modules = Modules::read(&workspace().join(folder)).unwrap();
            Crate { folder, arrows: imports::between(&modules) }
        })
        .collect()
}

/// The top-level module that a module belongs to; the root belongs to none.
fn top(path: &ModulePath) -> Option<String> {
    path.first().cloned()
}

fn name(path: &ModulePath) -> String {
    if path.is_empty() { "lib".to_owned() } else { path.join("/") }
}

#[test]
fn no_circle_crosses_folders() {
    let mut found = Vec::new();
    for Crate { folder, arrows } in crates() {
        for circle in circles::of(&circles::between_groups(&arrows, top)) {
            let within: Vec<String> = arrows
                .iter()
                .flat_map(|(from, targets)| targets.iter().map(move |to| (from, to)))
                .filter(|(from, to)| {
                    let (from, to) = (top(from), top(to));
                    from != to
                        && [from, to].iter().flatten().filter(|m| circle.contains(m)).count() == 2
                })
                .map(|(from, to)| format!("    {} -> {}", name(from), name(to)))
                .collect();
            found.push(format!(
                "{folder}: {} folders: {}\n{}",
                circle.len(),
                circle.join(" "),
                within.join("\n")
            ));
        }
    }
    assert!(found.is_empty(), "circles across folders:\n{}", found.join("\n"));
}

#[test]
fn circles_within_a_folder_are_few_and_small() {
    let mut too_many = Vec::new();
    for Crate { folder, arrows } in crates() {
        let circles = circles::of(&arrows);
        for circle in &circles {
            println!("{folder}: {}", circle.iter().map(name).collect::<Vec<_>>().join(" "));
        }
        if circles.len() > SMALL_CIRCLES_MAX || circles.iter().any(|circle| circle.len() > 3) {
            let sizes: Vec<usize> = circles.iter().map(Vec::len).collect();
            too_many.push(format!("{folder}: {} circles of {sizes:?} modules", circles.len()));
        }
    }
    assert!(too_many.is_empty(), "at most {SMALL_CIRCLES_MAX}, of 3 modules: {too_many:#?}");
}

#[test]
fn no_arrow_points_upward() {
    let mut wrong = Vec::new();
    for Crate { folder, arrows } in crates() {
        let lib = std::fs::read_to_string(workspace().join(folder).join("src/lib.rs")).unwrap();
        let Some(Floors(floors)) = Floors::read(&lib) else {
            wrong.push(format!("{folder}: lib.rs lists no floors"));
            continue;
        };
        let modules: BTreeSet<String> = arrows.keys().filter_map(top).collect();
        for missing in modules.iter().filter(|module| !floors.contains_key(*module)) {
            wrong.push(format!("{folder}: {missing} is on no floor"));
        }
        for gone in floors.keys().filter(|module| !modules.contains(*module)) {
            wrong.push(format!("{folder}: {gone} is on a floor and does not exist"));
        }
        for (from, to) in Floors(floors).upward(&circles::between_groups(&arrows, top)) {
            wrong.push(format!("{folder}: {from} -> {to} points upward"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
