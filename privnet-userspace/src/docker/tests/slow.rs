//! A host that is busy: the agent takes long for a call, a container to start, and Docker to answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

use super::{
    DIGITS, ENDPOINT, Fake, Handovers, NETWORK, Plugin, Scene, create_endpoint, create_network, join, of_endpoint,
};
use crate::docker::Engine;

/// How often is looked.
const GLANCE: Duration = Duration::from_millis(1);

/// Answers after `delay` that the endpoint is of the container `late`, and counts what it has answered.
async fn docker(listener: UnixListener, delay: Duration, answered: Arc<AtomicUsize>) {
    let network = json!({"Name": "shop", "Containers": {"1": {"EndpointID": ENDPOINT, "Name": "late"}}});
    let listed = json!([{"Id": "1", "Names": ["/late"], "Labels": {}}]);
    loop {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.expect("a request"));
        }
        let is_of_network = String::from_utf8_lossy(&request).starts_with(&format!("GET /networks/{NETWORK} "));
        let body = Value::to_string(if is_of_network { &network } else { &listed });
        let length = body.len();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
        tokio::time::sleep(delay).await;
        // It may not wait any more.
        let _ = stream.write_all(answer.as_bytes()).await;
        answered.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_container_that_docker_goes_on_with_keeps_its_place_and_one_that_it_says_nothing_of_loses_it() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let socket = directory.path().join("docker.sock");
    let answered = Arc::new(AtomicUsize::new(0));
    let listener = UnixListener::bind(&socket).expect("bound");
    let docker = tokio::spawn(docker(listener, Duration::ZERO, Arc::clone(&answered)));
    let plugin = Plugin::new(directory.path(), Engine::at(&socket)).with_patience(Duration::from_millis(50));
    let fake = Arc::new(Fake::default());
    plugin.begin(Arc::clone(&fake) as Arc<dyn Handovers>);
    let scene = Scene { _directory: directory, fake, plugin };
    scene.call("NetworkDriver.CreateNetwork", &create_network()).await.expect("created");
    scene.call("NetworkDriver.CreateEndpoint", &create_endpoint(&json!({}))).await.expect("made");
    scene.call("NetworkDriver.Join", &join()).await.expect("joined");
    let before = answered.load(Ordering::Relaxed);
    while answered.load(Ordering::Relaxed) < before + 6 {
        tokio::time::sleep(GLANCE).await;
    }
    assert!(scene.fake.handed_over(DIGITS).is_some(), "Docker was asked, and goes on with it");
    docker.abort();
    while scene.fake.handed_over(DIGITS).is_some() {
        tokio::time::sleep(GLANCE).await;
    }
    assert_eq!(scene.fake.take().last().map(String::as_str), Some("end"));
}

#[tokio::test]
async fn doctor_waits_longer_for_docker_than_a_container_may() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let socket = directory.path().join("docker.sock");
    let listener = UnixListener::bind(&socket).expect("bound");
    let docker = tokio::spawn(docker(listener, Duration::from_millis(600), Arc::default()));
    assert_eq!(Engine::at(&socket).network_name(NETWORK).await, None);
    assert_eq!(Engine::at(&socket).with_time().network_name(NETWORK).await.as_deref(), Some("shop"));
    docker.abort();
}

#[tokio::test]
async fn an_agent_that_hangs_is_said_to_and_leaves_nothing_that_docker_does_not_know() {
    let scene = Scene::new();
    let scene = Scene { plugin: scene.plugin.with_deadline(Duration::from_millis(100)), ..scene };
    let networks = || {
        let text = std::fs::read_to_string(scene._directory.path().join("docker-networks.json"));
        text.unwrap_or_default()
    };
    scene.call("NetworkDriver.CreateNetwork", &create_network()).await.expect("created");
    scene.call("NetworkDriver.CreateEndpoint", &create_endpoint(&json!({}))).await.expect("made");
    scene.fake.hangs.send_replace(true);
    let of_other = create_network().to_string().replace(NETWORK, ENDPOINT);
    for (method, body) in [
        ("NetworkDriver.CreateNetwork", of_other),
        ("NetworkDriver.Join", join().to_string()),
        ("NetworkDriver.Leave", of_endpoint().to_string()),
        ("NetworkDriver.CreateEndpoint", create_endpoint(&json!({})).to_string()),
    ] {
        scene.fake.take();
        let own = Some(std::process::id().cast_signed());
        let refused = scene.plugin.call(method, body.as_bytes(), own).await.expect_err("not in time");
        let call = method.trim_start_matches("NetworkDriver.");
        assert!(refused.contains(&format!("not done with {call} within")), "{method}: {refused}");
        assert!(refused.contains("the store is away; what it began is "), "{method}: {refused}");
        let is_made = scene.fake.handed_over(DIGITS).is_some();
        assert!(is_made, "{method}: Docker ends by itself what it was told is there");
    }
    // It is not dropped half way; what Docker was refused it does not end.
    scene.fake.hangs.send_replace(false);
    while scene.fake.handed_over(DIGITS).is_some() || networks().contains(ENDPOINT) {
        tokio::time::sleep(GLANCE).await;
    }
    assert!(networks().contains(NETWORK), "the one that was created stays");
    let scene = Scene { plugin: scene.plugin.with_deadline(Duration::from_secs(60)), ..scene };
    scene.call("NetworkDriver.CreateEndpoint", &create_endpoint(&json!({}))).await.expect("the twin");
}

#[tokio::test]
async fn a_call_behind_others_waits_as_long_as_others_are_done() {
    let scene = Scene::new();
    let deadline = Duration::from_secs(3);
    let scene = Scene { plugin: scene.plugin.with_deadline(deadline), ..scene };
    scene.call("NetworkDriver.CreateNetwork", &create_network()).await.expect("created");
    scene.fake.hangs.send_replace(true);
    let body = create_endpoint(&json!({})).to_string();
    let waits = scene.plugin.call("NetworkDriver.CreateEndpoint", body.as_bytes(), Some(1));
    let others = async {
        let other = of_endpoint().to_string().replace(ENDPOINT, NETWORK);
        for _ in 0..24 {
            tokio::time::sleep(deadline / 12).await;
            scene.plugin.call("NetworkDriver.DeleteEndpoint", other.as_bytes(), Some(1)).await.expect("done");
        }
        scene.fake.hangs.send_replace(false);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        () = others => {}
        made = waits => drop(made.expect("it was its turn at last")),
    }
}
