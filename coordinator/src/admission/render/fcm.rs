//! Bodies of FCM v1 (Firebase, "REST Resource: projects.messages").
//!
//! **A notification message**, not a data message: Android's system shows a notification message
//! even while the app is not running, without the app's code. The app gets `data` when the user
//! taps the notification. `tag` is the collapse key: a correction, or a retry of the same alert,
//! replaces the notification on the screen instead of adding a second one; `collapse_key` does the
//! same for messages that FCM has not delivered yet (FCM keeps up to four keys for a device).
//! `channel_id` names one channel for each severity (`alert-information`, `alert-urgent`,
//! `alert-critical`), because since Android 8 the channel decides how loud a notification is; an
//! app without that channel uses the default channel of its manifest. `visibility` shows the text
//! on a locked screen: the alert is a public appeal.
//!
//! **Restricted phones.** FCM keeps a message back while the phone is on a network of low bandwidth
//! or on a satellite, or was not unlocked since its start, unless the message allows it. Google
//! advises to allow it only for tested apps. `bandwidth_constrained_ok` is on by default for an
//! urgent alert, because the message is small and the system shows it. `direct_boot_ok` and
//! `restricted_satellite_ok` are off by default: an app that is not made for them could lose the
//! message, which else arrives later.
//!
//! **Expiry.** FCM has no time of expiry, only `ttl`, which starts when FCM accepts a message; and
//! a body is made once, while requests go out from now until the alert's end. With the whole
//! remaining time as `ttl`, a message sent an hour from now could be shown an hour after the
//! alert's end. So the expected sending time is subtracted from the remaining time: half an hour,
//! in which the default quota allows 18 million requests, or half of the remaining time if that is
//! less. Then
//!
//! ```text
//! sent within min(30 min, active time / 2):  shown by the alert's end at the latest
//! sent t later than that:                    shown t after the alert's end at the latest
//! ```
//!
//! The price: a phone that is switched on in the last half hour does not get a message that was
//! sent at the beginning. A notification can be shown after the alert's end only on a phone that
//! was sent to *late* and was unreachable then: a device that a wave finds late has just reported
//! its place, and gets the message at once. `data.expires` (Unix seconds) lets an app remove the
//! notification at the alert's end. To close the remaining gap, a node would have to write the
//! `ttl` itself, as it writes the token.
//!
//! FCM may deliver to iPhones, too. They get Apple's `apns-expiration`, which is absolute and
//! exact.
//!
//! **Size of a body.** Google limits the payload to 4,096 bytes, "both the keys and the values",
//! and answers a larger payload with INVALID_ARGUMENT, which looks like a bad token. Google does
//! not say which bytes of which parts count. So Clarion counts the whole encoded body without the
//! token, which is at least what Google counts.

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
/// Expected time to send a wave, seconds; subtracted from the `ttl`.
const SENDING_SECONDS: u64 = 1_800;
/// Bytes of the body before the token.
const BEFORE_TOKEN: &[u8] = br#"{"message":{"token":""#;

/// A message of FCM without its `token`.
#[derive(Serialize)]
struct Message<'a> {
    notification: Notification<'a>,
    data: Data<'a>,
    android: Android<'a>,
    apns: Apns<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fcm_options: Option<Labelled<'a>>,
}

/// Options for all platforms of FCM. `android.fcm_options` and `apns.fcm_options` have the same
/// label only for messages that need a different one per platform.
#[derive(Serialize)]
struct Labelled<'a> {
    analytics_label: &'a str,
}

#[derive(Serialize)]
struct Notification<'a> {
    title: &'a str,
    body: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<&'a str>,
}

/// Data for the app; all values are strings. FCM reserves the keys `from` and `message_type`, and
/// keys that begin with `google` or `gcm`.
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
    #[serde(skip_serializing_if = "Option::is_none")]
    direct_boot_ok: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bandwidth_constrained_ok: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    restricted_satellite_ok: Option<bool>,
    notification: AndroidNotification<'a>,
}

#[derive(Serialize)]
struct AndroidNotification<'a> {
    tag: &'a str,
    channel_id: &'static str,
    visibility: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_sound: Option<bool>,
    /// Priority of the notification before Android 8.
    notification_priority: &'static str,
}

#[derive(Serialize)]
struct Apns<'a> {
    headers: BTreeMap<&'static str, &'a str>,
    payload: ApnsPayload<'a>,
}

#[derive(Serialize)]
struct ApnsPayload<'a> {
    aps: Aps<'a>,
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
            fcm_options: spec
                .options
                .fcm
                .analytics_label
                .as_deref()
                .map(|analytics_label| Labelled { analytics_label }),
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

/// Bytes after the token: its closing quote, the other members, and the ends of both objects.
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
    let options = &spec.options.fcm;
    // A phone on a network of low bandwidth is worth 4 KiB in an emergency.
    let urgent = (spec.severity != Severity::Information).then_some(true);
    Android {
        priority,
        ttl: format!("{}s", ttl_seconds(spec.active_until, now)),
        collapse_key: collapse,
        direct_boot_ok: options.direct_boot_ok,
        bandwidth_constrained_ok: options.bandwidth_constrained_ok.or(urgent),
        restricted_satellite_ok: options.restricted_satellite_ok,
        notification: AndroidNotification {
            tag: collapse,
            channel_id,
            visibility: "PUBLIC",
            default_sound: (spec.severity != Severity::Information).then_some(true),
            notification_priority,
        },
    }
}

/// Seconds of `ttl`, as the module's documentation derives them; 0 means "now or never" to FCM.
fn ttl_seconds(active_until: UnixMillis, now: UnixMillis) -> u64 {
    let active = active_until.0.saturating_sub(now.0) / 1_000;
    // Half of an odd number of seconds is rounded up, because it is subtracted.
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
