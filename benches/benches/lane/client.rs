//! Settings of every client, and the code that clients share.

use std::{fs, io, net::SocketAddr, path::PathBuf, sync::Arc};

use clap::{Args, ValueEnum};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

/// Host name in certificates and `:authority`.
pub(crate) const HOST: &str = "localhost";
/// Topic of all pushes.
pub(crate) const TOPIC: &str = "org.example.clarion";

/// Kind of client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// nghttp2's load generator, the reference.
    H2load,
    /// The crate `h2` with its defaults.
    H2,
    /// The crate `h2` on sockets that hide vectored writes, so that frames share a write.
    H2Tuned,
    /// The crate `hyper`.
    Hyper,
    /// Our connection on a socket, in a simple loop.
    Lane,
    /// A core's thread as a shard runs it: partitions, walk, lane, reports; without the control
    /// plane.
    Core,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::H2load => "h2load",
            Self::H2 => "h2",
            Self::H2Tuned => "h2-tuned",
            Self::Hyper => "hyper",
            Self::Lane => "lane",
            Self::Core => "core",
        }
    }
}

/// Settings of one run of one client.
#[derive(Debug, Clone, Args)]
pub(crate) struct Client {
    #[arg(long)]
    pub(crate) address: SocketAddr,
    /// CA file of the server; cleartext if absent
    #[arg(long)]
    pub(crate) ca_file: Option<PathBuf>,
    /// File with the value of `authorization`
    #[arg(long)]
    pub(crate) authorization_file: PathBuf,
    #[arg(long)]
    pub(crate) connections: usize,
    #[arg(long)]
    pub(crate) streams: usize,
    #[arg(long)]
    pub(crate) requests: u64,
    #[arg(long)]
    pub(crate) body_bytes: usize,
    /// Send `authorization` as a literal in each request
    #[arg(long)]
    pub(crate) literal: bool,
}

impl Client {
    /// Returns the settings as arguments of a process.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            format!("--address={}", self.address),
            format!("--authorization-file={}", self.authorization_file.display()),
            format!("--connections={}", self.connections),
            format!("--streams={}", self.streams),
            format!("--requests={}", self.requests),
            format!("--body-bytes={}", self.body_bytes),
        ];
        arguments.extend(self.ca_file.as_ref().map(|file| format!("--ca-file={}", file.display())));
        arguments.extend(self.literal.then(|| "--literal".to_owned()));
        arguments
    }

    pub(crate) fn authorization(&self) -> io::Result<String> {
        Ok(fs::read_to_string(&self.authorization_file)?.trim().to_owned())
    }

    /// Returns a JSON body of the configured length.
    pub(crate) fn body(&self) -> Vec<u8> {
        let (head, tail) = (r#"{"aps":{"alert":""#, r#""}}"#);
        let text = "x".repeat(self.body_bytes.saturating_sub(head.len() + tail.len()));
        format!("{head}{text}{tail}").into_bytes()
    }
}

/// Returns the trust anchors for the server's certificate; `None` for cleartext.
pub(crate) fn roots(client: &Client) -> io::Result<Option<RootCertStore>> {
    let Some(file) = &client.ca_file else { return Ok(None) };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(io::Error::other)? {
        roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    Ok(Some(roots))
}

/// Returns TLS settings like the driver's; `None` for cleartext.
pub(crate) fn tls_config(client: &Client) -> io::Result<Option<Arc<ClientConfig>>> {
    let Some(roots) = roots(client)? else { return Ok(None) };
    let mut provider = rustls::crypto::ring::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Some(Arc::new(config)))
}
