//! Bodies of pushes to APNs.
//!
//! Keys, values and the limit are Apple's ("Generating a remote notification"): the system reads
//! `aps`, the app reads the other members. `mutable-content` lets the app's notification service
//! extension fetch the photograph before the system shows the notification; every alert with a
//! photograph sends it.

use bytes::Bytes;
use clarion_proto::{
    alert::AlertSpec, app::App, error::InvalidField, ids::AlertName, options::InterruptionLevel,
};
use serde::Serialize;

use super::{Rendered, expiration, fits, title};
use crate::planned::{ApnsRequest, LocaleMessage, PushRequest};

/// Longest body of a push, bytes (APNs: 4 KB, else 413 PayloadTooLarge).
pub const BODY_BYTES_MAX: usize = 4_096;

#[derive(Serialize)]
struct Body<'a> {
    aps: Aps<'a>,
    alert: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<&'a str>,
}

/// Member that Apple's system reads. In pushes to FCM, whose devices may be iPhones, the text comes
/// from FCM's `notification` instead.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Aps<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    alert: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sound: Option<Sound>,
    interruption_level: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    relevance_score: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thread_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    category: Option<&'a str>,
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

pub(super) fn render(
    spec: &AlertSpec,
    name: &AlertName,
    app: &App,
    exercise_prefix: &str,
) -> Result<Rendered, InvalidField> {
    let alert = name.name();
    let mut messages = Vec::new();
    for (locale, message) in spec.case.messages() {
        let title = title(spec, message, exercise_prefix);
        let body = Body {
            aps: Aps { alert: Some(Text { title: &title, body: &message.body }), ..aps(spec) },
            alert: &alert,
            image: spec.case.image_url.as_deref(),
            link: spec.case.deep_link.as_deref(),
        };
        let body =
            Bytes::from(serde_json::to_vec(&body).expect("strings and numbers are always JSON"));
        fits(body.len(), BODY_BYTES_MAX, "APNs", app, locale)?;
        let body_after_token = Bytes::new();
        messages.push(LocaleMessage { locale: locale.as_str().to_owned(), body, body_after_token });
    }
    let request = PushRequest::Apns(ApnsRequest {
        topic: app.topic.clone(),
        push_type: "alert".to_owned(),
        priority: spec.severity.apns_priority().into(),
        expiration: expiration(spec),
        collapse_id: spec.collapse_id(name),
    });
    Ok(Rendered { request, messages })
}

/// Makes `aps` without the text.
pub(super) fn aps(spec: &AlertSpec) -> Aps<'_> {
    let options = &spec.options.apns;
    let level =
        options.interruption_level.unwrap_or_else(|| spec.severity.apns_interruption_level());
    Aps {
        alert: None,
        sound: sound(level),
        interruption_level: level.as_str(),
        relevance_score: options.relevance_score,
        thread_id: options.thread_id.as_deref(),
        category: options.category.as_deref(),
        // Without it, no extension of the app can fetch the photograph.
        mutable_content: (options.mutable_content || spec.case.image_url.is_some()).then_some(1),
    }
}

/// Sound of a level: a passive notification with a sound would not be passive, and only Apple's
/// critical sound breaks through the mute switch.
fn sound(level: InterruptionLevel) -> Option<Sound> {
    match level {
        InterruptionLevel::Passive => None,
        InterruptionLevel::Active | InterruptionLevel::TimeSensitive => {
            Some(Sound::Name("default"))
        }
        InterruptionLevel::Critical => {
            Some(Sound::Critical { critical: 1, name: "default", volume: 1.0 })
        }
    }
}
