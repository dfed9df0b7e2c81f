//! The walk of one alert over the devices: from bands of cells to single devices, nearest first,
//! each device once.
//!
//! A wave takes minutes, and devices change meanwhile. Freezing the partition would need a copy of
//! it, or delay the changes; a walk with a cursor would break with every page that is split. So a
//! walk keeps two things that stay valid despite all changes: a *frontier*, which is a position in
//! an order and not in a structure, and one *bit* for each ordinal that was handed over. A device
//! that changes behind the frontier joins the walk's *late queue*; a device that changes ahead of
//! the frontier is reached anyway.
//!
//! - [`cover`]: the bands as sorted ranges; [`room`]: the memory limit for all covers;
//! - [`walk`]: frontier, bits and late queue of one wave in one partition;
//! - [`audience`]: whether a device that the walk reaches is addressed.

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
