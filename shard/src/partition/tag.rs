//! A few bits of the app in a device's key, so that a walk skips devices of other apps without
//! reading their rows.
//!
//! A wave over two platforms walks once for each lane. If only the row named the app, each walk
//! would wait for the memory of the other platform's devices only to skip them. The tag is a hash
//! of the app's name: it needs no table and is the same on every node and after every restart. Two
//! apps with the same tag (one pair in sixteen) only cost a read of the row, because the code that
//! takes a device checks its app anyway.

use clarion_proto::ids::AppName;
use xxhash_rust::xxh3::xxh3_64;

/// Number of bits of a [`Tag`].
pub(super) const TAG_BITS: u32 = 4;

/// Hash of an app's name, four bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag(u8);

impl Tag {
    /// Tag of no app, in the first key at a place.
    pub(crate) const NONE: Self = Self(0);

    pub(crate) fn of(app: &AppName) -> Self {
        Self::from_bits(xxh3_64(app.id().as_bytes()))
    }

    /// Returns the tag in the lowest four bits.
    #[allow(clippy::cast_possible_truncation)] // four bits
    pub(super) fn from_bits(bits: u64) -> Self {
        Self((bits & ((1 << TAG_BITS) - 1)) as u8)
    }

    pub(super) fn bits(self) -> u64 {
        self.0.into()
    }
}

/// Set of tags whose devices a walk returns; it skips all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tags(u16);

impl Tags {
    /// Set of the tags of all apps.
    pub const ALL: Self = Self(u16::MAX);

    /// Returns the set of the tags of these apps.
    pub fn of<'a>(apps: impl IntoIterator<Item = &'a AppName>) -> Self {
        Self(apps.into_iter().fold(0, |set, app| set | 1 << Tag::of(app).0))
    }

    pub(crate) fn has(self, tag: Tag) -> bool {
        self.0 >> tag.0 & 1 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_the_tags_of_its_apps() {
        let apps: Vec<_> =
            ["a", "b", "c", "d"].map(|id| AppName::from_id(id).expect("well-formed")).to_vec();
        let some = Tags::of(&apps[..2]);
        for app in &apps {
            let tag = Tag::of(app);
            assert_eq!(some.has(tag), apps[..2].iter().any(|a| Tag::of(a) == tag));
            assert!(Tags::ALL.has(tag) && !Tags::of([]).has(tag));
            assert!(Tag::from_bits(tag.bits()) == tag);
        }
    }
}
