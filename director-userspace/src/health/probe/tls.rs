//! TLS connections, verified by this host's root certificates.

use std::{error::Error, net::IpAddr, sync::Arc, time::Duration};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore,
    SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{sync::Mutex, time::Instant};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::super::{
    failure::{Failure, one_line},
    socket::Stream,
};

/// How long loaded root certificates are used: new ones are trusted after this time at the latest.
const ROOTS_TTL: Duration = Duration::from_secs(300);

/// Options of a TLS connection.
#[derive(Clone, Copy)]
pub(super) struct TlsOptions {
    /// Whether the certificate must be valid.
    pub(super) verify: bool,
    /// Whether ALPN offers HTTP/2, else HTTP/1.1.
    pub(super) http2: bool,
}

/// This host's root certificates, loaded on first use.
#[derive(Default)]
pub(in super::super) struct Tls {
    roots: Mutex<Option<(Instant, Arc<RootCertStore>)>>,
}

impl Tls {
    /// Performs the handshake over `stream` with the server `name`, or `address` without a name.
    pub(super) async fn connect(
        &self,
        stream: Stream,
        name: Option<&str>,
        address: IpAddr,
        options: TlsOptions,
    ) -> Result<TlsStream<Stream>, Failure> {
        // An address is not sent by SNI, but a certificate may be for one.
        let server = match name.map(|name| ServerName::try_from(name.to_owned())) {
            Some(Ok(server)) => server,
            None => ServerName::from(address),
            Some(Err(_)) => {
                let name = name.unwrap_or_default();
                return Err(Failure::host(format!("not probed: {name:?} is not a server name")));
            }
        };
        let config = self.config(options).await?;
        let shown = server.to_str().into_owned();
        let connected = TlsConnector::from(Arc::new(config)).connect(server, stream).await;
        let stream = connected.map_err(|error| handshake_failure(&error, &shown))?;
        if options.http2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(Failure::backend(
                "does not support HTTP/2 over TLS (ALPN did not select h2)",
            ));
        }
        Ok(stream)
    }

    async fn config(&self, options: TlsOptions) -> Result<ClientConfig, Failure> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| Failure::host(format!("not probed: {error}")))?;
        let builder = if options.verify {
            builder.with_root_certificates(self.roots().await?)
        } else {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        };
        let mut config = builder.with_no_client_auth();
        config.alpn_protocols =
            vec![if options.http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        // Each probe behaves like a new client; a resumed session sends no certificate.
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    async fn roots(&self) -> Result<Arc<RootCertStore>, Failure> {
        let mut known = self.roots.lock().await;
        if let Some((read, roots)) = &*known
            && read.elapsed() < ROOTS_TTL
        {
            return Ok(roots.clone());
        }
        let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
        let found =
            found.map_err(|_| Failure::host("not probed: the root certificates cannot be read"))?;
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(found.certs);
        if store.is_empty() {
            let why = found.errors.first().map(|error| one_line(&format!(": {error}")));
            return Err(Failure::host(format!(
                "not probed: this host has no root certificates (install ca-certificates, or set \
                 verify: false){}",
                why.unwrap_or_default()
            )));
        }
        let roots = Arc::new(store);
        *known = Some((Instant::now(), roots.clone()));
        Ok(roots)
    }
}

/// The TLS error in the sources of `error`.
pub(in super::super) fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a TlsError> {
    let io = error.downcast_ref::<std::io::Error>();
    io.and_then(|error| error.get_ref()).and_then(|inner| inner.downcast_ref())
}

fn handshake_failure(error: &std::io::Error, name: &str) -> Failure {
    let Some(tls) = tls_error(error) else {
        if error.kind() == std::io::ErrorKind::UnexpectedEof {
            return Failure::backend("closed the connection in the TLS handshake");
        }
        return error.into();
    };
    Failure::Backend(describe(tls, name))
}

/// A TLS error in words.
pub(super) fn describe(error: &TlsError, name: &str) -> String {
    use CertificateError as Certificate;
    match error {
        TlsError::InvalidCertificate(problem) => match problem {
            Certificate::Expired | Certificate::ExpiredContext { .. } => {
                "the certificate has expired".into()
            }
            Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => {
                "the certificate is not valid yet".into()
            }
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
                one_line(&format!("the certificate is not for {name}"))
            }
            Certificate::UnknownIssuer => {
                "the certificate's issuer is not trusted by this host".into()
            }
            other => one_line(&format!("bad certificate: {other}")),
        },
        TlsError::AlertReceived(alert) => format!("refused the TLS handshake: {alert:?}"),
        TlsError::InvalidMessage(_) => "the answer is not TLS".into(),
        other => one_line(&format!("TLS: {other}")),
    }
}

/// Accepts any certificate whose key the server has.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
