//! The claims against the memory store.

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;
use crate::model::{Member, MemberState, Network, PublicKey};
use crate::store::Memory;

fn claim(network: &Network, key: u8) -> MemberClaim {
    MemberClaim {
        network: network.id,
        app: "ap-a71da13f-7c70-4c00-a644-eee8558d8053".parse().expect("valid"),
        kind: "web".parse().expect("valid"),
        number: None,
        address: None,
        host: "host-1".parse().expect("valid"),
        public_key: PublicKey::new([key; 32]),
        wireguard_port: 51820,
    }
}

async fn network(store: &Memory, name: &str) -> Network {
    let mut rng = StdRng::seed_from_u64(1);
    create_network(store, &name.parse().expect("valid"), None, 1390, 1_700_000_000, &mut rng).await.expect("created")
}

#[tokio::test]
async fn a_member_is_claimed_made_ready_released_and_its_address_rests() {
    let store = Memory::new();
    let shop = network(&store, "shop").await;
    let one = claim_member(&store, &claim(&shop, 1)).await.expect("claimed");
    let two = claim_member(&store, &claim(&shop, 2)).await.expect("claimed");
    let addresses = |members: &[&Member]| members.iter().map(|member| member.address.to_string()).collect::<Vec<_>>();
    assert_eq!(addresses(&[&one, &two]), ["10.240.0.2", "10.240.0.3"]);
    let ready = set_member_state(&store, &one, MemberState::Ready).await.expect("changed");
    assert_eq!(ready.state, MemberState::Ready);
    assert_eq!(release_member(&store, shop.id, &one.container, 1).await.expect("released"), Some(ready));
    assert_eq!(release_member(&store, shop.id, &one.container, 1).await.expect("idempotent"), None);
    let three = claim_member(&store, &claim(&shop, 3)).await.expect("claimed");
    assert_eq!((addresses(&[&three]), three.container.number.get()), (vec!["10.240.0.4".to_owned()], 1));
}
