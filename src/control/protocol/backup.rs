//! What is said while the history is copied.

use serde::{Deserialize, Serialize};

/// One of the three is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BackupPart {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<BackupProgress>,
    /// In Base64 (RFC 4648, section 4).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk: Option<String>,
    /// In the last reply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whole: Option<BackupWhole>,
}

/// Bytes that are copied, of so many.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackupProgress {
    pub bytes: u64,
    pub of: u64,
}

/// What all chunks together are; `sha256` in hexadecimal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackupWhole {
    pub bytes: u64,
    pub sha256: String,
    pub rooms: u64,
    pub entries: u64,
}
