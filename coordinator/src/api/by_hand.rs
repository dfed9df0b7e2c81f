//! Services with one method that is served by hand, with its own codec.
//!
//! The generated server decodes every request and encodes every response. Where that cost is too
//! high (batches of devices, watchers, feeds), the method is served before the generated server
//! sees the request; all other methods go to the generated server.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use futures_util::{FutureExt, future::BoxFuture};
use tonic::{body::Body, server::NamedService};

/// A method that is served by hand.
pub(super) trait ByHand: Clone + Send + 'static {
    /// Full name of the method's service.
    const SERVICE: &'static str;
    /// Path of the method's requests.
    const PATH: &'static str;

    /// Serves one request.
    fn serve(self, request: http::Request<Body>) -> BoxFuture<'static, http::Response<Body>>;
}

/// A service: the method served by hand, and the generated server of the other methods.
#[derive(Debug, Clone)]
pub(super) struct Served<M, G> {
    pub(super) method: M,
    pub(super) others: G,
}

impl<M: ByHand, G> NamedService for Served<M, G> {
    const NAME: &'static str = M::SERVICE;
}

impl<M, G> tower::Service<http::Request<Body>> for Served<M, G>
where
    M: ByHand,
    G: tower::Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    G::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.others.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != M::PATH {
            return self.others.call(request).boxed();
        }
        self.method.clone().serve(request).map(Ok).boxed()
    }
}
