//! One alert's pass over the devices: from bands of cells to one device after the other, nearest
//! first, each once.
//!
//! A wave takes minutes, and devices do not stand still meanwhile. Freezing the partition for it
//! would need a copy of it, or hold back the changes; walking with a cursor would break with every
//! page that is split. So a walk keeps two things that mean the same whatever changes: a
//! *frontier*, which is a place in an order and not in a structure, and one *bit* for each ordinal
//! that was handed over. Whoever changes behind the frontier is told to the walk and joins its
//! *late queue*; whoever changes ahead of it is met anyway.
//!
//! - [`cover`]: the bands, as sorted ranges; [`room`]: the memory that all of them may take;
//! - [`walk`]: frontier, bits and late queue of one wave in one partition;
//! - [`audience`]: which of those whom the walk meets are addressed.

pub mod audience;
pub mod cover;
pub mod room;
pub mod walk;

#[cfg(test)]
mod tests;

pub use audience::{Program, ProgramError, SegmentOp};
pub use cover::{Cover, CoverBuilder, CoverError};
pub use room::{NoRoom, Place, Room};
pub use walk::{Ahead, Step, Walk};
