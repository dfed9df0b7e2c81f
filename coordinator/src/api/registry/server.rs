//! Server of `RegistryService`: the generated server for all methods but `WriteDevices`, whose
//! batches stay encoded ([`super::batch`]).

use std::sync::Arc;

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
    server::{Grpc, StreamingService},
};
use tonic_prost::{ProstCodec, ProstEncoder};

use super::{
    super::{
        REQUEST_BYTES_MAX,
        by_hand::{ByHand, Served},
        compression::{ENCODINGS, enabled},
    },
    BATCH_BYTES_MAX, Registry,
};

/// Server of `RegistryService`, with `WriteDevices` served by hand.
pub(in super::super) type RegistryServer = Served<Write, RegistryServiceServer<Registry>>;

/// Makes the server of the registry.
pub(in super::super) fn server(registry: Registry) -> RegistryServer {
    let registry = Arc::new(registry);
    let mut others = RegistryServiceServer::from_arc(Arc::clone(&registry))
        .max_decoding_message_size(REQUEST_BYTES_MAX);
    for encoding in ENCODINGS {
        others = others.accept_compressed(encoding).send_compressed(encoding);
    }
    Served { method: Write(registry), others }
}

/// The method `WriteDevices`, served by hand.
#[derive(Debug, Clone)]
pub(in super::super) struct Write(Arc<Registry>);

impl ByHand for Write {
    const SERVICE: &'static str = SERVICE_NAME;
    const PATH: &'static str = "/clarion.v1.RegistryService/WriteDevices";

    fn serve(self, request: http::Request<Body>) -> BoxFuture<'static, http::Response<Body>> {
        async move {
            let mut grpc = Grpc::new(BatchCodec)
                .apply_max_message_size_config(Some(BATCH_BYTES_MAX), None)
                .apply_compression_config(enabled(), enabled());
            grpc.streaming(self, request).await
        }
        .boxed()
    }
}

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
