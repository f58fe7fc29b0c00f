//! Which build of `privnet` serves a member.

use super::host::Member;

/// What runs for a member, and is replaced when another build of the agent starts.
#[derive(Debug)]
pub struct Build {
    /// The process that answers names.
    dns: String,
    /// The filters of the guard on `eth0`.
    guard: String,
    /// The filter on the member's end in the network netns; a bridge has none.
    member: Option<String>,
}

impl Build {
    /// What runs now.
    ///
    /// # Panics
    /// When the machine does not say.
    #[must_use]
    pub fn of(member: &Member<'_>) -> Self {
        let machine = member.host.machine;
        // One program for all processes: an emulated machine starts few a second. The pattern does not find itself.
        let dns = "grep -lsxz '[d]ns' /proc/[0-9]*/cmdline; true";
        let filters = |netns: &str, interface: &str| {
            let filters = format!("tc -n {netns} filter show dev {interface}");
            // Of each line only what names the program.
            machine.must(&format!("({filters} ingress; {filters} egress) | grep -o ' id [0-9]*'; true"))
        };
        // Whatever a build calls it: the MAC of the near end holds the member's address.
        let hex: Vec<String> =
            member.address.split('.').map(|octet| format!("{:02x}", octet.parse::<u8>().expect("IPv4"))).collect();
        let near_end = format!("ip -n {} -br link | grep -o '^veth-[^@]*.* 0a:..:{}'", member.network, hex.join(":"));
        let veth = format!("$({near_end} | cut -d@ -f1)");
        Self {
            dns: machine.must(dns),
            guard: filters(&member.container.netns, "eth0"),
            member: member.host.has_programs().then(|| filters(&member.network, &veth)),
        }
    }

    /// Whether each is there, and another one.
    #[must_use]
    pub fn differs_from(&self, old: &Self) -> bool {
        let is_replaced = |new: &str, old: &str| !new.is_empty() && !old.is_empty() && new != old;
        let members = self.member.as_deref().zip(old.member.as_deref());
        is_replaced(&self.dns, &old.dns)
            && is_replaced(&self.guard, &old.guard)
            && members.is_none_or(|(new, old)| is_replaced(new, old))
    }
}
