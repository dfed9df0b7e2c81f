//! How fast something may go: a rate and a burst.

/// How fast: `per_second` on average, `burst` at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Requests.
    pub per_second: f64,
    /// Requests.
    pub burst: f64,
}
