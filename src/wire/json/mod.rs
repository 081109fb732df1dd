//! The JSON dialect: one object a message, with `type`, `payload` and `seq`.
//!
//! [`parse`] reads what a client says, [`encode`] writes what the daemon says. Neither knows who
//! may say what.

mod encode;
mod parse;

pub use encode::{Extra, bye, encode, entry, ping, pong};
pub use parse::{HelloFrame, Parsed, Refusal, Said, parse};

#[cfg(test)]
mod tests;
