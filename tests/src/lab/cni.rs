//! A container runtime, as the CNI specification (1.1.0) has it: it executes plugins, one call each, and keeps their results.
//!
//! The sections of the specification that a function follows are named there. What a plugin answers is held against the
//! specification before it is given back.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value, json};

use super::cli::binary;
use super::say;

/// The plugin under test.
pub const PLUGIN: &str = "privnet-cni";

/// A place of a container in a network, as the runtime knows it.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// The runtime's id of the container.
    pub container: String,
    /// Where its namespace is; nothing where the runtime does not know any more.
    pub netns: Option<PathBuf>,
    /// How the interface is to be called.
    pub interface: String,
    /// `CNI_ARGS`.
    pub arguments: String,
    /// What it has for the capabilities of plugins, by capability.
    pub capabilities: Value,
}

impl Attachment {
    /// One without arguments.
    #[must_use]
    pub fn new(container: &str, netns: &Path, interface: &str) -> Self {
        Self {
            container: container.to_owned(),
            netns: Some(netns.to_owned()),
            interface: interface.to_owned(),
            arguments: String::new(),
            capabilities: json!({}),
        }
    }

    /// The same, and its namespace is gone.
    #[must_use]
    pub fn without_netns(&self) -> Self {
        Self { netns: None, ..self.clone() }
    }

    /// The same with `CNI_ARGS`.
    #[must_use]
    pub fn with(&self, arguments: &str) -> Self {
        Self { arguments: arguments.to_owned(), ..self.clone() }
    }

    fn key(&self) -> (String, String) {
        (self.container.clone(), self.interface.clone())
    }
}

/// What a plugin refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The code of the specification.
    pub code: u64,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub details: String,
}

/// A container runtime with one network.
pub struct Runtime {
    /// Where its plugins are.
    plugins: PathBuf,
    /// The network's configuration: a list of plugins.
    list: Value,
    /// The results of ADD, of which CHECK and DEL tell.
    results: Mutex<BTreeMap<(String, String), Value>>,
}

/// Puts the link to the plugin under test into a directory, as a package does.
///
/// # Panics
/// When it cannot be made.
pub(super) fn put_plugin(directory: &Path) {
    let link = directory.join(PLUGIN);
    if !link.exists() {
        symlink(binary(), &link).expect("the link that a package has");
    }
}

impl Runtime {
    /// One with its plugins in `directory`, and a network.
    ///
    /// # Panics
    /// When the plugin cannot be put there.
    #[must_use]
    pub fn new(directory: &Path, name: &str, version: &str, plugins: &[Value]) -> Self {
        let path = directory.join("cni");
        fs::create_dir_all(&path).expect("a directory");
        put_plugin(&path);
        let list = json!({ "cniVersion": version, "name": name, "plugins": plugins });
        Self { plugins: path, list, results: Mutex::default() }
    }

    /// Gives the runtime another plugin, a shell's script.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn put(&self, plugin: &str, script: &str) {
        let path = self.plugins.join(plugin);
        fs::write(&path, script).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    }

    /// Adds a container to the network ("Adding an attachment"): each plugin in turn, with the result of the one before.
    ///
    /// # Errors
    /// The first refusal. The runtime is to delete the attachment then, for the plugins before.
    pub fn add(&self, attachment: &Attachment) -> Result<Value, Refusal> {
        let mut result = None;
        for plugin in self.plugins() {
            let config = self.derive(plugin, &attachment.capabilities, result.as_ref(), &json!({}));
            let answer = self.execute("ADD", Some(attachment), &config)?;
            result = Some(answer.unwrap_or_else(|| panic!("ADD of {plugin} succeeded without a result")));
        }
        let result = result.expect("a list has a plugin");
        self.assert_is_result(&result);
        self.kept().insert(attachment.key(), result.clone());
        Ok(result)
    }

    /// Ends it ("Deleting an attachment"): the plugins in reverse order, with the result of the ADD where there is one.
    ///
    /// # Errors
    /// The first refusal.
    pub fn del(&self, attachment: &Attachment) -> Result<(), Refusal> {
        let known = self.kept().get(&attachment.key()).cloned();
        for plugin in self.plugins().into_iter().rev() {
            let config = self.derive(plugin, &attachment.capabilities, known.as_ref(), &json!({}));
            let answer = self.execute("DEL", Some(attachment), &config)?;
            assert_eq!(answer, None, "a DEL that succeeds prints nothing");
        }
        self.kept().remove(&attachment.key());
        Ok(())
    }

    /// Asks whether it is as it was made ("Checking an attachment").
    ///
    /// # Errors
    /// The first refusal.
    ///
    /// # Panics
    /// When it was not added.
    pub fn check(&self, attachment: &Attachment) -> Result<(), Refusal> {
        let known = self.kept().get(&attachment.key()).cloned().expect("it was added");
        self.check_against(attachment, &known)
    }

    /// As [`Runtime::check`], against another result.
    ///
    /// # Errors
    /// The first refusal.
    pub fn check_against(&self, attachment: &Attachment, result: &Value) -> Result<(), Refusal> {
        for plugin in self.plugins() {
            let config = self.derive(plugin, &attachment.capabilities, Some(result), &json!({}));
            assert_eq!(self.execute("CHECK", Some(attachment), &config)?, None, "a CHECK that succeeds prints nothing");
        }
        Ok(())
    }

    /// Tells which attachments are valid ("Garbage-collecting a network").
    ///
    /// # Errors
    /// The first refusal.
    pub fn gc(&self, valid: &[&Attachment]) -> Result<(), Refusal> {
        let entry = |valid: &&Attachment| json!({ "containerID": valid.container, "ifname": valid.interface });
        let valid: Vec<Value> = valid.iter().map(entry).collect();
        for plugin in self.plugins() {
            let config = self.derive(plugin, &json!({}), None, &json!({ "cni.dev/valid-attachments": valid }));
            assert_eq!(self.execute("GC", None, &config)?, None, "a GC that succeeds prints nothing");
        }
        Ok(())
    }

    /// Asks whether containers can be added (STATUS).
    ///
    /// # Errors
    /// The first refusal.
    pub fn status(&self) -> Result<(), Refusal> {
        for plugin in self.plugins() {
            let config = self.derive(plugin, &json!({}), None, &json!({}));
            assert_eq!(self.execute("STATUS", None, &config)?, None, "a STATUS that succeeds prints nothing");
        }
        Ok(())
    }

    /// Asks a plugin which versions it speaks (VERSION).
    ///
    /// # Panics
    /// When it does not say.
    #[must_use]
    pub fn versions(&self, plugin: &str) -> Value {
        let config = json!({ "cniVersion": self.version(), "type": plugin });
        self.execute("VERSION", None, &config).expect("it answers").expect("a result")
    }

    /// Executes the plugin of a configuration ("Execution protocol").
    ///
    /// # Errors
    /// What it refuses.
    ///
    /// # Panics
    /// When it breaks the protocol.
    pub fn execute(
        &self,
        command: &str,
        attachment: Option<&Attachment>,
        config: &Value,
    ) -> Result<Option<Value>, Refusal> {
        let plugin = config["type"].as_str().expect("a plugin");
        let mut child = Command::new(self.plugins.join(plugin));
        child.env("CNI_COMMAND", command).env("CNI_PATH", &self.plugins);
        if let Some(Attachment { container, netns, interface, arguments, .. }) = attachment {
            child.env("CNI_CONTAINERID", container).env("CNI_IFNAME", interface).env("CNI_ARGS", arguments);
            child.env("CNI_NETNS", netns.as_deref().unwrap_or(Path::new("")));
            say(&format!("[cni] {command} {container} {interface}"));
        }
        let mut child =
            child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect(plugin);
        // One that refuses the environment may not read it.
        let _ = child.stdin.take().expect("its input").write_all(config.to_string().as_bytes());
        let output = child.wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let answer = if text.trim().is_empty() {
            None
        } else {
            Some(serde_json::from_str::<Value>(&text).unwrap_or_else(|error| panic!("{command}: {error}: {text}")))
        };
        if output.status.success() {
            return Ok(answer);
        }
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let error = answer.unwrap_or_else(|| panic!("{command} failed without an error object: {stderr}"));
        Err(self.refusal(&error))
    }

    /// An error object ("Error").
    fn refusal(&self, error: &Value) -> Refusal {
        let text = |key: &str| error[key].as_str().unwrap_or_else(|| panic!("no {key} in {error}")).to_owned();
        let spoken = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"].contains(&self.version());
        assert_eq!(text("cniVersion"), if spoken { self.version() } else { "1.1.0" }, "{error}");
        let code = error["code"].as_u64().unwrap_or_else(|| panic!("no code in {error}"));
        let refusal = Refusal { code, message: text("msg"), details: text("details") };
        say(&format!("[cni] {refusal:?}"));
        assert!(!refusal.message.is_empty() && !refusal.details.is_empty(), "a sentence that says what to do: {error}");
        refusal
    }

    /// The configuration of one plugin ("Deriving execution configuration from plugin configuration").
    fn derive(&self, plugin: &Value, capabilities: &Value, previous: Option<&Value>, more: &Value) -> Value {
        let mut config = plugin.as_object().expect("an object").clone();
        config.insert("cniVersion".to_owned(), self.list["cniVersion"].clone());
        config.insert("name".to_owned(), self.list["name"].clone());
        let declared = config.remove("capabilities").unwrap_or_default();
        let given: Map<String, Value> = declared
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(_, is_declared)| **is_declared == json!(true))
            .filter_map(|(capability, _)| Some((capability.clone(), capabilities.get(capability)?.clone())))
            .collect();
        if !given.is_empty() {
            config.insert("runtimeConfig".to_owned(), given.into());
        }
        if let Some(previous) = previous {
            config.insert("prevResult".to_owned(), previous.clone());
        }
        config.extend(more.as_object().expect("an object").clone());
        config.into()
    }

    /// What ADD has to answer ("ADD Success").
    fn assert_is_result(&self, result: &Value) {
        assert_eq!(result["cniVersion"], self.list["cniVersion"], "{result}");
        let interfaces = result["interfaces"].as_array().unwrap_or_else(|| panic!("no interfaces in {result}"));
        for interface in interfaces {
            assert!(interface["name"].as_str().is_some_and(|name| !name.is_empty()), "{result}");
            // Podman reads it, whatever the interface is.
            assert_eq!(interface["mac"].as_str().map(|mac| mac.split(':').count()), Some(6), "{result}");
        }
        for ip in result["ips"].as_array().unwrap_or_else(|| panic!("no ips in {result}")) {
            assert!(ip["address"].as_str().is_some_and(|address| address.contains('/')), "{result}");
            assert!(ip["interface"].as_u64().is_some_and(|index| (index as usize) < interfaces.len()), "{result}");
            // Of the versions before 1.0 only.
            assert_eq!(ip.get("version").is_some(), self.version().starts_with("0."), "{result}");
        }
    }

    fn version(&self) -> &str {
        self.list["cniVersion"].as_str().expect("a text")
    }

    fn plugins(&self) -> Vec<&Value> {
        self.list["plugins"].as_array().expect("a list").iter().collect()
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, BTreeMap<(String, String), Value>> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
