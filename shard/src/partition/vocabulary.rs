//! The vocabulary of a core: apps, locales and sets of segments, each stored once and named by two
//! bytes.
//!
//! A million devices use a few apps, some hundred locales and some thousand combinations of
//! segments. A row that named them by `String` would cost more than its token, so rows hold indices
//! into one vocabulary, shared by all partitions of a core. The vocabulary never removes words:
//! they are few, and an index keeps its meaning, so code that stores an index (a row, a wave's
//! memo) needs no notice of changes.
//!
//! Indices depend on the order in which a core met the words, so they never leave it: reports and
//! snapshots contain the words.
//!
//! **At the limit** (65,535 words of a kind) a new word becomes *unknown*, which never sends a
//! device a message that was not meant for it: an unknown app is never pushed to, an unknown locale
//! gets the fallback message, an unknown set of segments matches only alerts without an expression
//! over segments. [`Vocabulary::refused`] counts such words, for an alarm.

use clarion_proto::{device::Registration, ids::AppName};
use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

/// Most words of a kind: all values of two bytes except the one that means *unknown*.
const WORDS_MAX: usize = u16::MAX as usize;

macro_rules! index {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u16);

        impl $name {
            /// Index of a word that came when the vocabulary was full.
            pub const UNKNOWN: Self = Self(u16::MAX);
        }
    };
}

index! {
    /// Index of an app in a core's vocabulary.
    AppIndex
}
index! {
    /// Index of a locale in lower case; 0 is the empty locale.
    LocaleIndex
}
index! {
    /// Index of a set of segments; 0 is the empty set.
    SegmentsIndex
}

impl LocaleIndex {
    /// Index of the empty locale.
    pub const NONE: Self = Self(0);
}

impl SegmentsIndex {
    /// Index of the empty set of segments.
    pub const EMPTY: Self = Self(0);
}

/// All words that one core has met.
#[derive(Debug)]
pub struct Vocabulary {
    apps: Words<AppName>,
    locales: Words<Box<str>>,
    /// Names of single segments; sets refer to them by index.
    segments: Words<Box<str>>,
    sets: Words<Box<[u16]>>,
    refused: u64,
}

impl Default for Vocabulary {
    fn default() -> Self {
        Self::new()
    }
}

impl Vocabulary {
    /// Creates a vocabulary with only the empty locale and the empty set of segments.
    #[must_use]
    pub fn new() -> Self {
        let mut new = Self {
            apps: Words::new(),
            locales: Words::new(),
            segments: Words::new(),
            sets: Words::new(),
            refused: 0,
        };
        new.intern_locale("");
        new.intern_segments(&[]);
        new
    }

    /// Returns the app of an index; `None` for [`AppIndex::UNKNOWN`].
    #[must_use]
    pub fn app(&self, index: AppIndex) -> Option<&AppName> {
        self.apps.get(index.0)
    }

    /// Returns the index of an app, if the vocabulary contains it.
    #[must_use]
    pub fn find_app(&self, app: &AppName) -> Option<AppIndex> {
        self.apps.find(xxh3_64(app.id().as_bytes()), |a| a == app).map(AppIndex)
    }

    /// Returns the index of an app, and adds the app if it is new.
    pub fn intern_app(&mut self, app: &AppName) -> AppIndex {
        let hash = |a: &AppName| xxh3_64(a.id().as_bytes());
        let index = self.apps.intern(hash(app), |a| a == app, || app.clone(), hash);
        AppIndex(self.or_unknown(index))
    }

    /// Returns the number of apps so far; every lower index is an app.
    #[must_use]
    pub fn apps(&self) -> u16 {
        self.apps.len()
    }

    /// Returns the locale of an index; empty for [`LocaleIndex::UNKNOWN`].
    #[must_use]
    pub fn locale(&self, index: LocaleIndex) -> &str {
        self.locales.get(index.0).map_or("", |l| l)
    }

    /// Returns the number of locales so far; every lower index is a locale.
    #[must_use]
    pub fn locales(&self) -> u16 {
        self.locales.len()
    }

    /// Returns the index of a locale, and adds the locale if it is new.
    pub fn intern_locale(&mut self, locale: &str) -> LocaleIndex {
        let hash = xxh3_64(locale.as_bytes());
        let index = self.locales.intern(
            hash,
            |l| **l == *locale,
            || locale.into(),
            |l| xxh3_64(l.as_bytes()),
        );
        LocaleIndex(self.or_unknown(index))
    }

    /// Returns the names in a set of segments, in unspecified order; `None` for
    /// [`SegmentsIndex::UNKNOWN`].
    pub fn segments(&self, index: SegmentsIndex) -> Option<impl Iterator<Item = &str>> {
        let set = self.sets.get(index.0)?;
        Some(set.iter().map(|&name| self.segments.get(name).map_or("", |s| s)))
    }

    /// Returns the index of a set of segments, and adds the set if it is new.
    pub fn intern_segments(&mut self, names: &[String]) -> SegmentsIndex {
        let mut set = Vec::with_capacity(names.len());
        for name in names {
            let hash = xxh3_64(name.as_bytes());
            let index = self.segments.intern(
                hash,
                |s| **s == **name,
                || name.as_str().into(),
                |s| xxh3_64(s.as_bytes()),
            );
            match index {
                Some(index) => set.push(index),
                None => return SegmentsIndex(self.or_unknown(None)),
            }
        }
        set.sort_unstable();
        set.dedup();
        let hash = hash_set(&set);
        let index =
            self.sets.intern(hash, |s| **s == *set, || set.as_slice().into(), |s| hash_set(s));
        SegmentsIndex(self.or_unknown(index))
    }

    /// Reports whether these indices have exactly these words. A device mostly repeats its words,
    /// and then needs no look-up.
    pub(super) fn matches(
        &self,
        (app, locale, segments): (AppIndex, LocaleIndex, SegmentsIndex),
        of: &Registration,
    ) -> bool {
        let name_is = |n: &u16, name: &String| self.segments.get(*n).is_some_and(|s| **s == **name);
        self.apps.get(app.0) == Some(&of.app)
            && self.locales.get(locale.0).is_some_and(|l| **l == *of.locale)
            && self.sets.get(segments.0).is_some_and(|set| {
                set.len() == of.segments.len()
                    && of.segments.iter().all(|name| set.iter().any(|n| name_is(n, name)))
            })
    }

    /// Returns the number of words that came when there was no room for them.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn or_unknown(&mut self, index: Option<u16>) -> u16 {
        index.unwrap_or_else(|| {
            self.refused += 1;
            u16::MAX
        })
    }
}

/// Words of one kind with their indices. The hash need not be secret: a word costs its sender a
/// record in the log, and the number of words is bounded.
#[derive(Debug)]
struct Words<T> {
    words: Vec<T>,
    table: HashTable<u16>,
}

impl<T> Words<T> {
    fn new() -> Self {
        Self { words: Vec::new(), table: HashTable::new() }
    }

    fn len(&self) -> u16 {
        u16::try_from(self.words.len()).expect("bounded by WORDS_MAX")
    }

    fn get(&self, index: u16) -> Option<&T> {
        self.words.get(usize::from(index))
    }

    fn find(&self, hash: u64, same: impl Fn(&T) -> bool) -> Option<u16> {
        self.table.find(hash, |&i| same(&self.words[usize::from(i)])).copied()
    }

    fn intern(
        &mut self,
        hash: u64,
        same: impl Fn(&T) -> bool,
        make: impl FnOnce() -> T,
        hash_of: impl Fn(&T) -> u64,
    ) -> Option<u16> {
        if let Some(index) = self.find(hash, same) {
            return Some(index);
        }
        if self.words.len() == WORDS_MAX {
            return None;
        }
        let index = self.len();
        self.words.push(make());
        let words = &self.words;
        self.table.insert_unique(hash, index, |&i| hash_of(&words[usize::from(i)]));
        Some(index)
    }
}

fn hash_set(set: &[u16]) -> u64 {
    let mut bytes = [0; 2 * clarion_proto::device::SEGMENTS_MAX];
    if set.len() <= clarion_proto::device::SEGMENTS_MAX {
        for (to, from) in bytes.chunks_exact_mut(2).zip(set) {
            to.copy_from_slice(&from.to_le_bytes());
        }
        xxh3_64(&bytes[..2 * set.len()])
    } else {
        xxh3_64(&set.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use clarion_proto::device::Token;

    fn app(n: usize) -> AppName {
        AppName::from_id(&format!("a{n}")).unwrap()
    }

    fn registration() -> Registration {
        let token = Token::new(Bytes::from_static(b"token")).unwrap();
        Registration {
            app: app(1),
            token,
            locale: "zh-hans".to_owned(),
            segments: Vec::new(),
            person: String::new(),
        }
    }

    /// Each word has one index, and the index returns the word.
    #[test]
    fn words_are_kept_once() {
        let mut words = Vocabulary::new();
        assert_eq!(
            (words.intern_locale(""), words.intern_segments(&[])),
            (LocaleIndex::NONE, SegmentsIndex::EMPTY)
        );
        let (one, two) = (words.intern_app(&app(1)), words.intern_app(&app(2)));
        assert_eq!([words.intern_app(&app(1)), words.intern_app(&app(2))], [one, two]);
        assert_eq!(
            (words.app(two), words.find_app(&app(2)), words.find_app(&app(3))),
            (Some(&app(2)), Some(two), None)
        );
        let zh = words.intern_locale("zh-hans");
        assert_eq!((words.intern_locale("zh-hans"), words.locale(zh)), (zh, "zh-hans"));
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let set = words.intern_segments(&names(&["b", "a"]));
        assert_eq!(words.intern_segments(&names(&["a", "b", "a"])), set);
        assert_eq!(words.segments(set).unwrap().collect::<Vec<_>>(), ["b", "a"]);
        let many =
            names(&["a"; 3]).into_iter().chain((0..40).map(|n| n.to_string())).collect::<Vec<_>>();
        assert_eq!(words.intern_segments(&many), words.intern_segments(&many));
        let means = |segments: &[&str], locale: &str| {
            let of = Registration {
                segments: names(segments),
                locale: locale.to_owned(),
                ..registration()
            };
            words.matches((one, zh, set), &of)
        };
        assert!(means(&["a", "b"], "zh-hans"));
        assert!(
            ![means(&["a"], "zh-hans"), means(&["a", "c"], "zh-hans"), means(&["a", "b"], "")]
                .contains(&true)
        );
        assert!(!words.matches(
            (two, zh, set),
            &Registration { segments: names(&["a", "b"]), ..registration() }
        ));
        assert_eq!(words.refused(), 0);
    }

    /// A full vocabulary maps new words to unknown, keeps the old ones, and counts the refusals.
    #[test]
    fn a_full_vocabulary_refuses() {
        let mut words = Vocabulary::new();
        for n in 0..WORDS_MAX {
            assert_eq!(words.intern_app(&app(n)), AppIndex(u16::try_from(n).unwrap()));
        }
        assert_eq!((words.refused(), words.apps()), (0, u16::MAX));
        assert_eq!(words.intern_app(&app(WORDS_MAX)), AppIndex::UNKNOWN);
        assert_eq!((words.app(AppIndex::UNKNOWN), words.refused()), (None, 1));
        assert_eq!(words.intern_app(&app(7)), AppIndex(7));
        for n in 1..=WORDS_MAX {
            words.intern_segments(&[n.to_string()]);
        }
        assert_eq!(words.intern_segments(&["one too many".to_owned()]), SegmentsIndex::UNKNOWN);
        assert!(words.segments(SegmentsIndex::UNKNOWN).is_none());
    }
}
