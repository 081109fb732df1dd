//! wschat: the chat and notification server that a site gets with one `apt install`.

pub mod admin;
pub mod chat;
pub mod config;
pub mod control;
pub mod ctl;
pub mod peer;
pub mod state;
