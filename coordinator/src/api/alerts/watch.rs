//! `WatchAlert`: always the newest state, never a queue of old ones.
//!
//! The stream is pulled by the transport. Whoever reads slowly is given what is newest when they come back; cells are
//! sent if they changed since *this* stream's last message, so nothing is lost by skipping states in between.

use std::{sync::Arc, time::Duration};

use clarion_proto::wire::v1 as wire;
use futures_util::stream::{self, BoxStream};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{answer, status};
use crate::{alert::AlertRecord, progress::Snapshot};

/// At most one message in this time.
const PACE: Duration = Duration::from_millis(100);

struct Watch {
    newest: watch::Receiver<Arc<Snapshot>>,
    /// The version of the last message; `None` before the first.
    sent: Option<u64>,
    cells: bool,
    not_before: Instant,
    stop: CancellationToken,
}

/// The state at once, then whenever it changed, and the last one.
pub(super) fn stream(
    alert: &AlertRecord,
    newest: Option<watch::Receiver<Arc<Snapshot>>>,
    cells: bool,
    stop: CancellationToken,
) -> BoxStream<'static, Result<wire::AlertProgress, Status>> {
    let Some(newest) = newest else {
        // It ended long ago: its record says the last word.
        let last = match &alert.settled {
            Some(snapshot) => answer::watched(snapshot, cells.then_some(0)),
            None => answer::recorded(alert),
        };
        return Box::pin(stream::iter([Ok(last)]));
    };
    let watch = Watch { newest, sent: None, cells, not_before: Instant::now(), stop };
    Box::pin(stream::unfold(Some(watch), |watch| async move {
        match watch?.next().await {
            Some((Ok(message), watch)) => Some((Ok(message), watch)),
            Some((Err(status), _)) => Some((Err(status), None)),
            None => None,
        }
    }))
}

impl Watch {
    /// The next message, and the stream after it (`None` if it was the last).
    async fn next(mut self) -> Option<(Result<wire::AlertProgress, Status>, Option<Self>)> {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return Some((Err(status::draining()), None)),
                () = sleep_until(self.not_before) => {}
            }
            let snapshot = Arc::clone(&self.newest.borrow_and_update());
            if self.sent.is_none_or(|sent| snapshot.version > sent) {
                let since = self.sent.unwrap_or(0);
                let message = answer::watched(&snapshot, self.cells.then_some(since));
                self.sent = Some(snapshot.version);
                self.not_before = Instant::now() + PACE;
                return Some((Ok(message), (!snapshot.settled).then_some(self)));
            }
            tokio::select! {
                () = self.stop.cancelled() => return Some((Err(status::draining()), None)),
                // Its sender is gone: what was sent was the last.
                changed = self.newest.changed() => changed.ok()?,
            }
        }
    }
}
