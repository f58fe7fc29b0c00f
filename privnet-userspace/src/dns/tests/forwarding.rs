//! Other people's names: asked of whom, for how long, and what never leaves.

use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::*;
use crate::names::Forwarding;

/// A resolver that answers every question with one address, and keeps what it was asked.
struct Upstream {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// How a resolver behaves.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Answers,
    /// First somebody else's guesses, then the answer.
    IsForged,
    IsSilent,
    Fails,
    /// An answer of about 3,000 octets.
    IsLong,
}

fn answer_to(query: &[u8], manner: Manner) -> Vec<u8> {
    let mut reply = query[..query.len()].to_vec();
    // Whatever EDNS there was is left out of this resolver's answers.
    let name_end = 12 + query[12..].iter().position(|octet| *octet == 0).expect("an end");
    reply.truncate(name_end + 5);
    reply[2] |= 0x80;
    reply[3] |= 0x80;
    reply[11] = 0;
    if manner == Manner::Fails {
        reply[3] |= 2;
        return reply;
    }
    let count = if manner == Manner::IsLong { 180 } else { 1 };
    reply[7] = count;
    for last in 0..count {
        reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, last]);
    }
    reply
}

impl Upstream {
    async fn start(manner: Manner) -> Self {
        let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
        let address = socket.local_addr().expect("bound");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut query = vec![0; 4096];
            loop {
                let (length, client) = socket.recv_from(&mut query).await.expect("received");
                kept.lock().expect("not poisoned").push(query[..length].to_vec());
                let reply = answer_to(&query[..length], manner);
                let mut replies = vec![reply.clone()];
                if manner == Manner::IsForged {
                    let (mut other_id, mut other_name, mut a_query) = (reply.clone(), reply.clone(), reply.clone());
                    other_id[0] ^= 1;
                    other_name[13] ^= 1;
                    a_query[2] &= 0x7f;
                    replies = vec![other_id, other_name, a_query, reply[..10].to_vec(), reply];
                }
                for reply in replies.iter().filter(|_| manner != Manner::IsSilent) {
                    socket.send_to(reply, client).await.expect("sent");
                }
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> Vec<Vec<u8>> {
        self.asked.lock().expect("not poisoned").clone()
    }
}

fn lab(forwarding: Forwarding) -> Lab {
    let lab = Lab::start(3, "/nowhere");
    let mut catalogue = catalogue(3);
    for network in catalogue.values_mut() {
        network.head.options.forwarding = forwarding.clone();
    }
    lab.responder.engine().replace(Difference::between(&Catalogue::new(), &catalogue));
    lab
}

#[tokio::test]
async fn another_name_is_asked_of_the_resolvers_and_its_answer_passed_back() {
    let upstream = Upstream::start(Manner::Answers).await;
    let lab = lab(Forwarding::Servers(vec![upstream.address]));
    let asked = query_with("wWw.example.ORG.", Rtype::A, Class::IN, Some(1232));
    let reply = lab.ask(&asked).await;
    assert_eq!(summary(&reply), "NOERROR qr rd ra q1 a1 n0 +0");
    assert_eq!(reply[..2], asked[..2], "the client's id");
    assert_eq!(reply[12..33], asked[12..33], "the client's letters");
    let [sent] = &upstream.asked()[..] else { panic!("asked once") };
    assert_eq!(sent[12..33], asked[12..33]);
    assert_eq!(lab.responder.engine().counters.read().forwarded, 1);
}

#[tokio::test]
async fn ids_and_ports_differ_and_options_stay_at_home() {
    let upstream = Upstream::start(Manner::Answers).await;
    let lab = lab(Forwarding::Servers(vec![upstream.address]));
    // A client subnet option (RFC 7871), which would tell the container's address.
    let mut asked = query_with("example.org.", Rtype::A, Class::IN, Some(4096));
    let end = asked.len();
    asked[end - 1] = 11;
    asked.extend_from_slice(&[0, 8, 0, 7, 0, 1, 24, 0, 10, 240, 0]);
    for _ in 0..20 {
        assert!(summary(&lab.ask(&asked).await).starts_with("NOERROR"));
    }
    let asked = upstream.asked();
    let ids: std::collections::BTreeSet<_> = asked.iter().map(|query| query[..2].to_vec()).collect();
    assert!(ids.len() > 15, "{ids:?}");
    for query in asked {
        let opt = &query[query.len() - 11..];
        assert_eq!(opt[..5], [0, 0, 41, 0x04, 0xd0], "1232 octets, whatever the client said");
        assert_eq!(opt[9..], [0, 0], "without options");
    }
}

#[tokio::test]
async fn a_guess_is_not_an_answer() {
    let upstream = Upstream::start(Manner::IsForged).await;
    let lab = lab(Forwarding::Servers(vec![upstream.address]));
    assert_eq!(summary(&lab.ask(&query("example.org.", Rtype::A)).await), "NOERROR qr rd ra q1 a1 n0 +0");
}

#[tokio::test]
async fn nothing_of_ours_is_ever_asked_elsewhere_and_other_names_are() {
    let upstream = Upstream::start(Manner::Answers).await;
    let lab = lab(Forwarding::Servers(vec![upstream.address]));
    let kinds = [Rtype::A, Rtype::AAAA, Rtype::ANY, Rtype::PTR, Rtype::NS, Rtype::from_int(65_280)];
    for name in [
        "private-network.internal.",
        "PRIVATE-network.INTERNAL.",
        "x.private-network.internal.",
        r"\000.private-network.internal.",
        "a.b.c.d.e.f.g.h.private-network.internal.",
        &format!("{APP}.{BANK}.private-network.internal."),
        "2.0.240.10.in-addr.arpa.",
        "99.0.240.10.in-addr.arpa.",
        "x.2.0.240.10.IN-ADDR.arpa.",
        &format!("nosuch.{APP}."),
        &format!("backend.{}.", APP.to_uppercase()),
        &format!("{APP}.{BANK}."),
        &format!("{}.", SHOP.to_uppercase()),
        &format!("nosuch.{APP}.shop."),
        "pn-00000000-0000-4000-8000-000000000000.",
        "ap-00000000000040008000000000000000.",
    ] {
        for class in [Class::IN, Class::CH, Class::ANY] {
            for kind in kinds {
                lab.ask(&query_with(name, kind, class, None)).await;
            }
        }
    }
    assert_eq!(upstream.asked(), Vec::<Vec<u8>>::new());
    // The twins: `shop` is a network, and a top-level domain too.
    for (count, name) in (1..).zip(["example.org.", "nosuch.shop.", "shop.", "ap-x."]) {
        lab.ask(&query(name, Rtype::A)).await;
        assert_eq!(upstream.asked().len(), count, "{name}");
    }
}

#[tokio::test]
async fn without_resolvers_the_asker_hears_it_at_once() {
    let lab = lab(Forwarding::Host);
    let start = Instant::now();
    assert_eq!(summary(&lab.ask(&query("example.org.", Rtype::A)).await), "SERVFAIL qr rd ra q1 a0 n0 +0");
    assert!(start.elapsed() < Duration::from_secs(1));
    // Nor does it take long when the only one refuses.
    let closed = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound").local_addr().expect("bound");
    let lab = self::lab(Forwarding::Servers(vec![closed]));
    assert_eq!(summary(&lab.ask(&query("example.org.", Rtype::A)).await), "SERVFAIL qr rd ra q1 a0 n0 +0");
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_dead_resolver_delays_no_name_of_ours_and_soon_nobody() {
    let dead = Upstream::start(Manner::IsSilent).await;
    let lab = lab(Forwarding::Servers(vec![dead.address]));
    let other = query("example.org.", Rtype::A);
    let ours = query(&format!("{APP}.{SHOP}.private-network.internal."), Rtype::A);
    let start = Instant::now();
    let waiting = lab.ask(&other);
    let answered = async {
        // The question for the other name is out before these are asked.
        eventually("the resolver is asked", async || !dead.asked().is_empty()).await;
        let start = Instant::now();
        for _ in 0..100 {
            assert!(summary(&lab.ask(&ours).await).starts_with("NOERROR"));
        }
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    };
    let (reply, ()) = tokio::join!(waiting, answered);
    assert_eq!(summary(&reply), "SERVFAIL qr rd ra q1 a0 n0 +0");
    assert!(start.elapsed() < Duration::from_secs(5), "libc still listens: {:?}", start.elapsed());
    let start = Instant::now();
    assert!(summary(&lab.ask(&other).await).starts_with("SERVFAIL"));
    assert!(start.elapsed() < Duration::from_millis(500), "it is known to be dead: {:?}", start.elapsed());
}

#[tokio::test]
async fn a_second_resolver_answers_for_a_dead_and_for_a_failing_one() {
    let (dead, failing, good) = (
        Upstream::start(Manner::IsSilent).await,
        Upstream::start(Manner::Fails).await,
        Upstream::start(Manner::Answers).await,
    );
    for first in [&dead, &failing] {
        let lab = lab(Forwarding::Servers(vec![first.address, good.address]));
        assert_eq!(summary(&lab.ask(&query("example.org.", Rtype::A)).await), "NOERROR qr rd ra q1 a1 n0 +0");
    }
    let lab = lab(Forwarding::Servers(vec![failing.address]));
    assert!(summary(&lab.ask(&query("example.org.", Rtype::A)).await).starts_with("SERVFAIL"));
}

#[tokio::test]
async fn a_long_answer_is_cut_to_what_the_asker_takes() {
    let upstream = Upstream::start(Manner::IsLong).await;
    let lab = lab(Forwarding::Servers(vec![upstream.address]));
    let reply = lab.ask(&query_with("example.org.", Rtype::A, Class::IN, Some(1232))).await;
    assert_eq!(summary(&reply), "NOERROR qr tc rd ra q1 a0 n0 +1 edns 1232");
    let reply = lab.ask(&query("example.org.", Rtype::A)).await;
    assert_eq!(summary(&reply), "NOERROR qr tc rd ra q1 a0 n0 +0");
}

#[tokio::test]
async fn a_container_that_asks_too_much_elsewhere_hurts_itself_alone() {
    let dead = Upstream::start(Manner::IsSilent).await;
    let good = Upstream::start(Manner::Answers).await;
    let mut lab = lab(Forwarding::Servers(vec![dead.address]));
    // Another container, of a network with another resolver.
    let mut catalogue = catalogue(3);
    let heads = catalogue.values_mut().zip([dead.address, good.address]);
    heads.for_each(|(network, server)| network.head.options.forwarding = Forwarding::Servers(vec![server]));
    lab.responder.engine().replace(Difference::between(&Catalogue::new(), &catalogue));
    let (udp, tcp) = sockets();
    let other = v4(udp.local_addr().expect("bound"));
    lab.responder.serve(NetnsId { dev: 4, ino: 2 }, client(&[BANK]), (udp, tcp), Vec::new()).expect("served");
    let flood = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
    flood.connect(lab.udp).await.expect("connected");
    for _ in 0..200 {
        flood.send(&query("example.org.", Rtype::A)).await.expect("sent");
    }
    eventually("the flood is over its budget", async || lab.responder.engine().counters.read().over_budget > 0).await;
    let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
    socket.connect(other).await.expect("connected");
    socket.send(&query("example.org.", Rtype::A)).await.expect("sent");
    let mut reply = vec![0; 512];
    let received = tokio::time::timeout(Duration::from_secs(1), socket.recv(&mut reply)).await.expect("in time");
    reply.truncate(received.expect("received"));
    assert_eq!(summary(&reply), "NOERROR qr rd ra q1 a1 n0 +0");
}

#[tokio::test]
async fn by_tcp_a_long_answer_is_fetched_by_tcp() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    // The resolver says "too long" by UDP and all of it by TCP, on one port.
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
    let address = tcp.local_addr().expect("bound");
    let udp = UdpSocket::bind(address).expect("bound");
    let udp = std::thread::spawn(move || {
        let mut query = [0; 512];
        let (length, client) = udp.recv_from(&mut query).expect("received");
        let mut reply = query[..length].to_vec();
        reply[2] |= 0x82;
        udp.send_to(&reply, client).expect("sent");
    });
    let tcp = std::thread::spawn(move || {
        use std::io::Read as _;
        let (mut stream, _) = tcp.accept().expect("accepted");
        let mut length = [0; 2];
        stream.read_exact(&mut length).expect("a length");
        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut query).expect("a query");
        let reply = answer_to(&query, Manner::IsLong);
        stream.write_all(&u16::try_from(reply.len()).expect("short").to_be_bytes()).expect("sent");
        stream.write_all(&reply).expect("sent");
    });
    let lab = lab(Forwarding::Servers(vec![address]));
    let asked = query("example.org.", Rtype::A);
    let mut stream = tokio::net::TcpStream::connect(lab.tcp).await.expect("connected");
    let length = u16::try_from(asked.len()).expect("short");
    stream.write_all(&[&length.to_be_bytes(), &asked[..]].concat()).await.expect("sent");
    let mut reply = vec![0; usize::from(stream.read_u16().await.expect("a length"))];
    stream.read_exact(&mut reply).await.expect("a reply");
    assert_eq!(summary(&reply), "NOERROR qr rd ra q1 a180 n0 +0");
    udp.join().expect("ended");
    tcp.join().expect("ended");
}
