//! Encrypted connections: the server's certificate, and whether clients need one.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

/// How the server proves who it is, and what it asks of clients.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

/// PEM that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificates or the key cannot be read.
    #[error("read the PEM of {0}")]
    Pem(&'static str, #[source] pem::Error),
    /// Certificates and key do not fit, or cannot be used.
    #[error("use certificates and key")]
    Use(#[from] rustls::Error),
    /// The clients' authority cannot be used.
    #[error("use the authority of clients")]
    Clients(#[from] VerifierBuilderError),
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// All in PEM: the server's certificate and those that lead to its authority, its private key, and the authorities
    /// of which clients must have a certificate; without the last, clients need none. What is proved is that there is
    /// a certificate; who may do what does not depend on it.
    pub fn from_pem(
        certificates: &str,
        key: &str,
        client_authorities: Option<&str>,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let config = match client_authorities {
            None => config.with_no_client_auth(),
            Some(authorities) => {
                let mut roots = RootCertStore::empty();
                for authority in read(authorities, "the authority of clients")? {
                    roots.add(authority)?;
                }
                let roots = Arc::new(roots);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                config.with_client_cert_verifier(verifier.build()?)
            }
        };
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes());
        let key = key.map_err(|error| TlsError::Pem("the key", error))?;
        let certificates = read(certificates, "the certificates")?;
        let config = config.with_single_cert(certificates, key)?;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    pub(super) async fn accept<S>(&self, stream: S) -> std::io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.0.accept(stream).await
    }
}

fn read(text: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_slice_iter(text.as_bytes());
    let found = found.collect::<Result<Vec<_>, _>>();
    found.map_err(|error| TlsError::Pem(what, error))
}
