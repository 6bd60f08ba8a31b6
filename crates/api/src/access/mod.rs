//! Who asks, and what they may do (DESIGN.md §7): the tokens in memory, the identity of a request, and the gate that
//! every route but `/healthz` and `/readyz` lies behind.

mod bearer;
mod gate;
mod identity;
mod keyring;
mod lasting;
mod needs;
mod scope;

pub(crate) use self::{
    gate::{Gate, gate},
    identity::Identity,
    keyring::Keyring,
    lasting::while_valid,
    needs::{Needs, SCHEME},
};

pub use self::identity::as_local;

/// The name in records of the settings' own admin token.
pub(crate) const SETTINGS: &str = "admin";
/// The name in records of whoever needed no token.
pub(crate) const LOCAL: &str = "local";
