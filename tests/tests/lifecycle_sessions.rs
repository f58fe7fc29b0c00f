//! A WireGuard device that is made anew begins the sessions that it had: its peers go on in the old ones, and would notice
//! after 15 s.
//!
//! ```text
//!  web ── wg0, killed or deleted ══ sessions ══ worker        idle, which never talked
//!         └─ carrier: a sniffer sees which member begins a handshake with which
//! ```

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use privnet_tests::lab::{Host, Joined, Lab, Options, Sniffer, process, say, wait_until};
use rustix::process::Signal;

const SUBNET: &str = "10.90.0.0/24";
const PORT: u16 = 7000;
const PACE: Duration = Duration::from_millis(5);
/// How often each case is measured.
const ROUNDS: usize = 3;
/// Shows nowhere but where it was sent from and to.
const CANARY: &[u8] = b"privnet-canary-51c0ffee-this-must-never-be-seen-in-clear";

/// How many handshakes `from` began with `to`: WireGuard messages of type 1, over UDP and IPv4.
fn begun(carrier: &Sniffer, from: &Joined, to: &Joined) -> usize {
    let is_one = |frame: &[u8]| {
        let at = |start: usize, length: usize| frame.get(start..start + length);
        at(12, 2) == Some(&[8, 0])
            && at(23, 1) == Some(&[17])
            && at(26, 4) == Some(&from.address().octets())
            && at(30, 4) == Some(&to.address().octets())
            && at(42, 4) == Some(&[1, 0, 0, 0])
    };
    carrier.seen().iter().filter(|seen| is_one(&seen.bytes)).count()
}

/// Ends the process behind a member's device; the kernel's device has none and is deleted.
fn end_device(host: &Host, member: &Joined) {
    match host.wireguard_of(member) {
        Some(of_member) => {
            say(&format!("kill -9 {} ({})", of_member.pid, member.container.kind));
            process::kill(of_member.pid, Signal::KILL);
        }
        None => drop(member.app.run("ip link delete wg0")),
    }
}

#[test]
fn a_device_that_is_made_anew_begins_its_sessions_before_anybody_sends() {
    let lab = Lab::new("a_device_that_is_made_anew_begins_its_sessions_before_anybody_sends");
    let host = lab.host(&Options::ebpf());
    let network = host.network("shop", SUBNET);
    let [web, worker, idle] = ["web-1", "worker-1", "idle-1"].map(|name| lab.member(&host, &network, name));
    wait_until("web reaches worker", || web.pings(worker.address()));
    for what in ["killed", "deleted", "down", "down and up"] {
        say(&format!("web's device is {what}; no application sends anything"));
        // A doctor has the agent look at the device.
        drop(host.cli().output(&["doctor"]));
        let carrier = Sniffer::start(&web.binding);
        match what {
            "killed" => end_device(&host, &web),
            "deleted" => drop(web.app.run("ip link delete wg0")),
            _ => drop(web.app.run("ip link set wg0 down")),
        }
        if what == "down and up" {
            web.app.run("ip link set wg0 up");
        }
        let keeps_sessions = what.starts_with("down") && host.wireguard_of(&web).is_some();
        if keeps_sessions {
            wait_until("web reaches worker again", || web.pings(worker.address()));
            assert_eq!(begun(&carrier, &web, &worker), 0, "a session that is there is not begun");
        } else {
            wait_until("web begins a session with worker", || begun(&carrier, &web, &worker) > 0);
        }
        assert_eq!(begun(&carrier, &web, &idle), 0, "web never talked to idle");
        wait_until("worker reaches web", || worker.pings(web.address()));
        host.wait_until_settled();
    }
    lab.finish();
}

#[test]
fn a_killed_process_learns_its_sessions_from_what_the_peers_send() {
    let options = Options { wireguard: "userspace", ..Options::ebpf() };
    for count in [1, 2] {
        let lab = Lab::new("a_killed_process_learns_its_sessions_from_what_the_peers_send");
        let hosts = if count == 1 { vec![lab.host(&options)] } else { lab.hosts(&vec![options.clone(); count]) };
        let network = hosts[0].network("shop", SUBNET);
        let web = lab.member(&hosts[0], &network, "web-1");
        let worker = lab.member(&hosts[count - 1], &network, "worker-1");
        wait_until("web reaches worker", || web.pings(worker.address()));
        if let [host] = &hosts[..] {
            say("the agent is away while the process dies, so the next process is told nothing");
            host.kill();
            let carrier = Sniffer::start(&web.binding);
            end_device(host, &web);
            host.start();
            let at = (web.address(), 0);
            wait_until("web has its address again", || web.app.inside(move || UdpSocket::bind(at)).is_ok());
            assert_eq!(begun(&carrier, &web, &worker), 0, "what is not known is not begun");
            let flow = Flow::start(&worker, &web);
            wait_until("web begins the session", || begun(&carrier, &web, &worker) > 0);
            wait_until("what worker sends arrives", || flow.arrived() > 0);
        }
        for (from, to) in [(&worker, &web), (&web, &worker)] {
            let mut gaps: Vec<Duration> = (0..ROUNDS).map(|_| outage(&hosts[0], from, to, &web)).collect();
            gaps.sort();
            let (kind, median) = (&from.container.kind, gaps[gaps.len() / 2]);
            say(&format!("{count} hosts, {kind} sends: nothing arrives for {median:?} (median of {gaps:?})"));
        }
        lab.finish();
    }
}

/// For how long nothing arrives after web's process is killed.
fn outage(host: &Host, from: &Joined, to: &Joined, web: &Joined) -> Duration {
    let other = if from.address() == web.address() { to } else { from };
    let carrier = Sniffer::start(&web.binding);
    let flow = Flow::start(from, to);
    wait_until("it arrives", || flow.arrived() > 10);
    let (before, killed) = (begun(&carrier, web, other), Instant::now());
    end_device(host, web);
    wait_until("web begins the session", || begun(&carrier, web, other) > before);
    let arrived = flow.arrived();
    wait_until("it arrives again", || flow.arrived() > arrived + 10);
    assert_eq!(carrier.count(CANARY), 0, "something was sent in clear");
    let gap = flow.longest_gap_after(killed);
    drop(flow);
    host.wait_until_settled();
    gap
}

/// Datagrams of one member to another, one each [`PACE`], and when each of them arrived.
struct Flow {
    stop: Arc<AtomicBool>,
    arrivals: Arc<Mutex<Vec<Instant>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Flow {
    fn start(from: &Joined, to: &Joined) -> Self {
        let at = (to.address(), PORT);
        let receiver = to.app.inside(move || UdpSocket::bind(at)).expect("a socket");
        receiver.set_read_timeout(Some(4 * PACE)).expect("a timeout");
        let sender = from.app.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).expect("a socket");
        let (stop, arrivals) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Vec<Instant>>>::default());
        let (ends, until, into) = (Arc::clone(&stop), Arc::clone(&stop), Arc::clone(&arrivals));
        let sending = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                // While the link is away there is no route but the backstop.
                let _ = sender.send_to(CANARY, at);
                std::thread::sleep(PACE);
            }
        });
        let receiving = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                if receiver.recv_from(&mut [0; 64]).is_ok() {
                    into.lock().expect("not poisoned").push(Instant::now());
                }
            }
        });
        Self { stop, arrivals, threads: vec![sending, receiving] }
    }

    fn arrived(&self) -> usize {
        self.arrivals.lock().expect("not poisoned").len()
    }

    fn longest_gap_after(&self, then: Instant) -> Duration {
        let arrivals = self.arrivals.lock().expect("not poisoned");
        let gaps = arrivals.windows(2).filter(|pair| pair[1] > then).map(|pair| pair[1] - pair[0]);
        gaps.max().unwrap_or_default()
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
