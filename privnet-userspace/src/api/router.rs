//! The routes of the API and what answers them.

use std::future::Future;
use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::handler::Handler;
use axum::http::{Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{self, MethodRouter};
use axum::{Extension, Json, Router};
use serde::Deserialize;

use super::body::{Body, Deleted};
use super::peer::{self, Accounts, Peer};
use super::problem::Problem;
use super::service::Service;
use super::version::VersionView;
use crate::agent::views::{
    Attach, Attached, Check, CreateNetwork, Detach, Detached, DomainNameView, MemberView, NetworkView, ResolveView,
    StatusView,
};
use crate::agent::{ControlError, ErrorCode};
use crate::metrics;

/// What every handler may use.
#[derive(Clone)]
pub struct Surface {
    service: Arc<dyn Service>,
    accounts: Arc<Accounts>,
}

impl Surface {
    /// The surface of one agent. `accounts` says who is in the group that may change things.
    #[must_use]
    pub fn new(service: Arc<dyn Service>, accounts: Accounts) -> Self {
        Self { service, accounts: Arc::new(accounts) }
    }
}

/// The API of the control socket. Every request must carry the [`Peer`] that sent it as an extension.
pub fn router(surface: Surface) -> Router {
    let router = routes().into_iter().fold(Router::new(), |router, route| router.route(route.path, route.answer));
    finish(router, surface.clone()).layer(middleware::from_fn_with_state(surface, refuse_strangers))
}

/// What the metrics listener serves: `GET /metrics`, to anybody, and nothing else.
pub fn metrics_router(surface: Surface) -> Router {
    finish(Router::new().route("/metrics", routing::get(scrape)), surface)
}

/// One method of one path.
pub(super) struct Route {
    #[cfg_attr(not(test), expect(dead_code, reason = "tests compare it with the OpenAPI document"))]
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    answer: MethodRouter<Surface>,
}

/// The one list of routes. `openapi.json` describes exactly these.
pub(super) fn routes() -> Vec<Route> {
    vec![
        get("/v1/networks", networks),
        post("/v1/networks", create_network),
        get("/v1/networks/{network}", network),
        delete("/v1/networks/{network}", delete_network),
        get("/v1/members", members),
        post("/v1/members", attach),
        post("/v1/members/detach", detach),
        get("/v1/domain-names", domain_names),
        get("/v1/resolve", resolve),
        get("/v1/status", status),
        get("/v1/doctor", doctor),
        get("/v1/version", version),
        get("/metrics", scrape),
        get("/openapi.json", openapi),
    ]
}

fn get<T: 'static>(path: &'static str, handler: impl Handler<T, Surface>) -> Route {
    Route { method: "get", path, answer: routing::get(handler) }
}

fn post<T: 'static>(path: &'static str, handler: impl Handler<T, Surface>) -> Route {
    Route { method: "post", path, answer: routing::post(handler) }
}

fn delete<T: 'static>(path: &'static str, handler: impl Handler<T, Surface>) -> Route {
    Route { method: "delete", path, answer: routing::delete(handler) }
}

fn finish(router: Router<Surface>, surface: Surface) -> Router {
    router.fallback(no_such_route).method_not_allowed_fallback(no_such_method).with_state(surface)
}

/// Lets everybody read, and only root and the group change.
async fn refuse_strangers(
    State(surface): State<Surface>,
    peer: Option<Extension<Peer>>,
    request: Request,
    next: Next,
) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    // A request without credentials is a stranger's.
    let allowed = peer.is_some_and(|Extension(peer)| {
        peer::may_change(peer, None) || peer::may_change(peer, surface.accounts.group().as_ref())
    });
    if allowed { next.run(request).await } else { Problem::from(stranger(peer.map(|found| found.0))).into_response() }
}

fn stranger(peer: Option<Peer>) -> ControlError {
    let who = peer.map_or_else(|| "an unknown user".to_owned(), |peer| format!("user {}", peer.uid));
    ControlError::new(
        ErrorCode::PermissionDenied,
        format!("{who} may read but not change networks and members"),
        format!("run it as root, or as a user of the group {}", peer::GROUP_NAME),
    )
}

/// Runs a change to its end also when the client hangs up meanwhile: half a change is worse than an unread answer.
async fn to_the_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, ControlError>> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::spawn(change).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(internal(&format!("the request ended abnormally: {error}"))),
    }
}

async fn networks(State(surface): State<Surface>) -> Result<Json<Vec<NetworkView>>, Problem> {
    Ok(Json(surface.service.networks().await?))
}

async fn create_network(
    State(surface): State<Surface>,
    Body(request): Body<CreateNetwork>,
) -> Result<(StatusCode, Json<NetworkView>), Problem> {
    let view = to_the_end(async move { surface.service.create_network(request).await }).await?;
    Ok((StatusCode::CREATED, Json(view)))
}

async fn network(State(surface): State<Surface>, Path(network): Path<String>) -> Result<Json<NetworkView>, Problem> {
    Ok(Json(surface.service.network(&network).await?))
}

async fn delete_network(State(surface): State<Surface>, Path(network): Path<String>) -> Result<Json<Deleted>, Problem> {
    to_the_end(async move { surface.service.delete_network(&network).await }).await?;
    Ok(Json(Deleted { deleted: true }))
}

/// The query of `GET /v1/members`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MembersQuery {
    network: Option<String>,
}

async fn members(
    State(surface): State<Surface>,
    query: Result<Query<MembersQuery>, QueryRejection>,
) -> Result<Json<Vec<MemberView>>, Problem> {
    let Query(query) = query.map_err(|error| Problem::malformed(error.body_text()))?;
    Ok(Json(surface.service.members(query.network.as_deref()).await?))
}

/// The query of `GET /v1/domain-names`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DomainNamesQuery {
    app: String,
    network: Option<String>,
}

async fn domain_names(
    State(surface): State<Surface>,
    query: Result<Query<DomainNamesQuery>, QueryRejection>,
) -> Result<Json<Vec<DomainNameView>>, Problem> {
    let Query(query) = query.map_err(|error| Problem::malformed(error.body_text()))?;
    Ok(Json(surface.service.domain_names(&query.app, query.network.as_deref()).await?))
}

/// The query of `GET /v1/resolve`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResolveQuery {
    name: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(rename = "as")]
    asker: String,
}

async fn resolve(
    State(surface): State<Surface>,
    query: Result<Query<ResolveQuery>, QueryRejection>,
) -> Result<Json<ResolveView>, Problem> {
    let Query(query) = query.map_err(|error| Problem::malformed(error.body_text()))?;
    let kind = query.kind.as_deref().unwrap_or("A");
    Ok(Json(surface.service.resolve(&query.name, kind, &query.asker).await?))
}

async fn attach(
    State(surface): State<Surface>,
    Body(request): Body<Attach>,
) -> Result<(StatusCode, Json<Attached>), Problem> {
    let attached = to_the_end(async move { surface.service.attach(request).await }).await?;
    Ok((StatusCode::CREATED, Json(attached)))
}

async fn detach(State(surface): State<Surface>, Body(request): Body<Detach>) -> Result<Json<Detached>, Problem> {
    Ok(Json(to_the_end(async move { surface.service.detach(request).await }).await?))
}

async fn status(State(surface): State<Surface>) -> Result<Json<StatusView>, Problem> {
    Ok(Json(surface.service.status().await?))
}

async fn doctor(State(surface): State<Surface>) -> Json<Vec<Check>> {
    Json(surface.service.doctor().await)
}

async fn version() -> Json<VersionView> {
    Json(VersionView::of_this_binary())
}

async fn scrape(State(surface): State<Surface>) -> Result<Response, Problem> {
    let scrape = surface.service.scrape().await?;
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

fn internal(message: &str) -> Problem {
    ControlError::new(ErrorCode::Internal, message, "look into the agent's log, and report it as a fault").into()
}
