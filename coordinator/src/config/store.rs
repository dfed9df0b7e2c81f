//! Where the store is: the options `store`, `store_password_file` and `data_dir`.

use std::{
    convert::Infallible,
    fmt, fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use secrecy::SecretString;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{
    ConfigError,
    given::{Given, Places},
};
use crate::store::{open::StorePlace, postgres::Address};

/// Default data folder, from the working directory.
pub(super) const DATA_DIR: &str = "clarion-data";
/// Name of the store's file in the data folder.
const FILE: &str = "store.sqlite";
/// Longest password, bytes: more is a mistaken file.
const PASSWORD_BYTES_MAX: usize = 1_024;
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
    /// Whether the operator names the place of the objects.
    pub(super) has_objects: bool,
}

/// Returns the place of the store, and the data folder; no folder if nothing is kept in one.
pub(super) fn store(
    options: StoreOptions,
    places: &Places<'_>,
) -> Result<(StorePlace, Option<PathBuf>), ConfigError> {
    let StoreOptions { store, password_file, data_dir, has_device_key, has_objects } = options;
    let folder = match &data_dir.value {
        Some(path) => data_dir.place(places).resolve(path),
        None => PathBuf::from(DATA_DIR),
    };
    let mut place = match &store.value {
        None => StorePlace::Sqlite(folder.join(FILE)),
        Some(text) => place(&text.0, |path| store.place(places).resolve(path))
            .map_err(|problem| store.error(places, problem))?,
    };
    match (&mut place, &password_file.value) {
        (_, None) => {}
        (StorePlace::Postgres { password, .. }, Some(path)) => {
            let path = password_file.place(places).resolve(path);
            let read = read_password(&path);
            *password = Some(read.map_err(|problem| password_file.error(places, problem))?);
        }
        (StorePlace::Memory | StorePlace::Sqlite(_), Some(_)) => {
            let problem = "must not be set without a store postgres://...";
            return Err(password_file.error(places, problem));
        }
    }
    let needs_folder = match &place {
        StorePlace::Memory => false,
        StorePlace::Sqlite(_) => store.value.is_none() || !has_device_key || !has_objects,
        StorePlace::Postgres { .. } => !has_device_key,
    };
    Ok((place, needs_folder.then_some(folder)))
}

fn place(text: &str, resolve: impl Fn(&Path) -> PathBuf) -> Result<StorePlace, String> {
    if text == "memory" {
        return Ok(StorePlace::Memory);
    }
    if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        let address = Address::parse(text).map_err(|e| format!("postgres://...: {e}"))?;
        return Ok(StorePlace::Postgres { address, password: None });
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

/// Reads a password: the content of the file without the end of its line.
pub(crate) fn read_password(path: &Path) -> Result<SecretString, String> {
    let shown = path.display();
    let text = Zeroizing::new(
        fs::read_to_string(path).map_err(|e| format!("{shown}: cannot be read: {e}"))?,
    );
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    match password.len() {
        1..=PASSWORD_BYTES_MAX => Ok(SecretString::from(password)),
        bytes => Err(format!(
            "{shown}: must have a password of 1 to {PASSWORD_BYTES_MAX} bytes; got {bytes} bytes"
        )),
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

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    /// The place and the folder of options; paths of the file are below `/etc/clarion`.
    fn placed(
        store: Option<&str>,
        data_dir: Option<&str>,
        has_device_key: bool,
    ) -> Result<(String, Option<PathBuf>), String> {
        let path = Path::new("/etc/clarion/clarion.toml");
        let places = Places { path: Some(path), variables: |_| None };
        let options = StoreOptions {
            store: Given::of("store", None, store.and_then(|text| text.parse().ok())),
            password_file: Given::of("store_password_file", None, None),
            data_dir: Given::of("data_dir", data_dir.map(PathBuf::from), None),
            has_device_key,
            has_objects: has_device_key,
        };
        let (place, folder) = super::store(options, &places).map_err(|e| e.to_string())?;
        Ok((format!("{place:?}"), folder))
    }

    #[test]
    fn the_default_is_a_file_in_the_data_folder() {
        let sqlite = |path: &str| format!("Sqlite({path:?})");
        let folder = |path: &str| Some(PathBuf::from(path));
        let default = (sqlite("clarion-data/store.sqlite"), folder("clarion-data"));
        assert_eq!(placed(None, None, false), Ok(default.clone()));
        assert_eq!(placed(None, None, true), Ok(default), "the store is in the folder");
        let given = (sqlite("/var/lib/c/store.sqlite"), folder("/var/lib/c"));
        assert_eq!(placed(None, Some("/var/lib/c"), false), Ok(given));
        // The folder keeps the device key, if nothing else.
        let elsewhere = sqlite("/etc/clarion/a.db");
        let both = Ok((elsewhere.clone(), folder("clarion-data")));
        assert_eq!(placed(Some("sqlite:a.db"), None, false), both);
        assert_eq!(placed(Some("sqlite:a.db"), Some("d"), true), Ok((elsewhere, None)));
        assert_eq!(placed(Some("sqlite:///a.db"), None, true), Ok((sqlite("///a.db"), None)));
        for has_device_key in [false, true] {
            let memory = Ok(("Memory".to_owned(), None));
            assert_eq!(placed(Some("memory"), Some("d"), has_device_key), memory);
        }
    }

    #[test]
    fn what_is_no_store_is_refused_without_its_password() {
        for (text, words) in [
            ("", "must be memory, sqlite:PATH or postgres://USER@HOST:PORT/DATABASE; got \"\""),
            ("file.db", "got \"file.db\""),
            ("mysql://user:secret@host/db", "got \"mysql:...\""),
            ("user:secret@host", "got \"user:...\""),
            ("secret@host", "got another form"),
            (
                "postgres://u:secret@h/d",
                "postgres://...: password: must not be in the URL: put it into a file",
            ),
            ("sqlite:", "sqlite:PATH: must have a path; got none"),
            ("sqlite::memory:", "must be memory for a store in memory; got sqlite::memory:"),
            ("sqlite://a.db", "sqlite:PATH: must have no // before the path; got \"//a.db\""),
        ] {
            let refused = placed(Some(text), None, false).expect_err(text);
            assert!(refused.starts_with("/etc/clarion/clarion.toml: store: "), "{refused}");
            assert!(refused.ends_with(words) && !refused.contains("secret"), "{refused}");
        }
        let shown = format!("{:?}", "postgres://u:secret@h/d".parse::<StoreText>());
        assert_eq!(shown, "Ok(StoreText(..))");
    }

    #[test]
    fn a_database_has_its_password_in_a_file() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("password");
        let placed = |store: &str, has_device_key| {
            let places = Places { path: None, variables: |_| None };
            let options = StoreOptions {
                store: Given::of("store", store.parse().ok(), None),
                password_file: Given::of("store_password_file", Some(path.clone()), None),
                data_dir: Given::of("data_dir", None, None),
                has_device_key,
                has_objects: true,
            };
            super::store(options, &places)
                .map_err(|e| e.to_string().replace(&path.display().to_string(), "P"))
        };
        let url = "postgres://clarion@db.example.org/clarion";
        for (text, kept) in [("secret", "secret"), ("secret\r\n", "secret"), (" s\n\n", " s\n")] {
            fs::write(&path, text).expect("written");
            let (place, folder) = placed(url, true).expect("valid");
            assert_eq!(folder, None, "nothing is kept on this machine");
            assert!(!format!("{place:?}").contains("secret"), "{place:?}");
            let StorePlace::Postgres { password, .. } = place else { panic!("{place:?}") };
            assert_eq!(password.expect("read").expose_secret(), kept);
        }
        assert_eq!(placed(url, false).expect("valid").1, Some("clarion-data".into()), "the key");
        fs::write(&path, "\n").expect("written");
        assert_eq!(
            placed(url, true).expect_err("empty"),
            "environment and flags: store_password_file: P: must have a password of 1 to 1024 \
             bytes; got 0 bytes"
        );
        assert_eq!(
            placed("memory", true).expect_err("no database"),
            "environment and flags: store_password_file: must not be set without a store \
             postgres://..."
        );
    }
}
