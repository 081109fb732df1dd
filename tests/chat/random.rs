//! Whatever bytes come after the upgrade: the connection ends in order, the daemon lives, and
//! nobody else notices.

use std::net::Shutdown;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::frame::{CLOSE, CONTINUE};
use crate::support::{Client, Daemon, Fin, Frame, NO_RATE};

/// Bytes that mean nothing, frames that mean something, and frames with a few bytes wrong.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop::collection::vec(any::<u8>(), 0..300);
    let frame = (any::<bool>(), 0..16_u8, 0..20_u8, payload).prop_map(|(fin, opcode, rsv, payload)| {
        // Mostly without reserved bits, or nothing would be looked at beyond them.
        Frame { fin, rsv: if rsv > 7 { 0 } else { rsv }, opcode, payload }.masked()
    });
    let words = prop::sample::select(vec![
        r#"{"type":"hello","payload":{"rooms":["random"]},"seq":1}"#,
        r#"{"type":"join","payload":{"room":"random"}}"#,
        r#"{"type":"message","payload":{"room":"random","text":"x","cid":"1"}}"#,
        r#"{"type":"history","payload":{"room":"random"}}"#,
        r#"{"type":"bye"}"#,
        r#"{"type":"#,
    ]);
    let said = words.clone().prop_map(|text| Frame::text(text).masked());
    let wrong = (words, any::<prop::sample::Index>(), any::<u8>()).prop_map(|(text, at, byte)| {
        let mut bytes = Frame::text(text).masked();
        let at = at.index(bytes.len());
        bytes[at] ^= byte;
        bytes
    });
    let half = Just(Frame::new(CONTINUE, "x").unfinished().masked());
    let noise = prop::collection::vec(any::<u8>(), 0..400);
    let piece = prop_oneof![2 => noise, 4 => frame, 3 => said, 3 => wrong, 1 => half];
    prop::collection::vec(piece, 1..12).prop_map(|pieces| pieces.concat())
}

/// Reads to the end; whether it was a good one.
fn ends_well(mut client: Client) -> Result<(), TestCaseError> {
    let mut closed = false;
    loop {
        match client.frame() {
            Ok(frame) if frame.opcode == CLOSE => {
                prop_assert!(frame.payload.len() != 1, "half a code");
                closed = true;
                // Its own end has been closed before; there is nothing to answer with.
            }
            Ok(frame) => prop_assert!(!closed, "{frame:?} after the close frame"),
            // Without a close frame the stream was lost: ours ended in the middle of something.
            Err(Fin::Orderly) => return Ok(()),
            Err(Fin::Truncated) => {
                prop_assert!(!closed, "no close_notify after a close frame");
                return Ok(());
            }
            Err(Fin::Reset) => return Err(TestCaseError::fail("reset")),
        }
    }
}

#[test]
fn any_bytes_end_in_order_and_disturb_nobody() {
    let daemon = Daemon::start(&format!("{NO_RATE}[paths]\necho = \"/echo\"\n"));
    let mut watch = daemon.guest("Watch");
    // PROPTEST_CASES asks for more.
    let cases = Config::default().cases.max(600);
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let paths = prop::sample::select(vec!["/chat", "/wss", "/echo"]);
    let outcome = runner.run(&(pieces(), paths, 0..5_u8), |(bytes, path, tls)| {
        let dial = if tls == 0 { daemon.dial_tls() } else { daemon.dial() };
        let mut client = dial.open(path);
        // It may have been closed before all of it was out.
        let _ = client.stream.put(&bytes);
        let _ = client.stream.tcp().shutdown(Shutdown::Write);
        ends_well(client)
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    // Text clients come and go in the lobby; what is said there is still heard, by those who are.
    let ack = watch.message("undisturbed");
    assert!(ack["seq"].as_u64().unwrap() >= 1);
    daemon.serves();
    assert!(!daemon.log().contains(" WARN ") && !daemon.log().contains("ERROR"));
    daemon.stop();
}
