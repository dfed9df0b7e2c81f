//! Readiness of the alert service, and shutdown with alerts under way.
//!
//! **Readiness of `AlertService`**: SERVING while partitions are assigned and at least one node
//! that owns partitions has a session. Otherwise no alert reaches a device: the nodes are
//! disconnected, belong to another cluster, or refuse this coordinator because they follow another
//! log. `AppService` and `RegistryService` do not depend on nodes and stay SERVING: the registry
//! can be filled before the first node connects. Where readiness controls routing (a Kubernetes
//! Service), nodes must reach the feed of an unready coordinator too, or neither side would ever
//! become ready: set `publishNotReadyAddresses`.

use clarion_runtime::health::HealthReporter;
use tokio::time::{Instant, timeout_at};
use tonic_health::ServingStatus;

use crate::{dispatch::Dispatcher, reconcile::Reconciler};

/// The service whose readiness depends on nodes.
pub(crate) const ALERTS: &str = "clarion.v1.AlertService";

/// Reports and logs every change of the readiness of [`ALERTS`]. Never returns while the dispatcher
/// exists.
pub(crate) async fn tell_readiness(dispatcher: Dispatcher, reporter: HealthReporter) {
    let (mut sessions, mut told) = (dispatcher.sessions(), None);
    loop {
        sessions.borrow_and_update();
        let ready = dispatcher.is_ready();
        if told.replace(ready) != Some(ready) {
            let status = match ready {
                true => {
                    tracing::info!("alert service is ready");
                    ServingStatus::Serving
                }
                false => {
                    let reason = "no node that owns partitions has a session";
                    tracing::warn!(reason, "alert service is not ready");
                    ServingStatus::NotServing
                }
            };
            reporter.set_service_status(ALERTS, status).await;
        }
        if sessions.changed().await.is_err() {
            return; // the dispatcher is gone
        }
    }
}

/// Logs the alerts under way and waits for their end, at most until `until`; then logs the alerts
/// that are left. Sessions and grants go on meanwhile. An alert that is left stays active in the
/// store: a coordinator over the same store continues it; the in-memory engine loses it with this
/// process.
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
