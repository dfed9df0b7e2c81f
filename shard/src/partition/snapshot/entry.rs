//! One row in a snapshot, with all data that belongs to it.

use clarion_proto::ids::{DeviceId, UnixMillis};

use super::super::{key::Place, profile::Profile, row::Millis40, token::Shape};

/// A whole row, collected from the structures of the partition.
pub(super) struct Entry<'a> {
    pub(super) device: DeviceId,
    pub(super) place: Option<Place>,
    pub(super) muted: bool,
    pub(super) scheduled: bool,
    pub(super) place_version: Millis40,
    pub(super) registration_version: Millis40,
    pub(super) mute_version: Millis40,
    /// Profile, shape and bytes of the token; for an unregistered row the time at which it is
    /// dropped.
    pub(super) registration: Result<(Profile, Shape, &'a [u8]), UnixMillis>,
}

impl<'a> Entry<'a> {
    pub(super) fn content(&self) -> &'a [u8] {
        self.registration.as_ref().map_or(&[], |(_, _, content)| content)
    }

    pub(super) fn without_content(&self) -> Entry<'static> {
        let registration = match &self.registration {
            Ok((profile, shape, _)) => Ok((*profile, *shape, &[][..])),
            Err(due) => Err(*due),
        };
        Entry {
            device: self.device,
            place: self.place,
            muted: self.muted,
            scheduled: self.scheduled,
            place_version: self.place_version,
            registration_version: self.registration_version,
            mute_version: self.mute_version,
            registration,
        }
    }
}
