//! Command lines of `coordinator backup` and `coordinator restore`.

use std::path::PathBuf;

use clap::Parser;
use clarion_proto::ids::ClusterName;

use super::error::BackupError;
use crate::config::Config;

/// Copy everything that a coordinator keeps to another place.
///
/// The backup has apps, alerts and devices, as they were when it began or later. It is encrypted
/// with the key file. Keep the key file, and the cluster's device key (device.key in the data
/// folder), apart from the backup: without both it is of no use.
#[derive(Debug, Clone, Parser)]
#[command(name = "coordinator backup", bin_name = "coordinator backup", version)]
pub(super) struct BackupArgs {
    /// Address of the feed port of a running coordinator, http://HOST:PORT
    #[arg(long, value_name = "URL", required_unless_present_any = ["config", "data_dir"])]
    #[arg(conflicts_with_all = ["config", "data_dir"])]
    from: Option<String>,
    /// Name of the running coordinator's cluster
    #[arg(long, value_name = "NAME", default_value_t = ClusterName::default().to_string())]
    cluster: String,
    /// Data folder of a coordinator that does not run
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Configuration file of a coordinator that does not run
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Place of backups: file:PATH, a folder that is created if it does not exist, or
    /// s3://BUCKET/PREFIX with the variables AWS_REGION, AWS_ACCESS_KEY_ID and others of Amazon's
    /// tools
    #[arg(long, value_name = "PLACE")]
    pub(super) to: String,
    /// File of 32 to 4096 bytes with the key that encrypts the backup
    #[arg(long, value_name = "FILE")]
    pub(super) key_file: PathBuf,
    /// Number of backups that stay: older ones are deleted after this one is complete. Default:
    /// all stay
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) keep: Option<u16>,
}

/// Restore a backup into a new store.
///
/// Start no coordinator on the store before the restore has ended, and restart all nodes
/// afterwards. Alerts that were active when the backup was made are cancelled, because a child may
/// have been found since.
#[derive(Debug, Clone, Parser)]
#[command(name = "coordinator restore", bin_name = "coordinator restore", version)]
pub(super) struct RestoreArgs {
    /// Place of backups, file:PATH or s3://BUCKET/PREFIX
    #[arg(long, value_name = "PLACE")]
    pub(super) from: String,
    /// File with the key that the backup was encrypted with
    #[arg(long, value_name = "FILE")]
    pub(super) key_file: PathBuf,
    /// Id of the backup. Default: the newest that is complete
    #[arg(long, value_name = "ID")]
    pub(super) id: Option<String>,
    /// Read the whole backup and write nothing: shows whether it can be restored
    #[arg(long)]
    pub(super) check: bool,
    /// Continue alerts that were active when the backup was made: devices that were alerted before
    /// are alerted again
    #[arg(long)]
    pub(super) continue_alerts: bool,
    /// Data folder with the device.key of the backup's cluster and without a store. Default of the
    /// options data_dir and config: the configuration of the environment
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Configuration file that names the new store
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What a backup is made of.
pub(super) enum Source {
    /// A running coordinator's feed port at `host:port`.
    Coordinator { host: String, cluster: String },
    /// The store of a coordinator that does not run.
    Store(Box<Config>),
}

impl BackupArgs {
    /// What the backup is made of.
    ///
    /// # Errors
    /// The address is not one of a coordinator, or the configuration is wrong.
    pub(super) fn source(&self) -> Result<Source, BackupError> {
        let Some(from) = &self.from else {
            return store(self.config.as_ref(), self.data_dir.as_ref()).map(Source::Store);
        };
        let host = crate::bulk::host_of(from).map_err(|problem| BackupError::Option {
            option: "--from",
            problem: problem.to_owned(),
        })?;
        Ok(Source::Coordinator { host: host.to_owned(), cluster: self.cluster.clone() })
    }
}

impl RestoreArgs {
    /// The configuration of the new store.
    ///
    /// # Errors
    /// The configuration is wrong.
    pub(super) fn store(&self) -> Result<Box<Config>, BackupError> {
        store(self.config.as_ref(), self.data_dir.as_ref())
    }
}

fn store(config: Option<&PathBuf>, data_dir: Option<&PathBuf>) -> Result<Box<Config>, BackupError> {
    Ok(Box::new(Config::of_store(config, data_dir).map_err(Box::new)?))
}
