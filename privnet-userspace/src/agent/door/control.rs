//! The agent's door for the surfaces: requests go in, views come out.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::adopt::adopt;
use super::attach::attach;
use super::attachments;
use super::doctor;
use super::drops::{self, DropLines};
use super::ends;
use super::error::{ControlError, ErrorCode};
use super::explain::explain;
use super::fleet;
use super::forget;
use super::gone::wait_until_gone;
use super::names::{ask_for_name, names_of_app, observe_names};
use super::overlap::avoided_ranges;
use super::problems;
use super::reads::{self, find_network, look_for_network};
use super::scrape;
use super::state;
use super::status;
use super::streams::{self, Caller, OpenedStream};
use super::verbs::AgentApi;
use super::views::{
    AdoptHost, Adopted, Attach, Attached, AttachmentView, Check, CreateNetwork, Deleted, Detach, Detached,
    DomainNameView, DomainNamesQuery, DrainHost, DrainedHost, DropsQuery, EndAttachment, EndNetwork, EndedNetwork,
    ExportedState, FleetView, ForgetHost, ForgottenHost, HostView, ImportedState, MemberView, MembersQuery,
    NetworkCounters, NetworkPath, NetworkView, OpenStream, RebuildState, RebuiltState, ResolveQuery, ResolveView,
    Scrape, ScrapeErrorKind, SetFleet, StatusView, VersionView,
};
use crate::agent::adoption;
use crate::agent::host::underlay;
use crate::agent::membership;
use crate::agent::names;
use crate::agent::shared::{Shared, UNTIL_SEEN};
use crate::agent::world::World;
use crate::ipam;
use crate::model::ids::ContainerNumber;
use crate::model::mtu::MIN_WIREGUARD_MTU_BYTES;
use crate::model::{App, AppId, ContainerRef, ContainerType, Member, Mtu, Network, NetworkName};
use crate::store::claims::{self, End, NewNetwork, Seen};
use crate::store::records;

/// A handle to a running agent. Clones speak to the same agent.
#[derive(Clone)]
pub struct Control {
    pub(in crate::agent) shared: Arc<Shared>,
}

impl Control {
    pub(in crate::agent) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The counters of every network with members on this host. One that cannot be read is missing.
    pub async fn counters(&self) -> Vec<NetworkCounters> {
        scrape::counters(&self.shared).await
    }

    /// The member that a detach means, and the name; without a number, the only one of its type on this host.
    async fn find_member(
        &self,
        network: &Network,
        app: AppId,
        kind: &ContainerType,
        number: Option<ContainerNumber>,
    ) -> Result<Option<(Member, ContainerRef)>, ControlError> {
        let store = &*self.shared.store;
        if let Some(number) = number {
            let name = ContainerRef { app, kind: kind.clone(), number };
            // The image first: the store may have lost the record, or have an earlier holder of the name.
            let found = match Seen::holder(&*self.shared.world, network.id, &name) {
                Some(member) => Some(Member::clone(&member)),
                None => records::find_member(store, network.id, &name).await?.map(|stored| stored.record),
            };
            return Ok(found.map(|member| (member, name)));
        }
        let own: Vec<Member> = self.shared.world(|world| {
            let of_host = world.members_on(&self.shared.host.config.host);
            of_host.filter(|member| member.network == network.id).map(|member| Member::clone(member)).collect()
        });
        let mut meant: Vec<(Member, ContainerRef)> = own
            .into_iter()
            .flat_map(|member| {
                let names: Vec<ContainerRef> = member.each_name().map(|name| name.container.clone()).collect();
                names.into_iter().map(move |name| (member.clone(), name))
            })
            .filter(|(_, name)| name.app == app && name.kind == *kind)
            .collect();
        if meant.len() > 1 {
            let numbers: Vec<String> = meant.iter().map(|(_, name)| name.number.to_string()).collect();
            return Err(ControlError::new(
                ErrorCode::InvalidArgument,
                format!("{} containers of type {kind} of {app} are in {} on this host", meant.len(), network.name),
                format!("choose one with --number: {}", numbers.join(", ")),
            ));
        }
        Ok(meant.pop())
    }
}

/// The MTU of a new network: the one that is asked for, or all that the host's underlay leaves.
fn network_mtu(asked: Option<u32>, host: Mtu) -> Result<u32, ControlError> {
    let mtu = asked.unwrap_or(host.wireguard);
    if mtu < MIN_WIREGUARD_MTU_BYTES {
        return Err(ControlError::new(
            ErrorCode::InvalidArgument,
            format!("MTU {mtu} is too small: every IPv4 host accepts {MIN_WIREGUARD_MTU_BYTES} bytes"),
            format!("choose {MIN_WIREGUARD_MTU_BYTES} to {}, or none", host.wireguard),
        ));
    }
    if mtu > host.wireguard {
        return Err(ControlError::new(
            ErrorCode::MtuTooSmall,
            format!("MTU {mtu} is too large: the underlay of this host, {}, leaves {}", host.underlay, host.wireguard),
            format!("choose {MIN_WIREGUARD_MTU_BYTES} to {}, or raise the underlay's MTU", host.wireguard),
        ));
    }
    Ok(mtu)
}

#[async_trait]
impl AgentApi for Control {
    async fn create_network(&self, request: CreateNetwork) -> Result<NetworkView, ControlError> {
        let name: NetworkName = request.name.parse()?;
        self.shared.host.state_dir.check_writable()?;
        if let Some(options) = &request.names {
            options.check()?;
        }
        let subnet =
            request.subnet.as_deref().map(ipam::parse_subnet).transpose().map_err(claims::NetworkError::from)?;
        let mtu = network_mtu(request.mtu, self.shared.host.facts.mtu)?;
        self.shared.world.until_trusted().await;
        let wanted = NewNetwork {
            name,
            subnet,
            avoided: if subnet.is_none() { avoided_ranges(&self.shared).await } else { Vec::new() },
            mtu,
            names: request.names.unwrap_or_default(),
            held: self.shared.world(|world| {
                let has_members = |network: &&Network| world.members(network.id).next().is_some();
                world.networks().values().filter(has_members).cloned().collect()
            }),
            now_unix_seconds: crate::agent::now_unix_seconds(),
        };
        // Drawn from the system, so that it may cross an await.
        let mut rng = <rand::rngs::StdRng as rand::SeedableRng>::from_os_rng();
        let network = claims::create_network(&*self.shared.store, &wanted, &mut rng).await?;
        self.shared.world.wait_until(UNTIL_SEEN, |world| world.networks().contains_key(&network.id)).await;
        Ok(reads::network_view(network, 0, None))
    }

    async fn networks(&self) -> Result<Vec<NetworkView>, ControlError> {
        Ok(reads::networks(&self.shared))
    }

    async fn network(&self, network: NetworkPath) -> Result<NetworkView, ControlError> {
        reads::network(&self.shared, &network.network).await
    }

    async fn delete_network(&self, network: NetworkPath) -> Result<Deleted, ControlError> {
        self.shared.host.state_dir.check_writable()?;
        let network = find_network(&self.shared, &network.network).await?;
        claims::delete_network(&*self.shared.store, network.id, &*self.shared.world).await?;
        let is_gone = |world: &World| !world.networks().contains_key(&network.id);
        self.shared.world.wait_until(UNTIL_SEEN, is_gone).await;
        Ok(Deleted { deleted: true })
    }

    async fn end_network(&self, request: EndNetwork) -> Result<EndedNetwork, ControlError> {
        self.shared.host.state_dir.check()?;
        ends::end_network(&self.shared, request).await
    }

    async fn attach(&self, request: Attach) -> Result<Attached, ControlError> {
        self.shared.host.state_dir.check_writable()?;
        let network = find_network(&self.shared, &request.network).await?;
        attach(&self.shared, &network, request).await
    }

    async fn detach(&self, request: Detach) -> Result<Detached, ControlError> {
        let App { id: app, .. } = request.app.parse()?;
        let kind = request.kind.as_deref().map_or_else(|| Ok(ContainerType::web()), str::parse)?;
        let number = request.number.map(ContainerNumber::try_from).transpose()?;
        self.shared.host.state_dir.check_writable()?;
        let network = match find_network(&self.shared, &request.network).await {
            Ok(network) => network,
            // The members of a network that is gone are gone.
            Err(error) if error.code == ErrorCode::NetworkNotFound => return Ok(Detached::default()),
            Err(error) => return Err(error),
        };
        let Some((member, name)) = self.find_member(&network, app, &kind, number).await? else {
            if self.shared.mark().is_some() {
                adoption::refusal(&self.shared).map_or(Ok(()), Err)?;
            }
            if number.is_none() {
                ends::refuse_elsewhere(&self.shared, &network, app, &kind)?;
            }
            return Ok(Detached::default());
        };
        if member.host == self.shared.host.config.host && !self.shared.host.is_of_instance(&member) {
            adoption::refusal(&self.shared).map_or(Ok(()), Err)?;
        }
        if member.host != self.shared.host.config.host {
            return ends::detach_elsewhere(&self.shared, &network, &member, &name, request.force).await;
        }
        let record = self.shared.journal().at(network.id, member.address).cloned();
        let mut problems = Vec::new();
        match record.filter(|record| record.id == member.id) {
            Some(record) => {
                if request.drain {
                    names::drain::drain(&self.shared, &network, &record, &name).await?;
                }
                let ended = membership::end_name(&self.shared, &record, &name).await;
                let ended = ended.map_err(|error| explain(&error))?;
                if let Some(leaving) = ended.leaving {
                    problems = leaving.problems().await;
                }
                let gone = if ended.membership { wait_until_gone(&self.shared, &record).await } else { Ok(()) };
                names::wait::wait_until_withdrawn(&self.shared, &record, &name).await;
                gone?;
            }
            None => {
                let end = End::by_its_host(crate::agent::now_unix_seconds());
                let (store, world) = (&*self.shared.store, &*self.shared.world);
                claims::release_name(store, network.id, member.id, &name, end, world).await?;
            }
        }
        // The next attach chooses from what is seen: its number and address are free there too.
        let left = |world: &World| world.membership(member.id).is_none_or(|known| known.name(&name).is_none());
        self.shared.world.wait_until(UNTIL_SEEN, left).await;
        tracing::info!(network = %network.name, "detached {name} ({})", member.address);
        Ok(Detached { detached: true, problems })
    }

    async fn attachments(&self) -> Result<Vec<AttachmentView>, ControlError> {
        Ok(attachments::list(&self.shared))
    }

    async fn end_attachment(&self, request: EndAttachment) -> Result<Detached, ControlError> {
        attachments::end(&self.shared, &request.name).await
    }

    async fn members(&self, query: MembersQuery) -> Result<Vec<MemberView>, ControlError> {
        reads::members(&self.shared, query.network.as_deref()).await
    }

    async fn domain_names(&self, query: DomainNamesQuery) -> Result<Vec<DomainNameView>, ControlError> {
        let App { id: app, .. } = query.app.parse()?;
        let networks: Vec<Network> = match &query.network {
            Some(network) => vec![look_for_network(&self.shared, network).await?],
            None => self.shared.world(|world| world.networks().values().cloned().collect()),
        };
        Ok(names_of_app(&self.shared, app, &networks))
    }

    async fn resolve(&self, query: ResolveQuery) -> Result<ResolveView, ControlError> {
        ask_for_name(&self.shared, query).await
    }

    async fn fleet(&self) -> Result<FleetView, ControlError> {
        Ok(fleet::show(&self.shared))
    }

    async fn set_fleet(&self, request: SetFleet) -> Result<FleetView, ControlError> {
        fleet::set(&self.shared, request).await
    }

    async fn adopt_host(&self, request: AdoptHost) -> Result<Adopted, ControlError> {
        adopt(&self.shared, request).await
    }

    async fn forget_host(&self, request: ForgetHost) -> Result<ForgottenHost, ControlError> {
        self.shared.host.state_dir.check()?;
        forget::forget(&self.shared, request).await
    }

    async fn drain_host(&self, request: DrainHost) -> Result<DrainedHost, ControlError> {
        self.shared.host.state_dir.check()?;
        forget::drain(&self.shared, request).await
    }

    async fn hosts(&self) -> Result<Vec<HostView>, ControlError> {
        Ok(reads::hosts(&self.shared))
    }

    async fn rebuild_state(&self, request: RebuildState) -> Result<RebuiltState, ControlError> {
        state::rebuild(&self.shared, request).await
    }

    async fn export_state(&self) -> Result<ExportedState, ControlError> {
        Ok(state::export(&self.shared))
    }

    async fn close_state(&self) -> Result<ExportedState, ControlError> {
        state::close(&self.shared).await
    }

    async fn import_state(&self, request: ExportedState) -> Result<ImportedState, ControlError> {
        state::import(&self.shared, request).await
    }

    async fn status(&self) -> Result<StatusView, ControlError> {
        let (names, underlay) = tokio::join!(observe_names(&self.shared), underlay::troubles(&self.shared));
        Ok(status::view(&self.shared, names, &underlay))
    }

    async fn doctor(&self) -> Result<Vec<Check>, ControlError> {
        Ok(doctor::with_agent(&self.shared).await)
    }

    async fn version(&self) -> Result<VersionView, ControlError> {
        Ok(VersionView::of_this_binary())
    }

    async fn scrape(&self) -> Result<Scrape, ControlError> {
        let shared = &self.shared;
        let (names, underlay, counters, tunnels) = tokio::join!(
            observe_names(shared),
            underlay::troubles(shared),
            scrape::counters(shared),
            scrape::tunnels(shared)
        );
        if let Err(error) = &names {
            shared.read_failures.note::<()>(ScrapeErrorKind::Names, &error.message);
        }
        let (status, errors) = (status::view(shared, names, &underlay), shared.read_failures.read());
        Ok(Scrape { status, counters, tunnels, problems: problems::counts(shared), errors })
    }

    async fn open_stream(&self, request: OpenStream, caller: Caller) -> Result<OpenedStream, ControlError> {
        streams::open(&self.shared, request, caller).await
    }

    async fn watch_drops(&self, query: DropsQuery) -> Result<DropLines, ControlError> {
        drops::watch(&self.shared, query).await
    }

    fn store_age(&self) -> Option<Duration> {
        self.shared.contact.age(tokio::time::Instant::now())
    }
}
