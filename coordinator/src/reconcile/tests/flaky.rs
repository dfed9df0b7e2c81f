//! A store of apps and alerts that a test can take away.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use clarion_proto::{
    app::Identity,
    ids::{AlertName, AppName},
};

use crate::store::{
    AlertCursor, AlertFilter, AlertRecord, AlertStore, AppRecord, Created, RequestId, StoreError,
    memory::MemoryStore,
};

/// A store whose connection can break.
#[derive(Debug)]
pub(super) struct Flaky {
    pub(super) store: MemoryStore,
    pub(super) away: AtomicBool,
}

impl Flaky {
    fn reach(&self) -> Result<&MemoryStore, StoreError> {
        match self.away.load(Ordering::SeqCst) {
            true => Err(StoreError::Away("no route to it".to_owned())),
            false => Ok(&self.store),
        }
    }
}

#[async_trait::async_trait]
impl AlertStore for Flaky {
    async fn create_alert(
        &self,
        alert: AlertRecord,
        active_max: usize,
    ) -> Result<Created<AlertRecord>, StoreError> {
        self.reach()?.create_alert(alert, active_max).await
    }

    async fn replace_alert(&self, alert: AlertRecord) -> Result<Arc<AlertRecord>, StoreError> {
        self.reach()?.replace_alert(alert).await
    }

    async fn alert(&self, name: &AlertName) -> Result<Option<Arc<AlertRecord>>, StoreError> {
        self.reach()?.alert(name).await
    }

    async fn alert_by_request(
        &self,
        request: RequestId,
    ) -> Result<Option<Arc<AlertRecord>>, StoreError> {
        self.reach()?.alert_by_request(request).await
    }

    async fn alerts(
        &self,
        filter: &AlertFilter,
        after: Option<&AlertCursor>,
        limit: usize,
    ) -> Result<Vec<Arc<AlertRecord>>, StoreError> {
        self.reach()?.alerts(filter, after, limit).await
    }

    async fn active_alerts(&self) -> Result<Vec<Arc<AlertRecord>>, StoreError> {
        self.reach()?.active_alerts().await
    }

    async fn create_app(&self, app: AppRecord) -> Result<Created<AppRecord>, StoreError> {
        self.reach()?.create_app(app).await
    }

    async fn replace_app(&self, app: AppRecord) -> Result<Arc<AppRecord>, StoreError> {
        self.reach()?.replace_app(app).await
    }

    async fn delete_app(&self, name: &AppName) -> Result<(), StoreError> {
        self.reach()?.delete_app(name).await
    }

    async fn deleted_apps(&self) -> Result<Vec<(AppName, Identity)>, StoreError> {
        self.reach()?.deleted_apps().await
    }
    async fn deleted_identity(&self, name: &AppName) -> Result<Option<Identity>, StoreError> {
        self.reach()?.deleted_identity(name).await
    }

    async fn app(&self, name: &AppName) -> Result<Option<Arc<AppRecord>>, StoreError> {
        self.reach()?.app(name).await
    }

    async fn apps(
        &self,
        after: Option<&AppName>,
        limit: usize,
    ) -> Result<Vec<Arc<AppRecord>>, StoreError> {
        self.reach()?.apps(after, limit).await
    }
}
