//! Options of the pushes of an alert, by platform.
//!
//! Options that no caller sets follow the severity and the case: [`crate::alert::Severity`] has the
//! defaults of Apple's, [`FcmOptions`] those of Google's.

use crate::{
    app::enum_value,
    error::InvalidField,
    text,
    wire::v1::{self as wire, apns_options::InterruptionLevel as WireLevel},
};

/// Maximum length of `thread-id` and `category`, bytes. Apple documents no limit; the push has one.
pub const IDENTIFIER_BYTES_MAX: usize = 128;
/// Maximum length of an analytics label, characters (FCM: `^[a-zA-Z0-9-_.~%]{1,50}$`).
pub const ANALYTICS_LABEL_CHARS_MAX: usize = 50;

/// Options of the pushes of an alert.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PushOptions {
    /// Options of Apple's `aps` dictionary.
    pub apns: ApnsOptions,
    /// Options of FCM's `android` dictionary.
    pub fcm: FcmOptions,
}

/// Options of Apple's `aps` dictionary (Apple, "Generating a remote notification").
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ApnsOptions {
    /// How a phone interrupts its owner. `None`: as the severity says.
    pub interruption_level: Option<InterruptionLevel>,
    /// Rank in the summary of the app, 0 to 1.
    pub relevance_score: Option<f64>,
    /// Group in which the phone shows the notification.
    pub thread_id: Option<String>,
    /// Category of the notification, which decides its buttons.
    pub category: Option<String>,
    /// Whether the app's service extension may change the notification, also without a photograph.
    pub mutable_content: bool,
}

/// How a phone of Apple interrupts its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterruptionLevel {
    /// No sound, and the screen stays dark.
    Passive,
    /// Screen and sound, unless a Focus silences the app.
    Active,
    /// Breaks through a Focus.
    TimeSensitive,
    /// Breaks through a Focus and the mute switch.
    Critical,
}

impl InterruptionLevel {
    /// Value of `aps.interruption-level`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passive => "passive",
            Self::Active => "active",
            Self::TimeSensitive => "time-sensitive",
            Self::Critical => "critical",
        }
    }
}

/// Options of FCM's `android` dictionary; `None`: the default of the severity.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FcmOptions {
    /// Whether a phone that was not unlocked since its start may receive the push.
    pub direct_boot_ok: Option<bool>,
    /// Whether a phone on a network of low bandwidth may receive the push.
    pub bandwidth_constrained_ok: Option<bool>,
    /// Whether a phone on a restricted satellite network may receive the push.
    pub restricted_satellite_ok: Option<bool>,
    /// Label of the push in Google's reports.
    pub analytics_label: Option<String>,
}

impl PushOptions {
    /// Checks every limit of the contract.
    ///
    /// # Errors
    /// The first invalid field, as a path inside the options such as `apns.relevance_score`.
    pub fn from_wire(options: wire::PushOptions) -> Result<Self, InvalidField> {
        let wire::PushOptions { apns, fcm } = options;
        Ok(Self {
            apns: apns_options(apns.unwrap_or_default()).map_err(|e| e.within("apns"))?,
            fcm: fcm_options(fcm.unwrap_or_default()).map_err(|e| e.within("fcm"))?,
        })
    }
}

fn apns_options(options: wire::ApnsOptions) -> Result<ApnsOptions, InvalidField> {
    let interruption_level = match options.interruption_level {
        0 => None,
        number => interruption_level(enum_value(number, "interruption_level")?),
    };
    if let Some(score) = options.relevance_score
        && !(0.0..=1.0).contains(&score)
    {
        return Err(InvalidField::new(
            "relevance_score",
            format_args!("must be 0 to 1; got {score}"),
        ));
    }
    Ok(ApnsOptions {
        interruption_level,
        relevance_score: options.relevance_score,
        thread_id: identifier(options.thread_id, "thread_id")?,
        category: identifier(options.category, "category")?,
        mutable_content: options.mutable_content,
    })
}

fn interruption_level(level: WireLevel) -> Option<InterruptionLevel> {
    match level {
        WireLevel::Unspecified => None,
        WireLevel::Passive => Some(InterruptionLevel::Passive),
        WireLevel::Active => Some(InterruptionLevel::Active),
        WireLevel::TimeSensitive => Some(InterruptionLevel::TimeSensitive),
        WireLevel::Critical => Some(InterruptionLevel::Critical),
    }
}

fn fcm_options(options: wire::FcmOptions) -> Result<FcmOptions, InvalidField> {
    let label = options.analytics_label;
    let known = |b: u8| b.is_ascii_alphanumeric() || b"-_.~%".contains(&b);
    if label.len() > ANALYTICS_LABEL_CHARS_MAX || !label.bytes().all(known) {
        return Err(InvalidField::new(
            "analytics_label",
            format_args!(
                "must be 1 to {ANALYTICS_LABEL_CHARS_MAX} characters of a-z, A-Z, 0-9, '-', '_', \
                 '.', '~' and '%'; got {} characters",
                label.chars().count()
            ),
        ));
    }
    Ok(FcmOptions {
        direct_boot_ok: options.direct_boot_ok,
        bandwidth_constrained_ok: options.bandwidth_constrained_ok,
        restricted_satellite_ok: options.restricted_satellite_ok,
        analytics_label: (!label.is_empty()).then_some(label),
    })
}

fn identifier(value: String, field: &str) -> Result<Option<String>, InvalidField> {
    if value.len() > IDENTIFIER_BYTES_MAX {
        let bytes = value.len();
        return Err(InvalidField::new(
            field,
            format_args!("must be at most {IDENTIFIER_BYTES_MAX} bytes; got {bytes} bytes"),
        ));
    }
    text::no_controls(&value, field)?;
    Ok((!value.is_empty()).then_some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apns(options: wire::ApnsOptions) -> Result<PushOptions, String> {
        let options = wire::PushOptions { apns: Some(options), fcm: None };
        PushOptions::from_wire(options).map_err(|e| e.to_string())
    }

    fn label(text: &str) -> Result<Option<String>, String> {
        let fcm = wire::FcmOptions { analytics_label: text.to_owned(), ..Default::default() };
        let options = wire::PushOptions { apns: None, fcm: Some(fcm) };
        PushOptions::from_wire(options).map(|o| o.fcm.analytics_label).map_err(|e| e.to_string())
    }

    #[test]
    fn options_are_checked_by_name() {
        let score = |score| {
            apns(wire::ApnsOptions { relevance_score: Some(score), ..Default::default() })
                .map(|o| o.apns.relevance_score)
        };
        assert_eq!((score(0.0), score(1.0)), (Ok(Some(0.0)), Ok(Some(1.0))));
        assert_eq!(score(1.01), Err("apns.relevance_score: must be 0 to 1; got 1.01".to_owned()));
        for bad in [-0.1, f64::NAN, f64::INFINITY] {
            assert!(score(bad).is_err(), "{bad}");
        }
        let long = wire::ApnsOptions { thread_id: "x".repeat(129), ..Default::default() };
        assert_eq!(
            apns(long),
            Err("apns.thread_id: must be at most 128 bytes; got 129 bytes".to_owned())
        );
        let control = wire::ApnsOptions { category: "a\u{0}".to_owned(), ..Default::default() };
        assert!(apns(control).expect_err("refused").starts_with("apns.category: must not contain"));
        let level = wire::ApnsOptions { interruption_level: 9, ..Default::default() };
        assert!(apns(level).expect_err("refused").starts_with("apns.interruption_level: "));
    }

    #[test]
    fn analytics_labels_are_those_of_google() {
        assert_eq!(label(""), Ok(None));
        assert_eq!(label("amber_2026.117~a%20-B"), Ok(Some("amber_2026.117~a%20-B".to_owned())));
        for bad in ["a b", "ä", &"x".repeat(51), "a/b"] {
            assert!(
                label(bad).is_err_and(|e| e.starts_with("fcm.analytics_label: must be 1 to 50"))
            );
        }
    }
}
