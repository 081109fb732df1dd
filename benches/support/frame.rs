//! The little of RFC 6455 that the floor and the load speak: whole frames, no fragments, no extensions.

pub const TEXT: u8 = 1;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// Every mask of the load. Masks protect proxies from scripts in browsers; neither exists here, but a server must
/// still do the work of taking one off.
const MASK: [u8; 4] = [0x5a, 0xc3, 0x17, 0xe8];

#[derive(Debug, thiserror::Error)]
#[error("a frame that nobody here sends: header {0:02x} {1:02x}")]
pub struct BadFrame(u8, u8);

/// A whole frame at the start of a buffer.
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    pub opcode: u8,
    /// As received: still masked where the peer is a client.
    pub payload: &'a [u8],
    mask: Option<[u8; 4]>,
    /// Bytes that the frame takes, header included.
    pub taken: usize,
}

impl Frame<'_> {
    /// Appends the payload without its mask.
    pub fn unmask_into(&self, out: &mut Vec<u8>) {
        let from = out.len();
        out.extend_from_slice(self.payload);
        if let Some(mask) = self.mask {
            out[from..].iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        }
    }
}

/// The first frame of `buf`, or `None` while it is incomplete.
#[inline]
pub fn first(buf: &[u8]) -> Result<Option<Frame<'_>>, BadFrame> {
    let [one, two, ..] = *buf else { return Ok(None) };
    if one & 0xf0 != 0x80 {
        return Err(BadFrame(one, two));
    }
    let (mut at, len) = match (two & 0x7f, &buf[2..]) {
        (126, [a, b, ..]) => (4, usize::from(u16::from_be_bytes([*a, *b]))),
        (126, _) => return Ok(None),
        // Nothing that is sent here comes near 64 KiB.
        (127, _) => return Err(BadFrame(one, two)),
        (len, _) => (2, usize::from(len)),
    };
    let mut mask = None;
    if two & 0x80 != 0 {
        let Some(key) = buf[at..].first_chunk::<4>() else { return Ok(None) };
        mask = Some(*key);
        at += 4;
    }
    let Some(payload) = buf.get(at..at + len) else { return Ok(None) };
    Ok(Some(Frame { opcode: one & 0x0f, payload, mask, taken: at + len }))
}

/// Appends the header of a final frame. `len` is below 64 KiB.
pub fn put_header(out: &mut Vec<u8>, opcode: u8, len: usize, masked: bool) {
    let bit = if masked { 0x80 } else { 0 };
    out.push(0x80 | opcode);
    match u16::try_from(len).expect("nothing that is sent here comes near 64 KiB") {
        short @ 0..=125 => out.push(bit | short as u8),
        long => {
            out.push(bit | 126);
            out.extend_from_slice(&long.to_be_bytes());
        }
    }
}

/// Appends a client's frame.
pub fn put_masked(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    put_header(out, opcode, payload.len(), true);
    out.extend_from_slice(&MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}
