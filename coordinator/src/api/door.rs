//! The door: what every request passes before a service sees it.
//!
//! A peer chooses how many connections it opens, how many requests it has under way on each, how slowly it sends them
//! and how large they are. Each of these has a bound, and each bound is told the same way:
//!
//! - connections, streams, time until the answer begins: the listener ([`super::ports`]);
//! - requests under way, of one connection and of all ([`Peer`], [`REQUESTS_MAX`]): RESOURCE_EXHAUSTED with RetryInfo,
//!   at once, because a queue here would only make everybody late;
//! - size and form: tonic says OUT_OF_RANGE and INTERNAL of a message that is too large or no message; both are the
//!   caller's fault and are told as INVALID_ARGUMENT.
//!
//! A request counts until its answer begins. Streams (watchers, `WriteDevices`) are bounded where they are served; those of
//! methods that are not ours (health, reflection) here: [`FOREIGN_STREAMS_MAX`].

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use clarion_runtime::listener::Peer;
use futures_util::{FutureExt, future::BoxFuture};
use hyper::body as http_body;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Code, Status, body::Body};

use super::status;

/// Requests under way, all connections together. Those that hold much (a decoded region) are bounded further by
/// [`crate::admission`]; the others are names and numbers.
pub const REQUESTS_MAX: usize = 1_024;
/// Requests under way on one connection: an eighth of all, so that no caller can take all places.
pub const REQUESTS_PER_CONNECTION_MAX: usize = 128;
/// Streams of health and reflection, all connections together: a few tools and monitorings.
pub const FOREIGN_STREAMS_MAX: usize = 64;
/// When to come back.
const RETRY: Duration = Duration::from_secs(1);

/// Puts the door before a service.
#[derive(Debug, Clone)]
pub struct DoorLayer {
    places: Arc<Semaphore>,
    foreign: Arc<Semaphore>,
}

impl Default for DoorLayer {
    fn default() -> Self {
        let [places, foreign] = [REQUESTS_MAX, FOREIGN_STREAMS_MAX].map(|max| Arc::new(Semaphore::new(max)));
        Self { places, foreign }
    }
}

impl<S> tower::Layer<S> for DoorLayer {
    type Service = Door<S>;

    fn layer(&self, inner: S) -> Door<S> {
        Door { inner, places: Arc::clone(&self.places), foreign: Arc::clone(&self.foreign) }
    }
}

/// A service behind the door.
#[derive(Debug, Clone)]
pub struct Door<S> {
    inner: S,
    places: Arc<Semaphore>,
    foreign: Arc<Semaphore>,
}

impl<S> tower::Service<http::Request<Body>> for Door<S>
where
    S: tower::Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
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
        let own = request.extensions().get::<Peer>().map(|peer| Arc::clone(&peer.requests).try_acquire_owned());
        let own = match own.transpose() {
            Ok(own) => own,
            Err(_) => return refuse(REQUESTS_PER_CONNECTION_MAX, "on this connection"),
        };
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return refuse(REQUESTS_MAX, "together") };
        let contract = Contract::of(request.uri().path());
        let foreign = match contract {
            Contract::Foreign => match Arc::clone(&self.foreign).try_acquire_owned() {
                Ok(foreign) => Some(foreign),
                Err(_) => return refuse(FOREIGN_STREAMS_MAX, "of health and reflection"),
            },
            Contract::Public | Contract::Internal => None,
        };
        let answer = self.inner.call(request);
        async move {
            let _places = (own, place);
            let answer = answer.await.map(|answer| corrected(answer, contract))?;
            Ok(match foreign {
                Some(foreign) => answer.map(|body| Body::new(Held { body, _place: foreign })),
                None => answer,
            })
        }
        .boxed()
    }
}

/// An answer that holds a place until its end.
struct Held {
    body: Body,
    _place: OwnedSemaphorePermit,
}

impl http_body::Body for Held {
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

fn refuse<E: Send + 'static>(limit: usize, whose: &str) -> BoxFuture<'static, Result<http::Response<Body>, E>> {
    let status = status::exhausted("REQUESTS_BUSY", format!("{limit} requests are under way {whose}"), RETRY);
    std::future::ready(Ok(status.into_http())).boxed()
}

/// Whose method is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Contract {
    Public,
    /// Has an OUT_OF_RANGE of its own.
    Internal,
    /// Of others: health, reflection.
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

    /// Whether this status is tonic's word for a message that could not be taken, and not the method's own.
    fn leaves_to_the_door(self, told: &Status) -> bool {
        match self {
            Self::Public => true,
            Self::Internal => told.code() == Code::Internal,
            Self::Foreign => false,
        }
    }
}

/// An answer that is nothing but an error has its status in the head.
fn corrected(answer: http::Response<Body>, contract: Contract) -> http::Response<Body> {
    if !answer.headers().contains_key(Status::GRPC_STATUS) {
        return answer;
    }
    let told = Status::from_header_map(answer.headers()).filter(|told| contract.leaves_to_the_door(told));
    match told.and_then(|told| status::unreadable(&told)) {
        Some(refused) => refused.into_http(),
        None => answer,
    }
}
