//! `wschatctl backup` against a daemon that says something else than it gives, or goes half-way: no
//! such copy is taken for a good one, and what was there stays.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread::JoinHandle;

use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::commands::ends;
use crate::fake::{Ran, ctl_command, run};

/// Answers one call with these replies, and hangs up.
fn daemon(socket: &Path, replies: Vec<Value>) -> JoinHandle<()> {
    let listener = UnixListener::bind(socket).expect("our own folder");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("it comes");
        let mut byte = [1];
        while byte != [0] {
            stream.read_exact(&mut byte).expect("a whole call");
        }
        for reply in replies {
            let mut bytes = reply.to_string().into_bytes();
            bytes.push(0);
            // Who has heard enough may have gone.
            let _ = stream.write_all(&bytes);
        }
    })
}

fn sha256(bytes: &[u8]) -> String {
    digest::digest(&digest::SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn part(parameters: Value) -> Value {
    json!({"parameters": parameters, "continues": true})
}

fn chunk(bytes: &[u8]) -> Value {
    part(json!({"chunk": BASE64_STANDARD.encode(bytes)}))
}

fn whole(bytes: usize, sha256: &str) -> Value {
    json!({"parameters": {"whole": {"bytes": bytes, "sha256": sha256, "rooms": 1, "entries": 2}}})
}

/// What the command does with these replies, where `before` was in the file, and what is in it then.
fn taken(replies: Vec<Value>, before: Option<&[u8]>) -> (Ran, Option<Vec<u8>>) {
    let folder = TempDir::new().expect("a temporary folder");
    let (socket, file) = (folder.path().join("socket"), folder.path().join("copy.db"));
    if let Some(before) = before {
        fs::write(&file, before).expect("our own");
    }
    let daemon = daemon(&socket, replies);
    let mut command = ctl_command(&["backup", file.to_str().expect("a plain path"), "--force"]);
    command.env("WSCHAT_SOCKET", &socket);
    let ran = run(command, b"");
    daemon.join().expect("it was asked");
    assert!(!folder.path().join("copy.db.partial").exists(), "half of it is left: {ran:?}");
    (ran, fs::read(&file).ok())
}

#[test]
fn what_is_not_whole_is_not_kept() {
    let (one, two) = (b"one ".as_slice(), b"two".as_slice());
    let good = sha256(b"one two");
    let progress = part(json!({"progress": {"bytes": 1, "of": 7}}));
    let (ran, file) = taken(vec![progress.clone(), chunk(one), chunk(two), whole(7, &good)], Some(b"old"));
    assert_eq!((ran.status, file.as_deref()), (0, Some(b"one two".as_slice())), "{ran:?}");

    let garbled = "there is no backup: ";
    let stopping = json!({"error": "org.wschat.Control.Stopping", "parameters": {}});
    let failed = json!({"error": "org.wschat.Control.BackupFailed", "parameters": {"reason": "the disk is full"}});
    let ended = json!({"parameters": {}});
    let bad = part(json!({"chunk": "no Base64!"}));
    for (replies, status, words) in [
        // Other bytes, as many; fewer; the same with another sum; more than it says.
        (vec![chunk(one), chunk(b"too"), whole(7, &good)], 70, garbled),
        (vec![chunk(one), whole(7, &good)], 70, garbled),
        (vec![chunk(one), chunk(two), whole(7, &sha256(b"other"))], 70, garbled),
        (vec![chunk(one), chunk(two), whole(4, &good)], 70, garbled),
        (vec![chunk(one), bad], 70, garbled),
        (vec![chunk(one), ended], 70, "without an end"),
        // It is killed, it stops, it cannot go on.
        (vec![chunk(one), chunk(two)], 69, "closed the connection before it had answered"),
        (vec![progress], 69, "closed the connection before it had answered"),
        (vec![chunk(one), stopping], 69, "stopping"),
        (vec![chunk(one), failed], 75, "the disk is full"),
    ] {
        for before in [None, Some(b"precious".as_slice())] {
            let (ran, file) = taken(replies.clone(), before);
            ends(&ran, status, words);
            assert_eq!(ran.stdout, "");
            assert_eq!(file.as_deref(), before, "{words}");
        }
    }
}

/// Through a pipe the bytes are gone already: the status says what they are.
#[test]
fn who_pipes_it_is_told_by_the_status() {
    let folder = TempDir::new().expect("a temporary folder");
    let socket = folder.path().join("socket");
    let daemon = daemon(&socket, vec![chunk(b"half"), whole(7, &sha256(b"one two"))]);
    let mut command = ctl_command(&["backup", "-"]);
    command.env("WSCHAT_SOCKET", &socket);
    let ran = run(command, b"");
    daemon.join().expect("it was asked");
    ends(&ran, 70, "not what the daemon says");
}

/// The night's backup and an operator's into the same file at the same time: the one that came first
/// goes on, and what it keeps is its own.
#[test]
fn two_into_the_same_file_do_not_mix() {
    let folder = TempDir::new().expect("a temporary folder");
    let (socket, file) = (folder.path().join("socket"), folder.path().join("copy.db"));
    let listener = UnixListener::bind(&socket).expect("our own folder");
    let command = || {
        let mut command = ctl_command(&["backup", file.to_str().expect("a plain path"), "--force"]);
        command.env("WSCHAT_SOCKET", &socket);
        command
    };
    let first = command();
    let first = std::thread::spawn(move || run(first, b""));
    let (mut stream, _) = listener.accept().expect("it comes");
    let mut byte = [1];
    while byte != [0] {
        stream.read_exact(&mut byte).expect("a whole call");
    }
    // It has made its file before it asked.
    assert!(folder.path().join("copy.db.partial").exists());
    let second = run(command(), b"");
    assert_eq!(second.status, 73, "{second:?}");
    assert!(second.stderr.contains("another backup"), "{second:?}");
    for reply in [chunk(b"one two"), whole(7, &sha256(b"one two"))] {
        let mut bytes = reply.to_string().into_bytes();
        bytes.push(0);
        stream.write_all(&bytes).expect("it listens");
    }
    let first = first.join().expect("it ends");
    assert_eq!(first.status, 0, "{first:?}");
    assert_eq!(fs::read(&file).expect("it is there"), b"one two");
    assert!(!folder.path().join("copy.db.partial").exists());
}
