use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").mode() & 0o777
}

fn refused(path: &Path) -> String {
    DataFolder::open(path).expect_err("must be refused").to_string()
}

#[test]
fn a_folder_is_made_once_with_a_key_that_stays() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("data");
    let folder = DataFolder::open(&path).expect("created");
    let key = folder.device_key().expect("made");
    assert_eq!((mode(&path), mode(&path.join(DEVICE_KEY))), (0o700, 0o600));
    assert!(!key.is_random());
    drop(folder);
    let again = DataFolder::open(&path).expect("opened").device_key().expect("read");
    assert_eq!(again.id("phone-1"), key.id("phone-1"));
    let other = DataFolder::open(&directory.path().join("other")).expect("created");
    assert_ne!(other.device_key().expect("made").id("phone-1"), key.id("phone-1"));
}

#[test]
fn a_key_that_was_half_written_is_made_again() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let folder = DataFolder::open(&directory.path().join("data")).expect("created");
    fs::write(folder.path.join("device.key.new"), [7; 3]).expect("written");
    folder.device_key().expect("made");
    fs::write(folder.path.join(DEVICE_KEY), [7; 3]).expect("written");
    let error = folder.device_key().expect_err("short").to_string();
    assert!(error.ends_with("device.key: must be 32 to 4096 bytes; got 3 bytes"), "{error}");
}

#[test]
fn a_second_process_is_refused_with_the_id_of_the_first() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("data");
    let folder = DataFolder::open(&path).expect("created");
    let id = std::process::id();
    let words = format!(
        "data_dir: {}: is used by process {id}; end that process, or name another folder with \
         --data-dir",
        path.display()
    );
    assert_eq!(refused(&path), words);
    let link = directory.path().join("link");
    symlink(&path, &link).expect("linked");
    assert!(refused(&link).contains("is used by process"), "by another name");
    drop(folder);
    DataFolder::open(&path).expect("free again");
}

#[test]
fn a_folder_that_others_can_read_is_refused_with_the_command_that_mends_it() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("data");
    drop(DataFolder::open(&path).expect("created"));
    for open in [0o755, 0o701, 0o777] {
        fs::set_permissions(&path, fs::Permissions::from_mode(open)).expect("changed");
        let error = refused(&path);
        let command = format!("got mode {open:04o}; run: chmod 700 '{}'", path.display());
        assert!(error.ends_with(&command), "{error}");
    }
    // As Kubernetes leaves a volume with `fsGroup`.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o2770)).expect("changed");
    DataFolder::open(&path).expect("of the process's own group");
}

#[test]
fn what_is_no_folder_or_has_none_above_is_named() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("file");
    fs::write(&file, "text").expect("written");
    assert!(refused(&file).contains("is not a folder"), "{}", refused(&file));
    let nowhere = directory.path().join("no/data");
    assert!(refused(&nowhere).contains("cannot be created: No such file"), "{}", refused(&nowhere));
    assert!(!directory.path().join("no").exists());
    let inside = refused(&file.join("data"));
    assert!(inside.contains("cannot be created: Not a directory"), "{inside}");
}
