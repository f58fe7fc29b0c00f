//! What should be there: the members of this host's networks, as its journal and its snapshot of the store have them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::Result;
use ipnet::Ipv4Net;

use crate::agent::config::Config;
use crate::agent::door::error::{ControlError, ErrorCode};
use crate::agent::host::journal::{Journal, Record};
use crate::agent::snapshot;
use crate::model::{HostName, Member, MemberId, NetworkId, PublicKey};
use crate::store::records;

/// What is known of the store without asking it.
pub struct Known {
    /// This host's records of its members.
    pub records: Vec<Record>,
    /// The subnets of networks, where the snapshot has them: the embedded store makes none.
    pub subnets: BTreeMap<NetworkId, Ipv4Net>,
    /// All members of all hosts, and where each is among them by what it is found by.
    members: BTreeMap<MemberId, Member>,
    by_key: BTreeMap<(NetworkId, PublicKey), MemberId>,
    by_address: BTreeMap<(NetworkId, Ipv4Addr), MemberId>,
    vteps: BTreeMap<HostName, Ipv4Addr>,
    host: HostName,
    damaged: usize,
}

impl Known {
    /// Reads journal and snapshot.
    ///
    /// # Errors
    /// When one of them cannot be read, is damaged, or is not there.
    pub fn read(config: &Config, of_fleet: bool) -> Result<Self> {
        let (journal, snapshot) = (config.journal_dir(), config.snapshot_path());
        let needed = [Some(&journal), Some(&snapshot).filter(|_| of_fleet)];
        if let Some(missing) = needed.into_iter().flatten().find(|path| !path.exists()) {
            return Err(ControlError::new(
                ErrorCode::InvalidArgument,
                format!(
                    "nothing is proved: there is no {}, and so no word of which members there should be",
                    missing.display()
                ),
                "give the options that the agent is started with, --config or --state-dir; or start the agent once",
            )
            .into());
        }
        let (records, damaged) = Journal::look(&config.journal_dir())?;
        let (mut members, mut subnets, mut vteps) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for entry in snapshot::look(&config.snapshot_path())? {
            if let Ok(member) = records::member_from(&entry) {
                members.insert(member.id, member);
            } else if let Ok(network) = records::network_from(&entry) {
                subnets.insert(network.id, network.subnet);
            } else if let Ok(host) = records::host_from(&entry) {
                vteps.insert(host.name, host.vtep);
            }
        }
        // The journal has what the snapshot does not have yet.
        members.extend(records.iter().filter_map(own_member).map(|member| (member.id, member)));
        let by_key = members.values().map(|member: &Member| ((member.network, member.public_key), member.id)).collect();
        let by_address = members.values().map(|member| ((member.network, member.address), member.id)).collect();
        Ok(Self { records, subnets, members, by_key, by_address, vteps, host: config.host.clone(), damaged })
    }

    /// The members of a network, on all hosts.
    pub fn members(&self, network: NetworkId) -> impl Iterator<Item = &Member> {
        self.members.values().filter(move |member| member.network == network)
    }

    /// The member of a network that has an address.
    pub fn at(&self, network: NetworkId, address: Ipv4Addr) -> Option<&Member> {
        self.by_address.get(&(network, address)).and_then(|id| self.members.get(id))
    }

    /// The member of a network that has a key.
    pub fn with_key(&self, network: NetworkId, key: PublicKey) -> Option<&Member> {
        self.by_key.get(&(network, key)).and_then(|id| self.members.get(id))
    }

    /// The VTEP of a member's host; nothing where that is this host, or is not known.
    pub fn vtep_of(&self, member: &Member) -> Option<Ipv4Addr> {
        if self.is_here(member) { None } else { self.vteps.get(&member.host).copied() }
    }

    /// Whether a member is this host's.
    pub fn is_here(&self, member: &Member) -> bool {
        member.host == self.host
    }

    /// A member, as the store has it.
    pub fn member(&self, id: MemberId) -> Option<&Member> {
        self.members.get(&id)
    }

    /// A member of this host, for a person: by the name of its app, where it was given by one.
    pub fn name_of(&self, record: &Record) -> String {
        let container = &record.container;
        match self.member(record.id).and_then(|member| member.app_name.as_ref()) {
            Some(app) => format!("{}.{}.{app}", container.number, container.kind),
            None => container.to_string(),
        }
    }

    /// The members of this host of which there is no record that can be read.
    pub fn lost(&self) -> Vec<String> {
        let damaged = (self.damaged > 0).then(|| {
            format!("{} damaged records in the journal: the next start of the agent makes them again", self.damaged)
        });
        let has_record = |member: &&Member| self.records.iter().any(|record| record.id == member.id);
        let own = self.members.values().filter(|member| self.is_here(member));
        let lost = own.filter(|member| !has_record(member)).map(|member| {
            format!("{}: the store has it on this host, and the journal has no record of it", member.container)
        });
        damaged.into_iter().chain(lost).collect()
    }
}

/// A member of this host, as the store's record of it said when it was written last.
fn own_member(record: &Record) -> Option<Member> {
    let entries = record.stored.iter().filter_map(|(key, text)| snapshot::entry_of(key, text.clone()));
    entries.filter_map(|entry| records::member_from(&entry).ok()).find(|member| member.id == record.id)
}
