//! Imports between the modules of a crate.
//!
//! Every path counts, wherever it is written: in `use`, in a type, in an expression, or in the
//! arguments of a macro. A name that a module re-exports (`pub use`) counts as an import from the
//! module that defines it.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{TokenStream, TokenTree};
use syn::{ItemMod, ItemUse, UseTree, visit::Visit};

use crate::{
    is_test_only,
    modules::{ModulePath, Modules},
};

/// Returns the imports of a crate: each importing module with the imported modules.
///
/// An import from an ancestor is left out: a child may use the types of its parent.
#[must_use]
pub fn between(modules: &Modules) -> BTreeMap<ModulePath, BTreeSet<ModulePath>> {
    let found: BTreeMap<&ModulePath, Paths> = modules
        .by_path
        .iter()
        .map(|(path, module)| (path, Paths::within(path, &module.source)))
        .collect();
    let handed_on: BTreeMap<Vec<String>, Vec<String>> = found
        .iter()
        .flat_map(|(module, paths)| {
            paths.named.iter().map(move |(name, target)| {
                let mut full = (*module).clone();
                full.push(name.clone());
                (full, target.clone())
            })
        })
        .collect();
    found
        .iter()
        .map(|(module, paths)| {
            let imported = paths
                .used
                .iter()
                .map(|target| modules.containing(&definition(target, &handed_on, modules)))
                .filter(|target| !module.starts_with(target))
                .collect();
            ((*module).clone(), imported)
        })
        .collect()
}

/// Returns the module that defines the item at `path`, by following re-exports.
fn definition(
    path: &[String],
    handed_on: &BTreeMap<Vec<String>, Vec<String>>,
    modules: &Modules,
) -> Vec<String> {
    let mut path = path.to_vec();
    // Most steps of a chain of re-exports. A circle of them does not compile.
    for _ in 0..8 {
        let module = modules.containing(&path);
        let Some(name) = path.get(module.len()) else { break };
        let mut full = module.clone();
        full.push(name.clone());
        let Some(target) = handed_on.get(&full) else { break };
        let mut next = target.clone();
        next.extend_from_slice(&path[full.len()..]);
        if next == path {
            break;
        }
        path = next;
    }
    path
}

/// Collector of the paths into its own crate that one file contains, in absolute form.
struct Paths {
    /// The module, with the inline modules around the present position.
    here: Vec<String>,
    /// Names of child modules that the file declares, and of its imports.
    named: BTreeMap<String, Vec<String>>,
    children: BTreeSet<String>,
    used: BTreeSet<Vec<String>>,
}

impl Paths {
    fn within(module: &[String], source: &syn::File) -> Self {
        let children = source
            .items
            .iter()
            .filter_map(|item| match item {
                syn::Item::Mod(child) if !is_test_only(&child.attrs) => {
                    Some(child.ident.to_string())
                }
                _ => None,
            })
            .collect();
        let mut paths =
            Self { here: module.to_vec(), named: BTreeMap::new(), children, used: BTreeSet::new() };
        paths.visit_file(source);
        paths
    }

    /// Returns the absolute form of a path, if it leads into this crate.
    fn absolute(&self, segments: &[String]) -> Option<Vec<String>> {
        let (first, rest) = segments.split_first()?;
        let mut absolute = match first.as_str() {
            "crate" => Vec::new(),
            "self" => self.here.clone(),
            "super" => self.here[..self.here.len().checked_sub(1)?].to_vec(),
            name if self.children.contains(name) => {
                let mut path = self.here.clone();
                path.push(name.to_owned());
                path
            }
            _ => return None,
        };
        for segment in rest {
            if segment == "super" {
                absolute.pop()?;
            } else if segment != "self" {
                absolute.push(segment.clone());
            }
        }
        Some(absolute)
    }

    fn read_tree(&mut self, tree: &UseTree, before: &mut Vec<String>) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.read_tree(&path.tree, before);
                before.pop();
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.read_tree(tree, before);
                }
            }
            UseTree::Name(name) => {
                self.read_name(before, &name.ident.to_string(), &name.ident.to_string());
            }
            UseTree::Rename(rename) => {
                self.read_name(before, &rename.ident.to_string(), &rename.rename.to_string());
            }
            UseTree::Glob(_) => {
                if let Some(target) = self.absolute(before) {
                    self.used.insert(target);
                }
            }
        }
    }

    fn read_name(&mut self, before: &[String], name: &str, visible_as: &str) {
        let mut full = before.to_vec();
        full.push(name.to_owned());
        let Some(target) = self.absolute(&full) else { return };
        let visible_as = match (visible_as, before.last()) {
            ("self", Some(module)) => module,
            _ => visible_as,
        };
        self.named.insert(visible_as.to_owned(), target.clone());
        self.used.insert(target);
    }

    /// Finds paths in the arguments of a macro, which are tokens without a grammar.
    fn read_tokens(&mut self, tokens: &TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens.clone() {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.end_path(&mut path);
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.end_path(&mut path);
                    colons = 0;
                    self.read_tokens(&group.stream());
                }
                _ => {
                    self.end_path(&mut path);
                    colons = 0;
                }
            }
        }
        self.end_path(&mut path);
    }

    fn end_path(&mut self, path: &mut Vec<String>) {
        if path.len() > 1
            && let Some(target) = self.absolute(path)
        {
            self.used.insert(target);
        }
        path.clear();
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            syn::Item::Struct(item) => &item.attrs,
            syn::Item::Enum(item) => &item.attrs,
            syn::Item::Const(item) => &item.attrs,
            syn::Item::Static(item) => &item.attrs,
            syn::Item::Type(item) => &item.attrs,
            syn::Item::Trait(item) => &item.attrs,
            _ => return syn::visit::visit_item(self, item),
        };
        if !is_test_only(attributes) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_test_only(&item.attrs) {
            syn::visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if module.content.is_some() {
            self.here.push(module.ident.to_string());
            syn::visit::visit_item_mod(self, module);
            self.here.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.read_tree(&item.tree, &mut Vec::new());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let mut segments: Vec<String> =
            path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.end_path(&mut segments);
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, invocation: &'ast syn::Macro) {
        self.read_tokens(&invocation.tokens);
        syn::visit::visit_macro(self, invocation);
    }
}
