//! Requests to endpoints of OAuth.

use bytes::Bytes;
use clarion_runtime::{proxy::Route, world::World};
use http::{Method, request};
use http_body_util::Full;

use super::{ANSWER_BYTES_MAX, ExchangeError};
pub(super) use crate::client::Answered;
use crate::{
    client::{self, ClientError, Server},
    lane_owner::Endpoint,
};

/// Begins a request for an endpoint. Headers and the body follow.
///
/// # Errors
/// The endpoint's URI is unusable, or a later header is; both are reported by [`send`].
pub(super) fn request(method: Method, endpoint: &Endpoint) -> request::Builder {
    let uri: http::Uri = endpoint.uri.parse().unwrap_or_default();
    request::Builder::new()
        .method(method)
        .uri(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(http::header::HOST, uri.authority().map_or("", |authority| authority.as_str()))
        .header(http::header::ACCEPT, "application/json")
}

/// Sends one request on a connection of its own.
pub(super) async fn send(
    endpoint: &Endpoint,
    route: &Route,
    world: &World,
    request: http::Result<http::Request<Full<Bytes>>>,
) -> Result<Answered, ExchangeError> {
    let Endpoint { host, port, is_tls, ca_pem, .. } = endpoint;
    let server = Server { host, port: *port, is_tls: *is_tls, ca_pem };
    Ok(client::send(server, route, world, request, ANSWER_BYTES_MAX).await?)
}

impl From<ClientError> for ExchangeError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Trust(problem) => Self::Trust(problem),
            ClientError::Proxy(error) => Self::Proxy(error),
            ClientError::Connect(error) => Self::Connect(error),
            ClientError::Http(error) => Self::Http(error),
            ClientError::TooLong { .. } => Self::TooLong,
        }
    }
}
