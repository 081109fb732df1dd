//! WebSocket frames as bytes, right and wrong ones alike (RFC 6455, section 5.2).

pub const CONTINUE: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub fin: bool,
    /// The three reserved bits.
    pub rsv: u8,
    pub opcode: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(opcode: u8, payload: impl Into<Vec<u8>>) -> Self {
        Frame { fin: true, rsv: 0, opcode, payload: payload.into() }
    }

    pub fn text(text: &str) -> Self {
        Frame::new(TEXT, text)
    }

    /// A close frame with this code and reason.
    pub fn close(code: u16, reason: &[u8]) -> Self {
        Frame::new(CLOSE, [&code.to_be_bytes(), reason].concat())
    }

    /// More fragments follow.
    pub fn unfinished(self) -> Self {
        Frame { fin: false, ..self }
    }

    pub fn rsv(self, rsv: u8) -> Self {
        Frame { rsv, ..self }
    }

    fn head(&self, mask: u8) -> Vec<u8> {
        let mut bytes = vec![u8::from(self.fin) << 7 | self.rsv << 4 | self.opcode];
        match self.payload.len() {
            len @ 0..=125 => bytes.push(mask | len as u8),
            len @ 126..=0xffff => {
                bytes.push(mask | 126);
                bytes.extend((len as u16).to_be_bytes());
            }
            len => {
                bytes.push(mask | 127);
                bytes.extend((len as u64).to_be_bytes());
            }
        }
        bytes
    }

    /// As a client must send it.
    pub fn masked(&self) -> Vec<u8> {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        let mut bytes = self.head(0x80);
        bytes.extend(key);
        bytes.extend(self.payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        bytes
    }

    /// As a server sends it, and a client must not.
    pub fn unmasked(&self) -> Vec<u8> {
        [self.head(0), self.payload.clone()].concat()
    }

    /// The first frame in `bytes` and its length there, once it is whole. Panics where a server may
    /// not send such a frame.
    pub fn parse(bytes: &[u8]) -> Option<(Frame, usize)> {
        let [first, second, rest @ ..] = bytes else { return None };
        assert_eq!(second & 0x80, 0, "a server's frame is masked");
        let (len, head) = match second {
            126 => (usize::from(u16::from_be_bytes(rest.get(..2)?.try_into().ok()?)), 4),
            127 => (u64::from_be_bytes(rest.get(..8)?.try_into().ok()?) as usize, 10),
            len => (usize::from(*len), 2),
        };
        let payload = bytes.get(head..head + len)?.to_vec();
        let frame = Frame { fin: first & 0x80 != 0, rsv: first >> 4 & 7, opcode: first & 15, payload };
        assert_eq!(frame.rsv, 0, "reserved bits: {frame:?}");
        assert!(frame.opcode < CLOSE || (frame.fin && len <= 125), "a bad control frame: {frame:?}");
        Some((frame, head + len))
    }
}
