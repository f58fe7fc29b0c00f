//! What this agent believes of the store: nothing that was seen steps back.
//!
//! A membership exists because its host's agent made it, and ends because that agent, or an operator, said so. So a record
//! that is absent, or that has a lower number than was seen, is the store's loss, and what was seen stands, unless its end is
//! recorded. The rules:
//!
//! - A **membership** ends when the row of its address says that it was ended, or that another membership has the address.
//!   The row is written by the transaction that deletes the membership's record. A host of the build before does not always
//!   write it: the absence of its members' records is their end.
//! - A **further name** and a **public key** end with the membership that they belong to, or when it has them no more.
//! - A **network** ends when its record is absent and this host has no member in it; its rows and pointers end with it. Rows
//!   that say an end are kept until the network is there again, or they are removed after it.
//! - A **mark** of a network ends it and all that is of it, whichever came first; it is never taken back.
//! - A **host** whose record is absent goes on while it has members. A **presence** ends 10 s after it was deleted.
//! - An **address** or a **name** that two living memberships have is that of the earlier one; see `contest`.
//! - A membership whose end was seen, and whose record comes back, is not believed: its record is a *ghost*.
//!
//! Pure: it is given the transactions of the store and the time, and returns the changes that are to be believed.

mod come_back;
mod contest;
mod counts;
mod damage;
mod ends;
mod fact;
mod held;
mod import;
mod kept_ends;
mod marks;
mod patience;
mod put;
mod recall;
mod repair;
mod settle;
#[cfg(test)]
mod tests;

pub use counts::Counts;
pub use held::Belief;
pub use import::ComeBack;
pub use repair::{Pauses, Repair};
