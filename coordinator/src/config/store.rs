//! Where the store is: the options `store`, `store_password_file` and `data_dir`.

use std::{
    convert::Infallible,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::Deserialize;

use super::{
    ConfigError, args,
    given::{Given, Places},
};
use crate::store::open::StorePlace;

/// Name of the store's file in the data folder.
const FILE: &str = "store.sqlite";
/// What every form of the option is, for errors.
const FORMS: &str = "memory, sqlite:PATH or postgres://USER@HOST:PORT/DATABASE";

/// The option `store` as it was given.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct StoreText(String);

/// Shows no text, because a URL may have a password.
impl fmt::Debug for StoreText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreText(..)")
    }
}

impl FromStr for StoreText {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

/// The options of the store, as they were given.
pub(super) struct StoreOptions {
    pub(super) store: Given<StoreText>,
    pub(super) password_file: Given<PathBuf>,
    pub(super) data_dir: Given<PathBuf>,
    /// Whether the device key comes from a file of the operator.
    pub(super) has_device_key: bool,
}

/// Returns the place of the store, and the data folder; no folder if nothing is kept in one.
pub(super) fn store(
    options: StoreOptions,
    places: &Places<'_>,
) -> Result<(StorePlace, Option<PathBuf>), ConfigError> {
    let StoreOptions { store, password_file, data_dir, has_device_key } = options;
    let folder = match &data_dir.value {
        Some(path) => data_dir.place(places).resolve(path),
        None => PathBuf::from(args::DATA_DIR),
    };
    let place = match &store.value {
        None => StorePlace::Sqlite(folder.join(FILE)),
        Some(text) => place(&text.0, |path| store.place(places).resolve(path))
            .map_err(|problem| store.error(places, problem))?,
    };
    let needs_folder = match &place {
        StorePlace::Memory => false,
        StorePlace::Sqlite(_) => store.value.is_none() || !has_device_key,
    };
    if password_file.value.is_some() {
        let problem = "must not be set without a store postgres://...";
        return Err(password_file.error(places, problem));
    }
    Ok((place, needs_folder.then_some(folder)))
}

fn place(text: &str, resolve: impl Fn(&Path) -> PathBuf) -> Result<StorePlace, String> {
    if text == "memory" {
        return Ok(StorePlace::Memory);
    }
    let Some(path) = text.strip_prefix("sqlite:") else {
        return Err(format!("must be {FORMS}; got {}", shown(text)));
    };
    match path {
        "" => Err("sqlite:PATH: must have a path; got none".to_owned()),
        ":memory:" => Err("must be memory for a store in memory; got sqlite::memory:".to_owned()),
        // `sqlite://relative/path` would otherwise be the file `/relative/path`.
        url if url.starts_with("//") && !url.starts_with("///") => {
            Err(format!("sqlite:PATH: must have no // before the path; got {url:?}"))
        }
        path => Ok(StorePlace::Sqlite(resolve(Path::new(path)))),
    }
}

/// The text for an error: of a URL only its scheme, because the rest may have a password.
fn shown(text: &str) -> String {
    match text.split_once(':') {
        Some((scheme, _)) => format!("{:?}", format!("{scheme}:...")),
        None if text.contains('@') => "another form".to_owned(),
        None => format!("{text:?}"),
    }
}
