//! What an import leaves on disk: the rejects, and how far acknowledged rows reach.
//!
//! A thread of its own writes both, so that a slow disk delays no acknowledgement. For each group
//! of acknowledged batches it writes and syncs the rejects, and then replaces the resume file, which
//! holds the length of the rejects: after a kill at any moment, an import goes on behind the last
//! acknowledged rows whose resume file was synced, and no reject is there twice.

use std::{
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::mpsc;

use super::{
    batch::Reject,
    error::ImportError,
    position::Position,
    source::{Fingerprint, Source},
};

/// Version of the resume file.
const VERSION: u32 = 1;
/// Largest resume file, bytes: that of 10,000 files of devices.
const RESUME_BYTES_MAX: u64 = 4 << 20;
/// Number of acknowledged batches that may wait for the disk.
pub(super) const QUEUE: usize = 16;
/// First line of the file of rejects.
const HEADER: &str = "file,row,column,reason\n";

/// How far an import is: everything before is written or rejected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mark {
    version: u32,
    files: Vec<(PathBuf, Fingerprint)>,
    /// App and `historic`, with which rows mean the same.
    app: Option<String>,
    historic: bool,
    /// Coordinator or store that has the rows before this mark.
    to: String,
    /// Number of the file in which the import goes on; the number of files: none.
    pub(super) file: usize,
    /// Position in that file.
    pub(super) at: Position,
    /// Rows written and rejected so far.
    pub(super) counts: Counts,
    rejects_bytes: u64,
}

/// Rows of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Counts {
    /// Rows that were written.
    pub(super) written: u64,
    /// Rows that were rejected.
    pub(super) rejected: u64,
    /// Rows that were written without a part that has no meaning.
    pub(super) warned: u64,
}

impl Mark {
    /// The mark of an import that begins.
    pub(super) fn start(sources: &[Source], app: Option<&str>, historic: bool, to: String) -> Self {
        let files = sources.iter().map(|source| (source.path.clone(), source.print.clone()));
        Self {
            version: VERSION,
            files: files.collect(),
            app: app.map(str::to_owned),
            historic,
            to,
            file: 0,
            at: Position::default(),
            counts: Counts::default(),
            rejects_bytes: 0,
        }
    }

    /// Reads the mark of an earlier run of the same import; `None`: there was none.
    ///
    /// # Errors
    /// The file is unreadable, or belongs to another import: other files, or other content.
    pub(super) fn resume(&self, path: &Path) -> Result<Option<Self>, ImportError> {
        let Some(mark) = read_mark::<Self>(path)? else { return Ok(None) };
        let over = "; to import from the beginning, delete it";
        if mark.version != VERSION {
            let problem = format!("has version {}; this program has {VERSION}{over}", mark.version);
            return Err(ImportError::content(path, problem));
        }
        let names =
            |mark: &Self| mark.files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        if names(&mark) != names(self) || (&mark.app, mark.historic) != (&self.app, self.historic) {
            let problem = format!("is of an import of other files or with other options{over}");
            return Err(ImportError::content(path, problem));
        }
        if mark.to != self.to {
            let problem = format!("is of an import {}, and this one is {}{over}", mark.to, self.to);
            return Err(ImportError::content(path, problem));
        }
        let changed = mark.files.iter().zip(&self.files).find(|(then, now)| then != now);
        if let Some(((name, _), _)) = changed {
            let problem = format!("was changed since {} was written{over}", path.display());
            return Err(ImportError::content(name, problem));
        }
        Ok(Some(mark))
    }
}

/// Acknowledged rows, for the disk.
#[derive(Debug)]
pub(super) struct Entry {
    /// The mark behind the rows.
    pub(super) mark: Mark,
    /// Number of the file of the rejects.
    pub(super) file: usize,
    /// Rejected rows of that file, in its order.
    pub(super) rejects: Vec<Reject>,
}

/// Files that an import writes.
#[derive(Debug)]
pub(super) struct Journal {
    files: Vec<PathBuf>,
    rejects: Option<(PathBuf, File, u64)>,
    resume: Option<PathBuf>,
}

impl Journal {
    /// Opens the file of rejects: a new one, or the one of the run that is continued.
    ///
    /// # Errors
    /// The file cannot be written, or would be overwritten.
    pub(super) fn open(
        start: &mut Mark,
        rejects: Option<&Path>,
        resume: Option<&Path>,
    ) -> Result<Self, ImportError> {
        let opened = rejects.map(|path| open_rejects(path, &mut start.rejects_bytes));
        let files = start.files.iter().map(|(path, _)| path.clone()).collect();
        let journal =
            Self { files, rejects: opened.transpose()?, resume: resume.map(Path::to_owned) };
        journal.replace_mark(start)?;
        Ok(journal)
    }

    /// Writes entries until there are no more. Runs on a thread of its own.
    ///
    /// # Errors
    /// A file cannot be written; nothing more is acknowledged then.
    pub(super) fn write_all(
        mut self,
        mut entries: mpsc::Receiver<Entry>,
    ) -> Result<(), ImportError> {
        while let Some(entry) = entries.blocking_recv() {
            let mut last = self.append(entry)?;
            while let Ok(entry) = entries.try_recv() {
                last = self.append(entry)?;
            }
            if let Some((path, file, bytes)) = &self.rejects {
                file.sync_data().map_err(|e| ImportError::file(path, "written", e))?;
                last.rejects_bytes = *bytes;
            }
            self.replace_mark(&last)?;
        }
        Ok(())
    }

    fn append(&mut self, entry: Entry) -> Result<Mark, ImportError> {
        if let Some((path, file, bytes)) = &mut self.rejects
            && !entry.rejects.is_empty()
        {
            let name = self.files.get(entry.file).map(|path| path.to_string_lossy());
            let lines = lines(&name.unwrap_or_default(), &entry.rejects);
            file.write_all(lines.as_bytes()).map_err(|e| ImportError::file(path, "written", e))?;
            *bytes += lines.len() as u64;
        }
        Ok(entry.mark)
    }

    fn replace_mark(&self, mark: &Mark) -> Result<(), ImportError> {
        let Some(path) = &self.resume else { return Ok(()) };
        replace(path, mark)
    }
}

/// Replaces a resume file as a whole: after a kill it is the old one or the new one.
pub(super) fn replace(path: &Path, mark: &impl Serialize) -> Result<(), ImportError> {
    let failed = |error| ImportError::file(path, "written", error);
    let text = serde_json::to_vec(mark).map_err(|e| failed(e.into()))?;
    let mut name = path.to_owned().into_os_string();
    name.push(".new");
    let new = PathBuf::from(name);
    let mut file = File::create(&new).map_err(failed)?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&new, path).map_err(failed)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = File::open(folder.unwrap_or(Path::new("."))).map_err(failed)?;
    folder.sync_all().map_err(failed)
}

/// Reads a resume file; `None`: there is none.
///
/// # Errors
/// The file is unreadable, or no resume file.
pub(super) fn read_mark<M: DeserializeOwned>(path: &Path) -> Result<Option<M>, ImportError> {
    let text = match fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ImportError::file(path, "read", error)),
        Ok(of) if of.len() > RESUME_BYTES_MAX => {
            return Err(ImportError::content(path, "is too large for a resume file"));
        }
        Ok(_) => fs::read(path).map_err(|e| ImportError::file(path, "read", e))?,
    };
    let mark = serde_json::from_slice(&text);
    mark.map(Some).map_err(|e| ImportError::content(path, format!("is no resume file: {e}")))
}

/// Opens the file of rejects: a new one if `bytes` is 0, or one of that length at least.
fn open_rejects(path: &Path, bytes: &mut u64) -> Result<(PathBuf, File, u64), ImportError> {
    let failed = |error| ImportError::file(path, "written", error);
    let is_new = *bytes == 0;
    let file = OpenOptions::new().read(!is_new).write(true).create_new(is_new).open(path);
    let mut file = match file {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let problem = "is there already; name another file for the rejects, or remove it";
            return Err(ImportError::content(path, problem));
        }
        other => other.map_err(failed)?,
    };
    if is_new {
        file.write_all(HEADER.as_bytes()).map_err(failed)?;
        *bytes = HEADER.len() as u64;
    } else if file.metadata().map_err(failed)?.len() < *bytes {
        let problem = "was shortened since the resume file was written";
        return Err(ImportError::content(path, problem));
    } else {
        let mut header = vec![0; HEADER.len()];
        file.read_exact(&mut header).map_err(failed)?;
        if header != HEADER.as_bytes() {
            let problem = "is no file of rejects; name the file of the run that is continued";
            return Err(ImportError::content(path, problem));
        }
        // Lines behind the mark are of rows that come again.
        file.set_len(*bytes).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
    }
    Ok((path.to_owned(), file, *bytes))
}

/// Lines of the file of rejects.
fn lines(file: &str, rejects: &[Reject]) -> String {
    let mut text = String::new();
    for Reject { row, fault } in rejects {
        let column = fault.column.map_or("", |column| column.name());
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{},{row},{column},{}", quoted(file), quoted(&fault.reason));
    }
    text
}

/// A value of CSV.
pub(super) fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests;
