//! One handler per path.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, Query, State, rejection::JsonRejection},
    http::{StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};

use super::{
    Command, Refused, Reply, Request, connections,
    server::Peer,
    types::{
        Acted, Applied, ApplyOptions, BackendRequest, Connections, ConnectionsOf, DetachRequest,
        Detached, DrainRequest, History, Planned, Problem, RollbackRequest, WeightRequest,
    },
};
use crate::{kernel::datapath::Instance, policy::config::MAX_BYTES, serve::view::Status};

/// Longest body that is no configuration.
const SMALL: usize = 64 << 10;
/// A configuration that is longer than this says so, and of such there are so many at a time.
const MIDDLING: usize = 1 << 20;
static LARGE: Semaphore = Semaphore::const_new(16);
/// How long a body may take.
const BODY: Duration = Duration::from_secs(10);
/// How long the daemon's loop may take for a command.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What handlers need.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) daemon: mpsc::Sender<Request>,
    pub(super) instance: Instance,
    /// Held while a configuration is applied: a second one is told, and not queued.
    pub(super) applying: Arc<Mutex<()>>,
}

/// Made into the OpenAPI document.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "Director", description = "The API of `director run`, on its Unix socket."),
    paths(
        conditions, config, plan, apply, history, rollback, drain, undrain, weight, reload, detach,
        attach, openapi
    )
)]
pub(super) struct Document;

/// Every path.
pub(super) fn router(api: Api) -> Router {
    let texts = Router::new().route("/v1/plan", post(plan)).route("/v1/apply", post(apply));
    let rest = Router::new()
        .route("/v1/conditions", get(conditions))
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
    let nothing = async || {
        let error = "there is nothing at this path: see /v1/openapi.json";
        problem(StatusCode::NOT_FOUND, "bad_request", error)
    };
    let router = texts.merge(rest).fallback(nothing).with_state(api);
    // What gets through is short enough.
    router.layer(DefaultBodyLimit::disable()).layer(axum::middleware::from_fn(bounded))
}

/// Reads the whole body, in bounded time and memory, before anybody waits for it: a client that sends
/// half of it keeps its place for seconds only.
async fn bounded(request: axum::extract::Request, next: Next) -> Response {
    let is_text = matches!(request.uri().path(), "/v1/plan" | "/v1/apply");
    let has_length = request.headers().contains_key(header::CONTENT_LENGTH);
    let limit = match (is_text, has_length) {
        (true, true) => MAX_BYTES,
        (true, false) => MIDDLING,
        (false, _) => SMALL,
    };
    let too_long = || {
        let error = format!("longer than {limit} bytes, which is more than this takes");
        problem(StatusCode::PAYLOAD_TOO_LARGE, "bad_request", &error)
    };
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limit as u64) {
        return too_long();
    }
    let place = length.is_some_and(|length| length > MIDDLING as u64).then(|| LARGE.try_acquire());
    if let Some(Err(_)) = place {
        let error = "too many large configurations are on their way: try again in some seconds";
        return problem(StatusCode::SERVICE_UNAVAILABLE, "failed", error);
    }
    let (parts, body) = request.into_parts();
    match tokio::time::timeout(BODY, axum::body::to_bytes(body, limit)).await {
        Ok(Ok(whole)) => next.run(axum::extract::Request::from_parts(parts, whole.into())).await,
        Ok(Err(_)) => too_long(),
        Err(_) => {
            let error = format!("the body did not come within {} s", BODY.as_secs());
            problem(StatusCode::REQUEST_TIMEOUT, "bad_request", &error)
        }
    }
}

fn problem(status: StatusCode, kind: &str, error: &str) -> Response {
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

/// JSON that says what is wrong with it as JSON; no body is an empty object.
struct Body<T>(T);

impl<T, S> axum::extract::FromRequest<S> for Body<T>
where
    Json<T>: axum::extract::FromRequest<S, Rejection = JsonRejection>,
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

impl Api {
    /// Has the daemon's loop do something.
    async fn ask<T>(&self, peer: &Peer, command: impl FnOnce(Reply<T>) -> Command) -> Answer<T> {
        let (reply, answer) = oneshot::channel();
        let request =
            Request { command: command(reply), by: peer.to_string(), is_root: peer.is_root() };
        let busy = || {
            let seconds = TIMEOUT.as_secs();
            Refused::Failed(format!(
                "the daemon was not done with it within {seconds} s. What had not begun will not be \
                 done; what had begun goes on: `director status` tells"
            ))
        };
        let gone = || Refused::Failed("the daemon is stopping".into());
        tokio::time::timeout(TIMEOUT, async {
            self.daemon.send(request).await.map_err(|_| gone())?;
            answer.await.map_err(|_| gone())?
        })
        .await
        .map_err(|_| busy())?
        .map(Json)
    }
}

type Answer<T> = Result<Json<T>, Refused>;

/// How everything is: services, backends, checks, and what was said by hand.
#[utoipa::path(get, path = "/v1/conditions", responses((status = 200, body = Status)))]
async fn conditions(State(api): State<Api>, Extension(peer): Extension<Peer>) -> Answer<Status> {
    api.ask(&peer, Command::Status).await
}

/// Connections that the flow table knows, by backend.
#[utoipa::path(
    get, path = "/v1/connections", params(ConnectionsOf),
    responses((status = 200, body = Connections), (status = 500, body = Problem))
)]
async fn count_connections(
    State(api): State<Api>,
    Query(of): Query<ConnectionsOf>,
) -> Answer<Connections> {
    let instance = api.instance.clone();
    // Tens of milliseconds with a large table, which nobody else is to wait for.
    let counted = tokio::task::spawn_blocking(move || connections::count(&instance, &of)).await;
    match counted {
        Ok(counted) => counted.map(Json).map_err(|error| Refused::Failed(error.to_string())),
        Err(error) => Err(Refused::Failed(error.to_string())),
    }
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
    let Json(text) = api.ask(&peer, Command::Config).await?;
    Ok(([(header::CONTENT_TYPE, "application/yaml")], text).into_response())
}

/// What putting a configuration into effect would change.
#[utoipa::path(
    post, path = "/v1/plan", request_body(content = String, content_type = "application/yaml"),
    responses((status = 200, body = Planned), (status = 422, body = Problem))
)]
async fn plan(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    text: String,
) -> Answer<Planned> {
    api.ask(&peer, |reply| Command::Plan(text, reply)).await
}

/// Puts a configuration into effect and then into the daemon's file: all of it or nothing.
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
    text: String,
) -> Answer<Applied> {
    let _applying = api.applying.try_lock().map_err(|_| under_way())?;
    api.ask(&peer, |reply| Command::Apply(text, options, reply)).await
}

fn under_way() -> Refused {
    Refused::Conflict(
        "another configuration is being applied at this moment: look at it (`director plan`), and \
         apply again"
            .into(),
    )
}

/// Configurations that were applied.
#[utoipa::path(get, path = "/v1/history", responses((status = 200, body = History)))]
async fn history(State(api): State<Api>, Extension(peer): Extension<Peer>) -> Answer<History> {
    api.ask(&peer, Command::History).await
}

/// Puts a former configuration into effect, and into the daemon's file.
#[utoipa::path(
    post, path = "/v1/rollback", request_body = RollbackRequest,
    responses((status = 200, body = Applied), (status = 404, body = Problem),
        (status = 409, body = Problem))
)]
async fn rollback(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    Body(request): Body<RollbackRequest>,
) -> Answer<Applied> {
    let _applying = api.applying.try_lock().map_err(|_| under_way())?;
    api.ask(&peer, |reply| Command::Rollback(request, reply)).await
}

/// Takes a backend out of service: no new flows, known ones stay. Holds until it is undone.
#[utoipa::path(
    post, path = "/v1/drain", request_body = DrainRequest,
    responses((status = 200, body = Acted), (status = 404, body = Problem))
)]
async fn drain(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    Body(request): Body<DrainRequest>,
) -> Answer<Acted> {
    api.ask(&peer, |reply| Command::Drain(request, reply)).await
}

/// Brings a drained backend back.
#[utoipa::path(
    post, path = "/v1/undrain", request_body = BackendRequest,
    responses((status = 200, body = Acted), (status = 404, body = Problem))
)]
async fn undrain(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    Body(request): Body<BackendRequest>,
) -> Answer<Acted> {
    api.ask(&peer, |reply| Command::Undrain(request, reply)).await
}

/// Sets a weight that goes before the file's, or takes it back.
#[utoipa::path(
    post, path = "/v1/weight", request_body = WeightRequest,
    responses((status = 200, body = Acted), (status = 404, body = Problem))
)]
async fn weight(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    Body(request): Body<WeightRequest>,
) -> Answer<Acted> {
    api.ask(&peer, |reply| Command::Weight(request, reply)).await
}

/// Reads the daemon's file again, changed or not.
#[utoipa::path(
    post, path = "/v1/reload",
    responses((status = 200, body = Applied), (status = 422, body = Problem))
)]
async fn reload(State(api): State<Api>, Extension(peer): Extension<Peer>) -> Answer<Applied> {
    let _applying = api.applying.try_lock().map_err(|_| under_way())?;
    api.ask(&peer, Command::Reload).await
}

/// Ends forwarding, until it is attached again.
#[utoipa::path(
    post, path = "/v1/detach", request_body = DetachRequest,
    responses((status = 200, body = Detached), (status = 500, body = Problem))
)]
async fn detach(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    Body(request): Body<DetachRequest>,
) -> Answer<Detached> {
    api.ask(&peer, |reply| Command::Detach(request, reply)).await
}

/// Begins forwarding again after it was ended.
#[utoipa::path(
    post, path = "/v1/attach",
    responses((status = 200, body = Applied), (status = 500, body = Problem))
)]
async fn attach(State(api): State<Api>, Extension(peer): Extension<Peer>) -> Answer<Applied> {
    api.ask(&peer, Command::Attach).await
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200)))]
async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], super::openapi()).into_response()
}
