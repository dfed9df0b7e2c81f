//! Bodies of pushes: one body per language, made once per alert and copied for each device.
//!
//! Each platform has its own keys, values and limits: [`apns`], [`fcm`]. Both share the title; the
//! title of an EXERCISE starts with the configured prefix, so that no reader takes the exercise for
//! a real alert.

use std::borrow::Cow;

use clarion_proto::{
    alert::{AlertSpec, Mode},
    app::{App, Platform},
    error::InvalidField,
    ids::{AlertName, UnixMillis},
    locale::Locale,
    message::Message,
};

use crate::planned::{LocaleMessage, PushRequest};

pub mod apns;
pub mod fcm;

/// The push of an alert to one app's devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Headers or project that all requests to the app share.
    pub request: PushRequest,
    /// One message for each locale (lower case); the first is the fallback.
    pub messages: Vec<LocaleMessage>,
}

impl Rendered {
    /// Longest body that the app's gateway accepts, bytes.
    #[must_use]
    pub fn body_bytes_max(&self) -> usize {
        match self.request {
            PushRequest::Apns(_) => apns::BODY_BYTES_MAX,
            PushRequest::Fcm { .. } => fcm::BODY_BYTES_MAX,
        }
    }
}

/// Renders an alert for an app. `now` is the time of the first request.
///
/// # Errors
/// A body exceeds its platform's limit. The error names the app, the locale and the excess; its
/// field is relative to the alert.
pub fn render(
    spec: &AlertSpec,
    name: &AlertName,
    app: &App,
    exercise_prefix: &str,
    now: UnixMillis,
) -> Result<Rendered, InvalidField> {
    match app.platform {
        Platform::Apns => apns::render(spec, name, app, exercise_prefix),
        Platform::Fcm => fcm::render(spec, name, app, exercise_prefix, now),
    }
}

/// Expiration in Unix seconds, rounded down: a phone that is switched on later shows nothing. At
/// least 1, because 0 means "one attempt" to APNs.
fn expiration(spec: &AlertSpec) -> u64 {
    (spec.active_until.0 / 1_000).max(1)
}

fn title<'a>(spec: &AlertSpec, message: &'a Message, exercise_prefix: &str) -> Cow<'a, str> {
    match spec.mode {
        Mode::Exercise => Cow::Owned(format!("{exercise_prefix}{}", message.title)),
        Mode::Live | Mode::Test => Cow::Borrowed(&message.title),
    }
}

/// Refuses a body that is longer than `limit`; `whose` names the provider, such as "APNs".
fn fits(
    bytes: usize,
    limit: usize,
    whose: &str,
    app: &App,
    locale: &Locale,
) -> Result<(), InvalidField> {
    match bytes.checked_sub(limit) {
        None | Some(0) => Ok(()),
        Some(excess) => {
            let app = &app.name;
            let problem = format!(
                "its push to {app} would take {bytes} bytes encoded, {excess} more than the \
                 {limit} of {whose}; shorten the title or the body"
            );
            Err(InvalidField::new(format!("case.messages[{}]", locale.as_str()), problem))
        }
    }
}
