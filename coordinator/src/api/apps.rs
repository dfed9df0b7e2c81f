//! `AppService`: which application on which platform an alert can reach.

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

/// Apps that one peer creates at once, and then one every so long: of all that there may be it
/// takes more than a day to make as many.
const CREATED: (u32, Duration) = (100, Duration::from_secs(10));
/// The same for changes: each of them is a line in the log.
const UPDATED: (u32, Duration) = (100, Duration::from_secs(1));

/// The service.
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
        self.api.clock.now().since(Time(0))
    }

    /// Gateway and credential are configured, and say of themselves what the app says of itself.
    /// Its lane is opened, so that connections are warm when the first alert comes.
    fn check_lane(&self, app: &App) -> Result<(), Status> {
        let missing = |kind, name: &str| {
            status::precondition(
                "LANE_NOT_CONFIGURED",
                format!("{kind} {name} is not in the coordinator's configuration"),
            )
        };
        let lanes = &self.api.config.lanes;
        let gateway =
            lanes.gateway(&app.gateway).ok_or_else(|| missing("gateway", &app.gateway))?;
        let credential = lanes
            .credential(&app.credential)
            .ok_or_else(|| missing("credential", &app.credential))?;
        let differs = |field: &str, of: &dyn std::fmt::Debug| {
            let problem = format!("gateway {} is {of:?}: both must agree", app.gateway);
            status::invalid(InvalidField::new(format!("app.{field}"), problem))
        };
        if gateway.platform != app.platform {
            return Err(differs("platform", &gateway.platform));
        }
        if credential.platform != app.platform {
            let problem = format!(
                "{} is a credential of {:?}, the app is of {:?}: both must agree",
                app.credential, credential.platform, app.platform
            );
            return Err(status::invalid(InvalidField::new("app.credential", problem)));
        }
        if let Some(project) =
            credential.project.as_ref().filter(|project| **project != app.project)
        {
            let problem = format!(
                "must be {project}, the project of credential {}, is {}",
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
        let record = AppRecord { app, created: self.api.clock.wall(), revision: 1 };
        let wanted = record.app.clone();
        self.created
            .lock()
            .check(peer, self.now())
            .map_err(|wait| too_fast(peer, "creates", wait))?;
        match self.api.store.create_app(record).await.map_err(status::store)? {
            Created::New(record) => {
                // One too many may come in between by its own fault.
                let _ = self.created.lock().take(peer, self.now());
                tracing::info!(
                    app = %record.app.name,
                    gateway = %record.app.gateway,
                    "app created"
                );
                Ok(Response::new(answer(&record)))
            }
            Created::Existing(record) if record.app == wanted => Ok(Response::new(answer(&record))),
            Created::Existing(record) => Err(status::already_exists(format!(
                "{} is the name of a different app",
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
        // One more than asked for tells whether there is another page.
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
                "{name} was changed by somebody else; read it again"
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
        tracing::info!(app = %record.app.name, fields = ?mask.paths, "app updated");
        Ok(Response::new(answer(&record)))
    }

    async fn delete_app(
        &self,
        request: Request<wire::DeleteAppRequest>,
    ) -> Result<Response<()>, Status> {
        let name = name(&request.into_inner().name).map_err(status::invalid)?;
        self.api.store.delete_app(&name).await.map_err(status::store)?;
        tracing::info!(app = %name, "app deleted");
        Ok(Response::new(()))
    }
}

fn too_fast(peer: PeerKey, what: &str, wait: Duration) -> Status {
    status::exhausted("APPS_RATE", format!("{peer} {what} apps faster than it may"), wait)
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
            format_args!("is {:?}, but app_id makes it {name}", app.name),
        ));
    }
    App::from_wire(app).map_err(|e| e.within("app"))
}

fn updated(existing: &App, given: &wire::App, paths: &[String]) -> Result<App, Status> {
    if paths.is_empty() {
        return Err(status::invalid(InvalidField::new(
            "update_mask",
            "must name one field at least",
        )));
    }
    let mut app = existing.to_wire();
    let platform = given.platform;
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
                    "the platform of {} is fixed: its tokens are of one kind",
                    existing.name
                );
                return Err(status::precondition("PLATFORM_FIXED", message));
            }
            other => {
                let field = format!("update_mask.paths[{i}]");
                return Err(status::invalid(InvalidField::new(
                    field,
                    format_args!("{other:?} cannot be changed"),
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
    // The creation too, so that an app made anew under an old name is another one.
    format!("{:x}-{:x}", record.created.0, record.revision)
}
