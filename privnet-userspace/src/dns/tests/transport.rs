//! Sizes, TCP, budgets, and one container beside another.

use std::collections::BTreeSet;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::dns::tenant::CONNECTIONS_PER_CONTAINER;

const SUFFIX: &str = "private-network.internal.";

fn addresses(reply: &[u8]) -> BTreeSet<Ipv4Addr> {
    let message = Message::from_slice(reply).expect("a header");
    let answers = message.answer().expect("an answer section").limit_to::<domain::rdata::A>();
    answers.map(|record| record.expect("a record").data().addr()).collect()
}

async fn send(stream: &mut TcpStream, query: &[u8]) {
    let length = u16::try_from(query.len()).expect("short").to_be_bytes();
    stream.write_all(&[&length, query].concat()).await.expect("sent");
}

async fn receive(stream: &mut TcpStream) -> Vec<u8> {
    let read = async {
        let mut reply = vec![0; usize::from(stream.read_u16().await.expect("a length"))];
        stream.read_exact(&mut reply).await.expect("a reply");
        reply
    };
    tokio::time::timeout(PATIENCE, read).await.expect("in time")
}

#[tokio::test]
async fn a_long_list_is_cut_where_the_asker_says_and_whole_by_tcp() {
    let lab = Lab::start(200, "/nowhere");
    let name = format!("{APP}.{SHOP}.{SUFFIX}");
    for (edns, most) in [(None, 512), (Some(100), 512), (Some(600), 600), (Some(1232), 1232), (Some(65_535), 1232)] {
        let reply = lab.ask(&query_with(&name, Rtype::A, Class::IN, edns)).await;
        assert!(summary(&reply).starts_with("NOERROR qr aa tc rd ra q1"), "{edns:?}: {}", summary(&reply));
        assert!((most - 16..=most).contains(&reply.len()), "{edns:?}: {} octets", reply.len());
        assert!(addresses(&reply).len() > 20, "a client that does not come by TCP has some");
    }
    let mut stream = TcpStream::connect(lab.tcp).await.expect("connected");
    send(&mut stream, &query(&name, Rtype::A)).await;
    let reply = receive(&mut stream).await;
    assert_eq!(summary(&reply), "NOERROR qr aa rd ra q1 a200 n0 +0");
    assert_eq!(addresses(&reply).len(), 200);
    assert_eq!(lab.responder.engine().counters.read().truncated, 5);
}

#[tokio::test]
async fn a_list_that_just_fits_is_whole() {
    // Header 12, question 101 + 4, and 16 for each address.
    let name = format!("{APP}.{SHOP}.{SUFFIX}");
    let fits = (512 - query(&name, Rtype::A).len()) / 16;
    for (members, truncated) in [(fits, false), (fits + 1, true)] {
        let lab = Lab::start(u8::try_from(members).expect("few"), "/nowhere");
        let reply = lab.ask(&query(&name, Rtype::A)).await;
        assert_eq!(Message::from_slice(&reply).expect("a header").header().tc(), truncated, "{members}");
        assert_eq!(addresses(&reply).len(), fits);
    }
}

#[tokio::test]
async fn many_queries_on_one_connection_are_all_answered() {
    let lab = Lab::start(3, "/nowhere");
    let mut stream = TcpStream::connect(lab.tcp).await.expect("connected");
    let one = query(&format!("{APP}.{SHOP}.{SUFFIX}"), Rtype::A);
    let framed = [&u16::try_from(one.len()).expect("short").to_be_bytes(), &one[..]].concat();
    stream.write_all(&framed.repeat(50)).await.expect("sent");
    for _ in 0..50 {
        assert_eq!(summary(&receive(&mut stream).await), "NOERROR qr aa rd ra q1 a3 n0 +0");
    }
    // Octet by octet as well.
    for octet in &framed {
        stream.write_all(&[*octet]).await.expect("sent");
        stream.flush().await.expect("flushed");
    }
    receive(&mut stream).await;
}

#[tokio::test]
async fn a_container_with_too_many_connections_gets_no_more_and_another_does() {
    let mut lab = Lab::start(3, "/nowhere");
    let other = NetnsId { dev: 4, ino: 2 };
    let (udp, tcp) = sockets();
    let other_tcp = tcp.local_addr().expect("bound");
    lab.responder.serve(other, client(&[BANK]), (udp, tcp), Vec::new()).expect("served");
    let ask = query(&format!("{APP}.{SHOP}.{SUFFIX}"), Rtype::A);
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS_PER_CONTAINER {
        let mut stream = TcpStream::connect(lab.tcp).await.expect("connected");
        send(&mut stream, &ask).await;
        receive(&mut stream).await;
        streams.push(stream);
    }
    let mut refused = TcpStream::connect(lab.tcp).await.expect("connected");
    let end = tokio::time::timeout(PATIENCE, refused.read(&mut [0; 1])).await.expect("in time");
    assert!(matches!(end, Ok(0) | Err(_)), "it is closed");
    assert_eq!(lab.responder.engine().counters.read().connections_refused, 1);
    let mut stream = TcpStream::connect(other_tcp).await.expect("connected");
    send(&mut stream, &query(&format!("{APP}.{BANK}.{SUFFIX}"), Rtype::A)).await;
    assert_eq!(summary(&receive(&mut stream).await), "NOERROR qr aa rd ra q1 a1 n0 +0");
    // Those that it has go on, and one that ends makes room.
    send(&mut streams[0], &ask).await;
    receive(&mut streams[0]).await;
    streams.pop();
    eventually("there is room", async || {
        let mut stream = TcpStream::connect(lab.tcp).await.expect("connected");
        send(&mut stream, &ask).await;
        stream.read_u16().await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn the_socket_decides_what_exists_and_follows_its_container() {
    let mut lab = Lab::start(3, "/nowhere");
    let (shop, bank) = (format!("{APP}.{SHOP}.{SUFFIX}"), format!("{APP}.{BANK}.{SUFFIX}"));
    let answers = async |lab: &Lab, name: &str| summary(&lab.ask(&query(name, Rtype::A)).await);
    assert!(answers(&lab, &shop).await.starts_with("NOERROR"));
    assert!(answers(&lab, &bank).await.starts_with("NXDOMAIN"));
    assert!(lab.responder.set_client(CONTAINER, client(&[SHOP, BANK]), Vec::new()).expect("no sockets"));
    assert!(answers(&lab, &bank).await.starts_with("NOERROR"));
    assert!(lab.responder.set_client(CONTAINER, client(&[BANK]), Vec::new()).expect("no sockets"));
    assert!(answers(&lab, &shop).await.starts_with("NXDOMAIN"));
    assert!(lab.responder.forget(CONTAINER));
    assert!(!lab.responder.forget(CONTAINER));
    assert!(!lab.responder.set_client(CONTAINER, client(&[BANK]), Vec::new()).expect("no sockets"));
    // Its sockets are closed: the port can be bound again.
    eventually("the sockets are closed", async || {
        UdpSocket::bind(lab.udp).is_ok() && TcpStream::connect(lab.tcp).await.is_err()
    })
    .await;
}

#[tokio::test]
async fn sockets_that_were_handed_on_are_served_by_both() {
    let lab = Lab::start(3, "/nowhere");
    let (udp, tcp) = lab.responder.sockets(CONTAINER).expect("copied").expect("served");
    let name = format!("{APP}.{SHOP}.{SUFFIX}");
    let successor = {
        let config = ResponderConfig { threads: 1, max_age: PATIENCE, resolv_conf: PathBuf::from("/nowhere") };
        let mut responder = Responder::start(&config).expect("started");
        responder.engine().replace(Difference::between(&Catalogue::new(), &catalogue(3)));
        responder.serve(CONTAINER, client(&[SHOP]), (udp, tcp), Vec::new()).expect("served");
        responder
    };
    let (address, tcp_address) = (lab.udp, lab.tcp);
    drop(lab);
    let lab = Lab { responder: successor, udp: address, tcp: tcp_address };
    assert!(summary(&lab.ask(&query(&name, Rtype::A)).await).starts_with("NOERROR"));
}
