//! Header fields of a request to either provider.

use std::borrow::Cow;

/// One header field of a request.
pub(crate) struct Field<'a> {
    pub(crate) name: &'static str,
    pub(crate) value: Cow<'a, str>,
    pub(crate) indexing: Indexing,
    pub(crate) secret: bool,
}

/// Representation of a field in HPACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Indexing {
    /// The field enters the table with its value, which very many requests share.
    Value,
    /// The name enters the table with the first value; the value is a literal.
    Name,
    /// The field never enters a table, also not in intermediaries (RFC 7541, 7.1.3).
    Never,
}

/// Reports whether the bytes are valid in a field (RFC 9113, 8.2.1): no line end, no space at
/// either end.
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
