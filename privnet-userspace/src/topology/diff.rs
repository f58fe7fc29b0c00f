//! The ordered list of operations that leads from the observed state to the plan.

use std::collections::BTreeSet;

use super::object::Key;
use super::op::Op;
use super::state::{Plan, State};

/// Compares the plan with the observed state.
///
/// Removals come first, dependents before the objects that they depend on; an object that its container takes along has no
/// operation. Then come creations and changes, dependents last. An object that is made anew takes its dependents with it,
/// so these are created again.
#[must_use]
pub fn diff(desired: &Plan, observed: &State) -> Vec<Op> {
    let removed = |key: &Key| observed.contains(*key) && !desired.contains(*key);
    let mut ops: Vec<Op> = observed
        .iter()
        .rev()
        .filter(|(key, _)| removed(key) && !key.contained_in().iter().any(removed))
        .map(|(_, seen)| Op::Remove(seen.clone()))
        .collect();
    let mut renewed: BTreeSet<Key> = BTreeSet::new();
    for (key, object) in desired.iter() {
        // Without one there is nothing to look up.
        let lost = !renewed.is_empty() && key.parents().iter().any(|parent| renewed.contains(parent));
        // An object that was outside of the renewed one still exists, and has to be replaced.
        let gone = lost && key.contained_in().iter().any(|container| renewed.contains(container));
        match observed.get(key).filter(|_| !gone) {
            Some(seen) if !lost && seen.is(object) => {}
            Some(seen) => {
                if key.is_made_anew() {
                    renewed.insert(key);
                }
                ops.push(Op::Replace(seen.clone(), object.clone()));
            }
            None => {
                renewed.insert(key);
                ops.push(Op::Create(object.clone()));
            }
        }
    }
    ops
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::model::{DEFAULT_VXLAN_PORT, Member, MemberId, MemberState, Mtu, NameOptions, Network, PublicKey};
    use crate::topology::ownership::{self, MemberLink};
    use crate::topology::{Datapath, DeviceAt, Intent, LocalMember, Object, Seen, plan, spec};

    fn id(number: u8) -> MemberId {
        MemberId::new(number.into())
    }

    fn member(number: u8, host: &str) -> Member {
        Member {
            id: id(number),
            network: "pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c".parse().expect("valid"),
            container: format!("{}.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053", u32::from(number) + 1)
                .parse()
                .expect("valid"),
            address: Ipv4Addr::new(10, 240, 0, number),
            generation: number % 3,
            public_key: PublicKey::new([number; 32]),
            wireguard_port: 51_820,
            host: host.parse().expect("valid"),
            instance: None,
            state: MemberState::Ready,
            ports: [].into(),
            app_name: None,
            names: Vec::new(),
        }
    }

    fn intent(local: &[u8], remote: &[u8], datapath: Datapath) -> Intent {
        let members = local.iter().map(|n| member(*n, "here")).chain(remote.iter().map(|n| member(*n, "there")));
        Intent {
            network: Network {
                id: "pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c".parse().expect("valid"),
                name: "shop".parse().expect("valid"),
                vni: privnet_ebpf::net::Vni::MIN,
                subnet: "10.240.0.0/22".parse().expect("valid"),
                mtu: 1390,
                created_unix_seconds: 0,
                names: NameOptions::default(),
            },
            host: "here".parse().expect("valid"),
            vtep: Ipv4Addr::new(192, 0, 2, 1),
            vxlan_port: DEFAULT_VXLAN_PORT,
            mtu: Mtu::from_underlay(1500).expect("enough"),
            datapath,
            members: members.map(|member| (member.address, Arc::new(member))).collect(),
            departed: [].into(),
            local: local.iter().map(|n| (id(*n), local_member(*n))).collect(),
            vteps: BTreeMap::from([("there".parse().expect("valid"), Ipv4Addr::new(192, 0, 2, 2))]),
            clock_steps: BTreeMap::new(),
        }
    }

    fn local_member(number: u8) -> LocalMember {
        LocalMember {
            link: MemberLink::Slot(number.into()),
            index: 0,
            binding: number.into(),
            device: DeviceAt::Home(ownership::wireguard_interface(0)),
        }
    }

    #[test]
    fn a_device_that_another_program_moves_is_left_to_it_and_its_safeguards_stay() {
        let mut intent = intent(&[1, 2], &[3], Datapath::Ebpf);
        let mut state = State::default();
        carry_out(&diff(&plan(&intent), &state), &mut state);
        // The observation leaves out what is under way.
        let device = |intent: &mut Intent, at| intent.local.get_mut(&id(1)).expect("there").device = at;
        device(&mut intent, DeviceAt::Going);
        state.retain(|key| ![Key::Device(id(1)), Key::Peers(id(1)), Key::Tunnel(id(1))].contains(&key));
        assert_eq!(diff(&plan(&intent), &state), [], "nothing is made and nothing is removed");
        for key in [Key::Guard(id(1)), Key::Backstop(id(1)), Key::Carrier(id(1)), Key::Tunnel(id(2))] {
            assert!(state.contains(key), "{key}");
        }
        // One that waits to be moved is made, and is not set up.
        let mut waits = Intent { local: [].into(), ..intent.clone() };
        waits.local.insert(
            id(1),
            LocalMember { device: DeviceAt::Made(ownership::wireguard_interface(0)), ..local_member(1) },
        );
        let of_member = |key: &Key| key.member() == Some(id(1)) && key.is_in_container();
        let planned: Vec<Key> = diff(&plan(&waits), &State::default()).iter().map(Op::key).filter(of_member).collect();
        assert_eq!(planned, [Key::Guard(id(1)), Key::Device(id(1)), Key::Peers(id(1))]);
        // In a new namespace, the guard comes before the device, and no route does.
        device(&mut intent, DeviceAt::Coming);
        state.retain(|key| ![Key::Guard(id(1)), Key::Backstop(id(1))].contains(&key));
        let made = |intent: &Intent, state: &State| diff(&plan(intent), state).iter().map(Op::key).collect::<Vec<_>>();
        assert_eq!(made(&intent, &state), [Key::Guard(id(1))]);
        state.insert(Seen::Sound(Object::Guard(id(1), spec::Guard {})));
        // There, under another name, what is missing is made.
        device(&mut intent, DeviceAt::Home(ownership::wireguard_interface(4)));
        assert_eq!(
            made(&intent, &state),
            [Key::Backstop(id(1)), Key::Device(id(1)), Key::Peers(id(1)), Key::Tunnel(id(1))]
        );
    }

    /// Carries out operations and checks that each finds what it stands on.
    fn carry_out(ops: &[Op], state: &mut State) {
        for op in ops {
            let key = op.key();
            for parent in key.parents() {
                assert!(matches!(op, Op::Remove(..)) || state.contains(parent), "{op} came before {parent}");
            }
            for safeguard in key.safeguards() {
                let stands = state.contains(safeguard);
                assert!(stands || matches!(op, Op::Remove(..)), "{op} came before {safeguard}");
                assert!(stands || !matches!(op, Op::Remove(..)) || !state.contains(key), "{op} came after {safeguard}");
            }
            if !matches!(op, Op::Create(..)) {
                assert!(state.contains(key), "{op} of what is not there");
            }
            op.record(state);
        }
    }

    fn any_intent() -> impl Strategy<Value = Intent> {
        let numbers = proptest::collection::btree_set(1u8..30, 0..12);
        (numbers.clone(), numbers.clone(), numbers, any::<bool>()).prop_map(|(local, remote, departed, bridge)| {
            let remote: Vec<u8> = remote.difference(&local).copied().collect();
            let local: Vec<u8> = local.into_iter().collect();
            let departed = departed.iter().map(|n| Ipv4Addr::new(10, 240, 0, *n)).collect();
            let datapath = if bridge { Datapath::Bridge } else { Datapath::Ebpf };
            Intent { departed, ..intent(&local, &remote, datapath) }
        })
    }

    proptest! {
        #[test]
        fn nothing_is_done_twice(intent in any_intent()) {
            let goal = plan(&intent);
            prop_assert_eq!(diff(&goal, &goal.clone().into()), vec![]);
            prop_assert_eq!(diff(&goal, &plan(&intent).into()), vec![]);
        }

        #[test]
        fn the_operations_reach_the_goal_in_an_order_that_respects_dependence(from in any_intent(), to in any_intent()) {
            let (from, to) = (plan(&from), plan(&to));
            let mut state = State::from(from);
            carry_out(&diff(&to, &state.clone()), &mut state);
            // What went along with an object that was made anew is found by the next pass at the latest.
            carry_out(&diff(&to, &state), &mut state);
            prop_assert_eq!(diff(&to, &state), vec![]);
            prop_assert_eq!(state, to.into());
        }

        #[test]
        fn any_part_that_a_stranger_removed_is_built_again(intent in any_intent(), which: prop::sample::Index) {
            let goal = plan(&intent);
            prop_assume!(!goal.is_empty());
            let victim = *which.get(&goal.iter().map(|(key, _)| key).collect::<Vec<_>>());
            let mut state = State::from(goal.clone());
            state.retain(|key| key != victim && !key.contained_in().contains(&victim));
            carry_out(&diff(&goal, &state.clone()), &mut state);
            prop_assert_eq!(state, goal.into());
        }
    }

    #[test]
    fn a_member_that_comes_is_one_peer_more_for_the_others_and_nothing_else() {
        let before = plan(&intent(&[1, 2], &[], Datapath::Ebpf));
        let after = plan(&intent(&[1, 2], &[3], Datapath::Ebpf));
        let lines: Vec<String> = diff(&after, &before.into()).iter().map(ToString::to_string).collect();
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert!(lines[0].starts_with("create the FDB row of 10.240.0.3: "), "{lines:?}");
        assert!(lines[1].starts_with("create the remote member row of 10.240.0.3: "), "{lines:?}");
        assert_eq!(lines[2], "change the WireGuard peers of 0000000000000001: +1 -0");
        assert_eq!(lines[3], "change the WireGuard peers of 0000000000000002: +1 -0");
    }

    #[test]
    fn a_bridge_is_told_where_each_member_is_and_learns_nothing() {
        let goal = plan(&intent(&[1], &[2], Datapath::Bridge));
        let mac = |number: u8| member(number, "anywhere").mac();
        let [here, there] = [1, 2].map(|number| Ipv4Addr::new(10, 240, 0, number));
        let port = Object::BridgePort(id(1), spec::BridgePort { mac: mac(1) });
        let row = |address, number| Object::BridgeFdb(address, spec::BridgeFdb { mac: mac(number) });
        let rows: Vec<&Object> =
            goal.iter().map(|(_, object)| object).filter(|object| is_of_the_bridge(object)).collect();
        let macs = Arc::new([(here, mac(1)), (there, mac(2))].into());
        // No ARP is needed.
        let neighbours = Object::Neighbours(id(1), spec::Neighbours { macs });
        assert_eq!(rows, [&neighbours, &port, &row(there, 2)]);

        // Where a forged frame moved a member, it is moved back; nothing else of it is touched.
        let mut moved = State::from(goal.clone());
        moved.remove(port.key());
        moved.insert(Seen::Sound(row(here, 1)));
        let keys: Vec<Key> = diff(&goal, &moved).iter().map(Op::key).collect();
        assert_eq!(keys, [Key::BridgeFdb(here), Key::BridgePort(id(1))]);
        let ebpf = plan(&intent(&[1], &[2], Datapath::Ebpf));
        assert!(!ebpf.iter().any(|(_, object)| is_of_the_bridge(object)));
    }

    fn is_of_the_bridge(object: &Object) -> bool {
        matches!(object.key(), Key::BridgePort(_) | Key::BridgeFdb(_) | Key::Neighbours(_))
    }

    #[test]
    fn the_members_of_a_host_whose_clock_stepped_back_are_made_anew_as_peers_and_no_others() {
        let before = intent(&[1, 2], &[3, 4, 5], Datapath::Ebpf);
        let after = |host: &str| Intent { clock_steps: [(host.parse().expect("valid"), 1)].into(), ..before.clone() };
        for (host, numbers) in [("there", [[3, 4, 5].as_slice(); 2]), ("here", [&[2], &[1]]), ("elsewhere", [&[]; 2])] {
            let ops = diff(&plan(&after(host)), &plan(&before).into());
            let changed = |op: &Op| match op {
                Op::Replace(Seen::Sound(Object::Peers(_, from)), Object::Peers(_, to)) => {
                    from.table.change_to(&to.table)
                }
                Op::Create(..) | Op::Replace(..) | Op::Remove(..) => panic!("{op}"),
            };
            for (op, numbers) in ops.iter().zip(numbers) {
                let (removed, set) = changed(op);
                let keys: Vec<PublicKey> = numbers.iter().map(|number| PublicKey::new([*number; 32])).collect();
                assert_eq!(removed, keys, "{host}: {op}");
                assert_eq!(set.iter().map(|(key, _)| *key).collect::<Vec<_>>(), keys, "{host}: {op}");
            }
            let expected = numbers.iter().filter(|numbers| !numbers.is_empty()).count();
            assert_eq!(ops.len(), expected, "{host}: {ops:?}");
        }
    }

    #[test]
    fn who_left_is_unreachable_for_every_member_here_until_somebody_has_the_address() {
        let before = plan(&intent(&[1, 2], &[3], Datapath::Ebpf));
        let gone = |members: &[u8]| Intent {
            departed: [Ipv4Addr::new(10, 240, 0, 3)].into(),
            ..intent(&[1, 2], members, Datapath::Ebpf)
        };
        let lines = |to: &Plan, from: &Plan| -> Vec<String> {
            diff(to, &from.clone().into()).iter().map(ToString::to_string).collect()
        };
        let left = plan(&gone(&[]));
        assert_eq!(
            lines(&left, &before),
            [
                "remove the remote member row of 10.240.0.3",
                "remove the FDB row of 10.240.0.3",
                "create the routes to departed members of 0000000000000001: 1 addresses",
                "create the routes to departed members of 0000000000000002: 1 addresses",
                "change the WireGuard peers of 0000000000000001: +0 -1",
                "change the WireGuard peers of 0000000000000002: +0 -1",
            ]
        );
        // Its successor is a member before the address has been seen to be held again.
        let back = plan(&gone(&[3]));
        assert_eq!(back, before);
        assert_eq!(
            lines(&back, &left)[..2],
            [2, 1].map(|number| format!("remove the routes to departed members of {}", id(number)))
        );
    }

    #[test]
    fn a_host_without_members_has_nothing_of_the_network() {
        assert!(plan(&intent(&[], &[1, 2], Datapath::Ebpf)).is_empty());
        assert!(!plan(&intent(&[3], &[1, 2], Datapath::Ebpf)).is_empty());
    }

    #[test]
    fn a_broken_object_is_changed_and_never_taken_for_the_goal() {
        let goal = plan(&intent(&[1], &[], Datapath::Ebpf));
        let mut seen = State::from(goal.clone());
        let key = Key::Guard(id(1));
        seen.insert(Seen::Broken(key, "eth0 is not guarded".to_owned()));
        let ops = diff(&goal, &seen);
        assert_eq!(ops.len(), 1);
        assert_eq!(ops[0].key(), key);
    }
}
