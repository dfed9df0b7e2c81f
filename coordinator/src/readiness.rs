//! Readiness of the services, as the health port reports it.
//!
//! | Service | SERVING while |
//! |---|---|
//! | `AppService` | the store is reachable |
//! | `RegistryService` | the store is reachable and has room for registrations |
//! | `AlertService` | the store is reachable, and a node that owns partitions has a session |
//!
//! Without such a node no alert reaches a device: partitions are not assigned, or the nodes are
//! disconnected, belong to another cluster, or refuse this coordinator because they follow another
//! log. The registry can be filled before the first node connects. A full store still accepts
//! removals and mutes.
//!
//! The process as a whole (the service without a name) is SERVING until it shuts down: a restart
//! brings neither a node nor a store back, and alerts under way go on without the store.
//!
//! Where readiness controls routing (a Kubernetes Service), nodes must reach the feed of an unready
//! coordinator too, or neither side would ever become ready: set `publishNotReadyAddresses`.

use clarion_runtime::health::HealthReporter;
use tokio::sync::watch;
use tonic_health::ServingStatus;

use crate::dispatch::Dispatcher;

/// Services whose readiness is reported by name.
pub(crate) const SERVICES: [&str; 3] = ["clarion.v1.AppService", ALERTS, REGISTRY];
const ALERTS: &str = "clarion.v1.AlertService";
const REGISTRY: &str = "clarion.v1.RegistryService";

/// Observed conditions of readiness.
#[derive(Debug)]
pub(crate) struct Readiness {
    dispatcher: Dispatcher,
    sessions: watch::Receiver<u64>,
    room: watch::Receiver<bool>,
    store: watch::Receiver<bool>,
    told: Option<Conditions>,
}

/// Conditions at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Conditions {
    /// Whether a node that owns partitions has a session.
    node: bool,
    /// Whether the store has room for registrations.
    room: bool,
    /// Whether the store is reachable.
    store: bool,
}

impl Readiness {
    /// Observes a dispatcher, whether the store has room, and whether the store is reachable.
    pub(crate) fn new(
        dispatcher: Dispatcher,
        room: watch::Receiver<bool>,
        store: watch::Receiver<bool>,
    ) -> Self {
        let sessions = dispatcher.sessions();
        Self { dispatcher, sessions, room, store, told: None }
    }

    /// Reports the present conditions, as far as they differ from the last report.
    pub(crate) async fn report(&mut self, reporter: &HealthReporter) {
        self.sessions.borrow_and_update();
        let now = Conditions {
            node: self.dispatcher.is_ready(),
            room: *self.room.borrow_and_update(),
            store: *self.store.borrow_and_update(),
        };
        let former = self.told.replace(now);
        for service in SERVICES {
            let missing = now.missing(service);
            if former.is_some_and(|former| former.missing(service) == missing) {
                continue;
            }
            let status = match missing {
                None => {
                    tracing::info!(service, "service is ready");
                    ServingStatus::Serving
                }
                Some(reason) => {
                    tracing::warn!(service, reason, "service is not ready");
                    ServingStatus::NotServing
                }
            };
            reporter.set_service_status(service, status).await;
        }
    }

    /// Reports every change. Never returns while the sources exist.
    pub(crate) async fn follow(mut self, reporter: HealthReporter) {
        loop {
            self.report(&reporter).await;
            let changed = tokio::select! {
                // All three lead to the same look.
                biased;
                changed = self.sessions.changed() => changed,
                changed = self.room.changed() => changed,
                changed = self.store.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }
}

impl Conditions {
    /// What a service lacks; `None`: the service is ready.
    fn missing(self, service: &str) -> Option<&'static str> {
        if !self.store {
            return Some("the store does not answer");
        }
        match service {
            REGISTRY if !self.room => Some("the store has no room for registrations"),
            ALERTS if !self.node => Some("no node that owns partitions has a session"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_depends_on_its_own_conditions() {
        let ready = |node, room, store| {
            SERVICES.map(|service| Conditions { node, room, store }.missing(service).is_none())
        };
        // SERVICES: apps, alerts, registry.
        assert_eq!(ready(true, true, true), [true, true, true]);
        assert_eq!(ready(false, true, true), [true, false, true]);
        assert_eq!(ready(true, false, true), [true, true, false]);
        assert_eq!(ready(true, true, false), [false, false, false]);
    }
}
