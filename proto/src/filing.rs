//! Data by which a caller finds its alerts again: an identifier of its own, and labels. No decision
//! depends on them, and phones do not receive them.

use std::collections::HashMap;

use crate::{error::InvalidField, text};

/// Maximum length of an external identifier, bytes.
pub const EXTERNAL_ID_BYTES_MAX: usize = 256;
/// Maximum number of labels of one alert, and of one filter.
pub const LABELS_MAX: usize = 16;
/// Maximum length of the key of a label, characters.
pub const LABEL_KEY_CHARS_MAX: usize = 63;
/// Maximum length of the value of a label, bytes.
pub const LABEL_VALUE_BYTES_MAX: usize = 256;

/// Checks `external_id`; empty: none.
///
/// # Errors
/// The identifier is too long or has invisible characters.
pub fn check_external_id(id: &str) -> Result<(), InvalidField> {
    if id.len() > EXTERNAL_ID_BYTES_MAX {
        let problem = format!("must be at most {EXTERNAL_ID_BYTES_MAX} bytes; got {}", id.len());
        return Err(InvalidField::new("external_id", problem));
    }
    text::identifier(id, "external_id")
}

/// Checks `labels`, in the order of their keys, so that the same labels always give the same error.
///
/// # Errors
/// There are too many labels, or a key or value is invalid.
pub fn check_labels(labels: &HashMap<String, String>) -> Result<(), InvalidField> {
    if labels.len() > LABELS_MAX {
        let problem = format!("must have at most {LABELS_MAX} labels; got {}", labels.len());
        return Err(InvalidField::new("labels", problem));
    }
    let mut sorted: Vec<_> = labels.iter().collect();
    sorted.sort();
    sorted.into_iter().try_for_each(|(key, value)| check_label(key, value))
}

fn check_label(key: &str, value: &str) -> Result<(), InvalidField> {
    let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b);
    if !key.starts_with(|c: char| c.is_ascii_lowercase())
        || key.len() > LABEL_KEY_CHARS_MAX
        || !key.bytes().all(known)
    {
        let problem = format!(
            "must have keys of 1 to {LABEL_KEY_CHARS_MAX} characters of a-z, 0-9, '_' and '-' \
             that begin with a letter; got {:?}",
            key.chars().take(LABEL_KEY_CHARS_MAX).collect::<String>()
        );
        return Err(InvalidField::new("labels", problem));
    }
    let field = format!("labels[{key}]");
    if value.len() > LABEL_VALUE_BYTES_MAX {
        let bytes = value.len();
        let problem = format!("must be at most {LABEL_VALUE_BYTES_MAX} bytes; got {bytes} bytes");
        return Err(InvalidField::new(field, problem));
    }
    text::no_controls(value, &field)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(labels: &[(&str, &str)]) -> Result<(), String> {
        let owned = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        check_labels(&owned).map_err(|e| e.to_string())
    }

    #[test]
    fn labels_are_refused_by_their_key() {
        assert_eq!(labels(&[("region", "north"), ("a", ""), ("case_no-2", "17/B ü")]), Ok(()));
        for key in ["", "1a", "A", "a.b", "ä", &"a".repeat(64)] {
            assert!(labels(&[(key, "")]).is_err_and(|e| e.starts_with("labels: must have keys")));
        }
        assert_eq!(
            labels(&[("b", "\n"), ("a", &"x".repeat(257))]),
            Err("labels[a]: must be at most 256 bytes; got 257 bytes".to_owned())
        );
        assert!(labels(&[("b", "\n")]).is_err_and(|e| e.contains("U+000A at byte 0")));
        let many: Vec<String> = (0..17).map(|n| format!("k{n}")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|key| (key.as_str(), "v")).collect();
        assert_eq!(labels(&many), Err("labels: must have at most 16 labels; got 17".to_owned()));
    }

    #[test]
    fn external_identifiers_have_a_limit() {
        assert_eq!(check_external_id(""), Ok(()));
        assert_eq!(check_external_id(&"x".repeat(256)), Ok(()));
        let long = check_external_id(&"x".repeat(257)).expect_err("refused").to_string();
        assert_eq!(long, "external_id: must be at most 256 bytes; got 257");
    }
}
