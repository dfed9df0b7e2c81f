//! What a phone is sent: one body per language, made once per alert and copied for each device.
//!
//! Keys, values and the limit are Apple's ("Generating a remote notification"): `aps` is read by the system, what stands
//! beside it by the app. `mutable-content` lets the app fetch the photograph before the notification is shown.

use bytes::Bytes;
use clarion_proto::{
    alert::{AlertSpec, Mode, Severity},
    error::InvalidField,
    ids::{AlertName, AppName},
};
use serde::Serialize;

/// Longest body of a push, bytes (APNs: 4 KB, else 413 PayloadTooLarge).
pub const APNS_BODY_BYTES_MAX: usize = 4_096;

#[derive(Serialize)]
struct Body<'a> {
    aps: Aps<'a>,
    alert: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Aps<'a> {
    alert: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sound: Option<Sound>,
    interruption_level: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mutable_content: Option<u8>,
}

#[derive(Serialize)]
struct Text<'a> {
    title: &'a str,
    body: &'a str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Sound {
    Name(&'static str),
    Critical { critical: u8, name: &'static str, volume: f32 },
}

/// The bodies of an alert for one APNs app, by locale in lower case; the first is the fallback.
///
/// # Errors
/// A body over [`APNS_BODY_BYTES_MAX`], naming app, locale and excess; the field is from the alert inwards.
pub fn apns(
    spec: &AlertSpec,
    name: &AlertName,
    app: &AppName,
    exercise_prefix: &str,
) -> Result<Vec<(String, Bytes)>, InvalidField> {
    let alert = name.name();
    let mut bodies = Vec::new();
    for (locale, message) in spec.case.messages() {
        let title = match spec.mode {
            Mode::Exercise => format!("{exercise_prefix}{}", message.title),
            Mode::Live | Mode::Test => message.title.clone(),
        };
        let body = Body {
            aps: Aps {
                alert: Text { title: &title, body: &message.body },
                sound: sound(spec.severity),
                interruption_level: spec.severity.apns_interruption_level(),
                mutable_content: spec.case.image_url.is_some().then_some(1),
            },
            alert: &alert,
            image: spec.case.image_url.as_deref(),
            link: spec.case.deep_link.as_deref(),
        };
        let encoded = serde_json::to_vec(&body).expect("strings and numbers are always JSON");
        if let Some(excess) = encoded.len().checked_sub(APNS_BODY_BYTES_MAX).filter(|excess| *excess > 0) {
            let problem = format!(
                "its push to {app} would take {} bytes encoded, {excess} more than the {APNS_BODY_BYTES_MAX} of APNs",
                encoded.len()
            );
            return Err(InvalidField::new(format!("case.messages[{}]", locale.as_str()), problem));
        }
        bodies.push((locale.as_str().to_owned(), Bytes::from(encoded)));
    }
    Ok(bodies)
}

fn sound(severity: Severity) -> Option<Sound> {
    match severity {
        Severity::Information => None,
        Severity::Urgent => Some(Sound::Name("default")),
        Severity::Critical => Some(Sound::Critical { critical: 1, name: "default", volume: 1.0 }),
    }
}
