//! Serializes the tries of one request.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

use crate::store::RequestId;

/// Locks that run the tries of one request one after another. An entry lives as long as a try:
/// there are at most as many entries as requests in admission.
#[derive(Debug, Default, Clone)]
pub(super) struct Requests(Arc<Mutex<BTreeMap<RequestId, Arc<tokio::sync::Mutex<()>>>>>);

/// The running try of a request: at most one exists for each request.
pub(super) struct OneTry {
    requests: Requests,
    request: RequestId,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Requests {
    /// Waits until earlier tries of the request have ended.
    pub(super) async fn enter(&self, request: RequestId) -> OneTry {
        let gate = Arc::clone(self.0.lock().entry(request).or_default());
        // Created before waiting, so that a caller that hangs up while waiting removes its entry.
        let mut one = OneTry { requests: self.clone(), request, guard: None };
        one.guard = Some(gate.lock_owned().await);
        one
    }
}

impl Drop for OneTry {
    fn drop(&mut self) {
        let mut gates = self.requests.0.lock();
        self.guard = None;
        // No other try can clone the lock while the map is locked; the map's clone is the last.
        if gates.get(&self.request).is_some_and(|gate| Arc::strong_count(gate) == 1) {
            gates.remove(&self.request);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn tries_of_one_request_wait_and_leave_nothing() {
        let requests = Requests::default();
        let (a, b) = (RequestId(Uuid::from_u128(1)), RequestId(Uuid::from_u128(2)));
        let first = requests.enter(a).await;
        let other = requests.enter(b).await;
        let mut second = Box::pin(requests.enter(a));
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        let second = second.await;
        assert_eq!(requests.0.lock().len(), 2);
        let mut impatient = Box::pin(requests.enter(a));
        assert!(futures_util::poll!(&mut impatient).is_pending());
        drop((impatient, second, other));
        assert!(requests.0.lock().is_empty());
    }
}
