//! What stands in the environment and on stdin, in every form that is read and in those that are refused.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::api::ErrorCode;
use crate::api::fake::{host_view, status_view};
use crate::api::identity::{Container, Identity};
use crate::api::views::HostView;

const NETNS: &str = "/run/netns/c1";

/// The environment of a call, with what is different in one.
fn environment(command: &str, more: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> + use<> {
    let usual = [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "0123456789abcdef"),
        ("CNI_NETNS", NETNS),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/usr/lib/cni"),
    ];
    let all: Vec<(String, String)> =
        more.iter().chain(&usual).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    move |name| all.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
}

fn read(command: &str, more: &[(&str, &str)], config: &Value) -> Result<(Call, Config), Failure> {
    let environment = environment(command, more);
    let command = Command::of(&environment)?;
    let call = Call::of(command, &environment)?;
    let config = Config::read(command, &config.to_string(), &call)?;
    Ok((call, config))
}

/// A configuration with more keys than it needs.
fn with(more: Value) -> Value {
    let mut config = json!({ "cniVersion": "1.1.0", "name": "shop", "type": "privnet-cni" });
    let Value::Object(more) = more else { panic!("{more} is no object") };
    config.as_object_mut().expect("an object").extend(more);
    config
}

fn who(more: &[(&str, &str)], config: Value) -> (String, String, Option<u32>, String) {
    let (call, config) = read("ADD", more, &with(config)).expect("valid");
    let container = Container { name: config.container_name(&call), ..Container::default() };
    let Identity { app, kind, number, address, ports, .. } = Identity::of(&config.wishes, &container).expect("known");
    let rest = address.map(|address| address.to_string()).into_iter().chain(ports).collect::<Vec<_>>().join(" ");
    (app, kind, number, rest)
}

#[test]
fn what_is_said_later_goes_before_what_is_said_earlier_and_the_name_of_the_pod_is_last() {
    let is = |app: &str, kind: &str, number, rest: &str| (app.to_owned(), kind.to_owned(), number, rest.to_owned());
    assert_eq!(who(&[], json!({})), is("c-0123456789ab", "web", None, ""));
    let podman = [("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=eager_web;IP=10.240.1.7")];
    assert_eq!(who(&podman, json!({})), is("eager-web", "web", None, "10.240.1.7"));
    let fixed = json!({ "app": "shop", "type": "db", "number": 3, "ports": { "http": 8080, "dns": "53/udp" } });
    assert_eq!(who(&podman, json!({ "privnet": fixed })), is("shop", "db", Some(3), "10.240.1.7 dns=53/udp http=8080"));
    let annotations = json!({ "privnet.type": "cache", "other": "x", "privnet.port.http": "80" });
    let mut config = json!({ "privnet": fixed, "runtimeConfig": { "io.kubernetes.cri.pod-annotations": annotations } });
    assert_eq!(who(&[], config.clone()), is("shop", "cache", Some(3), "dns=53/udp http=80"));
    config["args"] =
        json!({ "cni": { "labels": [{ "key": "privnet.number", "value": "4" }], "ips": ["10.240.0.9/22"] } });
    assert_eq!(who(&[], config.clone()), is("shop", "cache", Some(4), "10.240.0.9 dns=53/udp http=80"));
    config["runtimeConfig"]["privnet"] = json!({ "app": "store", "address": "10.240.0.8" });
    assert_eq!(who(&[], config.clone()), is("store", "cache", Some(4), "10.240.0.8 dns=53/udp http=80"));
    let last = [("CNI_ARGS", "PRIVNET_APP=till;PRIVNET_TYPE=job;PRIVNET_NUMBER=7;IP=10.240.0.7/22")];
    assert_eq!(who(&last, config), is("till", "job", Some(7), "10.240.0.7 dns=53/udp http=80"));
}

#[test]
fn what_cannot_be_is_refused_by_its_key_with_what_to_do() {
    for (config, code, key, remedy) in [
        (with(json!({ "netwrok": "shop" })), Code::UnsupportedField, "netwrok, which is \"shop\"", "leave it out"),
        (
            with(json!({ "ipam": { "type": "host-local" } })),
            Code::UnsupportedField,
            "ipam",
            "gives the addresses itself",
        ),
        (
            with(json!({ "privnet": { "netwrok": "x" } })),
            Code::UnsupportedField,
            "privnet.netwrok, which is \"x\"",
            "app, type",
        ),
        (with(json!({ "privnet": 7 })), Code::Configuration, "privnet", "expected an object"),
        (with(json!({ "privnet": { "network": 7 } })), Code::Configuration, "privnet.network", "expected a text"),
        (with(json!({ "privnet": { "app": [] } })), Code::Configuration, "privnet.app", "expected a text or a number"),
        (with(json!({ "privnet": { "ports": [80] } })), Code::Configuration, "ports", "expected an object"),
        (
            with(json!({ "privnet": { "interface": "wg7" } })),
            Code::Configuration,
            "privnet.interface",
            "names the interface",
        ),
        (with(json!({ "args": { "cni": { "labels": ["a"] } } })), Code::Configuration, "args.cni.labels", "\"key\""),
        (
            with(json!({ "args": { "cni": { "ips": ["a", "b"] } } })),
            Code::Configuration,
            "args.cni.ips",
            "one IPv4 address",
        ),
        (with(json!({ "runtimeConfig": { "mac": "0a:00:00:00:00:01" } })), Code::Configuration, "MAC", "leave it out"),
        (with(json!({ "runtimeConfig": { "portMappings": [{}] } })), Code::Configuration, "ports", "portMappings"),
        (with(json!({ "runtimeConfig": { "portMappings": "8080:80" } })), Code::Configuration, "ports", "portMappings"),
        (
            with(json!({ "runtimeConfig": { "ips": [7] } })),
            Code::Configuration,
            "runtimeConfig.ips",
            "one IPv4 address",
        ),
        (with(json!({ "runtimeConfig": [] })), Code::Configuration, "runtimeConfig", "expected an object"),
        (with(json!({ "name": "a/b" })), Code::Configuration, "name", "letters, digits"),
        (json!({ "cniVersion": "1.1.0" }), Code::Configuration, "name", "letters, digits"),
        (json!({ "name": "shop" }), Code::Version, "no cniVersion", "0.3.1, 0.4.0, 1.0.0, 1.1.0"),
        (with(json!({ "cniVersion": "0.2.0" })), Code::Version, "\"0.2.0\"", "0.3.1, 0.4.0, 1.0.0, 1.1.0"),
        (with(json!({ "cniVersion": 1 })), Code::Version, "cniVersion 1", "0.3.1"),
        (json!([]), Code::Decoding, "no JSON object", "correct"),
    ] {
        let refused = read("ADD", &[], &config).map(drop).expect_err(&config.to_string());
        assert_eq!(refused.code, code, "{config}: {refused:?}");
        assert!(refused.message.contains(key) && refused.remedy.contains(remedy), "{config}: {refused:?}");
    }
    // The twins: what concerns others, and what is empty.
    for config in [
        json!({ "capabilities": { "ips": true }, "cni.dev/x": 1 }),
        json!({ "runtimeConfig": { "portMappings": [], "ips": [], "mac": "" } }),
        json!({ "runtimeConfig": { "portMappings": null, "ips": null, "mac": null, "aliases": { "shop": ["a"] } } }),
    ] {
        assert!(read("ADD", &[], &with(config.clone())).is_ok(), "{config}");
    }
}

#[test]
fn an_end_is_not_refused_for_a_configuration_that_was_changed() {
    for changed in [
        json!({ "netwrok": "shop", "ipam": {}, "runtimeConfig": 7, "args": [] }),
        json!({ "privnet": 7 }),
        json!({ "privnet": { "network": 7 } }),
        json!({ "privnet": { "socket": 7 } }),
        json!({ "prevResult": 7 }),
    ] {
        let changed = with(changed);
        assert!(read("ADD", &[], &changed).is_err(), "{changed}");
        for without in ["CNI_NETNS", "CNI_ARGS"] {
            let (call, config) = read("DEL", &[(without, "")], &changed).expect("it goes on");
            assert_eq!(call.attachment(&config.name).expect("valid").as_str(), "cni/shop/0123456789abcdef/eth0");
            assert_eq!(config.socket, call.socket);
        }
        assert!(read("DEL", &[("CNI_ARGS", "X=1")], &changed).is_ok(), "its arguments were those of the ADD");
        let mut collected = changed.clone();
        collected["cni.dev/valid-attachments"] = json!([]);
        assert!(read("GC", &[], &collected).is_ok(), "{changed}");
    }
}

#[test]
fn the_environment_is_checked() {
    for (command, more, said) in [
        ("ADD", ("CNI_NETNS", ""), "CNI_NETNS is not set"),
        ("ADD", ("CNI_CONTAINERID", ""), "CNI_CONTAINERID is not set"),
        ("DEL", ("CNI_IFNAME", ""), "CNI_IFNAME is not set"),
        ("CHECK", ("CNI_NETNS", ""), "CNI_NETNS is not set"),
        ("ADD", ("CNI_CONTAINERID", "../etc"), "CNI_CONTAINERID is"),
        ("DEL", ("CNI_CONTAINERID", "a/b"), "CNI_CONTAINERID is"),
        ("ADD", ("CNI_IFNAME", "abcdefghijklmnop"), "CNI_IFNAME is"),
        ("ADD", ("CNI_ARGS", "COLOUR=red"), "\"COLOUR\""),
        ("ADD", ("CNI_ARGS", "IgnoreUnknown=0;COLOUR=red"), "\"COLOUR\""),
        ("ADD", ("CNI_ARGS", "PRIVNET_APP"), "\"PRIVNET_APP\""),
        ("add", ("CNI_ARGS", ""), "CNI_COMMAND is \"add\""),
        ("", ("CNI_ARGS", ""), "CNI_COMMAND is not set"),
    ] {
        let refused = read(command, &[more], &with(json!({}))).map(drop).expect_err(said);
        assert_eq!(refused.code, Code::Environment, "{refused:?}");
        assert!(refused.message.contains(said) && !refused.remedy.is_empty(), "{refused:?}");
    }
    assert!(read("ADD", &[("CNI_ARGS", "IgnoreUnknown=1;COLOUR=red;")], &with(json!({}))).is_ok());
}

#[test]
fn a_version_has_the_commands_that_came_with_it() {
    let all = ["ADD", "DEL", "CHECK", "GC", "STATUS"];
    for (version, known) in [("0.3.1", &all[..2]), ("0.4.0", &all[..3]), ("1.0.0", &all[..3]), ("1.1.0", &all[..])] {
        let config = with(json!({ "cniVersion": version, "prevResult": {}, "cni.dev/valid-attachments": [] }));
        for command in all {
            let read = read(command, &[], &config).map(drop);
            let is_version = read.as_ref().is_err_and(|refused| refused.code == Code::Version);
            assert_eq!(is_version, !known.contains(&command), "{command} of {version}: {read:?}");
        }
    }
    let told = outcome::versions(r#"{"cniVersion":"1.0.0"}"#);
    assert_eq!(told["cniVersion"], "1.0.0");
    assert_eq!(told["supportedVersions"], json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
    assert_eq!(outcome::versions("")["cniVersion"], "1.1.0");
}

#[test]
fn what_is_to_stay_is_said_or_the_collection_is_refused() {
    let gc = |valid: Value| read("GC", &[], &with(json!({ "cni.dev/valid-attachments": valid })));
    let names = |valid: Value| -> Vec<String> {
        gc(valid).expect("valid").1.valid.iter().map(|valid| valid.name("shop")).collect()
    };
    assert_eq!(names(json!([{ "containerID": "c1", "ifname": "eth0" }])), ["cni/shop/c1/eth0"]);
    assert_eq!(names(json!([])), [] as [String; 0]);
    assert_eq!(names(Value::Null), [] as [String; 0]);
    for wrong in [json!({}), json!([{ "containerID": "c1" }]), json!("all")] {
        assert!(gc(wrong.clone()).is_err(), "{wrong}");
    }
    assert!(read("GC", &[], &with(json!({}))).is_err(), "nothing is ended by a key that is not there");
}

#[test]
fn an_error_is_told_in_the_version_of_the_configuration() {
    let failure = Failure::new(Code::TryAgain, "away", "start it");
    let told = failure.as_json(version::version_of(r#"{"cniVersion":"0.4.0"}"#));
    assert_eq!(told, json!({ "cniVersion": "0.4.0", "code": 11, "msg": "away", "details": "start it" }));
    assert_eq!(failure.as_json(None)["cniVersion"], "1.1.0");
    let of = |code| Failure::from(ControlError::new(code, "what", "do")).code;
    assert_eq!(of(ErrorCode::AgentUnavailable), Code::TryAgain);
    assert_eq!(of(ErrorCode::NetnsNotFound), Code::NoContainer);
    assert_eq!(of(ErrorCode::NetworkNotFound), Code::Configuration);
    assert_eq!(of(ErrorCode::PoolExhausted), Code::Refused);
}

#[test]
fn a_status_tells_a_store_that_is_away_from_members_that_do_not_work() {
    let code = |age, ready| {
        let status = StatusView { store_age_seconds: age, members: 2, members_ready: ready, ..status_view() };
        available(&status).map_err(|refused| refused.code)
    };
    assert_eq!(code(None, 2), Ok(()));
    assert_eq!(code(None, 1), Ok(()), "another one can be attached");
    assert_eq!(code(Some(7), 2), Err(Code::Unavailable));
    assert_eq!(code(Some(7), 1), Err(Code::Limited));
}

#[test]
fn a_status_tells_a_host_that_takes_no_members_from_one_that_does() {
    let own = HostView { members_unadopted: 0, draining: false, ..host_view() };
    let code = |hosts: &[HostView]| takes_members(hosts, &own.name).map_err(|refused| (refused.code, refused.remedy));
    let other = HostView { name: "other".parse().expect("a name"), ..host_view() };
    assert_eq!(code(&[other.clone(), own.clone()]), Ok(()), "what holds for another host is none of this one's");
    let refused = |host: HostView| code(&[host]).expect_err("refused");
    let (drained, remedy) = refused(HostView { draining: true, ..own.clone() });
    assert!(drained == Code::Unavailable && remedy.contains("--cancel"), "{remedy}");
    let (strange, remedy) = refused(HostView { members_unadopted: 1, ..own.clone() });
    assert!(strange == Code::Unavailable && remedy.contains("privnet host adopt"), "{remedy}");
    assert_eq!(refused(other).0, Code::Unavailable, "the store does not know the host");
}

proptest! {
    /// Whatever stands there, there is an answer.
    #[test]
    fn no_configuration_and_no_arguments_end_the_plugin(
        key in prop::sample::select(vec![
            "cniVersion", "name", "privnet", "runtimeConfig", "args", "prevResult", "cni.dev/valid-attachments", "dns", "x",
        ]),
        value in prop::sample::select(vec![
            json!(null), json!(true), json!(-1), json!("x"), json!([]), json!([{}]), json!({"cni": 7}), json!({"ports": {"a": null}}),
            json!({"cni": {"labels": [{"key": 1}], "ips": [7]}}), json!({"interfaces": 7, "ips": {}, "dns": "x"}),
            json!({"privnet": {"number": 1e99}}), json!({"io.kubernetes.cri.pod-annotations": {"privnet.x": []}}),
        ]),
        arguments in "([A-Z]{1,3}|IP|IgnoreUnknown)?[=;]?[=;]?.{0,8}",
        text in ".{0,40}",
    ) {
        for command in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
            let _ = read(command, &[("CNI_ARGS", &arguments)], &with(json!({ key: value })));
            let environment = environment(command, &[("CNI_CONTAINERID", &text)]);
            let _ = Call::of(Command::of(&environment).expect("known"), &environment);
        }
        let _ = outcome::versions(&text);
    }
}

#[test]
fn the_program_is_known_by_its_name() {
    for (line, expected) in [
        ("/usr/lib/cni/privnet-cni", true),
        ("privnet-cni VERSION", true),
        ("/usr/bin/privnet cni", true),
        ("/usr/bin/privnet members", false),
        ("privnet", false),
        ("", false),
    ] {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        assert_eq!(is_meant(&words), expected, "{line}");
    }
}
