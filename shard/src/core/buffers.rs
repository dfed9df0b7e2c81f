//! Output buffers of connections, shared by all connections of a core.
//!
//! A turn encodes a few hundred requests for each lane ([`super::pull`]), whatever the number of
//! connections, and the sockets have taken most of these bytes when the turn ends. A buffer for
//! each connection, kept at the size of the largest flush, would take over a hundred kilobytes for
//! each of the dozens of connections that FCM needs, nearly all of it empty at any time. So a
//! connection borrows a buffer when it is about to encode, and the driver returns the buffer when
//! the socket has taken the bytes.

use crate::lane::connection::Connection;

/// Size of a new buffer, bytes: a flush of [`super::pull::FLUSH_BYTES`] and the run that ends it,
/// with requests of ordinary size.
const BYTES: usize = 40 * 1024;
/// Largest buffer that is kept, bytes. Larger ones had large bodies, or windows that opened for
/// many at once.
const BYTES_MAX: usize = 2 * BYTES;
/// Most unused buffers that are kept: those of one turn and some that sockets were slow to take. 32
/// of at most 80 KiB are 2.5 MiB.
const KEPT: usize = 32;

/// Buffers that no connection uses now.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    spare: Vec<Vec<u8>>,
}

impl Buffers {
    /// Lends a buffer to a connection that is about to encode a request and has none.
    pub(crate) fn lend(&mut self, connection: &mut Connection) {
        if connection.needs_buffer() {
            connection.lend(self.spare.pop().unwrap_or_else(|| Vec::with_capacity(BYTES)));
        }
    }

    /// Takes a buffer back and clears it.
    pub(crate) fn take_back(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < KEPT && (BYTES..=BYTES_MAX).contains(&buffer.capacity()) {
            buffer.clear();
            self.spare.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_kept_as_stated_and_none_that_is_too_small_or_too_large() {
        let mut buffers = Buffers::default();
        for bytes in [0, 100, BYTES - 1, BYTES_MAX + 1] {
            buffers.take_back(Vec::with_capacity(bytes));
        }
        assert!(buffers.spare.is_empty());
        (0..2 * KEPT).for_each(|_| buffers.take_back(vec![1; BYTES]));
        assert_eq!(buffers.spare.len(), KEPT);
        assert!(buffers.spare.iter().all(Vec::is_empty));
    }
}
