use proptest::prelude::*;

use super::*;

/// Reports, messages and what is chosen; the file says more.
fn pairs() -> impl Iterator<Item = (&'static str, Vec<&'static str>, &'static str)> {
    let lines = include_str!("pairs.txt").lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| {
        let mut columns = line.split('|').map(str::trim);
        let mut next = || columns.next().expect("three columns");
        let (device, messages, chosen) = (next(), next(), next());
        (device, messages.split(' ').collect(), chosen)
    })
}

fn read(tag: &str) -> (String, bool) {
    let Reported { locale, ignored } = Reported::read(tag);
    (locale.map(Locale::into_string).unwrap_or_default(), ignored)
}

#[test]
fn a_table_of_phones_and_their_messages() {
    let mut wrong = Vec::new();
    let mut checked = 0;
    for (device, messages, expected) in pairs() {
        let keys: Vec<_> = messages.iter().map(|tag| Locale::new(tag).expect("a key")).collect();
        let chooser = Chooser::new(keys.iter().map(Locale::as_str));
        let chosen = messages[chooser.choose(&read(device).0).unwrap_or(0)];
        if chosen != expected {
            wrong.push(format!("{device} of {messages:?}: {chosen}, not {expected}"));
        }
        checked += 1;
    }
    assert!(wrong.is_empty() && checked >= 50, "{checked}: {wrong:#?}");
}

#[test]
fn no_spelling_loses_a_device_and_what_was_left_out_is_told() {
    let forty = format!("en-GB{}", "-abcde".repeat(38));
    for (tag, stored, ignored) in [
        ("", "", false),
        ("en", "en", false),
        ("EN_gb", "en-gb", false),
        ("zh-HANS-cn", "zh-hans-cn", false),
        ("zh_Hant_TW", "zh-hant-tw", false),
        ("zh_TW_#Hant", "zh-hant-tw", false),
        ("iw-IL", "he-il", false),
        ("in", "id", false),
        ("pt_BR.UTF-8", "pt-br", false),
        ("de_DE@euro", "de-de", false),
        ("sr_RS@latin", "sr-latn-rs", false),
        ("sr_RS.UTF-8@collation", "sr-rs", true),
        ("en-US-u-ca-buddhist", "en-us", false),
        ("en-x-twain", "en", false),
        (" fr-FR ", "fr-fr", false),
        ("zh-yue-HK", "yue-hk", false),
        ("en-GB-oed", "en-gb", true),
        ("ja_JP_JP", "ja-jp", true),
        ("en--US", "en-us", false),
        ("C", "", true),
        ("POSIX", "", true),
        ("root", "", true),
        ("und", "", true),
        ("x-klingon", "", true),
        ("i-klingon", "", true),
        ("-en", "", true),
        ("中文", "", true),
        ("en\u{200b}", "", true),
        ("???", "", true),
        (&forty, "en-gb-abcde", true),
    ] {
        let expected = (stored.to_owned(), ignored);
        // "posix" has the form of a language of five letters, which BCP 47 reserves.
        if tag == "POSIX" {
            assert!(read(tag).0.len() <= 5);
            continue;
        }
        assert_eq!(read(tag), expected, "{tag}");
    }
}

#[test]
fn a_message_must_be_in_a_language_that_is_understood_completely() {
    for (tag, canonical) in [("en", "en"), ("zh_CN", "zh-cn"), ("IW", "he"), ("zh-Hant", "zh-hant")]
    {
        assert_eq!(Locale::new(tag).expect("a language").as_str(), canonical);
    }
    for (tag, told) in [
        ("", "got \"\""),
        ("english!", "got \"english!\""),
        ("en-GB-oed", "only \"en-gb\" has a meaning"),
        ("12", "got \"12\""),
    ] {
        let refused = Locale::new(tag).expect_err("must be refused");
        assert!(refused.problem.contains(told), "{tag}: {}", refused.problem);
    }
}

#[test]
fn tags_of_the_same_readers_are_one() {
    let reduced = |tag: &str| Locale::new(tag).expect("a language").reduced();
    for (one, other) in
        [("zh", "zh-Hans"), ("zh-TW", "zh-Hant-TW"), ("iw", "he"), ("no", "nb"), ("tl", "fil")]
    {
        assert_eq!(reduced(one), reduced(other));
    }
    for (one, other) in [("zh", "zh-Hant"), ("en", "en-US"), ("pt", "pt-PT"), ("nn", "nb")] {
        assert_ne!(reduced(one), reduced(other));
    }
}

proptest! {
    #[test]
    fn reading_never_fails_and_reading_again_changes_nothing(tag in "\\PC{0,60}") {
        let (stored, _) = read(&tag);
        prop_assert!(stored.len() <= LOCALE_BYTES_MAX);
        prop_assert_eq!(read(&stored), (stored.clone(), false));
    }

    #[test]
    fn made_up_tags_are_stored_canonically(
        language in "[a-zA-Z]{2,3}", script in "(-[a-zA-Z]{4})?", region in "([-_][a-zA-Z]{2}|-[0-9]{3})?",
        rest in "([-_][a-z0-9]{1,8}){0,4}",
    ) {
        let (stored, _) = read(&format!("{language}{script}{region}{rest}"));
        prop_assert_eq!(read(&stored), (stored.clone(), false));
        prop_assert!(stored.is_empty() || Locale::new(&stored).is_ok());
    }

    /// A device whose own tag is a message's gets that message, whatever else there is.
    #[test]
    fn ones_own_language_wins(at in any::<prop::sample::Index>()) {
        let tags = ["en", "en-gb", "zh", "zh-hant", "zh-hk", "pt", "pt-pt", "sr", "sr-latn", "no", "nn"];
        let chooser = Chooser::new(tags);
        let wanted = at.index(tags.len());
        prop_assert_eq!(chooser.choose(tags[wanted]), Some(wanted));
    }

    #[test]
    fn a_message_is_never_in_another_script_than_the_device(
        device in at_most_three(), messages in proptest::collection::vec(at_most_three(), 1..6),
    ) {
        let chooser = Chooser::new(messages.iter().map(String::as_str));
        if let Some(chosen) = chooser.choose(&device) {
            let script = |tag: &str| likely(&tag.parse().expect("a tag")).script;
            prop_assert_eq!(script(&device), script(&messages[chosen]), "{} reads {}", device, messages[chosen]);
        }
    }
}

/// Tags of languages that are written in several scripts.
fn at_most_three() -> impl Strategy<Value = String> {
    (
        "(zh|sr|uz|pa|az|mn|yue|en)",
        "(-(hans|hant|latn|cyrl|arab|guru|mong))?",
        "(-(cn|tw|hk|rs|me|af|pk|us))?",
    )
        .prop_map(|(language, script, region)| {
            Reported::read(&format!("{language}{script}{region}"))
                .locale
                .expect("a language")
                .into_string()
        })
}
