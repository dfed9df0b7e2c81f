//! HPACK (RFC 7541): code shared by encoder and decoder.
//!
//! The library that was first intended as decoder panics on a truncated table size update and
//! accepts one in the middle of a block. In a process that aborts on panic one such frame would end
//! a node. So both directions are written here, without allocation once warm, and compared with two
//! independent implementations in the tests.

pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod huffman;

/// Bytes that an entry counts in addition to its name and value (RFC 7541, 4.1).
pub(crate) const ENTRY_OVERHEAD: usize = 32;

/// Size of a dynamic table before SETTINGS (RFC 9113, 6.5.2).
pub(crate) const TABLE_SIZE_DEFAULT: usize = 4_096;

/// Returns the bytes that an entry counts towards a table's size, and a field towards a header
/// list's.
pub(crate) fn entry_size(name: &str, value_len: usize) -> usize {
    name.len() + value_len + ENTRY_OVERHEAD
}

/// Appends an integer with a prefix of `bits` bits; `first` has the bits above the prefix (RFC
/// 7541, 5.1).
#[allow(clippy::cast_possible_truncation)] // each cast is masked or compared first
pub(crate) fn put_integer(out: &mut Vec<u8>, first: u8, bits: u32, value: usize) {
    let mask = (1usize << bits) - 1;
    if value < mask {
        out.push(first | value as u8);
        return;
    }
    out.push(first | mask as u8);
    let mut rest = value - mask;
    while rest >= 128 {
        out.push((rest & 127) as u8 | 128);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Parses an integer with a prefix of `bits` bits. `None` if it is truncated, or larger than
/// anything that fits a header block (four bytes after the prefix hold 2^28).
pub(crate) fn take_integer(input: &mut &[u8], bits: u32) -> Option<usize> {
    let (&first, mut rest) = input.split_first()?;
    let mask = (1usize << bits) - 1;
    let mut value = usize::from(first) & mask;
    if value == mask {
        for shift in [0, 7, 14, 21] {
            let (&byte, after) = rest.split_first()?;
            rest = after;
            value += usize::from(byte & 127) << shift;
            if byte & 128 == 0 {
                *input = rest;
                return Some(value);
            }
        }
        return None;
    }
    *input = rest;
    Some(value)
}

/// Returns the entry of the static table at an index from 1 (RFC 7541, appendix A).
pub(crate) fn static_entry(index: usize) -> Option<(&'static str, &'static str)> {
    STATIC_TABLE.get(index.checked_sub(1)?).copied()
}

/// Returns the first index of a name in the static table.
pub(crate) fn static_name(name: &str) -> Option<usize> {
    STATIC_TABLE.iter().position(|(n, _)| *n == name).map(|i| i + 1)
}

/// Number of entries in the static table.
pub(crate) const STATIC_LEN: usize = STATIC_TABLE.len();

#[rustfmt::skip]
static STATIC_TABLE: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_the_specification() {
        // RFC 7541, C.1: 10 and 1337 with 5 bits, 42 with 8.
        for (value, bits, bytes) in
            [(10, 5, &[10u8][..]), (1337, 5, &[31, 154, 10]), (42, 8, &[42])]
        {
            let mut out = Vec::new();
            put_integer(&mut out, 0, bits, value);
            assert_eq!(out, bytes);
            let mut input = bytes;
            assert_eq!(take_integer(&mut input, bits), Some(value));
            assert!(input.is_empty());
        }
    }

    #[test]
    fn integers_cut_short_or_endless_are_refused() {
        for bytes in [&[][..], &[0x1f], &[0x1f, 0x80], &[0x1f, 0xff, 0xff, 0xff, 0xff, 0x00]] {
            assert_eq!(take_integer(&mut &*bytes, 5), None);
        }
    }
}
