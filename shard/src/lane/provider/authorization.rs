//! The secret of a request: the value of the `authorization` header.

use std::sync::Arc;

/// Value of the `authorization` header. Secret: `Debug` prints nothing of it, and its memory is
/// wiped.
#[derive(Clone)]
pub struct Authorization(pub Arc<secrecy::SecretString>);

impl std::fmt::Debug for Authorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authorization(..)")
    }
}
