//! Header fields of an HTTP/2 request, and the rules that make a list of fields malformed.

/// Header fields that every provider reads. [`Fields::add`] leaves all other fields to the
/// provider.
#[derive(Debug, Default)]
pub struct Fields {
    /// Value of the `:method` pseudo-header.
    pub method: Option<Vec<u8>>,
    /// Value of the `:path` pseudo-header.
    pub path: Option<Vec<u8>>,
    /// Value of the first `authorization` header.
    pub authorization: Option<Vec<u8>>,
    scheme: bool,
    authority: bool,
    host: bool,
    content_length: Option<Vec<u8>>,
    regular: bool,
    /// Whether a field that must occur once occurs twice.
    pub repeated: bool,
    malformed: bool,
}

impl Fields {
    /// Stores the next field. Returns false for a field that only a provider's module may know.
    pub fn add(&mut self, name: &[u8], value: &[u8]) -> bool {
        let pseudo = name.first() == Some(&b':');
        // RFC 9113, sections 8.2.1 and 8.3: names are lower case, and pseudo-header fields come
        // first.
        self.malformed |=
            name.is_empty() || name.iter().any(u8::is_ascii_uppercase) || (pseudo && self.regular);
        self.regular |= !pseudo;
        match name {
            b":scheme" => self.malformed |= std::mem::replace(&mut self.scheme, true),
            b":authority" => self.malformed |= std::mem::replace(&mut self.authority, true),
            b"host" => self.host = true,
            b":method" => self.malformed |= self.method.replace(value.to_vec()).is_some(),
            b":path" => self.malformed |= self.path.replace(value.to_vec()).is_some(),
            b"content-length" => self.content_length = Some(value.to_vec()),
            b"authorization" => self.repeated |= first_counts(&mut self.authorization, value),
            // RFC 9113, section 8.2.2: fields about the connection are malformed.
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding"
            | b"upgrade" => {
                self.malformed = true;
            }
            b"te" => self.malformed |= value != b"trailers",
            _ => {
                self.malformed |= pseudo;
                return false;
            }
        }
        true
    }

    /// Reports whether the fields are not a valid HTTP/2 request, so that the stream must be reset.
    #[must_use]
    pub fn is_malformed(&self) -> bool {
        self.malformed
            || self.method.is_none()
            || !self.scheme
            || self.path.as_ref().is_none_or(Vec::is_empty)
            || !(self.authority || self.host)
            || (self.content_length.is_some() && self.content_length().is_none())
    }

    /// Returns the length of the body that the client announced.
    #[must_use]
    pub fn content_length(&self) -> Option<u64> {
        self.content_length.as_deref().and_then(number)
    }
}

/// Parses decimal digits. Returns `None` for any other character or a number beyond a u64.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Stores the first value of a field, and reports whether there was a value before.
pub(super) fn first_counts(slot: &mut Option<Vec<u8>>, value: &[u8]) -> bool {
    let repeated = slot.is_some();
    slot.get_or_insert_with(|| value.to_vec());
    repeated
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(list: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in list {
            fields.add(name.as_bytes(), value.as_bytes());
        }
        fields
    }

    #[test]
    fn what_is_no_request_is_malformed() {
        let good = [(":method", "POST"), (":scheme", "https"), (":path", "/"), (":authority", "a")];
        assert!(!fields(&good).is_malformed());
        let host = [(":method", "POST"), (":scheme", "https"), (":path", "/"), ("host", "a")];
        assert!(!fields(&host).is_malformed());
        for bad in [
            ("Upper", "x"),
            (":path", "/"),
            (":odd", "x"),
            ("connection", "close"),
            ("te", "gzip"),
            ("content-length", "x"),
        ] {
            let list: Vec<_> = good.iter().copied().chain([bad]).collect();
            assert!(fields(&list).is_malformed(), "{bad:?}");
        }
        for missing in 0..4 {
            let list: Vec<_> =
                good.iter().enumerate().filter(|(i, _)| *i != missing).map(|(_, f)| *f).collect();
            assert!(fields(&list).is_malformed(), "{missing}");
        }
        let late: Vec<_> = [("a", "b")].into_iter().chain(good).collect();
        assert!(fields(&late).is_malformed());
    }
}
