//! Log phrases can be searched for, and doc comments say something.

#![allow(clippy::unwrap_used, reason = "a failure here fails the test")]

use std::{collections::BTreeMap, path::PathBuf};

use clarion_structure::{
    CRATES, sizes,
    text::{self, Text},
    workspace,
};

/// The texts of every file of the programs' sources.
fn texts() -> Vec<(PathBuf, text::Texts)> {
    let folders = CRATES.iter().map(|folder| workspace().join(folder).join("src"));
    let files = folders.flat_map(|folder| sizes::files(&folder).unwrap());
    files.map(|file| (file.clone(), text::of(&file).unwrap())).collect()
}

fn place(file: &std::path::Path, text: &Text) -> String {
    format!("{}:{}: {}", file.display(), text.line, text.text)
}

fn is_test(file: &std::path::Path) -> bool {
    file.to_string_lossy().contains("tests")
}

#[test]
fn a_log_phrase_has_three_words_no_values_and_one_place() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (file, texts) in texts().iter().filter(|(file, _)| !is_test(file)) {
        for phrase in &texts.logged {
            if phrase.text.split_whitespace().count() < 3 || phrase.text.contains('{') {
                wrong.push(place(file, phrase));
            }
            places.entry(phrase.text.clone()).or_default().push(place(file, phrase));
        }
    }
    assert!(places.len() > 50, "the log messages were found");
    wrong.extend(places.into_values().filter(|at| at.len() > 1).flatten());
    assert!(wrong.is_empty(), "{} phrases: {wrong:#?}", wrong.len());
}

#[test]
fn a_doc_comment_has_three_words() {
    let mut documented = 0;
    let mut short = Vec::new();
    for (file, texts) in texts().iter().filter(|(file, _)| !is_test(file)) {
        documented += texts.documented.len();
        let too_short =
            texts.documented.iter().filter(|doc| doc.text.split_whitespace().count() < 3);
        short.extend(too_short.map(|doc| place(file, doc)));
    }
    assert!(documented > 1_000, "the doc comments were found");
    assert!(short.is_empty(), "{} of {documented} doc comments: {short:#?}", short.len());
}
