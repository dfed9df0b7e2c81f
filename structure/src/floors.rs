//! The floors of a crate, as the documentation of its `lib.rs` lists them: a module imports from
//! its own floor and from floors below it, never from above.
//!
//! The list is the first `text` block of that documentation, from the top: one line per floor,
//! modules separated by spaces, and two spaces before an explanation:
//!
//! ```text
//! api            the rim
//! lane owners    vocabulary
//! ```

use std::collections::{BTreeMap, BTreeSet};

/// Floor of each top-level module; 0 is the highest.
pub struct Floors(pub BTreeMap<String, usize>);

impl Floors {
    /// Parses the floors in the text of a `lib.rs`; `None` if its documentation has none.
    #[must_use]
    pub fn read(lib: &str) -> Option<Self> {
        let mut lines = lib
            .lines()
            .map_while(|line| line.strip_prefix("//!"))
            .map(str::trim)
            .skip_while(|line| *line != "```text");
        lines.next()?;
        let mut floors = BTreeMap::new();
        for (number, line) in lines.take_while(|line| *line != "```").enumerate() {
            let modules = line.split("  ").next().unwrap_or_default();
            floors.extend(modules.split_whitespace().map(|module| (module.to_owned(), number)));
        }
        Some(Self(floors))
    }

    /// Returns every arrow from a lower floor to a higher one.
    #[must_use]
    pub fn upward(&self, arrows: &BTreeMap<String, BTreeSet<String>>) -> Vec<(String, String)> {
        let floor = |module: &String| self.0.get(module);
        arrows
            .iter()
            .flat_map(|(from, targets)| targets.iter().map(move |to| (from.clone(), to.clone())))
            .filter(|(from, to)| floor(from).zip(floor(to)).is_some_and(|(from, to)| to < from))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arrow_upward_is_found_and_one_on_a_floor_is_not() {
        let lib =
            "//! A crate.\n//!\n//! ```text\n//! api        rim\n//! lane owner  below\n//! ```\n";
        let floors = Floors::read(lib).unwrap();
        let arrows = [("api", "lane"), ("lane", "owner"), ("owner", "api")]
            .map(|(from, to)| (from.to_owned(), BTreeSet::from([to.to_owned()])));
        let upward = floors.upward(&BTreeMap::from(arrows));
        assert_eq!(upward, [("owner".to_owned(), "api".to_owned())]);
        assert!(Floors::read("//! No list.\npub mod a;\n").is_none());
    }
}
