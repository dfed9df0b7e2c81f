//! Pages of one column chunk: found by their headers, and decompressed up to a limit.
//!
//! The crate's own reader of pages allocates what a header asks for, and decompresses gzip without
//! any limit. A header here is read as thrift's compact protocol, of which only numbers matter.

use std::{fs::File, io::Read, os::unix::fs::FileExt, sync::Arc};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use parquet::{
    basic::{Compression, Encoding, Type},
    column::page::{Page, PageMetadata, PageReader},
    errors::{ParquetError, Result},
    file::metadata::ColumnChunkMetaData,
};

use self::header::{Header, HeaderError};

mod header;

/// Largest page, bytes, compressed and decompressed. Most writers make pages of 1 MiB; a writer
/// that puts a whole row group into one page makes some 8 MiB of 120,000 tokens.
pub(super) const PAGE_BYTES_MAX: usize = 64 << 20;
/// Maximum number of values of one page: in memory a value takes up to 40 bytes.
const PAGE_VALUES_MAX: u32 = 4 << 20;
/// Bytes that are read for a header, and for one that has long statistics.
const HEADER_BYTES: [usize; 2] = [256, 64 * 1_024];

/// A length that no text can have, behind the last text of a page. The crate reads lengths without
/// looking for the end of the page; with this one a damaged page is an error and not a panic.
const END_OF_TEXTS: [u8; 4] = [0xff; 4];

/// Checks what the metadata says of a column chunk in a file of `length` bytes.
///
/// # Errors
/// The chunk lies outside the file, or has a compression that the import does not know.
pub(super) fn check(chunk: &ColumnChunkMetaData, length: u64) -> Result<(), String> {
    match chunk.compression() {
        Compression::UNCOMPRESSED
        | Compression::SNAPPY
        | Compression::GZIP(_)
        | Compression::ZSTD(_) => {}
        other @ (Compression::LZO
        | Compression::BROTLI(_)
        | Compression::LZ4
        | Compression::LZ4_RAW) => {
            return Err(format!(
                "must be compressed with snappy, zstd or gzip, or not at all; got {other}"
            ));
        }
    }
    if chunk.file_path().is_some() {
        return Err("is in another file; write all columns into one file".to_owned());
    }
    let (start, end) = range(chunk).ok_or("has a place that no file can have")?;
    if end > length {
        return Err(format!(
            "lies at bytes {start} to {end} of a file of {length} bytes: the file is truncated"
        ));
    }
    Ok(())
}

/// First byte of a chunk, and the byte after its last.
fn range(chunk: &ColumnChunkMetaData) -> Option<(u64, u64)> {
    let data = chunk.data_page_offset();
    // Some writers say 0 for a chunk without a dictionary.
    let dictionary = chunk.dictionary_page_offset().filter(|at| (1..data).contains(at));
    let start = u64::try_from(dictionary.unwrap_or(data)).ok()?;
    let length = u64::try_from(chunk.compressed_size()).ok()?;
    Some((start, start.checked_add(length)?))
}

/// Reader of the pages of one column chunk.
pub(super) struct Pages {
    file: Arc<File>,
    compression: Compression,
    /// The next byte of the file, behind `header` if it is read.
    at: u64,
    end: u64,
    header: Option<Header>,
    has_dictionary: bool,
    /// Highest levels of the column: of its lists, and of values that may be absent.
    rep_max: i16,
    def_max: i16,
    /// Whether the values are texts, each behind its length.
    is_text: bool,
}

impl Pages {
    /// The pages of a chunk that [`check`] accepts.
    pub(super) fn new(file: &Arc<File>, chunk: &ColumnChunkMetaData) -> Self {
        let (at, end) = range(chunk).unwrap_or_default();
        let (file, leaf) = (Arc::clone(file), chunk.column_descr());
        Self {
            file,
            compression: chunk.compression(),
            at,
            end,
            header: None,
            has_dictionary: false,
            rep_max: leaf.max_rep_level(),
            def_max: leaf.max_def_level(),
            is_text: leaf.physical_type() == Type::BYTE_ARRAY,
        }
    }

    fn next_page(&mut self) -> Result<Option<Page>> {
        while let Some(header) = self.header()? {
            self.header = None;
            let sizes = [header.uncompressed_bytes, header.compressed_bytes];
            if let Some(bytes) = sizes.into_iter().find(|bytes| *bytes > PAGE_BYTES_MAX) {
                return Err(problem(format!(
                    "a page must have at most {PAGE_BYTES_MAX} bytes; got {bytes}: write the file \
                     with smaller pages or row groups"
                )));
            }
            if header.values > PAGE_VALUES_MAX {
                return Err(problem(format!(
                    "a page must have at most {PAGE_VALUES_MAX} values; got {}: write the file \
                     with smaller pages or row groups",
                    header.values
                )));
            }
            if header.compressed_bytes as u64 > self.end - self.at {
                return Err(problem("a page goes beyond its column".to_owned()));
            }
            let mut body = vec![0; header.compressed_bytes];
            self.file.read_exact_at(&mut body, self.at)?;
            self.at += body.len() as u64;
            if let Some(page) = self.page(&header, body)? {
                return Ok(Some(page));
            }
        }
        Ok(None)
    }

    /// The header of the next page, which stays the next one; `None`: there is none.
    fn header(&mut self) -> Result<Option<Header>> {
        if self.header.is_none() && self.at < self.end {
            self.header = Some(self.read_header()?);
        }
        Ok(self.header.clone())
    }

    fn read_header(&mut self) -> Result<Header> {
        for wanted in HEADER_BYTES {
            let there = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
            let mut bytes = vec![0; wanted.min(there)];
            self.file.read_exact_at(&mut bytes, self.at)?;
            match Header::read(&bytes) {
                Ok((header, length)) => {
                    self.at += length as u64;
                    return Ok(header);
                }
                Err(HeaderError::Short) if there > wanted => {}
                Err(_) => break,
            }
        }
        Err(problem("a header of a page cannot be read".to_owned()))
    }

    /// The page of a header and its bytes; `None`: an index, which holds no values.
    ///
    /// The crate panics for some pages that contradict themselves; they are found here.
    fn page(&mut self, header: &Header, body: Vec<u8>) -> Result<Option<Page>> {
        let Header { values: num_values, kind, .. } = *header;
        // Levels in front of the values of a page of version 2 are never compressed.
        let levels = header.levels_bytes();
        let mut buf = if header.is_compressed {
            let (levels, values) = body
                .split_at_checked(levels)
                .ok_or_else(|| problem("a page is shorter than its levels".to_owned()))?;
            let length = header.uncompressed_bytes.checked_sub(levels.len());
            let length = length.ok_or_else(|| problem("a page has too long levels".to_owned()))?;
            let values = decompressed(self.compression, values, length)?;
            if levels.is_empty() { values } else { [levels, &values].concat() }
        } else {
            body
        };
        if buf.len() != header.uncompressed_bytes {
            let wanted = header.uncompressed_bytes;
            return Err(problem(format!("a page has {} bytes instead of {wanted}", buf.len())));
        }
        if levels > buf.len() {
            return Err(problem("a page is shorter than its levels".to_owned()));
        }
        let encoding = encoding(header.encoding)?;
        // The crate panics for lengths in these that go beyond the page.
        if matches!(
            encoding,
            Encoding::DELTA_BINARY_PACKED
                | Encoding::DELTA_LENGTH_BYTE_ARRAY
                | Encoding::DELTA_BYTE_ARRAY
                | Encoding::BYTE_STREAM_SPLIT
        ) {
            return Err(problem(format!(
                "encoding {encoding} is not read; write the file with plain or dictionary encoding"
            )));
        }
        let is_dictionary = kind == header::PageKind::Dictionary;
        let of_dictionary =
            matches!(encoding, Encoding::PLAIN_DICTIONARY | Encoding::RLE_DICTIONARY);
        if of_dictionary && !is_dictionary && !self.has_dictionary {
            return Err(problem("a page of a dictionary comes before the dictionary".to_owned()));
        }
        self.has_dictionary |= is_dictionary;
        let bytes = buf.len();
        if self.is_text && (is_dictionary || encoding == Encoding::PLAIN) {
            let levels = if is_dictionary { 0 } else { self.levels_bytes(header, &buf)? };
            check_texts(buf.get(levels..).unwrap_or_default(), num_values)?;
            buf.extend(END_OF_TEXTS);
        }
        let buf = Bytes::from(buf);
        let page = match kind {
            header::PageKind::Data => Page::DataPage {
                buf,
                num_values,
                encoding,
                def_level_encoding: self.levels(num_values, header.def_encoding, bytes)?,
                rep_level_encoding: self.levels(num_values, header.rep_encoding, bytes)?,
                statistics: None,
            },
            header::PageKind::DataV2 => Page::DataPageV2 {
                buf,
                num_values,
                encoding,
                num_nulls: header.nulls,
                num_rows: header.rows,
                def_levels_byte_len: header.def_bytes,
                rep_levels_byte_len: header.rep_bytes,
                is_compressed: header.is_compressed,
                statistics: None,
            },
            header::PageKind::Dictionary => {
                if num_values as usize > bytes {
                    return Err(problem("a dictionary has fewer bytes than values".to_owned()));
                }
                Page::DictionaryPage { buf, num_values, encoding, is_sorted: false }
            }
            header::PageKind::Index => return Ok(None),
        };
        Ok(Some(page))
    }

    /// Bytes of levels in front of the values of a data page.
    fn levels_bytes(&self, header: &Header, page: &[u8]) -> Result<usize> {
        if header.kind == header::PageKind::DataV2 {
            return Ok(header.levels_bytes());
        }
        let mut bytes = 0;
        for (max, encoding) in
            [(self.rep_max, header.rep_encoding), (self.def_max, header.def_encoding)]
        {
            if max == 0 {
                continue;
            }
            if encoding == 4 {
                bytes += (header.values as usize).div_ceil(8);
                continue;
            }
            let length = page.get(bytes..).and_then(|rest| rest.first_chunk::<4>());
            let length = length.map(|length| u32::from_le_bytes(*length) as usize);
            bytes += 4 + length.ok_or_else(|| problem("a page has no levels".to_owned()))?;
        }
        Ok(bytes)
    }

    /// The encoding of levels in a page of version 1. Levels in BIT_PACKED, which only old writers
    /// use, must lie within the page.
    fn levels(&self, values: u32, number: i64, bytes: usize) -> Result<Encoding> {
        // One bit for each value that may be absent; a required column has no levels.
        let packed = if self.def_max == 0 { 0 } else { (values as usize).div_ceil(8) };
        let is_simple = self.rep_max == 0 && self.def_max <= 1;
        match number {
            3 => encoding(number),
            4 if is_simple && packed <= bytes => encoding(number),
            4 => Err(problem("levels in BIT_PACKED cannot be read".to_owned())),
            other => Err(problem(format!("encoding {other} of levels is not known"))),
        }
    }
}

/// Checks that each text ends within its page: the last one at its end, or the one of the number
/// `values`.
fn check_texts(mut rest: &[u8], values: u32) -> Result<()> {
    for _ in 0..values {
        if rest.is_empty() {
            break;
        }
        let text = rest.split_first_chunk::<4>().and_then(|(length, texts)| {
            let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
            texts.get(length..)
        });
        rest = text.ok_or_else(|| problem("a text goes beyond its page".to_owned()))?;
    }
    Ok(())
}

/// Decompresses bytes that must become exactly `length` bytes.
fn decompressed(compression: Compression, bytes: &[u8], length: usize) -> Result<Vec<u8>> {
    let damaged = |error: &dyn std::fmt::Display| {
        problem(format!("a page cannot be decompressed to {length} bytes: {error}"))
    };
    // A page of nulls only has no values.
    if length == 0 {
        return Ok(Vec::new());
    }
    match compression {
        Compression::UNCOMPRESSED => Ok(bytes.to_vec()),
        Compression::SNAPPY => {
            let mut values = vec![0; length];
            let written = snap::raw::Decoder::new().decompress(bytes, &mut values);
            values.truncate(written.map_err(|e| damaged(&e))?);
            Ok(values)
        }
        Compression::ZSTD(_) => zstd::bulk::decompress(bytes, length).map_err(|e| damaged(&e)),
        Compression::GZIP(_) => {
            let mut values = Vec::with_capacity(length);
            let limit = length as u64 + 1; // one more shows that it is too long
            let read = MultiGzDecoder::new(bytes).take(limit).read_to_end(&mut values);
            read.map_err(|e| damaged(&e))?;
            Ok(values)
        }
        other => Err(problem(format!("compression {other} is not known"))),
    }
}

/// The encoding of a number of the format; see parquet-format, Encodings.md.
fn encoding(number: i64) -> Result<Encoding> {
    #[allow(deprecated, reason = "old files have levels in BIT_PACKED")]
    Ok(match number {
        0 => Encoding::PLAIN,
        2 => Encoding::PLAIN_DICTIONARY,
        3 => Encoding::RLE,
        4 => Encoding::BIT_PACKED,
        5 => Encoding::DELTA_BINARY_PACKED,
        6 => Encoding::DELTA_LENGTH_BYTE_ARRAY,
        7 => Encoding::DELTA_BYTE_ARRAY,
        8 => Encoding::RLE_DICTIONARY,
        9 => Encoding::BYTE_STREAM_SPLIT,
        other => return Err(problem(format!("encoding {other} is not known"))),
    })
}

fn problem(text: String) -> ParquetError {
    ParquetError::General(text)
}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_page().transpose()
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        self.next_page()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        Ok(self.header()?.map(|header| PageMetadata {
            num_rows: (header.kind == header::PageKind::DataV2).then_some(header.rows as usize),
            num_levels: Some(header.values as usize),
            is_dict: header.kind == header::PageKind::Dictionary,
        }))
    }

    fn skip_next_page(&mut self) -> Result<()> {
        Err(problem("pages are only read, not skipped".to_owned()))
    }
}
