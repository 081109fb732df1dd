//! What goes over a WebSocket: bytes from and to the chat's types, without I/O.
//!
//! Who may say what is the chat's affair; here is only how it is written.

pub mod close;
pub mod frame;
pub mod json;
pub mod text;
