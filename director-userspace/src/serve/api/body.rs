//! Bodies of requests and responses: limits, what is read of them, and refusals, which are JSON.

use std::time::Duration;

use axum::{
    Extension, Json,
    extract::{FromRequest, FromRequestParts, rejection::JsonRejection},
    http::{StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http_body_util::LengthLimitError;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::Semaphore;

use super::{Parsed, Refused, types::Problem};
use crate::{
    policy::config::MAX_BYTES,
    serve::limiter::{Activity, Reporter},
};

/// Longest body other than a configuration.
const MAX_SMALL_BODY: usize = 64 << 10;
/// A longer configuration needs a `Content-Length`, and only so many are received at once.
const LARGE_BODY: usize = 1 << 20;
static LARGE_BODIES: Semaphore = Semaphore::const_new(16);
/// Configurations that are parsed at once: each may take a second and hundreds of megabytes.
static PARSING: Semaphore = Semaphore::const_new(2);
/// Timeout of a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Reads the whole body, in bounded time and memory, before a handler runs: a client that sends
/// half of it occupies a connection for seconds only.
pub(super) async fn limit_body(
    Extension(reporter): Extension<Reporter>,
    request: axum::extract::Request,
    next: Next,
) -> Response {
    let is_text = matches!(request.uri().path(), "/v1/plan" | "/v1/apply");
    let has_length = request.headers().contains_key(header::CONTENT_LENGTH);
    let limit = match (is_text, has_length) {
        (true, true) => MAX_BYTES,
        (true, false) => LARGE_BODY,
        (false, _) => MAX_SMALL_BODY,
    };
    let too_long = || {
        let error = format!("the body is longer than {limit} bytes, the limit of this path");
        problem(StatusCode::PAYLOAD_TOO_LARGE, "bad_request", &error)
    };
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limit as u64) {
        return too_long();
    }
    let is_large = length.is_some_and(|length| length > LARGE_BODY as u64);
    let permit = is_large.then(|| LARGE_BODIES.try_acquire());
    if let Some(Err(_)) = permit {
        let error = "too many large configurations are being received: try again in a few seconds";
        return problem(StatusCode::SERVICE_UNAVAILABLE, "failed", error);
    }
    let (parts, body) = request.into_parts();
    match tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(body, limit)).await {
        Ok(Ok(whole)) => {
            reporter.report(Activity::Serving);
            next.run(axum::extract::Request::from_parts(parts, whole.into())).await
        }
        Ok(Err(error)) => {
            let error = error.into_inner();
            if error.is::<LengthLimitError>() {
                return too_long();
            }
            let error = "the body is malformed, or ends before its Content-Length";
            problem(StatusCode::BAD_REQUEST, "bad_request", error)
        }
        Err(_) => {
            let error = format!("the body was not received within {} s", BODY_TIMEOUT.as_secs());
            problem(StatusCode::REQUEST_TIMEOUT, "bad_request", &error)
        }
    }
}

pub(super) fn problem(status: StatusCode, kind: &str, error: &str) -> Response {
    (status, Json(Problem { kind: kind.into(), error: error.into() })).into_response()
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, kind) = match &self {
            Self::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
            Self::Unknown(_) => (StatusCode::NOT_FOUND, "unknown"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
            Self::Denied(_) => (StatusCode::FORBIDDEN, "denied"),
            Self::NeedsForce(_) => (StatusCode::CONFLICT, "needs_force"),
            Self::Failed(_) => (StatusCode::INTERNAL_SERVER_ERROR, "failed"),
        };
        problem(status, kind, &self.to_string())
    }
}

/// A query; its errors are reported as JSON.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => {
                Err(problem(rejection.status(), "bad_request", &rejection.body_text()))
            }
        }
    }
}

/// A configuration, parsed outside of the daemon's loop; its errors are reported as JSON.
pub(super) struct Configuration(pub(super) Box<Parsed>);

impl<S: Send + Sync> FromRequest<S> for Configuration {
    type Rejection = Response;

    async fn from_request(
        request: axum::extract::Request,
        state: &S,
    ) -> Result<Self, Self::Rejection> {
        let text = String::from_request(request, state).await.map_err(|rejection| {
            problem(rejection.status(), "bad_request", &rejection.body_text())
        })?;
        // Never closed.
        let _permit = PARSING.acquire().await;
        let parsed = tokio::task::spawn_blocking(|| Parsed::new(text)).await;
        let parsed = parsed.map_err(|error| Refused::Failed(error.to_string()).into_response())?;
        match parsed {
            Ok(parsed) => Ok(Self(Box::new(parsed))),
            Err(errors) => Err(Refused::Invalid(errors.to_string()).into_response()),
        }
    }
}

/// A JSON body; its errors are reported as JSON.
pub(super) struct Body<T>(pub(super) T);

impl<T, S> FromRequest<S> for Body<T>
where
    Json<T>: FromRequest<S, Rejection = JsonRejection>,
    S: Send + Sync,
{
    type Rejection = Response;

    async fn from_request(
        request: axum::extract::Request,
        state: &S,
    ) -> Result<Self, Self::Rejection> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(value)) => Ok(Self(value)),
            Err(rejection) => {
                Err(problem(rejection.status(), "bad_request", &rejection.body_text()))
            }
        }
    }
}

/// A response in JSON, or why there is none.
pub(super) type Answer = Result<Rendered, Refused>;

/// JSON.
pub(super) struct Rendered(Vec<u8>);

impl IntoResponse for Rendered {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, "application/json")], self.0).into_response()
    }
}

/// Takes a result and writes it as JSON, on a thread for what takes long: the status of a quarter of
/// a million backends takes a second.
pub(super) async fn rendered<T: Serialize>(
    result: impl FnOnce() -> Result<T, Refused> + Send + 'static,
) -> Answer {
    let failed = |why: String| Refused::Failed(why);
    let write = move || {
        let json = serde_json::to_vec(&result()?);
        json.map(Rendered).map_err(|error| failed(error.to_string()))
    };
    tokio::task::spawn_blocking(write).await.map_err(|error| failed(error.to_string()))?
}
