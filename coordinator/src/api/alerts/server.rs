//! `AlertService` as it is served: the generated server for all methods but `WatchAlert`, whose answers are bytes that
//! were encoded once for all watchers.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

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
    server::{Grpc, NamedService, ServerStreamingService},
};
use tonic_prost::{ProstCodec, ProstDecoder};

use super::Alerts;
use crate::api::{REQUEST_BYTES_MAX, door};

/// The service.
#[derive(Debug, Clone)]
pub(in crate::api) struct AlertsServer {
    alerts: Arc<Alerts>,
    generated: AlertServiceServer<Alerts>,
}

impl AlertsServer {
    pub(in crate::api) fn new(alerts: Alerts) -> Self {
        let alerts = Arc::new(alerts);
        let generated = AlertServiceServer::from_arc(Arc::clone(&alerts))
            .max_decoding_message_size(REQUEST_BYTES_MAX);
        Self { alerts, generated }
    }
}

impl NamedService for AlertsServer {
    const NAME: &'static str = SERVICE_NAME;
}

impl tower::Service<http::Request<Body>> for AlertsServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != "/clarion.v1.AlertService/WatchAlert" {
            return self.generated.call(request);
        }
        let alerts = Arc::clone(&self.alerts);
        async move {
            let mut grpc =
                Grpc::new(WatchCodec).apply_max_message_size_config(Some(REQUEST_BYTES_MAX), None);
            Ok(grpc.server_streaming(Watch(alerts), request).await)
        }
        .boxed()
    }
}

struct Watch(Arc<Alerts>);

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
