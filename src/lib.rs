//! wschat: the chat and notification server that a site gets with one `apt install`.
pub mod chat {
    pub mod event;
    pub mod id;
}
