use std::io::Read;

use super::{
    super::{column::Column, row::Fault},
    *,
};

fn source(folder: &Path, name: &str, text: &str) -> Source {
    let path = folder.join(name);
    fs::write(&path, text).expect("written");
    Source::open(&path, None, true).expect("valid")
}

fn entry(mark: &Mark, rows: u64, rejects: &[u64]) -> Entry {
    let mark = Mark { at: Position { rows, ..Position::default() }, ..mark.clone() };
    let reject = |row: &u64| Reject {
        row: *row,
        fault: Fault::of(Column::Token, format!("must be \"valid\", row {row}")),
    };
    Entry { mark, file: 0, rejects: rejects.iter().map(reject).collect() }
}

fn written(journal: Journal, entries: impl IntoIterator<Item = Entry>) {
    let (to, from) = mpsc::channel(QUEUE);
    for entry in entries {
        to.try_send(entry).expect("room");
    }
    drop(to);
    journal.write_all(from).expect("written");
}

#[test]
fn an_import_goes_on_behind_its_mark_and_no_reject_is_there_twice() {
    let folder = tempfile::tempdir().expect("a folder");
    let (rejects, resume) = (folder.path().join("rejects"), folder.path().join("resume"));
    let sources = [source(folder.path(), "a,b.csv", "token,observed\n1,1\n")];
    let start = Mark::start(&sources, Some("apps/demo"), false, "to a".to_owned());
    assert_eq!(start.resume(&resume).expect("none"), None);
    let mut first = start.clone();
    let journal = Journal::open(&mut first, Some(&rejects), Some(&resume)).expect("new");
    written(journal, [entry(&first, 10, &[3]), entry(&first, 20, &[11, 12])]);

    let mut mark = start.resume(&resume).expect("valid").expect("a mark");
    assert_eq!(mark.at.rows, 20);
    // A line that was written before a kill, behind the mark.
    let mut file = OpenOptions::new().append(true).open(&rejects).expect("there");
    file.write_all(b"a line without its end").expect("written");
    let journal = Journal::open(&mut mark, Some(&rejects), Some(&resume)).expect("again");
    written(journal, [entry(&mark, 30, &[21])]);
    let mut text = String::new();
    File::open(&rejects).expect("there").read_to_string(&mut text).expect("read");
    let line = |row: u64| {
        let file = sources[0].path.display();
        format!("\"{file}\",{row},token,\"must be \"\"valid\"\", row {row}\"\n")
    };
    assert_eq!(text, format!("{HEADER}{}{}{}{}", line(3), line(11), line(12), line(21)));
}

#[test]
fn another_import_is_not_continued() {
    let folder = tempfile::tempdir().expect("a folder");
    let resume = folder.path().join("resume");
    let sources = || [source(folder.path(), "a.csv", "token,observed\n1,1\n")];
    let mut start = Mark::start(&sources(), None, true, "to a".to_owned());
    Journal::open(&mut start, None, Some(&resume)).expect("new");
    let start = Mark::start(&sources(), None, false, "to a".to_owned());
    let problem = start.resume(&resume).expect_err("an option").to_string();
    assert!(
        problem.contains("other options; to import from the beginning, delete it"),
        "{problem}"
    );
    let changed = [source(folder.path(), "a.csv", "token,observed\n2,1\n")];
    let start = Mark::start(&changed, None, true, "to a".to_owned());
    let problem = start.resume(&resume).expect_err("a change").to_string();
    assert!(problem.contains("a.csv: was changed since"), "{problem}");
    fs::write(&resume, "{}").expect("written");
    let problem = start.resume(&resume).expect_err("no mark").to_string();
    assert!(problem.contains("is no resume file"), "{problem}");
}

#[test]
fn a_file_of_rejects_is_never_overwritten() {
    let folder = tempfile::tempdir().expect("a folder");
    let rejects = folder.path().join("rejects");
    fs::write(&rejects, "something else").expect("written");
    let sources = [source(folder.path(), "a.csv", "token,observed\n1,1\n")];
    let mut start = Mark::start(&sources, None, false, "to a".to_owned());
    let problem = Journal::open(&mut start, Some(&rejects), None).expect_err("there").to_string();
    assert!(problem.contains("is there already"), "{problem}");
    start.rejects_bytes = 1_000;
    let problem = Journal::open(&mut start, Some(&rejects), None).expect_err("short").to_string();
    assert!(problem.contains("was shortened"), "{problem}");
}
