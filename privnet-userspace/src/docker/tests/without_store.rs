//! dockerd's calls while the store is away.

use std::sync::atomic::Ordering;

use serde_json::json;

use super::{DIGITS, OURS, Scene, create_endpoint, create_network, join};

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
async fn a_container_that_comes_back_is_named_in_its_join_or_has_no_place() {
    let told = json!({"privnet.app": "shop", "privnet.type": "db", "privnet.port.settled": "1"});
    for (is_told, is_on_trust, expected) in [(true, true, true), (false, false, true), (false, true, false)] {
        let scene = Scene::new();
        scene.call("NetworkDriver.CreateNetwork", &create_network()).await.expect("created");
        scene.fake.has_no_store.store(is_on_trust, Ordering::Relaxed);
        scene.call("NetworkDriver.CreateEndpoint", &create_endpoint(&told)).await.expect("its place");
        if !is_told {
            // Docker is asked, and is silent in these tests, as when it takes too long.
            let mut made = scene.fake.made.lock().expect("whole");
            made.get_mut(&DIGITS).expect("made").wishes.remove("privnet.type");
        }
        let joined = scene.call("NetworkDriver.Join", &join()).await;
        assert_eq!(joined.is_ok(), expected, "{is_told} {is_on_trust}: {joined:?}");
        assert!(expected || joined.is_err_and(|refused| refused.contains("whose place this is")));
        assert_eq!(scene.fake.take().iter().any(|asked| asked.starts_with("name ")), is_told);
    }
}

#[tokio::test]
async fn what_the_agent_says_is_what_the_user_reads() {
    let scene = Scene::new();
    let mut body = create_network();
    body["Options"]["com.docker.network.generic"]["network"] = json!("away");
    let refused = scene.call("NetworkDriver.CreateNetwork", &body).await;
    assert_eq!(refused, Err("the store is away: wait for it".to_owned()));
}
