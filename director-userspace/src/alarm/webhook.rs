//! Webhooks: each message is POSTed as JSON, over a connection of its own.

use std::{fmt::Display, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, StatusCode, Uri,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT},
    http::uri::{Authority, PathAndQuery},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    message::{Message, Origin, Payload},
    worker::{Channel, Failure},
};

/// The timeout of one complete try.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
/// Most addresses of a name that one try connects to.
const MAX_ADDRESSES: u32 = 3;

/// One URL.
pub(super) struct Webhook {
    uri: Uri,
    origin: Arc<Origin>,
    timeout: Duration,
    /// Created on first use.
    tls: Option<Arc<ClientConfig>>,
}

impl Webhook {
    /// A webhook for this URL.
    ///
    /// # Errors
    /// If it is not an `http://` or `https://` URL, in words.
    pub(super) fn new(url: &str, origin: Arc<Origin>, timeout: Duration) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error| format!("not a URL: {error}"))?;
        let authority = uri.authority().map(Authority::as_str);
        match (uri.scheme_str(), authority) {
            (Some("http" | "https"), Some(authority)) if !authority.contains('@') => {}
            (Some("http" | "https"), Some(_)) => {
                return Err("a webhook's URL cannot hold a user and a password".into());
            }
            _ => return Err("a webhook's URL begins with http:// or https://".into()),
        }
        Ok(Self { uri, origin, timeout, tls: None })
    }

    /// The host without the brackets of an IPv6 address.
    fn host(&self) -> &str {
        self.uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
    }

    async fn post(&mut self, body: String) -> Result<(), Failure> {
        let is_https = self.uri.scheme_str() == Some("https");
        let port = self.uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        let tcp = self.connect(port).await?;
        if !is_https {
            return self.send(tcp, body).await;
        }
        let tls = match &self.tls {
            Some(tls) => tls.clone(),
            None => self.tls.insert(system_roots().await?).clone(),
        };
        let name = ServerName::try_from(self.host().to_owned());
        let name = name.map_err(|error| Failure::Never(format!("no name for TLS: {error}")))?;
        let stream = TlsConnector::from(tls).connect(name, tcp).await;
        self.send(stream.map_err(|error| failed(&"TLS", &error))?, body).await
    }

    async fn connect(&self, port: u16) -> Result<TcpStream, Failure> {
        let host = self.host();
        let addresses = lookup_host((host, port)).await.map_err(|error| failed(&"DNS", &error))?;
        let mut failure = Failure::again("the name has no address");
        for address in addresses.take(MAX_ADDRESSES as usize) {
            match timeout(self.timeout / MAX_ADDRESSES, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failure = failed(&address, &error),
                Err(_) => failure = failed(&address, &"does not answer"),
            }
        }
        Err(failure)
    }

    async fn send<S>(&self, stream: S, body: String) -> Result<(), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(&"HTTP", &error))?;
        let target = self.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let request = Request::post(target)
            .header(HOST, self.uri.authority().map_or("", Authority::as_str))
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("director/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Failure::Never(error.to_string()))?;
        let mut answer = pin!(sender.send_request(request));
        let mut connection = pin!(connection);
        let answer = tokio::select! {
            biased;
            answer = &mut answer => answer,
            // By then the answer or its error is available.
            _ = &mut connection => answer.await,
        };
        let answer = answer.map_err(|error| failed(&"HTTP", &error))?;
        // The body is not read: it is not used and may be endless.
        let after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let after = after.and_then(|value| value.parse().ok()).map(Duration::from_secs);
        evaluate(answer.status(), after)
    }
}

/// Evaluates the status of an answer.
fn evaluate(status: StatusCode, after: Option<Duration>) -> Result<(), Failure> {
    let why = format!("answered {status}");
    match status {
        _ if status.is_success() => Ok(()),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Err(Failure::Again { why, after })
        }
        _ if status.is_server_error() => Err(Failure::Again { why, after }),
        _ if status.is_redirection() => {
            Err(Failure::Never(format!("{why}; redirections are not followed, name the new URL")))
        }
        _ => Err(Failure::Never(why)),
    }
}

fn failed(what: &dyn Display, error: &dyn Display) -> Failure {
    Failure::again(format!("{what}: {error}"))
}

/// A TLS client configuration with this host's root certificates.
async fn system_roots() -> Result<Arc<ClientConfig>, Failure> {
    let config = tokio::task::spawn_blocking(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err("this host has no root certificates; install ca-certificates".to_owned());
        }
        client_config(roots)
    });
    config.await.map_err(|error| failed(&"TLS", &error))?.map_err(Failure::again)
}

/// A TLS client configuration with these root certificates.
fn client_config(roots: RootCertStore) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

impl Channel for Webhook {
    fn name(&self) -> String {
        // Without path and query, which often contain secrets.
        let scheme = self.uri.scheme_str().unwrap_or_default();
        format!("webhook {scheme}://{}", self.uri.authority().map_or("", Authority::as_str))
    }

    async fn deliver(&mut self, messages: &[Arc<Message>], lost: u64) -> Result<(), Failure> {
        for message in messages {
            let body = Payload::new(&self.origin, message, lost).json();
            let time = self.timeout;
            match timeout(time, self.post(body)).await {
                Ok(result) => result?,
                Err(_) => return Err(Failure::again(format!("no answer within {time:?}"))),
            }
        }
        Ok(())
    }
}
