//! The health service: `grpc.health.v1` on a port of its own, in plaintext, because Kubernetes'
//! gRPC probes do not speak TLS.
//!
//! A probe opens a new connection, sends a request and reads the response, every few seconds. Any
//! client that reaches the port can hold connections and watch. So when all places are taken, a new
//! connection replaces the connection that has sent no request for the longest time, even one with
//! a watch: a watcher reconnects, but a refused probe means a restart. See [`crate::listener`].

use std::{future::Future, io, net::SocketAddr, time::Duration};

use tonic::service::Routes;
pub use tonic_health::server::HealthReporter;

use crate::{
    listener::{Budget, Limits, Method, Port, WhenBusy},
    world::World,
};

/// Connections at a time: a kubelet, a few people, a monitoring that watches.
pub const CONNECTIONS_MAX: usize = 64;
/// Least number of connections: with fewer, idle clients could keep all probes out.
pub const CONNECTIONS_MIN: usize = 4;
/// Highest number of streams on one connection.
const STREAMS_MAX: u32 = 8;
/// Longest request, bytes: a request contains the name of a service.
const MESSAGE_BYTES_MAX: usize = 1_024;

/// The bounds of a health port: at most 18 MiB, `64 × (40 + 4) KiB + 512 × (9 + 4 + 16 + 1) KiB`.
#[must_use]
pub fn limits() -> Limits {
    let streams_max = CONNECTIONS_MAX * STREAMS_MAX as usize;
    Limits {
        name: "health",
        connections_max: CONNECTIONS_MAX,
        connections_per_peer_max: CONNECTIONS_MAX / 2,
        when_busy: WhenBusy::Leaves,
        streams_per_connection_max: STREAMS_MAX,
        streams_max,
        requests_per_connection_max: STREAMS_MAX as usize,
        header_list_bytes_max: 4 << 10,
        stream_window_bytes: 4 << 10,
        connection_window_bytes: 65_535,
        streams_unread_max: streams_max,
        send_buffer_bytes: 16 << 10,
        messages: Budget {
            bytes: 0,
            peer_bytes_max: 0,
            free_bytes: MESSAGE_BYTES_MAX,
            streams_max,
            waiting_max: 0,
            message_bytes_max: MESSAGE_BYTES_MAX,
        },
        inflated: None,
        hello_deadline: Duration::from_secs(5),
        request_deadline: Duration::from_secs(5),
        idle_deadline: Duration::from_secs(60),
        keep_alive_every: Duration::from_secs(20),
        method,
    }
}

/// How a method of `grpc.health.v1` uses its stream.
#[must_use]
pub fn method(path: &str) -> Method {
    if path == "/grpc.health.v1.Health/Watch" { Method::Events } else { Method::Answer }
}

/// A health port, bound and not yet served.
#[derive(Debug)]
pub struct HealthPort(Port);

impl HealthPort {
    /// Binds with the limits of a health port; port number 0: the network chooses one.
    ///
    /// # Errors
    /// See [`World::listen`]; the error names the address.
    pub async fn bind(world: &World, address: SocketAddr) -> io::Result<Self> {
        Ok(Self(Port::bind(world, address, limits()).await?))
    }

    /// Sets the highest number of connections at a time.
    #[must_use]
    pub fn with_connections_max(self, connections_max: usize) -> Self {
        Self(self.0.with_connections_max(connections_max))
    }

    /// Address on which the service listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// Serves until `stop` resolves and the last connection has ended. The service "" is SERVING
    /// at once (liveness); the reporter sets readiness.
    pub async fn serve(
        self,
        service: tonic_health::pb::health_server::HealthServer<
            impl tonic_health::pb::health_server::Health,
        >,
        stop: impl Future<Output = ()> + Send + 'static,
    ) {
        self.0.serve(Routes::new(service).prepare(), stop).await;
    }
}

/// A reporter and the service that it speaks through; "" is SERVING.
pub async fn reporter() -> (
    HealthReporter,
    tonic_health::pb::health_server::HealthServer<impl tonic_health::pb::health_server::Health>,
) {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
    (reporter, service.max_decoding_message_size(MESSAGE_BYTES_MAX))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests have tasks of their own")]
mod tests {
    use super::*;

    #[test]
    fn its_worst_case_is_arithmetic() {
        assert_eq!(limits().bytes_max(), (64 * (40 + 4) + 512 * (9 + 16 + 4 + 1)) << 10);
        let few = limits().with_connections_max(4);
        assert_eq!((few.connections_max, few.connections_per_peer_max), (4, 2));
    }

    #[tokio::test]
    async fn liveness_answers_on_the_health_port() {
        use tonic_health::pb::{
            HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
        };
        let port =
            HealthPort::bind(&World::system(), "127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = port.address();
        let (_reporter, service) = reporter().await;
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = tokio::spawn(port.serve(service, async move {
            let _ = stopped.await;
        }));
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
            .unwrap()
            .connect()
            .await
            .unwrap();
        let answer = HealthClient::new(channel)
            .check(HealthCheckRequest { service: String::new() })
            .await
            .unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
        stop.send(()).unwrap();
        server.await.unwrap();
    }
}
