//! Certificates that are right, of another name, out of date, or signed by a stranger.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};

/// A key and a certificate.
pub struct Identity {
    key: KeyPair,
    certificate: rcgen::Certificate,
}

impl Identity {
    /// The certificate, and its key, as files have them.
    pub fn pems(&self) -> [String; 2] {
        [self.certificate.pem(), self.key.serialize_pem()]
    }

    /// A TLS server's side.
    ///
    /// # Panics
    /// If key and certificate do not fit.
    pub fn server(&self) -> ServerConfig {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).expect("a key");
        ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.der().clone()], key)
            .expect("key and certificate fit")
    }
}

/// Somebody to sign certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// One of this name.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("signed"))
    }

    /// What a host that trusts it has in a file.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// For these names, until the end of `year`.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn sign(&self, names: &[&str], year: i32) -> Identity {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 12, 31);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("signed");
        Identity { key, certificate }
    }
}
