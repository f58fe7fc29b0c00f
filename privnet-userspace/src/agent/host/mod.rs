//! This host: what it is like, what it records of its members, how it stands with the store that many hosts share.
//!
//! | module | what it owns |
//! |---|---|
//! | `capabilities`, `places`, `state_dir` | what the agent needs of its process and of the host's directories |
//! | `facts` | what the host is like, found out at the start |
//! | `instance` | the identity of the state directory |
//! | `journal` | this host's own records of its members, and their private keys |
//! | `fleet` | which fleet it belongs to, and that the store is that fleet's |
//! | `machine` | which machine the state directory belongs to |
//! | `presence` | that this host is there, and that no other has its name |
//! | `underlay` | whether packets can come from other hosts and go to them, as far as this host alone can tell |
//! | `clock` | that this host's clock steps back is noticed and told |

pub mod applied;
pub mod capabilities;
pub mod clock;
pub mod facts;
pub mod fleet;
pub mod instance;
pub mod journal;
pub mod machine;
pub mod places;
pub mod presence;
pub mod state_dir;
pub mod underlay;
pub mod vtep;
