//! What each call of dockerd does. Every call is answered in bounded time: dockerd has no timeout of its own.
//!
//! A call that is answered as not done goes on: what it was about to make is made, and then ended. It is not dropped half way.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::arrival::{ARRIVAL, Arrival, DOCKER_ENDPOINT, DOCKER_NETWORK, Siblings, ends_with_dockerd, sentence};
use super::engine::Engine;
use super::networks::Networks;
use super::protocol::{CreateEndpoint, CreateNetwork, Join, OfEndpoint, OfNetwork, read};
use crate::agent::ErrorCode;
use crate::agent::handover::{HandedOver, Handovers, Stage, Wish};
use crate::api::identity::Identity;
use crate::netns::Netns;
use crate::topology::ownership;

/// How long a call may take, or, since many containers may start at once, how long after the last one that was done.
const DEADLINE: Duration = Duration::from_secs(2);
/// How long a call may take behind others.
const QUEUED: Duration = Duration::from_secs(15);
/// How long a call waits for an agent that starts.
const STARTING: Duration = Duration::from_millis(1500);
/// How long a container that starts waits for its `resolv.conf`, which follows later otherwise.
const WRITING: Duration = Duration::from_secs(1);
/// How soon Docker is asked again where it did not say in time which container it is.
const AGAIN: Duration = Duration::from_millis(10);
/// The call in which a network is made.
const CREATE_NETWORK: &str = "NetworkDriver.CreateNetwork";
/// The call in which a member is made.
const CREATE_ENDPOINT: &str = "NetworkDriver.CreateEndpoint";
/// The calls that make or end something: another one behind them waits for its turn.
const WORK: [&str; 4] = [CREATE_ENDPOINT, "NetworkDriver.Join", "NetworkDriver.Leave", "NetworkDriver.DeleteEndpoint"];
/// What Docker puts before the number of the interface.
const INTERFACE: &str = "wg";
/// The same in a container that has interfaces of that name of its own.
const OTHER_INTERFACE: &str = "pn";

/// The plugin. A clone is the same one.
#[derive(Clone)]
pub struct Plugin {
    agent: Arc<watch::Sender<Option<Arc<dyn Handovers>>>>,
    engine: Arc<Engine>,
    networks: Arc<Networks>,
    siblings: Arc<Siblings>,
    /// The endpoints that have joined, and whose `resolv.conf` is not written yet.
    joined: Arc<Mutex<BTreeSet<u64>>>,
    /// When the last call was done that makes or ends something.
    done: Arc<watch::Sender<Instant>>,
    deadline: Duration,
    patience: Duration,
}

impl Plugin {
    /// A plugin that keeps what it is told in `state_dir`, and asks `engine`. Until its agent is there, calls are refused.
    #[must_use]
    pub fn new(state_dir: &Path, engine: Engine) -> Self {
        let networks = Networks::open(&state_dir.join("docker-networks.json"));
        let engine = engine.keeping(&state_dir.join("docker-root"));
        Self {
            agent: Arc::new(watch::Sender::new(None)),
            engine: Arc::new(engine),
            networks: Arc::new(networks),
            siblings: Arc::default(),
            joined: Arc::default(),
            done: Arc::new(watch::Sender::new(Instant::now())),
            deadline: DEADLINE,
            patience: ARRIVAL,
        }
    }

    /// The same, with less time for a call.
    #[cfg(test)]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// The same, with less time for a container to appear.
    #[cfg(test)]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Goes on with what an earlier agent left under way, and serves by this one.
    pub fn begin(&self, agent: Arc<dyn Handovers>) {
        for digits in agent.all_handed_over() {
            let is_under_way = |it: &HandedOver| {
                it.stage != Stage::Returned && (it.is_unnamed || !it.has_resolv_conf || ends_with_dockerd(&it.path))
            };
            if agent.handed_over(digits).as_ref().is_some_and(is_under_way) {
                tokio::spawn(self.arrival(&agent, digits).follow());
            }
        }
        self.agent.send_replace(Some(agent));
    }

    /// Answers a call of the process `pid`.
    ///
    /// # Errors
    /// The sentence for the user of Docker.
    pub async fn call(&self, method: &str, body: &[u8], pid: Option<i32>) -> Result<Value, String> {
        let begun = Instant::now();
        let (plugin, name, text) = (self.clone(), method.to_owned(), body.to_vec());
        let mut work = tokio::spawn(async move { plugin.answer(&name, &text, pid).await });
        let answer = tokio::select! {
            biased;
            done = &mut work => done.unwrap_or_else(|_| Err("the agent has a fault: see its log".to_owned())),
            () = self.deadline_of(begun) => {
                let refused = self.too_late(method, begun.elapsed());
                self.undo_late(method, body, work);
                Err(refused)
            }
        };
        match &answer {
            Ok(_) => {
                if WORK.contains(&method) {
                    self.done.send_replace(Instant::now());
                }
                tracing::debug!("Docker's {method} is answered after {:?}", begun.elapsed());
            }
            Err(error) => tracing::warn!("Docker's {method} is refused: {error}"),
        }
        answer
    }

    /// Waits until a call that began then may wait no longer.
    async fn deadline_of(&self, begun: Instant) {
        loop {
            let last = begun.max(*self.done.borrow());
            let deadline = (last + self.deadline).min(begun + QUEUED.max(self.deadline));
            if Instant::now() >= deadline {
                return;
            }
            sleep_until(deadline).await;
        }
    }

    /// The sentence for the user whose call was not done in time.
    fn too_late(&self, method: &str, waited: Duration) -> String {
        let call = method.trim_start_matches("NetworkDriver.");
        let agent = self.agent.borrow().clone();
        let why = agent.and_then(|agent| agent.store_fault()).unwrap_or_else(|| "this host is too busy".to_owned());
        let what = match method {
            CREATE_ENDPOINT | CREATE_NETWORK => "what it began is undone",
            _ => "what it began is finished or undone behind this",
        };
        format!(
            "the agent was not done with {call} within {waited:.1?}: {why}; {what}: try again, see `privnet status`"
        )
    }

    /// Ends what a call makes that was answered as not done, once it is made: Docker does not end what was refused.
    fn undo_late(&self, method: &str, body: &[u8], work: JoinHandle<Result<Value, String>>) {
        let plugin = self.clone();
        let (method, body) = (method.to_owned(), body.to_vec());
        tokio::spawn(async move {
            if !matches!(work.await, Ok(Ok(_))) {
                return;
            }
            let undone = match &*method {
                CREATE_NETWORK => {
                    read(&body).and_then(|request: CreateNetwork| plugin.networks.set(&request.network, None))
                }
                CREATE_ENDPOINT => match read(&body) {
                    Ok(request) => plugin.delete_endpoint(&request).await.map(drop),
                    Err(error) => Err(error),
                },
                // Docker ends the endpoint of a Join that was refused.
                _ => return,
            };
            match undone {
                Ok(()) => tracing::info!("Docker's {method}, which was refused, was done later, and is undone"),
                Err(error) => tracing::warn!("Docker's {method}, which was refused, is not undone: {error}"),
            }
        });
    }

    async fn answer(&self, method: &str, body: &[u8], pid: Option<i32>) -> Result<Value, String> {
        match method {
            "Plugin.Activate" => Ok(json!({ "Implements": ["NetworkDriver"] })),
            "NetworkDriver.GetCapabilities" => Ok(json!({ "Scope": "local", "ConnectivityScope": "global" })),
            CREATE_NETWORK => self.create_network(&read(body)?).await,
            "NetworkDriver.DeleteNetwork" => {
                let OfNetwork { network } = read(body)?;
                self.networks.set(&network, None).map(|()| json!({}))
            }
            CREATE_ENDPOINT => self.create_endpoint(&read(body)?).await,
            "NetworkDriver.EndpointOperInfo" => Ok(self.endpoint_oper_info(body).await),
            "NetworkDriver.Join" => self.join(&read(body)?, pid).await,
            "NetworkDriver.Leave" => self.leave(&read(body)?).await,
            "NetworkDriver.DeleteEndpoint" => self.delete_endpoint(&read(body)?).await,
            "NetworkDriver.ProgramExternalConnectivity"
            | "NetworkDriver.RevokeExternalConnectivity"
            | "NetworkDriver.DiscoverNew"
            | "NetworkDriver.DiscoverDelete" => Ok(json!({})),
            other => Err(format!("privnet has no {other}: its networks are of one host's Docker, and not of a swarm")),
        }
    }

    async fn create_network(&self, request: &CreateNetwork) -> Result<Value, String> {
        if let Some(wanted) = request.wanted()? {
            let agent = self.agent().await?;
            let network = agent.network_for(&wanted).await.map_err(|error| sentence(&error))?;
            self.networks.set(&request.network, Some(network.to_string()))?;
        }
        Ok(json!({}))
    }

    /// The network of privnet's that a network of Docker's is. Without `-o network=` it has Docker's name, which only the API
    /// tells.
    async fn network(&self, agent: &Arc<dyn Handovers>, network: &str) -> Result<String, String> {
        if let Some(known) = self.networks.get(network) {
            return Ok(known);
        }
        let name = self.engine.network_name(network).await;
        let name = name.ok_or_else(|| "Docker does not say how this network is called: try again".to_owned())?;
        let found = agent
            .network_for(&name)
            .await
            .map_err(|error| format!("{}; or create Docker's network with -o network=NAME", sentence(&error)))?;
        self.networks.set(network, Some(found.to_string()))?;
        Ok(found.to_string())
    }

    async fn create_endpoint(&self, request: &CreateEndpoint) -> Result<Value, String> {
        let (digits, agent) = (request.of.digits()?, self.agent().await?);
        let mut wishes = request.wishes()?;
        // Which container it is, Docker says later; what cannot be is refused now.
        let identity = Identity::made_up(digits, &wishes)?;
        let network = self.network(&agent, &request.of.network).await?;
        if request.publishes() {
            tracing::info!(
                "Docker publishes ports (-p) by its own networks only: the container needs one of those too"
            );
        }
        wishes.insert(DOCKER_NETWORK.to_owned(), request.of.network.clone());
        wishes.insert(DOCKER_ENDPOINT.to_owned(), request.of.endpoint.clone());
        let wish = Wish { attach: identity.attach(network), wishes, may_come_back: false };
        let made = match agent.prepare(digits, wish.clone()).await {
            Err(away) if away.code == ErrorCode::StoreUnavailable && self.tells_who_it_is(&wish).await? => {
                let made = agent.prepare(digits, Wish { may_come_back: true, ..wish }).await;
                // Why the store does not answer says more than that it is needed.
                made.map_err(|error| if error.code == ErrorCode::StoreUnavailable { away } else { error })
            }
            made => made,
        };
        let made = made.map_err(|error| {
            let is_network_gone = error.code == ErrorCode::NetworkNotFound;
            let more = if is_network_gone {
                "; Docker's network goes by `docker network rm`, and is to be made anew"
            } else {
                ""
            };
            sentence(&error) + more
        })?;
        Ok(json!({ "Interface": { "Address": made.address.to_string() } }))
    }

    /// Whether `Join` will know which container it is: by the endpoint's own wishes, or by the API.
    async fn tells_who_it_is(&self, wish: &Wish) -> Result<bool, String> {
        if Identity::of_wishes(&wish.wishes)?.is_some() {
            return Ok(true);
        }
        let Some(network) = wish.wishes.get(DOCKER_NETWORK) else { return Ok(false) };
        Ok(self.engine.network_name(network).await.is_some())
    }

    async fn join(&self, request: &Join, pid: Option<i32>) -> Result<Value, String> {
        let (digits, agent) = (request.of.digits()?, self.agent().await?);
        let pid = pid.ok_or("the agent cannot tell which process calls it")?;
        agent.handed_over(digits).ok_or("this endpoint is not known: try again")?;
        let arrival = self.arrival(&agent, digits);
        let container = visible(&request.sandbox, pid);
        let prefix = free_prefix(&container).await;
        let dockers = PathBuf::from(format!("/proc/{pid}/ns/net"));
        // A name that is refused ends the endpoint, and its device wherever that is.
        let give = async { agent.give(digits, &dockers, &container).await.map_err(|error| sentence(&error)) };
        let (named, given) = tokio::join!(arrival.name(), give);
        named?;
        let given = given?;
        // Before Docker 28 the namespace comes after the answer; at dockerd's start its API answers once the containers have
        // joined: then the rest follows.
        if agent.settle(digits).await.map_err(|error| sentence(&error))?
            && !arrival.name().await?
            && agent.handed_over(digits).is_some_and(|it| it.is_on_trust)
        {
            return Err("Docker does not say in time whose place this is, and the store is away: try again".to_owned());
        }
        self.joined().insert(digits);
        tokio::spawn(arrival.follow());
        Ok(json!({
            "InterfaceName": { "SrcName": given.to_string(), "DstPrefix": prefix },
            // Else Docker makes a network of its own, with a default route.
            "DisableGatewayService": true,
        }))
    }

    /// From Docker 28 on, the last call before the container's first instruction. Docker has written the file by then in which
    /// the container finds its own server, and has taken from it which servers that one asks: what is written earlier, in the
    /// `Join`, it takes for the user's, and its server asks no other.
    async fn endpoint_oper_info(&self, body: &[u8]) -> Value {
        let answer = json!({ "Value": {} });
        let digits = read(body).and_then(|request: OfEndpoint| request.digits());
        let (Ok(digits), Some(agent)) = (digits, self.agent.borrow().clone()) else { return answer };
        let is_settled = agent.handed_over(digits).is_some_and(|it| it.is_settled);
        // Once for each: dockerd calls again at its own start, when its API is silent.
        if is_settled && self.joined().remove(&digits) {
            let arrival = self.arrival(&agent, digits);
            let written = async {
                while !arrival.write_resolv_conf().await {
                    tokio::time::sleep(AGAIN).await;
                }
            };
            if tokio::time::timeout(WRITING, written).await.is_err() {
                tracing::warn!("a container of Docker's starts before it finds names of privnet's: they follow");
            }
        }
        answer
    }

    fn joined(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.joined.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn leave(&self, request: &OfEndpoint) -> Result<Value, String> {
        let (digits, agent) = (request.digits()?, self.agent().await?);
        agent.take_back(digits).await.map(|()| json!({})).map_err(|error| sentence(&error))
    }

    async fn delete_endpoint(&self, request: &OfEndpoint) -> Result<Value, String> {
        let (digits, agent) = (request.digits()?, self.agent().await?);
        self.siblings.forget(digits);
        self.joined().remove(&digits);
        agent.end(digits).await.map(|()| json!({})).map_err(|error| sentence(&error))
    }

    fn arrival(&self, agent: &Arc<dyn Handovers>, digits: u64) -> Arrival {
        let (engine, siblings) = (Arc::clone(&self.engine), Arc::clone(&self.siblings));
        Arrival { agent: Arc::clone(agent), engine, siblings, digits, patience: self.patience }
    }

    async fn agent(&self) -> Result<Arc<dyn Handovers>, String> {
        let mut agent = self.agent.subscribe();
        let started = tokio::time::timeout(STARTING, agent.wait_for(Option::is_some)).await;
        let started = started.ok().and_then(Result::ok).and_then(|agent| agent.clone());
        started.ok_or_else(|| "privnet's agent is starting: see `privnet status`, and try again".to_owned())
    }
}

/// Where a file of dockerd's is for the agent: dockerd may have mounts of its own.
fn visible(file: &Path, pid: i32) -> PathBuf {
    let mounts = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    if Netns::identify(file).is_ok() || mounts("self") == mounts(&pid.to_string()) {
        return file.to_owned();
    }
    PathBuf::from(format!("/proc/{pid}/root{}", file.display()))
}

/// What Docker is to begin the interface's name with: it takes the first number that it has not given itself.
async fn free_prefix(container: &Path) -> &'static str {
    let Ok(netns) = Netns::open(container) else { return INTERFACE };
    let Ok(links) = crate::link::Links::open(&netns).await else { return INTERFACE };
    let is_strangers = |link: &crate::link::Link| {
        let is_named_so = link.name.strip_prefix(INTERFACE).is_some_and(|rest| rest.parse::<u32>().is_ok());
        is_named_so && !ownership::is_tunnel_alias(link.alias.as_deref())
    };
    let is_taken = links.links().await.is_ok_and(|links| links.iter().any(is_strangers));
    if is_taken { OTHER_INTERFACE } else { INTERFACE }
}
