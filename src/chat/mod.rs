//! The chat as a function: rooms, presence, nicks, limits and resume, without I/O or clock.
//!
//! [`hub::Hub::handle`] takes what happened and gives what is to be done. The room log is asked by
//! effects and answers by inputs, so a test drives the whole chat as plain calls.

mod cid;
pub mod event;
mod frame;
mod greet;
pub mod hub;
pub mod id;
mod join;
mod moderate;
mod nick;
mod pager;
mod people;
mod presence;
pub mod rate;
mod room;
pub mod sanction;
mod speak;
pub mod view;

#[cfg(test)]
mod tests;
