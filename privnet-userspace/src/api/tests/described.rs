//! The description of the API, and what it describes.

use super::*;

#[tokio::test]
async fn the_document_describes_every_route_and_no_other() {
    let fake = Arc::new(Fake::default());
    let document = json_of(send(&fake, STRANGER, request("GET", "/openapi.json", &Value::Null)).await).await;
    assert_eq!(document["openapi"], "3.1.0");
    let documented: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .expect("paths")
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().expect("item").keys().filter(|key| *key != "parameters");
            methods.map(|method| (method.clone(), path.clone())).collect::<Vec<_>>()
        })
        .collect();
    let served: BTreeSet<(String, String)> =
        routes().iter().map(|route| (route.method.as_str().to_lowercase(), route.path.to_owned())).collect();
    assert_eq!(documented, served);
}

#[test]
fn the_documents_schemas_are_the_views() {
    let document: Value = serde_json::from_str(include_str!("../openapi.json")).expect("JSON");
    let schemas = &document["components"]["schemas"];
    for (name, value) in [
        ("Network", json!(fake::network_view())),
        ("Attached", json!(fake::attached())),
        ("Member", json!(fake::member_view())),
        ("Host", json!(fake::host_view())),
        ("Status", json!(fake::status_view())),
        ("Names", json!(fake::names_view())),
        ("DomainName", json!(fake::domain_name_view())),
        ("Resolution", json!(fake::resolve_view())),
        ("NameOptions", json!(crate::model::NameOptions::default())),
        ("Check", json!(fake::check())),
        ("Version", json!(VersionView::of_this_binary())),
        ("Problem", json!(ProblemView { what: "a".to_owned(), why: "b".to_owned(), remedy: "c".to_owned() })),
        ("Deleted", json!(Deleted { deleted: true })),
        ("EndedNetwork", json!(EndedNetwork { members_ended: 3 })),
        ("Detached", json!(Detached { detached: true, problems: Vec::new() })),
    ] {
        let described: BTreeSet<&String> =
            schemas[name]["properties"].as_object().expect("properties").keys().collect();
        let shown: BTreeSet<&String> = value.as_object().expect("object").keys().collect();
        assert_eq!(described, shown, "{name}");
    }
}

#[test]
fn every_reference_in_the_document_leads_somewhere() {
    let text = include_str!("../openapi.json");
    let document: Value = serde_json::from_str(text).expect("JSON");
    let references: BTreeSet<&str> =
        text.split("\"$ref\": \"#").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(references.len() > 10, "{references:?}");
    for reference in references {
        assert!(document.pointer(reference).is_some(), "{reference}");
    }
}
