//! dockerd's calls as it was seen to make them, answered by an agent that notes what it is asked for.

mod slow;
mod without_store;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;

use super::{Engine, Plugin};
use crate::agent::handover::{HandedOver, Handovers, Stage, Wish};
use crate::agent::views::Attach;
use crate::agent::{ControlError, ErrorCode};
use crate::model::{IfName, NetworkId};

const NETWORK: &str = "5d1ab4a0a4a2b3f0c5d1ab4a0a4a2b3f0c5d1ab4a0a4a2b3f0c5d1ab4a0a4a2b3";
const ENDPOINT: &str = "8e516a5b5927c0de8e516a5b5927c0de8e516a5b5927c0de8e516a5b5927c0de";
const DIGITS: u64 = 0x8e51_6a5b_5927_c0de;
const OURS: &str = "pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c";

/// Notes what it is asked for, and holds what it was told to make.
#[derive(Default)]
struct Fake {
    /// What it is asked for now is not done before this is over, except that a member ends.
    hangs: watch::Sender<bool>,
    /// The store is away: only what ended meanwhile is there.
    has_no_store: AtomicBool,
    asked: Mutex<Vec<String>>,
    made: Mutex<BTreeMap<u64, HandedOver>>,
}

impl Fake {
    fn note(&self, text: String) {
        self.asked.lock().expect("whole").push(text);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().expect("whole"))
    }

    async fn done(&self) {
        // The sender is this value's.
        let _ = self.hangs.subscribe().wait_for(|hangs| !hangs).await;
    }

    fn stage(&self, digits: u64, stage: Stage) -> Result<(), ControlError> {
        let mut made = self.made.lock().expect("whole");
        made.get_mut(&digits).ok_or_else(unknown)?.stage = stage;
        Ok(())
    }
}

fn away() -> ControlError {
    ControlError::new(ErrorCode::StoreUnavailable, "the store is away", "wait for it")
}

fn unknown() -> ControlError {
    ControlError::new(ErrorCode::MemberNotFound, "not known", "try again")
}

#[async_trait]
impl Handovers for Fake {
    async fn network_for(&self, id_or_name: &str) -> Result<NetworkId, ControlError> {
        self.note(format!("network {id_or_name}"));
        self.done().await;
        if id_or_name == "away" { Err(away()) } else { Ok(OURS.parse().expect("an id")) }
    }

    fn handed_over(&self, digits: u64) -> Option<HandedOver> {
        self.made.lock().expect("whole").get(&digits).cloned()
    }

    fn store_fault(&self) -> Option<String> {
        self.hangs.borrow().then(|| away().message)
    }

    fn all_handed_over(&self) -> Vec<u64> {
        self.made.lock().expect("whole").keys().copied().collect()
    }

    async fn prepare(&self, digits: u64, wish: Wish) -> Result<HandedOver, ControlError> {
        let Attach { network, app, kind, number, address, .. } = wish.attach;
        self.note(format!("prepare {network} {app} {kind:?} {number:?} {address:?}"));
        self.done().await;
        if self.has_no_store.load(Ordering::Relaxed) && !wish.may_come_back {
            return Err(away());
        }
        let made = HandedOver {
            address: "10.240.0.9/22".parse().expect("valid"),
            stage: Stage::Made,
            wishes: wish.wishes,
            is_unnamed: true,
            is_on_trust: wish.may_come_back,
            is_settled: false,
            path: PathBuf::new(),
            has_resolv_conf: false,
        };
        Ok(self.made.lock().expect("whole").entry(digits).or_insert(made).clone())
    }

    async fn give(&self, digits: u64, path: &Path, container: &Path) -> Result<IfName, ControlError> {
        self.note(format!("give to {} for {}", path.display(), container.display()));
        self.done().await;
        self.stage(digits, Stage::Given)?;
        Ok("pn8e516a5b5927".parse().expect("valid"))
    }

    async fn settle(&self, digits: u64) -> Result<bool, ControlError> {
        let mut made = self.made.lock().expect("whole");
        let Some(made) = made.get_mut(&digits) else { return Ok(false) };
        made.is_settled = made.wishes.contains_key("privnet.port.settled");
        Ok(made.is_settled)
    }

    async fn adopt(&self, _: u64) -> Result<bool, ControlError> {
        Ok(false)
    }

    async fn name(&self, digits: u64, attach: Attach) -> Result<(), ControlError> {
        self.note(format!("name {} {:?} {:?}", attach.app, attach.kind, attach.number));
        if let Some(made) = self.made.lock().expect("whole").get_mut(&digits) {
            made.is_unnamed = false;
            made.is_on_trust = false;
        }
        Ok(())
    }

    async fn find_at(&self, _: u64, _: &Path) -> Result<bool, ControlError> {
        Ok(true)
    }

    async fn write_resolv_conf(&self, _: u64, _: &Path) -> Vec<String> {
        Vec::new()
    }

    async fn take_back(&self, digits: u64) -> Result<(), ControlError> {
        self.note("take back".to_owned());
        self.done().await;
        let _ = self.stage(digits, Stage::Returned);
        Ok(())
    }

    async fn end(&self, digits: u64) -> Result<(), ControlError> {
        self.note("end".to_owned());
        self.made.lock().expect("whole").remove(&digits);
        Ok(())
    }
}

struct Scene {
    _directory: TempDir,
    fake: Arc<Fake>,
    plugin: Plugin,
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (fake, plugin) = (Arc::new(Fake::default()), Self::plugin(directory.path()));
        plugin.begin(Arc::clone(&fake) as Arc<dyn Handovers>);
        Self { _directory: directory, fake, plugin }
    }

    fn plugin(directory: &Path) -> Plugin {
        Plugin::new(directory, Engine::at(&PathBuf::from("/nonexistent/docker.sock")))
    }

    async fn call(&self, method: &str, body: &Value) -> Result<Value, String> {
        self.plugin.call(method, body.to_string().as_bytes(), Some(std::process::id().cast_signed())).await
    }

    async fn refused(&self, method: &str, body: &Value) -> String {
        let refused = self.call(method, body).await.expect_err("refused");
        assert_eq!(self.fake.take(), [] as [String; 0], "nothing was asked for: {refused}");
        refused
    }
}

/// With `-o network=shop`, as 28.5.2 sends it; 20.10 leaves `enable_ipv4` out.
fn create_network() -> Value {
    json!({
        "NetworkID": NETWORK,
        "Options": {
            "com.docker.network.enable_ipv4": true,
            "com.docker.network.enable_ipv6": false,
            "com.docker.network.generic": {"network": "shop"},
        },
        "IPv4Data": [{"AddressSpace": "null", "Pool": "0.0.0.0/0"}],
        "IPv6Data": [],
    })
}

fn create_endpoint(options: &Value) -> Value {
    let interface = json!({"Address": "", "AddressIPv6": "", "MacAddress": ""});
    json!({"NetworkID": NETWORK, "EndpointID": ENDPOINT, "Interface": interface, "Options": options})
}

fn of_endpoint() -> Value {
    json!({"NetworkID": NETWORK, "EndpointID": ENDPOINT})
}

fn join() -> Value {
    let sandbox = "/run/docker/netns/6d203cdfc578";
    json!({"NetworkID": NETWORK, "EndpointID": ENDPOINT, "SandboxKey": sandbox, "Options": null})
}

#[tokio::test]
async fn the_calls_of_a_run_are_answered_as_docker_wants_them() {
    let scene = Scene::new();
    let plain = |method: &'static str| scene.plugin.call(method, b"", None);
    assert_eq!(plain("Plugin.Activate").await, Ok(json!({"Implements": ["NetworkDriver"]})));
    let capabilities = json!({"Scope": "local", "ConnectivityScope": "global"});
    assert_eq!(plain("NetworkDriver.GetCapabilities").await, Ok(capabilities));
    assert_eq!(scene.call("NetworkDriver.CreateNetwork", &create_network()).await, Ok(json!({})));
    // The name comes once the container's namespace is there, which it is not yet.
    let options = json!({
        "com.docker.network.endpoint.exposedports": [{"Proto": 6, "Port": 80}],
        "privnet.app": "shop", "privnet.type": "db", "privnet.number": "3",
    });
    let made = scene.call("NetworkDriver.CreateEndpoint", &create_endpoint(&options)).await;
    assert_eq!(made, Ok(json!({"Interface": {"Address": "10.240.0.9/22"}})), "an address, and no MAC");
    let joined = scene.call("NetworkDriver.Join", &join()).await.expect("joined");
    let interface = json!({"SrcName": "pn8e516a5b5927", "DstPrefix": "wg"});
    assert_eq!(joined, json!({"InterfaceName": interface, "DisableGatewayService": true}), "and no gateway");
    assert_eq!(scene.call("NetworkDriver.EndpointOperInfo", &of_endpoint()).await, Ok(json!({"Value": {}})));
    assert_eq!(scene.call("NetworkDriver.Leave", &of_endpoint()).await, Ok(json!({})));
    assert_eq!(scene.call("NetworkDriver.DeleteEndpoint", &of_endpoint()).await, Ok(json!({})));
    assert_eq!(scene.call("NetworkDriver.DeleteNetwork", &json!({"NetworkID": NETWORK})).await, Ok(json!({})));
    let own = format!("/proc/{}/ns/net", std::process::id());
    assert_eq!(
        scene.fake.take(),
        [
            "network shop".to_owned(),
            format!("prepare {OURS} docker-8e516a5b5927c0de Some(\"web\") Some(1) None"),
            format!("give to {own} for /run/docker/netns/6d203cdfc578"),
            "take back".to_owned(),
            "end".to_owned(),
        ]
    );
}

#[tokio::test]
async fn a_container_that_is_there_is_named_in_its_join_and_docker_need_not_say_what_was_told() {
    let scene = Scene::new();
    scene.call("NetworkDriver.CreateNetwork", &create_network()).await.expect("created");
    let told = json!({
        "privnet.app": "shop", "privnet.type": "db", "privnet.number": "3", "privnet.address": "10.240.0.9",
        "privnet.port.settled": "1",
    });
    scene.call("NetworkDriver.CreateEndpoint", &create_endpoint(&told)).await.expect("made");
    scene.call("NetworkDriver.Join", &join()).await.expect("joined");
    let asked = scene.fake.take();
    assert!(asked[1].ends_with("Some(1) Some(10.240.0.9)"), "the address is claimed at once: {}", asked[1]);
    assert_eq!(asked.last().map(String::as_str), Some("name shop Some(\"db\") Some(3)"));
}

#[tokio::test]
async fn fields_that_are_not_known_change_nothing() {
    let scene = Scene::new();
    let with_more = |mut body: Value| {
        body.as_object_mut().expect("an object").insert("Later".to_owned(), json!({"Some": ["thing"]}));
        body
    };
    assert_eq!(scene.call("NetworkDriver.CreateNetwork", &with_more(create_network())).await, Ok(json!({})));
    for (method, body) in [
        ("NetworkDriver.CreateEndpoint", create_endpoint(&Value::Null)),
        ("NetworkDriver.Join", join()),
        ("NetworkDriver.Leave", of_endpoint()),
        ("NetworkDriver.DeleteEndpoint", of_endpoint()),
    ] {
        scene.call(method, &with_more(body)).await.expect(method);
    }
}

#[tokio::test]
async fn the_same_call_again_has_the_same_answer_and_one_of_an_endpoint_that_is_gone_is_harmless() {
    let scene = Scene::new();
    for (method, body) in [
        ("NetworkDriver.CreateNetwork", create_network()),
        ("NetworkDriver.CreateEndpoint", create_endpoint(&json!({}))),
        ("NetworkDriver.Join", join()),
        ("NetworkDriver.Leave", of_endpoint()),
        ("NetworkDriver.DeleteEndpoint", of_endpoint()),
    ] {
        let first = scene.call(method, &body).await;
        assert_eq!(scene.call(method, &body).await, first, "{method}");
        assert!(first.is_ok(), "{method}: {first:?}");
    }
    assert_eq!(scene.call("NetworkDriver.Leave", &of_endpoint()).await, Ok(json!({})));
    scene.fake.take();
    assert!(scene.refused("NetworkDriver.Join", &join()).await.contains("not known"), "out of order");
}

#[tokio::test]
async fn a_repeated_call_without_its_body_is_refused_and_never_guessed() {
    let scene = Scene::new();
    for method in ["CreateNetwork", "DeleteNetwork", "CreateEndpoint", "Join", "Leave", "DeleteEndpoint"] {
        let method = format!("NetworkDriver.{method}");
        let refused = scene.plugin.call(&method, b"", Some(1)).await.expect_err("refused");
        assert!(refused.contains("try again"), "{method}: {refused}");
        let refused = scene.plugin.call(&method, b"{\"NetworkID\":", Some(1)).await.expect_err("refused");
        assert!(refused.contains("not understood"), "{method}: {refused}");
        assert!(scene.plugin.call(&method, b"[]", Some(1)).await.is_err(), "{method}");
    }
    assert_eq!(scene.fake.take(), [] as [String; 0]);
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_what_to_type() {
    let scene = Scene::new();
    let with = |key: &str, value: Value| {
        let mut body = create_network();
        body.as_object_mut().expect("an object").insert(key.to_owned(), value);
        body
    };
    let space = json!([{"AddressSpace": "LocalDefault", "Pool": "172.17.0.0/16", "Gateway": "172.17.0.1/16"}]);
    let generic = |options: Value| with("Options", json!({"com.docker.network.generic": options}));
    for (body, sentence) in [
        (with("IPv4Data", space), "add --ipam-driver null"),
        (with("Options", json!({"com.docker.network.enable_ipv6": true})), "leave --ipv6 out"),
        (generic(json!({"speed": "high"})), "-o network=NAME is the only one"),
        (generic(json!({"network": ""})), "give its name or its id"),
    ] {
        let refused = scene.refused("NetworkDriver.CreateNetwork", &body).await;
        assert!(refused.contains(sentence), "{refused}");
    }
    let mut with_mac = create_endpoint(&json!({}));
    with_mac["Interface"]["MacAddress"] = json!("02:42:0a:f0:00:09");
    let mut with_address = create_endpoint(&json!({}));
    with_address["Interface"]["Address"] = json!("172.17.0.2/16");
    let mut no_id = create_endpoint(&json!({}));
    no_id["EndpointID"] = json!("../../x");
    for (body, sentence) in [
        (with_mac, "leave --mac-address out"),
        (with_address, "add --ipam-driver null"),
        (no_id, "no id of an endpoint"),
        (create_endpoint(&json!({"privnet.speed": "high"})), "no driver-opt of privnet's"),
        (create_endpoint(&json!({"privnet.number": "many"})), "privnet.number is \"many\""),
        (create_endpoint(&json!({"privnet.app": 7})), "is no text"),
    ] {
        let refused = scene.refused("NetworkDriver.CreateEndpoint", &body).await;
        assert!(refused.contains(sentence), "{refused}");
    }
    let swarm = scene.refused("NetworkDriver.AllocateNetwork", &json!({"NetworkID": NETWORK})).await;
    assert!(swarm.contains("swarm"), "{swarm}");
}

#[tokio::test]
async fn a_network_that_was_told_is_known_to_the_next_agent_and_one_that_was_not_needs_docker() {
    let scene = Scene::new();
    let unknown = scene.refused("NetworkDriver.CreateEndpoint", &create_endpoint(&json!({}))).await;
    assert!(unknown.contains("Docker does not say"), "{unknown}");
    scene.call("NetworkDriver.CreateNetwork", &create_network()).await.expect("created");
    let next = Scene::plugin(scene._directory.path());
    let starting = next.call("NetworkDriver.Leave", of_endpoint().to_string().as_bytes(), None).await;
    assert!(starting.expect_err("no agent yet").contains("is starting"));
    next.begin(Arc::clone(&scene.fake) as Arc<dyn Handovers>);
    let body = create_endpoint(&json!({})).to_string();
    next.call("NetworkDriver.CreateEndpoint", body.as_bytes(), Some(1)).await.expect("known");
    let asked = scene.fake.take();
    assert_eq!(
        asked[1],
        format!("prepare {OURS} docker-8e516a5b5927c0de Some(\"web\") Some(1) None"),
        "a made-up name"
    );
    assert!(scene.fake.handed_over(DIGITS).expect("made").is_unnamed);
}
