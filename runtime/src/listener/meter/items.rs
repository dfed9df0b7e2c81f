//! Counts the items of a list while its message is received, before anything is decoded.
//!
//! Protobuf is a sequence of fields: a tag, and a value whose length the tag's kind tells. Only the outermost level is looked
//! at; what is inside of an item is skipped by its length.

/// A repeated field and how many of it one message may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Items {
    /// For the refusal.
    pub name: &'static str,
    /// In the message.
    pub field: u64,
    /// Of one message.
    pub max: usize,
}

/// A list has more items than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooMany(pub(super) Items);

/// The state within one message.
#[derive(Debug)]
pub(super) struct Counter {
    items: Items,
    count: usize,
    at: At,
}

#[derive(Debug, Clone, Copy)]
enum At {
    Tag(Varint),
    Value,
    Length(Varint),
    Skip(u64),
    /// What came is no protobuf; the decoder will say so.
    Lost,
}

#[derive(Debug, Clone, Copy, Default)]
struct Varint {
    value: u64,
    bits: u32,
}

impl Varint {
    /// The next byte; `Ok(None)` while there are more.
    fn take(&mut self, byte: u8) -> Result<Option<u64>, ()> {
        if self.bits > 63 {
            return Err(());
        }
        self.value |= u64::from(byte & 0x7f) << self.bits;
        self.bits += 7;
        Ok((byte & 0x80 == 0).then_some(self.value))
    }
}

impl Counter {
    pub(super) fn new(items: Items) -> Self {
        Self { items, count: 0, at: At::Tag(Varint::default()) }
    }

    /// A new message begins.
    pub(super) fn restart(&mut self) {
        *self = Self::new(self.items);
    }

    /// A part of the message.
    ///
    /// # Errors
    /// There are more items than the list may have.
    pub(super) fn take(&mut self, mut data: &[u8]) -> Result<(), TooMany> {
        while let Some((&byte, rest)) = data.split_first() {
            if let At::Skip(left) = &mut self.at {
                let skipped = usize::try_from(*left).unwrap_or(usize::MAX).min(data.len());
                *left -= skipped as u64;
                data = &data[skipped..];
                if *left == 0 {
                    self.at = At::Tag(Varint::default());
                }
                continue;
            }
            data = rest;
            self.at = self.next(self.at, byte)?;
        }
        Ok(())
    }

    fn next(&mut self, at: At, byte: u8) -> Result<At, TooMany> {
        let tag = At::Tag(Varint::default());
        Ok(match at {
            At::Tag(mut varint) => match varint.take(byte) {
                Ok(None) => At::Tag(varint),
                Ok(Some(value)) => {
                    self.count += usize::from(value >> 3 == self.items.field);
                    if self.count > self.items.max {
                        return Err(TooMany(self.items));
                    }
                    match value & 7 {
                        0 => At::Value,
                        1 => At::Skip(8),
                        2 => At::Length(Varint::default()),
                        5 => At::Skip(4),
                        _ => At::Lost,
                    }
                }
                Err(()) => At::Lost,
            },
            At::Value if byte & 0x80 == 0 => tag,
            At::Length(mut varint) => match varint.take(byte) {
                Ok(None) => At::Length(varint),
                Ok(Some(0)) => tag,
                Ok(Some(length)) => At::Skip(length),
                Err(()) => At::Lost,
            },
            At::Value | At::Skip(_) | At::Lost => at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ITEMS: Items = Items { name: "changes", field: 2, max: 3 };

    #[test]
    fn items_are_counted_wherever_frames_are_cut() {
        // batch_id = 300, a fixed64 and a fixed32 that nobody knows, three changes: of 2 bytes, empty, of 200.
        let mut message =
            vec![8, 0xac, 2, 0x19, 1, 2, 3, 4, 5, 6, 7, 8, 0x25, 1, 2, 3, 4, 0x12, 2, 0x12, 0x12, 0x12, 0];
        message.extend([0x12, 200, 1]);
        message.extend([0x12; 200]);
        for cut in 0..message.len() {
            let mut counter = Counter::new(ITEMS);
            assert_eq!(counter.take(&message[..cut]), Ok(()));
            assert_eq!(counter.take(&message[cut..]), Ok(()));
            assert_eq!(counter.count, 3);
            assert_eq!(counter.take(&[0x12, 0]), Err(TooMany(ITEMS)));
        }
    }

    #[test]
    fn nonsense_is_left_to_the_decoder() {
        let mut counter = Counter::new(ITEMS);
        for nonsense in [&[0xff; 40][..], &[0x17, 0x12, 0, 0x12, 0, 0x12, 0, 0x12, 0]] {
            counter.restart();
            assert_eq!(counter.take(nonsense), Ok(()));
        }
    }
}
