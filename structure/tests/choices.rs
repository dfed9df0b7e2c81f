//! Tasks choose by an order that somebody thought about: no `select!` without `biased`. (That every
//! task has an owner is a rule of `clippy.toml`.)

#![allow(clippy::unwrap_used, reason = "a failure here fails the test")]

use clarion_structure::{choices, sizes, workspace};

/// Folders whose tasks a simulator may drive.
const FOLDERS: [&str; 3] = ["runtime/src", "coordinator/src", "shard/src"];

#[test]
fn no_task_chooses_at_random() {
    let mut drawn = Vec::new();
    let mut read = 0;
    for file in FOLDERS.iter().flat_map(|folder| sizes::files(&workspace().join(folder)).unwrap()) {
        let name = file.strip_prefix(workspace()).unwrap().to_string_lossy().into_owned();
        if name.contains("tests") {
            continue;
        }
        read += 1;
        let lines = choices::at_random(&file).unwrap();
        drawn.extend(lines.into_iter().map(|line| format!("{name}:{line}")));
    }
    assert!(read > 100, "the files were found");
    assert!(drawn.is_empty(), "select! without `biased;` and an order: {drawn:#?}");
}
