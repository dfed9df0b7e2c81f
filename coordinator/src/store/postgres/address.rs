//! Address of a PostgreSQL database: the URL of libpq, as far as it is safe for a store.
//!
//! ```text
//! postgres://USER@HOST[:PORT][,HOST[:PORT]...]/DATABASE[?PARAMETER=VALUE[&...]]
//! ```
//!
//! A parameter has libpq's meaning or is refused by name: a misspelt `sslmode` must not become an
//! unencrypted connection. Unlike libpq, nothing is read from the environment, `~/.pgpass` or
//! service files, and `sslmode` is `verify-full` by default; for sockets it is `disable`.

use std::{fmt, fs, path::PathBuf};

use percent_encoding::percent_decode_str;

/// Port of PostgreSQL if the URL names none.
const DEFAULT_PORT: u16 = 5432;
/// Parameters that are understood, for the error about any other.
const PARAMETERS: &str = "application_name, host, port, sslmode, sslrootcert, target_session_attrs";

/// Address of a database, without its password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Hosts, tried in the order given until one accepts writes.
    pub hosts: Vec<Host>,
    /// Role that the coordinator connects as.
    pub user: String,
    /// Name of the database; default: the user.
    pub database: String,
    /// Name that the server shows for the connections.
    pub application_name: String,
    /// Encryption of connections over TCP.
    pub tls: TlsMode,
}

/// One server of an [`Address`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A name or an IP address, and a port.
    Tcp {
        /// Name or IP address, without brackets.
        host: String,
        /// Port of TCP.
        port: u16,
    },
    /// A socket of the file system.
    Socket(PathBuf),
}

/// Encryption of a connection: the values of `sslmode` that are supported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsMode {
    /// `disable`: no encryption.
    Disable,
    /// `require`: encryption. With `sslrootcert` the certificate must be issued by that CA, but may
    /// be of any host; without it no certificate is verified.
    Require {
        /// Certificates of the CA in PEM.
        ca_pem: Option<String>,
    },
    /// `verify-full`: the certificate must be issued by a trusted CA, for the host of the URL.
    VerifyFull {
        /// Certificates of the CA in PEM; `None`: the public root CAs.
        ca_pem: Option<String>,
    },
}

/// A part of the URL that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct AddressError {
    /// Part of the URL or name of the parameter.
    pub field: String,
    /// What is wrong, and what to do.
    pub problem: String,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Socket(path) => path.display().fmt(f),
        }
    }
}

impl Address {
    /// Reads a URL, and the CA file that it names.
    ///
    /// # Errors
    /// The first part of the URL that cannot be used. The text never repeats user or password.
    pub fn parse(url: &str) -> Result<Self, AddressError> {
        let rest = url
            .strip_prefix("postgres://")
            .or_else(|| url.strip_prefix("postgresql://"))
            .ok_or_else(|| wrong("URL", "must begin with postgres:// or postgresql://"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        if user.contains(':') {
            return Err(wrong("password", "must not be in the URL: put it into a file"));
        }
        if user.is_empty() {
            return Err(wrong("user", "must be in the URL: postgres://USER@HOST/DATABASE"));
        }
        let user = decoded("user", user)?;
        let parameters = Parameters::parse(query)?;
        let hosts = match &parameters.host {
            Some(_) if !hosts.is_empty() => {
                return Err(wrong("host", "must be given once: in the URL or as a parameter"));
            }
            Some(hosts) => hosts,
            None => hosts,
        };
        let hosts = hosts
            .split(',')
            .map(|host| Host::parse(host, parameters.port))
            .collect::<Result<Vec<_>, _>>()?;
        let is_local = hosts.iter().all(|host| matches!(host, Host::Socket(_)));
        Ok(Self {
            tls: parameters.tls(is_local)?,
            database: match database {
                "" => user.clone(),
                name => decoded("database", name)?,
            },
            application_name: parameters
                .application_name
                .unwrap_or_else(|| "clarion-coordinator".to_owned()),
            hosts,
            user,
        })
    }
}

impl Host {
    fn parse(text: &str, default_port: Option<u16>) -> Result<Self, AddressError> {
        let default_port = default_port.unwrap_or(DEFAULT_PORT);
        let (host, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(Some((v6, ""))) => (v6, None),
            Some(Some((v6, port))) => (v6, port.strip_prefix(':')),
            Some(None) => return Err(wrong("host", "must close the bracket of an IPv6 address")),
            None => match text.rsplit_once(':') {
                Some((host, _)) if host.contains(':') => {
                    return Err(wrong("host", "must have an IPv6 address in brackets: [::1]"));
                }
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let port = port.map_or(Ok(default_port), port_of)?;
        let host = decoded("host", host)?;
        if host.is_empty() {
            return Err(wrong("host", "must be a name, an IP address or the folder of a socket"));
        }
        Ok(if host.starts_with('/') {
            Self::Socket(PathBuf::from(host).join(format!(".s.PGSQL.{port}")))
        } else {
            Self::Tcp { host, port }
        })
    }
}

/// The parameters of a URL, decoded.
#[derive(Default)]
struct Parameters {
    host: Option<String>,
    port: Option<u16>,
    application_name: Option<String>,
    sslmode: Option<String>,
    sslrootcert: Option<String>,
}

impl Parameters {
    fn parse(query: &str) -> Result<Self, AddressError> {
        let mut parsed = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(name, value)?;
            match name {
                "host" => parsed.host = Some(value),
                "port" => parsed.port = Some(port_of(&value)?),
                "application_name" => parsed.application_name = Some(value),
                "sslmode" => parsed.sslmode = Some(value),
                "sslrootcert" => parsed.sslrootcert = Some(value),
                // A store needs a server that accepts writes, whatever the URL says.
                "target_session_attrs" if value == "read-write" || value == "primary" => {}
                "target_session_attrs" => {
                    return Err(wrong(name, "must be read-write: the store writes"));
                }
                "password" | "passfile" => {
                    return Err(wrong(name, "must not be in the URL: put it into a file"));
                }
                _ => {
                    let problem = format!("is not a supported parameter of the URL: {PARAMETERS}");
                    return Err(wrong(name, &problem));
                }
            }
        }
        Ok(parsed)
    }

    fn tls(&self, is_local: bool) -> Result<TlsMode, AddressError> {
        let ca_pem = self.sslrootcert.as_deref().map(read_ca).transpose()?;
        let mode = match self.sslmode.as_deref() {
            None if is_local => TlsMode::Disable,
            None | Some("verify-full") => return Ok(TlsMode::VerifyFull { ca_pem }),
            Some("disable") => TlsMode::Disable,
            Some("require") => return Ok(TlsMode::Require { ca_pem }),
            Some(other) => {
                let problem = format!("must be disable, require or verify-full; got {other:?}");
                return Err(wrong("sslmode", &problem));
            }
        };
        if ca_pem.is_some() {
            return Err(wrong("sslrootcert", "must not be set without encryption: set sslmode"));
        }
        Ok(mode)
    }
}

fn read_ca(path: &str) -> Result<String, AddressError> {
    let pem = fs::read_to_string(path)
        .map_err(|error| wrong("sslrootcert", &format!("{path}: cannot be read: {error}")))?;
    clarion_runtime::roots::roots(&pem)
        .map_err(|error| wrong("sslrootcert", &format!("{path}: {error}")))?;
    if pem.trim().is_empty() {
        return Err(wrong("sslrootcert", &format!("{path}: must contain a certificate")));
    }
    Ok(pem)
}

fn port_of(text: &str) -> Result<u16, AddressError> {
    let port = text.parse().ok().filter(|port| *port > 0);
    port.ok_or_else(|| wrong("port", &format!("must be from 1 to 65535; got {text:?}")))
}

fn decoded(field: &str, text: &str) -> Result<String, AddressError> {
    let decoded = percent_decode_str(text).decode_utf8();
    let decoded = decoded.map_err(|_| wrong(field, "must be UTF-8 after percent-decoding"))?;
    if decoded.contains('\0') {
        return Err(wrong(field, "must not contain a zero byte"));
    }
    Ok(decoded.into_owned())
}

fn wrong(field: &str, problem: &str) -> AddressError {
    AddressError { field: field.to_owned(), problem: problem.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Host {
        Host::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn hosts_are_names_addresses_and_sockets() {
        let hosts = |url: &str| Address::parse(url).expect("valid").hosts;
        assert_eq!(hosts("postgres://u@db"), [tcp("db", 5432)]);
        assert_eq!(
            hosts("postgresql://u@a:1,b,[::1]:3/d?port=7"),
            [tcp("a", 1), tcp("b", 7), tcp("::1", 3)]
        );
        let socket = [Host::Socket("/run/pg/.s.PGSQL.5433".into())];
        assert_eq!(hosts("postgres://u@/d?host=/run/pg&port=5433"), socket);
        assert_eq!(hosts("postgres://u@%2Frun%2Fpg:5433/d"), socket);
        assert_eq!(tcp("::1", 3).to_string(), "[::1]:3");
    }

    #[test]
    fn names_are_decoded_and_have_defaults() {
        let address = Address::parse("postgres://a%40b@h/?sslmode=disable").expect("valid");
        assert_eq!((&*address.user, &*address.database), ("a@b", "a@b"));
        assert_eq!(address.application_name, "clarion-coordinator");
        let url = "postgres://u@h/d%20e?application_name=x&target_session_attrs=read-write";
        let address = Address::parse(url).expect("valid");
        assert_eq!((&*address.database, &*address.application_name), ("d e", "x"));
    }

    #[test]
    fn encryption_is_the_default_and_nothing_weaker_is_guessed() {
        let tls = |url: &str| Address::parse(url).map(|address| address.tls);
        assert_eq!(tls("postgres://u@h/d"), Ok(TlsMode::VerifyFull { ca_pem: None }));
        assert_eq!(tls("postgres://u@%2Ftmp/d"), Ok(TlsMode::Disable));
        let required = TlsMode::Require { ca_pem: None };
        assert_eq!(tls("postgres://u@h/d?sslmode=require"), Ok(required));
        for mode in ["prefer", "allow", "verify-ca", "Disable", ""] {
            let refused = tls(&format!("postgres://u@h/d?sslmode={mode}")).expect_err(mode);
            assert_eq!(refused.field, "sslmode");
        }
    }

    #[test]
    fn each_error_names_its_part_and_no_secret() {
        for (url, field) in [
            ("mysql://u@h/d", "URL"),
            ("postgres://h/d", "user"),
            ("postgres://u:hunter2@h/d", "password"),
            ("postgres://u:hunter2@h@i/d", "password"),
            ("postgres://u@h/d?password=hunter2", "password"),
            ("postgres://u@/d", "host"),
            ("postgres://u@a,/d", "host"),
            ("postgres://u@::1/d", "host"),
            ("postgres://u@[::1/d", "host"),
            ("postgres://u@h/d?host=i", "host"),
            ("postgres://u@h:0/d", "port"),
            ("postgres://u@h:65536/d", "port"),
            ("postgres://u@h/%ff", "database"),
            ("postgres://u@h/%00", "database"),
            ("postgres://u@h/d?sslmod=disable", "sslmod"),
            ("postgres://u@h/d?channel_binding=require", "channel_binding"),
            ("postgres://u@h/d?target_session_attrs=any", "target_session_attrs"),
            ("postgres://u@h/d?sslrootcert=/none/such", "sslrootcert"),
        ] {
            let refused = Address::parse(url).expect_err(url);
            assert_eq!(refused.field, field, "{url}");
            assert!(!refused.to_string().contains("hunter2"), "{refused}");
        }
    }
}
