//! The texts in the source: phrases of log messages and doc comments.

use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};
use syn::{Expr, Lit, Meta, visit::Visit};

use crate::{SourceError, is_test_only, parse};

/// Text at a line of a file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text {
    /// The text in one line.
    pub text: String,
    /// Number of the line, from 1.
    pub line: usize,
}

/// Texts of one file.
#[derive(Default)]
pub struct Texts {
    /// Phrases of `tracing` events outside tests.
    pub logged: Vec<Text>,
    /// Doc comments of items, fields and variants, each with its first paragraph.
    pub documented: Vec<Text>,
    doc_line_last: usize,
    doc_paragraph_ended: bool,
}

/// Collects the texts of one file.
///
/// # Errors
/// If the file cannot be read, or is not Rust.
pub fn of(path: &Path) -> Result<Texts, SourceError> {
    let mut texts = Texts::default();
    texts.visit_file(&parse(path)?);
    Ok(texts)
}

impl<'ast> Visit<'ast> for Texts {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !is_test_only(&module.attrs) {
            syn::visit::visit_item_mod(self, module);
        }
    }

    fn visit_macro(&mut self, invocation: &'ast syn::Macro) {
        self.read_event(&invocation.path, &invocation.tokens);
        self.read_events(&invocation.tokens);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        let Meta::NameValue(named) = &attribute.meta else { return };
        let Expr::Lit(literal) = &named.value else { return };
        let Lit::Str(text) = &literal.lit else { return };
        if named.path.is_ident("doc") {
            self.doc_line(text.value().trim(), text.span().start().line);
        }
    }
}

impl Texts {
    /// Adds a line of a doc comment to the paragraph of the line above.
    fn doc_line(&mut self, text: &str, line: usize) {
        let first = self.doc_line_last + 1 != line;
        self.doc_line_last = line;
        match self.documented.last_mut() {
            _ if first => self.documented.push(Text { text: text.to_owned(), line }),
            Some(_) if self.doc_paragraph_ended => {}
            Some(paragraph) if !text.is_empty() => {
                paragraph.text.push(' ');
                paragraph.text.push_str(text);
            }
            _ => {}
        }
        self.doc_paragraph_ended = text.is_empty() || (!first && self.doc_paragraph_ended);
    }

    /// Finds events in the arguments of other macros, such as `select!`.
    fn read_events(&mut self, tokens: &TokenStream) {
        let tokens: Vec<TokenTree> = tokens.clone().into_iter().collect();
        for (at, token) in tokens.iter().enumerate() {
            let TokenTree::Group(group) = token else { continue };
            let name = at.checked_sub(2).and_then(|before| match &tokens[before..at] {
                [TokenTree::Ident(name), TokenTree::Punct(mark)] if mark.as_char() == '!' => {
                    Some(name)
                }
                _ => None,
            });
            if let Some(name) = name {
                self.read_event(&syn::Path::from(name.clone()), &group.stream());
            }
            self.read_events(&group.stream());
        }
    }

    fn read_event(&mut self, path: &syn::Path, tokens: &TokenStream) {
        let level = path.segments.last().map(|segment| segment.ident.to_string());
        if !matches!(level.as_deref(), Some("trace" | "debug" | "info" | "warn" | "error")) {
            return;
        }
        // The phrase is the last string that stands alone between commas.
        let mut phrase = None;
        let mut alone = true;
        for token in tokens.clone() {
            match token {
                TokenTree::Punct(mark) if mark.as_char() == ',' => alone = true,
                TokenTree::Literal(literal) if alone => {
                    if let Lit::Str(text) = Lit::new(literal) {
                        phrase = Some(Text { text: text.value(), line: text.span().start().line });
                    }
                    alone = false;
                }
                _ => alone = false,
            }
        }
        self.logged.extend(phrase);
    }
}
