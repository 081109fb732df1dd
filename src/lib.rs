//! wschat: the chat and notification server that a site gets with one `apt install`.

pub mod admin;
pub mod chat;
pub mod config;
pub mod peer;
pub mod state;
pub mod wire;
