//! Trust anchors of TLS clients: a private CA if one is configured, otherwise the public root CAs.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, pem::PemObject};

/// A CA file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// The file is not in PEM format, or has no certificate blocks.
    #[error("must be a PEM file of certificates: {0}")]
    Pem(String),
    /// The file is PEM without a certificate.
    #[error("must contain a certificate")]
    Empty,
    /// A certificate that cannot be a trust anchor.
    #[error("certificate {index}: cannot be a trust anchor: {problem}")]
    Certificate {
        /// Position of the certificate in the file, counted from 0.
        index: usize,
        /// The error that rustls returned.
        problem: rustls::Error,
    },
}

/// The roots of a private CA in PEM, or the public root CAs if `pem` is empty.
///
/// # Errors
/// The reason why the PEM cannot be used.
pub fn roots(pem: &str) -> Result<Arc<RootCertStore>, RootsError> {
    let mut store = RootCertStore::empty();
    if pem.trim().is_empty() {
        store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        return Ok(Arc::new(store));
    }
    for (index, certificate) in CertificateDer::pem_slice_iter(pem.as_bytes()).enumerate() {
        let certificate = certificate.map_err(|e| RootsError::Pem(e.to_string()))?;
        store.add(certificate).map_err(|problem| RootsError::Certificate { index, problem })?;
    }
    if store.is_empty() { Err(RootsError::Empty) } else { Ok(Arc::new(store)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_roots_stand_in_for_an_absent_ca() {
        assert!(roots("").unwrap().len() > 50);
    }

    #[test]
    fn a_file_without_certificates_is_refused() {
        assert!(matches!(roots("hello"), Err(RootsError::Empty)));
        let broken = "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
        assert!(matches!(roots(broken), Err(RootsError::Pem(_))));
        let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(roots(nonsense), Err(RootsError::Certificate { index: 0, .. })));
    }
}
