//! Bands: (being built)

/// The cells of a cover in one interval of distance from the place last seen.
#[derive(Debug, Clone)]
pub struct Band {
    /// Inner edge.
    pub from_m: f64,
    /// Outer edge.
    pub to_m: f64,
    /// Compacted.
    pub cells: Vec<h3o::CellIndex>,
}
