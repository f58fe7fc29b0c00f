//! One record: what this host knows of one of its members.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::agent::door::views::ResolvConfFile;
use crate::model::{AttachmentName, ContainerRef, HostName, IfName, Member, MemberId, NetworkId};
use crate::netns::{Netns, NetnsId};
use crate::store::claims::Written;
use crate::store::records::{self, AddressRecord};
use crate::store::{Key, Value, keys};
use crate::topology::DeviceAt;
use crate::topology::ownership::{self, MemberLink};

/// What this host knows of one of its members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The membership.
    pub id: MemberId,
    /// The network.
    pub network: NetworkId,
    /// The container, by its oldest name.
    pub container: ContainerRef,
    /// The member's address.
    pub address: Ipv4Addr,
    /// The n of its `wg<n>`.
    pub index: u8,
    /// A number among this host's members by which its link in the network netns is named. Nothing where a build before slots
    /// attached the member: its link is named by its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
    /// The digits in the name of the container's binding netns, where they are not those of `container`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<u64>,
    /// Where the app netns was found, when the oldest name was attached.
    pub netns_path: PathBuf,
    /// The membership's further names, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<FurtherName>,
    /// Which namespace that was: paths are recycled, this is not as long as the namespace lives.
    pub netns: NetnsId,
    /// Which one it was among all that ever had that number; absent where it was not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_cookie: Option<u64>,
    /// Which boot of the kernel that was.
    pub boot_id: String,
    /// Whether only its teardown remains.
    pub leaving: bool,
    /// The container's `resolv.conf` that an attach named last: the next agent takes it over where this one could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolv_conf: Option<ResolvConfFile>,
    /// How often the clocks of its peers' hosts had stepped back when its peers were made; those that never did are left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub clock_steps: BTreeMap<HostName, u64>,
    /// The store's records of the membership, by key, as they were written last.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stored: BTreeMap<String, String>,
    /// How its device is handed over to another program, where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handover: Option<Handover>,
    /// The name of its device in the app netns, where another one than `wg<n>` was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<IfName>,
    /// What the container runtime calls it that attached it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<AttachmentName>,
    /// Fields that this build does not know; they are kept.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, serde_json::Value>,
}

/// The key of the wish that is another one for each device: the other program's id of it.
pub const DEVICE: &str = "docker.endpoint";

/// A device that another program, such as Docker, moves into its container and out of it: it is made in a namespace of ours,
/// and adopted where that program has it, by the name that it was given there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// The digits in the name of the namespace in which the device was made: those of the other program's id of it.
    pub digits: u64,
    /// How far it is.
    pub stage: Stage,
    /// The namespace that it is given to and taken back from: the other program's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_to: Option<GivenTo>,
    /// Its name in the container, once it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<IfName>,
    /// What was asked for with the device and is of use later, by key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub wishes: BTreeMap<String, String>,
    /// Whether the member still has the name that was made up for it, since its own was not known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_unnamed: bool,
    /// Whether it has the place of a member that ended while the store was away, on the word of its name, which is to be told.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_on_trust: bool,
}

impl Handover {
    /// Of a device that is about to be made, for a container that is not known yet.
    #[must_use]
    pub const fn new(digits: u64, wishes: BTreeMap<String, String>) -> Self {
        let (stage, given_to, interface) = (Stage::Made, None, None);
        Self { digits, stage, given_to, interface, wishes, is_unnamed: true, is_on_trust: false }
    }

    /// The container is known, and has a name of its own.
    pub fn is_named(&mut self) {
        (self.is_unnamed, self.is_on_trust) = (false, false);
    }
}

/// The namespace of the program that a device is handed over to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenTo {
    /// Where it was found.
    pub path: PathBuf,
    /// Which one it was.
    pub netns: NetnsId,
    /// Where the container's namespace is, or will be.
    pub container: PathBuf,
}

/// How far a handover is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The device is in the namespace in which it was made, which stands for the container.
    Made,
    /// It is under way to the container.
    Given,
    /// It is in the container.
    Arrived,
    /// It is under way from the container, to be removed.
    Returned,
}

/// A further name of a membership, as its host knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FurtherName {
    /// The name.
    pub container: ContainerRef,
    /// Where the app netns was found, when the name was attached.
    pub netns_path: PathBuf,
}

impl Record {
    /// The membership's names, the oldest first, and where the app netns was found for each.
    pub fn each_name(&self) -> impl Iterator<Item = (&ContainerRef, &Path)> {
        let further = self.names.iter().map(|name| (&name.container, &*name.netns_path));
        std::iter::once((&self.container, &*self.netns_path)).chain(further)
    }

    /// The membership's names, for a person.
    #[must_use]
    pub fn names_text(&self) -> String {
        let names: Vec<String> = self.each_name().map(|(container, _)| container.to_string()).collect();
        names.join(", ")
    }

    /// The digits in the name of the container's binding netns.
    #[must_use]
    pub fn binding(&self) -> u64 {
        self.binding.unwrap_or_else(|| ownership::binding_digest(&self.container))
    }

    /// The name of the device in the app netns.
    #[must_use]
    pub fn interface(&self) -> IfName {
        let given = self.handover.as_ref().and_then(|handover| handover.interface.clone());
        given.or_else(|| self.interface.clone()).unwrap_or_else(|| ownership::wireguard_interface(self.index))
    }

    /// Where the device is. One that is under way is neither made nor looked at.
    #[must_use]
    pub fn device(&self) -> DeviceAt {
        match self.handover.as_ref().map(|handover| handover.stage) {
            Some(Stage::Given) => DeviceAt::Coming,
            Some(Stage::Returned) => DeviceAt::Going,
            Some(Stage::Made) => DeviceAt::Made(self.interface()),
            Some(Stage::Arrived) | None => DeviceAt::Home(self.interface()),
        }
    }

    /// Notes that the app netns is the one at `path` from now on.
    pub fn move_to(&mut self, path: &Path, netns: NetnsId, cookie: u64) {
        self.find_at(path);
        (self.netns, self.netns_cookie) = (netns, Some(cookie));
    }

    /// Notes that the app netns, the same one, is found at `path` from now on.
    pub fn find_at(&mut self, path: &Path) {
        path.clone_into(&mut self.netns_path);
        self.names.iter_mut().for_each(|name| path.clone_into(&mut name.netns_path));
    }

    /// A path that leads to the container's namespace now; nothing when none does. `boot_id` is the running boot's.
    #[must_use]
    pub fn living_path(&self, boot_id: &str) -> Option<&Path> {
        let mut paths = self.each_name().map(|(_, path)| path);
        paths.find(|path| self.leads_there(path)).filter(|_| self.boot_id == boot_id)
    }

    /// Whether a path leads to the container's namespace now.
    #[must_use]
    pub fn leads_there(&self, path: &Path) -> bool {
        Netns::leads_to(path, self.netns)
    }

    /// The path to open the container's namespace at: one that leads there, or, where none does, the first.
    #[must_use]
    pub fn best_path(&self, boot_id: &str) -> &Path {
        self.living_path(boot_id).unwrap_or(&self.netns_path)
    }

    /// The instance of this host's agent that attached the member, as the store's record of it says.
    #[must_use]
    pub fn instance(&self) -> Option<Uuid> {
        #[derive(Deserialize)]
        struct OfMember {
            instance: Option<Uuid>,
        }
        let text = self.stored.get(keys::member(self.network, &self.container).as_str())?;
        serde_json::from_str(text).ok().and_then(|OfMember { instance }| instance)
    }

    /// The names whose containers are gone while the namespace lives on by another one's path.
    #[must_use]
    pub fn dead_names(&self) -> Vec<ContainerRef> {
        if self.names.is_empty() {
            return Vec::new();
        }
        let dead = self.each_name().filter(|(_, path)| !self.leads_there(path));
        dead.map(|(container, _)| container.clone()).collect()
    }

    /// Takes over the store's records of the membership, where they are not older than those that are known.
    pub(super) fn note_stored(&mut self, written: &Written) {
        for (key, text) in written.records.iter().map(text_of_entry) {
            let is_newer = |known: &String| serial_of(&text) >= serial_of(known);
            if self.stored.get(&key).is_none_or(is_newer) {
                self.stored.insert(key, text);
            }
        }
        for key in &written.deleted {
            self.stored.remove(key.as_str());
        }
    }

    /// Whether a record of its address says that the membership has ended. One that was seen before the membership was attached
    /// does not: the image may be behind.
    #[must_use]
    pub fn was_ended_by(&self, row: &AddressRecord) -> bool {
        let key = keys::address(self.network, self.address);
        let own =
            self.stored.get(key.as_str()).and_then(|text| records::decode::<AddressRecord>(&key, text.as_bytes()).ok());
        !row.goes_on(self.id) && own.is_some_and(|own| row.count >= own.count)
    }

    /// Whether it has the names that the store has for the membership.
    #[must_use]
    pub fn has_names_of(&self, member: &Member) -> bool {
        self.each_name().map(|(container, _)| container).eq(member.each_name().map(|name| name.container))
    }

    /// Takes over the names that the store has for the membership. A name that this host has not seen yet was attached to
    /// the namespace at `path`.
    pub(super) fn rename(&mut self, member: &Member, path: &Path) {
        self.binding = Some(self.binding());
        let known: BTreeMap<ContainerRef, PathBuf> =
            self.each_name().map(|(container, path)| (container.clone(), path.to_owned())).collect();
        let path_of = |name: &ContainerRef| known.get(name).map_or_else(|| path.to_owned(), PathBuf::clone);
        self.netns_path = path_of(&member.container);
        self.container = member.container.clone();
        let further = member.names.iter().map(|name| &name.container);
        self.names = further.map(|name| FurtherName { container: name.clone(), netns_path: path_of(name) }).collect();
    }

    /// What the member's link in the network netns is named after.
    #[must_use]
    pub fn link(&self) -> MemberLink {
        self.slot.map_or(MemberLink::Address(self.address), MemberLink::Slot)
    }

    /// Whether the container's namespace is still the one that was attached; `boot_id` is the running boot's.
    #[must_use]
    pub fn is_alive(&self, boot_id: &str) -> bool {
        self.living_path(boot_id).is_some()
    }
}

/// How often a record of the store had been written, by its text; 0 where that does not say.
fn serial_of(text: &str) -> u64 {
    #[derive(Deserialize)]
    struct Head {
        #[serde(default)]
        serial: u64,
    }
    serde_json::from_str(text).map_or(0, |Head { serial }| serial)
}

/// A record of the store as text; the store's values are JSON.
pub fn text_of_entry((key, value): &(Key, Value)) -> (String, String) {
    (key.to_string(), String::from_utf8_lossy(value).into_owned())
}
