//! Hostile request bodies: understood, or refused with the error that every client knows. Never anything else.

use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use proptest::prelude::*;
use serde_json::Value;
use tower::ServiceExt;

use super::fake::{APP, Fake};
use super::peer::{Accounts, Peer};
use super::{Surface, router};
use crate::model::hostile::{near_json, odd_text};

fn corpus() -> Vec<String> {
    vec![
        r#"{"name":"shop","subnet":"10.240.0.0/22","names":{"ttl_seconds":5}}"#.to_owned(),
        format!(
            r#"{{"network":"shop","app":"{APP}","type":"web","number":1,"address":"10.240.0.2","target":{{"netns":"/run/netns/a"}},"ports":["http=80"]}}"#
        ),
        format!(r#"{{"network":"shop","app":"{APP}","target":{{"pid":7}}}}"#),
        format!(r#"{{"network":"shop","app":"{APP}","type":"web","number":1,"drain":true}}"#),
        r#"{"network":"shop","host":"backend.demo","port":80,"timeout_seconds":5}"#.to_owned(),
    ]
}

fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let corpus = corpus();
    near_json(&corpus.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The status, and the body as JSON.
fn ask(method: &str, path: &str, body: Vec<u8>) -> Option<(u16, Value)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut request = Request::builder().method(method).uri(path).body(Body::from(body)).ok()?;
    request.extensions_mut().insert(Peer { uid: 0, gid: 0, pid: None });
    let accounts = Accounts::in_directory(Path::new("/nonexistent"));
    let surface = Surface::new(Arc::new(Fake::default()), accounts);
    runtime.block_on(async {
        let response = router(surface).oneshot(request).await.expect("infallible");
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.expect("read").to_bytes();
        Some((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
    })
}

fn is_an_answer((status, body): &(u16, Value)) -> Result<(), TestCaseError> {
    if (200..300).contains(status) {
        return Ok(());
    }
    prop_assert!((400..500).contains(status), "{}: {}", status, body);
    for field in ["code", "message", "remedy"] {
        let text = body["error"][field].as_str().unwrap_or_default();
        prop_assert!(!text.is_empty(), "{} without {}: {}", status, field, body);
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_body_is_understood_or_refused_as_documented(
        body in bodies(),
        path in prop::sample::select(vec!["/v1/networks", "/v1/members", "/v1/members/detach", "/v1/streams"]),
    ) {
        is_an_answer(&ask("POST", path, body).expect("a request"))?;
    }

    #[test]
    fn any_path_is_understood_or_refused_as_documented(
        text in odd_text(),
        method in prop::sample::select(vec!["GET", "DELETE", "PUT"]),
    ) {
        let escaped: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
        for path in [format!("/v1/networks/{escaped}"), format!("/v1/members?network={escaped}"), format!("/{text}")] {
            if let Some(answer) = ask(method, &path, Vec::new()) {
                is_an_answer(&answer)?;
            }
        }
    }
}

#[test]
fn the_corpus_is_understood() {
    for (path, body) in ["/v1/networks", "/v1/members", "/v1/members", "/v1/members/detach"].iter().zip(corpus()) {
        let (status, answer) = ask("POST", path, body.clone().into_bytes()).expect("a request");
        assert!((200..300).contains(&status), "{body}: {status} {answer}");
    }
}
