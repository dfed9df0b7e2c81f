//! Bodies of FCM v1 (Firebase, "REST Resource: projects.messages").
//!
//! **A notification message**, not a data message: Android's system shows it also while the app is
//! dead, without a line of the app's code. `data` beside it is handed to the app when somebody
//! taps. `tag` is the collapse key: a correction, or the same alert from a second try, replaces
//! what stands on the screen instead of standing beside it, and `collapse_key` does the same for
//! what is still on its way (FCM keeps up to four keys for a device). `channel_id` names one
//! channel for each severity (`alert-information`, `alert-urgent`, `alert-critical`), because since
//! Android 8 the channel decides how loud a notification is; an app that has none of that name gets
//! its manifest's. `visibility` lets the text be read on a locked screen: it is a public appeal.
//!
//! **When it is too late.** FCM has no time of expiry, only `ttl`, which begins when FCM takes a
//! message; and a body is made once, while requests go out from now until the alert's end. A `ttl`
//! of all the remaining time would let what is sent an hour from now be shown an hour too late. So
//! the sending time that is to be expected is taken off it: half an hour, in which the default
//! quota takes 18 million, and half of the remaining time if that is less. Then
//!
//! ```text
//! sent within min(30 min, active time / 2):  shown by the alert's end at the latest
//! sent t later than that:                    shown t after the alert's end at the latest
//! ```
//!
//! and the price is that a phone which is switched on in the last half hour is not told by what was
//! sent in the beginning. Only a phone that cannot be reached when it is sent to *late* can be
//! late: whom a wave finds late has just told its place, and gets it at once. `data.expires` (Unix
//! seconds) lets an app take down what is over. To close the rest, a node would have to write the
//! `ttl` itself, as it writes the token.
//!
//! iPhones may be behind FCM too. What they are told is Apple's: `apns-expiration` is absolute and
//! exact.
//!
//! **What is counted.** Google limits the payload to 4,096 bytes, "both the keys and the values",
//! and answers more with INVALID_ARGUMENT, which looks like a bad token. Of which parts it counts
//! which bytes is not said. So the whole body without the token is counted, as encoded: whichever
//! way it is counted, that is not less.

use std::collections::BTreeMap;

use bytes::Bytes;
use clarion_proto::{
    alert::{AlertSpec, Severity},
    app::App,
    error::InvalidField,
    ids::{AlertName, UnixMillis},
};
use serde::Serialize;

use super::{
    Rendered,
    apns::{Aps, aps},
    expiration, fits, title,
};
use crate::planned::{LocaleMessage, PushRequest};

/// Longest body of a push without its token, bytes.
pub const BODY_BYTES_MAX: usize = 4_096;
/// Longest `ttl`, seconds: four weeks.
pub const TTL_SECONDS_MAX: u64 = 2_419_200;
/// For how long sending is expected to take, seconds.
const SENDING_SECONDS: u64 = 1_800;
/// Up to the token: the rest of the message follows behind it.
const BEFORE_TOKEN: &[u8] = br#"{"message":{"token":""#;

/// A message without `token`.
#[derive(Serialize)]
struct Message<'a> {
    notification: Notification<'a>,
    data: Data<'a>,
    android: Android<'a>,
    apns: Apns<'a>,
}

#[derive(Serialize)]
struct Notification<'a> {
    title: &'a str,
    body: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<&'a str>,
}

/// Values are strings; `from`, `message_type` and what begins with `google` or `gcm` are not ours
/// to use.
#[derive(Serialize)]
struct Data<'a> {
    alert: &'a str,
    expires: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<&'a str>,
}

#[derive(Serialize)]
struct Android<'a> {
    priority: &'static str,
    ttl: String,
    collapse_key: &'a str,
    notification: AndroidNotification<'a>,
}

#[derive(Serialize)]
struct AndroidNotification<'a> {
    tag: &'a str,
    channel_id: &'static str,
    visibility: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_sound: Option<bool>,
    /// How loud before Android 8.
    notification_priority: &'static str,
}

#[derive(Serialize)]
struct Apns<'a> {
    headers: BTreeMap<&'static str, &'a str>,
    payload: ApnsPayload,
}

#[derive(Serialize)]
struct ApnsPayload {
    aps: Aps<'static>,
}

pub(super) fn render(
    spec: &AlertSpec,
    name: &AlertName,
    app: &App,
    exercise_prefix: &str,
    now: UnixMillis,
) -> Result<Rendered, InvalidField> {
    let (alert, collapse) = (name.name(), spec.collapse_id(name));
    let (expires, priority) =
        (expiration(spec).to_string(), spec.severity.apns_priority().to_string());
    let mut messages = Vec::new();
    for (locale, text) in spec.case.messages() {
        let title = title(spec, text, exercise_prefix);
        let image = spec.case.image_url.as_deref();
        let message = Message {
            notification: Notification { title: &title, body: &text.body, image },
            data: Data {
                alert: &alert,
                expires: expires.clone(),
                link: spec.case.deep_link.as_deref(),
            },
            android: android(spec, &collapse, now),
            apns: Apns {
                headers: BTreeMap::from([
                    ("apns-collapse-id", collapse.as_str()),
                    ("apns-expiration", expires.as_str()),
                    ("apns-priority", priority.as_str()),
                ]),
                payload: ApnsPayload { aps: aps(spec) },
            },
        };
        let after_token = after_token(&message);
        fits(BEFORE_TOKEN.len() + after_token.len(), BODY_BYTES_MAX, "FCM", app, locale)?;
        messages.push(LocaleMessage {
            locale: locale.as_str().to_owned(),
            body: Bytes::from_static(BEFORE_TOKEN),
            body_after_token: Bytes::from(after_token),
        });
    }
    Ok(Rendered { request: PushRequest::Fcm { project: app.project.clone() }, messages })
}

/// From the token's closing quote: the other members of the message, and the ends of both objects.
fn after_token(message: &Message<'_>) -> Vec<u8> {
    let members = serde_json::to_vec(message).expect("strings and numbers are always JSON");
    // `{"notification":…}` becomes `","notification":…}}`.
    [br#"","#, &members[1..], b"}"].concat()
}

fn android<'a>(spec: &AlertSpec, collapse: &'a str, now: UnixMillis) -> Android<'a> {
    // HIGH wakes a phone from Doze; Google lowers it for apps whose HIGH messages show nothing,
    // which these never do.
    let (priority, channel_id, notification_priority) = match spec.severity {
        Severity::Information => ("NORMAL", "alert-information", "PRIORITY_DEFAULT"),
        Severity::Urgent => ("HIGH", "alert-urgent", "PRIORITY_HIGH"),
        Severity::Critical => ("HIGH", "alert-critical", "PRIORITY_MAX"),
    };
    Android {
        priority,
        ttl: format!("{}s", ttl_seconds(spec.active_until, now)),
        collapse_key: collapse,
        notification: AndroidNotification {
            tag: collapse,
            channel_id,
            visibility: "PUBLIC",
            default_sound: (spec.severity != Severity::Information).then_some(true),
            notification_priority,
        },
    }
}

/// See above. 0 means "now or never".
fn ttl_seconds(active_until: UnixMillis, now: UnixMillis) -> u64 {
    let active = active_until.0.saturating_sub(now.0) / 1_000;
    // Half of an odd number of seconds is rounded up: it is taken off.
    (active - SENDING_SECONDS.min(active.div_ceil(2))).min(TTL_SECONDS_MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_ttl_leaves_the_sending_its_time() {
        let ttl = |seconds: u64| {
            ttl_seconds(UnixMillis(5_000 + seconds * 1_000 + 999), UnixMillis(5_000))
        };
        assert_eq!([0, 1, 2, 600, 3_600, 21_600].map(ttl), [0, 0, 1, 300, 1_800, 19_800]);
        assert_eq!(ttl(30 * 86_400), TTL_SECONDS_MAX);
        assert_eq!(ttl_seconds(UnixMillis(5), UnixMillis(10)), 0, "over already");
    }

    proptest! {
        #[test]
        fn what_is_sent_in_time_is_never_shown_late(active_ms in 0u64..31 * 86_400_000, part in 0.0f64..=1.0) {
            let ttl_ms = ttl_seconds(UnixMillis(active_ms), UnixMillis(0)) * 1_000;
            let in_time = (active_ms / 2).min(SENDING_SECONDS * 1_000);
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            let sent = (in_time as f64 * part) as u64;
            prop_assert!(sent + ttl_ms <= active_ms);
        }
    }
}
