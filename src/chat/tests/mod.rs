//! The chat driven as plain calls. [`world`] is the small language of these tests: it performs the
//! effects as the workers and the log would, and checks after every step what must always hold.

mod crowd;
mod fake_log;
mod grants;
mod moderation;
mod peer;
mod people;
mod resume;
mod simulation;
mod talk;
mod world;
