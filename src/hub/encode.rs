//! From the chat's frames to bytes that are ready for sockets, each dialect once.

use bytes::{Bytes, BytesMut};

use super::link::Encoded;
use crate::chat::event::{Dialect, ServerFrame};
use crate::config::Locale;
use crate::guest::GuestKey;
use crate::wire::frame::text_frame;
use crate::wire::json::{self, Extra};
use crate::wire::text;

pub struct Encoder {
    guests: GuestKey,
    pub locale: Locale,
}

impl Encoder {
    pub fn new(guests: GuestKey, locale: Locale) -> Self {
        Encoder { guests, locale }
    }

    pub fn is_welcome(&self, frame: &ServerFrame) -> bool {
        matches!(frame, ServerFrame::Welcome(_))
    }

    /// For all members of a room; `text`: some of them speak text.
    pub fn encode(&self, frame: &ServerFrame, text: bool) -> Encoded {
        Encoded { json: self.json(frame), text: if text { self.text(frame) } else { None } }
    }

    /// For one; `None` where its dialect has no such frame.
    pub fn frame_for(&self, frame: &ServerFrame, dialect: Dialect) -> Option<Bytes> {
        match dialect {
            Dialect::Json => Some(self.json(frame)),
            Dialect::Text => self.text(frame),
        }
    }

    /// Several for one, in one piece.
    pub fn page_for(&self, frames: &[ServerFrame], dialect: Dialect) -> Bytes {
        let mut page = BytesMut::new();
        for bytes in frames.iter().filter_map(|frame| self.frame_for(frame, dialect)) {
            page.extend_from_slice(&bytes);
        }
        page.freeze()
    }

    fn json(&self, frame: &ServerFrame) -> Bytes {
        let signed = match frame {
            ServerFrame::Welcome(welcome) => welcome.guest.as_deref().map(|id| self.guests.sign(id)),
            _ => None,
        };
        text_frame(&json::encode(frame, &Extra { guest: signed.as_deref() }))
    }

    fn text(&self, frame: &ServerFrame) -> Option<Bytes> {
        text::line(frame, self.locale).map(|line| text_frame(&line))
    }
}
