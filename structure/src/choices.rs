//! Where a task chooses at random: `select!` without `biased` begins with a branch that a generator
//! of the thread draws, so the same inputs give another order in each run.

use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use crate::SourceError;

/// The lines of all `select!` without `biased` in one file, code under `#[cfg(test)]` excluded.
///
/// # Errors
/// The file cannot be read, or is not Rust.
pub fn at_random(path: &Path) -> Result<Vec<usize>, SourceError> {
    let text = std::fs::read_to_string(path)
        .map_err(|problem| SourceError::Read { path: path.to_owned(), problem })?;
    let tokens = text.parse::<TokenStream>().map_err(|error| SourceError::Parse {
        path: path.to_owned(),
        line: error.span().start().line,
        problem: error.to_string(),
    })?;
    let mut lines = Vec::new();
    collect(tokens, &mut lines);
    Ok(lines)
}

fn collect(tokens: TokenStream, lines: &mut Vec<usize>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut of_test = false;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Punct(mark) if mark.as_char() == ';' => of_test = false,
            TokenTree::Group(group) => {
                let stream = group.stream();
                of_test |= stream.to_string() == "cfg (test)";
                if of_test {
                    // The item ends with its braces.
                    of_test = group.delimiter() != Delimiter::Brace;
                    continue;
                }
                let is_select = matches!(
                    &tokens[at.saturating_sub(2)..at],
                    [TokenTree::Ident(name), TokenTree::Punct(mark)]
                        if name == "select" && mark.as_char() == '!'
                );
                let first = stream.clone().into_iter().next();
                let is_biased = matches!(first, Some(TokenTree::Ident(first)) if first == "biased");
                if is_select && !is_biased {
                    lines.push(group.span_open().start().line);
                }
                collect(stream, lines);
            }
            TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_is_drawn_and_leaves_out_tests() {
        let text = "
            #[cfg(test)]
            use a::b;
            fn one() { tokio::select! { biased; _ = a => {} _ = b => {} } }
            fn two() { select! { _ = a => { select! { biased; _ = c => {} } } _ = b => {} } }
            fn three() { select! { biased; _ = a => {
                tokio::select! { _ = c => {} } } } }
            #[cfg(test)]
            mod tests { fn four() { tokio::select! { _ = a => {} } } }
        ";
        let mut lines = Vec::new();
        collect(text.parse().expect("Rust"), &mut lines);
        assert_eq!(lines, [5, 7]);
    }
}
