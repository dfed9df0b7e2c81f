//! Encryption of a connection, as `sslmode` asks for it.
//!
//! PostgreSQL begins in clear text: the client asks for TLS, the server answers with one byte. No
//! more than that byte is read before the handshake, so that bytes that somebody put in behind it
//! are not taken for the server's encrypted ones (CVE-2021-23222).

use std::{io, sync::Arc};

use clarion_runtime::{roots, world::Stream};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use super::address::TlsMode;

/// The message `SSLRequest`: its length, and the number that stands for a protocol version.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// What encrypts connections; `None`: nothing does.
#[derive(Clone)]
pub(super) struct Tls(Option<Arc<ClientConfig>>);

impl Tls {
    /// The encryption of a mode.
    ///
    /// # Errors
    /// A CA file that cannot be used.
    pub(super) fn new(mode: &TlsMode) -> Result<Self, String> {
        let (ca_pem, checks_host) = match mode {
            TlsMode::Disable => return Ok(Self(None)),
            TlsMode::Require { ca_pem } => (ca_pem, false),
            TlsMode::VerifyFull { ca_pem } => (ca_pem, true),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots =
            roots::roots(ca_pem.as_deref().unwrap_or_default()).map_err(|e| e.to_string())?;
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?;
        let config = if checks_host {
            builder.with_root_certificates(roots).with_no_client_auth()
        } else {
            let verifier = AnyHost::new(ca_pem.is_some().then_some(roots), provider)?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
                .with_no_client_auth()
        };
        Ok(Self(Some(Arc::new(config))))
    }

    /// Encrypts a fresh connection to a host of the URL.
    ///
    /// # Errors
    /// The server does not encrypt, or its certificate is not trusted.
    pub(super) async fn encrypt(&self, mut stream: Stream, host: &str) -> io::Result<Stream> {
        let Some(config) = &self.0 else { return Ok(stream) };
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        stream.write_all(&SSL_REQUEST).await?;
        stream.flush().await?;
        match stream.read_u8().await? {
            b'S' => {}
            b'N' => {
                return Err(io::Error::other(
                    "the server does not encrypt: set ssl = on there, or sslmode=disable here",
                ));
            }
            _ => return Err(io::Error::other("the server does not speak PostgreSQL's protocol")),
        }
        let encrypted = TlsConnector::from(Arc::clone(config)).connect(name, stream).await?;
        Ok(Stream::new(encrypted))
    }
}

/// Verifies certificates for `require`: the issuer only if a CA is given, the host never.
#[derive(Debug)]
struct AnyHost {
    issuer: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl AnyHost {
    fn new(
        roots: Option<Arc<RootCertStore>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let verifier = |roots| {
            WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
                .build()
                .map_err(|e| e.to_string())
        };
        Ok(Self { issuer: roots.map(verifier).transpose()?, provider })
    }
}

impl ServerCertVerifier for AnyHost {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(issuer) = &self.issuer else { return Ok(ServerCertVerified::assertion()) };
        match issuer.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        {
            // The issuer is verified before the name.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
