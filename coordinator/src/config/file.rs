//! Reads the configuration file: every key is optional, unknown keys are refused.

use std::{fs, path::Path};

use super::{ConfigError, args::Args, given::one_line};

/// Reads and decodes the configuration file.
pub(super) fn read(path: &Path) -> Result<Args, ConfigError> {
    let place = path.display().to_string();
    let error = |key: String, problem: String| ConfigError { place: place.clone(), key, problem };
    let text = fs::read_to_string(path)
        .map_err(|e| error(String::new(), format!("cannot be read: {e}")))?;
    toml::from_str(&text).map_err(|e| {
        let (key, problem) = problem(&text, &e);
        error(key, problem)
    })
}

/// Key and description of a parser's error. The parser gives the place only as a range of bytes, so
/// the key and the line are searched in the text.
fn problem(text: &str, error: &toml::de::Error) -> (String, String) {
    let message = one_line(error.message());
    let Some(span) = error.span() else { return (String::new(), message) };
    let before = &text[..span.start.min(text.len())];
    let number = before.matches('\n').count();
    let line = text.lines().nth(number).unwrap_or_default().trim();
    let table = before.lines().chain([line]).map(str::trim).rfind(|l| l.starts_with('['));
    let table = table.map(|t| t.trim_matches(['[', ']']).trim().to_owned());
    let key = line.split_once('=').map(|(key, _)| key.trim().to_owned());
    let key = [table, key].into_iter().flatten().collect::<Vec<_>>().join(".");
    (key, format!("{message} (line {})", number + 1))
}
