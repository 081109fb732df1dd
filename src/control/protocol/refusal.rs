//! The declared errors of the interfaces, with the words that people read.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use super::SERVICE;

/// Every declared error. The text of each is for people; programs have name and parameters.
#[derive(Clone, Debug, PartialEq, Error, Serialize, Deserialize)]
#[serde(tag = "error", content = "parameters")]
pub enum Refusal {
    #[error(
        "this socket does not take {interface}; is it the right socket, and the daemon not older than this command?"
    )]
    InterfaceNotFound { interface: String },
    #[error("the daemon has no method {method}; is it older than this command?")]
    MethodNotFound { method: String },
    #[error("the daemon has method {method} only by name")]
    MethodNotImplemented { method: String },
    #[error("parameter {parameter} is missing, unknown or of the wrong type")]
    InvalidParameter { parameter: String },
    #[error("the call answers many times: call it with \"more\"")]
    ExpectedMore {},
    #[error("{parameter} cannot be {value:?}: expected {expected}")]
    BadValue { parameter: String, value: String, expected: String },
    #[error("that would be everyone: say {expected}")]
    EmptyFilter { expected: String },
    #[error("there is no connection {id} (any more); `wschatctl list` shows those that are there")]
    NoSuchClient { id: u64 },
    #[error("there is no room {room:?}; `wschatctl rooms` shows those that are there")]
    NoSuchRoom { room: String },
    #[error("there is no message {seq} in {room} that could be deleted: it may have been deleted already")]
    NoSuchMessage { room: String, seq: u64 },
    #[error("there is no ban {id} (any more); `wschatctl ban list` shows those in force")]
    NoSuchBan { id: u64 },
    #[error("there is no mute {id} (any more); `wschatctl mute list` shows those in force")]
    NoSuchMute { id: u64 },
    #[error("there are {limit} bans and mutes already; end some first, or ban a network instead of its addresses")]
    TooManySanctions { limit: u64 },
    /// The change is in force all the same; `ids` are the numbers of the bans or mutes concerned.
    #[error("done, but it could not be saved and does not outlast the daemon: {reason}; mend that and do it again")]
    NotSaved { ids: Vec<u64>, reason: String },
    #[error("the history cannot do it now: {reason}; `wschatctl status` shows when it can again")]
    HistoryUnavailable { reason: String },
    #[error("the daemon is not draining: there is nothing to take back")]
    NotDraining {},
    #[error("another backup is under way; try again when it is done")]
    BackupUnderWay {},
    #[error(
        "there is nothing to back up: with history.store = {store:?} nothing is kept on disk; set it to \"sqlite\""
    )]
    NothingToBackUp { store: String },
    #[error("there is no backup: {reason}")]
    BackupFailed { reason: String },
    #[error("there is no token to be had: {reason}")]
    NoSecret { reason: String },
    #[error("nothing has changed: {reason}")]
    ReloadRefused { reason: String },
    #[error("the daemon's operators' queue is full; try again in a moment")]
    Busy {},
    #[error("the daemon did not answer within {seconds} s; `journalctl -u wschat` may say why")]
    TimedOut { seconds: u64 },
    #[error("the daemon is stopping; try again when it has started")]
    Stopping {},
    #[error("{limit} others hold this socket open already; end one of them and try again")]
    TooManyConnections { limit: u64 },
    #[error("the call has more than {limit} bytes; name fewer connections in one call")]
    CallTooLarge { limit: u64 },
    #[error("these bytes are no Varlink call: {reason}")]
    Malformed { reason: String },
}

impl Refusal {
    fn is_standard(&self) -> bool {
        matches!(
            self,
            Refusal::InterfaceNotFound { .. }
                | Refusal::MethodNotFound { .. }
                | Refusal::MethodNotImplemented { .. }
                | Refusal::InvalidParameter { .. }
                | Refusal::ExpectedMore { .. }
        )
    }

    /// The full name and the parameters, where `interface` is the one that was called.
    pub fn to_wire(&self, interface: &str) -> (String, Value) {
        let mut tagged = serde_json::to_value(self).expect("errors have string keys and finite numbers only");
        let name = tagged["error"].as_str().unwrap_or_default();
        let interface = if self.is_standard() { SERVICE } else { interface };
        (format!("{interface}.{name}"), tagged["parameters"].take())
    }

    /// What a daemon answered; `None` for an error that is not known here.
    pub fn from_wire(name: &str, parameters: Option<Value>) -> Option<Self> {
        let (_, short) = name.rsplit_once('.')?;
        let parameters = parameters.unwrap_or_else(|| serde_json::json!({}));
        serde_json::from_value(serde_json::json!({"error": short, "parameters": parameters})).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::{CONTROL, PUSH};

    #[test]
    fn errors_travel_both_ways() {
        let refusal = Refusal::NoSuchClient { id: 7 };
        let (name, parameters) = refusal.to_wire(CONTROL);
        assert_eq!(name, "org.wschat.Control.NoSuchClient");
        assert_eq!(parameters, serde_json::json!({"id": 7}));
        assert_eq!(Refusal::from_wire(&name, Some(parameters)), Some(refusal));
        let (name, parameters) = Refusal::ExpectedMore {}.to_wire(PUSH);
        assert_eq!((name.as_str(), parameters), ("org.varlink.service.ExpectedMore", serde_json::json!({})));
        assert_eq!(Refusal::from_wire("org.varlink.service.ExpectedMore", None), Some(Refusal::ExpectedMore {}));
        assert_eq!(Refusal::from_wire("org.example.Odd", None), None);
    }
}
