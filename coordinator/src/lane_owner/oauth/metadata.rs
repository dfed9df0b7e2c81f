//! Tokens of the machine's own service account, from the metadata server of Google Cloud.
//!
//! Google ("About VM metadata", "Authenticate workloads"): GET over plain HTTP, inside the
//! machine's network, with the header `Metadata-Flavor: Google`. The answer has the same header;
//! without it, something else answers at that address, such as a captive portal, and its token is
//! not used. The server keeps a token until five minutes before its end, and answers with the same
//! token until then.

use clarion_runtime::{proxy::Route, world::World};
use http::Method;

use super::{AccessToken, ExchangeError, client, granted};
use crate::lane_owner::Endpoint;

/// Header of every request to the server, and of every answer of it.
const FLAVOR: (&str, &str) = ("metadata-flavor", "Google");

/// Requests an access token; never through a proxy.
pub(super) async fn exchange(
    server: &Endpoint,
    world: &World,
) -> Result<AccessToken, ExchangeError> {
    let request = client::request(Method::GET, server)
        .header(FLAVOR.0, FLAVOR.1)
        .body(bytes::Bytes::new().into());
    let step = |error| ExchangeError::Step {
        step: "metadata server",
        host: server.host.clone(),
        error: Box::new(error),
    };
    let answered = client::send(server, &Route::Direct, world, request).await.map_err(step)?;
    if answered.headers.get(FLAVOR.0).is_none_or(|value| value != FLAVOR.1) {
        return Err(step(ExchangeError::NoMetadataServer { status: answered.status }));
    }
    granted(&answered).map_err(step)
}
