//! Messages of a case in all languages.

use std::collections::HashMap;

use crate::{
    device::LOCALE_BYTES_MAX,
    error::{InvalidField, required},
    locale::{Chooser, Locale},
    text::{self, Lines},
    wire::v1 as wire,
};

/// Maximum number of messages (languages) of one case.
pub const MESSAGES_MAX: usize = 64;
/// Maximum length of a title, bytes.
pub const TITLE_BYTES_MAX: usize = 256;
/// Maximum length of a body, bytes.
pub const BODY_BYTES_MAX: usize = 3_000;
/// Maximum length of an image address or deep link, bytes.
pub const LINK_BYTES_MAX: usize = 1_024;

/// Text of an alert in one language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Title of the notification, one line of 1 to [`TITLE_BYTES_MAX`] bytes.
    pub title: String,
    /// Body of the notification, 1 to [`BODY_BYTES_MAX`] bytes.
    pub body: String,
}

/// Content of an alert: texts in all languages, photograph and link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Messages sorted by locale, without repeats.
    messages: Vec<(Locale, Message)>,
    /// Index of the fallback in `messages`.
    fallback: usize,
    /// Address of a photograph, https only.
    pub image_url: Option<String>,
    /// Link that a tap on the notification opens.
    pub deep_link: Option<String>,
}

impl Case {
    /// Checks every limit of the contract.
    ///
    /// # Errors
    /// The first invalid field, as a path inside the case such as `messages[en].title`.
    pub fn from_wire(case: wire::Case) -> Result<Self, InvalidField> {
        let mut messages = messages(case.messages)?;
        messages.sort_by(|a, b| a.0.cmp(&b.0));
        distinct(&messages)?;
        if case.fallback_locale.is_empty() {
            return Err(InvalidField::new("fallback_locale", "is required"));
        }
        let wanted = Locale::new(&case.fallback_locale).map_err(|e| e.within("fallback_locale"))?;
        let fallback =
            messages.binary_search_by(|(locale, _)| locale.cmp(&wanted)).map_err(|_| {
                InvalidField::new(
                    "fallback_locale",
                    format_args!("must be a locale in messages; got {}", wanted.as_str()),
                )
            })?;
        let image_url = optional_link(case.image_url, "image_url")?;
        if image_url.as_deref().is_some_and(|url| !is_https(url)) {
            return Err(InvalidField::new("image_url", "must begin with https:// and name a host"));
        }
        let deep_link = optional_link(case.deep_link, "deep_link")?;
        Ok(Self { messages, fallback, image_url, deep_link })
    }

    /// Converts the case to its message.
    #[must_use]
    pub fn to_wire(&self) -> wire::Case {
        let text = |m: &Message| wire::Message { title: m.title.clone(), body: m.body.clone() };
        wire::Case {
            messages: self.messages.iter().map(|(l, m)| (l.as_str().to_owned(), text(m))).collect(),
            fallback_locale: self.messages[self.fallback].0.as_str().to_owned(),
            image_url: self.image_url.clone().unwrap_or_default(),
            deep_link: self.deep_link.clone().unwrap_or_default(),
        }
    }

    /// Returns the message for devices whose locale has no message.
    #[must_use]
    pub fn fallback(&self) -> (&Locale, &Message) {
        let (locale, message) = &self.messages[self.fallback];
        (locale, message)
    }

    /// Returns all messages in the order in which nodes receive them: the fallback, then the others
    /// by locale.
    pub fn messages(&self) -> impl Iterator<Item = (&Locale, &Message)> {
        let others =
            self.messages.iter().enumerate().filter(|(i, _)| *i != self.fallback).map(|(_, m)| m);
        std::iter::once(&self.messages[self.fallback]).chain(others).map(|(l, m)| (l, m))
    }

    /// Returns the message for a device with this canonical locale (empty: unknown), else the
    /// fallback.
    #[must_use]
    pub fn choose(&self, device_locale: &str) -> &Message {
        let chooser = Chooser::new(self.messages.iter().map(|(locale, _)| locale.as_str()));
        &self.messages[chooser.choose(device_locale).unwrap_or(self.fallback)].1
    }
}

/// Checks that no two messages have the same readers.
fn distinct(messages: &[(Locale, Message)]) -> Result<(), InvalidField> {
    let mut known = HashMap::new();
    for (locale, _) in messages {
        if let Some(other) = known.insert(locale.reduced(), locale.as_str()) {
            let problem = format!(
                "must have one message for each language; got two for the same readers: {other} \
                 and {}",
                locale.as_str()
            );
            return Err(InvalidField::new("messages", problem));
        }
    }
    Ok(())
}

/// Checks all messages in the order of their locales, so that the same case always gives the same
/// error.
fn messages(
    messages: HashMap<String, wire::Message>,
) -> Result<Vec<(Locale, Message)>, InvalidField> {
    let count = messages.len();
    if !(1..=MESSAGES_MAX).contains(&count) {
        return Err(InvalidField::new(
            "messages",
            format_args!("must have 1 to {MESSAGES_MAX} messages; got {count}"),
        ));
    }
    let mut sorted: Vec<_> = messages.into_iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    sorted.into_iter().map(|(tag, message)| check_message(&tag, message)).collect()
}

fn check_message(tag: &str, message: wire::Message) -> Result<(Locale, Message), InvalidField> {
    // The error shows only the beginning of a long key, so that the response stays small.
    let path = format!("messages[{}]", tag.chars().take(LOCALE_BYTES_MAX).collect::<String>());
    let within = |e: InvalidField| e.within(&path);
    let locale = Locale::new(tag).map_err(within)?;
    let title = required_text(message.title, "title", TITLE_BYTES_MAX).map_err(within)?;
    text::shown(&title, "title", Lines::One).map_err(within)?;
    let body = required_text(message.body, "body", BODY_BYTES_MAX).map_err(within)?;
    text::shown(&body, "body", Lines::Many).map_err(within)?;
    Ok((locale, Message { title, body }))
}

fn required_text(value: String, field: &str, bytes_max: usize) -> Result<String, InvalidField> {
    let value = required((!value.is_empty()).then_some(value), field)?;
    if value.len() > bytes_max {
        return Err(InvalidField::new(
            field,
            format_args!("must be at most {bytes_max} bytes; got {} bytes", value.len()),
        ));
    }
    Ok(value)
}

fn optional_link(value: String, field: &str) -> Result<Option<String>, InvalidField> {
    if value.is_empty() {
        return Ok(None);
    }
    let value = required_text(value, field, LINK_BYTES_MAX)?;
    text::address(&value, field)?;
    Ok(Some(value))
}

fn is_https(url: &str) -> bool {
    let rest = match url.get(..8) {
        Some(scheme) if scheme.eq_ignore_ascii_case("https://") => &url[8..],
        _ => return false,
    };
    !rest.is_empty() && !rest.starts_with(['/', '?', '#', ':'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(text: &str) -> wire::Message {
        wire::Message { title: text.to_owned(), body: text.to_owned() }
    }

    fn case(locales: &[&str], fallback: &str) -> wire::Case {
        wire::Case {
            messages: locales
                .iter()
                .map(|l| ((*l).to_owned(), message(&l.to_ascii_lowercase())))
                .collect(),
            fallback_locale: fallback.to_owned(),
            ..Default::default()
        }
    }

    fn refused(case: wire::Case) -> (String, String) {
        let e = Case::from_wire(case).expect_err("must be refused");
        (e.field, e.problem)
    }

    #[test]
    fn takes_the_message_of_the_language_else_the_fallback() {
        let case = Case::from_wire(case(&["zh", "zh-Hant", "en", "EN-gb"], "en")).expect("valid");
        for (wanted, got) in [
            ("zh-tw", "zh-hant"),
            ("zh-hans-cn", "zh"),
            ("en-gb", "en-gb"),
            ("fr", "en"),
            ("", "en"),
        ] {
            assert_eq!(case.choose(wanted).title, got, "{wanted}");
        }
        assert_eq!(case.messages().next().expect("one").0.as_str(), "en");
        assert_eq!(case.messages().count(), 4);
    }

    #[test]
    fn names_field_limit_and_value() {
        let mut long = case(&["en"], "en");
        long.messages.get_mut("en").expect("there").title = "x".repeat(257);
        assert_eq!(
            refused(long),
            ("messages[en].title".into(), "must be at most 256 bytes; got 257 bytes".into())
        );
        assert_eq!(refused(case(&[], "en")).0, "messages");
        assert_eq!(refused(case(&["en"], "")), ("fallback_locale".into(), "is required".into()));
        assert_eq!(
            refused(case(&["en"], "fr")),
            ("fallback_locale".into(), "must be a locale in messages; got fr".into())
        );
        for same in
            [["en", "EN"], ["zh", "zh-Hans"], ["iw", "he"], ["nb", "no"], ["zh_TW", "zh-TW"]]
        {
            let (field, problem) = refused(case(&same, same[0]));
            assert!(field == "messages" && problem.contains("same readers"), "{problem}");
        }
        assert_eq!(refused(case(&["12"], "12")).0, "messages[12]");
        let http =
            wire::Case { image_url: "http://example.org/a.jpg".into(), ..case(&["en"], "en") };
        assert_eq!(refused(http).0, "image_url");
        let link =
            wire::Case { deep_link: format!("app://{}", "x".repeat(1_024)), ..case(&["en"], "en") };
        assert_eq!(
            refused(link),
            ("deep_link".into(), "must be at most 1024 bytes; got 1030 bytes".into())
        );
    }

    #[test]
    fn texts_that_a_phone_cannot_show_are_refused_by_field() {
        let with = |title: &str, body: &str| {
            let mut case = case(&["en"], "en");
            let message = wire::Message { title: title.into(), body: body.into() };
            case.messages.insert("en".into(), message);
            case
        };
        let (field, problem) = refused(with("\u{200B}", "text"));
        assert_eq!(field, "messages[en].title");
        assert!(problem.starts_with("must contain a visible character"), "{problem}");
        assert_eq!(refused(with("two\nlines", "text")).0, "messages[en].title");
        assert_eq!(refused(with("title", "nul\0")).0, "messages[en].body");
        assert_eq!(refused(with("title", "\u{202E}open")).0, "messages[en].body");
        assert!(Case::from_wire(with("title", "two\r\n\tlines")).is_ok());
        let link = wire::Case { deep_link: "app://a\u{200B}b".into(), ..case(&["en"], "en") };
        assert_eq!(refused(link).0, "deep_link");
    }

    proptest! {
        #[test]
        fn conversion_round_trips(locales in proptest::collection::btree_set("(en|fr|de|it|zh|ja|ko|es|pt|ru)", 1..8)) {
            let tags: Vec<&str> = locales.iter().map(String::as_str).collect();
            let once = Case::from_wire(case(&tags, tags[0])).expect("valid");
            prop_assert_eq!(Case::from_wire(once.to_wire()).expect("valid"), once);
        }
    }
}
