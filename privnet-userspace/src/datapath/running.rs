//! What runs at a hook of an interface by TCX, whoever attached it. Changes nothing.

use aya::programs::SchedClassifier;
use aya::programs::tc::TcAttachType;

use super::error::errno_of_program;
use super::{Error, features};
use crate::model::IfName;
use crate::netns::Netns;

/// Which packets of an interface a program sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Those that it received.
    Ingress,
    /// Those that it is about to send.
    Egress,
}

/// A program at a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// The kernel's id of it.
    pub id: u32,
    /// Its name; nothing where it is no text.
    pub name: Option<String>,
}

/// The programs that are attached to an interface by TCX, in the order in which they run: all of them before any filter of
/// clsact. None where the kernel has no TCX.
///
/// # Errors
/// [`Error::Attach`] when the kernel refuses, also where the interface is not there.
pub async fn running_by_tcx(netns: &Netns, interface: &IfName, side: Side) -> Result<Vec<Running>, Error> {
    if !features::tcx() {
        return Ok(Vec::new());
    }
    let interface = interface.clone();
    let side = match side {
        Side::Ingress => TcAttachType::Ingress,
        Side::Egress => TcAttachType::Egress,
    };
    netns
        .run(move || {
            let (_, programs) =
                SchedClassifier::query_tcx(interface.as_str(), side).map_err(|error| Error::Attach {
                    op: "query",
                    program: "TCX",
                    interface: interface.clone(),
                    message: error.to_string(),
                    errno: errno_of_program(&error),
                })?;
            let running = |program: &aya::programs::ProgramInfo| Running {
                id: program.id(),
                name: program.name_as_str().map(str::to_owned),
            };
            Ok(programs.iter().map(running).collect())
        })
        .await?
}
