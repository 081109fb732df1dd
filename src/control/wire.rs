//! The envelope of Varlink: calls, replies, and parameters read one by one.
//!
//! It knows no method of ours. A parameter that nobody asked for is refused: a misspelt member of
//! a filter must never widen it.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::protocol::Refusal;

/// The longest call that is taken, without its NUL. The longest useful one names every connection.
pub const MAX_CALL: usize = 1024 * 1024;

/// What a caller says.
#[derive(Debug, Serialize, Deserialize)]
pub struct Call<P = Value> {
    /// `interface.Method`.
    pub method: String,
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub parameters: Option<P>,
    /// The caller takes several replies.
    #[serde(default, skip_serializing_if = "is_not")]
    pub more: Option<bool>,
    /// The caller takes no reply.
    #[serde(default, skip_serializing_if = "is_not")]
    pub oneway: Option<bool>,
    /// The caller wants the connection for another protocol afterwards.
    #[serde(default, skip_serializing_if = "is_not")]
    pub upgrade: Option<bool>,
}

/// What it is answered.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reply<P = Value> {
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub parameters: Option<P>,
    /// More replies to the same call follow.
    #[serde(default, skip_serializing_if = "is_not")]
    pub continues: Option<bool>,
    /// The full name of a declared error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

fn is_not(flag: &Option<bool>) -> bool {
    *flag != Some(true)
}

/// A message's bytes with the NUL that ends it. JSON never holds a NUL byte of its own.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(message).expect("our messages have string keys and finite numbers only");
    bytes.push(0);
    bytes
}

/// A call's parameters, taken out one by one; what is left at the end is refused.
#[derive(Debug)]
pub struct Parameters {
    left: Map<String, Value>,
    /// In front of the names in refusals: `filter.` for what is inside a filter.
    prefix: &'static str,
}

impl Parameters {
    pub fn new(parameters: Option<Value>) -> Result<Self, Refusal> {
        Self::inside(parameters.unwrap_or(Value::Null), "parameters", "")
    }

    /// The members of the object that was found as `name`.
    pub fn inside(value: Value, name: &str, prefix: &'static str) -> Result<Self, Refusal> {
        match value {
            Value::Object(left) => Ok(Parameters { left, prefix }),
            Value::Null => Ok(Parameters { left: Map::new(), prefix }),
            _ => Err(Refusal::InvalidParameter { parameter: name.to_owned() }),
        }
    }

    /// `None` where it is absent or null.
    pub fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, Refusal> {
        match self.left.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value).map(Some).map_err(|_| self.invalid(name)),
        }
    }

    pub fn need<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, Refusal> {
        self.take(name)?.ok_or_else(|| self.invalid(name))
    }

    /// Refuses what nobody has taken.
    pub fn end(self) -> Result<(), Refusal> {
        match self.left.keys().next() {
            None => Ok(()),
            Some(name) => Err(self.invalid(name)),
        }
    }

    fn invalid(&self, name: &str) -> Refusal {
        // A stranger chose the name: keep the answer short.
        let name: String = name.chars().take(64).collect();
        Refusal::InvalidParameter { parameter: format!("{}{name}", self.prefix) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_nobody_takes_is_refused_by_name() {
        let mut parameters = Parameters::inside(json!({"user": "ann", "rom": "x"}), "filter", "filter.").unwrap();
        assert_eq!(parameters.take::<String>("user").unwrap().as_deref(), Some("ann"));
        assert_eq!(parameters.end(), Err(Refusal::InvalidParameter { parameter: "filter.rom".into() }));
    }

    #[test]
    fn null_is_absent_and_a_wrong_type_is_named() {
        let mut parameters = Parameters::new(Some(json!({"a": null, "b": "1"}))).unwrap();
        assert_eq!(parameters.take::<u64>("a").unwrap(), None);
        assert_eq!(parameters.need::<u64>("b"), Err(Refusal::InvalidParameter { parameter: "b".into() }));
        assert_eq!(parameters.need::<u64>("c"), Err(Refusal::InvalidParameter { parameter: "c".into() }));
        assert!(Parameters::new(Some(json!([1]))).is_err());
    }
}
