//! Which container a namespace is of, where Docker's API is silent: at its own start dockerd answers nothing before the containers
//! have joined that it starts.
//!
//! From Docker 28 on `runc init` is in the namespace when the container joins. Its cgroup bears the container's id, and the
//! container's own file, below Docker's root directory, has its name and its labels.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::api::identity::Container;
use crate::netns::{Netns, NetnsId};

/// Where the kernel shows its processes.
const PROC: &str = "/proc";
/// How long the id of a container is, in hexadecimal digits.
const ID: usize = 64;

/// What Docker keeps of a container in `config.v2.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Kept {
    #[serde(rename = "ID")]
    id: String,
    /// With a slash in front.
    name: String,
    config: KeptConfig,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct KeptConfig {
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

/// The container of Docker's, whose directory is `root`, that alone has processes in the namespace at `netns`; nothing where
/// none has, or several have.
pub fn container_in(netns: &Path, root: &Path) -> Option<Container> {
    alone_in(Path::new(PROC), Netns::identify(netns).ok()?, root)
}

fn alone_in(proc: &Path, netns: NetnsId, root: &Path) -> Option<Container> {
    let link = netns.to_string();
    let mut ids = BTreeSet::new();
    for process in fs::read_dir(proc).ok()?.filter_map(Result::ok).map(|entry| entry.path()) {
        if fs::read_link(process.join("ns/net")).is_ok_and(|found| found.as_os_str() == link.as_str()) {
            // One that has ended meanwhile is in none.
            let cgroups = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
            ids.extend(ids_in(&cgroups).map(str::to_owned));
        }
    }
    // Of a Docker in a container, the outer one's are no containers of the inner one's.
    let mut containers = ids.iter().filter_map(|id| kept(root, id));
    containers.next().filter(|_| containers.next().is_none())
}

/// What may be the id of a container in the paths of cgroups: `/docker/<id>`, or by systemd `/system.slice/docker-<id>.scope`.
fn ids_in(cgroups: &str) -> impl Iterator<Item = &str> {
    cgroups.split(|c: char| !c.is_ascii_hexdigit()).filter(|part| part.len() == ID)
}

fn kept(root: &Path, id: &str) -> Option<Container> {
    let text = fs::read(root.join("containers").join(id).join("config.v2.json")).ok()?;
    let kept: Kept = serde_json::from_slice(&text).ok()?;
    let name = kept.name.trim_start_matches('/').to_owned();
    (kept.id == id).then(|| Container { id: kept.id, name, labels: kept.config.labels.unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use serde_json::json;
    use tempfile::TempDir;

    use super::*;

    const HERE: NetnsId = NetnsId { dev: 4, ino: 4_026_532_000 };

    struct Scene {
        directory: TempDir,
    }

    impl Scene {
        fn new() -> Self {
            let directory = tempfile::tempdir().expect("temporary directory");
            fs::create_dir_all(directory.path().join("proc/sys")).expect("made");
            Self { directory }
        }

        fn process(&self, pid: u32, netns: &str, cgroups: &str) {
            let of_process = self.directory.path().join(format!("proc/{pid}"));
            fs::create_dir_all(of_process.join("ns")).expect("made");
            symlink(netns, of_process.join("ns/net")).expect("linked");
            fs::write(of_process.join("cgroup"), cgroups).expect("written");
        }

        fn container(&self, id: &str, text: &str) {
            let of_container = self.directory.path().join("docker/containers").join(id);
            fs::create_dir_all(&of_container).expect("made");
            fs::write(of_container.join("config.v2.json"), text).expect("written");
        }

        fn found(&self) -> Option<Container> {
            alone_in(&self.directory.path().join("proc"), HERE, &self.directory.path().join("docker"))
        }
    }

    fn text(id: &str, name: &str) -> String {
        json!({"ID": id, "Name": name, "Config": {"Labels": {"privnet.app": "shop"}}, "State": {}}).to_string()
    }

    #[test]
    fn a_namespace_is_of_the_container_whose_processes_alone_are_in_it() {
        let [web, db, outer] = ["a", "b", "c"].map(|digit| digit.repeat(ID));
        for cgroups in [
            format!("0::/docker/{web}\n"),
            format!("0::/system.slice/docker-{web}.scope\n"),
            format!("7:pids:/docker/{web}\n0::/docker/{outer}/docker/{web}/init\n"),
        ] {
            let scene = Scene::new();
            scene.container(&web, &text(&web, "/web-1"));
            scene.container(&db, &text(&db, "/db"));
            scene.process(7, "net:[4026532000]", &cgroups);
            scene.process(8, "net:[4026531840]", &format!("0::/docker/{db}\n"));
            // One of the host's that looks into it.
            scene.process(9, "net:[4026532000]", "0::/user.slice\n");
            let labels = BTreeMap::from([("privnet.app".to_owned(), "shop".to_owned())]);
            let expected = Container { id: web.clone(), name: "web-1".to_owned(), labels };
            assert_eq!(scene.found(), Some(expected), "{cgroups}");
            // `--network container:web-1`.
            scene.process(10, "net:[4026532000]", &format!("0::/docker/{db}\n"));
            assert_eq!(scene.found(), None, "whose endpoint it is, nobody says");
        }
    }

    #[test]
    fn what_is_not_known_for_sure_is_not_guessed() {
        let [web, db] = ["a", "b"].map(|digit| digit.repeat(ID));
        for kept in [None, Some("{".to_owned()), Some("{}".to_owned()), Some(text(&db, "/web-1"))] {
            let scene = Scene::new();
            assert_eq!(scene.found(), None, "before Docker 28 no process is there");
            scene.process(7, "net:[4026532000]", &format!("0::/docker/{web}\n"));
            if let Some(kept) = &kept {
                scene.container(&web, kept);
            }
            assert_eq!(scene.found(), None, "{kept:?}");
        }
    }

    #[test]
    fn a_container_without_labels_has_its_name() {
        let (scene, web) = (Scene::new(), "a".repeat(ID));
        scene.container(&web, &json!({"ID": web, "Name": "/web-1", "Config": {"Labels": null}}).to_string());
        scene.process(7, "net:[4026532000]", &format!("0::/docker/{web}\n"));
        assert_eq!(scene.found().map(|found| (found.name, found.labels.len())), Some(("web-1".to_owned(), 0)));
    }
}
