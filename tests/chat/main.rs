//! The chat as strangers meet it: the real daemon, real sockets, and a client that owns every byte
//! it sends. What belongs here is what a browser or a broken program can see; the page, listeners,
//! certificates and systemd have tests of their own.

mod bad_frames;
mod bad_json;
mod closing;
mod echo;
mod kick;
mod limits;
mod presence;
mod random;
mod resume;
mod slow;
mod stop;
mod support;
mod talk;
mod text;
