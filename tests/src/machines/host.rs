//! What runs on a machine: an agent, the containers of its host, and what they say to each other.

use serde_json::Value;

use super::line::{Machine, Ran};
use super::{CANARY, SOON};
use crate::lab::wait::holds_within;

/// Where every container answers.
pub const PORT: u16 = 7000;
/// The endpoint of the store that the hosts share. It runs on machine 1.
const STORE: &str = "http://192.0.2.1:2379";

/// A host: a machine with an agent.
#[derive(Clone, Copy)]
pub struct Host<'a> {
    /// The machine.
    pub machine: &'a Machine,
    datapath: &'static str,
    wireguard: &'static str,
}

/// The app of every container.
pub const APP: &str = "ap-a71da13f-7c70-4c00-a644-eee8558d8053";

/// A container, with a server.
pub struct Container {
    /// The name of its namespace.
    pub netns: String,
    /// The address of its `eth0`.
    pub outside: String,
}

/// A container that is a member of a network.
pub struct Member<'a> {
    /// Where it is.
    pub host: Host<'a>,
    /// The network.
    pub network: String,
    /// Its address in the network.
    pub address: String,
    /// Its own full name.
    pub hostname: String,
    /// The container.
    pub container: Container,
    name: String,
}

/// What a flow saw until now.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that are without an answer for longer than one may take; an answer that comes later is one.
    pub lost: u64,
    /// The longest time without an answer, in milliseconds.
    pub longest: u64,
}

impl<'a> Host<'a> {
    /// The host that a machine is, with what its agent is told to use.
    #[must_use]
    pub fn new(machine: &'a Machine, datapath: &'static str, wireguard: &'static str) -> Self {
        Self { machine, datapath, wireguard }
    }

    /// Whether programs forward here, and no bridge.
    pub(super) fn has_programs(&self) -> bool {
        self.datapath == "ebpf"
    }

    /// Starts the store that the hosts share.
    pub fn start_store(&self) {
        let address = self.machine.address();
        let listen =
            format!("--listen-client-urls http://{address}:2379 --advertise-client-urls http://{address}:2379");
        let peers = "--listen-peer-urls http://127.0.0.1:2380";
        self.background("etcd", &format!("etcd --data-dir /var/lib/etcd {listen} {peers}"));
        self.machine.soon(&format!("curl -sf http://{address}:2379/health"));
    }

    /// Starts the agent and waits until it answers.
    pub fn start_agent(&self) {
        let Self { machine, datapath, wireguard } = self;
        let (number, address) = (machine.number, machine.address());
        let place = format!("--host host-{number} --vtep {address} --store etcd --etcd-endpoints {STORE}");
        self.background("agent", &format!("privnet agent {place} --datapath {datapath} --wireguard {wireguard}"));
        machine.soon("privnet status || { tail -5 /var/log/agent; false; }");
    }

    /// Kills the agent, which has no time to do anything about it.
    pub fn kill_agent(&self) {
        self.machine.must("kill -9 $(cat /run/pid-agent)");
        self.machine.soon("! kill -0 $(cat /run/pid-agent) 2> /dev/null");
    }

    /// Creates a network and returns its identifier.
    #[must_use]
    pub fn network(&self, name: &str) -> String {
        let answer = self.machine.must(&format!("privnet network create {name} -o json"));
        text(&json(&answer), "id")
    }

    /// The subnet of a network.
    #[must_use]
    pub fn subnet(&self, network: &str) -> String {
        text(&json(&self.machine.must(&format!("privnet network show {network} -o json"))), "subnet")
    }

    /// Starts a container and attaches it.
    #[must_use]
    pub fn member(&self, network: &str, kind: &str) -> Member<'a> {
        self.attach(network, kind, self.container(kind))
    }

    /// Attaches a container.
    #[must_use]
    pub fn attach(&self, network: &str, kind: &str, container: Container) -> Member<'a> {
        let name = self.name(kind);
        let netns = &container.netns;
        let answer =
            self.machine.must(&format!("privnet attach --network {network} {name} --netns /run/netns/{netns} -o json"));
        let answer = json(&answer);
        for pin in self.machine.must("ls -1 /run/netns").lines().filter(|pin| is_ours(pin)) {
            self.machine.watch(pin, &format!("nsenter --net=/run/netns/{pin}"));
        }
        let (address, hostname) = (text(&answer, "address"), text(&answer, "hostname"));
        Member { host: *self, network: network.to_owned(), address, hostname, container, name }
    }

    /// How the command line calls this host's container of a type.
    #[must_use]
    pub fn name(&self, kind: &str) -> String {
        format!("--app {APP} --type {kind} --number {}", self.machine.number)
    }

    /// Starts a container that is in no network yet, with a server.
    #[must_use]
    pub fn container(&self, kind: &str) -> Container {
        let netns = format!("{kind}-{}", self.machine.number);
        self.machine
            .must(&format!("ip netns add {netns} && ip -n {netns} link set lo up && mkdir -p /etc/netns/{netns}"));
        self.machine.must(&format!("echo nameserver 127.0.0.82 > /etc/netns/{netns}/resolv.conf"));
        let outside = self.machine.connect_container(&netns);
        self.background(&netns, &format!("ip netns exec {netns} vm_talk echo {PORT}"));
        Container { netns, outside }
    }

    /// Ends a container.
    pub fn end(&self, container: &Container) {
        let netns = &container.netns;
        self.machine.must(&format!("kill $(cat /run/pid-{netns}); ip netns delete {netns}"));
    }

    /// Asks once in a container, with the word that may be heard.
    #[must_use]
    pub fn asks_in_clear(&self, container: &Container, whom: &str) -> bool {
        self.machine.run(&format!("ip netns exec {} vm_talk ask-in-clear {whom} {PORT}", container.netns)).is_well
    }

    /// Runs a command that goes on; its process is in `/run/pid-<name>`, its output in `/var/log/<name>`.
    pub fn background(&self, name: &str, command: &str) {
        let started = format!("echo $$ > /run/pid-{name}; exec {command}");
        self.machine.must(&format!("setsid sh -c '{started}' >> /var/log/{name} 2>&1 < /dev/null &"));
        self.machine.soon(&format!("test -s /run/pid-{name}"));
    }
}

impl Member<'_> {
    /// Runs a command in the container.
    #[must_use]
    pub fn run(&self, command: &str) -> Ran {
        self.host.machine.run(&format!("ip netns exec {} {command}", self.container.netns))
    }

    /// Asks once, by `udp`, `tcp` or `icmp`, at an address or a name.
    #[must_use]
    pub fn asks(&self, protocol: &str, whom: &str) -> bool {
        self.run(&question(protocol, whom)).is_well
    }

    /// Which of `udp`, `tcp` and `icmp` are answered at an address, each in a line.
    #[must_use]
    pub fn answered_at(&self, address: &str) -> String {
        self.answered(&["udp", "tcp", "icmp"].map(|protocol| (protocol, address)))
    }

    /// Which questions are answered, each a protocol and whom it asks, in a line. Asks all at once: silence takes its time.
    #[must_use]
    pub fn answered(&self, questions: &[(&str, &str)]) -> String {
        let ask = |(protocol, whom): &(&str, &str)| {
            format!("{{ {} > /dev/null 2>&1 && echo {protocol} {whom}; }} & ", question(protocol, whom))
        };
        let all: String = questions.iter().map(ask).collect();
        self.run(&format!("sh -c '{all} wait'")).output
    }

    /// Asks until there is an answer.
    pub fn reaches(&self, protocol: &str, whom: &str) {
        self.host.machine.soon(&format!("ip netns exec {} {}", self.container.netns, question(protocol, whom)));
    }

    /// Asks once, by UDP, with the word that may be heard.
    #[must_use]
    pub fn asks_in_clear(&self, whom: &str) -> bool {
        self.host.asks_in_clear(&self.container, whom)
    }

    /// Changes what `ip` changes in the container's namespace, as its root may.
    pub fn ip(&self, change: &str) {
        self.host.machine.must(&format!("ip -n {} {change}", self.container.netns));
    }

    /// Starts to send to another member, for ever.
    pub fn flows_to(&self, whom: &Member<'_>) {
        let (netns, address) = (&self.container.netns, &whom.address);
        let file = self.flow_file();
        self.host.background(
            &format!("flow-{netns}"),
            &format!("ip netns exec {netns} vm_talk flow {address} {PORT} {file}"),
        );
        self.host.machine.soon(&format!("test -s {file}"));
    }

    /// What the flow saw until now.
    #[must_use]
    pub fn flow(&self) -> Flow {
        let text = self.host.machine.must(&format!("cat {}", self.flow_file()));
        let numbers: Vec<u64> = text.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let [sent, lost, longest] = numbers[..] else { panic!("no flow: {text}") };
        Flow { sent, lost, longest }
    }

    /// Waits until the flow has sent so many more.
    ///
    /// # Panics
    /// When it has ended.
    pub fn flows_on(&self, more: u64) -> Flow {
        let mut flow = self.flow();
        let until = flow.sent + more;
        let flows = holds_within(SOON, || {
            flow = self.flow();
            flow.sent > until
        });
        assert!(flows, "the flow ended: {flow:?}");
        flow
    }

    /// Waits until the flow has sent so many more and every datagram is answered. An emulated machine can stand still for
    /// seconds: an answer may be late, and none may be missing.
    ///
    /// # Panics
    /// When one is never answered.
    pub fn flows_without_loss(&self, more: u64) {
        let mut flow = self.flows_on(more);
        let is_whole = holds_within(SOON, || {
            flow = self.flow();
            flow.lost == 0
        });
        assert!(is_whole, "{flow:?}");
    }

    /// Ends the flow.
    pub fn stops_to_flow(&self) {
        let file = self.flow_file();
        self.host.machine.must(&format!("kill $(cat /run/pid-flow-{}); rm -f {file}", self.container.netns));
    }

    /// Makes the kernel's WireGuard begin anew with every peer.
    pub fn forgets_its_sessions(&self) {
        self.host
            .machine
            .must(&format!("ip -n {0} link set wg0 down && ip -n {0} link set wg0 up", self.container.netns));
    }

    /// Leaves the network.
    pub fn detach(&self) {
        self.host.machine.must(&format!("privnet detach --network {} {}", self.network, self.name));
    }

    /// Leaves the network and ends the container.
    pub fn leave(self) {
        self.detach();
        self.host.end(&self.container);
    }

    fn flow_file(&self) -> String {
        format!("/run/flow-of-{}", self.container.netns)
    }
}

/// The command that asks, with the canary.
fn question(protocol: &str, whom: &str) -> String {
    if protocol == "icmp" {
        let canary: String = CANARY.bytes().map(|byte| format!("{byte:02x}")).collect();
        return format!("ping -n -q -c 1 -W 3 -p {canary} {whom}");
    }
    format!("vm_talk ask {protocol} {whom} {PORT}")
}

/// Whether a pin is that of a network netns or of a binding netns.
fn is_ours(pin: &str) -> bool {
    pin.starts_with("pn-") || pin.starts_with("bind-")
}

/// Reads the object in what a command printed, among lines of its log.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn json(output: &str) -> Value {
    let start = output.find("\n{").map_or(0, |at| at + 1);
    let mut values = serde_json::Deserializer::from_str(&output[start..]).into_iter();
    values.next().and_then(Result::ok).unwrap_or_else(|| panic!("no JSON: {output}"))
}

fn text(object: &Value, field: &str) -> String {
    object[field].as_str().unwrap_or_else(|| panic!("no {field} in {object}")).to_owned()
}
