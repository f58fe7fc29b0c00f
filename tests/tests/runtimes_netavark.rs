//! Networks of Podman from 4.5 on: the test is netavark, and makes the calls that it was seen to make.
//!
//! ```text
//!  host: agent                                   container                    container
//! ┌──────────────────────────────────┐          ┌──────────────────┐         ┌──────────────────┐
//! │ netavark/privnet setup ─▶ agent  │          │ wg0  10.90.0.2   │~~~~~~~~~│ eth0 10.90.0.3   │
//! └──────────────────────────────────┘          └──────────────────┘         └──────────────────┘
//! ```
#![forbid(unsafe_code)]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use privnet_tests::lab::{Host, Lab, Options, Space, binary, wait_until};
use serde_json::{Value, json};

struct Scene {
    lab: Lab,
    host: Host,
    plugin: PathBuf,
}

#[test]
fn networks_of_netavark_make_members_and_end_them() {
    let lab = Lab::new("networks_of_netavark_make_members_and_end_them");
    let host = lab.host(&Options::ebpf());
    let directory = lab.directory().join("netavark");
    fs::create_dir(&directory).expect("a directory");
    let plugin = directory.join("privnet");
    symlink(binary(), &plugin).expect("the link that a package has");
    let scene = Scene { lab, host, plugin };
    scene.what_cannot_be_is_refused_with_what_to_do();
    scene.containers_come_and_go();
    let Scene { lab, host, .. } = scene;
    drop(host);
    lab.finish();
}

impl Scene {
    fn what_cannot_be_is_refused_with_what_to_do(&self) {
        for (more, said) in [
            (json!({ "subnets": [{ "subnet": "10.9.0.0/24", "gateway": "10.9.0.1" }] }), "leave --subnet"),
            (json!({ "ipv6_enabled": true }), "leave --ipv6 out"),
            (json!({ "options": { "mtu": "9000" } }), "\"mtu\" is no option"),
            (json!({ "options": { "network": "No" } }), "network name"),
        ] {
            let refused = self.call("create", None, &network(&more)).expect_err(said);
            assert!(refused.contains(said), "{refused}");
        }
        assert!(self.call("speak", None, &json!({})).is_err_and(|said| said.contains("no call of netavark's")));
        assert_eq!(self.call("info", None, &json!({})).expect("it answers")["api_version"], "1.0.0");
        assert_eq!(self.host.networks().expect("the networks"), []);
    }

    fn containers_come_and_go(&self) {
        let made = self.call("create", None, &network(&json!({ "options": { "network": "shop" } }))).expect("created");
        assert_eq!(made["ipam_options"], json!({ "driver": "none" }), "the addresses are privnet's");
        assert_eq!(made["dns_enabled"], false, "and so are the names");
        let networks = self.host.networks().expect("the networks");
        assert_eq!(networks.iter().map(|network| network.name.as_str()).collect::<Vec<_>>(), ["shop"]);
        let (web, db) = (self.lab.space("web"), self.lab.space("db"));
        let of_web = call(&made, "c1", "eager_web", &json!({ "interface_name": "wg0" }));
        let told = json!({ "interface_name": "eth0", "options": { "app": "demo", "type": "db", "port.sql": "5432" } });
        let of_db = call(&made, "c2", "other", &told);
        let first = self.call("setup", Some(&web), &of_web).expect("set up");
        assert_eq!(first["dns_server_ips"], json!(["127.0.0.82"]));
        assert_eq!(first["dns_search_domains"], json!([format!("{}.private-network.internal", networks[0].id)]));
        assert_eq!(first["interfaces"]["wg0"]["mac_address"], "00:00:00:00:00:00");
        let second = self.call("setup", Some(&db), &of_db).expect("set up");
        assert_eq!(self.call("setup", Some(&db), &of_db), Ok(second.clone()), "the same call again");
        let mut names: Vec<String> = self
            .host
            .members()
            .expect("the members")
            .into_iter()
            .map(|member| format!("{}.{}", member.member.kind, member.member.app_name.expect("a name")))
            .collect();
        names.sort();
        assert_eq!(names, ["db.demo", "web.eager-web"]);
        let address = second["interfaces"]["eth0"]["subnets"][0]["ipnet"].as_str().expect("an address");
        assert!(db.run("ip address show dev eth0").contains(&format!("inet {address} ")), "{address}");
        let address = address.split('/').next().expect("an address");
        wait_until("web reaches db", || web.succeeds(&format!("ping -q -c 1 -W 1 {address}")));
        self.a_second_network_brings_no_second_server(&web);
        for (options, said) in [
            (json!({ "interface_name": "eth1", "static_mac": "0a:00:00:00:00:01" }), "leave --mac-address out"),
            (json!({ "interface_name": "eth1", "options": { "speed": "high" } }), "\"speed\" is no option"),
            (json!({ "interface_name": "eth1", "static_ips": ["192.0.2.1"] }), "192.0.2.1"),
            (json!({ "interface_name": "eth1", "static_ips": ["fd00::1"] }), "leave --ip6 out"),
            (json!({ "interface_name": "eth1" }), "in a network once"),
        ] {
            let refused = self.call("setup", Some(&web), &call(&made, "c1", "eager_web", &options)).expect_err(said);
            assert!(refused.contains(said), "{refused}");
        }
        for (space, container) in [(&web, &of_web), (&db, &of_db)] {
            for _ in 0..2 {
                assert_eq!(self.call("teardown", Some(space), container), Ok(Value::Null), "also twice");
            }
            assert_eq!(space.links(), [] as [&str; 0]);
            space.remove();
        }
        self.host.kill();
        let away = self.call("teardown", Some(&web), &of_web).expect_err("there is no agent");
        assert!(away.contains("the agent is not running"), "{away}");
        self.host.start();
        assert_eq!(self.host.members().expect("the members"), []);
    }

    /// When a container leaves a network, Podman takes the servers out of its file that came with that.
    fn a_second_network_brings_no_second_server(&self, web: &Space) {
        let bank = network(&json!({ "name": "bank", "id": "b1" }));
        let made = self.call("create", None, &bank).expect("created");
        let of_bank = call(&made, "c1", "eager_web", &json!({ "interface_name": "eth1" }));
        let second = self.call("setup", Some(web), &of_bank).expect("set up");
        assert_eq!(second["dns_server_ips"], json!([]));
        let searched = second["dns_search_domains"].as_array().expect("a list");
        let networks = self.host.networks().expect("the networks");
        let id = &networks.iter().find(|network| network.name.as_str() == "bank").expect("it is there").id;
        assert_eq!(searched, &[json!(format!("{id}.private-network.internal"))], "each network brings its own");
        assert_eq!(self.call("teardown", Some(web), &of_bank), Ok(Value::Null));
    }

    /// Executes the plugin as netavark does.
    fn call(&self, command: &str, netns: Option<&Space>, stdin: &Value) -> Result<Value, String> {
        let mut plugin = Command::new(&self.plugin);
        plugin.arg(command).args(netns.map(Space::path)).env("PRIVNET_SOCKET", &self.host.paths().socket);
        let mut child = plugin.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the plugin");
        // One that needs none does not read it.
        let _ = child.stdin.take().expect("its input").write_all(stdin.to_string().as_bytes());
        let output = child.wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let answer: Value = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).expect("JSON") };
        if output.status.success() {
            return Ok(answer);
        }
        Err(answer["error"].as_str().unwrap_or_else(|| panic!("{command}: {text}")).to_owned())
    }
}

fn network(more: &Value) -> Value {
    let mut network = json!({
        "name": "blue", "id": "a0d6", "driver": "privnet", "created": "0001-01-01T00:00:00Z", "ipv6_enabled": false,
        "internal": false, "dns_enabled": true,
    });
    network.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    network
}

fn call(network: &Value, id: &str, name: &str, options: &Value) -> Value {
    let mut all = json!({ "aliases": [id], "static_ips": null, "static_mac": null, "options": null });
    all.as_object_mut().expect("an object").extend(options.as_object().expect("an object").clone());
    let mut network = network.clone();
    for absent in ["network_interface", "subnets", "routes", "network_dns_servers"] {
        network[absent] = Value::Null;
    }
    json!({
        "container_id": id, "container_name": name, "port_mappings": null, "network": network, "network_options": all,
    })
}
