//! Which program runs first at a hook: TCX programs run before all filters of clsact, whoever came first.

use anyhow::Result;

use super::{AGENT_REPAIRS, Fault};
use crate::agent::netns_links::NetnsLinks;
use crate::datapath::{self, Hook, Side, running_by_tcx};
use crate::link::{FilterHook, Link};
use crate::model::IfName;

/// What to do about a program that is not privnet's and runs before one that is.
const BEFORE: &str =
    "`bpftool net` and `tc filter show` in that namespace show it: remove it, or run it behind privnet's";

/// What runs at one hook, in order: TCX programs, then filters.
struct AtHook {
    /// Ids, and names for a person.
    programs: Vec<(Option<u32>, String)>,
}

impl AtHook {
    /// What runs at a hook of a link; nothing where the link went, or its name is no text.
    async fn of(there: &NetnsLinks, link: &Link, side: Side) -> Result<Option<Self>> {
        let Ok(name) = link.name.parse::<IfName>() else { return Ok(None) };
        let running = match running_by_tcx(&there.netns, &name, side).await {
            Ok(running) => running,
            Err(_) if there.find(&link.name).await?.is_none() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut programs: Vec<(Option<u32>, String)> = running
            .into_iter()
            .map(|program| (Some(program.id), format!("the TCX program {}", program.name.unwrap_or_default())))
            .collect();
        let hook = match side {
            Side::Ingress => FilterHook::Ingress,
            Side::Egress => FilterHook::Egress,
        };
        programs.extend(there.links.filters(link.index, hook).await?.into_iter().map(|filter| {
            let name = filter.name.unwrap_or(filter.kind);
            (filter.program_id, format!("the filter {name} of priority {}", filter.priority))
        }));
        Ok(Some(Self { programs }))
    }
}

/// Whether the program of a hook is the first that runs there, but for those in `equals`: the guards of a container's other
/// networks hand on what they do not drop.
pub async fn is_first(
    programs: &datapath::Network,
    there: &NetnsLinks,
    link: &Link,
    hook: Hook,
    equals: &[u32],
) -> Result<Option<Fault>> {
    let side = if hook == Hook::GuardEgress { Side::Egress } else { Side::Ingress };
    let (own, program) = (programs.program_id(hook), hook.program());
    let Some(at) = AtHook::of(there, link, side).await? else {
        // It went; or it is there, under a name that is no text, by which no program can be attached.
        let is_there = there.links.links().await?.iter().any(|now| now.index == link.index && now.name == link.name);
        let detail = || format!("{:?} cannot be looked at by its name, and has no {program}", link.name);
        return Ok(is_there.then(|| Fault { check: "program", detail: detail(), remedy: AGENT_REPAIRS }));
    };
    for (id, name) in &at.programs {
        match id {
            Some(id) if *id == own => return Ok(None),
            Some(id) if equals.contains(id) => {}
            Some(_) | None => {
                let detail = format!("{name} runs before {program} on {}", link.name);
                return Ok(Some(Fault { check: "first_program", detail, remedy: BEFORE }));
            }
        }
    }
    let detail = format!("{program} is not on {}", link.name);
    Ok(Some(Fault { check: "program", detail, remedy: AGENT_REPAIRS }))
}

/// What runs at a hook at which privnet has no program.
pub async fn is_empty(there: &NetnsLinks, link: &Link, side: Side) -> Result<Option<Fault>> {
    let Some(at) = AtHook::of(there, link, side).await? else { return Ok(None) };
    let way = if side == Side::Egress { "egress" } else { "ingress" };
    Ok(at.programs.first().map(|(_, name)| Fault {
        check: "foreign_program",
        detail: format!("{name} runs at {way} of {}, where privnet has none", link.name),
        remedy: "`bpftool net` and `tc filter show` in that namespace show it: remove it, it can read and redirect the carrier",
    }))
}
