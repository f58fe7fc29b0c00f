//! What the two sides of the DNS process might hear from somebody else: a message or an error, never a panic.

use proptest::prelude::*;

use super::protocol::{Dns, Request, Response};
use crate::companion::{self, Protocol as _};
use crate::model::hostile::near_json;

const REQUESTS: [&str; 5] = [
    r#"{"version":1,"request":"observe"}"#,
    r#"{"version":1,"request":"confirm"}"#,
    r#"{"version":1,"request":{"forget":{"container":{"dev":4,"ino":7}}}}"#,
    r#"{"version":1,"request":{"resolve":{"container":{"dev":4,"ino":7},"name":"web.internal.","kind":1}}}"#,
    r#"{"version":2,"request":{"dance":{"with":"me"}}}"#,
];
const RESPONSES: [&str; 2] = [
    r#""done""#,
    r#"{"resolved":{"source":"snapshot","rcode":"noerror","records":["a 5 A 10.240.0.2"],"age_seconds":0.5,"is_stale":false}}"#,
];

proptest! {
    #[test]
    fn any_message_is_a_request_or_an_error(message in near_json(&REQUESTS)) {
        let version = serde_json::from_slice::<companion::Request<serde::de::IgnoredAny>>(&message);
        match serde_json::from_slice::<companion::Request<Request>>(&message) {
            // What is understood whole is understood by its version alone.
            Ok(request) => prop_assert_eq!(version.map(|head| head.version).ok(), Some(request.version)),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn any_other_message_is_a_response_or_an_error(message in near_json(&RESPONSES)) {
        let _ = serde_json::from_slice::<Response>(&message);
    }
}

#[test]
fn the_corpus_is_understood() {
    for message in &REQUESTS[..4] {
        let request: companion::Request<Request> = serde_json::from_str(message).expect("a request");
        assert_eq!(request.version, Dns::VERSION);
    }
    for message in RESPONSES {
        serde_json::from_str::<Response>(message).expect("a response");
    }
}
