//! The modules of one crate, found by the rules of the compiler.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use syn::{Item, Lit, Meta};

use crate::{SourceError, is_test_only, parse};

/// The path of a module within its crate: `["session", "lease"]`; empty for the root.
pub type ModulePath = Vec<String>;

/// One module that has a file of its own.
pub struct Module {
    /// Path of the module's file.
    pub file: PathBuf,
    /// The parsed file.
    pub source: syn::File,
}

/// Every module of a crate's library.
pub struct Modules {
    /// Modules by their path within the crate.
    pub by_path: BTreeMap<ModulePath, Module>,
}

impl Modules {
    /// Reads the library of the crate in `folder`.
    ///
    /// # Errors
    /// If a file is missing or is not Rust.
    pub fn read(folder: &Path) -> Result<Self, SourceError> {
        let mut modules = Self { by_path: BTreeMap::new() };
        let src = folder.join("src");
        modules.read_file(&Vec::new(), src.join("lib.rs"), &src)?;
        Ok(modules)
    }

    /// Returns the module that contains `path`: the longest prefix that is a module with a file.
    #[must_use]
    pub fn containing(&self, path: &[String]) -> ModulePath {
        (0..=path.len())
            .rev()
            .map(|length| path[..length].to_vec())
            .find(|prefix| self.by_path.contains_key(prefix))
            .unwrap_or_default()
    }

    fn read_file(
        &mut self,
        path: &ModulePath,
        file: PathBuf,
        children: &Path,
    ) -> Result<(), SourceError> {
        let source = parse(&file)?;
        let declared: Vec<(String, Option<PathBuf>)> = source
            .items
            .iter()
            .filter_map(|item| match item {
                Item::Mod(module) if module.content.is_none() && !is_test_only(&module.attrs) => {
                    Some((module.ident.to_string(), path_attribute(&module.attrs)))
                }
                _ => None,
            })
            .collect();
        let parent = file.parent().unwrap_or(children).to_owned();
        self.by_path.insert(path.clone(), Module { file, source });
        for (name, elsewhere) in declared {
            let beside = children.join(format!("{name}.rs"));
            let within = children.join(&name).join("mod.rs");
            let file = match elsewhere {
                Some(relative) => parent.join(relative),
                None if within.exists() => within,
                None => beside,
            };
            let mut child = path.clone();
            child.push(name.clone());
            self.read_file(&child, file, &children.join(&name))?;
        }
        Ok(())
    }
}

/// Returns the file that `#[path = "…"]` names.
fn path_attribute(attributes: &[syn::Attribute]) -> Option<PathBuf> {
    attributes.iter().find_map(|attribute| match &attribute.meta {
        Meta::NameValue(named) if named.path.is_ident("path") => match &named.value {
            syn::Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => Some(PathBuf::from(text.value())),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    })
}
