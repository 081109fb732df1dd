//! The daemon as a whole: the real `wschat` and the real `wschatctl`, over real sockets. One file
//! for each behaviour; what a message means to those who chat is tested elsewhere.

mod certificates;
mod command_line;
mod control;
mod crowd;
mod documents;
mod first_start;
mod garbage;
mod handshake;
mod history;
mod http;
mod kick;
mod listeners;
mod metrics;
mod moderation;
mod proxies;
mod reload;
mod shells;
mod shutdown;
mod support;
mod systemd;
mod tls;
mod tokens;
