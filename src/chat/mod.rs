//! The chat as a function: rooms, presence, nicks, limits and resume, without I/O or clock.

pub mod event;
pub mod id;
