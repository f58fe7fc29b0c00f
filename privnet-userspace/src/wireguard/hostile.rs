//! What the two sides of a WireGuard process might hear from somebody else: a message or an error, never a panic.

use proptest::prelude::*;

use super::protocol::{Request, Response, Start, WireGuard};
use crate::companion::{self, Protocol as _};
use crate::model::hostile::near_json;

const REQUESTS: [&str; 3] = [
    r#"{"version":1,"request":"observe"}"#,
    r#"{"version":1,"request":{"change_peers":{"set":[{"public_key":"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=","endpoint":"10.240.0.3:51820","allowed_ip":"10.240.0.3"}],"remove":["hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="]}}}"#,
    r#"{"version":2,"request":{"observe":{"since":7}}}"#,
];
const RESPONSES: [&str; 2] = [
    r#"{"device":{"public_key":null,"listen_port":51820,"peers":{"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=":{"endpoint":"10.240.0.3:51820","allowed_ips":["10.240.0.3/32"],"last_handshake_age":{"secs":1,"nanos":2},"rx_bytes":1,"tx_bytes":2}}}}"#,
    r#""changed""#,
];

proptest! {
    #[test]
    fn any_line_is_a_request_or_an_error(line in near_json(&REQUESTS)) {
        let version = serde_json::from_slice::<companion::Request<serde::de::IgnoredAny>>(&line);
        match serde_json::from_slice::<companion::Request<Request>>(&line) {
            // What is understood whole is understood by its version alone.
            Ok(request) => prop_assert_eq!(version.map(|head| head.version).ok(), Some(request.version)),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn any_answer_is_a_response_or_an_error(line in near_json(&RESPONSES)) {
        let _ = serde_json::from_slice::<Response>(&line);
        let _ = serde_json::from_slice::<Start>(&line);
    }
}

#[test]
fn the_corpus_is_understood() {
    for line in &REQUESTS[..2] {
        let request: companion::Request<Request> = serde_json::from_str(line).expect("a request");
        assert_eq!(request.version, WireGuard::VERSION);
    }
    for line in RESPONSES {
        serde_json::from_str::<Response>(line).expect("a response");
    }
}
