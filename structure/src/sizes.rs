//! Lengths of files, functions and lines.

use std::path::{Path, PathBuf};

use syn::{spanned::Spanned, visit::Visit};

use crate::{SourceError, parse};

/// Sizes of one file.
pub struct FileSize {
    /// Path of the file.
    pub path: PathBuf,
    /// Number of all lines.
    pub lines: usize,
    /// Number of lines with more than 100 characters.
    pub wide: usize,
    /// Name and number of lines of the longest function.
    pub longest: Option<(String, usize)>,
}

/// Returns every Rust file below `folder` that belongs to the workspace, in order of path.
///
/// # Errors
/// If a folder cannot be read.
pub fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Measures one file.
///
/// # Errors
/// If the file cannot be read, or is not Rust.
pub fn measure(path: &Path) -> Result<FileSize, SourceError> {
    let text = std::fs::read_to_string(path)
        .map_err(|problem| SourceError::Read { path: path.to_owned(), problem })?;
    let mut functions = Functions { longest: None };
    functions.visit_file(&parse(path)?);
    Ok(FileSize {
        path: path.to_owned(),
        lines: text.lines().count(),
        wide: text.lines().filter(|line| line.chars().count() > 100).count(),
        longest: functions.longest,
    })
}

struct Functions {
    longest: Option<(String, usize)>,
}

impl Functions {
    fn compare(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let lines = block.span().end().line + 1 - signature.span().start().line;
        if self.longest.as_ref().is_none_or(|(_, longest)| *longest < lines) {
            self.longest = Some((signature.ident.to_string(), lines));
        }
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.compare(&function.sig, &function.block);
        syn::visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.compare(&function.sig, &function.block);
        syn::visit::visit_impl_item_fn(self, function);
    }
}
