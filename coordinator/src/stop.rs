//! Shutdown with alerts under way.

use tokio::time::{Instant, timeout_at};

use crate::reconcile::Reconciler;

/// Logs the alerts under way and waits for their end, at most until `until`; then logs the alerts
/// that are left. Sessions and grants go on meanwhile. An alert that is left stays active in the
/// store: the next coordinator over the same store continues it; the memory engine loses it with
/// this process.
pub(crate) async fn let_alerts_finish(reconciler: &Reconciler, until: Instant) {
    let alerts = reconciler.under_way();
    if alerts.is_empty() {
        return;
    }
    for alert in alerts {
        let (handed, open) = (alert.totals.handed, alert.totals.open());
        tracing::warn!(
            alert = %alert.alert,
            state = ?alert.state,
            handed,
            open,
            "alert under way at shutdown"
        );
    }
    if timeout_at(until, reconciler.all_ended()).await.is_ok() {
        tracing::info!("every alert under way at shutdown has ended");
        return;
    }
    for alert in reconciler.under_way() {
        let (handed, open) = (alert.totals.handed, alert.totals.open());
        tracing::error!(
            alert = %alert.alert,
            state = ?alert.state,
            handed,
            open,
            "alert left unfinished by shutdown"
        );
    }
}
