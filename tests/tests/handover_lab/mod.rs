//! Containers whose namespaces come before dockerd's `Join`, or after it.

use std::path::{Path, PathBuf};

use privnet_tests::lab::{Lab, Space};

/// Where a container's namespace is, or will be.
pub enum Place<'a> {
    Here(Space),
    Later { lab: &'a Lab, name: String },
}

impl<'a> Place<'a> {
    pub fn new(lab: &'a Lab, name: &str, is_here: bool) -> Self {
        if is_here { Self::Here(lab.space(name)) } else { Self::Later { lab, name: name.to_owned() } }
    }

    pub fn path(&self) -> PathBuf {
        match self {
            Self::Here(space) => space.path(),
            Self::Later { lab, name } => Path::new("/run/netns").join(format!("{}{name}", lab.ground().prefix())),
        }
    }

    pub fn appear(self) -> Space {
        match self {
            Self::Here(space) => space,
            Self::Later { lab, name } => lab.space(&name),
        }
    }
}
