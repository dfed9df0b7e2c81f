//! What is wrong with a caller's input: always a field, a reason and the numbers that matter.

use std::fmt;

/// One field that cannot be taken. Never holds a token, an exact place or a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidField {
    /// Path of the field in the request, such as `alert.region.circle.radius_meters`.
    pub field: String,
    /// The limit and the value, in words.
    pub problem: String,
}

impl InvalidField {
    /// A problem with a field.
    pub fn new(field: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self { field: field.into(), problem: problem.to_string() }
    }

    /// The same problem seen from further out: `center.latitude` within `alert.region.circle`.
    #[must_use]
    pub fn within(mut self, outer: &str) -> Self {
        self.field = if self.field.is_empty() {
            outer.to_owned()
        } else {
            format!("{outer}.{}", self.field)
        };
        self
    }
}

/// Turns `None` into "is required".
pub fn required<T>(value: Option<T>, field: &str) -> Result<T, InvalidField> {
    value.ok_or_else(|| InvalidField::new(field, "is required"))
}
