//! Connections over a real socket: who they are, and how they end.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use super::fake::{self, Fake};
use super::peer::Accounts;
use super::service::Service;
use super::socket::ControlSocket;
use super::{Surface, metrics_router, router, serve_control, serve_metrics};
use crate::agent::ControlError;
use crate::agent::views::{
    Attach, Attached, Check, CreateNetwork, Detach, Detached, DomainNameView, MemberView, NetworkCounters, NetworkView,
    ResolveView, StatusView, TunnelView,
};

const BOUND: Duration = Duration::from_secs(20);
const CREATE: &str = "POST /v1/networks HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n{\"name\":\"shop\"}";

#[tokio::test]
async fn a_request_under_way_is_answered_when_the_agent_ends_and_the_socket_is_gone() {
    let slow = Arc::new(Slow::default());
    let (directory, end, server) = start(Arc::clone(&slow));
    let path = directory.path().join("privnet.sock");
    let mut stream = UnixStream::connect(&path).await.expect("connected");
    stream.write_all(CREATE.as_bytes()).await.expect("written");
    within(slow.started.notified()).await;
    end.send(()).expect("it is running");
    within(async {
        while path.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!server.is_finished(), "it did not wait for the request");
    slow.proceed.notify_one();
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.expect("read");
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    within(server).await.expect("ended");
}

#[tokio::test]
async fn a_change_is_finished_also_when_its_client_hangs_up() {
    let slow = Arc::new(Slow::default());
    let (directory, end, server) = start(Arc::clone(&slow));
    let mut stream = UnixStream::connect(directory.path().join("privnet.sock")).await.expect("connected");
    stream.write_all(CREATE.as_bytes()).await.expect("written");
    within(slow.started.notified()).await;
    drop(stream);
    // Once the connection is over its request's handler is gone, and only the change is left.
    end.send(()).expect("it is running");
    within(server).await.expect("ended");
    slow.proceed.notify_one();
    within(slow.finished.notified()).await;
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

fn start<S: Service>(service: Arc<S>) -> (tempfile::TempDir, oneshot::Sender<()>, JoinHandle<()>) {
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

fn surface<S: Service>(service: Arc<S>) -> Surface {
    Surface::new(service, |_, _, _| Ok("text\n".to_owned()), Accounts::in_directory(Path::new("/nonexistent")))
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

/// Creates a network when it is told to proceed; does nothing else.
#[derive(Default)]
struct Slow {
    fake: Fake,
    started: Notify,
    proceed: Notify,
    finished: Notify,
}

#[async_trait]
impl Service for Slow {
    async fn create_network(&self, _request: CreateNetwork) -> Result<NetworkView, ControlError> {
        self.started.notify_one();
        self.proceed.notified().await;
        self.finished.notify_one();
        Ok(fake::network_view())
    }

    async fn networks(&self) -> Result<Vec<NetworkView>, ControlError> {
        self.fake.networks().await
    }

    async fn network(&self, id_or_name: &str) -> Result<NetworkView, ControlError> {
        self.fake.network(id_or_name).await
    }

    async fn delete_network(&self, id_or_name: &str) -> Result<(), ControlError> {
        self.fake.delete_network(id_or_name).await
    }

    async fn attach(&self, request: Attach) -> Result<Attached, ControlError> {
        self.fake.attach(request).await
    }

    async fn detach(&self, request: Detach) -> Result<Detached, ControlError> {
        self.fake.detach(request).await
    }

    async fn members(&self, network: Option<&str>) -> Result<Vec<MemberView>, ControlError> {
        self.fake.members(network).await
    }

    async fn domain_names(&self, app: &str, network: Option<&str>) -> Result<Vec<DomainNameView>, ControlError> {
        self.fake.domain_names(app, network).await
    }

    async fn resolve(&self, name: &str, kind: &str, asker: &str) -> Result<ResolveView, ControlError> {
        self.fake.resolve(name, kind, asker).await
    }

    async fn status(&self) -> Result<StatusView, ControlError> {
        self.fake.status().await
    }

    async fn doctor(&self) -> Vec<Check> {
        self.fake.doctor().await
    }

    async fn counters(&self) -> Result<Vec<NetworkCounters>, ControlError> {
        self.fake.counters().await
    }

    async fn tunnels(&self) -> Result<Vec<TunnelView>, ControlError> {
        self.fake.tunnels().await
    }
}
