//! Applies one record to its device: each facet (registration, place, mute choice) keeps the newest
//! observation.

use clarion_proto::{
    device::{Cell, Registration},
    ids::{Ordinal, UnixMillis},
};

use super::{
    Partition, expiry,
    profile::Profile,
    row::{Millis40, Registered},
    tag::Tag,
    vocabulary::Vocabulary,
};

impl Partition {
    /// Stores a registration: app, locale, segments and token.
    #[inline]
    pub(super) fn register(
        &mut self,
        ordinal: Ordinal,
        observed: Millis40,
        new: &Registration,
        words: &mut Vocabulary,
    ) {
        let row = self.rows.at_mut(ordinal);
        if !row.registration_version.yields_to(observed) {
            return;
        }
        row.registration_version = observed;
        let old = row.registration();
        let said = old.map(|old| (old.profile, self.profiles.get(ordinal, old.profile)));
        let said = said.filter(|(_, p)| words.matches((p.app, p.locale, p.segments), new));
        let profile = said.map(|(profile, _)| profile).unwrap_or_else(|| {
            let profile = Profile {
                app: words.intern_app(&new.app),
                locale: words.intern_locale(&new.locale),
                segments: words.intern_segments(&new.segments),
                tag: Tag::of(&new.app),
            };
            self.profiles.insert(ordinal, profile)
        });
        let token = match old {
            Some(old) => self.tokens.replace(old.token, new.token.as_bytes(), &new.person),
            None => self.tokens.insert(new.token.as_bytes(), &new.person),
        };
        row.register(Registered { token, profile });
    }

    /// Stores a device's place and the time of its observation.
    #[inline]
    pub(super) fn place(&mut self, ordinal: Ordinal, observed: Millis40, cell: Cell) {
        let row = self.rows.at_mut(ordinal);
        if row.place_version.yields_to(observed) {
            if row.is_mute_as_place() {
                self.mutes.insert(ordinal, row.place_version);
            }
            row.place_version = observed;
            row.set_place(Some(cell.into()));
        }
    }

    /// Stores a device's mute choice and the time of its observation.
    pub(super) fn mute(&mut self, ordinal: Ordinal, observed: Millis40, muted: bool) {
        if self.mute_version(ordinal).yields_to(observed) {
            self.set_mute_version(ordinal, observed);
            self.rows.at_mut(ordinal).set_muted(muted);
        }
    }

    /// Returns the version of the mute choice, wherever it is stored.
    pub(super) fn mute_version(&self, ordinal: Ordinal) -> Millis40 {
        let row = self.rows.at(ordinal);
        if row.is_mute_as_place() {
            return row.place_version;
        }
        self.mutes.get(&ordinal).copied().unwrap_or(Millis40::NEVER)
    }

    /// Sets the version of the mute choice, and stores it where it costs least memory.
    pub(super) fn set_mute_version(&mut self, ordinal: Ordinal, version: Millis40) {
        let row = self.rows.at_mut(ordinal);
        let as_place =
            row.place().is_none() && row.place_version == version && version != Millis40::NEVER;
        if row.place().is_none() {
            row.set_mute_as_place(as_place);
        }
        if as_place || version == Millis40::NEVER {
            self.mutes.remove(&ordinal);
        } else {
            self.mutes.insert(ordinal, version);
        }
    }

    /// Applies a removal: an observation of the absence of all facets.
    pub(super) fn remove(&mut self, ordinal: Ordinal, observed: UnixMillis) {
        let version = Millis40::from(observed);
        let mute_version = self.mute_version(ordinal);
        let row = self.rows.at_mut(ordinal);
        if row.place_version.yields_to(version) {
            row.place_version = version;
            row.set_place(None);
        }
        if mute_version.yields_to(version) {
            row.set_muted(false);
            self.set_mute_version(ordinal, version);
        } else {
            self.set_mute_version(ordinal, mute_version);
        }
        let due = expiry::due(self.now, observed);
        let row = self.rows.at_mut(ordinal);
        if row.registration_version.yields_to(version) {
            row.registration_version = version;
            self.unregister(ordinal, due);
        } else if let Some(earlier) = row.due() {
            // A newer observation has removed the registration already, but the other facets become
            // absent now.
            row.unregister(due.max(earlier));
        }
    }

    /// Applies the feedback of a gateway that a token is dead.
    pub(super) fn feed_back(
        &mut self,
        ordinal: Ordinal,
        dead: u64,
        gateway_time: Option<UnixMillis>,
    ) {
        let row = self.rows.at_mut(ordinal);
        let Some(r) = row.registration() else { return };
        let registered = UnixMillis::from(row.registration_version);
        if self.tokens.get(r.token).hash() != dead || gateway_time.is_some_and(|at| at < registered)
        {
            return;
        }
        self.expire(ordinal);
    }

    /// Removes the registration of a row, which has one, because its token is dead or it expired.
    pub(super) fn expire(&mut self, ordinal: Ordinal) {
        let row = self.rows.at_mut(ordinal);
        // One millisecond later, because at a tie the later record wins, and a late copy of this
        // registration must not.
        row.registration_version = row.registration_version.next();
        self.unregister(ordinal, expiry::due(self.now, self.now));
    }

    fn unregister(&mut self, ordinal: Ordinal, due: UnixMillis) {
        let row = self.rows.at_mut(ordinal);
        let due = row.due().map_or(due, |earlier| due.max(earlier));
        if let Some(r) = row.registration() {
            self.tokens.remove(r.token);
            self.profiles.remove(ordinal);
        }
        row.unregister(due);
    }
}
