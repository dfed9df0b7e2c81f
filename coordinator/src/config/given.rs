//! Options with their source, so that an error names the file, or the environment and flags.

use std::{
    convert::Infallible,
    fmt,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, de::DeserializeOwned};

use super::ConfigError;

/// Sources of options: the file, if there is one, and the command line with the environment.
pub(super) struct Places<'a> {
    pub(super) path: Option<&'a Path>,
    /// Environment variables that are no options, such as those of Google's tools.
    pub(super) variables: Variables,
}

/// Value of an environment variable; `None`: not set.
pub(super) type Variables = fn(&str) -> Option<String>;

/// Reads a variable of this process.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl Places<'_> {
    pub(super) fn of(&self, in_file: bool) -> Place<'_> {
        match self.path.filter(|_| in_file) {
            Some(path) => Place {
                name: path.display().to_string(),
                directory: path.parent(),
                variables: self.variables,
            },
            None => Place {
                name: "environment and flags".to_owned(),
                directory: None,
                variables: self.variables,
            },
        }
    }
}

/// One source of options, and the directory that its relative paths start from.
pub(super) struct Place<'a> {
    pub(super) name: String,
    pub(super) directory: Option<&'a Path>,
    pub(super) variables: Variables,
}

impl Place<'_> {
    pub(super) fn error(&self, key: impl Into<String>, problem: impl fmt::Display) -> ConfigError {
        ConfigError { place: self.name.clone(), key: key.into(), problem: problem.to_string() }
    }

    /// Resolves a path relative to the configuration file, else to the working directory.
    pub(super) fn resolve(&self, path: &Path) -> PathBuf {
        self.directory.map_or_else(|| path.to_owned(), |directory| directory.join(path))
    }
}

/// An option's key, its value if it was given, and whether the file gave it.
pub(super) struct Given<T> {
    pub(super) key: &'static str,
    pub(super) value: Option<T>,
    in_file: bool,
}

impl<T> Given<T> {
    /// Merges both sources: a flag, or its environment variable, overrides the file.
    pub(super) fn of(key: &'static str, flag: Option<T>, file: Option<T>) -> Self {
        Self { key, in_file: flag.is_none(), value: flag.or(file) }
    }

    pub(super) fn place<'a>(&self, places: &'a Places<'_>) -> Place<'a> {
        places.of(self.in_file)
    }

    pub(super) fn error(&self, places: &Places<'_>, problem: impl fmt::Display) -> ConfigError {
        self.place(places).error(self.key, problem)
    }

    pub(super) fn or(self, default: T) -> T {
        self.value.unwrap_or(default)
    }
}

impl<T: PartialOrd + Copy + fmt::Display> Given<T> {
    /// Checks that a number is within a range.
    pub(super) fn number(
        self,
        places: &Places<'_>,
        default: T,
        range: RangeInclusive<T>,
    ) -> Result<T, ConfigError> {
        let value = self.value.unwrap_or(default);
        if range.contains(&value) {
            return Ok(value);
        }
        let problem = format!("must be {} to {}; got {value}", range.start(), range.end());
        Err(self.error(places, problem))
    }
}

impl<T: DeserializeOwned> Given<Tables<T>> {
    /// Decodes the tables, and names the source that they are from.
    pub(super) fn tables<'a>(
        self,
        places: &'a Places<'_>,
    ) -> Result<(Vec<T>, Place<'a>), ConfigError> {
        let place = self.place(places);
        let tables = match self.value {
            None => Vec::new(),
            Some(Tables::Decoded(tables)) => tables,
            Some(Tables::Text(text)) => {
                array(&text).map_err(|problem| place.error(self.key, problem))?
            }
        };
        Ok((tables, place))
    }
}

/// An array of tables: the file's own, or one given as text by flag or environment.
#[derive(Clone)]
pub enum Tables<T> {
    /// TOML that is not yet decoded, such as `[{name="a"}]`.
    Text(String),
    /// Tables that the file has, decoded with it.
    Decoded(Vec<T>),
}

/// Shows no text, because tables may have a proxy's password.
impl<T> fmt::Debug for Tables<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text(_) => "Text(..)",
            Self::Decoded(_) => "Decoded(..)",
        })
    }
}

impl<T> FromStr for Tables<T> {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self::Text(text.to_owned()))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Tables<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self::Decoded)
    }
}

/// Decodes an array of tables given as text: `[{name="a"}, {name="b"}]`.
fn array<T: DeserializeOwned>(text: &str) -> Result<Vec<T>, String> {
    #[derive(Deserialize)]
    struct Wrapped<T> {
        value: Vec<T>,
    }
    let wrapped: Result<Wrapped<T>, _> = toml::from_str(&format!("value = {text}"));
    wrapped.map(|w| w.value).map_err(|e| one_line(e.message()))
}

/// Joins the lines of a parser's message into one line.
pub(super) fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
