//! Checks by an HTTP request, in clear text or over TLS, in HTTP/1.1 or HTTP/2.

use std::{
    ops::RangeInclusive,
    sync::{Arc, atomic::AtomicU8},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    HeaderMap, Method, Request, Response, Uri,
    body::{Body, Incoming},
    client::conn::{http1, http2},
    header::{self, HeaderName, HeaderValue},
    rt::{Read, Write},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

use super::{
    super::{failure::Failure, socket},
    Common, Destination, Stage,
    expression::Expression,
    tls::TlsOptions,
};
use crate::{
    health::hyper_tasks::Tasks,
    policy::config::model::{HttpProbe, HttpVersion},
};

/// Longest part of a body that is evaluated, bytes.
const MAX_BODY: usize = 64 << 10;
/// Longest head of an answer, bytes.
const MAX_HEAD: usize = 64 << 10;
/// How long to wait for an orderly close after the answer.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_millis(100);

/// A request, and the conditions of a good answer.
pub(in super::super) struct HttpCheck {
    method: Method,
    path: String,
    host: Option<String>,
    headers: HeaderMap,
    status: Vec<RangeInclusive<u16>>,
    body: Option<Expression>,
    http2: bool,
    tls: Option<Secured>,
}

/// TLS settings of an `https` check.
struct Secured {
    name: Option<String>,
    verify: bool,
}

/// An answer with an expected status.
pub(in super::super) struct Answer {
    status: u16,
    headers: HeaderMap,
    /// Its beginning, if the check evaluates the body.
    body: Vec<u8>,
}

/// Why an exchange has no good answer.
enum ExchangeError {
    /// The answer is not as expected.
    Unexpected(Failure),
    /// The exchange broke off.
    Broken(hyper::Error),
}

impl HttpCheck {
    pub(in super::super) fn new(probe: &HttpProbe, tls: bool) -> Result<Self, Failure> {
        let invalid = |what: &str, text: &str| {
            Failure::host(format!("not probed: {text:?} is not an HTTP {what}"))
        };
        let method = Method::from_bytes(probe.method.as_bytes())
            .map_err(|_| invalid("method", &probe.method))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &probe.headers {
            let name = HeaderName::from_bytes(name.as_bytes());
            let name = name.map_err(|_| invalid("header", &probe.method))?;
            let value = HeaderValue::from_str(value).map_err(|_| invalid("header value", value))?;
            headers.append(name, value);
        }
        let name = probe.sni.clone().or_else(|| probe.host.as_deref().and_then(name_in));
        Ok(Self {
            method,
            path: probe.path.clone(),
            host: probe.host.clone(),
            headers,
            status: probe.status.clone(),
            body: probe.body.as_deref().map(Expression::new),
            http2: probe.version == HttpVersion::Http2,
            tls: tls.then_some(Secured { name, verify: probe.verify }),
        })
    }

    /// An agent's query: GET, over HTTP/1.1 in clear text.
    pub(in super::super) fn get(path: &str) -> Self {
        Self {
            method: Method::GET,
            path: path.to_owned(),
            host: None,
            headers: HeaderMap::new(),
            status: vec![200..=299],
            body: None,
            http2: false,
            tls: None,
        }
    }

    pub(super) async fn check(
        &self,
        to: Destination,
        common: &Arc<Common>,
        stage: &Stage,
    ) -> Result<(), Failure> {
        self.check_body(&self.answer(to, common, stage).await?)
    }

    /// The check over a connection, for the fuzz targets.
    pub(in super::super) async fn check_over<S>(&self, stream: S) -> Result<(), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stage = Stage(AtomicU8::new(Stage::ANSWER));
        let request = self.request("192.0.2.1:80", "192.0.2.1")?;
        self.check_body(&self.exchange(TokioIo::new(stream), request, &stage).await?)
    }

    fn check_body(&self, answer: &Answer) -> Result<(), Failure> {
        let Some(wanted) = &self.body else { return Ok(()) };
        if wanted.is_match(&answer.body)? {
            return Ok(());
        }
        let body = match answer.body.len() {
            0 => "the body is empty, and".to_owned(),
            MAX_BODY => format!("the first {} KiB of the body", MAX_BODY >> 10),
            length => format!("the body ({length} bytes)"),
        };
        Err(Failure::backend(format!("{body} does not match {wanted:?}")))
    }

    /// The value of a header of an answer with an expected status, as text.
    pub(in super::super) async fn header(
        &self,
        to: Destination,
        common: &Arc<Common>,
        stage: &Stage,
        name: &str,
    ) -> Result<String, Failure> {
        let answer = self.answer(to, common, stage).await?;
        match answer.headers.get(name) {
            Some(value) => Ok(String::from_utf8_lossy(value.as_bytes()).into_owned()),
            None => Err(Failure::backend(format!("answered {} without {name}", answer.status))),
        }
    }

    async fn answer(
        &self,
        to: Destination,
        common: &Arc<Common>,
        stage: &Stage,
    ) -> Result<Answer, Failure> {
        let endpoint = to.socket()?;
        let request = self.request(&endpoint.to_string(), &to.address.to_string())?;
        stage.enter(Stage::CONNECT);
        let stream = socket::connect(endpoint, to.mark).await?;
        let Some(tls) = &self.tls else {
            return self.exchange(TokioIo::new(stream), request, stage).await;
        };
        stage.enter(Stage::HANDSHAKE);
        let options = TlsOptions { verify: tls.verify, http2: self.http2 };
        let stream = common.tls.connect(stream, tls.name.as_deref(), to.address, options).await?;
        self.exchange(TokioIo::new(stream), request, stage).await
    }

    /// `endpoint` is the address with the port.
    fn request(&self, endpoint: &str, address: &str) -> Result<Request<Empty<Bytes>>, Failure> {
        let invalid = |_| Failure::host(format!("not probed: {:?} is not an HTTP path", self.path));
        let host = self.host.clone().unwrap_or_else(|| {
            if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
        });
        let mut request = Request::new(Empty::new());
        *request.method_mut() = self.method.clone();
        if self.http2 {
            let scheme = if self.tls.is_some() { "https" } else { "http" };
            let authority = self.host.as_deref().unwrap_or(endpoint);
            let uri = Uri::builder().scheme(scheme).authority(authority);
            *request.uri_mut() = uri.path_and_query(&*self.path).build().map_err(invalid)?;
        } else {
            *request.uri_mut() =
                Uri::builder().path_and_query(&*self.path).build().map_err(invalid)?;
            let value = HeaderValue::from_str(&host);
            let value =
                value.map_err(|_| Failure::host(format!("not probed: bad Host {host:?}")))?;
            let headers = request.headers_mut();
            headers.insert(header::HOST, value);
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let headers = request.headers_mut();
        headers.insert(header::USER_AGENT, HeaderValue::from_static("director-health-check"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        // These replace ours of the same name.
        for name in self.headers.keys() {
            headers.remove(name);
        }
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        Ok(request)
    }

    async fn exchange<S>(
        &self,
        stream: S,
        request: Request<Empty<Bytes>>,
        stage: &Stage,
    ) -> Result<Answer, Failure>
    where
        S: Read + Write + Unpin + Send + 'static,
    {
        stage.enter(Stage::ANSWER);
        let mut tasks = Tasks::default();
        let response = if self.http2 {
            let mut http = http2::Builder::new(tasks.executor());
            http.initial_stream_window_size(MAX_BODY as u32);
            http.initial_connection_window_size(MAX_BODY as u32);
            http.max_header_list_size(MAX_HEAD as u32);
            match http.handshake(stream).await {
                Ok((mut sender, connection)) => {
                    tasks.connection(connection);
                    sender.send_request(request).await
                }
                Err(error) => Err(error),
            }
        } else {
            let mut http = http1::Builder::new();
            http.max_buf_size(MAX_HEAD);
            match http.handshake(stream).await {
                Ok((mut sender, connection)) => {
                    tasks.connection(connection);
                    sender.send_request(request).await
                }
                Err(error) => Err(error),
            }
        };
        let result = match response {
            Ok(response) => self.take(response, stage).await,
            Err(error) => Err(ExchangeError::Broken(error)),
        };
        let (answer, rest) = match result {
            Ok(taken) => taken,
            Err(ExchangeError::Unexpected(failure)) => return Err(failure),
            Err(ExchangeError::Broken(error)) => {
                let protocol = if self.http2 { "HTTP/2" } else { "HTTP/1.1" };
                return Err(hyper_failure(&tasks.cause(error).await, protocol));
            }
        };
        // The result does not wait for the orderly close.
        tokio::spawn(timeout(CLOSE_TIMEOUT, async move {
            drain(rest).await;
            tasks.join().await;
        }));
        Ok(answer)
    }

    /// Reads the evaluated part of the answer, and returns it with the rest.
    async fn take(
        &self,
        response: Response<Incoming>,
        stage: &Stage,
    ) -> Result<(Answer, Incoming), ExchangeError> {
        let status = response.status().as_u16();
        if !self.status.iter().any(|range| range.contains(&status)) {
            let reason = format!("answered {status}, wanted {}", self.wanted());
            return Err(ExchangeError::Unexpected(Failure::Backend(reason)));
        }
        let (head, mut rest) = response.into_parts();
        let mut body = Vec::new();
        if self.body.is_some() {
            stage.enter(Stage::BODY);
            while body.len() < MAX_BODY
                && let Some(frame) = rest.frame().await
            {
                let frame = frame.map_err(ExchangeError::Broken)?;
                let data = frame.data_ref().map_or(&[][..], |data| data);
                body.extend_from_slice(&data[..data.len().min(MAX_BODY - body.len())]);
            }
        }
        Ok((Answer { status, headers: head.headers, body }, rest))
    }

    /// The good status codes: `200-299, 404`.
    fn wanted(&self) -> String {
        let range = |range: &RangeInclusive<u16>| match (range.start(), range.end()) {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        };
        self.status.iter().map(range).collect::<Vec<_>>().join(", ")
    }
}

/// Reads the rest of a short body, so that the server can finish sending it.
async fn drain(mut body: Incoming) {
    let mut left = MAX_BODY;
    if body.size_hint().lower() > left as u64 {
        return;
    }
    while let Some(Ok(frame)) = body.frame().await {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        if left == 0 {
            return;
        }
    }
}

/// The name in a Host header: without its port; none if it is an address.
fn name_in(host: &str) -> Option<String> {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let is_address = name.starts_with('[') || name.parse::<std::net::IpAddr>().is_ok();
    (!is_address && !name.is_empty()).then(|| name.to_owned())
}

/// The error of an exchange, in words. `protocol` is the expected one.
pub(super) fn hyper_failure(error: &hyper::Error, protocol: &str) -> Failure {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(tls) = super::tls::tls_error(inner) {
            return Failure::Backend(super::tls::describe(tls, "the host"));
        }
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            return io.into();
        }
        // A cancelled request has its cause as a source.
        if let Some(cause) = inner.downcast_ref::<hyper::Error>() {
            return hyper_failure(cause, protocol);
        }
        source = inner.source();
    }
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        // hyper does not expose why an HTTP/2 connection ended.
        return Failure::backend(match protocol {
            "HTTP/2" => "closed the connection, or does not support HTTP/2",
            _ => "closed the connection before a whole answer",
        });
    }
    // hyper has no accessor for this error: bytes arrived before the request was sent.
    if error.to_string().contains("unexpected message") {
        return Failure::backend(format!("sent data before the request: this is not {protocol}"));
    }
    if error.is_parse_too_large() {
        return Failure::backend("answered with a head that is too long");
    }
    if error.is_parse() {
        let reason = format!("the answer is not {protocol}: {error}");
        return Failure::Backend(super::super::failure::one_line(&reason));
    }
    let detail =
        std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    Failure::Backend(super::super::failure::one_line(&format!("{protocol}: {detail}")))
}
