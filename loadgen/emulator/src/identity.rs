//! Certificates of the emulator: a private CA and a server certificate, generated at each start.
//! They can also be read from files, so that clients know the CA before the emulator runs.

use std::{fs, io, path::PathBuf, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde::{Deserialize, Serialize};

/// PEM files with the certificates that replace generated ones.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// PEM file with the server certificate, followed by the certificates between it and the CA.
    pub certificate_file: PathBuf,
    /// PEM file with the private key of the server certificate.
    pub key_file: PathBuf,
    /// PEM file with the CA that clients must trust.
    pub ca_file: PathBuf,
}

/// Certificate and key of the server, and the CA that clients must trust, all in PEM. It implements
/// no `Debug`, because it holds a key.
pub struct Identity {
    /// Certificate of the CA that clients must trust, PEM.
    pub ca_pem: String,
    /// Certificate of the server, PEM.
    pub certificate_pem: String,
    /// Private key of the server, PKCS#8 in PEM.
    pub key_pem: String,
    /// Expired certificate for the same key; `None` if the key of the CA is unknown.
    expired_pem: Option<String>,
}

impl Identity {
    /// Generates a CA and a server certificate, and discards the key of the CA.
    ///
    /// # Errors
    /// If a name is neither a DNS name nor an IP address.
    pub fn generate(names: &[String]) -> io::Result<Self> {
        let ca_key = KeyPair::generate().map_err(io::Error::other)?;
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        ca.distinguished_name.push(DnType::CommonName, "Clarion gateway emulator, private CA");
        let ca_pem = ca.self_signed(&ca_key).map_err(io::Error::other)?.pem();
        let issuer = Issuer::new(ca, ca_key);

        let key = KeyPair::generate().map_err(io::Error::other)?;
        let mut server = CertificateParams::new(names).map_err(io::Error::other)?;
        server.distinguished_name.push(DnType::CommonName, "Clarion gateway emulator");
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        // Strict clients (OpenSSL's X509_STRICT, Python 3.13) require the identifier of the
        // issuer's key.
        server.use_authority_key_identifier_extension = true;
        let certificate_pem = server.signed_by(&key, &issuer).map_err(io::Error::other)?.pem();
        server.not_before = rcgen::date_time_ymd(2019, 1, 1);
        server.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let expired_pem = server.signed_by(&key, &issuer).map_err(io::Error::other)?.pem();
        Ok(Self {
            ca_pem,
            certificate_pem,
            key_pem: key.serialize_pem(),
            expired_pem: Some(expired_pem),
        })
    }

    /// Reads the certificates and the key from files.
    ///
    /// # Errors
    /// If a file cannot be read; the error names the file.
    pub fn load(files: &TlsFiles) -> io::Result<Self> {
        let read = |path: &PathBuf| {
            fs::read_to_string(path)
                .map_err(|e| io::Error::new(e.kind(), format!("tls: {}: {e}", path.display())))
        };
        Ok(Self {
            ca_pem: read(&files.ca_file)?,
            certificate_pem: read(&files.certificate_file)?,
            key_pem: read(&files.key_file)?,
            expired_pem: None,
        })
    }

    /// Creates a server configuration for HTTP/2 over TLS 1.2 and 1.3.
    ///
    /// # Errors
    /// `InvalidData` if the text is not PEM, or if certificate and key do not belong together.
    pub(super) fn server_config(&self) -> io::Result<Arc<ServerConfig>> {
        self.config(&self.certificate_pem)
    }

    /// Creates the same configuration with the expired certificate, if there is one.
    ///
    /// # Errors
    /// Those of [`Self::server_config`].
    pub(super) fn expired_config(&self) -> io::Result<Option<Arc<ServerConfig>>> {
        self.expired_pem.as_deref().map(|pem| self.config(pem)).transpose()
    }

    fn config(&self, certificate_pem: &str) -> io::Result<Arc<ServerConfig>> {
        let invalid =
            |what: String| io::Error::new(io::ErrorKind::InvalidData, format!("tls: {what}"));
        let chain = CertificateDer::pem_slice_iter(certificate_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|e| invalid(format!("certificate: {e}")))?;
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes())
            .map_err(|e| invalid(format!("key: {e}")))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|e| invalid(e.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.send_half_rtt_data = true;
        Ok(Arc::new(config))
    }
}
