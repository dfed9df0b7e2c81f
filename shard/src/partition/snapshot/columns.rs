//! A section of rows in a snapshot, written and read column by column.

use std::collections::BTreeMap;

use clarion_proto::{
    device::{Cell, SEGMENTS_MAX},
    ids::{AppName, DeviceId, Ordinal, UnixMillis},
};

use super::{
    super::{
        key::Place,
        profile::Profile,
        row::Millis40,
        tag::Tag,
        token::Shape,
        vocabulary::{AppIndex, LocaleIndex, SegmentsIndex, Vocabulary},
    },
    Problem, ROWS_PER_SECTION,
    entry::Entry,
    frame::Content,
};

const PLACED: u8 = 1;
const REGISTERED: u8 = 2;
const MUTED: u8 = 4;
const SCHEDULED: u8 = 8;
const MUTE_VERSION: u8 = 16;
/// Length of an unknown word, which the full vocabulary refused; as a position in a token: no
/// colon.
const NONE: u16 = u16::MAX;

/// Columns of a section under construction.
#[derive(Default)]
pub(super) struct Columns {
    first: u32,
    registered: u16,
    ordinals: Vec<u8>,
    flags: Vec<u8>,
    devices: Vec<u8>,
    places: Vec<u8>,
    place_versions: Vec<u8>,
    registration_versions: Vec<u8>,
    mute_versions: Vec<u8>,
    dues: Vec<u8>,
    profiles: Vec<Profile>,
    profile_of: BTreeMap<(u16, u16, u16), u16>,
    profile_numbers: Vec<u8>,
    shapes: Vec<u8>,
    contents: Vec<u8>,
}

impl Columns {
    pub(super) fn new(first: u32) -> Self {
        let rows = ROWS_PER_SECTION as usize;
        Self {
            first,
            devices: Vec::with_capacity(rows * 16),
            contents: Vec::with_capacity(rows * 32),
            ..Self::default()
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.flags.len()
    }

    pub(super) fn push(&mut self, ordinal: u32, entry: &Entry<'_>, content: &[u8]) {
        let offset = u16::try_from(ordinal - self.first).expect("below ROWS_PER_SECTION");
        self.ordinals.extend_from_slice(&offset.to_le_bytes());
        let has_mute_version = entry.mute_version != Millis40::NEVER;
        let flag = |on: bool, flag: u8| if on { flag } else { 0 };
        self.flags.push(
            flag(entry.place.is_some(), PLACED)
                | flag(entry.registration.is_ok(), REGISTERED)
                | flag(entry.muted, MUTED)
                | flag(entry.scheduled, SCHEDULED)
                | flag(has_mute_version, MUTE_VERSION),
        );
        self.devices.extend_from_slice(&entry.device.0);
        if let Some(place) = entry.place {
            self.places.extend_from_slice(&place.cell().index().to_le_bytes());
        }
        let five = |version: Millis40| version.bits().to_le_bytes();
        self.place_versions.extend_from_slice(&five(entry.place_version)[..5]);
        self.registration_versions.extend_from_slice(&five(entry.registration_version)[..5]);
        if has_mute_version {
            self.mute_versions.extend_from_slice(&five(entry.mute_version)[..5]);
        }
        match &entry.registration {
            Err(due) => self.dues.extend_from_slice(&due.0.to_le_bytes()[..6]),
            Ok((profile, shape, _)) => {
                self.registered += 1;
                let key = (profile.app.0, profile.locale.0, profile.segments.0);
                let number = *self.profile_of.entry(key).or_insert_with(|| {
                    self.profiles.push(*profile);
                    u16::try_from(self.profiles.len() - 1).expect("at most ROWS_PER_SECTION")
                });
                self.profile_numbers.extend_from_slice(&number.to_le_bytes());
                let [token, colon] = [
                    u16::try_from(shape.token_bytes()).unwrap_or(NONE),
                    shape.colon().map_or(NONE, u16::from),
                ];
                self.shapes.extend_from_slice(&token.to_le_bytes());
                self.shapes.extend_from_slice(&colon.to_le_bytes());
                self.shapes.push(u8::try_from(shape.person_bytes()).unwrap_or(u8::MAX));
                self.contents.extend_from_slice(content);
            }
        }
    }

    /// Returns the content of the section.
    pub(super) fn finish(self, words: &Vocabulary) -> Vec<u8> {
        let count = |n: usize| u16::try_from(n).expect("at most ROWS_PER_SECTION").to_le_bytes();
        let mut profiles = Vec::new();
        for profile in &self.profiles {
            spell(words.app(profile.app).map(AppName::id), &mut profiles);
            spell(
                (profile.locale != LocaleIndex::UNKNOWN).then(|| words.locale(profile.locale)),
                &mut profiles,
            );
            match words.segments(profile.segments) {
                None => profiles.extend_from_slice(&NONE.to_le_bytes()),
                Some(names) => {
                    let mut names: Vec<_> = names.collect();
                    names.sort_unstable();
                    profiles.extend_from_slice(&count(names.len()));
                    names.into_iter().for_each(|name| spell(Some(name), &mut profiles));
                }
            }
        }
        [
            self.first.to_le_bytes().as_slice(),
            &count(self.flags.len()),
            &self.registered.to_le_bytes(),
            &count(self.profiles.len()),
            &self.ordinals,
            &self.flags,
            &self.devices,
            &self.places,
            &self.place_versions,
            &self.registration_versions,
            &self.mute_versions,
            &self.dues,
            &profiles,
            &self.profile_numbers,
            &self.shapes,
            &self.contents,
        ]
        .concat()
    }
}

/// Appends a word of the vocabulary behind its length.
pub(super) fn spell(word: Option<&str>, to: &mut Vec<u8>) {
    // No word is that long: apps have 63 bytes, and the API limits all other words.
    let bytes =
        word.and_then(|word| Some((u16::try_from(word.len()).ok().filter(|n| *n != NONE)?, word)));
    to.extend_from_slice(&bytes.map_or(NONE, |(length, _)| length).to_le_bytes());
    to.extend_from_slice(bytes.map_or("", |(_, word)| word).as_bytes());
}

/// Reads the rows of a section and passes them to `each`, in order.
pub(super) fn read(
    content: &[u8],
    words: &mut Vocabulary,
    mut each: impl FnMut(Ordinal, &Entry<'_>) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let mut content = Content(content);
    let (first, rows) = (content.u32()?, usize::from(content.u16()?));
    let (registered, profiles) = (usize::from(content.u16()?), usize::from(content.u16()?));
    let ordinals = content.column::<2>(rows)?;
    let flags = content.take(rows)?;
    let having = |flag: u8| flags.iter().filter(|flags| **flags & flag != 0).count();
    if having(REGISTERED) != registered || flags.iter().any(|flags| *flags >= MUTE_VERSION << 1) {
        return Err(Problem::Content("a row has an impossible combination of flags"));
    }
    let devices = content.column::<16>(rows)?;
    let mut places = content.column::<8>(having(PLACED))?.iter();
    let place_versions = content.column::<5>(rows)?;
    let registration_versions = content.column::<5>(rows)?;
    let mut mute_versions = content.column::<5>(having(MUTE_VERSION))?.iter();
    let mut dues = content.column::<6>(rows - registered)?.iter();
    let profiles =
        (0..profiles).map(|_| read_profile(&mut content, words)).collect::<Result<Vec<_>, _>>()?;
    let mut profile_numbers = content.column::<2>(registered)?.iter();
    let mut shapes = content.column::<5>(registered)?.iter();

    let short = Problem::Content("a column is too short");
    let mut next_ordinal = 0;
    for row in 0..rows {
        let offset = u16::from_le_bytes(ordinals[row]);
        if u32::from(offset) < next_ordinal || u32::from(offset) >= ROWS_PER_SECTION {
            return Err(Problem::Content("ordinals are not in order"));
        }
        next_ordinal = u32::from(offset) + 1;
        let has = |flag: u8| flags[row] & flag != 0;
        let place =
            if has(PLACED) { Some(read_place(places.next().ok_or(short.clone())?)?) } else { None };
        let mute_version = if has(MUTE_VERSION) {
            version(mute_versions.next().ok_or(short.clone())?)
        } else {
            Millis40::NEVER
        };
        let registration = if has(REGISTERED) {
            let number = u16::from_le_bytes(*profile_numbers.next().ok_or(short.clone())?);
            let profile = *profiles
                .get(usize::from(number))
                .ok_or(Problem::Content("a row refers to a profile that does not exist"))?;
            let [a, b, c, d, person] = *shapes.next().ok_or(short.clone())?;
            let colon = match u16::from_le_bytes([c, d]) {
                NONE => None,
                colon => Some(u8::try_from(colon).map_err(|_| {
                    Problem::Content("a row refers to a token that does not exist")
                })?),
            };
            let shape = Shape::new(u16::from_le_bytes([a, b]).into(), colon, person.into())
                .ok_or(Problem::Content("a row refers to a token that does not exist"))?;
            Ok((profile, shape, content.take(shape.content_bytes())?))
        } else {
            let [a, b, c, d, e, f] = *dues.next().ok_or(short.clone())?;
            Err(UnixMillis(u64::from_le_bytes([a, b, c, d, e, f, 0, 0])))
        };
        let ordinal = first
            .checked_add(offset.into())
            .ok_or(Problem::Content("an entry refers to an ordinal that does not exist"))?;
        let entry = Entry {
            device: DeviceId(devices[row]),
            place,
            muted: has(MUTED),
            scheduled: has(SCHEDULED),
            place_version: version(&place_versions[row]),
            registration_version: version(&registration_versions[row]),
            mute_version,
            registration,
        };
        each(Ordinal(ordinal), &entry)?;
    }
    content.end()
}

/// Returns a stored version; a time outside of its range is impossible.
pub(super) fn version(b: &[u8; 5]) -> Millis40 {
    Millis40::from_bits(u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], 0, 0, 0]))
        .unwrap_or(Millis40::NEVER)
}

/// Checks a place. The checksum has proven that these are the bytes that were written. This cheap
/// check of the writer covers the bits that all cells of resolution 9 share, and the base cell.
fn read_place(index: &[u8; 8]) -> Result<Place, Problem> {
    Cell::new(u64::from_le_bytes(*index))
        .map(Place::from)
        .map_err(|_| Problem::Content("a place is not an H3 cell of resolution 9"))
}

fn read_profile(content: &mut Content<'_>, words: &mut Vocabulary) -> Result<Profile, Problem> {
    let app = match read_word(content)? {
        None => AppIndex::UNKNOWN,
        Some(app) => words.intern_app(
            &AppName::from_id(app).map_err(|_| Problem::Content("an app has an invalid name"))?,
        ),
    };
    let locale =
        read_word(content)?.map_or(LocaleIndex::UNKNOWN, |locale| words.intern_locale(locale));
    let segments = match content.u16()? {
        NONE => SegmentsIndex::UNKNOWN,
        count if usize::from(count) > SEGMENTS_MAX => {
            return Err(Problem::Content("a device has too many segments"));
        }
        count => {
            let names = (0..count).map(|_| Ok(read_word(content)?.unwrap_or_default().to_owned()));
            words.intern_segments(&names.collect::<Result<Vec<_>, Problem>>()?)
        }
    };
    let tag = words.app(app).map_or(Tag::NONE, Tag::of);
    Ok(Profile { app, locale, segments, tag })
}

fn read_word<'a>(content: &mut Content<'a>) -> Result<Option<&'a str>, Problem> {
    match content.u16()? {
        NONE => Ok(None),
        bytes => std::str::from_utf8(content.take(bytes.into())?)
            .map(Some)
            .map_err(|_| Problem::Content("a word is not UTF-8")),
    }
}
