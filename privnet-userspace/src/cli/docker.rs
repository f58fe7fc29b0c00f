//! Finds the process of a Docker container, through Docker's own socket.

use std::io;
use std::path::PathBuf;

use hyper::{Method, StatusCode};
use serde::Deserialize;

use crate::api::http::{self, HttpError};
use crate::api::{ControlError, ErrorCode};
use crate::docker::DEFAULT_SOCKET;

/// The first process of the running container `name`.
///
/// # Errors
/// When Docker does not answer, has no such container, or it is not running.
pub async fn find_process(name: &str) -> Result<u32, ControlError> {
    let host = std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
    find_process_at(socket(host.as_deref())?, name).await
}

async fn find_process_at(socket: PathBuf, name: &str) -> Result<u32, ControlError> {
    let answer = http::request(&socket, Method::GET, &format!("/containers/{}/json", http::encode(name)), None).await;
    let http::Answer { status, body, .. } = answer.map_err(|error| unreachable(&socket, &error))?;
    match status {
        StatusCode::OK => running_process(name, &body),
        StatusCode::NOT_FOUND => Err(ControlError::new(
            ErrorCode::NetnsNotFound,
            format!("docker has no container {name:?}"),
            "see `docker ps`",
        )),
        other => {
            let refusal =
                serde_json::from_slice(&body).map_or_else(|_| other.to_string(), |said: Refusal| said.message);
            let message = format!("docker did not show container {name:?}: {refusal}");
            Err(ControlError::new(ErrorCode::Internal, message, "see `docker inspect`, or attach with --pid"))
        }
    }
}

/// The part of Docker's answer that is used (Engine API, ContainerInspect).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    state: State,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    /// 0 when it is not running.
    pid: u32,
    status: String,
}

/// Docker's error object.
#[derive(Deserialize)]
struct Refusal {
    message: String,
}

fn running_process(name: &str, body: &[u8]) -> Result<u32, ControlError> {
    let inspected: Inspected = serde_json::from_slice(body).map_err(|error| {
        let message = format!("docker's answer about container {name:?} is not understood: {error}");
        ControlError::new(ErrorCode::Internal, message, "attach with --pid or --netns")
    })?;
    if inspected.state.pid == 0 {
        let message = format!("container {name:?} is not running: it is {:?}", inspected.state.status);
        return Err(ControlError::new(ErrorCode::NetnsNotFound, message, format!("start it: docker start {name}")));
    }
    Ok(inspected.state.pid)
}

fn socket(docker_host: Option<&str>) -> Result<PathBuf, ControlError> {
    let Some(host) = docker_host else { return Ok(PathBuf::from(DEFAULT_SOCKET)) };
    host.strip_prefix("unix://").filter(|path| !path.is_empty()).map(PathBuf::from).ok_or_else(|| {
        let message = format!("DOCKER_HOST is {host:?}, which is not on this host");
        ControlError::new(ErrorCode::InvalidArgument, message, "set it to unix://PATH, or attach with --pid or --netns")
    })
}

fn unreachable(socket: &std::path::Path, error: &HttpError) -> ControlError {
    let path = socket.display();
    match error {
        HttpError::Connect(io) if io.kind() == io::ErrorKind::PermissionDenied => ControlError::new(
            ErrorCode::PermissionDenied,
            format!("cannot talk to docker at {path}: {error}"),
            "run it as root, or as a user of the group docker",
        ),
        HttpError::Connect(_) => ControlError::new(
            ErrorCode::NetnsNotFound,
            format!("docker is not running: cannot connect to {path}: {error}"),
            "start it, or attach with --pid or --netns",
        ),
        HttpError::Exchange(_) | HttpError::Timeout | HttpError::Busy => ControlError::new(
            ErrorCode::Timeout,
            format!("docker at {path} did not answer: {error}"),
            "see docker's log, or attach with --pid or --netns",
        ),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_running_container_has_a_process_and_others_have_none() {
        for (status, body, expected) in [
            ("200 OK", r#"{"Id":"x","State":{"Pid":4711,"Status":"running"}}"#, Ok(4711)),
            ("200 OK", r#"{"State":{"Pid":0,"Status":"exited"}}"#, Err("not running")),
            ("404 Not Found", r#"{"message":"No such container: a"}"#, Err("no container")),
            ("500 Internal Server Error", r#"{"message":"on fire"}"#, Err("on fire")),
            ("200 OK", "[]", Err("not understood")),
        ] {
            let directory = tempfile::tempdir().expect("temporary directory");
            let path = directory.path().join("docker.sock");
            let docker = tokio::spawn(answer(UnixListener::bind(&path).expect("bound"), status, body));
            let found = find_process_at(path, "a/b").await;
            let request = docker.await.expect("answered");
            assert!(request.starts_with("GET /containers/a%2Fb/json HTTP/1.1\r\n"), "{request}");
            match expected {
                Ok(pid) => assert_eq!(found, Ok(pid)),
                Err(text) => assert!(found.as_ref().is_err_and(|error| error.message.contains(text)), "{found:?}"),
            }
        }
    }

    #[tokio::test]
    async fn without_docker_the_error_says_so() {
        let error = find_process_at("/nonexistent/docker.sock".into(), "a").await.expect_err("nobody is there");
        assert!(error.message.starts_with("docker is not running"), "{}", error.message);
    }

    #[test]
    fn only_a_unix_socket_is_on_this_host() {
        assert_eq!(socket(None), Ok(DEFAULT_SOCKET.into()));
        assert_eq!(socket(Some("unix:///run/user/1/docker.sock")), Ok("/run/user/1/docker.sock".into()));
        for elsewhere in ["tcp://10.0.0.1:2375", "ssh://host", "unix://", "x"] {
            assert!(socket(Some(elsewhere)).is_err(), "{elsewhere} was accepted");
        }
    }

    async fn answer(listener: UnixListener, status: &str, body: &str) -> String {
        let (mut stream, _) = listener.accept().await.expect("accepted");
        let mut request = vec![0; 4096];
        let length = stream.read(&mut request).await.expect("read");
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).await.expect("written");
        String::from_utf8_lossy(&request[..length]).into_owned()
    }
}
