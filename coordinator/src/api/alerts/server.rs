//! The server of `AlertService`: the generated server for all methods except `WatchAlert`, whose
//! messages are encoded once for all watchers.

use std::sync::Arc;

use bytes::{BufMut, Bytes};
use clarion_proto::wire::v1::{
    AlertProgress, WatchAlertRequest,
    alert_service_server::{AlertServiceServer, SERVICE_NAME},
};
use futures_util::{FutureExt, future::BoxFuture, stream::BoxStream};
use tonic::{
    Request, Response, Status,
    body::Body,
    codec::{Codec, EncodeBuf, Encoder},
    server::{Grpc, ServerStreamingService},
};
use tonic_prost::{ProstCodec, ProstDecoder};

use super::{
    super::{
        REQUEST_BYTES_MAX,
        by_hand::{ByHand, Served},
        compression::{ENCODINGS, enabled},
        door,
    },
    Alerts,
};

/// `AlertService` with a hand-written server for `WatchAlert`.
pub(in super::super) type AlertsServer = Served<Watch, AlertServiceServer<Alerts>>;

/// Builds the server of `AlertService`.
pub(in super::super) fn server(alerts: Alerts) -> AlertsServer {
    let alerts = Arc::new(alerts);
    let mut others = AlertServiceServer::from_arc(Arc::clone(&alerts))
        .max_decoding_message_size(REQUEST_BYTES_MAX);
    for encoding in ENCODINGS {
        others = others.accept_compressed(encoding).send_compressed(encoding);
    }
    Served { method: Watch(alerts), others }
}

/// The method `WatchAlert`, whose messages are already encoded.
#[derive(Debug, Clone)]
pub(in super::super) struct Watch(Arc<Alerts>);

impl ByHand for Watch {
    const SERVICE: &'static str = SERVICE_NAME;
    const PATH: &'static str = "/clarion.v1.AlertService/WatchAlert";

    fn serve(self, request: http::Request<Body>) -> BoxFuture<'static, http::Response<Body>> {
        async move {
            let mut grpc = Grpc::new(WatchCodec)
                .apply_max_message_size_config(Some(REQUEST_BYTES_MAX), None)
                .apply_compression_config(enabled(), Default::default());
            grpc.server_streaming(self, request).await
        }
        .boxed()
    }
}

impl ServerStreamingService<WatchAlertRequest> for Watch {
    type Response = Bytes;
    type ResponseStream = BoxStream<'static, Result<Bytes, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<WatchAlertRequest>) -> Self::Future {
        let alerts = Arc::clone(&self.0);
        let peer = door::peer(request.extensions());
        async move { alerts.watch(request.into_inner(), peer).await.map(Response::new) }.boxed()
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct WatchCodec;

impl Codec for WatchCodec {
    type Encode = Bytes;
    type Decode = WatchAlertRequest;
    type Encoder = AsItIs;
    type Decoder = ProstDecoder<WatchAlertRequest>;

    fn encoder(&mut self) -> AsItIs {
        AsItIs
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<AlertProgress, WatchAlertRequest>::default().decoder()
    }
}

#[derive(Debug)]
struct AsItIs;

impl Encoder for AsItIs {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(message.len());
        buffer.put_slice(&message);
        Ok(())
    }
}
