//! What one broken part costs: its own member, for a moment, and no other.
//!
//! ```text
//!  web ── wg0 ── [process, stopped]          worker ── wg0 ──────── other        goes on
//! ```

use privnet_tests::lab::process;
use privnet_tests::lab::{Lab, Options, SOON, say, wait_until, wait_within};
use rustix::process::Signal;

const SUBNET: &str = "10.90.0.0/24";

#[test]
fn a_wireguard_process_that_does_not_answer_is_replaced_and_stands_in_nobodys_way() {
    let lab = Lab::new("a_wireguard_process_that_does_not_answer_is_replaced_and_stands_in_nobodys_way");
    let host = lab.host(&Options { wireguard: "userspace", ..Options::ebpf() });
    let network = host.network("shop", SUBNET);
    let (web, worker) = (lab.member(&host, &network, "web-1"), lab.member(&host, &network, "worker-1"));
    wait_until("web reaches worker", || web.pings(worker.address()));
    let of_web = host.wireguard_of(&web).expect("a process");
    host.stop();
    say(&format!("kill -STOP {}", of_web.pid));
    process::kill(of_web.pid, Signal::STOP);
    host.start();

    wait_within("the process is another one", 3 * SOON, || {
        host.wireguard_of(&web).is_some_and(|now| now.pid != of_web.pid)
    });
    wait_until("web reaches worker again", || web.pings(worker.address()));
    host.wait_until_settled();
    let other = lab.member(&host, &network, "other-1");
    wait_until("the network goes on taking members", || worker.pings(other.address()));
    lab.finish();
}
