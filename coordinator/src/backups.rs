//! `coordinator backup` and `coordinator restore`: programs of their own.
//!
//! ```text
//! backup: a coordinator's feed port, or a store ──items──▶ objects of a folder, sealed
//! restore: objects of a folder ──items──▶ a new store
//! ```

use std::{
    ffi::OsString,
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Parser;
use clarion_proto::wire::store::v1::{
    BackupEnd, BackupHead, BackupItem, ReadBackupRequest, backup_item::Item,
    backup_service_client::BackupServiceClient,
};
use clarion_runtime::{
    channel::{self, ChannelLimits},
    lines,
    world::World,
};
use data_encoding::HEXLOWER;
use tokio::{sync::mpsc, time::timeout};
use tonic::Code;

use self::{
    args::{BackupArgs, RestoreArgs, Source},
    error::BackupError,
};
use crate::{
    archive::Archive,
    backup::{
        file::{self, BackupKey, Reader, Writer},
        read::{self, ReadError},
        restore::{Report, Restoring},
    },
    config::Config,
    heads,
    objects::Objects,
    state::{self, Kept},
    store::{Store, StoreError},
};

mod args;
mod error;

/// Limits of the connection to the coordinator.
const CONNECTION: ChannelLimits = ChannelLimits {
    connect_within: Duration::from_secs(5),
    window_bytes: 4 << 20,
    ping_every: Duration::from_secs(10),
    pong_within: Duration::from_secs(10),
};
/// Largest message of a backup: a batch of the logs.
const MESSAGE_BYTES_MAX: usize = 80 << 20;
/// Longest time for a name, for the first answer, and between two messages of a backup.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Number of times that a backup begins again, because a log was trimmed or a snapshot replaced.
const TRIES: u32 = 3;

/// Runs a backup or restore if the command line asks for it. `None`: it does not.
///
/// Exit code: 0 after success, 1 after a failure, 2 for an invalid command line.
#[must_use]
pub(crate) fn requested(args: &[OsString]) -> Option<ExitCode> {
    let command = args.get(1)?.to_str()?;
    let done = match command {
        "backup" => BackupArgs::try_parse_from(&args[1..]).map(|args| run(back_up(args))),
        "restore" => RestoreArgs::try_parse_from(&args[1..]).map(|args| run(restore(args))),
        _ => return None,
    };
    Some(match done {
        Ok(Ok(text)) => {
            // If standard output is closed, nobody reads the summary.
            let _ = writeln!(io::stdout(), "{text}");
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => {
            lines::last_words(format_args!("error: {error}"));
            ExitCode::FAILURE
        }
        Err(usage) => {
            // If standard error is closed, there is no place to report the failure.
            let _ = usage.print();
            ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2))
        }
    })
}

fn run<T>(work: impl Future<Output = Result<T, BackupError>>) -> Result<T, BackupError> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(work)
}

async fn back_up(args: BackupArgs) -> Result<String, BackupError> {
    let (world, key) = (World::system(), key(&args.key_file)?);
    let objects = objects("--to", &args.to, &world)?;
    let source = args.source()?;
    let mut tries = 1;
    let (id, end, bytes) = loop {
        match one_backup(&source, &objects, &key, &world).await {
            Err(error) if error.may_begin_again() && tries < TRIES => {
                lines::last_words(format_args!("backup: {error}; beginning again"));
                tries += 1;
            }
            done => break done?,
        }
    };
    let mut text = format!("backup {id}: {}, {bytes} bytes", counted(&end));
    if let Some(keep) = args.keep {
        let ids = file::ids(&objects).await?;
        file::delete_broken_off(&objects, &id).await?;
        let old = ids.len().saturating_sub(usize::from(keep));
        for id in &ids[..old] {
            file::delete(&objects, id).await?;
        }
        if old > 0 {
            text += &format!("; {old} older ones deleted");
        }
    }
    Ok(text)
}

async fn one_backup(
    source: &Source,
    objects: &Objects,
    key: &BackupKey,
    world: &World,
) -> Result<(String, BackupEnd, u64), BackupError> {
    let (to, items) = mpsc::channel(read::QUEUE);
    let reading = async {
        match source {
            Source::Coordinator { host, cluster } => fetch(world, host, cluster, to).await,
            Source::Store(config) => read_store(config.clone(), world, to).await,
        }
    };
    let (read, written) = tokio::join!(reading, write(items, objects, key, world));
    match (read, written) {
        // A writer that failed is the reason why nobody received.
        (Err(BackupError::Read(ReadError::Gone)), Err(error)) => Err(error),
        // A reader that failed is the reason why the writer found no end.
        (Err(error), _) => Err(error),
        (Ok(()), written) => written,
    }
}

/// Reads the store of a coordinator that does not run.
async fn read_store(
    config: Box<Config>,
    world: &World,
    to: mpsc::Sender<BackupItem>,
) -> Result<(), BackupError> {
    let opened = Opened::new(*config, world).await?;
    let logs = opened.kept.store.logs();
    let head = opened.config.api.backup_head(logs, world.clock().wall());
    let read = read::read(&opened.archive, head, &to).await;
    opened.kept.store.close().await;
    Ok(read?)
}

/// Reads from a coordinator that runs.
async fn fetch(
    world: &World,
    host: &str,
    cluster: &str,
    to: mpsc::Sender<BackupItem>,
) -> Result<(), BackupError> {
    let silent = |_| BackupError::Silent(SILENCE_MAX);
    let addresses = timeout(SILENCE_MAX, world.resolve(host)).await.map_err(silent)??;
    let address = *addresses.first().ok_or(BackupError::NoAddress)?;
    let channel = channel::connect(world, address, CONNECTION).await?;
    let mut client = BackupServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let request = ReadBackupRequest { cluster: cluster.to_owned() };
    let answers = timeout(SILENCE_MAX, client.read_backup(request)).await.map_err(silent)?;
    let mut answers = answers.map_err(Box::new)?.into_inner();
    loop {
        let answer = timeout(SILENCE_MAX, answers.message()).await;
        let answer = answer.map_err(silent)?.map_err(Box::new)?;
        let Some(answer) = answer else { return Ok(()) };
        for item in answer.items {
            if to.send(item).await.is_err() {
                return Ok(()); // The writer has failed and says why.
            }
        }
    }
}

/// Writes the items that arrive, until the last one.
async fn write(
    mut items: mpsc::Receiver<BackupItem>,
    objects: &Objects,
    key: &BackupKey,
    world: &World,
) -> Result<(String, BackupEnd, u64), BackupError> {
    let mut writer: Option<Writer<'_>> = None;
    while let Some(item) = items.recv().await {
        if let (None, Some(Item::Head(head))) = (&writer, &item.item) {
            let [low, high, ..] = world.id();
            let random = u16::from_le_bytes([low, high]);
            writer = Some(Writer::new(objects, key, BackupHead::clone(head), random));
        }
        let Some(open) = &mut writer else { return Err(BackupError::Incomplete) };
        if let Err(error) = open.push(&item).await {
            // A full disk must not stay full of what nobody can restore.
            if let Some(open) = writer.take() {
                open.abandon().await;
            }
            return Err(error.into());
        }
        if let Some(Item::End(end)) = item.item
            && let Some(open) = writer.take()
        {
            let bytes = open.bytes();
            let id = open.finish(end, world.clock().wall().0).await?;
            return Ok((id, end, bytes));
        }
    }
    if let Some(open) = writer {
        open.abandon().await;
    }
    Err(BackupError::Incomplete)
}

async fn restore(args: RestoreArgs) -> Result<String, BackupError> {
    let (world, key) = (World::system(), key(&args.key_file)?);
    let objects = objects("--from", &args.from, &world)?;
    let mut reader = Reader::open(&objects, &key, args.id.as_deref()).await?;
    if args.check {
        while reader.next().await?.is_some() {}
        let end = reader.manifest().end.unwrap_or_default();
        return Ok(format!("backup {} is whole: {}", reader.id(), counted(&end)));
    }
    let config = args.store()?;
    let head = reader.manifest().head.clone().unwrap_or_default();
    check_fits(&head, &config)?;
    let opened = Opened::new(*config, &world).await?;
    check_device_key(&head, &opened.config)?;
    let store: &dyn Store = &*opened.kept.store;
    let wall = world.clock().wall();
    let restoring = Restoring::begin(&opened.archive, args.continue_alerts, wall).await?;
    let report = restore_all(restoring, &mut reader).await;
    store.close().await;
    Ok(told(reader.id(), &report?, args.continue_alerts))
}

async fn restore_all(
    mut restoring: Restoring<'_>,
    reader: &mut Reader<'_>,
) -> Result<Report, BackupError> {
    let mut ended = false;
    while let Some(item) = reader.next().await? {
        ended = matches!(item, Item::End(_));
        restoring.take(item).await?;
    }
    if !ended {
        return Err(BackupError::Incomplete);
    }
    Ok(restoring.finish().await?)
}

/// A store that this process uses alone, with its archive.
struct Opened {
    config: Config,
    kept: Kept,
    archive: Arc<Archive>,
    _folder: Option<crate::folder::DataFolder>,
}

impl Opened {
    async fn new(mut config: Config, world: &World) -> Result<Self, BackupError> {
        let folder = state::lock_folder(&mut config)?;
        let kept = state::open_store(&config, world).await?;
        heads::check(&*kept.store, &kept.objects, config.accept_lost_changes).await?;
        let archive = Arc::new(kept.archive(&config, world));
        Ok(Self { config, kept, archive, _folder: folder })
    }
}

fn key(path: &Path) -> Result<BackupKey, BackupError> {
    let read = BackupKey::read(path);
    read.map_err(|problem| BackupError::Option { option: "--key-file", problem })
}

fn objects(option: &'static str, place: &str, world: &World) -> Result<Objects, BackupError> {
    let place = crate::config::place_of_objects(place);
    let place = place.map_err(|problem| BackupError::Option { option, problem })?;
    Ok(state::open_objects(&place, world)?)
}

/// Checks that a cluster is one that the backup can be restored into.
fn check_fits(head: &BackupHead, config: &Config) -> Result<(), BackupError> {
    let (dispatch, logs) = (&config.dispatch, u32::from(config.dispatch.logs));
    let theirs = [head.cluster.clone(), head.partitions.to_string(), head.logs.to_string()];
    let ours =
        [dispatch.cluster.as_str().to_owned(), dispatch.partitions.to_string(), logs.to_string()];
    for ((setting, theirs), ours) in
        ["cluster", "partitions", "logs"].into_iter().zip(theirs).zip(ours)
    {
        if theirs != ours {
            return Err(BackupError::Setting { setting, theirs, ours });
        }
    }
    // A data folder makes a new device key at its first use, with which no id of the backup agrees.
    let has_key = config.data_dir.as_deref().is_some_and(|dir| dir.join("device.key").exists());
    if !head.device_key.is_empty() && config.api.device_key.is_random() && !has_key {
        return Err(BackupError::DeviceKey);
    }
    Ok(())
}

fn check_device_key(head: &BackupHead, config: &Config) -> Result<(), BackupError> {
    match head.device_key.is_empty()
        || head.device_key == HEXLOWER.encode(&config.api.device_key.fingerprint())
    {
        true => Ok(()),
        false => Err(BackupError::DeviceKey),
    }
}

fn counted(end: &BackupEnd) -> String {
    let BackupEnd { apps, alerts, snapshots, batches } = end;
    format!("{apps} apps, {alerts} alerts, {snapshots} snapshots, {batches} batches of changes")
}

fn told(id: &str, report: &Report, continued: bool) -> String {
    let mut text = format!("restored backup {id}: {}", counted(&report.end));
    if !report.active.is_empty() {
        let names: Vec<_> = report.active.iter().map(ToString::to_string).collect();
        let what = if continued { "go on when a coordinator starts" } else { "are cancelled" };
        text += &format!("; alerts that were active {what}: {}", names.join(", "));
    }
    text
}

impl BackupError {
    /// Whether the same backup may succeed when it begins again at once.
    fn may_begin_again(&self) -> bool {
        match self {
            Self::Refused(status) => matches!(status.code(), Code::Aborted | Code::DataLoss),
            Self::Read(ReadError::Store(StoreError::Trimmed { .. }) | ReadError::Archive(_)) => {
                true
            }
            _ => false,
        }
    }
}
