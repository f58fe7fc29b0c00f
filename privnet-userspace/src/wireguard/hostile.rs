//! What the two sides of a WireGuard process might hear from somebody else: a message or an error, never a panic.

use proptest::prelude::*;

use super::protocol::{Birth, Born, Request, Response, VERSION};
use crate::model::hostile::near_json;

const REQUESTS: [&str; 3] = [
    r#"{"version":1,"request":"observe"}"#,
    r#"{"version":1,"request":{"change_peers":{"set":[{"public_key":"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=","endpoint":"10.240.0.3:51820","allowed_ip":"10.240.0.3"}],"remove":["hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="]}}}"#,
    r#"{"version":2,"request":{"observe":{"since":7}}}"#,
];
const RESPONSES: [&str; 4] = [
    r#"{"device":{"public_key":null,"listen_port":51820,"peers":{"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=":{"endpoint":"10.240.0.3:51820","allowed_ips":["10.240.0.3/32"],"last_handshake_age":{"secs":1,"nanos":2},"rx_bytes":1,"tx_bytes":2}}}}"#,
    r#""changed""#,
    r#"{"refused":{"problem":"no"}}"#,
    r#"{"other_version":{"version":2}}"#,
];

proptest! {
    #[test]
    fn any_line_is_a_request_or_an_error(line in near_json(&REQUESTS)) {
        let version = serde_json::from_slice::<Request<serde::de::IgnoredAny>>(&line);
        match serde_json::from_slice::<Request>(&line) {
            // What is understood whole is understood by its version alone.
            Ok(request) => prop_assert_eq!(version.map(|head| head.version).ok(), Some(request.version)),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn any_answer_is_a_response_or_an_error(line in near_json(&RESPONSES)) {
        let _ = serde_json::from_slice::<Response>(&line);
        let _ = serde_json::from_slice::<Born>(&line);
        let _ = serde_json::from_slice::<Birth>(&line);
    }
}

#[test]
fn the_corpus_is_understood() {
    for line in &REQUESTS[..2] {
        let request: Request = serde_json::from_str(line).expect("a request");
        assert_eq!(request.version, VERSION);
    }
    for line in RESPONSES {
        serde_json::from_str::<Response>(line).expect("a response");
    }
}
