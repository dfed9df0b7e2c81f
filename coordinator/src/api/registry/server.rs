//! `RegistryService` as it is served: the generated server for all methods but `WriteDevices`,
//! whose batches are taken as the bytes they came in ([`super::batch`]).

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use clarion_proto::wire::v1::{
    WriteDevicesRequest, WriteDevicesResponse,
    registry_service_server::{RegistryServiceServer, SERVICE_NAME},
};
use futures_util::{FutureExt, future::BoxFuture, stream::BoxStream};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder},
    server::{Grpc, NamedService, StreamingService},
};
use tonic_prost::{ProstCodec, ProstEncoder};

use super::{BATCH_BYTES_MAX, Registry};
use crate::api::REQUEST_BYTES_MAX;

/// The service.
#[derive(Debug, Clone)]
pub(in crate::api) struct RegistryServer {
    registry: Arc<Registry>,
    generated: RegistryServiceServer<Registry>,
}

impl RegistryServer {
    pub(in crate::api) fn new(registry: Registry) -> Self {
        let registry = Arc::new(registry);
        let generated = RegistryServiceServer::from_arc(Arc::clone(&registry))
            .max_decoding_message_size(REQUEST_BYTES_MAX);
        Self { registry, generated }
    }
}

impl NamedService for RegistryServer {
    const NAME: &'static str = SERVICE_NAME;
}

impl tower::Service<http::Request<Body>> for RegistryServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != "/clarion.v1.RegistryService/WriteDevices" {
            return self.generated.call(request);
        }
        let registry = Arc::clone(&self.registry);
        async move {
            let mut grpc =
                Grpc::new(BatchCodec).apply_max_message_size_config(Some(BATCH_BYTES_MAX), None);
            Ok(grpc.streaming(Write(registry), request).await)
        }
        .boxed()
    }
}

struct Write(Arc<Registry>);

impl StreamingService<Bytes> for Write {
    type Response = WriteDevicesResponse;
    type ResponseStream = BoxStream<'static, Result<WriteDevicesResponse, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let answer = self.0.write(request).map(Response::new);
        std::future::ready(answer).boxed()
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct BatchCodec;

impl Codec for BatchCodec {
    type Encode = WriteDevicesResponse;
    type Decode = Bytes;
    type Encoder = ProstEncoder<WriteDevicesResponse>;
    type Decoder = AsItIs;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<WriteDevicesResponse, WriteDevicesRequest>::default().encoder()
    }

    fn decoder(&mut self) -> AsItIs {
        AsItIs
    }
}

#[derive(Debug)]
struct AsItIs;

impl Decoder for AsItIs {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = buffer.remaining();
        Ok(Some(buffer.copy_to_bytes(length)))
    }
}
