//! `grpc.health.v1` on a port of its own, in plaintext: Kubernetes' gRPC probes speak no TLS.

use std::{future::Future, io, net::SocketAddr};

use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
pub use tonic_health::server::HealthReporter;

/// A health port, bound and not yet served.
#[derive(Debug)]
pub struct HealthPort {
    listener: TcpListener,
    address: SocketAddr,
}

impl HealthPort {
    /// Binds; port 0 lets the system choose.
    ///
    /// # Errors
    /// The address, with the system's words: in use, not ours, not allowed.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` resolves. The service "" is SERVING at once (liveness); readiness is the reporter's.
    ///
    /// # Errors
    /// The transport's.
    pub async fn serve(
        self,
        service: tonic_health::pb::health_server::HealthServer<impl tonic_health::pb::health_server::Health>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), tonic::transport::Error> {
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(TcpIncoming::from(self.listener).with_nodelay(Some(true)), stop)
            .await
    }
}

/// Binds a TCP port with an error that names it.
///
/// # Errors
/// `cannot listen on 127.0.0.1:7400: Address already in use`.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))
}

/// A reporter and the service that it speaks through; "" is SERVING.
pub async fn reporter()
-> (HealthReporter, tonic_health::pb::health_server::HealthServer<impl tonic_health::pb::health_server::Health>) {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
    (reporter, service)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let first = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(address).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot listen on {address}: ")), "{error}");
    }

    #[tokio::test]
    async fn liveness_answers_on_the_health_port() {
        use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
        let port = HealthPort::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = port.address();
        let (_reporter, service) = reporter().await;
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = tokio::spawn(port.serve(service, async move {
            let _ = stopped.await;
        }));
        let channel =
            tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        let answer = HealthClient::new(channel).check(HealthCheckRequest { service: String::new() }).await.unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
        stop.send(()).unwrap();
        server.await.unwrap().unwrap();
    }
}
