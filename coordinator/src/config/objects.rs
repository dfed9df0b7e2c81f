//! Where large data and halves of keys are: the option `objects`.

use std::path::{Path, PathBuf};

use super::{
    ConfigError,
    given::{Given, Places},
};
use crate::{
    objects::{ObjectsPlace, bucket},
    store::open::StorePlace,
};

/// Name of the folder in the data folder.
const FOLDER: &str = "objects";
/// What every form of the option is, for errors.
const FORMS: &str = "file:PATH or s3://BUCKET/PREFIX";

/// Returns the place of the objects of a store. `data_dir`: the data folder, which a store on this
/// machine has unless the option is given.
pub(super) fn objects(
    given: &Given<String>,
    store: &StorePlace,
    data_dir: Option<&Path>,
    places: &Places<'_>,
) -> Result<ObjectsPlace, ConfigError> {
    let refused = |problem: String| Err(given.error(places, problem));
    match (&given.value, store) {
        (None, StorePlace::Memory) => Ok(ObjectsPlace::Memory),
        (Some(text), StorePlace::Memory) if text == "memory" => Ok(ObjectsPlace::Memory),
        (Some(_), StorePlace::Memory) => refused(
            "must not be set with --store memory, which loses the keys of the objects with the \
             process"
                .to_owned(),
        ),
        (None, StorePlace::Sqlite(_)) => {
            let data_dir = data_dir.unwrap_or(Path::new(super::store::DATA_DIR));
            Ok(ObjectsPlace::Folder(data_dir.join(FOLDER)))
        }
        (None, StorePlace::Postgres { .. }) => refused(format!(
            "must be set with a store postgres://..., because it has half of every key: name a \
             bucket, or a folder that outlives this machine and that every coordinator can reach: \
             {FORMS}"
        )),
        (Some(text), StorePlace::Sqlite(_) | StorePlace::Postgres { .. }) => {
            match place(text, |path| given.place(places).resolve(path)) {
                Ok(place) => Ok(place),
                Err(problem) => refused(problem),
            }
        }
    }
}

/// The place of a text, with paths from the working directory; never in memory.
///
/// # Errors
/// What the text must be.
pub(crate) fn of_text(text: &str) -> Result<ObjectsPlace, String> {
    place(text, Path::to_path_buf)
}

fn place(text: &str, resolve: impl Fn(&Path) -> PathBuf) -> Result<ObjectsPlace, String> {
    if text == "memory" {
        return Err("must not be memory, unless the store is: the store cannot be read without \
                    its objects; got memory"
            .to_owned());
    }
    if text.starts_with("s3://") {
        bucket::parts(text)?;
        return Ok(ObjectsPlace::Bucket(text.to_owned()));
    }
    let Some(path) = text.strip_prefix("file:") else {
        return Err(format!("must be {FORMS}; got {}", shown(text)));
    };
    let path = match path.strip_prefix("//") {
        None => path,
        Some(absolute) if absolute.starts_with('/') => absolute,
        // `file://relative/path` would otherwise be a path on the host `relative`.
        Some(_) => return Err(format!("file:PATH: must have no host; got {text:?}")),
    };
    match path.trim_end_matches('/') {
        "" => Err(format!("file:PATH: must have a path below /; got {text:?}")),
        path => Ok(ObjectsPlace::Folder(resolve(Path::new(path)))),
    }
}

/// The text for an error: of a URL only its scheme, because the rest may have a secret.
fn shown(text: &str) -> String {
    match text.split_once("://") {
        Some((scheme, _)) => format!("{:?}", format!("{scheme}://...")),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::postgres::Address;

    fn placed(text: Option<&str>, store: &StorePlace) -> Result<String, String> {
        let path = Path::new("/etc/clarion/clarion.toml");
        let places = Places { path: Some(path), variables: |_| None };
        let given = Given::of("objects", None, text.map(str::to_owned));
        let placed = objects(&given, store, Some(Path::new("data")), &places);
        placed.map(|place| place.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_store_on_this_machine_has_its_objects_beside_it() {
        let sqlite = StorePlace::Sqlite("/a.db".into());
        assert_eq!(placed(None, &sqlite), Ok("file:data/objects".to_owned()));
        assert_eq!(placed(None, &StorePlace::Memory), Ok("memory".to_owned()));
        assert_eq!(placed(Some("memory"), &StorePlace::Memory), Ok("memory".to_owned()));
        for (text, path) in [
            ("file:o", "file:/etc/clarion/o"),
            ("file:/o/", "file:/o"),
            ("file:///o/p", "file:/o/p"),
            ("s3://alerts/prod", "s3://alerts/prod"),
        ] {
            assert_eq!(placed(Some(text), &sqlite), Ok(path.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_place_that_loses_half_of_the_keys_is_refused() {
        let address = Address::parse("postgres://clarion@db.example.org/clarion").expect("a URL");
        let postgres = StorePlace::Postgres { address, password: None };
        let sqlite = StorePlace::Sqlite("/a.db".into());
        for (text, store, words) in [
            (None, &postgres, "name a bucket, or a folder that outlives this machine"),
            (Some("memory"), &postgres, "must not be memory, unless the store is"),
            (Some("memory"), &sqlite, "must not be memory, unless the store is"),
            (Some("file:/o"), &StorePlace::Memory, "must not be set with --store memory"),
            (Some("/o"), &sqlite, "must be file:PATH or s3://BUCKET/PREFIX; got \"/o\""),
            (Some("ftp://u:secret@h/o"), &sqlite, "or s3://BUCKET/PREFIX; got \"ftp://...\""),
            (Some("file://host/o"), &sqlite, "must have no host; got \"file://host/o\""),
            (Some("file:///"), &sqlite, "must have a path below /; got \"file:///\""),
            (Some("s3://k:secret@b"), &sqlite, "must have the name of a bucket"),
            (Some("file:"), &sqlite, "must have a path below /; got \"file:\""),
        ] {
            let refused = placed(text, store).expect_err(words);
            assert!(refused.starts_with("/etc/clarion/clarion.toml: objects: "), "{refused}");
            assert!(refused.contains(words) && !refused.contains("secret"), "{refused}");
        }
    }
}
