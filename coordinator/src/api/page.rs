//! Page tokens: position of the next page, opaque to callers, and checked when they return.
//!
//! A token has its kind and version, the condition of the list (alerts), its sort key, and a
//! checksum. A token is no secret
//! and no capability: the checksum detects a mistyped token, and the kind detects a token of
//! another list.

use clarion_proto::{
    error::InvalidField,
    ids::{AlertName, AppName, UnixMillis},
};
use data_encoding::BASE64URL_NOPAD;

use crate::store::AlertCursor;

/// Default number of items on a page.
const SIZE_DEFAULT: usize = 50;
/// Maximum number of items on a page.
const SIZE_MAX: i32 = 1_000;

/// Kind (upper four bits) and version (lower four bits) of a token of the list of alerts.
const ALERTS: u8 = 0x12;
const APPS: u8 = 0x21;

/// Checks the field `page_size`; 0 means [`SIZE_DEFAULT`].
pub(super) fn size(asked: i32) -> Result<usize, InvalidField> {
    match asked {
        0 => Ok(SIZE_DEFAULT),
        1..=SIZE_MAX => Ok(usize::try_from(asked).expect("positive")),
        _ => Err(InvalidField::new(
            "page_size",
            format_args!("must be 0 to {SIZE_MAX}; got {asked}"),
        )),
    }
}

/// The token of the page after this alert, in the list of alerts that fulfil a condition;
/// `condition` is its fingerprint.
pub(super) fn after_alert(cursor: &AlertCursor, condition: u64) -> String {
    let mut payload = condition.to_be_bytes().to_vec();
    payload.extend_from_slice(&cursor.created.0.to_be_bytes());
    payload.extend_from_slice(cursor.name.id().as_bytes());
    seal(ALERTS, &payload)
}

/// The alert after which a page begins; `None` for the first page.
///
/// # Errors
/// The token is none of the list, or belongs to another condition.
pub(super) fn alert(token: &str, condition: u64) -> Result<Option<AlertCursor>, InvalidField> {
    let Some(payload) = open(ALERTS, token)? else { return Ok(None) };
    let (of, payload) = payload.split_first_chunk().ok_or_else(|| wrong(token))?;
    if u64::from_be_bytes(*of) != condition {
        return Err(InvalidField::new(
            "page_token",
            "must be used with the filter of the request that returned it; got another filter",
        ));
    }
    let cursor = payload.split_first_chunk().and_then(|(created, name)| {
        let name = AlertName::from_id(std::str::from_utf8(name).ok()?).ok()?;
        Some(AlertCursor { created: UnixMillis(u64::from_be_bytes(*created)), name })
    });
    cursor.map(Some).ok_or_else(|| wrong(token))
}

/// The token of the page after this app.
pub(super) fn after_app(name: &AppName) -> String {
    seal(APPS, name.id().as_bytes())
}

/// The app after which a page begins; `None` for the first page.
pub(super) fn app(token: &str) -> Result<Option<AppName>, InvalidField> {
    let Some(payload) = open(APPS, token)? else { return Ok(None) };
    let name = std::str::from_utf8(&payload).ok().and_then(|id| AppName::from_id(id).ok());
    name.map(Some).ok_or_else(|| wrong(token))
}

fn seal(kind: u8, payload: &[u8]) -> String {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(&checksum(&bytes));
    BASE64URL_NOPAD.encode(&bytes)
}

fn open(kind: u8, token: &str) -> Result<Option<Vec<u8>>, InvalidField> {
    if token.is_empty() {
        return Ok(None);
    }
    let bytes = BASE64URL_NOPAD.decode(token.as_bytes()).map_err(|_| wrong(token))?;
    let (body, sum) = bytes.split_last_chunk::<4>().ok_or_else(|| wrong(token))?;
    match body.split_first() {
        Some((first, payload)) if *first == kind && *sum == checksum(body) => {
            Ok(Some(payload.to_vec()))
        }
        _ => Err(wrong(token)),
    }
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    *xxhash_rust::xxh3::xxh3_64(bytes).to_be_bytes().first_chunk().expect("8 bytes")
}

fn wrong(token: &str) -> InvalidField {
    let problem =
        format!("must be empty or a token that this list returned; got {} bytes", token.len());
    InvalidField::new("page_token", problem)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tokens_come_back(created in any::<u64>(), condition in any::<u64>(), id in "[a-z][a-z0-9-]{0,62}") {
            let cursor = AlertCursor { created: UnixMillis(created), name: AlertName::from_id(&id).expect("valid") };
            let token = after_alert(&cursor, condition);
            prop_assert_eq!(alert(&token, condition), Ok(Some(cursor)));
            let other = alert(&token, condition ^ 1).expect_err("another filter");
            prop_assert!(other.problem.contains("filter"), "{}", other);
            let name = AppName::from_id(&id).expect("valid");
            prop_assert_eq!(app(&after_app(&name)), Ok(Some(name)));
        }

        #[test]
        fn nothing_else_is_a_token(text in "[A-Za-z0-9_-]{1,40}", at in 0_usize..12, id in "[a-z]{1,9}") {
            prop_assert!(alert(&text, 0).is_err() && app(&text).is_err());
            let name = AppName::from_id(&id).expect("valid");
            prop_assert!(alert(&after_app(&name), 0).is_err(), "of another list");
            let mut changed = after_app(&name).into_bytes();
            let at = at % changed.len();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("ASCII");
            prop_assert!(app(&changed).is_err());
        }
    }

    #[test]
    fn sizes_are_bounded() {
        assert_eq!((size(0), size(1), size(1_000)), (Ok(50), Ok(1), Ok(1_000)));
        assert!(size(1_001).is_err() && size(-1).is_err());
        assert_eq!(alert("", 7), Ok(None));
    }
}
