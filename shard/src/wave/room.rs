//! Memory limit for the plans of all waves and counts on a node.
//!
//! A wide cover takes tens of megabytes, and several may exist at once. So all data of a
//! coordinator that the node keeps first reserves its part of one [`Room`]. The [`Place`] is stored
//! with the cover as long as any core uses the cover, and returns its bytes when it is dropped. A
//! request without room is refused; it does not wait.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use clarion_proto::limits::ROOM_BYTES_MAX;

/// Memory for all plans of a node, shared by all clones.
#[derive(Debug, Clone)]
pub struct Room(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    max: usize,
    taken: AtomicUsize,
}

/// Bytes reserved in a [`Room`], which are returned when the place is dropped.
#[derive(Debug)]
pub struct Place {
    room: Room,
    bytes: usize,
}

/// The room is used up. A retry helps once other alerts have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "covers and messages: must fit the node's room for {max} bytes; {taken} are in use and {wanted} \
     more are needed; try again when other alerts have ended"
)]
pub struct NoRoom {
    max: usize,
    taken: usize,
    wanted: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self::new(ROOM_BYTES_MAX)
    }
}

impl Room {
    /// Creates a room of this many bytes.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Shared { max, taken: AtomicUsize::new(0) }))
    }

    /// Returns the number of reserved bytes.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.0.taken.load(Ordering::Relaxed)
    }

    /// Creates a reservation of no bytes, which can be resized.
    #[must_use]
    pub fn place(&self) -> Place {
        Place { room: self.clone(), bytes: 0 }
    }
}

impl Place {
    /// Changes the reservation to this many bytes.
    ///
    /// # Errors
    /// If the room has too few free bytes. The reservation is unchanged then.
    pub fn resize(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let Shared { max, taken } = &*self.room.0;
        let Some(more) = bytes.checked_sub(self.bytes) else {
            taken.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
            self.bytes = bytes;
            return Ok(());
        };
        let enough = |taken: usize| taken.checked_add(more).filter(|sum| sum <= max);
        match taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enough) {
            Ok(_) => {
                self.bytes = bytes;
                Ok(())
            }
            Err(taken) => Err(NoRoom { max: *max, taken, wanted: more }),
        }
    }

    /// Reserves `more` bytes in addition.
    ///
    /// # Errors
    /// Those of [`Place::resize`].
    pub fn grow(&mut self, more: usize) -> Result<(), NoRoom> {
        self.resize(self.bytes.saturating_add(more))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.0.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_share_the_room_and_give_it_back() {
        let room = Room::new(100);
        let (mut one, mut other) = (room.place(), room.place());
        one.resize(60).expect("room");
        assert_eq!(other.grow(41), Err(NoRoom { max: 100, taken: 60, wanted: 41 }));
        other.grow(40).expect("room");
        one.resize(10).expect("less");
        assert_eq!(room.taken(), 50);
        assert!(one.grow(usize::MAX).is_err(), "no overflow");
        drop(one);
        other.grow(60).expect("all of it");
        drop(other);
        assert_eq!(room.taken(), 0);
    }
}
