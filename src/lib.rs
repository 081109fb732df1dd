//! wschat: the chat and notification server that a site gets with one `apt install`.

pub mod admin;
pub mod chat;
pub mod cli;
pub mod config;
pub mod log;
pub mod peer;
pub mod state;
pub mod tls;
