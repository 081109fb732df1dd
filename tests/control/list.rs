//! `wschatctl list` while the daemon is still telling: nobody waits for the last row to see the first.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fake::{Daemon, ctl_command, some};

/// Reads until this has come.
#[track_caller]
fn reads(from: &mut impl Read, wanted: &str) -> String {
    let mut read = String::new();
    let mut byte = [0];
    while !read.contains(wanted) {
        assert_eq!(from.read(&mut byte).expect("it goes on"), 1, "it has ended: {read}");
        read.push(byte[0].into());
    }
    read
}

#[test]
fn the_first_rows_are_there_before_the_last_page() {
    let all = Daemon::start(some()).json(&["list"])["clients"].take();
    let Value::Array(clients) = all else { panic!("no list: {all}") };
    let folder = TempDir::new().expect("a temporary folder");
    let socket = folder.path().join("socket");
    let listener = UnixListener::bind(&socket).expect("our own folder");
    let mut terminal = Command::new("script");
    terminal.args(["-qefc", &format!("{} list", env!("CARGO_BIN_EXE_wschatctl")), "/dev/null"]);
    terminal.env("WSCHAT_SOCKET", &socket).env("NO_COLOR", "1").env("TERM", "xterm");
    let piped = |arguments: &[&str]| {
        let mut command = ctl_command(arguments);
        command.env("WSCHAT_SOCKET", &socket);
        command
    };
    for mut command in [terminal, piped(&["list"]), piped(&["list", "--json"])] {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("it can be run");
        let (mut stream, _) = listener.accept().expect("it comes");
        let mut byte = [1];
        while byte != [0] {
            stream.read_exact(&mut byte).expect("a whole call");
        }
        let mut page = |clients: &[Value], continues: bool| {
            let page = json!({"parameters": {"clients": clients, "matched": 3}, "continues": continues});
            stream.write_all((page.to_string() + "\0").as_bytes()).expect("it listens");
        };
        let shown = child.stdout.as_mut().expect("it is piped");
        // By its address: no other row has it.
        page(&clients[..1], true);
        let first = reads(shown, "192.0.2.1");
        assert!(!first.contains("2001:db8::3"), "{first}");
        page(&clients[1..], false);
        reads(shown, "2001:db8::3");
        assert!(child.wait().expect("our own child").success());
    }
}
