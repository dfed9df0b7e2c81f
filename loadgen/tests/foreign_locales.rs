//! The choice of a device's message beside an implementation that nobody here wrote: Python's
//! langcodes, over the table of `proto/src/locale/pairs.txt`.

#[macro_use]
mod foreign;

use std::fs;

use clarion_proto::locale::{Chooser, Locale, Reported};
use foreign::{Python, verdict};
use serde_json::json;

/// One line of the table, with the choice that it expects.
struct Pair {
    line: &'static str,
    device: String,
    messages: Vec<&'static str>,
    expected: &'static str,
    /// Whether the line says why langcodes chooses otherwise.
    differs: bool,
}

fn pairs() -> Vec<Pair> {
    let lines = include_str!("../../proto/src/locale/pairs.txt").lines();
    let pair = |line: &'static str| {
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        let locale = Reported::read(columns[0]).locale;
        Pair {
            line,
            device: locale.map(Locale::into_string).unwrap_or_default(),
            messages: columns[1].split(' ').collect(),
            expected: columns[2],
            differs: columns.len() > 3,
        }
    };
    lines.filter(|line| !line.starts_with('#')).map(pair).collect()
}

#[tokio::test]
async fn a_stranger_chooses_the_same_messages() {
    let python = or_skip!(Python::installed().await);
    let (pairs, dir) = (pairs(), tempfile::tempdir().expect("a folder"));
    assert!(pairs.len() >= 50, "{} pairs", pairs.len());
    let asked: Vec<_> = pairs.iter().map(|pair| json!([pair.device, pair.messages])).collect();
    let path = dir.path().join("asked.json");
    fs::write(&path, serde_json::to_vec(&asked).expect("JSON")).expect("written");
    let told = verdict(python.program("locales.py").arg(&path)).await;
    let theirs = told.as_array().expect("an array");
    assert_eq!(theirs.len(), pairs.len());
    for (pair, theirs) in pairs.iter().zip(theirs) {
        let keys = pair.messages.iter().map(|tag| Locale::new(tag).expect("a language"));
        let keys: Vec<_> = keys.collect();
        let chooser = Chooser::new(keys.iter().map(Locale::as_str));
        let ours = pair.messages[chooser.choose(&pair.device).unwrap_or(0)];
        assert_eq!(ours, pair.expected, "{}", pair.line);
        assert_eq!(theirs != ours, pair.differs, "{}: langcodes says {theirs}", pair.line);
    }
}
