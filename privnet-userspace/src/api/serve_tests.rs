//! Connections over a real socket: whose they are, and how they end.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::fake::{Fake, Gate};
use super::peer::Accounts;
use super::socket::ControlSocket;
use super::{Surface, metrics_router, router, serve_control, serve_metrics};

const BOUND: Duration = Duration::from_secs(20);
const CREATE: &str = "POST /v1/networks HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n{\"name\":\"shop\"}";

#[tokio::test]
async fn a_request_under_way_is_answered_when_the_agent_ends_and_the_socket_is_gone() {
    let slow = Arc::new(Fake { gate: Some(Gate::default()), ..Fake::default() });
    let gate = slow.gate.as_ref().expect("given");
    let (directory, end, server) = start(Arc::clone(&slow));
    let path = directory.path().join("privnet.sock");
    let mut stream = UnixStream::connect(&path).await.expect("connected");
    stream.write_all(CREATE.as_bytes()).await.expect("written");
    within(gate.started.notified()).await;
    end.send(()).expect("it is running");
    within(async {
        while path.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!server.is_finished(), "it did not wait for the request");
    gate.proceed.notify_one();
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.expect("read");
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    within(server).await.expect("ended");
}

#[tokio::test]
async fn a_client_that_has_connected_when_the_agent_ends_is_answered() {
    let (directory, end, server) = start(Arc::default());
    let path = directory.path().join("privnet.sock");
    let mut stream = UnixStream::connect(&path).await.expect("connected");
    assert!(exchange(&mut stream, "GET /v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n").await.starts_with("HTTP/1.1 404 "));
    end.send(()).expect("it is running");
    within(async {
        while path.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(exchange(&mut stream, "GET /v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n").await.starts_with("HTTP/1.1 404 "));
    drop(stream);
    within(server).await.expect("ended");
}

#[tokio::test]
async fn a_change_is_finished_also_when_its_client_hangs_up() {
    let slow = Arc::new(Fake { gate: Some(Gate::default()), ..Fake::default() });
    let gate = slow.gate.as_ref().expect("given");
    let (directory, end, server) = start(Arc::clone(&slow));
    let mut stream = UnixStream::connect(directory.path().join("privnet.sock")).await.expect("connected");
    stream.write_all(CREATE.as_bytes()).await.expect("written");
    within(gate.started.notified()).await;
    drop(stream);
    // Once the connection is over its request's handler is gone, and only the change is left.
    end.send(()).expect("it is running");
    within(server).await.expect("ended");
    gate.proceed.notify_one();
    within(gate.finished.notified()).await;
}

#[tokio::test]
async fn the_kernel_says_who_connected_and_the_open_listener_takes_nobody_for_root() {
    let fake = Arc::new(Fake::default());
    let (directory, _end, _server) = start(Arc::clone(&fake));
    let mut stream = UnixStream::connect(directory.path().join("privnet.sock")).await.expect("connected");
    let allowed = rustix::process::geteuid().is_root();
    let expected = if allowed { "HTTP/1.1 201 " } else { "HTTP/1.1 403 " };
    assert!(exchange(&mut stream, CREATE).await.starts_with(expected));

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(serve_metrics(listener, metrics_router(surface(fake)), std::future::pending()));
    let mut stream = TcpStream::connect(address).await.expect("connected");
    assert!(exchange(&mut stream, CREATE).await.starts_with("HTTP/1.1 404 "));
    assert!(exchange(&mut stream, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_connection_that_is_switched_carries_frames_and_may_outlive_the_server() {
    let fake = Arc::new(Fake::default());
    let (directory, end, server) = start(Arc::clone(&fake));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("bound").port();
    let mut caller = UnixStream::connect(directory.path().join("privnet.sock")).await.expect("connected");
    let body = format!("{{\"network\":\"shop\",\"host\":\"127.0.0.1\",\"port\":{port}}}");
    let request = format!(
        "POST /v1/streams HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: privnet-stream\r\n\
         Content-Length: {}\r\n\r\n{body}\0\0\0\x05hello",
        body.len()
    );
    let answer = exchange(&mut caller, &request).await;
    if !rustix::process::geteuid().is_root() {
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        return;
    }
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.ends_with("\r\n\r\n"), "{answer}");
    end.send(()).expect("it is running");
    within(server).await.expect("a stream holds it up for no time");
    let (mut container, _) = within(listener.accept()).await.expect("connected");
    let mut bytes = [0; 5];
    within(container.read_exact(&mut bytes)).await.expect("what came with the request is sent");
    assert_eq!(&bytes, b"hello");
    container.write_all(b"hi").await.expect("written");
    assert_eq!(exchange(&mut caller, "\0\0\0\0").await, "\0\0\0\x02hi");
    drop(container);
    let mut rest = Vec::new();
    within(caller.read_to_end(&mut rest)).await.expect("read");
    assert_eq!(rest, [0; 4], "the end of the container's bytes, and then of the connection");
    let mut ended = fake.ended.subscribe();
    let said = within(ended.wait_for(Option::is_some)).await.expect("it ends").clone();
    assert_eq!(said.as_deref(), Some("5 sent, 2 received: both sides have sent all"));
}

fn start(service: Arc<Fake>) -> (tempfile::TempDir, oneshot::Sender<()>, JoinHandle<()>) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let socket = ControlSocket::bind(&directory.path().join("privnet.sock"), None).expect("bound");
    let (end, ended) = oneshot::channel();
    let server = tokio::spawn(serve_control(socket, router(surface(service)), async {
        // A dropped sender is a test that does not care.
        if ended.await.is_err() {
            std::future::pending::<()>().await;
        }
    }));
    (directory, end, server)
}

fn surface(service: Arc<Fake>) -> Surface {
    Surface::new(service, Accounts::in_directory(Path::new("/nonexistent")))
}

/// Sends a request and reads what comes first; an answer is small enough to come at once.
async fn exchange(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), request: &str) -> String {
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = vec![0; 4096];
    let length = within(stream.read(&mut answer)).await.expect("read");
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, future).await.expect("in time")
}
