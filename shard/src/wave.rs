//! (being built: the signatures that others rely on)

pub mod audience;
pub mod bits;
pub mod cover;
pub mod walk;

pub use audience::{Program, ProgramError};
pub use bits::Bits;
pub use cover::{Cover, CoverError};
pub use walk::{Step, Walk};
