//! Command line of `coordinator import`.

use std::path::PathBuf;

use clap::Parser;
use clarion_proto::ids::AppName;

use super::{column, error::ImportError, source::Format};
use crate::{config::Config, store::open::StorePlace};

/// Import devices from files into the registry.
#[derive(Debug, Clone, Parser)]
#[command(name = "coordinator import", bin_name = "coordinator import", version)]
#[command(after_help = after_help())]
pub(super) struct ImportArgs {
    /// Files of devices, in CSV or Parquet
    #[arg(required = true, value_name = "FILE")]
    pub(super) files: Vec<PathBuf>,
    /// Address of a coordinator's API, http://HOST:PORT
    #[arg(long, value_name = "URL", required_unless_present_any = ["config", "data_dir"])]
    #[arg(conflicts_with_all = ["config", "data_dir"])]
    to: Option<String>,
    /// Data folder of a coordinator that does not run: the import writes straight into its store.
    /// The apps have to exist
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Configuration file of a coordinator that does not run: the import writes straight into its
    /// store
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// App of rows that name none, apps/NAME
    #[arg(long, value_name = "APP")]
    app: Option<String>,
    /// Import observations of up to 400 days; default: up to 24 hours. Import once, from one
    /// consistent copy of the other system: an old row can bring back a device that was removed
    /// more than 24 hours ago
    #[arg(long)]
    pub(super) historic: bool,
    /// File for rows that are not imported: CSV with file, row, column and reason; it must not
    /// exist yet. Default: the first 10 are shown
    #[arg(long, value_name = "FILE")]
    pub(super) rejects: Option<PathBuf>,
    /// File that remembers how far the import is. Run the same command again after an interruption:
    /// it goes on behind the last acknowledged rows. Default: every run begins with the first row
    #[arg(long, value_name = "FILE")]
    pub(super) resume: Option<PathBuf>,
    /// Format of all files; default: the ending of each file's name
    #[arg(long, value_enum)]
    pub(super) format: Option<Format>,
}

impl ImportArgs {
    /// Host and port of the coordinator; `None`: the import writes into a store.
    ///
    /// # Errors
    /// The address is not one of a coordinator's API.
    pub(super) fn host(&self) -> Option<Result<&str, ImportError>> {
        let refused =
            |problem: &str| ImportError::Option { option: "--to", problem: problem.into() };
        self.to.as_deref().map(|to| host_of(to).map_err(refused))
    }

    /// Where the import writes, in words.
    pub(super) fn destination(&self) -> String {
        let shown = |path: &PathBuf| {
            let whole = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            whole.display().to_string()
        };
        match (&self.to, &self.data_dir, &self.config) {
            (Some(to), ..) => format!("to {to}"),
            (None, Some(folder), _) => format!("into the data folder {}", shown(folder)),
            (None, None, config) => {
                format!("into the store of {}", config.as_ref().map(shown).unwrap_or_default())
            }
        }
    }

    /// The store that the import writes into.
    ///
    /// # Errors
    /// The configuration is wrong, or its store keeps nothing.
    pub(super) fn store(&self) -> Result<StoreAt, ImportError> {
        let config = Config::of_store(self.config.as_ref(), self.data_dir.as_ref());
        let config = config.map_err(Box::new)?;
        if matches!(config.store.place, StorePlace::Memory) {
            let problem = "its store is memory, which keeps nothing; use --to".to_owned();
            return Err(ImportError::Option { option: "--config", problem });
        }
        Ok(StoreAt(Box::new(config)))
    }
    /// App of rows that name none.
    ///
    /// # Errors
    /// The name is not one of an app.
    pub(super) fn app(&self) -> Result<Option<String>, ImportError> {
        app_of(self.app.as_deref())
    }
}

/// The name of an app of the option `--app`.
///
/// # Errors
/// The name is not one of an app.
pub(super) fn app_of(app: Option<&str>) -> Result<Option<String>, ImportError> {
    let app = app.map(AppName::from_name).transpose();
    let app = app.map_err(|e| ImportError::Option { option: "--app", problem: e.problem })?;
    Ok(app.map(|app| app.name()))
}

/// Configuration of a coordinator whose store the import writes into.
#[derive(Debug)]
pub(super) struct StoreAt(pub(super) Box<Config>);

/// Host and port of a coordinator's address.
///
/// # Errors
/// What the address must be.
pub(crate) fn host_of(address: &str) -> Result<&str, &'static str> {
    if address.starts_with("https://") {
        return Err("must begin with http://: the coordinator has no TLS of its own");
    }
    let host = address.strip_prefix("http://").map(|host| host.trim_end_matches('/'));
    let port = |host: &str| host.rsplit_once(':').is_some_and(|(_, p)| p.parse::<u16>().is_ok());
    host.filter(|host| port(host) && !host.contains('/'))
        .ok_or("must be http://HOST:PORT, such as http://127.0.0.1:7400")
}

fn after_help() -> String {
    format!(
        "{}\n\
         CSV: UTF-8, a header with the names of the columns, separated by commas, semicolons or \
         tabs. Parquet: plain or dictionary encoding, compressed with snappy, zstd or gzip, pages of \
         at most 64 MiB.\n\n\
         Exit codes: 0: every row is imported. 3: some rows were rejected, all others are \
         imported. 1: the import has not reached the last row. 2: invalid command line.",
        column::help()
    )
}
