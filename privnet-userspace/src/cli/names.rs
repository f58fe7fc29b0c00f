//! The verbs about domain names.

use super::args::{AgentSocket, Format, ResolveArgs};
use super::client::Client;
use super::human;
use super::output::{fields, print, print_age, table};
use crate::api::ControlError;
use crate::api::views::{DomainNameView, DomainNamesQuery, ResolveQuery, ResolveView, ResponseCode};

/// `privnet domain-names`.
///
/// # Errors
/// The agent's, or why it cannot be asked.
pub async fn domain_names(query: &DomainNamesQuery, agent: &AgentSocket, format: Format) -> Result<(), ControlError> {
    let client = Client::new(&agent.socket);
    let views = client.domain_names(query).await?;
    print(format, views.as_slice(), domain_name_table)?;
    print_age(format, client.age());
    Ok(())
}

/// `privnet resolve`.
///
/// # Errors
/// The agent's, or why it cannot be asked.
pub async fn resolve(arguments: ResolveArgs, format: Format) -> Result<(), ControlError> {
    let ResolveArgs { name, asker, kind, agent } = arguments;
    let query = ResolveQuery { name, kind: Some(kind), asker };
    let view = Client::new(&agent.socket).resolve(&query).await?;
    print(format, &view, resolve_fields)
}

fn domain_name_table(views: &[DomainNameView]) -> String {
    let row = |view: &DomainNameView| {
        let addresses: Vec<String> = view.addresses.iter().map(ToString::to_string).collect();
        vec![view.network_name.to_string(), view.name.clone(), addresses.join(" ")]
    };
    table(&["NETWORK", "NAME", "ADDRESSES"], views.iter().map(row))
}

fn resolve_fields(view: &ResolveView) -> String {
    let age = view.age_seconds.map_or_else(|| "never told".to_owned(), human::duration);
    let mut rows = vec![
        ("name", view.name.clone()),
        ("type", view.kind.clone()),
        ("as", view.asker.clone()),
        ("source", view.source.to_string()),
        ("rcode", view.rcode.map_or("-", ResponseCode::name).to_owned()),
        ("age", age),
    ];
    let whole = view.asked_as.trim_end_matches('.');
    if !whole.is_empty() && whole != view.name.trim_end_matches('.') {
        rows.insert(1, ("asked as", view.asked_as.clone()));
    }
    rows.extend(view.records.iter().map(|record| ("record", record.clone())));
    rows.push(("reason", view.reason.clone()));
    fields(&rows)
}
