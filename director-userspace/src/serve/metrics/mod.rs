//! `/metrics`: Prometheus's text format 0.0.4.
//!
//! Written without a library: values are read from the maps with every scrape, so there is nothing
//! to register, and every scraper reads this format.
//!
//! Counters come from the pinned maps: they continue over restarts of the daemon.

mod catalogue;
mod collect;
mod text;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::get,
};

pub use self::catalogue::{ALL, Kind, Metric};
use crate::serve::{
    host::{self, Names},
    view::{Sampler, Snapshot},
};

/// Most series of all backends together; with more, only services have series.
pub const MAX_BACKEND_SERIES: usize = 10_000;

/// The metrics of a snapshot, for a scraper.
pub fn render(snapshot: &Snapshot) -> String {
    collect::render(snapshot, MAX_BACKEND_SERIES)
}

/// Serves `/metrics`, by the host's addresses, its own names and `names`.
pub fn router(source: Sampler, names: Names) -> Router {
    let router = Router::new().route("/metrics", get(metrics)).with_state(source);
    router.layer(from_fn_with_state(names, host::guard))
}

async fn metrics(State(source): State<Sampler>) -> Response {
    let text = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    let sample = match source.sample().await {
        Ok(sample) => sample,
        Err(error) => {
            return (StatusCode::SERVICE_UNAVAILABLE, text, format!("{error}\n")).into_response();
        }
    };
    // Tens of thousands of lines take tens of milliseconds.
    let rendered = tokio::task::spawn_blocking(move || match &sample.snapshot {
        Ok(snapshot) => Ok(render(snapshot)),
        Err(why) => Err(why.to_string()),
    });
    match rendered.await.unwrap_or_else(|error| Err(error.to_string())) {
        Ok(metrics) => {
            let format = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
            (format, metrics).into_response()
        }
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, text, format!("{why}\n")).into_response(),
    }
}
