//! Objects in a bucket of S3, or of a server that speaks its protocol.
//!
//! `object_store` signs requests, lists pages and retries. The requests themselves go through
//! Clarion's client: the process's network and proxy rules, TLS of ring, a deadline for each
//! request, and answers within a limit. Nothing of it keeps connections: an object has MiBs, or is
//! written once an hour.

use std::{fs, io, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use clarion_runtime::{proxy::Route, world::World};
use http::{StatusCode, Uri, header::HOST, uri::Scheme};
use object_store::{
    BackoffConfig, ClientConfigKey, ClientOptions, ObjectStore, RetryConfig,
    aws::AmazonS3Builder,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
    },
};
use tokio::time::timeout;

use super::OBJECT_BYTES_MAX;
use crate::client::{self, ClientError, Server};

/// Deadline of one request: some MiB over a slow line.
const REQUEST_DEADLINE: Duration = Duration::from_secs(20);
/// Time after which a request is not made again: a request that fails at once may be repeated.
const RETRY_FOR: Duration = Duration::from_secs(15);
/// Number of times that an operation is tried again.
const RETRIES_MAX: usize = 4;
/// Largest answer, bytes: an object, or a page of a listing.
const ANSWER_BYTES_MAX: usize = 33 << 20;
/// Beginning of the variables that hold credentials, region and endpoint.
const VARIABLES: &str = "AWS_";
/// Variable with the path of a file with CA certificates, as Amazon's own tools have it.
const CA_BUNDLE: &str = "AWS_CA_BUNDLE";

const _: () = assert!(ANSWER_BYTES_MAX as u64 > OBJECT_BYTES_MAX, "every object can be read");

/// Opens a bucket. `url`: `s3://BUCKET` or `s3://BUCKET/PREFIX`; `variables`: those of the process,
/// of which those of Amazon's tools are used. Returns the bucket and the beginning of all names.
///
/// # Errors
/// A variable is wrong, or one is missing. No secret is in the text.
pub(super) fn open(
    url: &str,
    variables: &[(String, String)],
    world: &World,
) -> Result<(Arc<dyn ObjectStore>, String), String> {
    let (bucket, prefix) = parts(url)?;
    let mut ca_pem = String::new();
    let mut builder = AmazonS3Builder::new();
    for (name, value) in variables.iter().filter(|(name, _)| name.starts_with(VARIABLES)) {
        if name == CA_BUNDLE {
            let read = fs::read_to_string(value);
            ca_pem = read.map_err(|e| format!("{CA_BUNDLE}: {value}: cannot be read: {e}"))?;
            clarion_runtime::roots::roots(&ca_pem)
                .map_err(|e| format!("{CA_BUNDLE}: {value}: {e}"))?;
        } else if let Ok(key) = name.to_ascii_lowercase().parse() {
            builder = builder.with_config(key, value);
        }
    }
    let backoff = BackoffConfig { max_backoff: Duration::from_secs(2), ..Default::default() };
    let retry = RetryConfig { backoff, max_retries: RETRIES_MAX, retry_timeout: RETRY_FOR };
    let connector = Connector { world: world.clone(), ca_pem: ca_pem.into() };
    let store = builder
        .with_bucket_name(bucket)
        .with_retry(retry)
        .with_http_connector(connector)
        .build()
        .map_err(|e| e.to_string())?;
    Ok((Arc::new(store), prefix))
}

/// Bucket and beginning of all names of a URL.
///
/// # Errors
/// What the URL must be.
pub(crate) fn parts(url: &str) -> Result<(&str, String), String> {
    let rest = url.strip_prefix("s3://").unwrap_or_default();
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let named = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c);
    if bucket.is_empty() || !bucket.chars().all(named) {
        return Err("s3://BUCKET/PREFIX: must have the name of a bucket: lower-case letters, \
                    digits, dots and hyphens"
            .to_owned());
    }
    let prefix = prefix.trim_matches('/');
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/=".contains(c);
    if !prefix.chars().all(plain) || prefix.contains("//") {
        return Err(
            "s3://BUCKET/PREFIX: the prefix must have letters, digits and . _ - = between \
                    single slashes"
                .to_owned(),
        );
    }
    let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
    Ok((bucket, prefix))
}

/// Makes clients of the process's network.
#[derive(Debug)]
struct Connector {
    world: World,
    ca_pem: Arc<str>,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let allow_http = options.get_config_value(&ClientConfigKey::AllowHttp);
        Ok(HttpClient::new(Service {
            world: self.world.clone(),
            ca_pem: Arc::clone(&self.ca_pem),
            allow_http: allow_http.is_some_and(|allowed| allowed == "true"),
        }))
    }
}

/// One request on a connection of its own.
#[derive(Debug)]
struct Service {
    world: World,
    ca_pem: Arc<str>,
    allow_http: bool,
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let unusable =
            |problem: String| HttpError::new(HttpErrorKind::Unknown, io::Error::other(problem));
        let uri = request.uri().clone();
        let is_tls = uri.scheme() != Some(&Scheme::HTTP);
        if !is_tls && !self.allow_http {
            let problem = "the endpoint must be https://, unless AWS_ALLOW_HTTP=true";
            return Err(unusable(problem.to_owned()));
        }
        let authority =
            uri.authority().ok_or_else(|| unusable("the endpoint has no host".into()))?;
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let host = authority.host().trim_matches(['[', ']']);
        let server = Server { host, port, is_tls, ca_pem: &self.ca_pem };
        let (mut head, body) = request.into_parts();
        let named = authority.as_str().parse();
        head.headers.insert(HOST, named.map_err(|_| unusable("the endpoint's host".into()))?);
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        head.uri = path.parse::<Uri>().map_err(|error| unusable(error.to_string()))?;
        let request = Ok(http::Request::from_parts(head, body));
        let sent =
            client::send(server, &Route::Environment, &self.world, request, ANSWER_BYTES_MAX);
        let answered = match timeout(REQUEST_DEADLINE, sent).await {
            Ok(answered) => answered.map_err(error)?,
            Err(late) => return Err(HttpError::new(HttpErrorKind::Timeout, late)),
        };
        let status = StatusCode::from_u16(answered.status);
        let mut response = HttpResponse::new(Bytes::into(answered.body));
        *response.status_mut() = status.map_err(|error| unusable(error.to_string()))?;
        *response.headers_mut() = answered.headers;
        Ok(response)
    }
}

/// The kind of an error tells `object_store` whether it tries again.
fn error(error: ClientError) -> HttpError {
    let kind = match &error {
        ClientError::Connect(_) | ClientError::Proxy(_) => HttpErrorKind::Connect,
        ClientError::Http(_) => HttpErrorKind::Interrupted,
        ClientError::Trust(_) | ClientError::TooLong { .. } => HttpErrorKind::Unknown,
    };
    HttpError::new(kind, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_bucket_and_perhaps_a_prefix() {
        for (url, bucket, prefix) in [
            ("s3://alerts", "alerts", ""),
            ("s3://alerts/", "alerts", ""),
            ("s3://alerts.eu-1/clarion/prod/", "alerts.eu-1", "clarion/prod/"),
        ] {
            assert_eq!(parts(url), Ok((bucket, prefix.to_owned())), "{url}");
        }
        for url in ["s3://", "s3:///prefix", "s3://key:secret@bucket/p", "s3://Bucket", "s3://b c"]
        {
            let refused = parts(url).expect_err(url);
            assert!(refused.contains("the name of a bucket") && !refused.contains("secret"));
        }
        for url in ["s3://b/a//b", "s3://b/a?b", "s3://b/a b", "s3://b/ä"] {
            assert!(parts(url).expect_err(url).contains("the prefix must have"));
        }
    }

    #[test]
    fn variables_that_cannot_be_used_are_named() {
        let world = World::system();
        let open = |name: &str, value: &str| {
            let variables = [(name.to_owned(), value.to_owned())];
            open("s3://b", &variables, &world).map(drop)
        };
        let refused = open(CA_BUNDLE, "/nowhere").expect_err("no file");
        assert!(refused.starts_with("AWS_CA_BUNDLE: /nowhere: cannot be read"), "{refused}");
        let refused = open("AWS_ACCESS_KEY_ID", "k").expect_err("half of the credentials");
        assert!(refused.to_lowercase().contains("secretaccesskey"), "{refused}");
        open("AWS_UNKNOWN", "of another tool").expect("not read");
    }
}
