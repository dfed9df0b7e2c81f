//! Memory for rows, keys and tokens: blocks of equal size, on huge pages.
//!
//! A record reads a cache line of a row and some of a page, out of a gigabyte. With pages of 4 KiB
//! each of these reads also waits for the address translation of its page, which no processor
//! caches for that much memory; this took half the time of a move. So blocks are cut from regions
//! for which the kernel was asked to use huge pages (transparent ones of 2 MiB, which need no
//! configuration; where they are switched off, everything works more slowly). All partitions of a
//! process share the regions, so a partition with a hundred devices takes three blocks and not
//! three huge pages.
//!
//! A returned block is cleared, because it held tokens, and kept for the next use: the process
//! keeps the memory that it once needed. Regions are only address space until they are touched, 2
//! MiB at a time, in order.

use std::{
    mem,
    ops::{Deref, DerefMut},
};

use memmap2::{MmapMut, MmapOptions};
use parking_lot::Mutex;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Size of a block, bytes.
pub(super) const BLOCK_BYTES: usize = 16 << 10;
/// Size of the regions from which blocks are cut, bytes.
const REGION_BYTES: usize = 64 << 20;
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// The bytes of a block. The content of a block is an array of this size, with no larger alignment.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
pub(super) struct Bytes {
    pub(super) all: [u8; BLOCK_BYTES],
}

/// A block with content of type `T`, all zeros at first.
pub(super) struct Block<T: Content>(Option<&'static mut T>);

/// A type that a block can contain.
pub(super) trait Content: FromBytes + IntoBytes + Immutable + KnownLayout + 'static {}

impl<T: FromBytes + IntoBytes + Immutable + KnownLayout + 'static> Content for T {}

/// Blocks that no structure uses.
struct Pool {
    given_back: Vec<&'static mut Bytes>,
    /// Blocks of the last region that were never used.
    fresh: &'static mut [Bytes],
}

static POOL: Mutex<Pool> = Mutex::new(Pool { given_back: Vec::new(), fresh: &mut [] });

impl Pool {
    fn take(&mut self) -> &'static mut Bytes {
        if let Some(block) = self.given_back.pop() {
            return block;
        }
        if self.fresh.is_empty() {
            self.fresh = region();
        }
        let (first, rest) =
            mem::take(&mut self.fresh).split_first_mut().expect("a region has blocks");
        self.fresh = rest;
        first
    }
}

/// # Panics
/// If the system has no memory, like any allocation.
fn region() -> &'static mut [Bytes] {
    // One huge page more, so that the first block can begin at the boundary of a huge page.
    let map = MmapOptions::new().len(REGION_BYTES + HUGE_PAGE_BYTES).map_anon().expect("memory");
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage); // refused by a kernel without them
    let bytes: &'static mut MmapMut = Box::leak(Box::new(map));
    let skipped = bytes.as_ptr().align_offset(HUGE_PAGE_BYTES);
    <[Bytes]>::mut_from_bytes(&mut bytes[skipped..][..REGION_BYTES]).expect("whole blocks, aligned")
}

impl<T: Content> Block<T> {
    /// Takes a block of zeros from the pool.
    pub(super) fn new() -> Self {
        const { assert!(size_of::<T>() == BLOCK_BYTES && align_of::<T>() <= align_of::<Bytes>()) };
        let bytes = POOL.lock().take();
        Self(Some(
            T::mut_from_bytes(bytes.as_mut_bytes()).expect("as large as a block, and aligned"),
        ))
    }
}

impl<T: Content> Drop for Block<T> {
    fn drop(&mut self) {
        if let Some(content) = self.0.take() {
            let bytes = content.as_mut_bytes();
            bytes.fill(0);
            let block = Bytes::mut_from_bytes(bytes).expect("it was one");
            POOL.lock().given_back.push(block);
        }
    }
}

impl<T: Content> Deref for Block<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.0.as_deref().expect("there until it is dropped")
    }
}

impl<T: Content> DerefMut for Block<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_deref_mut().expect("there until it is dropped")
    }
}

/// Prints no content, because the content is secret.
impl<T: Content> std::fmt::Debug for Block<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Block").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks that each block has one owner and is clean, over more than one region.
    #[test]
    fn blocks_are_clean_and_ones_own() {
        let count = u8::MAX as usize + REGION_BYTES / BLOCK_BYTES;
        for round in 1..3 {
            let mut blocks: Vec<Block<Bytes>> = (0..count).map(|_| Block::new()).collect();
            for (n, block) in blocks.iter_mut().enumerate() {
                assert!(
                    [0, 5_000, BLOCK_BYTES - 1].iter().all(|at| block.all[*at] == 0),
                    "round {round}"
                );
                let mark = n.to_le_bytes();
                block.all[..8].copy_from_slice(&mark);
                block.all[BLOCK_BYTES - 8..].copy_from_slice(&mark);
            }
            for (n, block) in blocks.iter().enumerate() {
                assert_eq!(
                    (&block.all[..8], &block.all[BLOCK_BYTES - 8..]),
                    (&n.to_le_bytes()[..], &n.to_le_bytes()[..])
                );
            }
        }
    }
}
