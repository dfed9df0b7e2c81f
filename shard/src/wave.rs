//! (being built; the signatures that others rely on)

/// Bands of cells, as ranges of res-9 indexes; one for all cores.
#[derive(Debug)]
pub struct Cover;
