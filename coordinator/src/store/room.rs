//! The room of the logs: bytes held, and the reserve for removals, mutes and feedback.
//!
//! ```text
//! 0 ────────── registrations, places, and all else ──────────▶ limit − reserve ── removals, mutes, feedback ──▶ limit
//! ```
//!
//! The mute or removal of a device must never wait for room: the last [`RESERVE_BYTES`] are
//! reserved for removals, mutes and feedback. The first registration that finds no room closes the
//! store for all registrations and places, also for small ones: otherwise acceptance would depend
//! on the size, and the reported state ([`Room::watch`]) would change with each registration.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use super::StoreError;

/// Bytes reserved for removals, mutes and feedback: a million records of some 60 bytes. A small
/// store reserves an eighth of its limit.
const RESERVE_BYTES: u64 = 64 << 20;

/// Bytes that all logs hold, and the limit of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that all logs hold.
    pub held: u64,
    /// Maximum number of bytes that all logs may hold.
    pub limit: u64,
}

/// The bytes of all logs together.
#[derive(Debug)]
pub(super) struct Room {
    limit: u64,
    reserve: u64,
    held: AtomicU64,
    open: watch::Sender<bool>,
}

impl Room {
    /// The room of logs that hold `held` bytes already; `limit`: maximum number of bytes.
    pub(super) fn new(limit: u64, held: u64) -> Self {
        let reserve = RESERVE_BYTES.min(limit / 8);
        let open = watch::Sender::new(held <= limit - reserve);
        Self { limit, reserve, held: AtomicU64::new(held), open }
    }

    /// Channel of whether registrations and places are accepted.
    pub(super) fn watch(&self) -> watch::Receiver<bool> {
        self.open.subscribe()
    }

    /// Takes room outside of the reserve; `growing`: for registrations or places, which must not
    /// use the reserve.
    pub(super) fn take(&self, bytes: u64, growing: bool) -> Result<(), StoreError> {
        let limit = self.limit - self.reserve;
        let full = |held| StoreError::Full { held, limit };
        if !*self.open.borrow() {
            return Err(full(self.held()));
        }
        self.fill(bytes, limit).map_err(|held| {
            if growing && self.open.send_replace(false) {
                tracing::error!(
                    held,
                    limit,
                    reserve = self.reserve,
                    "store is full; registrations and places are refused"
                );
            }
            full(held)
        })
    }

    /// Takes room of the reserve.
    pub(super) fn take_reserve(&self, bytes: u64) -> Result<(), StoreError> {
        self.fill(bytes, self.limit)
            .map_err(|held| StoreError::ReserveFull { held, limit: self.limit })
    }

    pub(super) fn give_back(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Accepts registrations again after room was given back, if an eighth of their limit is free:
    /// with less free room the store would close again at once.
    pub(super) fn reopen(&self) {
        let may_fill = self.limit - self.reserve;
        if self.held() < may_fill - may_fill / 8 && !self.open.send_replace(true) {
            tracing::info!(held = self.held(), may_fill, "store has room for registrations again");
        }
    }

    pub(super) fn usage(&self) -> Usage {
        Usage { held: self.held(), limit: self.limit }
    }

    /// Bytes that all logs hold.
    pub(super) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Adds bytes within `limit`. Error: the bytes held, because `bytes` do not fit.
    fn fill(&self, bytes: u64, limit: u64) -> Result<(), u64> {
        let fits = |held: u64| held.checked_add(bytes).filter(|sum| *sum <= limit);
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).map(drop)
    }
}
