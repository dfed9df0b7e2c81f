//! Headers and path of a request to FCM.

use super::{
    super::{answer::Reason, fields::Fields},
    Policy,
    access::Access,
};

/// Longest body, bytes: a payload of 4,096 bytes, each of which may be written as `\u00xx`, and the
/// rest for settings of other platforms.
pub const BODY_BYTES_MAX: usize = 32_768;

/// Head of a request to FCM.
#[derive(Debug)]
pub struct Ask {
    /// Fault of the method or the path.
    pub path_fault: Option<Reason>,
    /// Index of the project; `None` if no project has this id.
    pub project: Option<usize>,
    /// Content of the access token, or the reason why the sender is unknown.
    pub access: Result<Access, Unknown>,
    /// Whether the body has another type than JSON or is encoded.
    pub not_json: bool,
}

/// Reason why the sender of a request is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// The request has no `authorization: Bearer …`.
    Missing,
    /// This gateway did not issue the access token.
    Invalid,
}

/// Header fields that only FCM knows, as received.
#[derive(Debug, Default)]
pub struct GoogleFields {
    content_type: Option<Vec<u8>>,
    encoded: bool,
}

impl GoogleFields {
    /// Stores a header field that FCM knows, and ignores any other.
    pub fn add(&mut self, name: &[u8], value: &[u8]) {
        match name {
            b"content-type" => self.content_type = Some(value.to_vec()),
            b"content-encoding" => self.encoded = !value.eq_ignore_ascii_case(b"identity"),
            _ => {}
        }
    }

    /// Checks all header fields of the block together.
    #[must_use]
    pub fn read(&self, common: &Fields, path: &[u8], policy: &Policy) -> Ask {
        let project = project(path).filter(|_| common.method.as_deref() == Some(b"POST"));
        let json = |value: &Vec<u8>| {
            let kind = value.split(|&b| b == b';').next().unwrap_or_default().trim_ascii();
            kind.eq_ignore_ascii_case(b"application/json")
        };
        Ask {
            path_fault: project.is_none().then_some(Reason::FcmPathNotFound),
            project: project.and_then(|id| policy.project(id)),
            access: access(common.authorization.as_deref(), policy),
            // A missing type counts as JSON.
            not_json: self.encoded || self.content_type.as_ref().is_some_and(|t| !json(t)),
        }
    }
}

/// Parses `/v1/projects/{project}/messages:send`, with or without a query.
fn project(path: &[u8]) -> Option<&[u8]> {
    let path = path.split(|&b| b == b'?').next()?;
    let id = path.strip_prefix(b"/v1/projects/")?.strip_suffix(b"/messages:send")?;
    (!id.is_empty() && !id.contains(&b'/')).then_some(id)
}

fn access(authorization: Option<&[u8]>, policy: &Policy) -> Result<Access, Unknown> {
    let value = authorization.ok_or(Unknown::Missing)?;
    let (scheme, token) = value.split_at_checked(7).ok_or(Unknown::Missing)?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return Err(Unknown::Missing);
    }
    let access = policy.issuer.read(token.trim_ascii()).ok_or(Unknown::Invalid)?;
    if access.account < policy.accounts.len() { Ok(access) } else { Err(Unknown::Invalid) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert_eq!(project(b"/v1/projects/p-1/messages:send"), Some(&b"p-1"[..]));
        assert_eq!(project(b"/v1/projects/p-1/messages:send?alt=json"), Some(&b"p-1"[..]));
        for bad in [
            "/v1/projects//messages:send",
            "/v1/projects/a/b/messages:send",
            "/v1/projects/a/messages",
            "/",
            "",
        ] {
            assert_eq!(project(bad.as_bytes()), None, "{bad}");
        }
    }
}
