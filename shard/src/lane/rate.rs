//! A rate limit: a rate and a burst.

/// A rate: `per_second` on average, `burst` at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Requests a second on average.
    pub per_second: f64,
    /// Requests that may go at once.
    pub burst: f64,
}
