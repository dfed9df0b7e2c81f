//! TLS configuration of each lane.

use std::{collections::BTreeMap, sync::Arc};

use clarion_proto::ids::LaneId;
use rustls::{CipherSuite, ClientConfig, ClientConnection, RootCertStore, crypto::CryptoProvider};
use rustls_pki_types::ServerName;

use crate::lane::spec::LaneSpec;

/// The only protocol that gateways speak.
const ALPN: &[u8] = b"h2";

/// One configuration for each lane, kept for the sessions that it remembers.
#[derive(Debug)]
pub(super) struct Tls {
    provider: Arc<CryptoProvider>,
    lanes: BTreeMap<LaneId, (Arc<RootCertStore>, Arc<ClientConfig>)>,
}

impl Tls {
    pub(super) fn new() -> Self {
        let mut provider = rustls::crypto::ring::default_provider();
        // AES-128 first: as strong as is asked for, and cheaper by a quarter. The peer still
        // chooses.
        provider
            .cipher_suites
            .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
        Self { provider: Arc::new(provider), lanes: BTreeMap::new() }
    }

    /// A new session with a lane's gateway.
    pub(super) fn connect(&mut self, lane: &LaneSpec) -> Result<ClientConnection, rustls::Error> {
        let known = self.lanes.get(&lane.id).filter(|(roots, _)| Arc::ptr_eq(roots, &lane.roots));
        let config = match known {
            Some((_, config)) => Arc::clone(config),
            None => {
                let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
                    .with_safe_default_protocol_versions()?
                    .with_root_certificates(Arc::clone(&lane.roots))
                    .with_no_client_auth();
                config.alpn_protocols = vec![ALPN.to_vec()];
                let config = Arc::new(config);
                self.lanes.insert(lane.id, (Arc::clone(&lane.roots), Arc::clone(&config)));
                config
            }
        };
        let name = ServerName::try_from(lane.server_name.clone()).map_err(|_| {
            rustls::Error::General(format!("{:?} is not a server name", lane.server_name))
        })?;
        ClientConnection::new(config, name)
    }
}

/// Whether the peer agreed to HTTP/2; without it there is no speaking to it.
pub(super) fn speaks_h2(tls: &ClientConnection) -> bool {
    tls.alpn_protocol() == Some(ALPN)
}
