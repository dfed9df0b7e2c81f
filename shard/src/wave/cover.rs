//! (being built: the signatures that others rely on)

use clarion_proto::device::Cell;

/// Bands of cells, as ranges of res-9 indexes; one for all cores.
#[derive(Debug)]
pub struct Cover {
    limits: Vec<(f64, f64)>,
}

/// A cover that cannot be taken: a defect of the sender; another try cannot help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoverError {
    /// Not an H3 cell index.
    #[error("band {band}: a cell is not an H3 cell index")]
    NotACell {
        /// Which.
        band: u32,
    },
}

impl Cover {
    /// From bands, nearest first: (from metres, to metres, compacted cells of resolution 0 to 9).
    ///
    /// # Errors
    /// See [`CoverError`].
    pub fn new(bands: &[(f64, f64, Vec<u64>)]) -> Result<Self, CoverError> {
        Ok(Self { limits: bands.iter().map(|b| (b.0, b.1)).collect() })
    }

    /// How many bands there are.
    #[must_use]
    pub fn bands(&self) -> u32 {
        u32::try_from(self.limits.len()).expect("few")
    }

    /// From and to, metres from the place last seen.
    #[must_use]
    pub fn limits(&self, band: u32) -> Option<(f64, f64)> {
        self.limits.get(band as usize).copied()
    }

    /// The band of a cell; `None`: outside.
    #[must_use]
    pub fn band_of(&self, _cell: Cell) -> Option<u32> {
        None
    }
}
