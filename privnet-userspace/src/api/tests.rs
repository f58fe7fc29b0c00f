//! The whole HTTP surface, against an agent that is not there.

mod described;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::fake::{self, APP, Fake};
use super::peer::{Accounts, Peer};
use super::request::MAX_BODY_BYTES;
use super::router::routes;
use super::{Surface, metrics_router, router};
use crate::agent::views::{Deleted, Detached, EndedNetwork, ProblemView, VersionView};
use crate::agent::{ControlError, ErrorCode};

const ROOT: Peer = Peer { uid: 0, gid: 0, pid: None };
const STRANGER: Peer = Peer { uid: 1002, gid: 1002, pid: None };

#[tokio::test]
async fn every_request_reaches_the_agent_and_its_answer_comes_back() {
    let target = json!({"netns": "/run/netns/a"});
    let attach =
        json!({"network": "shop", "app": APP, "type": "web", "number": 1, "address": "10.240.0.2", "target": target});
    for (method, path, body, status, asked) in [
        ("GET", "/v1/networks", Value::Null, 200, "networks"),
        ("POST", "/v1/networks", json!({"name": "shop"}), 201, "create_network shop None"),
        ("GET", "/v1/networks/shop", Value::Null, 200, "network shop"),
        ("GET", "/v1/networks/a%2Fb%20c", Value::Null, 404, "network a/b c"),
        ("DELETE", "/v1/networks/shop", Value::Null, 200, "delete_network shop"),
        ("POST", "/v1/network-ends", json!({"network": "shop"}), 200, "end_network shop false"),
        ("POST", "/v1/network-ends", json!({"network": "shop", "yes": true}), 200, "end_network shop true"),
        ("GET", "/v1/members", Value::Null, 200, "members None"),
        ("GET", "/v1/members?network=a%26b", Value::Null, 200, r#"members Some("a&b")"#),
        (
            "POST",
            "/v1/members",
            attach,
            201,
            &format!(r#"attach shop {APP} Some("web") Some(1) Some(10.240.0.2) Netns("/run/netns/a")"#),
        ),
        (
            "POST",
            "/v1/members",
            json!({"network": "shop", "app": APP, "target": {"pid": 7}}),
            201,
            &format!("attach shop {APP} None None None Pid(7)"),
        ),
        (
            "POST",
            "/v1/members",
            json!({"network": "shop", "app": APP, "target": {"pid": 7}, "ports": ["http=8080"], "attachment": {"name": "x"}}),
            201,
            &format!(r#"attach shop {APP} None None None Pid(7) ["http=8080"] by x None"#),
        ),
        (
            "POST",
            "/v1/members/detach",
            json!({"network": "shop", "app": APP}),
            200,
            &format!("detach shop {APP} None None"),
        ),
        (
            "POST",
            "/v1/members/detach",
            json!({"network": "shop", "app": APP, "drain": true}),
            200,
            &format!("detach shop {APP} None None drain"),
        ),
        ("GET", "/v1/attachments", Value::Null, 200, "attachments"),
        ("POST", "/v1/attachments/end", json!({"name": "cni/shop/c1/eth0"}), 200, "end_attachment cni/shop/c1/eth0"),
        ("GET", "/v1/domain-names?app=ap-x", Value::Null, 200, "domain_names ap-x None"),
        ("GET", "/v1/domain-names?app=ap-x&network=shop", Value::Null, 200, r#"domain_names ap-x Some("shop")"#),
        ("GET", "/v1/resolve?name=a.b&as=1.web.ap-x", Value::Null, 200, "resolve a.b None 1.web.ap-x"),
        ("GET", "/v1/resolve?name=a.b&type=srv&as=10.0.0.1", Value::Null, 200, r#"resolve a.b Some("srv") 10.0.0.1"#),
        ("GET", "/v1/fleet", Value::Null, 200, "fleet"),
        ("POST", "/v1/hosts/adopt", json!({"yes": true}), 200, "adopt_host true false"),
        ("POST", "/v1/hosts/forget", json!({"host": "h2", "force": true}), 200, "forget_host h2 false true"),
        ("POST", "/v1/hosts/drain", json!({"host": "h2", "wait_seconds": 5}), 200, "drain_host h2 Some(5) false"),
        ("POST", "/v1/fleet", json!({"vxlan_port": 4790}), 200, "set_fleet 4790"),
        ("GET", "/v1/hosts", Value::Null, 200, "hosts"),
        ("POST", "/v1/state/close", Value::Null, 200, "close_state"),
        ("POST", "/v1/state/import", json!(fake::exported_state()), 200, "import_state 1"),
        ("POST", "/v1/state/rebuild", json!({"yes": true}), 200, "rebuild_state false true"),
        ("GET", "/v1/status", Value::Null, 200, "status"),
    ] {
        let fake = Arc::new(Fake::default());
        let response = send(&fake, ROOT, request(method, path, &body)).await;
        assert_eq!(response.status().as_u16(), status, "{method} {path}");
        assert_eq!(*fake.asked.lock().expect("unpoisoned"), [asked], "{method} {path}");
    }
}

#[tokio::test]
async fn answers_are_the_views() {
    let fake = Arc::new(Fake::default());
    for (path, expected) in [
        ("/v1/networks", json!([fake::network_view()])),
        ("/v1/networks/shop", json!(fake::network_view())),
        ("/v1/members", json!([fake::member_view()])),
        ("/v1/attachments", json!([fake::attachment_view()])),
        ("/v1/domain-names?app=x", json!([fake::domain_name_view()])),
        ("/v1/resolve?name=x&as=y", json!(fake::resolve_view())),
        ("/v1/fleet", json!(fake::fleet_view())),
        ("/v1/hosts", json!([fake::host_view()])),
        ("/v1/status", json!(fake::status_view())),
        ("/v1/doctor", json!([fake::check()])),
        ("/v1/version", json!(VersionView::of_this_binary())),
    ] {
        let response = send(&fake, STRANGER, request("GET", path, &Value::Null)).await;
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json", "{path}");
        assert_eq!(json_of(response).await, expected, "{path}");
    }
}

#[tokio::test]
async fn a_stranger_may_read_and_nothing_else_and_a_member_of_the_group_may_change() {
    let etc = tempfile::tempdir().expect("temporary directory");
    std::fs::write(etc.path().join("group"), "privnet:x:990:alice\n").expect("written");
    std::fs::write(etc.path().join("passwd"), "alice:x:1000:1000::/:/bin/sh\n").expect("written");
    let alice = Peer { uid: 1000, gid: 1000, pid: None };
    for (method, path, body) in [
        ("POST", "/v1/networks", json!({"name": "shop"})),
        ("DELETE", "/v1/networks/shop", Value::Null),
        ("POST", "/v1/members", json!({"network": "shop", "app": APP, "target": {"pid": 7}})),
        ("POST", "/v1/members/detach", json!({"network": "shop", "app": APP})),
        ("POST", "/v1/attachments/end", json!({"name": "cni/shop/c1/eth0"})),
        ("POST", "/v1/fleet", json!({"vxlan_port": 4790})),
        ("POST", "/v1/state/close", Value::Null),
        // A read that shows who sends what to whom.
        ("GET", "/v1/drops", Value::Null),
    ] {
        for (peer, allowed) in [(Some(ROOT), true), (Some(alice), true), (Some(STRANGER), false), (None, false)] {
            let fake = Arc::new(Fake::default());
            let mut request = request(method, path, &body);
            if let Some(peer) = peer {
                request.extensions_mut().insert(peer);
            }
            let response = router(surface(&fake, etc.path())).oneshot(request).await.expect("infallible");
            assert_eq!(response.status().is_success(), allowed, "{method} {path} by {peer:?}");
            assert_eq!(
                fake.asked.lock().expect("unpoisoned").len(),
                usize::from(allowed),
                "{method} {path} by {peer:?}"
            );
            if !allowed {
                assert_eq!(response.status(), StatusCode::FORBIDDEN);
                assert_eq!(code_of(response).await, ErrorCode::PermissionDenied);
            }
        }
    }
    let fake = Arc::new(Fake::default());
    let response = send(&fake, STRANGER, request("GET", "/v1/members", &Value::Null)).await;
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_stranger_opens_no_stream_and_a_connection_that_is_not_switched_carries_none() {
    let body = json!({"network": "shop", "host": "backend.demo", "port": 80});
    for (peer, status, code) in [
        (STRANGER, StatusCode::FORBIDDEN, ErrorCode::PermissionDenied),
        (ROOT, StatusCode::UPGRADE_REQUIRED, ErrorCode::InvalidArgument),
    ] {
        let fake = Arc::new(Fake::default());
        let response = send(&fake, peer, request("POST", "/v1/streams", &body)).await;
        assert_eq!(response.status(), status, "{peer:?}");
        assert_eq!(code_of(response).await, code);
        assert_eq!(*fake.asked.lock().expect("unpoisoned"), [] as [&str; 0]);
    }
}

#[tokio::test]
async fn only_root_has_the_agent_write_a_file_and_the_group_may_say_that_it_writes_it() {
    let etc = tempfile::tempdir().expect("temporary directory");
    std::fs::write(etc.path().join("group"), "privnet:x:990:alice\n").expect("written");
    std::fs::write(etc.path().join("passwd"), "alice:x:1000:1000::/:/bin/sh\n").expect("written");
    let alice = Peer { uid: 1000, gid: 1000, pid: None };
    // Also in the group root, which is not the user root.
    let of_group = Peer { uid: 1001, gid: 990, pid: None };
    for (file, peer, allowed) in [
        (json!({"path": "/run/a"}), ROOT, true),
        (json!({"path": "/run/a", "by_caller": true}), ROOT, true),
        (json!({"path": "/run/a", "by_caller": true}), alice, true),
        (json!({"path": "/run/a"}), alice, false),
        (json!({"path": "/run/a", "by_caller": false}), alice, false),
        (json!({"path": "/run/a"}), of_group, false),
        (Value::Null, alice, true),
    ] {
        let fake = Arc::new(Fake::default());
        let body = json!({"network": "shop", "app": APP, "target": {"pid": 7}, "resolv_conf": file});
        let mut request = request("POST", "/v1/members", &body);
        request.extensions_mut().insert(peer);
        let response = router(surface(&fake, etc.path())).oneshot(request).await.expect("infallible");
        assert_eq!(response.status().is_success(), allowed, "{file} by {peer:?}");
        assert_eq!(fake.asked.lock().expect("unpoisoned").len(), usize::from(allowed), "{file} by {peer:?}");
        if !allowed {
            assert_eq!(code_of(response).await, ErrorCode::PermissionDenied);
        }
    }
}

#[tokio::test]
async fn what_is_malformed_never_reaches_the_agent() {
    let deep = "[".repeat(1000);
    for (path, body) in [
        ("/v1/networks", ""),
        ("/v1/networks", "{"),
        ("/v1/networks", "[]"),
        ("/v1/networks", "{}"),
        ("/v1/networks", r#"{"name":"shop","colour":"red"}"#),
        ("/v1/networks", r#"{"name":"shop","name":"shop"}"#),
        ("/v1/networks", r#"{"name":"shop"} trailing"#),
        ("/v1/networks", deep.as_str()),
        ("/v1/members", r#"{"network":"shop","app":"a"}"#),
        ("/v1/members", r#"{"network":"shop","app":"a","target":{"pid":-1}}"#),
        ("/v1/members", r#"{"network":"shop","app":"a","target":{"socket":"x"}}"#),
        ("/v1/members", r#"{"network":"shop","app":"a","target":{"pid":1,"netns":"/x"}}"#),
        ("/v1/members", r#"{"network":"shop","app":"a","target":{"pid":1},"address":"10.0.0.256"}"#),
        ("/v1/members/detach", r#"{"network":"shop"}"#),
    ] {
        let fake = Arc::new(Fake::default());
        let request = Request::post(path).body(Body::from(body.to_owned())).expect("request");
        let response = send(&fake, ROOT, request).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{path} {body}");
        assert_eq!(code_of(response).await, ErrorCode::InvalidArgument, "{path} {body}");
        assert!(fake.asked.lock().expect("unpoisoned").is_empty(), "{path} {body}");
    }
}

#[tokio::test]
async fn an_unknown_query_parameter_is_refused_and_a_known_one_is_not() {
    let fake = Arc::new(Fake::default());
    let response = send(&fake, ROOT, request("GET", "/v1/members?netwrok=shop", &Value::Null)).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert_eq!(code_of(response).await, ErrorCode::InvalidArgument);
    let response = send(&fake, ROOT, request("GET", "/v1/members?network=shop", &Value::Null)).await;
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_body_of_64_kib_is_read_and_one_more_byte_is_not() {
    let fake = Arc::new(Fake::default());
    let padded = |length: usize| {
        let body = r#"{"name":"shop"}"#;
        Request::post("/v1/networks")
            .body(Body::from(format!("{body}{}", " ".repeat(length - body.len()))))
            .expect("request")
    };
    assert_eq!(send(&fake, ROOT, padded(MAX_BODY_BYTES)).await.status(), StatusCode::CREATED);
    let response = send(&fake, ROOT, padded(MAX_BODY_BYTES + 1)).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(code_of(response).await, ErrorCode::InvalidArgument);
    assert_eq!(fake.asked.lock().expect("unpoisoned").len(), 1);
}

#[tokio::test]
async fn an_error_of_the_agent_comes_back_with_its_code_and_a_fitting_status() {
    for (code, status) in [
        (ErrorCode::InvalidSubnet, 400),
        (ErrorCode::PermissionDenied, 403),
        (ErrorCode::NetworkNotFound, 404),
        (ErrorCode::AddressTaken, 409),
        (ErrorCode::Internal, 500),
        (ErrorCode::Unsupported, 501),
        (ErrorCode::StoreUnavailable, 503),
        (ErrorCode::Timeout, 504),
    ] {
        let error = ControlError::new(code, "a message", "a remedy");
        let fake = Arc::new(Fake { failure: Some(error.clone()), ..Fake::default() });
        for path in ["/v1/status", "/metrics"] {
            let response = send(&fake, ROOT, request("GET", path, &Value::Null)).await;
            assert_eq!(response.status().as_u16(), status);
            assert_eq!(json_of(response).await, json!({"error": error}));
        }
    }
}

#[tokio::test]
async fn what_is_not_there_is_said_in_json() {
    let fake = Arc::new(Fake::default());
    for (method, path, status) in [
        ("GET", "/", 404),
        ("GET", "/v1/networks/", 404),
        ("GET", "/v2/networks", 404),
        ("POST", "/nowhere", 404),
        ("PUT", "/v1/networks", 405),
        ("POST", "/v1/status", 405),
        ("DELETE", "/metrics", 405),
    ] {
        let response = send(&fake, ROOT, request(method, path, &Value::Null)).await;
        assert_eq!(response.status().as_u16(), status, "{method} {path}");
        assert_eq!(code_of(response).await, ErrorCode::InvalidArgument, "{method} {path}");
    }
}

#[tokio::test]
async fn no_answer_invites_a_browser() {
    let fake = Arc::new(Fake::default());
    let request = Request::get("/v1/status").header(header::ORIGIN, "http://evil.example").body(Body::empty());
    let response = send(&fake, ROOT, request.expect("request")).await;
    assert!(!response.headers().keys().any(|name| name.as_str().starts_with("access-control")));
}

#[tokio::test]
async fn metrics_are_prometheus_text_on_both_listeners_and_the_open_one_has_nothing_else() {
    let fake = Arc::new(Fake::default());
    let open = metrics_router(surface(&fake, Path::new("/nonexistent")));
    let local = router(surface(&fake, Path::new("/nonexistent")));
    for router in [&open, &local] {
        let response = oneshot(router, request("GET", "/metrics", &Value::Null)).await;
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/plain; version=0.0.4; charset=utf-8");
        let text = text_of(response).await;
        assert!(text.contains("direction=\"out\",reason=\"forwarded_local\"} 3\n"), "{text}");
    }
    for (method, path) in [("GET", "/v1/status"), ("GET", "/openapi.json"), ("POST", "/v1/networks"), ("GET", "/")] {
        let response = oneshot(&open, request(method, path, &json!({"name": "shop"}))).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{method} {path}");
    }
    assert_eq!(
        oneshot(&open, request("POST", "/metrics", &Value::Null)).await.status(),
        StatusCode::METHOD_NOT_ALLOWED
    );
    assert!(!fake.asked.lock().expect("unpoisoned").iter().any(|asked| asked.starts_with("create")));
}

fn surface(fake: &Arc<Fake>, etc: &Path) -> Surface {
    let service: Arc<Fake> = Arc::clone(fake);
    Surface::new(service, Accounts::in_directory(etc))
}

fn request(method: &str, path: &str, body: &Value) -> Request<Body> {
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    Request::builder().method(method).uri(path).body(body).expect("request")
}

async fn send(fake: &Arc<Fake>, peer: Peer, mut request: Request<Body>) -> Response<Body> {
    request.extensions_mut().insert(peer);
    router(surface(fake, Path::new("/nonexistent"))).oneshot(request).await.expect("infallible")
}

async fn oneshot(router: &Router, request: Request<Body>) -> Response<Body> {
    router.clone().oneshot(request).await.expect("infallible")
}

async fn text_of(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.expect("read").to_bytes();
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

async fn json_of(response: Response<Body>) -> Value {
    serde_json::from_str(&text_of(response).await).expect("JSON")
}

async fn code_of(response: Response<Body>) -> ErrorCode {
    let mut body = json_of(response).await;
    serde_json::from_value(body["error"]["code"].take()).expect("a code")
}
