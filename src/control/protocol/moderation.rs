//! What is said about stored messages, bans, mutes and tokens.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Failure;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CloseRoom {
    pub room: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoomClosed {
    pub matched: u64,
    pub done: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PurgeRoom {
    pub room: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeleteMessage {
    pub room: String,
    pub seq: u64,
}

/// What a purge or a deletion has left: the seq of the entry that tells of it, and how many
/// entries it took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Removed {
    pub seq: u64,
    pub removed: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct History {
    pub room: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    pub follow: bool,
}

/// A page of a room's stored entries, ascending. `E` is a frame: the daemon has it as text, whoever
/// asks reads an [`Entry`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryPage<E = Entry> {
    pub room: String,
    pub epoch: String,
    /// The oldest entry that is kept; `head + 1` where none is.
    pub first: u64,
    pub head: u64,
    pub entries: Vec<E>,
    /// The limit has kept back others that are stored.
    pub more: bool,
}

/// A frame as the clients in the room have got it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    #[serde(rename = "type")]
    pub kind: String,
    pub payload: Value,
    pub seq: u64,
}

/// Exactly one of `ip` and `user` is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AddBan {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The connections that a new ban concerned, and what became of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Banned {
    pub id: u64,
    pub matched: u64,
    pub done: u64,
    pub failed: Vec<Failure>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ban {
    pub id: u64,
    pub ip: Option<String>,
    pub user: Option<String>,
    pub reason: String,
    pub by: String,
    pub since: String,
    pub until: Option<String>,
    /// Seconds until then.
    pub left: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bans {
    pub bans: Vec<Ban>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OneBan {
    pub ban: Ban,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AddMute {
    pub user: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `matched`: the user's connections that are here.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Muted {
    pub id: u64,
    pub matched: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mute {
    pub id: u64,
    pub user: String,
    /// Absent: everywhere.
    pub room: Option<String>,
    pub reason: String,
    pub by: String,
    pub since: String,
    pub until: Option<String>,
    pub left: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mutes {
    pub mutes: Vec<Mute>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OneMute {
    pub mute: Mute,
}

/// What is absent stays; one of `seconds` and `forever` at the most.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EditSanction {
    pub id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forever: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A ban or a mute by its number.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Numbered {
    pub id: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MintToken {
    pub user: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rooms: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roles: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Minted {
    pub token: String,
    pub expires: String,
}
