//! What a claim chooses from: what is believed, once the store is trusted.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::belief::Belief;
use super::world::SharedWorld;
use crate::model::{ContainerRef, Member, NetworkId};
use crate::store::claims::{Choice, Found, MemberClaim, MemberError, NameWish, Occupancy, Seen};
use crate::store::records::{AddressRecord, Stored};

/// How long the hosts have to put back what a store has lost that was seen to step back.
const PATIENCE: Duration = Duration::from_secs(5);

impl SharedWorld {
    /// Waits while the store may lack what others have claimed: for a moment after it was seen to step back.
    pub async fn until_trusted(&self) {
        while let Some(left) = self.doubted_for(Instant::now()) {
            tokio::time::sleep(left).await;
        }
    }

    /// How long the store is not trusted yet; nothing where it is.
    fn doubted_for(&self, now: Instant) -> Option<Duration> {
        let since = self.belief(Belief::stepped_back)?;
        PATIENCE.checked_sub(now.saturating_duration_since(since)).filter(|left| !left.is_zero())
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

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::agent::names::desired::tests::{APP, SHOP};
    use crate::store::{Entry, Event, Key, Listing, Revision};

    fn key(text: &str) -> Key {
        text.parse().expect("a key")
    }

    fn member(number: u8) -> (Key, String) {
        let text = format!(
            r#"{{"version":1,"serial":2,"id":"000000000000000{number}","network":"{SHOP}","app":"{APP}","type":"web","number":{number},"address":"10.240.0.{number}","generation":0,"public_key":"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=","wireguard_port":51820,"host":"b","state":"ready"}}"#
        );
        (key(&format!("members/{SHOP}/{number}.web.{APP}")), text)
    }

    fn network() -> (Key, String) {
        let text = format!(
            r#"{{"version":1,"id":"{SHOP}","name":"shop","vni":7,"subnet":"10.240.0.0/22","mtu":1390,"created_unix_seconds":1}}"#
        );
        (key(&format!("networks/{SHOP}")), text)
    }

    fn listing(records: &[(Key, String)]) -> Listing {
        let entry = |(key, text): &(Key, String)| Entry {
            key: key.clone(),
            value: text.as_bytes().into(),
            revision: Revision(1),
            lease: None,
        };
        Listing { entries: records.iter().map(entry).collect(), revision: Revision(1) }
    }

    /// An agent that remembers the records, or nothing at all.
    fn started(remembered: Option<&[(Key, String)]>) -> SharedWorld {
        let mut belief = Belief::new("a".parse().expect("a host"));
        for (key, text) in remembered.unwrap_or_default() {
            belief.remember(key.clone(), text.as_bytes().into(), Instant::now()).expect("a record");
        }
        if remembered.is_none() {
            belief.begin_without_memory();
        }
        SharedWorld::new(belief)
    }

    #[test]
    fn without_a_snapshot_nothing_is_claimed_for_five_seconds_of_a_store_with_members() {
        let (empty, full) = (vec![network()], vec![network(), member(2)]);
        // The store may answer for the first time when the agent has run for long.
        let read = Instant::now() + Duration::from_secs(3600);
        for (remembered, there, is_doubted) in [
            (None, &full, true),
            (Some(&full[..]), &full, false),
            (None, &empty, false),
            (Some(&full[..]), &empty, true),
        ] {
            let world = started(remembered);
            assert_eq!(world.doubted_for(read), None, "before it is read");
            world.compare(&listing(there), read);
            let after = |milliseconds| world.doubted_for(read + Duration::from_millis(milliseconds));
            let left = |milliseconds| is_doubted.then(|| Duration::from_millis(milliseconds));
            assert_eq!([after(0), after(4999), after(5000)], [left(5000), left(1), None], "{remembered:?} {there:?}");
            world.compare(&listing(&full), read + Duration::from_secs(5));
            assert_eq!(after(5000), None, "a later reading of all of it");
        }
    }

    #[test]
    fn after_a_loss_nothing_is_claimed_for_five_seconds_and_after_a_change_at_once() {
        let (full, read) = (vec![network(), member(2)], Instant::now());
        let world = started(Some(&full));
        world.compare(&listing(&full), read);
        let (next, text) = member(3);
        world.follow(&[Event::Put { key: next, value: text.as_bytes().into(), revision: Revision(2) }], read);
        assert_eq!(world.doubted_for(read), None);
        let [first, second] = [1, 4].map(|seconds| read + Duration::from_secs(seconds));
        for (number, at) in [(2, first), (3, second)] {
            world.follow(&[Event::Delete { key: member(number).0, revision: Revision(3) }], at);
            assert_eq!(world.doubted_for(at), Some(PATIENCE));
        }
        assert_eq!(world.doubted_for(first + PATIENCE), Some(Duration::from_secs(3)), "since the last one");
        assert_eq!(world.doubted_for(second + PATIENCE), None);
    }

    #[tokio::test]
    async fn a_claim_waits_until_the_store_is_trusted_and_not_where_it_is() {
        let full = [network(), member(2)];
        let world = started(Some(&full));
        world.compare(&listing(&full), Instant::now());
        assert_eq!(world.until_trusted().now_or_never(), Some(()));
        let some_time_ago = Instant::now().checked_sub(Duration::from_millis(4500)).expect("the clock runs for longer");
        world.doubt_members(some_time_ago);
        assert_eq!(world.until_trusted().now_or_never(), None);
        world.until_trusted().await;
        assert_eq!(world.doubted_for(Instant::now()), None);
    }
}
