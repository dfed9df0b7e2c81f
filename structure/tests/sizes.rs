//! Files end before they are long, and lines before they are wide.

#![allow(clippy::unwrap_used, reason = "a failure here fails the test")]

use clarion_structure::{
    sizes::{self, FileSize},
    workspace,
};

/// Lines of a file: one idea is told in less.
const FILE_LINES_MAX: usize = 500;
/// Of all lines, the share that may be wider than 100 characters, in percent: tables.
const WIDE_PERCENT_MAX: f64 = 1.0;

fn measured() -> Vec<FileSize> {
    let files = sizes::files(&workspace()).unwrap();
    files.iter().map(|file| sizes::measure(file).unwrap()).collect()
}

#[test]
fn no_file_is_long() {
    let mut files = measured();
    files.sort_by_key(|file| file.lines);
    let lines: usize = files.iter().map(|file| file.lines).sum();
    let p90 = files[files.len() * 9 / 10].lines;
    println!("{} files, {lines} lines, 90 % of files have at most {p90}", files.len());
    let mut longest: Vec<_> = files
        .iter()
        .filter_map(|file| file.longest.as_ref().map(|(name, lines)| (*lines, name, &file.path)))
        .collect();
    longest.sort();
    for (lines, name, path) in longest.iter().rev().take(12) {
        println!("{lines} lines: {name} in {}", path.display());
    }
    let long: Vec<String> = files
        .iter()
        .filter(|file| file.lines > FILE_LINES_MAX)
        .map(|file| format!("{}: {} lines", file.path.display(), file.lines))
        .collect();
    assert!(long.is_empty(), "at most {FILE_LINES_MAX} lines: {long:#?}");
}

#[test]
fn few_lines_are_wide() {
    let files = measured();
    let lines: usize = files.iter().map(|file| file.lines).sum();
    let wide: usize = files.iter().map(|file| file.wide).sum();
    #[expect(clippy::cast_precision_loss, reason = "some hundred thousand lines")]
    let percent = wide as f64 * 100.0 / lines as f64;
    println!("{wide} of {lines} lines are wider than 100 characters: {percent:.2} %");
    assert!(percent < WIDE_PERCENT_MAX, "{percent:.2} % of lines, {WIDE_PERCENT_MAX} % allowed");
}
