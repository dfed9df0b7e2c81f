//! The coordinator: admits alerts, covers and plans them, dispatches them to shard nodes, and sums
//! the nodes' reports.
//!
//! The modules stand on floors, the highest first. A module imports from its own floor and from
//! floors below it, never from above; a test in `structure` holds it to that:
//!
//! ```text
//! bulk backups             import of devices, backup and restore: programs of their own
//! failure state            why the process ends; what outlives it, opened
//! config folder            what parts are configured by; what the machine keeps
//! readiness stop           what the health port reports; shutdown
//! api                      the rim: decode, admit, answer; the only place with `Status`
//! reconcile                a task for every active alert of the store
//! dispatch feed machine    what carries: tasks, a node's place in the logs, all without tasks
//! backup                   everything that a store keeps, for another store
//! archive                  snapshots of partitions, and the trimming of the logs
//! keys                     keys of what is kept: made, loaded and erased
//! admission alert members  what an alert may be; its life; which nodes there are
//! session                  the machine that speaks with one node
//! lane_owner heads         credentials, budgets, health and feedback of lanes; ends of the logs
//! progress standing store  reports folded; what holds now; records and logs
//! planned privacy          what is sent and to whom; which counts may be told
//! snapshot bands           the state of an alert; cells in bands of distance
//! lane owners cover        words of lanes and ownership; region to cells
//! objects seal             large immutable data; encryption of what is kept
//! client private_folder    requests over HTTP; folders that only this process's user can read
//! ```

use std::{
    ffi::OsString,
    future::Future,
    io::{self, Write},
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Parser;
use clarion_runtime::{
    descriptors::{self, Wanted},
    drain::{Drain, Signals},
    health::{self, HealthPort},
    jwt, lines,
    listener::Port,
    probe,
    proxy::rules::ProxyRules,
    telemetry,
    world::World,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    admission::Admission,
    api::{ApiConfig, Context, ports},
    archive::Archive,
    backup::restore,
    config::{Args, Config},
    dispatch::{Dispatch, Dispatcher, NewestObservation, NodesConfig, expiry},
    folder::DataFolder,
    heads::Former,
    readiness::{Readiness, SERVICES},
    reconcile::Reconciler,
    state::Kept,
    store::{AlertStore, ChangeLog, Store, StoreError, pulse},
};

mod backups;
mod failure;
mod bulk;
pub mod config;
pub mod folder;
mod readiness;
pub mod state;
mod stop;
pub mod api;
pub mod reconcile;
pub mod dispatch;
pub mod archive;
pub mod keys;
pub mod admission;
pub mod alert;
pub mod session;
pub mod members;
pub mod lane_owner;
pub mod heads;
pub mod backup;
pub mod progress;
pub mod feed;
#[cfg(feature = "testing")]
pub mod machine;
pub mod standing;
pub mod store;
pub mod privacy;
pub mod objects;
pub mod client;
pub mod private_folder;
pub mod seal;
pub mod planned;
pub mod snapshot;
pub mod lane;
pub mod owners;
pub mod bands;
pub mod cover;
#[cfg(test)]
mod fixtures;

pub use failure::Failure;

/// Time for threads that still compute after all tasks have ended: at most one cover.
const THREADS_DEADLINE: Duration = Duration::from_secs(1);
/// Time to close the store; without it, the next process waits some seconds for a database.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// Part of the drain deadline for the steps after the wait for alerts under way; a quarter of the
/// deadline if that is less.
const STOP_RESERVE: Duration = Duration::from_secs(2);

/// Runs the program. Exit code: 0 after a graceful shutdown; 1 after a failure, with one line on
/// standard error; 2 for an invalid command line; 3 after an import that rejected rows.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if let Some(answered) = probe::requested(&args) {
        return answered;
    }
    if let Some(copied) = backups::requested(&args) {
        return copied;
    }
    if let Some(imported) = bulk::requested(&args) {
        return imported;
    }
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(usage) => {
            // If standard error is closed, there is no place to report the failure.
            let _ = usage.print();
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2));
        }
    };
    match process(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            lines::last_words(format_args!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn process(args: Args) -> Result<(), Failure> {
    let announce = args.announce;
    let config = Config::load(args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("coordinator")
        .enable_all()
        .build()?;
    let telemetry = runtime.block_on(async { telemetry::init("coordinator") })?;
    let world = World::system().with_proxy_rules(ProxyRules::of_environment()?);
    let ended = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let coordinator = Coordinator::bind(config, world).await?;
        if announce {
            announce_addresses(&coordinator)?;
        }
        coordinator
            .run(async move {
                let signal = signals.recv().await;
                tracing::info!(signal, "shutdown begins after signal");
            })
            .await
    });
    // Dropped while the runtime exists, so that the exporter can send its buffered spans.
    drop(telemetry);
    runtime.shutdown_timeout(THREADS_DEADLINE);
    ended
}

fn announce_addresses(coordinator: &Coordinator) -> io::Result<()> {
    let line = serde_json::json!({
        "listen": coordinator.listen().to_string(),
        "health": coordinator.health_listen().to_string(),
        "feed": coordinator.feed_listen().to_string(),
    });
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// A coordinator with bound ports that does not serve yet.
#[derive(Debug)]
pub struct Coordinator {
    context: Arc<Context>,
    dispatcher: Dispatcher,
    store: Arc<dyn Store>,
    ports: Ports,
    drain_deadline: Duration,
    /// Locked until the coordinator has shut down.
    _folder: Option<DataFolder>,
}

/// The bound ports of a coordinator.
#[derive(Debug)]
struct Ports {
    api: Port,
    feed: Port,
    health: HealthPort,
}

impl Coordinator {
    /// Locks the data folder, binds all ports, opens the store, then continues the store's alerts
    /// and connects to nodes. The store comes last: a process that cannot serve must not take it
    /// over from one that does.
    ///
    /// # Errors
    /// A folder or a store that cannot be used; a port that cannot be bound, with its address; too
    /// few file descriptors.
    pub async fn bind(mut config: Config, world: World) -> Result<Self, Failure> {
        let folder = state::lock_folder(&mut config)?;
        let ports = Ports::bind(&config, &world).await?;
        let kept = Box::pin(state::open_store(&config, &world)).await?;
        restore::check_finished(&*kept.store).await?;
        let former = heads::check(&*kept.store, &kept.objects, config.accept_lost_changes).await?;
        Ok(Self::over(config, ports, (kept, former), folder, world))
    }

    /// Binds over a store that may hold alerts of a former coordinator, and continues these alerts.
    ///
    /// # Errors
    /// A port that cannot be bound, with its address; too few file descriptors.
    pub async fn bind_over(
        config: Config,
        kept: impl Into<Kept>,
        world: World,
    ) -> Result<Self, Failure> {
        let ports = Ports::bind(&config, &world).await?;
        Ok(Self::over(config, ports, (kept.into(), Former::default()), None, world))
    }

    fn over(
        config: Config,
        ports: Ports,
        (kept, former): (Kept, Former),
        folder: Option<DataFolder>,
        world: World,
    ) -> Self {
        jwt::install();
        let Kept { store, objects, seals, keys } = kept;
        let log: Arc<dyn ChangeLog> = Arc::clone(&store) as _;
        let alerts: Arc<dyn AlertStore> = Arc::clone(&store) as _;
        let dispatcher = Dispatcher::spawn(config.dispatch, Arc::clone(&store), world.clone());
        if config.api.device_key.is_random() {
            tracing::warn!(
                "no device_key_file: devices named by strings or tokens are unknown after a restart"
            );
        }
        let (drain, clock) = (Drain::new(), world.clock());
        let (files, lanes, stopped) = (config.credential_files, dispatcher.clone(), drain.token());
        drain.spawn(async move {
            let watch =
                files.watch(clock, move |credentials| lanes.replace_credentials(credentials));
            let _ = stopped.run_until_cancelled(watch).await;
        });
        if let Some(keys) = keys {
            let stopped = drain.token();
            drain.spawn(async move {
                let _ = stopped.run_until_cancelled(keys.run()).await;
            });
        }
        let (of_log, apps, stopped) = (Arc::clone(&log), Arc::clone(&alerts), drain.token());
        let (expiry, partitions) = (config.expiry, config.api.partitions);
        let newest = Arc::new(NewestObservation::default());
        let observed = Arc::clone(&newest);
        drain.spawn(async move {
            let limits = expiry::run(expiry, partitions, &newest, &*of_log, &*apps, clock);
            let _ = stopped.run_until_cancelled(limits).await;
        });
        let lost: Option<Vec<_>> =
            former.1.then(|| log.links().iter().map(|link| link.position).collect());
        let of_ends = objects.clone();
        let (of_log, ends, stopped) = (Arc::clone(&log), world.clone(), drain.token());
        drain.spawn(async move { heads::keep(&*of_log, &of_ends, former, &ends, stopped).await });
        let archive =
            Archive::new(config.archive, Arc::clone(&store), objects, seals, world.clone());
        if let Some(heads) = lost {
            archive.accept_loss(heads);
        }
        let (archive, stopped) = (Arc::new(archive), drain.token());
        let kept_in_order = Arc::clone(&archive);
        drain.spawn(async move {
            let _ = stopped.run_until_cancelled(kept_in_order.keep()).await;
        });
        let admission = Arc::new(Admission::new(config.admission));
        let dispatch: Arc<dyn Dispatch> = Arc::new(dispatcher.clone());
        let reconciler = Reconciler::spawn(
            Arc::clone(&alerts),
            Arc::clone(&dispatch),
            Arc::clone(&admission),
            clock,
            drain.clone(),
        );
        let context = Arc::new(Context {
            admission,
            dispatch,
            reconciler,
            drain,
            config: config.api,
            world,
            store: alerts,
            log,
            archive,
            observed,
        });
        let drain_deadline = config.drain_deadline;
        Self { context, dispatcher, store, ports, drain_deadline, _folder: folder }
    }

    /// Address of the API.
    #[must_use]
    pub fn listen(&self) -> SocketAddr {
        self.ports.api.address()
    }

    /// Address of the feed port, where nodes follow the logs.
    #[must_use]
    pub fn feed_listen(&self) -> SocketAddr {
        self.ports.feed.address()
    }

    /// Address of the health port.
    #[must_use]
    pub fn health_listen(&self) -> SocketAddr {
        self.ports.health.address()
    }

    /// Serves until `stop`, then shuts down within the configured deadline. First the services
    /// become not ready, and new alerts are refused. Then alerts under way may finish. Then new
    /// streams are refused, running streams end with a status that asks for a reconnect, requests
    /// under way finish, and sessions close.
    ///
    /// A store that this process must not use any more leads to the same shutdown. Alerts under way
    /// may finish if the store is broken, but not if another process has taken the store over: that
    /// process continues them.
    ///
    /// # Errors
    /// [`Failure::Store`] after such a shutdown; errors of the transport.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), Failure> {
        let Self { context, dispatcher, store, ports, drain_deadline: deadline, _folder } = self;
        let Ports { api, feed, health } = ports;
        let (token, clock) = (context.drain.token(), context.world.clock());
        let (reporter, health_service) = health::reporter().await;
        let (reachable, of_store) = watch::channel(true);
        let mut readiness = Readiness::new(dispatcher.clone(), context.log.has_room(), of_store);
        readiness.report(&reporter).await;
        let stopping = CancellationToken::new();
        let (following, until) = (readiness.follow(reporter.clone()), stopping.clone());
        let readiness =
            context.drain.spawn(async move { until.run_until_cancelled(following).await });
        let ask = || async {
            store.lane_director().await?;
            store.fit()
        };
        let stop = async {
            tokio::select! {
                biased;
                () = stop => None,
                lost = pulse::follow(ask, clock, &reachable) => {
                    tracing::error!(error = %lost, "shutdown begins after store failure");
                    Some(lost)
                }
            }
        };
        tracing::info!(
            listen = %api.address(),
            health = %health.address(),
            feed = %feed.address(),
            "coordinator serves its ports"
        );
        let routes = api::routes(&context)?.add_service(health_service.clone());
        let stopped = || token.clone().cancelled_owned();
        // The API starts only after the active alerts are listed: no caller may ask for an active
        // alert that this process does not know yet.
        let (reconciler, until) = (context.reconciler.clone(), token.clone());
        let (of_api, until_stopped) = (Arc::clone(&context), stopped());
        let api = async move {
            until.run_until_cancelled(reconciler.listed()).await;
            ports::serve_api(api, &of_api, routes, until_stopped).await;
        };
        let feed = ports::serve_feed(feed, &context, stopped());
        let health = health.serve(health_service, stopped());

        // One deadline for the whole shutdown, from the signal on.
        let (mut end, mut failure) = (None, None);
        let mut serving = std::pin::pin!(async { tokio::join!(api, feed, health) });
        // Without servers there is nothing to shut down, whatever the signal.
        tokio::select! {
            biased;
            _ = &mut serving => {}
            lost = stop => {
                stopping.cancel();
                // The readiness task must not set a status after NOT_SERVING below.
                let _ = readiness.await;
                for service in SERVICES.into_iter().chain([""]) {
                    reporter.set_service_status(service, tonic_health::ServingStatus::NotServing).await;
                }
                context.admission.close();
                let end = *end.insert(clock.instant(clock.now() + deadline));
                let until = match lost {
                    Some(StoreError::TakenOver { .. }) => clock.instant(clock.now()),
                    _ => end - STOP_RESERVE.min(deadline / 4),
                };
                failure = lost;
                let alerts = stop::let_alerts_finish(&context.reconciler, until);
                let serving = async {
                    tokio::select! {
                        biased;
                        _ = &mut serving => return,
                        () = alerts => token.cancel(),
                    }
                    serving.await;
                };
                if tokio::time::timeout_at(end, serving).await.is_err() {
                    tracing::warn!(?deadline, "drain deadline passed; connections still open");
                }
            }
        }
        let rest =
            end.map_or(deadline, |end| end.saturating_duration_since(clock.instant(clock.now())));
        if let Err(left) = context.drain.finish(rest).await {
            tracing::warn!(left, ?deadline, "drain deadline passed; tasks still running");
        }
        dispatcher.shutdown().await;
        // A database that is away must not delay the end.
        if tokio::time::timeout(CLOSE_WITHIN, store.close()).await.is_err() {
            tracing::warn!("store was left without being closed");
        }
        failure.map_or(Ok(()), |lost| Err(lost.into()))
    }
}

impl Ports {
    /// Binds all ports, with limits that the file descriptors allow.
    async fn bind(config: &Config, world: &World) -> Result<Self, Failure> {
        let shares = connections(&config.api, &config.dispatch.nodes)?;
        let limits = ports::api(&config.api).with_connections_max(shares.api);
        let api = Port::bind(world, config.listen, limits).await?;
        let limits = ports::feed().with_connections_max(shares.feed);
        let feed = Port::bind(world, config.feed_listen, limits).await?;
        let health = HealthPort::bind(world, config.health_listen)
            .await?
            .with_connections_max(shares.health);
        Ok(Self { api, feed, health })
    }
}

/// Maximum number of connections of each port.
struct Shares {
    api: usize,
    feed: usize,
    health: usize,
}

/// Divides the file descriptors between the ports. The process needs descriptors for standard
/// streams, the event queue, signals, keys and their watch, the exporter of traces and name
/// service, and for connections to every node and to token endpoints.
fn connections(config: &ApiConfig, nodes: &NodesConfig) -> Result<Shares, Failure> {
    const OWN: usize = 32;
    let wanted = [
        Wanted {
            name: "api",
            min: ports::API_CONNECTIONS_MIN.min(config.connections_max),
            max: config.connections_max,
        },
        Wanted { name: "feed", min: ports::FEED_CONNECTIONS_MIN, max: ports::FEED_CONNECTIONS_MAX },
        Wanted { name: "health", min: health::CONNECTIONS_MIN, max: health::CONNECTIONS_MAX },
    ];
    let limit = descriptors::raise()?;
    let nodes = nodes.addresses.len().max(nodes.min);
    let shares = descriptors::share(limit, OWN, 2 * nodes + 4, &wanted)?;
    if shares[0] < config.connections_max {
        let (connections, wanted) = (shares[0], config.connections_max);
        tracing::warn!(
            limit,
            connections,
            wanted,
            "API connections reduced by file descriptor limit"
        );
    }
    Ok(Shares { api: shares[0], feed: shares[1], health: shares[2] })
}
