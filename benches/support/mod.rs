//! What the benches share: the floor, the load, the ways to start a server and to read its costs, the report.
//!
//! A bench is one program with three lives: it measures, and it is re-executed as `floor` and as `launch`, so that
//! the CPU time and the memory of every server are those of a process of its own.
#![allow(dead_code, reason = "several benches include this module, and each uses a part of it")]

pub mod floor;
pub mod frame;
pub mod histogram;
pub mod load;
pub mod machine;
pub mod options;
pub mod report;
pub mod run;
pub mod server;
pub mod wire;

use nix::errno::Errno;

#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("{doing}: {error}")]
    Io { doing: String, error: std::io::Error },
    #[error("{doing}: {errno}")]
    System { doing: &'static str, errno: Errno },
    #[error("{name} {how}; it said:\n{log}")]
    Server { name: String, how: String, log: String },
    #[error("{path} names no resident memory")]
    NoResident { path: String },
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("a PEM file of the bench's own: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    #[error("making a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("{open} of {wanted} clients could be opened{}", listed(.faults))]
    NotOpen { open: usize, wanted: usize, faults: Vec<(String, usize)> },
    #[error("the daemon delivered {delivered} of {expected} messages when it was asked for a sample")]
    NoSample { delivered: u64, expected: u64 },
    #[error("{needed} descriptors are needed, {allowed} are allowed (ulimit -Hn)")]
    Descriptors { needed: u64, allowed: u64 },
    #[error("the plain database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("{server}: {fault}")]
    Sender { server: String, fault: String },
    #[error("writing JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl BenchError {
    pub fn io(doing: impl ToString) -> impl FnOnce(std::io::Error) -> BenchError {
        move |error| BenchError::Io { doing: doing.to_string(), error }
    }

    pub fn system(doing: &'static str) -> impl Fn(Errno) -> BenchError + Copy {
        move |errno| BenchError::System { doing, errno }
    }
}

fn listed(faults: &[(String, usize)]) -> String {
    faults.iter().map(|(what, count)| format!("; {count} × {what}")).collect()
}
