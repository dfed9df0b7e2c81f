//! Assembles waves and counts from the parts in which they are sent.
//!
//! ```text
//! Wave, Count  whole ──────────────────────────────────────────▶ message
//!              in parts ──▶ partial ──CoverPart×n──last────────▶ message
//!                              │  a part is missing, wrong, or finds no room ──▶ refused
//!                              └─ Cancel, End, the same again, end of the session ──▶ dropped
//! ```
//!
//! Cells become ranges as they arrive, so a wide cover is never stored as cells, and no message
//! takes long: a cover of a thousand kilometres is dozens of short pieces of work, and grants are
//! processed between them. Parts of several waves may alternate.
//!
//! All data of a wave or count reserves its place in the node's [`Room`] first, from the head of
//! the first part until the last core has dropped the cover. There is one assembly for each
//! session; dropping it drops incomplete waves and counts.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use clarion_proto::{
    error::InvalidField,
    ids::WaveId,
    limits::COVER_CELLS_MAX,
    time::Time,
    wire::shard_v1::{
        self as wire, SessionRequest, cover_part::Of, session_request::Message as Wire,
    },
};
use prost::Message as _;
use roaring::RoaringBitmap;

use super::{
    counts::ANSWER_WITHIN,
    message::{About, Cause, Count, Message, Rejected, Wave, wave},
};
use crate::wave::{CoverBuilder, NoRoom, Place, Room};

/// Memory of an incomplete wave or count beside its bytes: a head of 20 bytes takes no less.
const HEAD_BYTES: usize = size_of::<Partial>() + size_of::<wire::Wave>();

/// Incomplete waves and counts of one session.
#[derive(Debug)]
pub struct Assembly {
    room: Room,
    partial: BTreeMap<About, Partial>,
}

#[derive(Debug)]
struct Partial {
    head: Head,
    /// Time at which the head arrived, from which the wave's time counts.
    received: Time,
    delivery: u32,
    /// Number of the next expected part.
    next: u32,
    cells: u64,
    cells_announced: u64,
    cover: CoverBuilder,
    /// Devices that were handed to a gateway before, by partition number.
    handed: BTreeMap<u32, RoaringBitmap>,
    /// Bytes of all parts so far, cells excluded, and [`HEAD_BYTES`].
    payload: usize,
    place: Place,
}

#[derive(Debug)]
enum Head {
    Wave(Box<wire::Wave>),
    Count(Box<wire::Count>),
}

impl Assembly {
    /// An assembly without messages in progress.
    #[must_use]
    pub fn new(room: Room) -> Self {
        Self { room, partial: BTreeMap::new() }
    }

    /// Takes what comes next on the session. `None`: it is a part, and there is nothing to act on
    /// yet.
    pub fn take(
        &mut self,
        request: SessionRequest,
        received: Time,
    ) -> Option<Result<Message, Rejected>> {
        let bytes = request.encoded_len();
        self.partial.retain(|_, partial| received < partial.until());
        match request.message {
            Some(Wire::Wave(head)) if head.delivery > 0 => {
                let (about, delivery, cells) =
                    (About::Wave(WaveId(head.id)), head.delivery, head.cover_cells);
                let limits = limits(&head.bands);
                self.begin(
                    about,
                    Head::Wave(Box::new(head)),
                    (delivery, cells, bytes),
                    limits,
                    received,
                )
            }
            Some(Wire::Count(head)) if head.delivery > 0 => {
                let (about, delivery, cells) =
                    (About::Count(head.id), head.delivery, head.cover_cells);
                let limits = limits(&head.bands);
                self.begin(
                    about,
                    Head::Count(Box::new(head)),
                    (delivery, cells, bytes),
                    limits,
                    received,
                )
            }
            Some(Wire::CoverPart(part)) => self.part(part, bytes),
            other => {
                match &other {
                    Some(Wire::Wave(wire::Wave { id: wave, .. }))
                    | Some(Wire::Cancel(wire::Cancel { wave, .. }))
                    | Some(Wire::End(wire::End { wave, .. })) => {
                        drop(self.partial.remove(&About::Wave(WaveId(*wave))));
                    }
                    _ => {}
                }
                let message = Message::from_wire(SessionRequest { message: other }, received);
                Some(message.and_then(|message| self.keep(message, bytes)))
            }
        }
    }

    /// Number of incomplete waves and counts.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.partial.len()
    }

    /// Reserves room for a complete message.
    fn keep(&self, mut message: Message, bytes: usize) -> Result<Message, Rejected> {
        let (about, cover) = match &mut message {
            Message::Wave(wave) => (About::Wave(wave.id), Arc::get_mut(&mut wave.cover)),
            Message::Count(count) => (About::Count(count.id), Some(&mut count.cover)),
            _ => return Ok(message),
        };
        if let Some(cover) = cover {
            let mut place = self.room.place();
            place.grow(cover.bytes() + bytes).map_err(|full| no_room(about, full))?;
            cover.keep_place(place);
        }
        Ok(message)
    }

    fn begin(
        &mut self,
        about: About,
        head: Head,
        (delivery, cells_announced, bytes): (u32, u64, usize),
        limits: Result<Vec<(f64, f64)>, InvalidField>,
        received: Time,
    ) -> Option<Result<Message, Rejected>> {
        // Sent again: what came of the former try is not part of this one.
        self.partial.remove(&about);
        let place = self.room.place();
        let begun = limits.map_err(|problem| refused(about, problem)).and_then(|limits| {
            if cells_announced > COVER_CELLS_MAX as u64 {
                let problem =
                    format_args!("must be at most {COVER_CELLS_MAX}; got {cells_announced}");
                return Err(refused(about, InvalidField::new("cover_cells", problem)));
            }
            let cover = CoverBuilder::new(limits)
                .map_err(|e| refused(about, InvalidField::new("bands", e)))?;
            let (handed, payload) = (BTreeMap::new(), bytes + HEAD_BYTES);
            let mut partial = Partial {
                head,
                received,
                delivery,
                next: 0,
                cells: 0,
                cells_announced,
                cover,
                handed,
                payload,
                place,
            };
            partial.take_place(about)?;
            Ok(partial)
        });
        match begun {
            Ok(partial) => {
                self.partial.insert(about, partial);
                None
            }
            Err(rejected) => Some(Err(rejected)),
        }
    }

    fn part(&mut self, part: wire::CoverPart, bytes: usize) -> Option<Result<Message, Rejected>> {
        let about = match part.of {
            Some(Of::Wave(wave)) => About::Wave(WaveId(wave)),
            Some(Of::Count(id)) => About::Count(id),
            None => {
                return Some(Err(Rejected::new(InvalidField::new("cover_part.of", "is required"))));
            }
        };
        let partial = self.partial.get_mut(&about)?;
        if part.delivery != partial.delivery || part.number < partial.next {
            return None;
        }
        let last = part.last;
        match partial.take(about, part, bytes) {
            Ok(()) if !last => None,
            result => {
                let partial = self.partial.remove(&about)?;
                Some(result.and_then(|()| partial.finish(about)))
            }
        }
    }
}

impl Partial {
    /// Time after which no session waits for the message. An abandoned count is not cancelled: the
    /// coordinator only stops sending.
    fn until(&self) -> Time {
        let limit = match &self.head {
            Head::Wave(head) => Duration::from_millis(head.expires_in_ms.min(wave::EXPIRES_MS_MAX)),
            Head::Count(_) => ANSWER_WITHIN,
        };
        self.received + limit
    }

    fn take(&mut self, about: About, part: wire::CoverPart, bytes: usize) -> Result<(), Rejected> {
        let wrong = |field: &str, problem: String| {
            refused(
                about,
                InvalidField::new(field, format_args!("part {}: {problem}", part.number)),
            )
        };
        if part.number != self.next {
            return Err(wrong(
                "cover_part.number",
                format!("must be {}, the next part", self.next),
            ));
        }
        self.next += 1;
        let cells: usize = part.bands.iter().map(|band| band.cells.len()).sum();
        self.cells += cells as u64;
        if self.cells > self.cells_announced {
            let problem = format!(
                "must have at most {} cells, as announced; got {}",
                self.cells_announced, self.cells
            );
            return Err(wrong("cover_part.bands", problem));
        }
        for band in &part.bands {
            self.cover
                .add(band.band, &band.cells)
                .map_err(|e| wrong("cover_part.bands", e.to_string()))?;
        }
        self.payload += bytes.saturating_sub(cells * size_of::<u64>());
        self.take_place(about)?;
        for app in part.apps {
            let apps = match &mut self.head {
                Head::Wave(head) => head.apps.as_mut_slice(),
                Head::Count(_) => &mut [],
            };
            let known = apps.len();
            let into = usize::try_from(app.app).ok().and_then(|at| apps.get_mut(at));
            let into = into.ok_or_else(|| {
                let problem = format_args!(
                    "part {}: app must be below {known}; got {}",
                    part.number, app.app
                );
                refused(about, InvalidField::new("cover_part.apps", problem))
            })?;
            into.messages.extend(app.messages);
            if into.messages.len() > wave::MESSAGES_MAX {
                let problem = format_args!(
                    "app {}: must have at most {} messages",
                    app.app,
                    wave::MESSAGES_MAX
                );
                return Err(refused(about, InvalidField::new("cover_part.apps", problem)));
            }
        }
        for shard in part.shards {
            let set = RoaringBitmap::deserialize_from(shard.handed.as_slice()).map_err(|e| {
                let problem =
                    format_args!("part {}: partition {}: {e}", part.number, shard.partition);
                refused(about, InvalidField::new("cover_part.shards", problem))
            })?;
            *self.handed.entry(shard.partition).or_default() |= set;
        }
        Ok(())
    }

    /// Room for all that is kept so far.
    fn take_place(&mut self, about: About) -> Result<(), Rejected> {
        self.place.resize(self.cover.bytes() + self.payload).map_err(|full| no_room(about, full))
    }

    fn finish(self, about: About) -> Result<Message, Rejected> {
        let Self {
            head, received, cells, cells_announced, cover, handed, payload, mut place, ..
        } = self;
        let wrong =
            |field: &str, problem: String| refused(about, InvalidField::new(field, problem));
        if cells != cells_announced {
            return Err(wrong(
                "cover_cells",
                format!("must be the number of cells in all parts, {cells}; got {cells_announced}"),
            ));
        }
        let mut cover = cover.finish().map_err(|e| wrong("bands", e.to_string()))?;
        place.resize(cover.bytes() + payload).map_err(|full| no_room(about, full))?;
        cover.keep_place(place);
        match head {
            Head::Wave(head) => {
                let mut wave =
                    Wave::with_cover(*head, cover, received).map_err(|e| refused(about, e))?;
                for (partition, set) in handed {
                    let shard = wave
                        .shards
                        .iter_mut()
                        .find(|shard| u32::from(shard.partition.0) == partition);
                    let shard = shard.ok_or_else(|| {
                        wrong(
                            "cover_part.shards",
                            format!("partition {partition}: must be one of the wave's partitions"),
                        )
                    })?;
                    shard.handed |= set;
                }
                Ok(Message::Wave(Box::new(wave)))
            }
            Head::Count(head) => Count::with_cover(&head, cover)
                .map(|c| Message::Count(Box::new(c)))
                .map_err(|e| refused(about, e)),
        }
    }
}

/// Distances of bands whose cells are still to come.
fn limits(bands: &[wire::Band]) -> Result<Vec<(f64, f64)>, InvalidField> {
    wave::check_bands(bands.len())?;
    if let Some(at) = bands.iter().position(|band| !band.cells.is_empty()) {
        return Err(InvalidField::new(
            format!("bands[{at}].cells"),
            "must be empty: cells are sent in parts",
        ));
    }
    Ok(bands.iter().map(|band| (band.from_meters, band.to_meters)).collect())
}

fn refused(about: About, problem: InvalidField) -> Rejected {
    match about {
        About::Wave(wave) => Rejected::of(wave, problem.within("wave")),
        About::Count(id) => Rejected::of_count(id, problem.within("count")),
        About::Other => Rejected::new(problem),
    }
}

fn no_room(about: About, full: NoRoom) -> Rejected {
    refused(about, InvalidField::new("cover_cells", full)).because(Cause::Room)
}

#[cfg(test)]
#[path = "assembly_tests.rs"]
mod tests;
