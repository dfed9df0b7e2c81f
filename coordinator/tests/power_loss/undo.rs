//! Takes back what a killed program had written and not synced, from the records of `shim.c`.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

/// Smallest part of a write that a disk loses alone.
const SECTOR: u64 = 512;

/// What a loss of power leaves of what was not synced.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Loss {
    /// Nothing is left.
    All,
    /// Any subset of the sectors and names is left, drawn with the seed.
    Some(u64),
}

/// What was taken back.
#[derive(Debug, Default)]
pub(crate) struct Undone {
    /// Number of writes.
    pub(crate) writes: usize,
    /// Number of created, moved and removed names.
    pub(crate) names: usize,
}

/// One write, with what was there before.
struct Write {
    offset: u64,
    size: u64,
    length_before: u64,
    bytes: Vec<u8>,
}

/// Created, moved or removed name; a kept file by its number, 0: none.
enum Name {
    Created(PathBuf),
    Moved { to: PathBuf, from: PathBuf, over: u64 },
    Removed { path: PathBuf, kept: u64 },
}

/// Takes back what the records of an undo folder say, and empties the folder.
pub(crate) fn undo(folder: &Path, loss: Loss) -> Undone {
    let mut undone = Undone::default();
    let mut draw = match loss {
        Loss::All => None,
        Loss::Some(seed) => Some(StdRng::seed_from_u64(seed)),
    };
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("listed").path())
        .collect();
    paths.sort();
    for path in paths.iter().filter(|path| path.extension().is_some()) {
        if path.file_stem().is_some_and(|stem| stem == "data") {
            let (of, writes) = writes(&fs::read(path).expect("records"));
            let Ok(file) = OpenOptions::new().read(true).write(true).open(&of) else { continue };
            undone.writes += writes.len();
            writes.iter().rev().for_each(|write| take_back(&file, write, &mut draw));
        }
    }
    let names = names(&fs::read(folder.join("names")).unwrap_or_default());
    undone.names = names.len();
    for name in names.iter().rev() {
        if draw.as_mut().is_none_or(|draw| draw.random()) {
            rename_back(folder, name);
        }
    }
    for path in paths {
        fs::remove_file(path).expect("ours");
    }
    undone
}

fn take_back(file: &File, write: &Write, draw: &mut Option<StdRng>) {
    let mut before = write.bytes.clone();
    match draw {
        None => {
            file.write_all_at(&before, write.offset).expect("writable");
            file.set_len(write.length_before).expect("writable");
        }
        // A sector that was behind the end of the file is there and empty.
        Some(draw) => {
            before.resize(usize::try_from(write.size).expect("small"), 0);
            let (mut from, end) = (write.offset, write.offset + write.size);
            while from < end {
                let to = ((from / SECTOR + 1) * SECTOR).min(end);
                let part = |at: u64| usize::try_from(at - write.offset).expect("small");
                if draw.random() {
                    let bytes = &before[part(from)..part(to)];
                    file.write_all_at(bytes, from).expect("writable");
                }
                from = to;
            }
        }
    }
}

fn rename_back(folder: &Path, name: &Name) {
    let kept = |slot: &u64| folder.join(format!("kept.{slot}"));
    match name {
        Name::Created(path) if path.is_dir() => fs::remove_dir_all(path).expect("ours"),
        // A later record may have removed or moved it.
        Name::Created(path) => drop(fs::remove_file(path)),
        Name::Moved { to, from, over } => {
            fs::rename(to, from).expect("ours");
            if *over != 0 {
                fs::hard_link(kept(over), to).expect("ours");
            }
        }
        Name::Removed { path, kept: slot } => {
            if *slot != 0 && !path.exists() {
                fs::hard_link(kept(slot), path).expect("ours");
            }
        }
    }
}

/// The path of a file, which is the last one that it had, and its writes.
fn writes(records: &[u8]) -> (PathBuf, Vec<Write>) {
    let (mut rest, mut path, mut writes) = (records, PathBuf::new(), Vec::new());
    // A killed program may leave the last record incomplete: then the write did not begin.
    while let [kind, after @ ..] = rest {
        rest = after;
        match kind {
            b'P' => match text(&mut rest) {
                Some(text) => path = text,
                None => break,
            },
            _ => {
                let head = [(); 4].map(|()| number(&mut rest));
                let [Some(offset), Some(size), Some(length_before), Some(length)] = head else {
                    break;
                };
                let Some(bytes) = taken(&mut rest, length) else { break };
                writes.push(Write { offset, size, length_before, bytes: bytes.to_vec() });
            }
        }
    }
    (path, writes)
}

fn names(records: &[u8]) -> Vec<Name> {
    let (mut rest, mut names) = (records, Vec::new());
    while let [kind, after @ ..] = rest {
        rest = after;
        let name = match kind {
            b'C' => text(&mut rest).map(Name::Created),
            b'R' => (|| {
                let (to, from) = (text(&mut rest)?, text(&mut rest)?);
                Some(Name::Moved { to, from, over: number(&mut rest)? })
            })(),
            _ => (|| {
                let path = text(&mut rest)?;
                Some(Name::Removed { path, kept: number(&mut rest)? })
            })(),
        };
        match name {
            Some(name) => names.push(name),
            None => break,
        }
    }
    names
}

fn taken<'a>(rest: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = after;
    Some(taken)
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    taken(rest, 8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("8 bytes")))
}

fn text(rest: &mut &[u8]) -> Option<PathBuf> {
    let length = number(rest)?;
    taken(rest, length).map(|bytes| String::from_utf8_lossy(bytes).into_owned().into())
}
