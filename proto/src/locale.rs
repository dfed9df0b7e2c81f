//! Languages: canonical tags of devices and messages, and the choice of a device's message.
//!
//! Phones report their language in many spellings: `zh-Hans-CN` (iOS), `zh_TW_#Hant` (Java),
//! `iw-IL` (Android), `en_US.UTF-8` (POSIX). [`Reported::read`] makes one tag of them and never
//! refuses: a phone with an odd language is still a phone to be alerted.
//!
//! A canonical tag is language, script, region and variants, joined by hyphens, in lower case, with
//! CLDR's replacements of outdated codes (`iw` → `he`, `mo` → `ro`, `cmn` → `zh`). Extensions
//! (`-u-ca-buddhist`) do not choose a text and are left out.
//!
//! **Choice of a message** ([`Chooser`]), by Unicode Technical Standard 35:
//!
//! 1. the parents of the device's tag in CLDR (`es-mx` → `es-419` → `es`; `zh-tw` → `zh-hant`). The
//!    chain respects scripts: `zh-hant` never leads to `zh`, which is Simplified Chinese;
//! 2. otherwise a message for another region that shares a parent, the nearest first (`en-in` reads
//!    `en-gb` rather than `en-us`, and either rather than nothing);
//! 3. otherwise the same for the language that speakers of a language without messages read
//!    ([`READS`]);
//! 4. otherwise the fallback of the alert, which is the caller's decision.

use icu_locale::{
    LanguageIdentifier, LocaleCanonicalizer, LocaleExpander, LocaleFallbacker,
    fallback::{LocaleFallbackConfig, LocaleFallbackPriority},
    langid,
    subtags::{Language, Region, Script, Variant, Variants, language},
};
use icu_provider::DataLocale;

use crate::{device::LOCALE_BYTES_MAX, error::InvalidField};

/// Maximum number of subtags that are looked at; a real tag has five at most.
const SUBTAGS_MAX: usize = 16;
/// Maximum length of a chain of parents; CLDR's longest has four.
const PARENTS_MAX: usize = 8;

/// Languages whose speakers read another language, if an alert has no message in their own: the
/// Chinese languages and Swiss German, the one-way entries of CLDR's `languageMatching` for widely
/// spoken ones.
const READS: [(Language, Language); 9] = [
    (language!("yue"), language!("zh")),
    (language!("wuu"), language!("zh")),
    (language!("nan"), language!("zh")),
    (language!("hak"), language!("zh")),
    (language!("gan"), language!("zh")),
    (language!("hsn"), language!("zh")),
    (language!("cjy"), language!("zh")),
    (language!("gsw"), language!("de")),
    (language!("lb"), language!("de")),
];

/// Canonical language tag in lower case, such as `zh-hans-cn`; at most [`LOCALE_BYTES_MAX`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Locale(String);

impl Locale {
    /// Reads the language of a message, in any spelling that [`Reported::read`] understands
    /// completely.
    ///
    /// # Errors
    /// The tag names no language, or a part of it has no meaning. The error has an empty field; the
    /// caller adds the path.
    pub fn new(tag: &str) -> Result<Self, InvalidField> {
        let shown = || tag.chars().take(LOCALE_BYTES_MAX).collect::<String>();
        match Reported::read(tag) {
            Reported { locale: Some(locale), ignored: false } => Ok(locale),
            Reported { locale: Some(locale), ignored: true } => Err(InvalidField::new(
                "",
                format_args!(
                    "must be a BCP 47 tag such as zh-Hant-TW; got \"{}\", of which only \"{}\" has \
                     a meaning",
                    shown(),
                    locale.as_str()
                ),
            )),
            Reported { locale: None, .. } => Err(InvalidField::new(
                "",
                format_args!(
                    "must be a BCP 47 tag that begins with a language, such as zh-Hant-TW; got \
                     \"{}\"",
                    shown()
                ),
            )),
        }
    }

    /// Returns the canonical tag.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the canonical tag as an owned string.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }

    /// Returns the tag without the script that its language and region imply, and with one code for
    /// Norwegian Bokmål: locales with equal results have the same readers.
    #[must_use]
    pub fn reduced(&self) -> String {
        self.0.parse().map_or_else(|_| self.0.clone(), |id| parents(&id).swap_remove(0))
    }
}

/// Language that a phone reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported {
    /// Canonical tag; `None`: the phone reported no language.
    pub locale: Option<Locale>,
    /// Whether a part of the report had no meaning and was left out.
    pub ignored: bool,
}

impl Reported {
    /// Reads a phone's language in the spelling of BCP 47, POSIX, Java or the older codes of
    /// Android. Never fails: what has no meaning is left out.
    #[must_use]
    pub fn read(tag: &str) -> Self {
        // POSIX appends an encoding and a modifier: `sr_RS.UTF-8@latin`.
        let tag = tag.trim();
        let (tag, modifier) = tag.split_once('@').unwrap_or((tag, ""));
        let tag = tag.split('.').next().unwrap_or_default();
        let mut subtags = tag.split(['-', '_']).map(|subtag| subtag.trim_start_matches('#'));
        let first = subtags.next().unwrap_or_default();
        let Ok(language) = Language::try_from_str(first) else {
            return Self { locale: None, ignored: !tag.is_empty() };
        };
        if language.is_unknown() {
            return Self { locale: None, ignored: true };
        }
        let mut read = Parts { language, script: None, region: None, variants: Vec::new() };
        let mut ignored = false;
        for (n, subtag) in subtags.enumerate() {
            // Java separates an absent region by two underscores.
            if subtag.is_empty() {
                continue;
            }
            // A single character begins an extension: calendar, numbers, private use.
            if subtag.len() == 1 {
                break;
            }
            ignored |= n >= SUBTAGS_MAX || !read.take(subtag);
        }
        ignored |= match modifier {
            "" | "euro" => false,
            "latin" | "Latn" => !read.take("Latn"),
            "cyrillic" | "Cyrl" => !read.take("Cyrl"),
            _ => true,
        };
        let id = read.canonical();
        let mut tag = id.to_string().to_ascii_lowercase();
        if tag.len() > LOCALE_BYTES_MAX {
            ignored = true;
            let short = LanguageIdentifier { variants: Variants::default(), ..id };
            tag = short.to_string().to_ascii_lowercase();
        }
        Self { locale: Some(Locale(tag)), ignored }
    }
}

/// Parts of a tag, read one subtag after the other.
struct Parts {
    language: Language,
    script: Option<Script>,
    region: Option<Region>,
    variants: Vec<Variant>,
}

impl Parts {
    /// Takes the next subtag; false: it has no meaning in this place.
    fn take(&mut self, subtag: &str) -> bool {
        if self.script.is_none()
            && let Ok(script) = Script::try_from_str(subtag)
        {
            self.script = Some(script);
            return true;
        }
        if self.region.is_none()
            && let Ok(region) = Region::try_from_str(subtag)
        {
            self.region = Some(region);
            return true;
        }
        // An extended language: `zh-yue` is the former spelling of `yue`.
        let bare = self.script.is_none() && self.region.is_none() && self.variants.is_empty();
        if bare
            && self.language == language!("zh")
            && let Ok(extended) = Language::try_from_str(subtag)
            && (extended == language!("cmn") || READS.iter().any(|(of, _)| *of == extended))
        {
            self.language = extended;
            return true;
        }
        match Variant::try_from_str(subtag) {
            Ok(variant) => {
                self.variants.push(variant);
                true
            }
            Err(_) => false,
        }
    }

    /// Replaces outdated codes by their present ones.
    fn canonical(self) -> LanguageIdentifier {
        let Self { language, script, region, mut variants } = self;
        variants.sort_unstable();
        variants.dedup();
        let variants = Variants::from_vec_unchecked(variants);
        let id = LanguageIdentifier { language, script, region, variants };
        let mut locale = icu_locale::Locale::from(id);
        LocaleCanonicalizer::new_extended().canonicalize(&mut locale);
        locale.id
    }
}

/// The tag and its parents in CLDR, nearest first, each without a script that language and region
/// imply; never empty. An unknown language has only itself.
fn parents(id: &LanguageIdentifier) -> Vec<String> {
    let mut id = id.clone();
    // CLDR has two codes for one written language.
    if id.language == language!("nb") {
        id.language = language!("no");
    }
    let mut config = LocaleFallbackConfig::default();
    config.priority = LocaleFallbackPriority::Language;
    let fallbacker = LocaleFallbacker::new().for_config(config);
    let mut parents = fallbacker.fallback_for(DataLocale::from(&id));
    let mut chain = vec![parents.get().to_string()];
    while chain.len() < PARENTS_MAX {
        parents.step();
        if parents.get().is_unknown() {
            break;
        }
        chain.push(parents.get().to_string());
    }
    chain
}

/// Language, script and region that a tag stands for, with what CLDR holds likely filled in.
fn likely(id: &LanguageIdentifier) -> LanguageIdentifier {
    let mut id = LanguageIdentifier { variants: Variants::default(), ..id.clone() };
    if id.language == language!("nb") {
        id.language = language!("no");
    }
    let _ = LocaleExpander::new_extended().maximize(&mut id);
    id
}

/// Chooses among the messages of one alert; see the module's documentation.
#[derive(Debug, Clone)]
pub struct Chooser {
    messages: Vec<Readers>,
}

/// Who reads one message.
#[derive(Debug, Clone)]
struct Readers {
    /// The message's tag and its parents.
    chain: Vec<String>,
    /// Whether the message is for the region that CLDR holds likely for language and script.
    is_home: bool,
}

impl Chooser {
    /// Prepares the choice among messages with these canonical tags. A tag that is no tag has no
    /// readers.
    pub fn new<'a>(tags: impl IntoIterator<Item = &'a str>) -> Self {
        let readers = |tag: &str| {
            let id = tag.parse().unwrap_or(langid!("und"));
            let likely = likely(&id);
            let home = self::likely(&LanguageIdentifier { region: None, ..likely.clone() });
            Readers { chain: parents(&id), is_home: home.region == likely.region }
        };
        Self { messages: tags.into_iter().map(readers).collect() }
    }

    /// Returns the position of the message for a device with this canonical tag; `None`: no message
    /// is in a language of its owner, or the tag is empty.
    #[must_use]
    pub fn choose(&self, device: &str) -> Option<usize> {
        let id: LanguageIdentifier = device.parse().ok()?;
        self.readable(&id).or_else(|| {
            let (_, reads) = READS.iter().find(|(of, _)| *of == id.language)?;
            let script = likely(&id).script;
            self.readable(&LanguageIdentifier { language: *reads, script, ..langid!("und") })
        })
    }

    fn readable(&self, id: &LanguageIdentifier) -> Option<usize> {
        let chain = parents(id);
        let position = |fits: &dyn Fn(&Readers) -> bool| self.messages.iter().position(fits);
        let own = chain.iter().find_map(|parent| position(&|m| m.chain[0] == *parent));
        own.or_else(|| {
            chain.iter().find_map(|parent| {
                position(&|m| m.is_home && m.chain.contains(parent))
                    .or_else(|| position(&|m| m.chain.contains(parent)))
            })
        })
    }
}

#[cfg(test)]
mod tests;
