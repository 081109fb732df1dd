//! wschat: the chat and notification server that a site gets with one `apt install`.

pub mod acme;
pub mod addresses;
pub mod admin;
pub mod chat;
pub mod cli;
pub mod config;
pub mod control;
pub mod ctl;
pub mod daemon;
pub mod guest;
pub mod hub;
pub mod journal;
pub mod log;
pub mod metrics;
pub mod net;
pub mod pace;
pub mod peer;
pub mod receipt;
pub mod sanctions;
pub mod state;
pub mod stats;
pub mod systemd;
pub mod tls;
pub mod token;
pub mod wire;
