//! The door: what every request passes before a service sees it.
//!
//! A peer chooses how many connections it opens, how many requests it has under way on each, how slowly it sends them
//! and how large they are. Each of these has a bound, and each bound is told the same way:
//!
//! - connections: [`super::incoming`];
//! - requests under way, of one connection and of all ([`Peer`], [`REQUESTS_MAX`]): RESOURCE_EXHAUSTED with RetryInfo,
//!   at once, because a queue here would only make everybody late;
//! - time until the answer begins ([`REQUEST_DEADLINE`]): a request that is sent a byte a minute must not hold a place;
//! - size and form: tonic says OUT_OF_RANGE and INTERNAL of a message that is too large or no message; both are the
//!   caller's fault and are told as INVALID_ARGUMENT.
//!
//! A request counts until its answer begins. Streams (watchers, `WriteDevices`) are bounded where they are served.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::sync::Semaphore;
use tonic::{Code, Status, body::Body};

use super::status;

/// Requests under way, all connections together. Those that hold much (a decoded region) are bounded further by
/// [`crate::admission`]; the others are names and numbers.
pub const REQUESTS_MAX: usize = 1_024;
/// Requests under way on one connection: an eighth of all, so that no caller can take all places.
pub const REQUESTS_PER_CONNECTION_MAX: usize = 128;
/// From the request's head to the beginning of its answer. The slowest honest one waits 10 s for a node's count.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(30);
/// When to come back.
const RETRY: Duration = Duration::from_secs(1);

/// The connection that a request came by, as tonic hands it to the request.
#[derive(Debug, Clone)]
pub struct Peer {
    requests: Arc<Semaphore>,
}

impl Default for Peer {
    fn default() -> Self {
        Self { requests: Arc::new(Semaphore::new(REQUESTS_PER_CONNECTION_MAX)) }
    }
}

/// Puts the door before a service.
#[derive(Debug, Clone)]
pub struct DoorLayer {
    places: Arc<Semaphore>,
}

impl Default for DoorLayer {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(REQUESTS_MAX)) }
    }
}

impl<S> tower::Layer<S> for DoorLayer {
    type Service = Door<S>;

    fn layer(&self, inner: S) -> Door<S> {
        Door { inner, places: Arc::clone(&self.places) }
    }
}

/// A service behind the door.
#[derive(Debug, Clone)]
pub struct Door<S> {
    inner: S,
    places: Arc<Semaphore>,
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
        let answer = self.inner.call(request);
        async move {
            let _places = (own, place);
            match tokio::time::timeout(REQUEST_DEADLINE, answer).await {
                Ok(answer) => answer.map(|answer| corrected(answer, contract)),
                Err(_) => {
                    let words = format!("no answer began within {} s", REQUEST_DEADLINE.as_secs());
                    Ok(Status::deadline_exceeded(words).into_http())
                }
            }
        }
        .boxed()
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
