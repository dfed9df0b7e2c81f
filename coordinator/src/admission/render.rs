//! What a phone is sent: one body per language, made once per alert and copied for each device.
//!
//! Each platform's keys, values and limits are its own: [`apns`], [`fcm`]. What they share is what
//! is said: the title, in an exercise behind the configured prefix, so that nobody takes it for the
//! real thing.

use std::borrow::Cow;

use clarion_proto::{
    alert::{AlertSpec, Mode},
    app::{App, Platform},
    error::InvalidField,
    ids::{AlertName, UnixMillis},
    message::{Locale, Message},
};

use crate::planned::{LocaleMessage, PushRequest};

pub mod apns;
pub mod fcm;

/// An alert, ready for one app's devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// What all requests share.
    pub request: PushRequest,
    /// Per locale in lower case; the first is the fallback.
    pub messages: Vec<LocaleMessage>,
}

/// Renders an alert for an app. `now` is when its requests begin to go out.
///
/// # Errors
/// A body over its platform's limit, naming app, locale and excess; the field is from the alert
/// inwards.
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

/// Whole seconds, rounded down: a phone switched on later shows nothing. 0 would mean "one attempt"
/// to APNs.
fn expiration(spec: &AlertSpec) -> u64 {
    (spec.active_until.0 / 1_000).max(1)
}

fn title<'a>(spec: &AlertSpec, message: &'a Message, exercise_prefix: &str) -> Cow<'a, str> {
    match spec.mode {
        Mode::Exercise => Cow::Owned(format!("{exercise_prefix}{}", message.title)),
        Mode::Live | Mode::Test => Cow::Borrowed(&message.title),
    }
}

/// Refuses a body that is longer than `limit`. `whose`: "APNs".
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
                "its push to {app} would take {bytes} bytes encoded, {excess} more than the {limit} of {whose}"
            );
            Err(InvalidField::new(format!("case.messages[{}]", locale.as_str()), problem))
        }
    }
}
