//! The routes of the API and what answers them.

use std::future::Future;

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{self, MethodFilter, MethodRouter};
use axum::{Extension, Json, Router};
use serde::Serialize;

use super::drops;
use super::peer::{self, Peer};
use super::problem::Problem;
use super::request::{Body, Path, Query};
use super::stream;
use super::surface::Surface;
use crate::agent::{ControlError, ErrorCode, verbs, views};
use crate::metrics;

/// The header of an answer that is not current: how many seconds ago it was.
pub const STORE_AGE_HEADER: &str = "privnet-store-age-seconds";

/// The API of the control socket. Every request must carry the [`Peer`] that sent it as an extension.
pub fn router(surface: Surface) -> Router {
    let router = routes().into_iter().fold(Router::new(), |router, route| router.route(route.path, route.answer));
    let told = finish(router, surface.clone()).layer(middleware::from_fn_with_state(surface.clone(), tell_age));
    told.layer(middleware::from_fn_with_state(surface, refuse_strangers))
}

/// What the metrics listener serves: `GET /metrics`, to anybody, and nothing else.
pub fn metrics_router(surface: Surface) -> Router {
    finish(Router::new().route("/metrics", routing::get(scrape)), surface)
}

/// One method of one path.
pub(super) struct Route {
    #[cfg_attr(not(test), expect(dead_code, reason = "tests compare it with the OpenAPI document"))]
    pub(super) method: Method,
    pub(super) path: &'static str,
    answer: MethodRouter<Surface>,
}

macro_rules! verb_routes {
    ($($(#[doc = $doc:literal])+ $id:ident $method:ident $path:literal $status:literal
        $verb:ident($($place:ident $argument:ident: $request:ty)?) -> $answer:ty;)+) => {
        /// One route per verb of the agent.
        fn verb_routes() -> Vec<Route> {
            vec![$({
                let handler = |State(surface): State<Surface> $(, $place($argument): $place<$request>)?| {
                    answer(Method::$method, $status, async move { surface.agent.$verb($($argument)?).await })
                };
                Route { method: Method::$method, path: $path, answer: routing::on(MethodFilter::$method, handler) }
            },)+]
        }
    };
}
verbs!(verb_routes);

/// The one list of routes. `openapi.json` describes exactly these.
pub(super) fn routes() -> Vec<Route> {
    let mut routes = verb_routes();
    routes.push(Route { method: Method::POST, path: "/v1/streams", answer: routing::post(stream::open) });
    routes.push(Route { method: Method::GET, path: drops::PATH, answer: routing::get(drops::watch) });
    routes.push(Route { method: Method::GET, path: "/metrics", answer: routing::get(scrape) });
    routes.push(Route { method: Method::GET, path: "/openapi.json", answer: routing::get(openapi) });
    routes
}

fn finish(router: Router<Surface>, surface: Surface) -> Router {
    router.fallback(no_such_route).method_not_allowed_fallback(no_such_method).with_state(surface)
}

/// Lets everybody read, and only root and the group change, and watch what others send.
async fn refuse_strangers(
    State(surface): State<Surface>,
    peer: Option<Extension<Peer>>,
    request: Request,
    next: Next,
) -> Response {
    let is_watching = request.uri().path() == drops::PATH;
    if matches!(*request.method(), Method::GET | Method::HEAD) && !is_watching {
        return next.run(request).await;
    }
    // A request without credentials is a stranger's.
    let allowed = peer.is_some_and(|Extension(peer)| {
        peer::may_change(peer, None) || peer::may_change(peer, surface.accounts.group().as_ref())
    });
    if allowed {
        return next.run(request).await;
    }
    let what = if is_watching { "watch what is dropped" } else { "change networks and members" };
    Problem::from(stranger(peer.map(|found| found.0), what)).into_response()
}

/// Says with each answer to a read how old it is, unless it is current: an empty list has no other place for it.
async fn tell_age(State(surface): State<Surface>, request: Request, next: Next) -> Response {
    let is_read = *request.method() == Method::GET;
    let mut response = next.run(request).await;
    if let Some(age) = surface.agent.store_age().filter(|_| is_read) {
        response.headers_mut().insert(STORE_AGE_HEADER, age.as_secs().into());
    }
    response
}

fn stranger(peer: Option<Peer>, what: &str) -> ControlError {
    let who = peer.map_or_else(|| "an unknown user".to_owned(), |peer| format!("user {}", peer.uid));
    ControlError::new(
        ErrorCode::PermissionDenied,
        format!("{who} may read but not {what}"),
        format!("run it as root, or as a user of the group {}", peer::GROUP_NAME),
    )
}

/// Answers with what a verb leads to.
///
/// A change runs to its end also when the client hangs up meanwhile: half a change is worse than an unread answer.
async fn answer<T: Serialize + Send + 'static>(
    method: Method,
    status: u16,
    verb: impl Future<Output = Result<T, ControlError>> + Send + 'static,
) -> Response {
    let result = if method == Method::GET {
        verb.await
    } else {
        let ended = tokio::spawn(verb).await;
        ended.unwrap_or_else(|error| Err(internal(&format!("the request ended abnormally: {error}"))))
    };
    match (result, StatusCode::from_u16(status)) {
        (Ok(value), Ok(status)) => (status, Json(value)).into_response(),
        (Ok(_), Err(error)) => Problem::from(internal(&error.to_string())).into_response(),
        (Err(error), _) => Problem::from(error).into_response(),
    }
}

async fn scrape(State(surface): State<Surface>) -> Result<Response, Problem> {
    let scrape = surface.agent.scrape().await?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::render(&scrape)).into_response())
}

async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], include_str!("openapi.json"))
}

async fn no_such_route(request: Request) -> Problem {
    let message = format!("there is nothing at {}", request.uri().path());
    let remedy = "see GET /openapi.json for what there is";
    Problem::with_status(StatusCode::NOT_FOUND, ControlError::new(ErrorCode::InvalidArgument, message, remedy))
}

async fn no_such_method(request: Request) -> Problem {
    let message = format!("{} is not possible at {}", request.method(), request.uri().path());
    let remedy = "see GET /openapi.json for what there is";
    Problem::with_status(StatusCode::METHOD_NOT_ALLOWED, ControlError::new(ErrorCode::InvalidArgument, message, remedy))
}

fn internal(message: &str) -> ControlError {
    ControlError::new(ErrorCode::Internal, message, "look into the agent's log, and report it as a fault")
}
