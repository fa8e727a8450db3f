//! `/metrics`: Prometheus's text format 0.0.4.
//!
//! Written here rather than by a library: what there is to tell is read from maps with every
//! scrape, so there is nothing to register, and that format is one that every scraper reads.
//!
//! Counters come from the pinned maps: they go on over restarts of the daemon.

mod catalogue;
mod collect;
mod text;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

pub use self::catalogue::{ALL, Kind, Metric};
use crate::serve::view::{Sampler, Snapshot};

/// Most series that backends may have together; with more, there are those of services only.
pub const MAX_BACKEND_SERIES: usize = 10_000;

/// What a scraper gets for a snapshot.
pub fn render(snapshot: &Snapshot) -> String {
    collect::render(snapshot, MAX_BACKEND_SERIES)
}

/// Serves `/metrics`.
pub fn router(source: Sampler) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state(source)
}

async fn metrics(State(source): State<Sampler>) -> Response {
    let text = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    let sample = match source.one().await {
        Ok(sample) => sample,
        Err(error) => {
            return (StatusCode::SERVICE_UNAVAILABLE, text, format!("{error}\n")).into_response();
        }
    };
    match &sample.snapshot {
        Ok(snapshot) => {
            let format = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
            (format, render(snapshot)).into_response()
        }
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, text, format!("{why}\n")).into_response(),
    }
}
