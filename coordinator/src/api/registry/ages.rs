//! Ages of the observations that a stream of changes may write: 24 h, and 400 days for an import.

use clarion_proto::{alert::instant, error::InvalidField, ids::UnixMillis};

/// Largest age of an observation, milliseconds: a tombstone is kept as long, so an older
/// observation could bring a removed device back.
pub(super) const OLDER_MS_MAX: u64 = 24 * 60 * 60 * 1_000;
/// Largest age of an observation in a historic stream, milliseconds: 400 days.
const HISTORIC_MS_MAX: u64 = 400 * 24 * 60 * 60 * 1_000;
/// Largest time by which a phone's clock may be ahead, milliseconds.
pub(super) const AHEAD_MS_MAX: u64 = 60 * 1_000;

/// Ages of observations that a stream may write.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ages {
    /// Time at which the batch is checked.
    pub(super) now: UnixMillis,
    /// Whether the stream imports devices from another system.
    pub(super) historic: bool,
}

impl Ages {
    /// Checks the time of an observation.
    ///
    /// # Errors
    /// The time is not one, too old, or in the future.
    pub(super) fn observed(self, time: prost_types::Timestamp) -> Result<UnixMillis, InvalidField> {
        let at = instant(time, "observe_time")?;
        let (older, ahead) = (self.older(at), at.0.saturating_sub(self.now.0));
        if older > if self.historic { HISTORIC_MS_MAX } else { OLDER_MS_MAX } {
            let limit = if self.historic { "400 days" } else { "24 h" };
            let hint = if self.historic { "" } else { "; only a historic stream takes older ones" };
            return Err(InvalidField::new(
                "observe_time",
                format_args!("must be at most {limit} old; got {} s old{hint}", older / 1_000),
            ));
        }
        if ahead > AHEAD_MS_MAX {
            return Err(InvalidField::new(
                "observe_time",
                format_args!("must be at most 60 s ahead; got {} s ahead", ahead / 1_000),
            ));
        }
        Ok(at)
    }

    /// Checks the age of a removal, which `field` asks for. The registry would forget an older one at once, and the device
    /// would be back with the next older observation of the import.
    ///
    /// # Errors
    /// The removal is more than 24 h old.
    pub(super) fn check_removal(self, field: &str, at: UnixMillis) -> Result<(), InvalidField> {
        let older = self.older(at);
        if older <= OLDER_MS_MAX {
            return Ok(());
        }
        Err(InvalidField::new(
            field,
            format_args!(
                "must be at most 24 h old, because older removals are not remembered; got {} s \
                 old; leave removed devices out of the import",
                older / 1_000
            ),
        ))
    }

    fn older(self, at: UnixMillis) -> u64 {
        self.now.0.saturating_sub(at.0)
    }
}
