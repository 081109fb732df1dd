//! The daemon as a whole: the real `wschat` and the real `wschatctl`, over real sockets. One file
//! for each behaviour; what a message means to those who chat is tested elsewhere.

mod access;
mod acme;
mod certificates;
mod command_line;
mod control;
mod crowd;
mod documents;
mod drain;
mod first_start;
mod garbage;
mod handshake;
mod history;
mod http;
mod kick;
mod list;
mod listeners;
mod metrics;
mod moderation;
mod monitoring;
mod numbers;
mod proxies;
mod relisten;
mod reload;
mod shells;
mod shutdown;
mod support;
mod systemd;
mod tls;
mod tokens;
mod top;
