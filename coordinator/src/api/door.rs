//! The door: limits that every request passes before its service.
//!
//! A peer decides how many connections it opens, how many requests it has under way on each, how
//! slowly it sends them and how large they are. Each of these has a limit:
//!
//! - connections, streams, time until the response begins: the listener ([`super::ports`]);
//! - requests under way on one connection, by one peer, and in all ([`Peer`], [`REQUESTS_MAX`]):
//!   RESOURCE_EXHAUSTED with RetryInfo, at once, because a queue here would delay every caller;
//! - size and form of messages: tonic answers OUT_OF_RANGE for a message that is too large, and
//!   INTERNAL for a malformed message. Both are the caller's fault, so the door turns them into
//!   INVALID_ARGUMENT.
//!
//! A request counts until the transport has taken its response; the listener closes a connection
//! that does not read a response for 30 s. Streams (watchers, `WriteDevices`) count until they
//! begin, and are limited by their services; streams of third-party methods (health, reflection)
//! are limited here: [`FOREIGN_STREAMS_MAX`].
//!
//! **Shared limits**, each with a share for one peer ([`clarion_runtime::peers`]: a peer may hold
//! as much as it leaves free for others, half of the total if it is alone):
//!
//! | resource | total | one peer | refused callers get |
//! |---|---|---|---|
//! | connections | `connections_max` | three quarters | the place of an idle connection, else a closed connection |
//! | requests under way | [`REQUESTS_MAX`] | half; 128 on a connection | REQUESTS_BUSY, retry after 1 s |
//! | bytes of messages being received | 48 MiB ([`super::ports::api`]) | half, and its turn | 10 s of waiting, then MESSAGES_BUSY, after 1 s |
//! | bytes of messages that were compressed, decompressed | 48 MiB more | half, and its turn | the same |
//! | metadata of one request | [`METADATA_BYTES_MAX`] | the same | METADATA_TOO_LARGE, no retry |
//! | responses with a region that a default client does not take | [`super::alerts::LARGE_ANSWERS_MAX`] of 8 MiB | half | RESPONSES_BUSY, after 1 s |
//! | streams of health and reflection | [`FOREIGN_STREAMS_MAX`] | none | REQUESTS_BUSY, after 1 s |
//! | streams of `WriteDevices` | [`super::registry::STREAMS_MAX`] | half | WRITE_STREAMS_MAX, after 5 s |
//! | such a stream, idle or unread | 60 s, 30 s | the same | DEADLINE_EXCEEDED: WRITE_STREAM_IDLE, ANSWERS_NOT_READ |
//! | batches worked on | 2 | its turn after one batch of each other peer | no refusal: the batch waits |
//! | watchers, in all and of one alert | `watchers_max`, `watchers_per_alert_max` | half | WATCHERS_MAX, after 5 s |
//! | alerts and previews in admission | `admissions_max` | half | ADMISSIONS_BUSY, after 1 s |
//! | of these: with a large region | one in [`crate::admission::LARGE_IN`] | half | LARGE_BUSY, after 5 s |
//! | of these: computing, counting on nodes | CPUs, 8 counts | its turn after one of each other peer | no refusal: the request waits |
//! | cells of covers under way | 16 million | 15 in 16 | COVERS_FULL, after 5 s |
//! | active alerts | `alerts_active_max` | half | ALERTS_ACTIVE, after 5 s |
//! | previews, refused audiences | as the rates of [`crate::privacy::curiosity`] | the same | PREVIEWS_MAX, with the time of the next one |
//! | apps created | 10,000 | 100, then one every 10 s; changes: one every second | APPS_RATE, with the time of the next one |
//! | snapshots that are saved and loaded | [`super::snapshots`] | half, and its turn | SAVES_BUSY, LOADS_BUSY |
//! | bytes of the logs | `store_bytes_max` | none: see [`crate::store`] | STORE_FULL, after 60 s |
//! | ended alerts and their `request_id`s | 1,000, or 64 MiB | none | no refusal: the oldest are removed |

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use clarion_runtime::{
    listener::{Method, Peer},
    peers::{
        PeerKey,
        shares::{Full, Place, Places},
    },
};
use futures_util::{FutureExt, future::BoxFuture};
use hyper::body as http_body;
use tokio::sync::Semaphore;
use tonic::{Code, Status, body::Body};

use super::{method::method, status};

/// Maximum number of requests under way on all connections together. [`crate::admission`] further
/// limits requests with much memory (a decoded region); the others are names and numbers.
pub const REQUESTS_MAX: usize = 1_024;
/// Maximum number of requests under way on one connection, an eighth of the total, so that no
/// caller can take all places.
pub const REQUESTS_PER_CONNECTION_MAX: usize = 128;
/// Maximum number of health and reflection streams on all connections together: a few tools and
/// monitors.
pub const FOREIGN_STREAMS_MAX: usize = 64;
/// Longest metadata of a request, bytes, as HTTP/2 counts it: name, value and 32 bytes for each
/// field. Callers need some hundred bytes, for deadlines, traces and credentials.
pub const METADATA_BYTES_MAX: usize = 16 << 10;
/// Time until a refused caller may retry.
const RETRY: Duration = Duration::from_secs(1);

/// For whom the limits of a request count.
pub(super) fn peer(extensions: &http::Extensions) -> PeerKey {
    extensions.get::<Peer>().map_or(PeerKey::NONE, |peer| PeerKey::of(peer.address.ip()))
}

/// Place of a large response: a method puts it into the extensions of its response, and the door
/// releases it when the transport has taken all of the response.
#[derive(Debug, Clone)]
pub(super) struct LargeAnswer(#[allow(dead_code, reason = "held until it is dropped")] Arc<Place>);

impl LargeAnswer {
    pub(super) fn new(place: Place) -> Self {
        Self(Arc::new(place))
    }
}

/// Layer that puts the door before a service.
#[derive(Debug, Clone)]
pub struct DoorLayer {
    places: Places,
    foreign: Arc<Semaphore>,
}

impl Default for DoorLayer {
    fn default() -> Self {
        Self {
            places: Places::new(REQUESTS_MAX),
            foreign: Arc::new(Semaphore::new(FOREIGN_STREAMS_MAX)),
        }
    }
}

impl<S> tower::Layer<S> for DoorLayer {
    type Service = Door<S>;

    fn layer(&self, inner: S) -> Door<S> {
        Door { inner, places: self.places.clone(), foreign: Arc::clone(&self.foreign) }
    }
}

/// A service behind the door.
#[derive(Debug, Clone)]
pub struct Door<S> {
    inner: S,
    places: Places,
    foreign: Arc<Semaphore>,
}

impl<S> tower::Service<http::Request<Body>> for Door<S>
where
    S: tower::Service<http::Request<Body>, Response = http::Response<Body>>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let metadata = metadata_bytes(request.headers());
        if metadata > METADATA_BYTES_MAX {
            let status = status::metadata_too_large(metadata, METADATA_BYTES_MAX);
            return std::future::ready(Ok(status.into_http())).boxed();
        }
        let own = request
            .extensions()
            .get::<Peer>()
            .map(|peer| Arc::clone(&peer.requests).try_acquire_owned());
        let own = match own.transpose() {
            Ok(own) => own,
            Err(_) => {
                return refuse(format!(
                    "{REQUESTS_PER_CONNECTION_MAX} requests are under way on this connection"
                ));
            }
        };
        let peer = peer(request.extensions());
        let place = match self.places.enter(peer) {
            Ok(place) => place,
            Err(Full { held: 0, total }) => {
                return refuse(format!("all {total} places for requests are in use"));
            }
            Err(Full { held, .. }) => {
                return refuse(format!("{held} requests of {peer} are under way"));
            }
        };
        let (contract, method) = (Contract::of(request.uri().path()), method(request.uri().path()));
        let foreign = match contract {
            Contract::Foreign => match Arc::clone(&self.foreign).try_acquire_owned() {
                Ok(foreign) => Some(foreign),
                Err(_) => {
                    return refuse(format!(
                        "{FOREIGN_STREAMS_MAX} streams of health and reflection are open"
                    ));
                }
            },
            Contract::Public | Contract::Internal => None,
        };
        let answer = self.inner.call(request);
        async move {
            let mut answer = answer.await.map(|answer| corrected(answer, contract))?;
            // A response holds its places until it is read: a caller that reads no response must
            // not get a thousand more.
            let large = answer.extensions_mut().remove::<LargeAnswer>();
            let held = (method == Method::Answer).then_some((own, place, large));
            Ok(match (held, foreign) {
                (None, None) => answer,
                places => answer.map(|body| Body::new(Held { body, _places: places })),
            })
        }
        .boxed()
    }
}

/// Size of a request's metadata, bytes; see [`METADATA_BYTES_MAX`].
fn metadata_bytes(headers: &http::HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

/// Response body that holds places until the transport has taken all of it.
struct Held<P> {
    body: Body,
    _places: P,
}

impl<P: Unpin> http_body::Body for Held<P> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

fn refuse<E: Send + 'static>(
    message: String,
) -> BoxFuture<'static, Result<http::Response<Body>, E>> {
    let status = status::exhausted("REQUESTS_BUSY", message, RETRY);
    std::future::ready(Ok(status.into_http())).boxed()
}

/// Contract that a method belongs to, by its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Contract {
    Public,
    /// Between coordinator and nodes; has an OUT_OF_RANGE of its own.
    Internal,
    /// Third-party methods: health, reflection.
    Foreign,
}

impl Contract {
    fn of(path: &str) -> Self {
        match path {
            p if p.starts_with("/clarion.v1.") => Self::Public,
            p if p.starts_with("/clarion.shard.v1.") => Self::Internal,
            _ => Self::Foreign,
        }
    }

    /// Whether this status is tonic's answer to an unreadable message, and not the method's own.
    fn leaves_to_the_door(self, told: &Status) -> bool {
        match self {
            Self::Public => true,
            Self::Internal => told.code() == Code::Internal,
            Self::Foreign => false,
        }
    }
}

/// Corrects the status of a response that is only an error, with its status in the headers.
fn corrected(answer: http::Response<Body>, contract: Contract) -> http::Response<Body> {
    if !answer.headers().contains_key(Status::GRPC_STATUS) {
        return answer;
    }
    let told =
        Status::from_header_map(answer.headers()).filter(|told| contract.leaves_to_the_door(told));
    match told.and_then(|told| status::unreadable(&told)) {
        Some(refused) => refused.into_http(),
        None => answer,
    }
}
