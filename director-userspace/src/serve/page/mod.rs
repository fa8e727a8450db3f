//! The status page: one HTML document, kept up to date by server-sent events. It only shows.
//!
//! Pages of other sites cannot read it: nothing here allows another origin, and a name that was made
//! to point at this host (DNS rebinding) is refused by its Host header.

mod event;
mod host;

use std::hash::{BuildHasher as _, RandomState};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{Next, from_fn},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use futures_util::stream;

use crate::serve::view::Sampler;

/// The document; `NONCE` in it stands for what lets its own style and script run.
const PAGE: &str = include_str!("index.html");
const NONCE: &str = "{{nonce}}";

/// Headers of every answer.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// Serves `/` and `/events`, and refuses everything else.
pub fn router(source: Sampler) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/events", get(events))
        .fallback(|| async { (StatusCode::NOT_FOUND, "there is / and /events here\n") })
        .layer(from_fn(guard))
        .with_state(source)
}

/// Lets only those through who may look, and adds what every answer has.
async fn guard(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let mut response = if request.method() != Method::GET && request.method() != Method::HEAD {
        let allow = [(header::ALLOW, "GET")];
        (StatusCode::METHOD_NOT_ALLOWED, allow, "this page only shows\n").into_response()
    } else if !host.is_some_and(host::is_ours) {
        let why = "ask for this page by the host's IP address, its own name, or localhost: another \
                   name may be somebody's who has made it point here\n";
        (StatusCode::MISDIRECTED_REQUEST, why).into_response()
    } else {
        next.run(request).await
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn page() -> Response {
    let nonce = nonce();
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src \
         'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers = [(header::CONTENT_SECURITY_POLICY, policy)];
    (headers, Html(PAGE.replace(NONCE, &nonce))).into_response()
}

/// 128 bits that nobody can foresee, in hexadecimal digits: SipHash under random keys.
fn nonce() -> String {
    let half = || RandomState::new().hash_one(0);
    format!("{:016x}{:016x}", half(), half())
}

async fn events(State(source): State<Sampler>) -> Response {
    let watching = match source.watch() {
        Ok(watching) => watching,
        Err(error) => {
            return (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response();
        }
    };
    // Who is slow gets the newest sample when there is room for it, and none in between.
    let samples = stream::unfold(watching, |mut watching| async move {
        let sample = watching.next().await?;
        let event = sample.encoded(event::encode);
        Some((Ok::<Bytes, std::convert::Infallible>(event), watching))
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream")];
    (headers, Body::from_stream(samples)).into_response()
}

#[cfg(test)]
mod tests;
