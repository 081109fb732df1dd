//! A text message as the bytes of one WebSocket frame, so that all receivers share them.
//!
//! Only this one frame: everything else about RFC 6455 is the WebSocket library's.

use bytes::{BufMut, Bytes, BytesMut};

/// FIN and the opcode of text (RFC 6455, section 5.2).
const TEXT: u8 = 0x81;

/// The frame from a server for a text message: whole, not masked.
pub fn text_frame(text: &str) -> Bytes {
    let mut frame = BytesMut::with_capacity(text.len() + 10);
    frame.put_u8(TEXT);
    match text.len() {
        len @ 0..=125 => frame.put_u8(len as u8),
        len @ 126..=0xffff => {
            frame.put_u8(126);
            frame.put_u16(len as u16);
        }
        len => {
            frame.put_u8(127);
            frame.put_u64(len as u64);
        }
    }
    frame.put_slice(text.as_bytes());
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;
    use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocket};

    fn read(bytes: &[u8]) -> Vec<Message> {
        let mut socket = WebSocket::from_raw_socket(Cursor::new(bytes.to_vec()), Role::Client, None);
        std::iter::from_fn(|| socket.read().ok()).collect()
    }

    #[test]
    fn every_form_of_the_length() {
        for len in [0, 1, 125, 126, 127, 65_535, 65_536, 200_000] {
            let text = "x".repeat(len);
            assert_eq!(read(&text_frame(&text)), [Message::text(text)], "{len}");
        }
    }

    proptest! {
        #[test]
        fn frames_in_a_row_are_read_as_they_were(texts in prop::collection::vec("\\PC{0,300}", 1..5)) {
            let bytes: Vec<u8> = texts.iter().flat_map(|text| text_frame(text)).collect();
            let expected: Vec<Message> = texts.into_iter().map(Message::text).collect();
            prop_assert_eq!(read(&bytes), expected);
        }
    }
}
