//! The control sockets and `wschatctl` together: the real server on a real Unix socket, the real
//! program, and a daemon behind them that is played by [`fake`] and [`store`].

mod backup;
mod bind;
mod commands;
mod drain;
mod fake;
mod history;
mod interface;
mod list;
mod moderation;
mod socket;
mod stats;
mod statuses;
mod store;
