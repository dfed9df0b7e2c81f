//! What the health service says of alerts, and what a shutdown does for those under way.
//!
//! **Readiness of `AlertService`**: SERVING while partitions are assigned and at least one node
//! that owns some has a session. Otherwise no alert reaches anybody: nodes are away, belong to
//! another cluster, or refuse this coordinator because they follow another log. `AppService` and
//! `RegistryService` do not depend on nodes and stay SERVING: the registry can be filled before the
//! first node comes. Where readiness decides who is reached (a Service of Kubernetes), nodes must
//! reach the feed whatever it says, or neither would ever become ready: `publishNotReadyAddresses`.

use clarion_runtime::health::HealthReporter;
use tokio::time::{Instant, timeout_at};
use tonic_health::ServingStatus;

use crate::{dispatch::Dispatcher, reconcile::Reconciler};

/// The service whose readiness depends on nodes.
pub(crate) const ALERTS: &str = "clarion.v1.AlertService";

/// Tells the readiness of [`ALERTS`] with every change, and logs it. Without end.
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

/// Names the alerts under way and waits for them, until then at most; names those that are left.
/// Sessions and grants go on meanwhile. What is left stays active in the store: a coordinator over
/// the same store goes on with it, and the engine in memory loses it with this process.
pub(crate) async fn let_alerts_finish(reconciler: &Reconciler, until: Instant) {
    let alerts = reconciler.under_way();
    if alerts.is_empty() {
        return;
    }
    for alert in alerts {
        let (handed, open) = (alert.totals.handed, alert.totals.open());
        tracing::warn!(alert = %alert.alert, state = ?alert.state, handed, open, "alert under way at shutdown");
    }
    if timeout_at(until, reconciler.all_ended()).await.is_ok() {
        tracing::info!("every alert under way at shutdown has ended");
        return;
    }
    for alert in reconciler.under_way() {
        let (handed, open) = (alert.totals.handed, alert.totals.open());
        tracing::error!(alert = %alert.alert, state = ?alert.state, handed, open, "alert left unfinished by shutdown");
    }
}
