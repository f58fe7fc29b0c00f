//! What a claim chooses from: what is believed, once the store is trusted.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use super::belief::Belief;
use super::world::SharedWorld;
use crate::model::{ContainerRef, Member, NetworkId};
use crate::store::claims::{Choice, Found, MemberClaim, MemberError, NameWish, Occupancy, Seen};
use crate::store::records::{AddressRecord, Stored};

impl SharedWorld {
    /// Waits while the store may lack what others have claimed: for a moment after it was seen to step back.
    pub async fn until_trusted(&self) {
        const PATIENCE: Duration = Duration::from_secs(5);
        while let Some(since) = self.belief(Belief::stepped_back) {
            let Some(left) = PATIENCE.checked_sub(since.elapsed()).filter(|left| !left.is_zero()) else { return };
            tokio::time::sleep(left).await;
        }
    }
}

impl Seen for SharedWorld {
    fn choose(&self, claim: &MemberClaim, found: &Found) -> Result<Choice, MemberError> {
        self.read(|world| {
            let network = world.networks().get(&claim.network);
            let network = network.ok_or(MemberError::NetworkNotFound { id: claim.network })?;
            world.occupancy(claim.network).unwrap_or(&Occupancy::default()).choose(network, claim, found)
        })
    }

    fn choose_name(&self, network: NetworkId, wish: &NameWish, found: &Found) -> Result<ContainerRef, MemberError> {
        self.read(|world| world.occupancy(network).unwrap_or(&Occupancy::default()).choose_name(wish, found))
    }

    fn members(&self, network: NetworkId) -> Vec<Arc<Member>> {
        self.read(|world| world.members(network).cloned().collect())
    }

    fn holder(&self, network: NetworkId, name: &ContainerRef) -> Option<Arc<Member>> {
        self.read(|world| {
            let further = || world.members(network).find(|member| member.name(name).is_some());
            world.member(network, name).or_else(further).cloned()
        })
    }

    fn rows(&self, network: NetworkId) -> Vec<(Ipv4Addr, Stored<AddressRecord>)> {
        self.read(|world| world.occupancy(network).map(Occupancy::rows).unwrap_or_default())
    }

    fn row(&self, network: NetworkId, address: Ipv4Addr) -> Option<Stored<AddressRecord>> {
        self.read(|world| world.row(network, address).cloned())
    }
}
