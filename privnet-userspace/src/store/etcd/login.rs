//! The user as which an agent asks etcd, where that is said by a password: a token that etcd gives for it, and forgets.

use std::sync::{Mutex, PoisonError};

use tonic::Status;
use tonic::metadata::AsciiMetadataValue;
use zeroize::Zeroizing;

use super::options::EtcdLogin;
use super::protocol::AuthenticateRequest;

/// What etcd says to a token that it does not know or that is too old, and to a call without one. None of these was carried out.
const STALE: [&str; 4] =
    ["invalid auth token", "user name is empty", "revision in header is old", "revision of auth store is old"];
/// What etcd says to a password while it lets everybody in.
const OPEN: &str = "authentication is not enabled";

/// A user with a password, and the token that it was given for.
#[derive(Debug)]
pub(super) struct Login {
    options: EtcdLogin,
    token: Mutex<Token>,
    /// Held while etcd is asked for a token.
    pub(super) turn: tokio::sync::Mutex<()>,
}

/// What is sent with each call.
#[derive(Clone, Debug)]
pub(super) enum Token {
    /// It has to be asked for.
    Unknown,
    /// Nothing: etcd lets everybody in.
    None,
    /// This.
    Known(AsciiMetadataValue),
}

impl Login {
    pub(super) fn new(options: EtcdLogin) -> Self {
        Self { options, token: Mutex::new(Token::Unknown), turn: tokio::sync::Mutex::default() }
    }

    pub(super) fn token(&self) -> Token {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What asks for a token. The password is read each time, so that a new one is used once it is there.
    pub(super) fn request(&self) -> Result<AuthenticateRequest, Status> {
        let path = &self.options.password_file;
        let password = std::fs::read_to_string(path).map(Zeroizing::new).map_err(|error| {
            Status::unauthenticated(format!("cannot read the password in {}: {error}", path.display()))
        })?;
        Ok(AuthenticateRequest { name: self.options.user.clone(), password: password.trim_end().to_owned() })
    }

    /// Notes the answer to that.
    pub(super) fn note(&self, answer: Result<String, Status>) -> Result<Token, Status> {
        let token = match answer {
            Ok(token) => Token::Known(token.parse().map_err(|_| Status::unauthenticated("the token is no text"))?),
            Err(status) if status.message().contains(OPEN) => Token::None,
            Err(status) => return Err(status),
        };
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token.clone();
        Ok(token)
    }

    /// Forgets the token where that is why a call was refused; whether the call may be made again.
    pub(super) fn is_stale(&self, status: &Status) -> bool {
        let is_stale = STALE.iter().any(|said| status.message().contains(said));
        if is_stale {
            *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Token::Unknown;
        }
        is_stale
    }
}
