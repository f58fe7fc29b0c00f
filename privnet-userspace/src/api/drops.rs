//! `GET /v1/drops`: the frames that the programs drop, a JSON object a line, as long as the connection lasts.

use std::convert::Infallible;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;

use super::problem::Problem;
use super::request::Query;
use super::serve::GoesOn;
use super::surface::Surface;
use crate::agent::views;

/// Where it is. It is a read for root and the group alone: it shows who sends what to whom.
pub(super) const PATH: &str = "/v1/drops";
/// What its answer is.
pub(super) const CONTENT_TYPE: &str = "application/x-ndjson";

/// Answers with the lines, each as soon as it is there.
pub(super) async fn watch(
    State(surface): State<Surface>,
    goes_on: Option<Extension<GoesOn>>,
    Query(query): Query<views::DropsQuery>,
) -> Response {
    if let Some(Extension(goes_on)) = goes_on {
        goes_on.set();
    }
    match surface.agent.watch_drops(query).await {
        Ok(lines) => {
            let lines = lines.map(|line| {
                let mut text = serde_json::to_vec(&line).unwrap_or_default();
                text.push(b'\n');
                Ok::<_, Infallible>(text)
            });
            ([(header::CONTENT_TYPE, CONTENT_TYPE)], Body::from_stream(lines)).into_response()
        }
        Err(error) => Problem::from(error).into_response(),
    }
}
