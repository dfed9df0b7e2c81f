//! `AppService`: creates, changes, lists and deletes the apps that alerts can reach.

use std::{sync::Arc, time::Duration};

use clarion_proto::{
    alert::timestamp,
    app::App,
    error::{InvalidField, required},
    ids::AppName,
    time::Time,
    wire::v1::{self as wire, app_service_server::AppService},
};
use clarion_runtime::peers::{PeerKey, rates::Rates};
use parking_lot::Mutex;
use tonic::{Request, Response, Status};

use super::{Context, door, page, status};
use crate::{
    lane::LaneKey,
    store::{AppRecord, Created},
};

/// Rate at which one peer may create apps: burst, and interval of each further app. At this rate a
/// peer needs more than a day to create as many apps as there may be.
const CREATED: (u32, Duration) = (100, Duration::from_secs(10));
/// Rate at which one peer may change apps: burst, and interval. Each change is a log line.
const UPDATED: (u32, Duration) = (100, Duration::from_secs(1));

/// Server of `AppService`, with the rates of its peers.
#[derive(Debug)]
pub(super) struct Apps {
    api: Arc<Context>,
    created: Mutex<Rates>,
    updated: Mutex<Rates>,
}

impl Apps {
    pub(super) fn new(api: Arc<Context>) -> Self {
        let rates = |(burst, every)| Mutex::new(Rates::new(burst, every));
        Self { api, created: rates(CREATED), updated: rates(UPDATED) }
    }

    fn now(&self) -> Duration {
        self.api.world.clock().now().since(Time(0))
    }

    /// Checks that the gateway and the credential of an app are configured and agree with the app.
    /// Opens the app's lane, so that its connections are open before the first alert.
    fn check_lane(&self, app: &App) -> Result<(), Status> {
        let missing = |kind, name: &str| {
            status::precondition(
                "LANE_NOT_CONFIGURED",
                format!("the coordinator's configuration has no {kind} {name}; add it and restart"),
            )
        };
        let lanes = &self.api.config.lanes;
        let gateway =
            lanes.gateway(&app.gateway).ok_or_else(|| missing("gateway", &app.gateway))?;
        let credential = lanes
            .credential(&app.credential)
            .ok_or_else(|| missing("credential", &app.credential))?;
        let differs = |field: &str, of: &dyn std::fmt::Debug| {
            let problem = format!("must be {of:?}, as gateway {} has it", app.gateway);
            status::invalid(InvalidField::new(format!("app.{field}"), problem))
        };
        if gateway.platform != app.platform {
            return Err(differs("platform", &gateway.platform));
        }
        if credential.platform != app.platform {
            let problem = format!(
                "must be a credential for {:?}, the app's platform; {} is for {:?}",
                app.platform, app.credential, credential.platform
            );
            return Err(status::invalid(InvalidField::new("app.credential", problem)));
        }
        if let Some(project) =
            credential.project.as_ref().filter(|project| **project != app.project)
        {
            let problem = format!(
                "must be {project}, the project of credential {}; got {}",
                app.credential, app.project
            );
            return Err(status::invalid(InvalidField::new("app.project", problem)));
        }
        if gateway.environment != app.environment {
            return Err(differs("environment", &gateway.environment));
        }
        if gateway.lane_kind != app.lane_kind {
            return Err(differs("lane_kind", &gateway.lane_kind));
        }
        let key = LaneKey { gateway: app.gateway.clone(), credential: app.credential.clone() };
        self.api.dispatch.ensure_lane(&key).map_err(|e| status::start(&e.into()))
    }

    /// Refuses an app whose name belonged to an app of another identity while devices of that app
    /// are registered: an alert would reach a phone once by its device and once by its token.
    async fn check_identity(&self, app: &App) -> Result<(), Status> {
        let former = self.api.store.deleted_identity(&app.name).await.map_err(status::store)?;
        if former.is_none_or(|former| former == app.identity) {
            return Ok(());
        }
        // Without nodes, the number of devices is not known.
        self.api.dispatch.check_start(&[]).map_err(|e| status::start(&e))?;
        match self.api.dispatch.registry().apps.get(&app.name) {
            None | Some(0) => Ok(()),
            Some(_) => {
                let message = format!(
                    "app.identity: devices of a deleted {} with another identity are registered; \
                     create the app with its former identity and remove them, or choose another \
                     name",
                    app.name
                );
                Err(status::precondition("IDENTITY_FIXED", message))
            }
        }
    }

    async fn existing(&self, name: &AppName) -> Result<Arc<AppRecord>, Status> {
        let app = self.api.store.app(name).await.map_err(status::store)?;
        app.ok_or_else(|| status::not_found(&name.name()))
    }
}

#[tonic::async_trait]
impl AppService for Apps {
    async fn create_app(
        &self,
        request: Request<wire::CreateAppRequest>,
    ) -> Result<Response<wire::App>, Status> {
        let peer = door::peer(request.extensions());
        let request = request.into_inner();
        let app = created(request).map_err(status::invalid)?;
        self.check_lane(&app)?;
        self.check_identity(&app).await?;
        let record = AppRecord { app, created: self.api.world.clock().wall(), revision: 1 };
        let wanted = record.app.clone();
        self.created
            .lock()
            .check(peer, self.now())
            .map_err(|wait| too_fast(peer, "creates", wait))?;
        match self.api.store.create_app(record).await.map_err(status::store)? {
            Created::New(record) => {
                // Concurrent requests of the peer may exceed the rate by one.
                let _ = self.created.lock().take(peer, self.now());
                tracing::info!(
                    app = %record.app.name,
                    gateway = %record.app.gateway,
                    "app created by a caller"
                );
                Ok(Response::new(answer(&record)))
            }
            Created::Existing(record) if record.app == wanted => Ok(Response::new(answer(&record))),
            Created::Existing(record) => Err(status::already_exists(format!(
                "{} exists with other properties; use UpdateApp to change it",
                record.app.name
            ))),
        }
    }

    async fn get_app(
        &self,
        request: Request<wire::GetAppRequest>,
    ) -> Result<Response<wire::App>, Status> {
        let name = name(&request.into_inner().name).map_err(status::invalid)?;
        Ok(Response::new(answer(&*self.existing(&name).await?)))
    }

    async fn list_apps(
        &self,
        request: Request<wire::ListAppsRequest>,
    ) -> Result<Response<wire::ListAppsResponse>, Status> {
        let request = request.into_inner();
        let size = page::size(request.page_size).map_err(status::invalid)?;
        let after = page::app(&request.page_token).map_err(status::invalid)?;
        // One app more than requested shows whether there is another page.
        let mut apps =
            self.api.store.apps(after.as_ref(), size + 1).await.map_err(status::store)?;
        let more = apps.len() > size;
        apps.truncate(size);
        let next = apps.last().filter(|_| more).map(|last| page::after_app(&last.app.name));
        let apps = apps.iter().map(|app| answer(app)).collect();
        Ok(Response::new(wire::ListAppsResponse {
            apps,
            next_page_token: next.unwrap_or_default(),
        }))
    }

    async fn update_app(
        &self,
        request: Request<wire::UpdateAppRequest>,
    ) -> Result<Response<wire::App>, Status> {
        let peer = door::peer(request.extensions());
        let request = request.into_inner();
        let given = required(request.app, "app").map_err(status::invalid)?;
        let mask = required(request.update_mask, "update_mask").map_err(status::invalid)?;
        let name = name(&given.name).map_err(|e| status::invalid(e.within("app")))?;
        let existing = self.existing(&name).await?;
        if !given.etag.is_empty() && given.etag != etag(&existing) {
            return Err(Status::aborted(format!(
                "etag: {name} was changed since it was read; read it again and retry"
            )));
        }
        let app = updated(&existing.app, &given, &mask.paths)?;
        self.check_lane(&app)?;
        self.updated
            .lock()
            .take(peer, self.now())
            .map_err(|wait| too_fast(peer, "changes", wait))?;
        let record = AppRecord { app, created: existing.created, revision: existing.revision + 1 };
        let record = self.api.store.replace_app(record).await.map_err(status::store)?;
        tracing::info!(app = %record.app.name, fields = ?mask.paths, "app updated by a caller");
        Ok(Response::new(answer(&record)))
    }

    async fn delete_app(
        &self,
        request: Request<wire::DeleteAppRequest>,
    ) -> Result<Response<()>, Status> {
        let name = name(&request.into_inner().name).map_err(status::invalid)?;
        self.api.store.delete_app(&name).await.map_err(status::store)?;
        tracing::info!(app = %name, "app deleted by a caller");
        Ok(Response::new(()))
    }
}

fn too_fast(peer: PeerKey, what: &str, wait: Duration) -> Status {
    status::exhausted("APPS_RATE", format!("{peer} {what} apps faster than allowed"), wait)
}

fn name(name: &str) -> Result<AppName, InvalidField> {
    AppName::from_name(name).map_err(|e| e.within("name"))
}

fn created(request: wire::CreateAppRequest) -> Result<App, InvalidField> {
    let mut app = required(request.app, "app")?;
    let name = AppName::from_id(&request.app_id).map_err(|e| e.within("app_id"))?;
    if app.name.is_empty() {
        app.name = name.name();
    }
    if app.name != name.name() {
        return Err(InvalidField::new(
            "app.name",
            format_args!(
                "must be {name}, the name that app_id makes, or empty; got {:?}",
                app.name
            ),
        ));
    }
    App::from_wire(app).map_err(|e| e.within("app"))
}

fn updated(existing: &App, given: &wire::App, paths: &[String]) -> Result<App, Status> {
    if paths.is_empty() {
        return Err(status::invalid(InvalidField::new(
            "update_mask",
            "must have at least 1 field; got 0",
        )));
    }
    let mut app = existing.to_wire();
    let (platform, identity) = (given.platform, given.identity);
    let unset = wire::Identity::Unspecified.into();
    let device = wire::Identity::Device.into();
    for (i, path) in paths.iter().enumerate() {
        match path.as_str() {
            "display_name" => app.display_name.clone_from(&given.display_name),
            "gateway" => app.gateway.clone_from(&given.gateway),
            "credential" => app.credential.clone_from(&given.credential),
            "topic" => app.topic.clone_from(&given.topic),
            "project" => app.project.clone_from(&given.project),
            "environment" => app.environment = given.environment,
            "lane_kind" => app.lane_kind = given.lane_kind,
            "platform" if platform == app.platform => {}
            "platform" => {
                let message = format!(
                    "app.platform: the platform of {} cannot change, because its device tokens are \
                     of that platform; create another app",
                    existing.name
                );
                return Err(status::precondition("PLATFORM_FIXED", message));
            }
            // Unset means IDENTITY_DEVICE, as at creation.
            "identity"
                if identity == app.identity || (identity, app.identity) == (unset, device) => {}
            "identity" => {
                let message = format!(
                    "app.identity: the identity of {} cannot change, because it decides which \
                     devices its registrations are; create another app",
                    existing.name
                );
                return Err(status::precondition("IDENTITY_FIXED", message));
            }
            other => {
                let field = format!("update_mask.paths[{i}]");
                return Err(status::invalid(InvalidField::new(
                    field,
                    format_args!("must be a field that can change; got {other:?}"),
                )));
            }
        }
    }
    App::from_wire(app).map_err(|e| status::invalid(e.within("app")))
}

fn answer(record: &AppRecord) -> wire::App {
    wire::App {
        create_time: Some(timestamp(record.created)),
        etag: etag(record),
        ..record.app.to_wire()
    }
}

fn etag(record: &AppRecord) -> String {
    // Includes the creation time, so that an app created again under an old name has a new etag.
    format!("{:x}-{:x}", record.created.0, record.revision)
}
