//! Error of an invalid field: the field's path, the limit and the value.

use std::fmt;

/// One invalid field of a request or message. Never contains a token, an exact place or a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidField {
    /// Path of the field, such as `alert.region.circle.radius_meters`.
    pub field: String,
    /// Limit and value, such as "must be at most 64 bytes; got 65 bytes".
    pub problem: String,
}

impl InvalidField {
    /// Creates an error for a field.
    pub fn new(field: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self { field: field.into(), problem: problem.to_string() }
    }

    /// Puts an outer path before the field: `center.latitude` within `alert.region.circle` becomes
    /// `alert.region.circle.center.latitude`.
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

/// Returns the value of a required field.
///
/// # Errors
/// The field is not set: "is required".
pub fn required<T>(value: Option<T>, field: &str) -> Result<T, InvalidField> {
    value.ok_or_else(|| InvalidField::new(field, "is required"))
}
