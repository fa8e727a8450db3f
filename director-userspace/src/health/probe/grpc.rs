//! gRPC's health service (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>): one
//! call over HTTP/2, whose request and response have one field each.

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Method, Request, Uri,
    client::conn::http2,
    header::{CONTENT_TYPE, HeaderValue, TE, USER_AGENT},
    http::response,
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    super::{
        failure::{Failure, one_line},
        hyper_tasks::Tasks,
        socket,
    },
    Destination, Stage,
    http::{CLOSE_TIMEOUT, hyper_failure},
};
use crate::policy::config::model::GrpcProbe;

/// Longer than any response: five bytes, and a field of two.
const MAX_MESSAGE: usize = 1024;

pub(in super::super) struct Call {
    service: String,
}

impl Call {
    pub(in super::super) fn new(probe: &GrpcProbe) -> Self {
        Self { service: probe.service.clone() }
    }

    pub(super) async fn check(&self, to: Destination, stage: &Stage) -> Result<(), Failure> {
        let address = to.socket()?;
        stage.enter(Stage::CONNECT);
        let stream = socket::connect(address, to.mark).await?;
        stage.enter(Stage::ANSWER);
        self.check_over(&address.to_string(), stream).await
    }

    /// The check over a connection; `endpoint` is the address with the port.
    pub(in super::super) async fn check_over<S>(
        &self,
        endpoint: &str,
        stream: S,
    ) -> Result<(), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let uri = format!("http://{endpoint}/grpc.health.v1.Health/Check").parse::<Uri>();
        let uri = uri.map_err(|error| Failure::host(format!("not probed: {error}")))?;
        let mut request = Request::new(Full::new(request_message(&self.service)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(USER_AGENT, HeaderValue::from_static("director-health-check"));

        let mut tasks = Tasks::default();
        let answered = exchange(stream, request, &mut tasks).await;
        let (head, message, trailers) = match answered {
            Ok(answered) => answered,
            Err(error) => return Err(hyper_failure(&tasks.cause(error).await, "HTTP/2")),
        };
        // Time for GOAWAY and an orderly close.
        tokio::spawn(tokio::time::timeout(CLOSE_TIMEOUT, tasks.join()));
        if head.status != 200 {
            return Err(Failure::backend(format!(
                "answered with HTTP status {}, not gRPC",
                head.status.as_u16()
            )));
        }
        let is_grpc = |value: &HeaderValue| value.as_bytes().starts_with(b"application/grpc");
        if !head.headers.get(CONTENT_TYPE).is_some_and(is_grpc) {
            return Err(Failure::backend("the answer is not gRPC"));
        }
        // A response without a body has its status in the headers.
        self.check_status(&head.headers, false)?;
        if message.len() > MAX_MESSAGE {
            return Err(Failure::backend("the answer is not a health report: too long"));
        }
        self.check_status(&trailers, !head.headers.contains_key(STATUS))?;
        self.check_message(&message)
    }

    /// Evaluates `grpc-status`; a missing one is an error if `required`.
    fn check_status(&self, headers: &HeaderMap, required: bool) -> Result<(), Failure> {
        let Some(status) = headers.get(STATUS) else {
            return match required {
                true => Err(Failure::backend("answered without a gRPC status")),
                false => Ok(()),
            };
        };
        let status = String::from_utf8_lossy(status.as_bytes());
        let name = match status.trim() {
            "0" => return Ok(()),
            "5" => return Err(Failure::Backend(one_line(&self.unknown_service()))),
            "12" => "UNIMPLEMENTED: no health service",
            "14" => "UNAVAILABLE",
            "16" => "UNAUTHENTICATED",
            "7" => "PERMISSION_DENIED",
            "13" => "INTERNAL",
            _ => "",
        };
        let message =
            headers.get("grpc-message").map(|value| String::from_utf8_lossy(value.as_bytes()));
        let parts = [name, message.as_deref().unwrap_or_default()];
        let detail = parts.iter().filter(|part| !part.is_empty()).map(|part| format!(" {part}"));
        let detail: String = detail.collect();
        Err(Failure::Backend(one_line(&format!("gRPC status {status}{detail}"))))
    }

    fn unknown_service(&self) -> String {
        format!("its health service has no service {:?}", self.service)
    }

    fn check_message(&self, message: &[u8]) -> Result<(), Failure> {
        match serving_status(message) {
            None => Err(Failure::backend("the answer is not a health report")),
            Some(1) => Ok(()),
            Some(0) => Err(Failure::backend("reports UNKNOWN, wanted SERVING")),
            Some(2) => Err(Failure::backend("reports NOT_SERVING, wanted SERVING")),
            Some(3) => Err(Failure::Backend(one_line(&self.unknown_service()))),
            Some(other) => Err(Failure::backend(format!("reports {other}, wanted SERVING"))),
        }
    }
}

/// Head, message and trailers of the response; the message is cut off after [`MAX_MESSAGE`] bytes.
async fn exchange<S>(
    stream: S,
    request: Request<Full<Bytes>>,
    tasks: &mut Tasks,
) -> hyper::Result<(response::Parts, Vec<u8>, HeaderMap)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let http = http2::Builder::new(tasks.executor());
    let (mut sender, connection) = http.handshake(TokioIo::new(stream)).await?;
    tasks.connection(connection);
    let (head, mut body) = sender.send_request(request).await?.into_parts();
    let (mut message, mut trailers) = (Vec::new(), HeaderMap::new());
    while message.len() <= MAX_MESSAGE
        && let Some(frame) = body.frame().await
    {
        match frame?.into_data() {
            Ok(data) => message.extend_from_slice(&data),
            Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
        }
    }
    Ok((head, message, trailers))
}

const STATUS: &str = "grpc-status";

/// HealthCheckRequest: field 1, a string, omitted if empty; after the five bytes of every message.
fn request_message(service: &str) -> Bytes {
    let mut field = BytesMut::new();
    if !service.is_empty() {
        field.put_u8(1 << 3 | 2);
        let mut length = service.len();
        while length >= 0x80 {
            field.put_u8(length as u8 | 0x80);
            length >>= 7;
        }
        field.put_u8(length as u8);
        field.put_slice(service.as_bytes());
    }
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(field.len() as u32);
    message.put_slice(&field);
    message.freeze()
}

/// HealthCheckResponse: field 1, an enum. None if the bytes are not such a message, uncompressed.
pub(in super::super) fn serving_status(message: &[u8]) -> Option<u64> {
    let (head, mut fields) = message.split_at_checked(5)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    if head[0] != 0 || fields.len() != length as usize {
        return None;
    }
    let mut status = 0;
    while !fields.is_empty() {
        let key = varint(&mut fields)?;
        match key & 7 {
            0 => {
                let value = varint(&mut fields)?;
                if key >> 3 == 1 {
                    status = value;
                }
            }
            1 => fields = fields.get(8..)?,
            2 => {
                let length = usize::try_from(varint(&mut fields)?).ok()?;
                fields = fields.get(length..)?;
            }
            5 => fields = fields.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

/// Reads a varint of at most ten bytes from the front.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_one_field_or_none() {
        assert_eq!(request_message("").as_ref(), [0, 0, 0, 0, 0]);
        assert_eq!(request_message("ab").as_ref(), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = request_message(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 0x02]);
    }

    #[test]
    fn the_status_is_read_among_other_fields() {
        let answer = |fields: &[u8]| {
            let mut message = vec![0, 0, 0, 0, fields.len() as u8];
            message.extend_from_slice(fields);
            serving_status(&message)
        };
        assert_eq!(answer(&[]), Some(0), "a default is not sent");
        assert_eq!(answer(&[0x08, 1]), Some(1));
        assert_eq!(answer(&[0x12, 2, 0xff, 0xff, 0x08, 2]), Some(2), "after an unknown field");
        assert_eq!(answer(&[0x08, 0xac, 0x02]), Some(300));
        assert_eq!(answer(&[0x08]), None, "cut off");
        assert_eq!(answer(&[0x12, 200]), None, "longer than the message");
        assert_eq!(answer(&[0x0b]), None, "a group");
        assert_eq!(answer(&[0xff; 12]), None, "a number without end");
        assert_eq!(serving_status(&[1, 0, 0, 0, 2, 8, 1]), None, "compressed");
        assert_eq!(serving_status(&[0, 0, 0, 0, 9, 8, 1]), None, "another length");
        assert_eq!(serving_status(&[0, 0]), None);
    }
}
