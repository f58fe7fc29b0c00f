//! dockerd's calls while the store is away.

use std::sync::atomic::Ordering;

use serde_json::json;

use super::{OURS, Scene, create_endpoint, create_network};

#[tokio::test]
async fn a_container_that_says_who_it_is_may_come_back_and_another_one_may_not() {
    let scene = Scene::new();
    scene.call("NetworkDriver.CreateNetwork", &create_network()).await.expect("created");
    scene.fake.take();
    scene.fake.has_no_store.store(true, Ordering::Relaxed);
    // Docker's API is silent in these tests, as at dockerd's start.
    let refused = scene.call("NetworkDriver.CreateEndpoint", &create_endpoint(&json!({"privnet.app": "shop"}))).await;
    assert_eq!(refused, Err("the store is away: wait for it".to_owned()), "half of a name");
    let asked = format!("prepare {OURS} docker-8e516a5b5927c0de Some(\"web\") Some(1) None");
    assert_eq!(scene.fake.take(), std::slice::from_ref(&asked));
    let told = json!({"privnet.app": "shop", "privnet.type": "db"});
    scene.call("NetworkDriver.CreateEndpoint", &create_endpoint(&told)).await.expect("its place");
    assert_eq!(scene.fake.take(), [asked.clone(), asked], "the store is asked first");
}

#[tokio::test]
async fn what_the_agent_says_is_what_the_user_reads() {
    let scene = Scene::new();
    let mut body = create_network();
    body["Options"]["com.docker.network.generic"]["network"] = json!("away");
    let refused = scene.call("NetworkDriver.CreateNetwork", &body).await;
    assert_eq!(refused, Err("the store is away: wait for it".to_owned()));
}
