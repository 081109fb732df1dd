//! The operators' and backends' way in: two Unix sockets that speak Varlink.
//!
//! [`protocol`] is what daemon and `wschatctl` share, [`server`] translates calls into
//! [`crate::admin::Admin`] and does nothing else, [`bind`] puts a socket where it can be trusted,
//! [`places`] says where, [`give`] lets its group in where the daemon itself may not. What the daemon does with a call is not decided here.
//!
//! Varlink is NUL-terminated JSON over a stream socket (<https://varlink.org>). The few lines of
//! it that are needed are written here, because a slow call must never hold up another caller's.

pub mod bind;
mod calls;
pub mod give;
pub mod places;
pub mod protocol;
pub mod server;
mod values;
pub mod wire;
