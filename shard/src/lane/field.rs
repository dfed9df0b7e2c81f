//! Fields of a request, whoever's.

use std::borrow::Cow;

use super::connection::Indexing;

/// One field.
pub(crate) struct Field<'a> {
    pub(crate) name: &'static str,
    pub(crate) value: Cow<'a, str>,
    pub(crate) indexing: Indexing,
    pub(crate) secret: bool,
}

/// Whether these bytes may stand in a field (RFC 9113, 8.2.1): nothing that ends a line, no space at either end.
pub(crate) fn is_field_value(value: &str) -> bool {
    let edge = |c: Option<&u8>| matches!(c, Some(b' ' | b'\t'));
    let bytes = value.as_bytes();
    !bytes.iter().any(|b| matches!(b, 0 | b'\r' | b'\n'))
        && !edge(bytes.first())
        && !edge(bytes.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_cannot_smuggle_another() {
        assert!(is_field_value("com.example.app"));
        assert!(is_field_value(""));
        for bad in ["a\r\nb", "a\0", " a", "a\t"] {
            assert!(!is_field_value(bad));
        }
    }
}
