//! `FeedService` with a hand-written server: its messages are bytes that were encoded when the
//! records were accepted.
//!
//! The generated server would encode a `FeedResponse` again for each node. This server writes the
//! three small fields that only the log knows in front of the batch's bytes (fields may come in any
//! order), and copies the batch's bytes once.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    time::Duration,
};

use bytes::{BufMut, Bytes};
use clarion_proto::{
    time::Time,
    wire::shard_v1::{FeedRequest, FeedResponse, feed_service_server::SERVICE_NAME},
};
use clarion_runtime::repeated::Repeated;
use futures_util::{FutureExt, future::BoxFuture, stream::BoxStream};
use parking_lot::Mutex;
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status,
    body::Body,
    codec::{Codec, EncodeBuf, Encoder},
    server::{Grpc, ServerStreamingService},
};
use tonic_prost::{ProstCodec, ProstDecoder};
use tower::util::{ServiceFn, service_fn};

use self::places::{NoPlace, Places, STRANGERS_MAX};
use super::{
    Context as Api,
    by_hand::{ByHand, Served},
    status,
};
use crate::feed::{Fed, FeedError};

mod places;
mod pulled;

/// Largest request: 65,535 partitions and as many logs' positions, as varints.
pub(super) const REQUEST_BYTES_MAX: usize = 1 << 20;

/// The service: [`Feed`] is its only method.
pub(super) type FeedServer = Served<Feed, ServiceFn<NoOther>>;

type NoOther = fn(http::Request<Body>) -> Ready<Result<http::Response<Body>, Infallible>>;

/// Serves the logs of the context to shard nodes.
#[must_use]
pub(super) fn server(api: Arc<Api>) -> FeedServer {
    let method = Feed { api, places: Arc::default(), refused: Refusals::default() };
    Served { method, others: service_fn(no_other as NoOther) }
}

fn no_other(_: http::Request<Body>) -> Ready<Result<http::Response<Body>, Infallible>> {
    ready(Ok(Status::unimplemented("FeedService has the one method Feed").into_http()))
}

/// The method `Feed`, whose batches are already encoded.
#[derive(Debug, Clone)]
pub(super) struct Feed {
    api: Arc<Api>,
    places: Arc<Mutex<Places>>,
    refused: Refusals,
}

/// Limits log lines: a refused node retries every few seconds.
type Refusals = Arc<Mutex<Repeated>>;

impl ByHand for Feed {
    const SERVICE: &'static str = SERVICE_NAME;
    const PATH: &'static str = "/clarion.shard.v1.FeedService/Feed";

    fn serve(self, request: http::Request<Body>) -> BoxFuture<'static, http::Response<Body>> {
        async move {
            let mut grpc =
                Grpc::new(FeedCodec).apply_max_message_size_config(Some(REQUEST_BYTES_MAX), None);
            grpc.server_streaming(self, request).await
        }
        .boxed()
    }
}

impl ServerStreamingService<FeedRequest> for Feed {
    type Response = Fed;
    type ResponseStream = BoxStream<'static, Result<Self::Response, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<FeedRequest>) -> Self::Future {
        let (api, places, refusals) =
            (Arc::clone(&self.api), Arc::clone(&self.places), Arc::clone(&self.refused));
        async move {
            let request = request.into_inner();
            let place =
                Place::take(&places, &request.node, api.dispatch.has_session(&request.node))?;
            let (log, config) = (Arc::clone(&api.log), &api.config);
            let opened = pulled::open(log, (&config.cluster, config.partitions), &request).await;
            let pulled = opened.map_err(|error| {
                let (reason, now) =
                    (format!("{}: {error}", request.node), api.world.clock().now().since(Time(0)));
                if let Some(times) = refusals.lock().note(&reason, now) {
                    tracing::warn!(reason, times, "node feed request refused");
                }
                refused(error)
            })?;
            if let Some(lost) = api.archive.lost_position(&request) {
                let (log, position) = (lost.log, lost.position);
                tracing::warn!(node = %request.node, log, position, "node has lost changes");
                let words = format!("log {log} has lost what the node has at {position}");
                return Err(Status::out_of_range(words));
            }
            tracing::info!(
                node = %request.node,
                partitions = request.partitions.len(),
                "a node follows its logs"
            );
            Ok(Response::new(pulled.stream(place, api.drain.token())))
        }
        .boxed()
    }
}

/// A feed's place; dropping it frees the place.
struct Place {
    places: Arc<Mutex<Places>>,
    node: String,
    number: u64,
    superseded: CancellationToken,
}

impl Place {
    fn take(places: &Arc<Mutex<Places>>, node: &str, has_session: bool) -> Result<Self, Status> {
        let superseded = CancellationToken::new();
        let taken = places.lock().take(node, has_session, superseded.clone());
        let number = taken.map_err(|NoPlace| {
            let message = format!("{STRANGERS_MAX} feeds of nodes without a session are open");
            status::exhausted("FEEDS_MAX", message, Duration::from_secs(1))
        })?;
        Ok(Self { places: Arc::clone(places), node: node.to_owned(), number, superseded })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().give_back(&self.node, self.number);
    }
}

fn refused(error: FeedError) -> Status {
    match error {
        FeedError::Invalid(field) => status::invalid(field),
        FeedError::OtherCluster { .. } | FeedError::OtherLog { .. } => {
            Status::failed_precondition(error.to_string())
        }
        FeedError::Ahead { .. } => Status::out_of_range(error.to_string()),
        FeedError::Store(error) => status::store(error),
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct FeedCodec;

impl Codec for FeedCodec {
    type Encode = Fed;
    type Decode = FeedRequest;
    type Encoder = FeedEncoder;
    type Decoder = ProstDecoder<FeedRequest>;

    fn encoder(&mut self) -> FeedEncoder {
        FeedEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<FeedResponse, FeedRequest>::default().decoder()
    }
}

#[derive(Debug)]
struct FeedEncoder;

impl Encoder for FeedEncoder {
    type Item = Fed;
    type Error = Status;

    fn encode(&mut self, fed: Fed, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let empty = FeedResponse::default();
        let (front, records) = match fed {
            Fed::Start(start) => (FeedResponse { start: Some(start), ..empty }, Bytes::new()),
            Fed::Trimmed(trimmed) => {
                (FeedResponse { trimmed: Some(trimmed), ..empty }, Bytes::new())
            }
            Fed::Batch(log, batch) => {
                let (position, append_time_ms) = (batch.position.0, batch.appended.0);
                let front = FeedResponse { log: log.0.into(), position, append_time_ms, ..empty };
                (front, batch.records)
            }
        };
        buffer.reserve(front.encoded_len() + records.len());
        front.encode_raw(buffer);
        buffer.put_slice(&records);
        Ok(())
    }
}
