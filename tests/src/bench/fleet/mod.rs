//! A fleet: three hosts with agents as a user starts them, and the real etcd that they share. How soon the others know of a
//! member that comes and of one that goes, how soon all is well after etcd was away and after it lost everything, and what an
//! attach asks of etcd.
//!
//! ```text
//!  h1: agent, members ──┐            ┌── h2: agent, members (one sends to the newcomer of h1)
//!                       ├─ underlay ─┤
//!  h3: agent, members ──┘            └── h4: etcd
//! ```
//!
//! All members are in one network, so each is a peer of each; what the rebuilt store has beyond them is in networks of ten.
//! Measured only when it is asked for, since it needs etcd.
//!
//! | module | what it owns |
//! |---|---|
//! | [`members`] | the hosts, their members, and one that comes and goes |
//! | [`requests`] | what etcd says that it was asked |

mod members;
mod requests;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::runtime::Runtime;

use self::members::{Fleet, Round, Sender};
use self::requests::Requests;
use super::attach::milliseconds;
use super::options::Options;
use super::rows::{Figures, Row, Unit, measured};
use super::series::Series;
use super::tell;
use crate::lab::Cut;

/// The group of all rows.
pub const GROUP: &str = "fleet";
/// How many members the network has.
const SIZES: [usize; 3] = [10, 100, 300];
/// How many members a fleet has whose store is rebuilt, in a full run and in a short one.
const REBUILT: (usize, usize) = (1000, 120);
/// How long etcd is away.
const AWAY: Duration = Duration::from_secs(5);
/// How long etcd is watched while nothing happens.
const IDLE: Duration = Duration::from_secs(10);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures everything.
pub fn measure(runtime: &Runtime, options: &Options) -> Result<Figures> {
    let mut fleet = Fleet::start(runtime)?;
    let mut rows = Vec::new();
    for size in SIZES.into_iter().filter(|size| !options.quick || *size <= 100) {
        tell(&format!("fleet: {size} members of one network on three hosts"));
        fleet.grow_to(runtime, size).with_context(|| format!("cannot attach {size} members"))?;
        rows.extend(come_and_go(runtime, &fleet, size, options)?);
    }
    tell("fleet: etcd goes away and comes back");
    rows.extend(returns(runtime, &mut fleet, if options.quick { 2 } else { 7 })?);
    rows.extend(rebuilds(runtime, &mut fleet, options)?);
    fleet.end();
    Ok(Figures::Told(rows))
}

/// Members that come to the first host and go again, one after the other.
fn come_and_go(runtime: &Runtime, fleet: &Fleet, size: usize, options: &Options) -> Result<Vec<Row>> {
    let idle = {
        // What it took to get here is written to the end first.
        std::thread::sleep(IDLE);
        let before = fleet.requests()?;
        std::thread::sleep(IDLE);
        fleet.requests()?.since(&before).per_second()
    };
    let [mut answered, mut reached, mut after, mut eager, mut gone] = std::array::from_fn(|_| Series::default());
    let (mut attaches, mut detaches) = (Requests::default(), Requests::default());
    let rounds = options.attachments();
    for number in 0..rounds {
        let Round { attach, first_packet, release, asked } = fleet.round(runtime, number, Sender::Named)?;
        answered.push(milliseconds(attach));
        reached.push(milliseconds(first_packet));
        after.push(milliseconds(first_packet.saturating_sub(attach)));
        gone.push(milliseconds(release));
        attaches.add(&asked[0].without(&idle));
        detaches.add(&asked[1].without(&idle));
    }
    for number in rounds..rounds + rounds / 5 {
        eager.push(milliseconds(fleet.round(runtime, number, Sender::Eager)?.first_packet));
    }
    let times = [
        ("attach, answer", &answered),
        ("attach until the first packet of another host, by the name", &reached),
        ("first packet of another host, after the answer", &after),
        ("the same of a member that sent before, by the address", &eager),
        ("release until the last host has it", &gone),
    ];
    let times = times.into_iter().flat_map(|(name, series)| {
        let late: Series = series.percentile(0.99).into_iter().collect();
        [("p50", series.clone()), ("p99", late)].map(|(which, series)| {
            let ours = measured("privnet", &series)?;
            Some(Row::new(GROUP, format!("{name}, {size} members, {which}"), Unit::Milliseconds, ours))
        })
    });
    let asked = [("attach", attaches), ("detach", detaches)].into_iter().flat_map(|(verb, sum)| {
        sum.per_round(rounds).map(|(what, unit, figure)| {
            let ours = measured("privnet", &[figure].into_iter().collect())?;
            Some(Row::new(GROUP, format!("{verb}, {what}, {size} members"), unit, ours))
        })
    });
    Ok(times.chain(asked).flatten().collect())
}

/// How long after etcd's return all hosts follow it again.
fn returns(runtime: &Runtime, fleet: &mut Fleet, rounds: usize) -> Result<Vec<Row>> {
    let (mut killed, mut hung, mut cut_off) = (Series::default(), Series::default(), Series::default());
    for _ in 0..rounds {
        fleet.etcd.kill();
        std::thread::sleep(AWAY);
        fleet.etcd.start();
        killed.push(until_current(runtime, fleet)?);

        fleet.etcd.pause();
        std::thread::sleep(AWAY);
        fleet.etcd.resume();
        hung.push(until_current(runtime, fleet)?);

        let one = (&fleet.hosts[0].space, fleet.hosts[0].vtep);
        let cuts = Cut::between(one, (&fleet.of_etcd, crate::lab::underlay_address(members::ETCD)));
        std::thread::sleep(AWAY);
        drop(cuts);
        cut_off.push(until_current(runtime, fleet)?);
    }
    let rows = [("killed and started", killed), ("stopped and continued", hung), ("cut off from one host", cut_off)];
    let rows = rows.into_iter().filter_map(|(what, series)| {
        let name = format!("all hosts current after etcd was {what}, away for {} s", AWAY.as_secs());
        Some(Row::new(GROUP, name, Unit::Milliseconds, measured("privnet", &series)?))
    });
    Ok(rows.collect())
}

/// How long after an operator's word an empty store has all records again, put back by their hosts, and all hosts follow it.
fn rebuilds(runtime: &Runtime, fleet: &mut Fleet, options: &Options) -> Result<Vec<Row>> {
    let (size, rounds) = if options.quick { (REBUILT.1, 1) } else { (REBUILT.0, 3) };
    tell(&format!("fleet: the store of {size} members is lost and rebuilt"));
    fleet.grow_aside_to(runtime, size).with_context(|| format!("cannot attach {size} members"))?;
    let (mut records, mut current) = (Series::default(), Series::default());
    for _ in 0..rounds {
        until_current(runtime, fleet)?;
        fleet.etcd.kill();
        fleet.etcd.put_data_aside();
        fleet.etcd.start();
        let begun = fleet.rebuild(runtime)?;
        while fleet.recorded_members() < size {
            ensure!(
                begun.elapsed() < PATIENCE,
                "{} of {size} members are in the store again",
                fleet.recorded_members()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        records.push(milliseconds(begun.elapsed()));
        until_current(runtime, fleet)?;
        current.push(milliseconds(begun.elapsed()));
    }
    let rows = [("all members are in the store", records), ("all hosts follow it", current)];
    let rows = rows.into_iter().filter_map(|(what, series)| {
        let name = format!("store lost, rebuilt until {what}, {size} members");
        Some(Row::new(GROUP, name, Unit::Milliseconds, measured("privnet", &series)?))
    });
    Ok(rows.collect())
}

/// Waits until every host knows that it follows the store, and says how long that took in milliseconds.
fn until_current(runtime: &Runtime, fleet: &Fleet) -> Result<f64> {
    let begun = Instant::now();
    while !runtime.block_on(fleet.are_current())? {
        ensure!(begun.elapsed() < PATIENCE, "the hosts do not follow etcd again");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(milliseconds(begun.elapsed()))
}
