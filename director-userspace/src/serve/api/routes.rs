//! One handler per path.

use std::{
    sync::{Arc, Once},
    time::Duration,
};

use axum::{
    Extension, Router,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    response::{AppendHeaders, IntoResponse as _, Response},
    routing::{get, post},
};
use serde::Serialize;
use tokio::sync::{Mutex, mpsc, oneshot};
use tracing::warn;

use super::{
    Command, Refused, Reply, Request,
    body::{Answer, Body, Configuration, Query, limit_body, problem, rendered},
    connections,
    published::Published,
    server::Peer,
    types::{
        Acted, Applied, ApplyOptions, BackendRequest, Connections, ConnectionsOf, DetachRequest,
        Detached, DrainRequest, History, Planned, Problem, RollbackRequest, WeightRequest,
    },
};
use crate::{kernel::datapath::Instance, serve::view::Status};

/// Timeout of a command in the daemon's loop.
const TIMEOUT: Duration = Duration::from_secs(60);
/// A loop that does not answer a question within this time is in a long change.
const BUSY: Duration = Duration::from_millis(400);

/// The state of the handlers.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) daemon: mpsc::Sender<Request>,
    pub(super) instance: Instance,
    /// Answers what the daemon does not answer soon.
    pub(super) published: Published,
    /// Held while a configuration is applied: a second one is refused, not queued.
    pub(super) applying: Arc<Mutex<()>>,
}

/// The OpenAPI document.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "Director", description = "The API of `director run`, on its Unix socket."),
    paths(
        status,
        count_connections,
        config,
        plan,
        apply,
        history,
        rollback,
        drain,
        undrain,
        weight,
        reload,
        detach,
        attach,
        openapi
    )
)]
pub(super) struct Document;

/// All paths.
pub(super) fn router(api: Api) -> Router {
    let texts = Router::new().route("/v1/plan", post(plan)).route("/v1/apply", post(apply));
    let rest = Router::new()
        .route("/v1/status", get(status))
        .route(FORMER_STATUS, get(former_status))
        .route("/v1/connections", get(count_connections))
        .route("/v1/config", get(config))
        .route("/v1/history", get(history))
        .route("/v1/rollback", post(rollback))
        .route("/v1/drain", post(drain))
        .route("/v1/undrain", post(undrain))
        .route("/v1/weight", post(weight))
        .route("/v1/reload", post(reload))
        .route("/v1/detach", post(detach))
        .route("/v1/attach", post(attach))
        .route("/v1/openapi.json", get(openapi));
    let not_found = async || {
        let error = "no such path: see /v1/openapi.json";
        problem(StatusCode::NOT_FOUND, "bad_request", error)
    };
    let not_allowed = async || {
        let error = "this path has other methods: see /v1/openapi.json";
        problem(StatusCode::METHOD_NOT_ALLOWED, "bad_request", error)
    };
    let router = texts.merge(rest).method_not_allowed_fallback(not_allowed);
    let router = router.fallback(not_found).with_state(api);
    // `limit_body` limits the length instead.
    router.layer(DefaultBodyLimit::disable()).layer(axum::middleware::from_fn(limit_body))
}

impl Api {
    /// Runs a command in the daemon's loop, and writes its result as JSON.
    async fn run<T: Serialize + Send + 'static>(
        &self,
        peer: &Peer,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Answer {
        let result = self.result(peer, command).await?;
        rendered(move || Ok(result)).await
    }

    /// Reads from the daemon's loop; while that is busy for long, what it published last.
    async fn read<T>(
        &self,
        peer: &Peer,
        command: impl Fn(Reply<T>) -> Command,
        published: impl Fn(&Published) -> Option<T>,
    ) -> Result<T, Refused> {
        match tokio::time::timeout(BUSY, self.result(peer, &command)).await {
            Ok(result) => result,
            Err(_) => match published(&self.published) {
                Some(answer) => Ok(answer),
                None => self.result(peer, &command).await,
            },
        }
    }

    /// Runs a command in the daemon's loop.
    async fn result<T>(
        &self,
        peer: &Peer,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, Refused> {
        let (reply, answer) = oneshot::channel();
        let request =
            Request { command: command(reply), by: peer.to_string(), is_root: peer.is_root() };
        let timed_out = || {
            let seconds = TIMEOUT.as_secs();
            Refused::Failed(format!(
                "the daemon did not finish this within {seconds} s. If it had not begun, it is not \
                 done; if it had begun, it continues: see `director status`"
            ))
        };
        let stopping = || Refused::Failed("the daemon is stopping".into());
        tokio::time::timeout(TIMEOUT, async {
            self.daemon.send(request).await.map_err(|_| stopping())?;
            answer.await.map_err(|_| stopping())?
        })
        .await
        .map_err(|_| timed_out())?
    }
}

/// The former path of `/v1/status`; served for one version.
const FORMER_STATUS: &str = "/v1/conditions";

/// The status of services, backends and checks, with admin overrides.
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = Status)))]
async fn status(State(api): State<Api>, Extension(peer): Extension<Peer>) -> Answer {
    let status = api.read(&peer, Command::Status, Published::status).await?;
    rendered(move || Ok(status)).await
}

/// As `status`, and warns once that the path is deprecated.
async fn former_status(
    api: State<Api>,
    peer: Extension<Peer>,
) -> (AppendHeaders<[(&'static str, &'static str); 1]>, Answer) {
    static WARNED: Once = Once::new();
    WARNED.call_once(|| {
        warn!("{FORMER_STATUS} is deprecated and gone with the next version: use /v1/status");
    });
    (AppendHeaders([("deprecation", "true")]), status(api, peer).await)
}

/// Established connections in the flow table, by backend.
#[utoipa::path(
    get, path = "/v1/connections", params(ConnectionsOf),
    responses((status = 200, body = Connections), (status = 500, body = Problem))
)]
async fn count_connections(State(api): State<Api>, Query(of): Query<ConnectionsOf>) -> Answer {
    let instance = api.instance.clone();
    // Takes tens of milliseconds with a large table: other requests must not wait for it.
    let count = move || connections::count(&instance, &of);
    rendered(move || count().map_err(|error| Refused::Failed(error.to_string()))).await
}

/// The text of the configuration in effect.
#[utoipa::path(
    get, path = "/v1/config",
    responses((status = 200, body = String, content_type = "application/yaml"))
)]
async fn config(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
) -> Result<Response, Refused> {
    let text = api.read(&peer, Command::Config, Published::text).await?;
    Ok(([(header::CONTENT_TYPE, "application/yaml")], text).into_response())
}

/// What applying a configuration would change.
#[utoipa::path(
    post, path = "/v1/plan", request_body(content = String, content_type = "application/yaml"),
    responses((status = 200, body = Planned), (status = 422, body = Problem))
)]
async fn plan(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    Configuration(parsed): Configuration,
) -> Answer {
    api.run(&peer, |reply| Command::Plan(parsed, reply)).await
}

/// Applies a configuration and then writes it to the daemon's file, as a whole or not at all.
#[utoipa::path(
    post, path = "/v1/apply", params(ApplyOptions),
    request_body(content = String, content_type = "application/yaml"),
    responses(
        (status = 200, body = Applied), (status = 409, body = Problem),
        (status = 422, body = Problem), (status = 500, body = Problem)
    )
)]
async fn apply(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    Query(options): Query<ApplyOptions>,
    Configuration(parsed): Configuration,
) -> Answer {
    let _applying = api.applying.try_lock().map_err(|_| already_applying())?;
    api.run(&peer, |reply| Command::Apply(parsed, options, reply)).await
}

fn already_applying() -> Refused {
    Refused::Conflict(
        "another configuration is being applied: see what yours would change afterwards (`director \
         plan`), and apply it again"
            .into(),
    )
}

/// Configurations that were applied.
#[utoipa::path(get, path = "/v1/history", responses((status = 200, body = History)))]
async fn history(State(api): State<Api>, Extension(peer): Extension<Peer>) -> Answer {
    let history = api.read(&peer, Command::History, Published::history).await?;
    rendered(move || Ok(history)).await
}

/// Applies a former configuration, and writes it to the daemon's file.
#[utoipa::path(
    post, path = "/v1/rollback", request_body = RollbackRequest,
    responses((status = 200, body = Applied), (status = 404, body = Problem),
        (status = 409, body = Problem))
)]
async fn rollback(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    Body(request): Body<RollbackRequest>,
) -> Answer {
    let _applying = api.applying.try_lock().map_err(|_| already_applying())?;
    api.run(&peer, |reply| Command::Rollback(request, reply)).await
}

/// Takes a backend out of service: no new flows, known ones stay. Lasts until `undrain`.
#[utoipa::path(
    post, path = "/v1/drain", request_body = DrainRequest,
    responses((status = 200, body = Acted), (status = 404, body = Problem))
)]
async fn drain(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    Body(request): Body<DrainRequest>,
) -> Answer {
    api.run(&peer, |reply| Command::Drain(request, reply)).await
}

/// Brings a drained backend back into service.
#[utoipa::path(
    post, path = "/v1/undrain", request_body = BackendRequest,
    responses((status = 200, body = Acted), (status = 404, body = Problem))
)]
async fn undrain(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    Body(request): Body<BackendRequest>,
) -> Answer {
    api.run(&peer, |reply| Command::Undrain(request, reply)).await
}

/// Overrides the file's weight of a backend, or clears the override.
#[utoipa::path(
    post, path = "/v1/weight", request_body = WeightRequest,
    responses((status = 200, body = Acted), (status = 404, body = Problem))
)]
async fn weight(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    Body(request): Body<WeightRequest>,
) -> Answer {
    api.run(&peer, |reply| Command::Weight(request, reply)).await
}

/// Reads the daemon's file again, changed or not.
#[utoipa::path(
    post, path = "/v1/reload",
    responses((status = 200, body = Applied), (status = 422, body = Problem))
)]
async fn reload(State(api): State<Api>, Extension(peer): Extension<Peer>) -> Answer {
    let _applying = api.applying.try_lock().map_err(|_| already_applying())?;
    api.run(&peer, Command::Reload).await
}

/// Ends forwarding, until `attach`.
#[utoipa::path(
    post, path = "/v1/detach", request_body = DetachRequest,
    responses((status = 200, body = Detached), (status = 500, body = Problem))
)]
async fn detach(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    Body(request): Body<DetachRequest>,
) -> Answer {
    api.run(&peer, |reply| Command::Detach(request, reply)).await
}

/// Begins forwarding again after `detach`.
#[utoipa::path(
    post, path = "/v1/attach",
    responses((status = 200, body = Applied), (status = 500, body = Problem))
)]
async fn attach(State(api): State<Api>, Extension(peer): Extension<Peer>) -> Answer {
    api.run(&peer, Command::Attach).await
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200)))]
async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], super::openapi()).into_response()
}

#[cfg(test)]
mod tests {
    use utoipa::OpenApi as _;

    use super::*;

    #[test]
    fn the_document_describes_every_path() {
        let described = Document::openapi().paths.paths;
        let routes: Vec<&str> = include_str!("routes.rs")
            .split(".route(\"")
            .skip(1)
            .filter_map(|rest| rest.split_once('"').map(|(path, _)| path))
            .filter(|path| path.starts_with("/v1/"))
            .collect();
        assert!(routes.len() > 10, "{routes:?}");
        for path in routes {
            assert!(described.contains_key(path), "{path}");
        }
    }
}
