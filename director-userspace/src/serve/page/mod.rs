//! The status page: one HTML document, kept up to date by server-sent events. It is read-only.
//!
//! Pages of other sites cannot read it: no other origin is allowed, and a name that another site
//! points at this host (DNS rebinding) is refused by its Host header.

mod event;

use std::hash::{BuildHasher as _, RandomState};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use futures_util::stream;

use crate::serve::{
    host::{self, Names},
    view::Sampler,
};

/// The document; `NONCE` in it is replaced by the nonce that permits its own style and script.
const PAGE: &str = include_str!("index.html");
const NONCE: &str = "{{nonce}}";

/// Headers of every response.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// Serves `/` and `/events`, and refuses everything else.
pub fn router(source: Sampler, names: Names) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/events", get(events))
        .fallback(|| async { (StatusCode::NOT_FOUND, "there are only / and /events here\n") })
        .layer(from_fn_with_state(names, host::guard))
        .layer(from_fn(guard))
        .with_state(source)
}

/// Refuses other methods, and adds [`HEADERS`].
async fn guard(request: Request, next: Next) -> Response {
    let mut response = if request.method() != Method::GET && request.method() != Method::HEAD {
        let allow = [(header::ALLOW, "GET")];
        (StatusCode::METHOD_NOT_ALLOWED, allow, "this page is read-only: use GET\n").into_response()
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

/// 128 unpredictable bits, in hexadecimal digits: SipHash under random keys.
fn nonce() -> String {
    let half = || RandomState::new().hash_one(0);
    format!("{:016x}{:016x}", half(), half())
}

async fn events(State(source): State<Sampler>) -> Response {
    let watcher = match source.watch() {
        Ok(watcher) => watcher,
        Err(error) => {
            return (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response();
        }
    };
    // A slow client gets the newest sample when it can receive it, and none in between.
    let samples = stream::unfold(watcher, |mut watcher| async move {
        let sample = watcher.next().await?;
        let event = sample.encoded(event::encode);
        Some((Ok::<Bytes, std::convert::Infallible>(event), watcher))
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream")];
    (headers, Body::from_stream(samples)).into_response()
}

#[cfg(test)]
mod tests;
