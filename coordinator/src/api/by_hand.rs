//! A service of which one method is served by hand, with a codec of its own.
//!
//! The generated server decodes every request and encodes every answer as its message. Where that
//! is the cost that counts (batches of devices, watchers, feeds), the method is taken before the
//! generated server sees it; all other methods go there.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use futures_util::{FutureExt, future::BoxFuture};
use tonic::{body::Body, server::NamedService};

/// The method that is served by hand.
pub(super) trait ByHand: Clone + Send + 'static {
    /// Full name of its service.
    const SERVICE: &'static str;
    /// Path of its requests.
    const PATH: &'static str;

    /// Serves one request.
    fn serve(self, request: http::Request<Body>) -> BoxFuture<'static, http::Response<Body>>;
}

/// The whole service: the method, and whoever serves the others.
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
