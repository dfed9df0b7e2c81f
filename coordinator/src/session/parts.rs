//! Parts of a wave or count that is too large for one message.
//!
//! [`Parts`] is a position in the content, not a queue of messages: the next part is made when the
//! stream has room for it, so a cover of 64 MB costs a node's session 256 KiB. The order is cells,
//! messages, handed ordinals.

use std::sync::Arc;

use bytes::Bytes;
use clarion_proto::{
    ids::PartitionId,
    limits::PART_BYTES_MAX,
    wire::shard_v1::{self as wire, cover_part::Of},
};
use roaring::RoaringBitmap;

use super::{delivery::Subject, memory::NodeMemory};
use crate::{
    bands::Band,
    planned::{AppPlan, CountPlan, LocaleMessage, PlannedAlert},
};

/// Maximum number of ordinals in one part: 65,536 ordinals take 8 KiB at most.
const ORDINALS: u64 = (PART_BYTES_MAX as u64 / 8_192) * 65_536;

/// Position in a wave or count that is sent part by part.
#[derive(Debug)]
pub(super) struct Parts {
    subject: Subject,
    delivery: u32,
    number: u32,
    plan: Plan,
    next: Next,
}

#[derive(Debug)]
enum Plan {
    Wave { plan: Arc<PlannedAlert>, partitions: Vec<PartitionId> },
    Count(Arc<CountPlan>),
}

/// The first item that was not sent.
#[derive(Debug, Clone, Copy)]
enum Next {
    Cell { band: usize, at: usize },
    Message { app: usize, at: usize },
    Handed { shard: usize, from: u64 },
    Done,
}

/// Whether a plan fits into one message: cells, messages, and `handed` bytes of ordinals.
pub(super) fn is_small(bands: &[Band], apps: &[AppPlan], handed: usize) -> bool {
    let messages: usize = apps.iter().flat_map(|app| &app.messages).map(message_bytes).sum();
    cells(bands) * size_of::<u64>() + messages + handed <= PART_BYTES_MAX
}

/// Number of cells of all bands together.
pub(super) fn cells(bands: &[Band]) -> usize {
    bands.iter().map(|band| band.cells.len()).sum()
}

impl Parts {
    pub(super) fn of_wave(
        delivery: u32,
        plan: Arc<PlannedAlert>,
        partitions: Vec<PartitionId>,
    ) -> Self {
        let subject = Subject::Wave(plan.wave);
        Self {
            subject,
            delivery,
            number: 0,
            plan: Plan::Wave { plan, partitions },
            next: Next::start(),
        }
    }

    pub(super) fn of_count(delivery: u32, id: u64, plan: Arc<CountPlan>) -> Self {
        Self {
            subject: Subject::Count(id),
            delivery,
            number: 0,
            plan: Plan::Count(plan),
            next: Next::start(),
        }
    }

    pub(super) fn subject(&self) -> Subject {
        self.subject
    }

    /// The next part; its `last` says whether another one follows.
    pub(super) fn next(&mut self, memory: &NodeMemory) -> wire::CoverPart {
        let of = match self.subject {
            Subject::Wave(wave) => Of::Wave(wave.0),
            Subject::Count(id) => Of::Count(id),
        };
        let mut part = wire::CoverPart {
            of: Some(of),
            delivery: self.delivery,
            number: self.number,
            ..wire::CoverPart::default()
        };
        self.number += 1;
        let mut room = PART_BYTES_MAX;
        while room > 0 && !matches!(self.next, Next::Done) {
            let bytes = self.fill(&mut part, room, memory);
            room = room.saturating_sub(bytes);
        }
        part.last = matches!(self.next, Next::Done);
        part
    }

    /// Moves one item, or a run of cells, into the part; returns its size in bytes.
    fn fill(&mut self, part: &mut wire::CoverPart, room: usize, memory: &NodeMemory) -> usize {
        match self.next {
            Next::Cell { band, at } => {
                let Some(cells) = self.plan.bands().get(band).map(|band| &band.cells) else {
                    self.next = Next::Message { app: 0, at: 0 };
                    return 0;
                };
                let end = cells.len().min(at + (room / size_of::<u64>()).max(1));
                if end > at {
                    let run = cells[at..end].iter().map(|cell| u64::from(*cell)).collect();
                    part.bands.push(wire::BandCells { band: number(band), cells: run });
                }
                let ended = end == cells.len();
                self.next = if ended {
                    Next::Cell { band: band + 1, at: 0 }
                } else {
                    Next::Cell { band, at: end }
                };
                (end - at) * size_of::<u64>() + 16
            }
            Next::Message { app, at } => {
                let Some(plan) = self.plan.apps().get(app) else {
                    self.next = Next::Handed { shard: 0, from: 0 };
                    return 0;
                };
                let Some(message) = plan.messages.get(at) else {
                    self.next = Next::Message { app: app + 1, at: 0 };
                    return 0;
                };
                let (bytes, wire) = (message_bytes(message), to_wire(message));
                match part.apps.last_mut().filter(|last| last.app == number(app)) {
                    Some(last) => last.messages.push(wire),
                    None => {
                        part.apps.push(wire::AppPart { app: number(app), messages: vec![wire] });
                    }
                }
                self.next = Next::Message { app, at: at + 1 };
                bytes
            }
            Next::Handed { shard, from } => {
                let Plan::Wave { plan, partitions } = &self.plan else {
                    self.next = Next::Done;
                    return 0;
                };
                let Some(partition) = partitions.get(shard).copied() else {
                    self.next = Next::Done;
                    return 0;
                };
                let done = memory.done(plan.wave, partition);
                let largest = done.and_then(RoaringBitmap::max).map_or(0, u64::from);
                let Some(done) = done.filter(|_| from <= largest) else {
                    self.next = Next::Handed { shard: shard + 1, from: 0 };
                    return 0;
                };
                let handed = slice(done, from);
                let bytes = handed.len() + 16;
                part.shards.push(wire::ShardWork {
                    partition: partition.0.into(),
                    start_position: 0,
                    handed,
                });
                self.next = Next::Handed { shard, from: from + ORDINALS };
                bytes
            }
            Next::Done => 0,
        }
    }
}

impl Next {
    fn start() -> Self {
        Self::Cell { band: 0, at: 0 }
    }
}

impl Plan {
    fn bands(&self) -> &[Band] {
        match self {
            Self::Wave { plan, .. } => &plan.bands,
            Self::Count(plan) => &plan.bands,
        }
    }

    fn apps(&self) -> &[AppPlan] {
        match self {
            Self::Wave { plan, .. } => &plan.apps,
            Self::Count(_) => &[],
        }
    }
}

/// Converts a message for the wire; shares the bodies and does not copy them.
pub(super) fn to_wire(message: &LocaleMessage) -> wire::LocaleMessage {
    wire::LocaleMessage {
        locale: message.locale.clone(),
        body: Bytes::clone(&message.body),
        body_after_token: Bytes::clone(&message.body_after_token),
    }
}

/// Size of a message on the wire, with its lengths, bytes.
fn message_bytes(message: &LocaleMessage) -> usize {
    message.locale.len() + message.body.len() + message.body_after_token.len() + 16
}

/// Ordinals of a set from `from` on, within a range of [`ORDINALS`], as a portable bitmap.
fn slice(set: &RoaringBitmap, from: u64) -> Vec<u8> {
    let ordinal = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let mut window = RoaringBitmap::new();
    window.insert_range(ordinal(from)..=ordinal(from + ORDINALS - 1));
    window &= set;
    let mut bytes = Vec::with_capacity(window.serialized_size());
    window.serialize_into(&mut bytes).expect("writing to memory does not fail");
    bytes
}

fn number(at: usize) -> u32 {
    u32::try_from(at).expect("at most BANDS_MAX bands and 64 apps")
}
