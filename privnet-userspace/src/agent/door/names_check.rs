//! Whether the containers of this host can ask for names: each is asked for one of its own, from its namespace, as a program in
//! it would ask.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt as _;

use super::attach::hostname;
use super::host_checks::check;
use super::problems::of_names;
use super::views::{Check, CheckStatus};
use crate::agent::host::journal::Record;
use crate::agent::shared::Shared;
use crate::dns;
use crate::dns::stub::ask;
use crate::netns::{Netns, NetnsId};

/// How long an answer may take; a busy host may take long for the first.
const ANSWER: Duration = Duration::from_secs(1);
/// How often a container asks.
const ATTEMPTS: usize = 2;
/// How many containers ask at once.
const AT_ONCE: usize = 16;
/// How long all of them may take.
const ALL: Duration = Duration::from_secs(5);

/// What a container asks, and where.
struct Question {
    netns: NetnsId,
    path: PathBuf,
    /// One of its own names.
    name: String,
    /// The member, for a person.
    member: String,
}

/// A question that came to nothing.
struct Unanswered {
    member: String,
    path: PathBuf,
    error: io::Error,
}

/// Whether every container on this host has a server to ask for names, and is answered by it. What is in the way of a container,
/// its own loopback for one, is told by the check of the agent.
pub(super) async fn names(shared: &Shared) -> Check {
    let Some(config) = &shared.host.config.names else {
        return check("names", CheckStatus::Ok, "off: the agent was started with --dns-address off", "");
    };
    let problems = of_names(shared);
    if !problems.is_empty() {
        return check("names", CheckStatus::Fail, problems.join("; "), "`privnet status` says when it is over");
    }
    let questions = questions(shared);
    let count = questions.len();
    let server = SocketAddrV4::new(config.address, dns::PORT);
    let asking = futures::stream::iter(questions).map(|question| asked(question, server)).buffer_unordered(AT_ONCE);
    let answers = asking.take_until(tokio::time::sleep(ALL)).collect().await;
    judge(config.address, count, answers)
}

/// One for each container that is served, and in whose way nothing is that is known of.
fn questions(shared: &Shared) -> Vec<Question> {
    let served = shared.names.reports().borrow().served.clone();
    let records: Vec<Record> = shared.journal().records().values().filter(|record| !record.leaving).cloned().collect();
    let is_free = |record: &&Record| {
        served.contains_key(&record.netns)
            && !shared.workers.of(record.network).reports().borrow().in_the_way.contains_key(&record.id)
    };
    let question = |record: &Record| {
        let path = record.each_name().map(|(_, path)| path).find(|path| record.leads_there(path))?.to_owned();
        let name = hostname(record.network, &record.container);
        Some(Question { netns: record.netns, path, name, member: record.names_text() })
    };
    let mut questions: Vec<Question> = records.iter().filter(is_free).filter_map(question).collect();
    questions.sort_by_key(|question| question.netns);
    questions.dedup_by_key(|question| question.netns);
    questions
}

/// Asks; whoever has ended meanwhile has nothing to say.
async fn asked(question: Question, server: SocketAddrV4) -> Result<(), Unanswered> {
    let Question { netns, path, name, member } = question;
    let Ok(Some(container)) = Netns::find(&path) else { return Ok(()) };
    if container.id() != netns {
        return Ok(());
    }
    let tries = move || {
        let mut tried = ask(server, &name, ANSWER);
        for _ in 1..ATTEMPTS {
            tried = tried.or_else(|_| ask(server, &name, ANSWER));
        }
        tried.map(drop)
    };
    let answered = container.run(tries).await.unwrap_or_else(|error| Err(io::Error::other(error)));
    match answered {
        Err(error) if Netns::leads_to(&path, netns) => Err(Unanswered { member, path, error }),
        Err(_) | Ok(()) => Ok(()),
    }
}

fn judge(server: Ipv4Addr, count: usize, answers: Vec<Result<(), Unanswered>>) -> Check {
    let asked = answers.len();
    let unanswered: Vec<Unanswered> = answers.into_iter().filter_map(Result::err).collect();
    let Some(first) = unanswered.first() else {
        return match count {
            0 => check("names", CheckStatus::Ok, "every container on this host has its DNS server", ""),
            _ if asked < count => check(
                "names",
                CheckStatus::Warn,
                format!("{asked} of {count} containers were answered by {server} within {} s", ALL.as_secs()),
                "run it again when this host is less busy",
            ),
            _ => check("names", CheckStatus::Ok, format!("every container on this host is answered by {server}"), ""),
        };
    };
    let line = |Unanswered { member, error, .. }: &Unanswered| format!("{member} ({error})");
    let listed: Vec<String> = unanswered.iter().map(line).collect();
    check(
        "names",
        CheckStatus::Fail,
        format!("{server} does not answer in {} of {asked} containers: {}", listed.len(), listed.join(", ")),
        format!("look for what drops it there, a firewall of the container's own for one: {}", rules_of(&first.path)),
    )
}

/// The command that lists the rules in a namespace.
fn rules_of(path: &Path) -> String {
    format!("nsenter --net={} iptables -S", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 82);

    fn unanswered(member: &str) -> Result<(), Unanswered> {
        let (member, path) = (member.to_owned(), PathBuf::from("/run/netns/web"));
        Err(Unanswered { member, path, error: io::ErrorKind::TimedOut.into() })
    }

    #[test]
    fn all_are_answered_or_those_that_are_not_are_named_with_where_to_look() {
        let told = |count, answers| {
            let Check { status, detail, remedy, .. } = judge(SERVER, count, answers);
            (status, detail, remedy)
        };
        let (status, detail, _) = told(0, Vec::new());
        assert!(status == CheckStatus::Ok && !detail.contains("answered"), "{detail}");
        let (status, detail, _) = told(2, vec![Ok(()), Ok(())]);
        assert!(status == CheckStatus::Ok && detail.contains("answered by 127.0.0.82"), "{detail}");
        let (status, detail, _) = told(3, vec![Ok(()), Ok(())]);
        assert!(status == CheckStatus::Warn && detail.starts_with("2 of 3 "), "a host that is busy: {detail}");
        let (status, detail, remedy) = told(2, vec![Ok(()), unanswered("1.web.shop")]);
        assert!(status == CheckStatus::Fail && detail.contains("in 1 of 2 containers: 1.web.shop ("), "{detail}");
        assert!(remedy.contains("nsenter --net=/run/netns/web"), "{remedy}");
    }
}
