//! A rate limit with a burst, in requests.

/// A rate limit: `per_second` on average, `burst` at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Requests per second on average.
    pub per_second: f64,
    /// Requests that may be sent at once.
    pub burst: f64,
}
