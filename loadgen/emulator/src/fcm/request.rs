//! Headers and path of a request to FCM.

use super::{
    super::{answer::Reason, fields::Fields},
    Policy,
    access::Access,
};

/// Longest body: a payload of 4,096 bytes, each of which may be written as `\u00xx`, and twice that
/// for the settings of other platforms beside it.
pub const BODY_BYTES_MAX: usize = 32_768;

/// What a header block asks.
#[derive(Debug)]
pub struct Ask {
    /// No such method or path.
    pub path_fault: Option<Reason>,
    /// Which project; none: there is none of this id.
    pub project: Option<usize>,
    /// Who asks; none: nobody that is known.
    pub access: Result<Access, Unknown>,
    /// A body of another type than JSON, or encoded.
    pub not_json: bool,
}

/// Why it is not known who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// No `authorization: Bearer …`.
    Missing,
    /// An access token that was not issued here.
    Invalid,
}

/// The header fields that mean something to Google, besides those that all have.
#[derive(Debug, Default)]
pub struct GoogleFields {
    content_type: Option<Vec<u8>>,
    encoded: bool,
}

impl GoogleFields {
    /// Takes the next field.
    pub fn add(&mut self, name: &[u8], value: &[u8]) {
        match name {
            b"content-type" => self.content_type = Some(value.to_vec()),
            b"content-encoding" => self.encoded = !value.eq_ignore_ascii_case(b"identity"),
            _ => {}
        }
    }

    /// What all fields together say.
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
            // A missing type is taken for JSON.
            not_json: self.encoded || self.content_type.as_ref().is_some_and(|t| !json(t)),
        }
    }
}

/// Reads `/v1/projects/{project}/messages:send`, with or without a query.
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
