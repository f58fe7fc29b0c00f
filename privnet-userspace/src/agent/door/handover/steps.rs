//! How each step of a handover is done.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use ipnet::Ipv4Net;

use super::{HandedOver, Handovers, Wish, netns};
use crate::agent::door::attach::attach_at;
use crate::agent::door::control::Control;
use crate::agent::door::error::{ControlError, ErrorCode};
use crate::agent::door::explain::explain;
use crate::agent::door::gone::wait_until_gone;
use crate::agent::door::overlap::check_own_interfaces;
use crate::agent::door::reads::find_network;
use crate::agent::door::target::TargetNetns;
use crate::agent::door::verbs::AgentApi as _;
use crate::agent::door::views::{Attach, CreateNetwork, ResolvConfFile};
use crate::agent::host::journal::{GivenTo, Handover, Record, Stage};
use crate::agent::membership;
use crate::agent::names;
use crate::agent::netns_links::NetnsLinks;
use crate::agent::world::Concerns;
use crate::link::{self, LinkKind};
use crate::model::{IfName, MemberId, NetworkId, NetworkName};
use crate::netns::Netns;
use crate::topology::ownership;

/// How long to wait for the pass that takes note of a step.
const NOTED: Duration = Duration::from_secs(5);

#[async_trait]
impl Handovers for Control {
    async fn network_for(&self, id_or_name: &str) -> Result<NetworkId, ControlError> {
        match find_network(&self.shared, id_or_name).await {
            Err(error) if error.code == ErrorCode::NetworkNotFound && id_or_name.parse::<NetworkName>().is_ok() => {}
            found => return found.map(|network| network.id),
        }
        let request = CreateNetwork { name: id_or_name.to_owned(), subnet: None, mtu: None, names: None };
        match self.create_network(request).await {
            // Another host made it a moment ago.
            Err(error) if error.code == ErrorCode::NetworkExists => {
                Ok(find_network(&self.shared, id_or_name).await?.id)
            }
            created => created.map(|network| network.id),
        }
    }

    fn handed_over(&self, digits: u64) -> Option<HandedOver> {
        let record = self.record_of(digits)?;
        let subnet = self.shared.world(|world| world.networks().get(&record.network).map(|found| found.subnet))?;
        let handover = record.handover.as_ref()?;
        let made_in = self.handover_path(digits);
        Some(HandedOver {
            address: Ipv4Net::new(record.address, subnet.prefix_len()).ok()?,
            stage: handover.stage,
            wishes: handover.wishes.clone(),
            is_unnamed: handover.is_unnamed,
            is_on_trust: handover.is_on_trust,
            is_settled: record.netns_path != made_in,
            path: record.netns_path.clone(),
            has_resolv_conf: record.resolv_conf.is_some(),
        })
    }

    fn store_fault(&self) -> Option<String> {
        self.shared.contact.fault().map(|fault| fault.message)
    }

    fn all_handed_over(&self) -> Vec<u64> {
        let journal = self.shared.journal();
        let staying = journal.records().values().filter(|record| !record.leaving);
        staying.filter_map(|record| Some(record.handover.as_ref()?.digits)).collect()
    }

    async fn prepare(&self, digits: u64, wish: Wish) -> Result<HandedOver, ControlError> {
        let shared = &*self.shared;
        shared.host.state_dir.check_writable()?;
        if self.record_of(digits).is_none() {
            // Its namespace, by the name that the next one has, is removed last.
            if let Some(leaving) = self.any_record_of(digits) {
                wait_until_gone(shared, &leaving).await?;
            }
            let network = find_network(shared, &wish.attach.network).await?;
            let handover = Handover::new(digits, wish.wishes);
            let netns = netns::make(shared, digits).await.map_err(|error| explain(&error))?;
            let found = TargetNetns {
                path: self.handover_path(digits),
                netns,
                handover: Some(handover),
                may_come_back: wish.may_come_back,
                only: None,
            };
            if let Err(error) = attach_at(shared, &network, wish.attach, Some(found)).await {
                if self.any_record_of(digits).is_none() {
                    netns::remove(shared, digits);
                }
                return Err(error);
            }
        }
        self.handed_over(digits).ok_or_else(|| unknown(digits))
    }

    async fn give(&self, digits: u64, path: &Path, container: &Path) -> Result<IfName, ControlError> {
        let record = self.record_of(digits).ok_or_else(|| unknown(digits))?;
        // One that is not there yet has its own interfaces later.
        if let Ok(container) = Netns::open(container) {
            let network = find_network(&self.shared, &record.network.to_string()).await?;
            check_own_interfaces(&self.shared, &network, &container).await?;
        }
        let theirs = Netns::open(path)?;
        let given_to = GivenTo { path: path.to_owned(), netns: theirs.id(), container: container.to_owned() };
        self.change(record.id, |_, handover| {
            if handover.stage == Stage::Made {
                handover.stage = Stage::Given;
            }
            handover.given_to = Some(given_to);
        })
        .await?;
        let name = ownership::handover_link(digits);
        let give = async {
            let ours = NetnsLinks::enter(Netns::open(&self.handover_path(digits))?).await?;
            // Without it, an earlier call has moved it.
            if let Some(link) = ours.find(ownership::wireguard_interface(record.index).as_str()).await? {
                ours.links.set_down(link.index).await?;
                ours.links.give(link.index, &name, &theirs).await?;
            }
            anyhow::Ok(())
        };
        give.await.map_err(|error: anyhow::Error| explain(&error))?;
        Ok(name)
    }

    async fn settle(&self, digits: u64) -> Result<bool, ControlError> {
        let shared = &*self.shared;
        let record = self.record_of(digits).ok_or_else(|| unknown(digits))?;
        let given_to = record.handover.as_ref().and_then(|handover| handover.given_to.clone());
        let Some(GivenTo { container, .. }) = given_to else { return Ok(false) };
        let Some(netns) = Netns::find(&container)? else { return Ok(false) };
        if record.netns == netns.id() {
            return Ok(true);
        }
        let (id, cookie) = (netns.id(), netns.cookie().await?);
        // The guard is there then.
        self.change_and_apply(record.id, |record, _| record.move_to(&container, id, cookie)).await?;
        shared.names.wake(&Concerns::Networks([record.network].into()));
        Ok(true)
    }

    async fn adopt(&self, digits: u64) -> Result<bool, ControlError> {
        let record = self.record_of(digits).ok_or_else(|| unknown(digits))?;
        if record.handover.as_ref().is_some_and(|handover| handover.stage != Stage::Given) {
            return Ok(true);
        }
        let Some(netns) = Netns::find(&record.netns_path)? else { return Ok(false) };
        let there = NetnsLinks::enter(netns).await.map_err(|error| explain(&error))?;
        let alias = ownership::tunnel_alias(record.id);
        let links = there.links.links().await.map_err(|error| explain(&error.into()))?;
        let is_it = |link: &&link::Link| {
            let is_given_name = link.name != ownership::handover_link(digits).as_str();
            // It is renamed while it is down.
            link.alias.as_deref() == Some(&*alias)
                && is_given_name
                && link.up
                && matches!(link.kind, LinkKind::Wireguard | LinkKind::Tun)
        };
        let Some(name) = links.iter().find(is_it).and_then(|link| link.name.parse::<IfName>().ok()) else {
            return Ok(false);
        };
        let adopted = self.change_and_apply(record.id, |_, handover| {
            handover.stage = Stage::Arrived;
            handover.interface = Some(name);
        });
        adopted.await.map(|()| true)
    }

    async fn name(&self, digits: u64, attach: Attach) -> Result<(), ControlError> {
        let shared = &*self.shared;
        let record = self.record_of(digits).ok_or_else(|| unknown(digits))?;
        let network = find_network(shared, &record.network.to_string()).await?;
        let made_up = record.container.clone();
        let netns = Netns::open(&record.netns_path)?;
        let path = record.netns_path.clone();
        // It may end before its turn comes: a name makes no membership.
        let found = TargetNetns { path, netns, handover: None, may_come_back: false, only: Some(record.id) };
        let attached = attach_at(shared, &network, attach, Some(found)).await?;
        let is_the_same = attached.member.app == made_up.app && attached.member.kind == made_up.kind;
        if !is_the_same {
            membership::end_name(shared, &record, &made_up).await.map_err(|error| explain(&error))?;
        }
        let named = shared.journal().change_handover(record.id, |_, handover| handover.is_named());
        named.map(drop).map_err(|error| explain(&error))
    }

    async fn find_at(&self, digits: u64, path: &Path) -> Result<bool, ControlError> {
        let record = self.record_of(digits).ok_or_else(|| unknown(digits))?;
        if !record.leads_there(path) {
            return Ok(false);
        }
        self.change(record.id, |record, _| record.find_at(path)).await.map(|()| true)
    }

    async fn write_resolv_conf(&self, digits: u64, path: &Path) -> Vec<String> {
        let Some(record) = self.record_of(digits) else { return Vec::new() };
        names::wait::wait_until_told(&self.shared, &record, &record.container).await;
        let file = ResolvConfFile { path: path.to_owned(), by_caller: false, before: None };
        let problems = names::resolv_conf::after_attach(&self.shared, &record, Some(&file)).await;
        problems.into_iter().map(|problem| format!("{}: {}", problem.what, problem.why)).collect()
    }

    async fn take_back(&self, digits: u64) -> Result<(), ControlError> {
        let Some(record) = self.record_of(digits) else { return Ok(()) };
        self.change(record.id, |_, handover| handover.stage = Stage::Returned).await
    }

    async fn end(&self, digits: u64) -> Result<(), ControlError> {
        let shared = &*self.shared;
        if let Some(record) = self.record_of(digits) {
            let names = record.names_text();
            drop(membership::end_here(shared, &record).await.map_err(|error| explain(&error))?);
            tracing::info!(network = %record.network, "{names} ({}) was handed back", record.address);
        }
        Ok(())
    }
}

impl Control {
    fn record_of(&self, digits: u64) -> Option<Record> {
        self.any_record_of(digits).filter(|record| !record.leaving)
    }

    fn any_record_of(&self, digits: u64) -> Option<Record> {
        let is_it = |record: &&Record| record.handover.as_ref().is_some_and(|handover| handover.digits == digits);
        let journal = self.shared.journal();
        journal.records().values().filter(is_it).min_by_key(|record| record.leaving).cloned()
    }

    fn handover_path(&self, digits: u64) -> PathBuf {
        let config = &self.shared.host.config;
        config.netns_path(&ownership::handover_netns(&config.netns_prefix, digits))
    }

    /// Changes the record of a membership that has not ended meanwhile.
    fn note(&self, id: MemberId, change: impl FnOnce(&mut Record, &mut Handover)) -> Result<Record, ControlError> {
        let changed = self.shared.journal().change_handover(id, change).map_err(|error| explain(&error))?;
        let text = || format!("the membership {id} has ended");
        changed.ok_or_else(|| ControlError::new(ErrorCode::MemberNotFound, text(), "try again"))
    }

    /// Changes a record, and waits for the end of a pass that does not go by it: none touches the device after that.
    async fn change(&self, id: MemberId, change: impl FnOnce(&mut Record, &mut Handover)) -> Result<(), ControlError> {
        let record = self.note(id, change)?;
        let handle = self.shared.workers.of(record.network);
        handle.wake_and_observe_member(id);
        match tokio::time::timeout(NOTED, handle.between_passes()).await {
            Ok(()) => Ok(()),
            Err(_) => Err(is_being_changed(&record)),
        }
    }

    /// As [`Self::change`], and waits for a pass that goes by it.
    async fn change_and_apply(
        &self,
        id: MemberId,
        change: impl FnOnce(&mut Record, &mut Handover),
    ) -> Result<(), ControlError> {
        let record = self.note(id, change)?;
        let handle = self.shared.workers.of(record.network);
        let mut reports = handle.reports();
        let asked = handle.wake_and_observe_member(id);
        match tokio::time::timeout(NOTED, reports.wait_for(|report| report.answered >= asked)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(is_being_changed(&record)),
        }
    }
}

fn is_being_changed(record: &Record) -> ControlError {
    ControlError::new(
        ErrorCode::Timeout,
        format!("{} is being changed, and that takes more than {} s", record.names_text(), NOTED.as_secs()),
        "see `privnet status`, and try again",
    )
}

fn unknown(digits: u64) -> ControlError {
    ControlError::new(
        ErrorCode::MemberNotFound,
        format!("no device is handed over under {digits:016x}, or it was ended"),
        "try again",
    )
}
