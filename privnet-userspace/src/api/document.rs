//! `openapi.json`: generated from the table of verbs and the types of the views, and compared with the file in the tree.
//!
//! `PRIVNET_WRITE_OPENAPI=1 cargo test -p privnet-userspace --lib openapi` writes the file anew.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use super::drops;
use super::problem::ErrorBody;
use crate::agent::{verbs, views};

/// The file in the tree, and what writes it.
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/api/openapi.json");
const WRITE: &str = "PRIVNET_WRITE_OPENAPI";

/// Where HTTP carries a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Path,
    Query,
    Body,
}

/// A verb, with the schemas of its types.
struct Operation {
    id: &'static str,
    method: &'static str,
    path: &'static str,
    status: u16,
    summary: &'static str,
    request: Option<(Place, Value)>,
    answer: Value,
}

/// The schemas of requests say what is accepted, those of answers what is given; they share their definitions.
struct Schemas {
    requests: SchemaGenerator,
    answers: SchemaGenerator,
}

impl Schemas {
    fn new() -> Self {
        let settings = || SchemaSettings::draft2020_12().with(|s| s.definitions_path = "/components/schemas".into());
        Self {
            requests: settings().for_deserialize().into_generator(),
            answers: settings().for_serialize().into_generator(),
        }
    }

    fn request<T: JsonSchema>(&mut self, place: Place) -> Value {
        match place {
            Place::Body => self.requests.subschema_for::<T>().into(),
            Place::Path | Place::Query => T::json_schema(&mut self.requests).into(),
        }
    }

    fn answer<T: JsonSchema>(&mut self) -> Value {
        self.answers.subschema_for::<T>().into()
    }

    /// The definitions that were referred to. What both sides know is described as it is accepted.
    fn definitions(mut self) -> Map<String, Value> {
        let mut all = self.answers.take_definitions(true);
        all.extend(self.requests.take_definitions(true));
        all
    }
}

macro_rules! operations {
    ($($(#[doc = $doc:literal])+ $id:ident $method:ident $path:literal $status:literal
        $verb:ident($($place:ident $argument:ident: $request:ty)?) -> $answer:ty;)+) => {
        fn operations(schemas: &mut Schemas) -> Vec<Operation> {
            vec![$({
                let request: Option<(Place, Value)> = None;
                $(let request = request.or(Some((Place::$place, schemas.request::<$request>(Place::$place))));)?
                Operation {
                    id: stringify!($id),
                    method: stringify!($method),
                    path: $path,
                    status: $status,
                    summary: concat!($($doc),+).trim_ascii(),
                    request,
                    answer: schemas.answer::<$answer>(),
                }
            },)+]
        }
    };
}
verbs!(operations);

/// The whole document, as it is in the file.
pub(super) fn document() -> String {
    let mut schemas = Schemas::new();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for operation in operations(&mut schemas) {
        let (method, description) = (operation.method.to_lowercase(), described(&operation));
        paths.entry(operation.path).or_default().insert(method, description);
    }
    let plain = |id: &str, summary: &str, kind: &str, schema: Value| {
        let answer = json!({"description": "OK", "content": {kind: {"schema": schema}}});
        Map::from_iter([(
            "get".to_owned(),
            json!({
                "operationId": id,
                "summary": summary,
                "responses": {"200": answer, "default": {"$ref": "#/components/responses/Error"}},
            }),
        )])
    };
    let stream = schemas.request::<views::OpenStream>(Place::Body);
    paths.insert("/v1/streams", Map::from_iter([("post".to_owned(), described_stream(&stream))]));
    let query = schemas.request::<views::DropsQuery>(Place::Query);
    let line = schemas.answer::<views::DropLine>();
    paths.insert(drops::PATH, Map::from_iter([("get".to_owned(), described_drops(&query, &line))]));
    let text = "Counters and state as Prometheus text, format 0.0.4.";
    paths.insert("/metrics", plain("metrics", text, "text/plain", json!({"type": "string"})));
    let own = "This document.";
    paths.insert("/openapi.json", plain("openapi", own, "application/json", json!({"type": "object"})));
    let error = schemas.answer::<ErrorBody>();
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "privnet",
            "version": "1",
            "summary": "The agent's control socket.",
            "description": "HTTP/1.1 and JSON over a unix socket, /run/privnet/privnet.sock unless the agent was told \
                otherwise: curl --unix-socket /run/privnet/privnet.sock http://localhost/v1/status. Everybody who can \
                connect may read; root and the group privnet may change. Bodies have at most 64 KiB; fields that are not \
                described here are refused in requests, and may be added to answers.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "http://localhost", "description": "The control socket; the host name means nothing."}],
        "paths": paths,
        "components": {
            "responses": {"Error": {
                "description": "It was not done. 400: the request is wrong; 403: not permitted; 404: no such thing; \
                    405, 408, 413, 426: wrong method, too slow, too large, not switched; 409: something stands in the way; 500: a fault; \
                    501: this host cannot; 502: a container refuses a connection; 503: the store cannot be reached; 504: not finished in time.",
                "content": {"application/json": {"schema": error}},
            }},
            "schemas": schemas.definitions(),
        },
    });
    plainer(&mut document);
    serde_json::to_string_pretty(&document).expect("JSON") + "\n"
}

fn described_drops(query: &Value, line: &Value) -> Value {
    json!({
        "operationId": "watchDrops",
        "summary": "The frames that the programs drop from now on, a JSON object a line, as long as the connection and the \
            agent last: curl --no-buffer. For root and the group privnet.",
        "parameters": parameters(Place::Query, query),
        "responses": {
            "200": {"description": "OK", "content": {drops::CONTENT_TYPE: {"schema": line}}},
            "default": {"$ref": "#/components/responses/Error"},
        },
    })
}

fn described_stream(request: &Value) -> Value {
    json!({
        "operationId": "openStream",
        "summary": "Connects to a container of a network, as a member of the network's that lasts as long as the stream. \
            The request has the headers `Connection: Upgrade` and `Upgrade: privnet-stream`.",
        "requestBody": {"required": true, "content": {"application/json": {"schema": request}}},
        "responses": {
            "101": {"description": "The container has accepted. Frames follow, in both directions."},
            "default": {"$ref": "#/components/responses/Error"},
        },
    })
}

fn described(operation: &Operation) -> Value {
    let reason = if operation.status == 201 { "Created" } else { "OK" };
    let answer = json!({"description": reason, "content": {"application/json": {"schema": operation.answer}}});
    let mut description = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "responses": {operation.status.to_string(): answer, "default": {"$ref": "#/components/responses/Error"}},
    });
    match &operation.request {
        None => {}
        Some((Place::Body, schema)) => {
            description["requestBody"] = json!({"required": true, "content": {"application/json": {"schema": schema}}});
        }
        Some((place, schema)) => description["parameters"] = parameters(*place, schema),
    }
    description
}

/// The fields of a request that is a query or a part of the path.
fn parameters(place: Place, schema: &Value) -> Value {
    let required: Vec<&Value> = schema["required"].as_array().into_iter().flatten().collect();
    let fields = schema["properties"].as_object().expect("a struct");
    let parameter = |(name, field): (&String, &Value)| {
        let mut field = field.clone();
        let description = field.as_object_mut().and_then(|field| field.remove("description"));
        // A parameter that is absent is absent, and not null.
        if let Some(kind) = field["type"].as_array().and_then(|kinds| kinds.first().cloned()) {
            field["type"] = kind;
        }
        json!({
            "name": name,
            "in": if place == Place::Path { "path" } else { "query" },
            "required": required.contains(&&json!(name)),
            "description": description,
            "schema": field,
        })
    };
    fields.iter().map(parameter).collect()
}

/// Says what OpenAPI's readers know better: an enumeration as one, a number's bounds instead of Rust's name of its type.
fn plainer(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(plainer),
        Value::Object(fields) => {
            fields.values_mut().for_each(plainer);
            let bound = match fields.get("format").and_then(Value::as_str) {
                Some("uint8") => Some(Some(u64::from(u8::MAX))),
                Some("uint16") => Some(Some(u64::from(u16::MAX))),
                Some("uint32") => Some(Some(u64::from(u32::MAX))),
                Some("uint64" | "uint") => Some(None),
                Some(_) | None => None,
            };
            if let Some(bound) = bound {
                fields.remove("format");
                if let Some(bound) = bound {
                    fields.entry("maximum").or_insert_with(|| bound.into());
                }
            }
            let variants = fields.get("oneOf").and_then(Value::as_array);
            let names: Option<Vec<Value>> =
                variants.and_then(|all| all.iter().map(|one| one.get("const").cloned()).collect());
            if let Some(names) = names {
                fields.remove("oneOf");
                fields.insert("type".to_owned(), "string".into());
                fields.insert("enum".to_owned(), names.into());
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn openapi_json_in_the_tree_is_the_one_that_is_generated() {
    let generated = document();
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(FILE, &generated).expect("written");
    }
    let kept = std::fs::read_to_string(FILE).expect("the file");
    assert!(
        kept == generated,
        "openapi.json is stale: {WRITE}=1 cargo test -p privnet-userspace --lib openapi writes it anew"
    );
}
