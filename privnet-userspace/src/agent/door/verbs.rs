//! What can be asked of an agent, written once: the table of verbs.
//!
//! A row gives the method of [`AgentApi`], the route and its handler (room `api`), the method of the command line's client,
//! and the operation in `openapi.json`. `CONTRIBUTING.md` says how a verb is added.

use std::time::Duration;

use async_trait::async_trait;

use super::drops::DropLines;
use super::error::ControlError;
use super::streams::{Caller, OpenedStream};
use super::views::{self, Scrape};

/// Hands the table to the macro of the given name.
///
/// A row is the verb's documentation, its `operationId`, method, path and status of success, and its signature. `Body`,
/// `Query` and `Path` say where HTTP carries the request. What changes nothing is a GET.
macro_rules! verbs {
    ($consumer:ident) => {
        $consumer! {
            /// All networks, by name.
            listNetworks GET "/v1/networks" 200
                networks() -> Vec<views::NetworkView>;
            /// Creates a network.
            createNetwork POST "/v1/networks" 201
                create_network(Body request: views::CreateNetwork) -> views::NetworkView;
            /// One network.
            showNetwork GET "/v1/networks/{network}" 200
                network(Path network: views::NetworkPath) -> views::NetworkView;
            /// Deletes a network that has no members.
            deleteNetwork DELETE "/v1/networks/{network}" 200
                delete_network(Path network: views::NetworkPath) -> views::Deleted;
            /// Deletes a network and ends its members, also those of hosts that are away.
            endNetwork POST "/v1/network-ends" 200
                end_network(Body request: views::EndNetwork) -> views::EndedNetwork;
            /// Members of one network or of all, by network, app, type and number.
            listMembers GET "/v1/members" 200
                members(Query query: views::MembersQuery) -> Vec<views::MemberView>;
            /// Makes a container a member; answers when it can send.
            attach POST "/v1/members" 201
                attach(Body request: views::Attach) -> views::Attached;
            /// Ends a membership; succeeds also when it has ended already.
            detach POST "/v1/members/detach" 200
                detach(Body request: views::Detach) -> views::Detached;
            /// What container runtimes attached on this host, by their names for it.
            listAttachments GET "/v1/attachments" 200
                attachments() -> Vec<views::AttachmentView>;
            /// Ends what a container runtime attached; succeeds also when it has ended already.
            endAttachment POST "/v1/attachments/end" 200
                end_attachment(Body request: views::EndAttachment) -> views::Detached;
            /// Every name of an app's ready containers.
            listDomainNames GET "/v1/domain-names" 200
                domain_names(Query query: views::DomainNamesQuery) -> Vec<views::DomainNameView>;
            /// What a container of this host is told about a name, and why.
            resolve GET "/v1/resolve" 200
                resolve(Query query: views::ResolveQuery) -> views::ResolveView;
            /// What the hosts that share the store have in common.
            showFleet GET "/v1/fleet" 200
                fleet() -> views::FleetView;
            /// Sets what the hosts that share the store have in common.
            setFleet POST "/v1/fleet" 200
                set_fleet(Body request: views::SetFleet) -> views::FleetView;
            /// The hosts that share the store, by name.
            listHosts GET "/v1/hosts" 200
                hosts() -> Vec<views::HostView>;
            /// Takes over the members that another instance of this host's agent made: keeps those whose containers run
            /// here, and ends the others.
            adoptHost POST "/v1/hosts/adopt" 200
                adopt_host(Body request: views::AdoptHost) -> views::Adopted;
            /// Ends the members of a host that is gone for ever, and forgets it.
            forgetHost POST "/v1/hosts/forget" 200
                forget_host(Body request: views::ForgetHost) -> views::ForgottenHost;
            /// Empties a host: withdraws its names, attaches nothing there, and waits until its containers have left.
            drainHost POST "/v1/hosts/drain" 200
                drain_host(Body request: views::DrainHost) -> views::DrainedHost;
            /// Makes the store that the agent was given the fleet's, by a higher epoch: the agents of all its hosts believe it then,
            /// and put back what they know and it does not have.
            rebuildState POST "/v1/state/rebuild" 200
                rebuild_state(Body request: views::RebuildState) -> views::RebuiltState;
            /// What is known of the fleet's store, as a copy that can be given to a store. It holds no private key.
            exportState GET "/v1/state" 200
                export_state() -> views::ExportedState;
            /// Closes the store, since the fleet moves to another one, and answers what it held: no agent writes into it then.
            closeState POST "/v1/state/close" 200
                close_state() -> views::ExportedState;
            /// Gives the store what a copy has and it lacks; an empty store becomes that of the copy's fleet.
            importState POST "/v1/state/import" 200
                import_state(Body request: views::ExportedState) -> views::ImportedState;
            /// The agent's state.
            status GET "/v1/status" 200
                status() -> views::StatusView;
            /// What the host can and cannot do.
            doctor GET "/v1/doctor" 200
                doctor() -> Vec<views::Check>;
            /// What the agent's binary is.
            version GET "/v1/version" 200
                version() -> views::VersionView;
        }
    };
}
pub(crate) use verbs;

macro_rules! agent_api {
    ($($(#[doc = $doc:literal])+ $id:ident $method:ident $path:literal $status:literal
        $verb:ident($($place:ident $argument:ident: $request:ty)?) -> $answer:ty;)+) => {
        /// An agent as the surfaces see it. Nothing was changed when a verb fails, unless its error says otherwise.
        #[async_trait]
        pub trait AgentApi: Send + Sync + 'static {
            $(
                $(#[doc = $doc])+
                async fn $verb(&self $(, $argument: $request)?) -> Result<$answer, ControlError>;
            )+

            /// What the metrics show; as text at `GET /metrics`. What cannot be read is missing, and counted in
            /// [`Scrape::errors`].
            async fn scrape(&self) -> Result<Scrape, ControlError>;

            /// Connects to a container of a network, as a member of the network's that lasts as long as the stream;
            /// `POST /v1/streams` carries the bytes.
            async fn open_stream(&self, request: views::OpenStream, caller: Caller) -> Result<OpenedStream, ControlError>;

            /// The frames that the programs drop from now on, as long as the agent runs; `GET /v1/drops` carries them.
            async fn watch_drops(&self, query: views::DropsQuery) -> Result<DropLines, ControlError>;

            /// How old what the reads answer is; nothing while it is current.
            fn store_age(&self) -> Option<Duration> {
                None
            }
        }
    };
}
verbs!(agent_api);
