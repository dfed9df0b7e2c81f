//! Header of a page, in thrift's compact protocol.
//!
//! Only the numbers of the header and of the headers within it are kept; texts, lists and deeper
//! structures (statistics) are skipped.

/// Deepest structure that is skipped: statistics within a header within a header.
const DEPTH_MAX: u32 = 4;

/// Kind of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PageKind {
    Data,
    Index,
    Dictionary,
    DataV2,
}

/// Numbers of a page's header; encodings are numbers of the format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: PageKind,
    pub(super) uncompressed_bytes: usize,
    pub(super) compressed_bytes: usize,
    pub(super) values: u32,
    pub(super) encoding: i64,
    /// Encodings of levels, of a page of version 1.
    pub(super) def_encoding: i64,
    pub(super) rep_encoding: i64,
    /// Counts and lengths of levels, of a page of version 2.
    pub(super) nulls: u32,
    pub(super) rows: u32,
    pub(super) def_bytes: u32,
    pub(super) rep_bytes: u32,
    pub(super) is_compressed: bool,
}

/// Reason why bytes are no header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    /// The header does not end within the bytes.
    Short,
    /// The bytes are not of a header, or a number in it is negative.
    Damaged,
}

impl Header {
    /// Reads a header from the start of bytes; returns its length, too.
    pub(super) fn read(bytes: &[u8]) -> Result<(Self, usize), HeaderError> {
        let mut numbers = Numbers::default();
        let mut thrift = Thrift { bytes, at: 0 };
        thrift.structure(0, &mut |outer, field, number| numbers.set(outer, field, number))?;
        Ok((numbers.header()?, thrift.at))
    }

    /// Bytes of levels in front of the values, which are never compressed.
    pub(super) fn levels_bytes(&self) -> usize {
        match self.kind {
            PageKind::DataV2 => self.def_bytes as usize + self.rep_bytes as usize,
            PageKind::Data | PageKind::Index | PageKind::Dictionary => 0,
        }
    }
}

/// Numbers by the field of the outer structure (0: none) and their own field, both below 9.
#[derive(Default)]
struct Numbers([[Option<i64>; 9]; 9]);

impl Numbers {
    fn set(&mut self, outer: i16, field: i16, number: i64) {
        let outer = usize::try_from(outer).ok().and_then(|outer| self.0.get_mut(outer));
        let index = usize::try_from(field).unwrap_or(usize::MAX);
        if let Some(slot) = outer.and_then(|fields| fields.get_mut(index)) {
            *slot = Some(number);
        }
    }

    fn header(&self) -> Result<Header, HeaderError> {
        let count = |number: Option<i64>| {
            number.and_then(|n| u32::try_from(n).ok()).ok_or(HeaderError::Damaged)
        };
        let of = |outer: usize, field: usize| self.0[outer][field];
        let required = |outer, field| of(outer, field).ok_or(HeaderError::Damaged);
        let mut header = Header {
            kind: PageKind::Index,
            uncompressed_bytes: count(of(0, 2))? as usize,
            compressed_bytes: count(of(0, 3))? as usize,
            values: 0,
            encoding: 0,
            def_encoding: 3,
            rep_encoding: 3,
            nulls: 0,
            rows: 0,
            def_bytes: 0,
            rep_bytes: 0,
            is_compressed: true,
        };
        match of(0, 1) {
            Some(0) => {
                header.kind = PageKind::Data;
                header.values = count(of(5, 1))?;
                header.encoding = required(5, 2)?;
                header.def_encoding = required(5, 3)?;
                header.rep_encoding = required(5, 4)?;
            }
            Some(1) => {}
            Some(2) => {
                header.kind = PageKind::Dictionary;
                header.values = count(of(7, 1))?;
                header.encoding = required(7, 2)?;
            }
            Some(3) => {
                header.kind = PageKind::DataV2;
                header.values = count(of(8, 1))?;
                header.nulls = count(of(8, 2))?;
                header.rows = count(of(8, 3))?;
                header.encoding = required(8, 4)?;
                header.def_bytes = count(of(8, 5))?;
                header.rep_bytes = count(of(8, 6))?;
                header.is_compressed = of(8, 7) != Some(0);
            }
            _ => return Err(HeaderError::Damaged),
        }
        Ok(header)
    }
}

/// Bytes in thrift's compact protocol.
struct Thrift<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// Types of fields; elements of lists use the same numbers.
const FLAGS: std::ops::RangeInclusive<u8> = 1..=2;
const BYTE: u8 = 3;
const INTEGERS: std::ops::RangeInclusive<u8> = 4..=6;
const DOUBLE: u8 = 7;
const TEXT: u8 = 8;
const LISTS: std::ops::RangeInclusive<u8> = 9..=10;
const STRUCTURE: u8 = 12;

impl Thrift<'_> {
    /// Reads a structure to its end. `found` gets the numbers of the first two levels.
    fn structure(
        &mut self,
        depth: u32,
        found: &mut dyn FnMut(i16, i16, i64),
    ) -> Result<(), HeaderError> {
        self.fields(depth, 0, found)
    }

    fn fields(
        &mut self,
        depth: u32,
        outer: i16,
        found: &mut dyn FnMut(i16, i16, i64),
    ) -> Result<(), HeaderError> {
        if depth > DEPTH_MAX {
            return Err(HeaderError::Damaged);
        }
        let mut field = 0_i16;
        loop {
            let head = self.byte()?;
            let kind = head & 0x0f;
            if kind == 0 {
                return Ok(());
            }
            field = match i16::from(head >> 4) {
                0 => i16::try_from(self.integer()?).map_err(|_| HeaderError::Damaged)?,
                delta => field.checked_add(delta).ok_or(HeaderError::Damaged)?,
            };
            if FLAGS.contains(&kind) {
                self.tell(depth, outer, field, i64::from(kind == 1), found);
            } else if INTEGERS.contains(&kind) {
                let number = self.integer()?;
                self.tell(depth, outer, field, number, found);
            } else if kind == STRUCTURE {
                self.fields(depth + 1, field, found)?;
            } else {
                self.skip(kind, depth)?;
            }
        }
    }

    fn tell(
        &self,
        depth: u32,
        outer: i16,
        field: i16,
        number: i64,
        found: &mut dyn FnMut(i16, i16, i64),
    ) {
        if depth <= 1 {
            found(outer, field, number);
        }
    }

    fn skip(&mut self, kind: u8, depth: u32) -> Result<(), HeaderError> {
        match kind {
            BYTE => self.advance(1),
            DOUBLE => self.advance(8),
            TEXT => {
                let length = self.varint()?;
                self.advance(usize::try_from(length).map_err(|_| HeaderError::Damaged)?)
            }
            kind if FLAGS.contains(&kind) => self.advance(1),
            kind if INTEGERS.contains(&kind) => self.varint().map(drop),
            kind if LISTS.contains(&kind) => {
                let head = self.byte()?;
                let count = match u64::from(head >> 4) {
                    15 => self.varint()?,
                    count => count,
                };
                // Each element has at least one byte, so a false count soon ends the bytes.
                for _ in 0..count {
                    self.skip(head & 0x0f, depth + 1)?;
                }
                Ok(())
            }
            STRUCTURE => self.fields(depth + 1, i16::MAX, &mut |_, _, _| ()),
            _ => Err(HeaderError::Damaged),
        }
    }

    fn integer(&mut self) -> Result<i64, HeaderError> {
        let zigzag = self.varint()?;
        Ok((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
    }

    fn varint(&mut self) -> Result<u64, HeaderError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(HeaderError::Damaged)
    }

    fn byte(&mut self) -> Result<u8, HeaderError> {
        let byte = *self.bytes.get(self.at).ok_or(HeaderError::Short)?;
        self.at += 1;
        Ok(byte)
    }

    fn advance(&mut self, bytes: usize) -> Result<(), HeaderError> {
        let at = self.at.checked_add(bytes).ok_or(HeaderError::Damaged)?;
        if at > self.bytes.len() {
            return Err(HeaderError::Short);
        }
        self.at = at;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A page of version 1 as pyarrow writes it: 10 values, RLE_DICTIONARY, with statistics.
    const V1: &[u8] = &[
        0x15, 0x00, 0x15, 0x1a, 0x15, 0x1e, 0x2c, 0x15, 0x14, 0x15, 0x10, 0x15, 0x06, 0x15, 0x06,
        0x1c, 0x36, 0x00, 0x28, 0x01, b'b', 0x18, 0x01, b'a', 0x00, 0x00, 0x00,
    ];

    #[test]
    fn a_header_of_version_1() {
        let (header, length) = Header::read(V1).expect("a header");
        assert_eq!(length, V1.len());
        assert_eq!((header.kind, header.values), (PageKind::Data, 10));
        assert_eq!((header.uncompressed_bytes, header.compressed_bytes), (13, 15));
        assert_eq!((header.encoding, header.def_encoding, header.rep_encoding), (8, 3, 3));
        for cut in 0..V1.len() {
            assert_eq!(Header::read(&V1[..cut]), Err(HeaderError::Short), "{cut}");
        }
    }

    #[test]
    fn a_negative_size_is_damage() {
        let mut negative = V1.to_vec();
        negative[3] = 0x01;
        assert_eq!(Header::read(&negative), Err(HeaderError::Damaged));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_or_take_long(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Header::read(&bytes);
        }
    }
}
