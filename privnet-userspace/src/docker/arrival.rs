//! What follows a `Join`: the container's namespace appears, then the device in it, then Docker's own `resolv.conf`.

use std::collections::BTreeMap;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::engine::Engine;
use crate::agent::handover::{DEVICE, HandedOver, Handovers, Stage};
use crate::agent::{ControlError, ErrorCode};
use crate::api::identity::{Container, Identity};

/// How long a container may take to appear, and its device in it, of which Docker says nothing: it starts it at once or gives up.
pub const ARRIVAL: Duration = Duration::from_secs(60);
/// How often Docker is asked whether it goes on with a container: on a host that is busy an answer may take too long.
const QUESTIONS: u32 = 5;
/// How long Docker may take to say which container it is: at its start it answers last.
const NAMING: Duration = Duration::from_secs(600);
/// How long Docker may take to write the container's `resolv.conf`.
const WRITING: Duration = Duration::from_secs(2);
/// How long Docker's API may be silent before what Docker keeps on the disk is looked at: a millisecond was seen.
const SILENCE: Duration = Duration::from_millis(50);
/// How often is looked at first: the guard is to be there before the container's first instruction.
const OFTEN: Duration = Duration::from_millis(2);
/// How often is looked at later.
const SELDOM: Duration = Duration::from_millis(200);
/// What Docker's server in a container is at.
const DOCKERS_SERVER: &str = "127.0.0.11";

/// Under which keys an endpoint keeps the ids of Docker's.
pub const DOCKER_NETWORK: &str = "docker.network";
pub const DOCKER_ENDPOINT: &str = DEVICE;

/// Which endpoints are of one container, as far as is known: those of a container that starts join one after the other, and
/// its number is the same in all of its networks.
#[derive(Debug, Default)]
pub struct Siblings(Mutex<BTreeMap<u64, String>>);

impl Siblings {
    /// Notes which container an endpoint is of; returns the others of that container.
    fn note(&self, digits: u64, container: &str) -> Vec<u64> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(digits, container.to_owned());
        let others = known.iter().filter(|(other, of)| **other != digits && *of == container);
        others.map(|(other, _)| *other).collect()
    }

    /// Forgets an endpoint.
    pub fn forget(&self, digits: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&digits);
    }
}

/// What one endpoint is followed with.
#[derive(Clone)]
pub struct Arrival {
    /// The agent.
    pub agent: Arc<dyn Handovers>,
    /// Docker's API.
    pub engine: Arc<Engine>,
    /// The endpoints by their containers.
    pub siblings: Arc<Siblings>,
    /// The endpoint's digits.
    pub digits: u64,
    /// [`ARRIVAL`], or less in a test.
    pub patience: Duration,
}

impl Arrival {
    /// Follows the endpoint until its container has its device, its name and its `resolv.conf`. One that does not appear, and
    /// with which Docker does not go on, is ended.
    pub async fn follow(self) {
        let (agent, digits, since) = (&*self.agent, self.digits, Instant::now());
        // Why it could not be looked at the last time: it may be there all the same, and is looked at again.
        let mut unseen = None;
        let arrived = async {
            let mut is_settled = false;
            // One that is handed over no more has left before it arrived.
            while agent.handed_over(digits).is_some() {
                let looked = if is_settled { agent.adopt(digits).await } else { agent.settle(digits).await };
                unseen = looked.as_ref().err().cloned();
                match looked {
                    Ok(true) if is_settled => return true,
                    Ok(true) => {
                        is_settled = true;
                        // Before the container's first instruction, where Docker says who it is.
                        let _ = self.name().await;
                    }
                    Ok(false) | Err(_) => pause(since).await,
                }
            }
            false
        };
        let given_up = async {
            loop {
                sleep(self.patience).await;
                if since.elapsed() >= NAMING || !self.is_started_by_docker().await {
                    return;
                }
            }
        };
        let arrived = tokio::select! {
            arrived = arrived => Some(arrived),
            () = given_up => None,
        };
        match (arrived, unseen) {
            (Some(true), _) => {}
            (Some(false), _) => return,
            (None, Some(error)) => {
                return tracing::warn!("a container of Docker's was not seen to arrive: {}", sentence(&error));
            }
            (None, None) => return self.give_up(since).await,
        }
        while since.elapsed() < NAMING {
            match self.name().await {
                Ok(true) => break,
                Ok(false) => sleep(SELDOM).await,
                Err(_) if self.agent.handed_over(digits).is_none() => return,
                Err(error) if self.is_on_trust() => return self.end_on_trust(&error).await,
                Err(error) => {
                    tracing::warn!("a container of Docker's keeps the name that was made up for it: {error}");
                    break;
                }
            }
        }
        if self.is_on_trust() {
            return self.end_on_trust("Docker does not say which container it is").await;
        }
        let (mut is_written, mut is_found) = (false, false);
        while self.agent.handed_over(digits).is_some() && !(is_written && is_found) {
            is_written = is_written || self.write_resolv_conf().await;
            is_found = is_found || self.find().await;
            if since.elapsed() >= NAMING {
                return tracing::warn!(
                    "Docker does not say which container an endpoint is of: it finds Docker's names alone, or may end with dockerd"
                );
            }
            if !(is_written && is_found) {
                sleep(SELDOM).await;
            }
        }
    }

    /// Whether the container has a place that may be another one's.
    fn is_on_trust(&self) -> bool {
        self.agent.handed_over(self.digits).is_some_and(|it| it.is_on_trust)
    }

    /// Ends a membership whose place is another container's, as far as is known.
    async fn end_on_trust(&self, why: &str) {
        tracing::warn!("a container of Docker's has the place of another one, and loses it: {why}");
        if let Err(error) = self.agent.end(self.digits).await {
            tracing::warn!("{}", sentence(&error));
        }
    }

    /// Whether Docker has the endpoint still: that of a container that it cannot start it ends.
    async fn is_started_by_docker(&self) -> bool {
        let Some(endpoint) = self.agent.handed_over(self.digits) else { return false };
        let Some((network, id)) = ids(&endpoint.wishes) else { return false };
        for _ in 0..QUESTIONS {
            if self.engine.container(network, id).await.is_some() {
                return true;
            }
            sleep(SELDOM).await;
        }
        false
    }

    async fn give_up(&self, since: Instant) {
        if self.agent.handed_over(self.digits).is_some_and(|it| it.stage == Stage::Given) {
            let seconds = since.elapsed().as_secs();
            tracing::warn!("a container of Docker's has not appeared within {seconds} s: its place is released");
            if let Err(error) = self.agent.end(self.digits).await {
                tracing::warn!("{}", sentence(&error));
            }
        }
    }

    /// Names the endpoint after its container. Returns whether that is done: not while Docker does not say which container it
    /// is, nor while the namespace is not known of one that has other endpoints.
    ///
    /// # Errors
    /// The sentence for the user: its name is another container's, or none.
    pub async fn name(&self) -> Result<bool, String> {
        let (agent, digits) = (&*self.agent, self.digits);
        let Some(endpoint) = agent.handed_over(digits).filter(|it| it.is_unnamed) else { return Ok(true) };
        let container = self.container(&endpoint).await;
        let (identity, is_alone) = match &container {
            Some(container) => {
                let siblings = self.siblings.note(digits, &container.id);
                for sibling in &siblings {
                    // One that has left is no sibling any more.
                    let _ = agent.settle(*sibling).await;
                }
                (Some(Identity::of(&endpoint.wishes, container)?), siblings.is_empty())
            }
            None => (Identity::of_wishes(&endpoint.wishes)?, false),
        };
        let Some(identity) = identity.filter(|_| is_alone || endpoint.is_settled) else { return Ok(false) };
        // The address is claimed, and was what was asked for.
        let identity = Identity { address: None, ..identity };
        let mut named = agent.name(digits, identity.clone().attach(String::new())).await;
        if identity.is_flexible
            && identity.number.is_some()
            && named.as_ref().is_err_and(|error| error.code == ErrorCode::MemberExists)
        {
            named = agent.name(digits, Identity { number: None, ..identity }.attach(String::new())).await;
        }
        named.map(|()| true).map_err(|error| sentence(&error))
    }

    /// The container of an endpoint: by Docker's API, and where that is silent by who is in the namespace. Nothing where neither
    /// says it, or the namespace is not there yet.
    async fn container(&self, endpoint: &HandedOver) -> Option<Container> {
        let (network, id) = ids(&endpoint.wishes)?;
        let told = self.engine.container(network, id);
        if !endpoint.is_settled {
            return told.await;
        }
        let seen = || self.engine.container_in(&endpoint.path);
        let while_silent = async {
            sleep(SILENCE).await;
            match seen().await {
                Some(container) => container,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            told = told => match told {
                Some(container) => Some(container),
                None => seen().await,
            },
            container = while_silent => Some(container),
        }
    }

    /// Has the container's namespace looked for where it does not end with dockerd. Returns whether that is done.
    async fn find(&self) -> bool {
        let Some(endpoint) = self.agent.handed_over(self.digits) else { return false };
        let Some((network, id)) = ids(&endpoint.wishes) else { return true };
        if !ends_with_dockerd(&endpoint.path) {
            return true;
        }
        let Some(container) = self.engine.container(network, id).await else { return false };
        let Some(process) = self.engine.process(&container.id).await else { return false };
        let path = PathBuf::from(format!("/proc/{process}/ns/net"));
        match self.agent.find_at(self.digits, &path).await {
            Ok(true) => {}
            // It has ended meanwhile, or dockerd counts processes in a namespace of its own.
            Ok(false) => tracing::warn!("{} is not the namespace of container {}", path.display(), container.name),
            Err(error) => tracing::warn!("{}", sentence(&error)),
        }
        true
    }

    /// Has the container's `resolv.conf` written, after Docker has written its own. Returns whether Docker said where it is.
    pub async fn write_resolv_conf(&self) -> bool {
        let Some(endpoint) = self.agent.handed_over(self.digits) else { return false };
        if ids(&endpoint.wishes).is_none() {
            return true;
        }
        let Some(container) = self.container(&endpoint).await else { return false };
        let Some(path) = self.engine.resolv_conf(&container.id).await else { return false };
        let since = Instant::now();
        while !names_docker(&path) && since.elapsed() < WRITING {
            sleep(OFTEN).await;
        }
        for problem in self.agent.write_resolv_conf(self.digits, &path).await {
            tracing::warn!("{problem}");
        }
        true
    }
}

/// Whether a path leads through the mounts of dockerd, which has some of its own: `/proc/<pid>/root/…`.
pub fn ends_with_dockerd(path: &Path) -> bool {
    let of_process = path.strip_prefix("/proc").ok();
    of_process.and_then(|path| path.components().nth(1)).is_some_and(|part| part.as_os_str() == "root")
}

/// Whether a file names Docker's server, or ours.
fn names_docker(path: &Path) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.contains(DOCKERS_SERVER) || text.contains("privnet"))
}

async fn pause(since: Instant) {
    sleep(if since.elapsed() < Duration::from_secs(2) { OFTEN } else { SELDOM }).await;
}

/// An error, for the user of Docker.
pub fn sentence(error: &ControlError) -> String {
    error.sentence()
}

/// The ids of Docker's that an endpoint keeps.
fn ids(wishes: &BTreeMap<String, String>) -> Option<(&str, &str)> {
    Some((wishes.get(DOCKER_NETWORK)?, wishes.get(DOCKER_ENDPOINT)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_through_dockerds_mounts_ends_with_dockerd_and_others_do_not() {
        for (path, ends) in [
            ("/proc/7/root/run/docker/netns/1", true),
            ("/proc/7/ns/net", false),
            ("/run/docker/netns/1", false),
            ("/proc/7", false),
        ] {
            assert_eq!(ends_with_dockerd(Path::new(path)), ends, "{path}");
        }
    }
}
