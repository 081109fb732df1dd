//! What is said about a drain.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Drain {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
}

/// How far a drain is: `matched` were open when it began, `done` of them have gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrainState {
    pub matched: u64,
    pub done: u64,
    pub left: u64,
    /// When the last of them is asked to go.
    pub until: String,
}

/// The same, and the daemon's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drained {
    pub matched: u64,
    pub done: u64,
    pub left: u64,
    pub until: String,
    pub state: String,
}

/// How far a drain had come that was taken back.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resumed {
    pub matched: u64,
    pub done: u64,
    pub left: u64,
}
