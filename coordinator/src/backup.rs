//! Backups: everything that a store keeps, as a sequence of items that no engine shows in.
//!
//! ```text
//! running coordinator ─BackupService─┐                                       ┌▶ a new store of
//!                                    ├▶ read ─items▶ file ─sealed objects▶ file ─items▶ restore  any engine
//! store of a stopped coordinator ────┘
//! ```
//!
//! **Consistent while changes flow.** Alerts are read before the heads of the logs, so that no
//! alert names a position beyond them; each log is read from the newest snapshots of its partitions
//! up to those heads. So the backup has every change that was acknowledged before it began.
//!
//! **Restored, not copied.** The new store has logs of another identity, so nodes rebuild. Batches
//! are joined on the way: only the positions of snapshots have a meaning, and they are kept.
//! Ownership of partitions is not restored: the nodes of the new place may be others.
//!
//! **Not in a backup**: the device key, which the operator keeps apart, because the port that
//! serves backups must not tell it; and the checkpoints of alerts.

pub mod file;
pub mod read;
pub mod restore;

#[cfg(test)]
mod tests;
