//! Looks at what one side writes: the head of the handshake, then WebSocket frames (RFC 6455, section 5.2).

/// Follows the bytes in one direction.
pub struct Wire {
    masked: bool,
    at: At,
    closes: usize,
    wrong: Option<String>,
}

enum At {
    /// The handshake; as many bytes of the empty line at its end as have come.
    Head(usize),
    /// What has come of a frame's head.
    Frame(Vec<u8>),
    /// The opcode, and how much of the payload is to come.
    Payload(u8, u64),
}

impl Wire {
    pub fn new(from_client: bool) -> Self {
        Wire {
            masked: from_client,
            at: At::Head(0),
            closes: 0,
            wrong: None,
        }
    }

    pub fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((&first, rest)) = bytes.split_first() {
            if self.wrong.is_some() {
                return;
            }
            bytes = rest;
            match &mut self.at {
                At::Head(matched) => {
                    let fits = first == b"\r\n\r\n"[*matched];
                    *matched = match fits {
                        true => *matched + 1,
                        false => usize::from(first == b'\r'),
                    };
                    if *matched == 4 {
                        self.at = At::Frame(Vec::new());
                    }
                }
                At::Frame(head) => {
                    head.push(first);
                    if let Some(length) = length(head, self.masked) {
                        let head = std::mem::take(head);
                        self.check(&head, length);
                        self.begin(head[0] & 0x0f, length);
                    }
                }
                At::Payload(opcode, left) => {
                    let more = (*left - 1).min(rest.len() as u64);
                    bytes = &rest[more as usize..];
                    let (opcode, left) = (*opcode, *left - 1 - more);
                    self.begin(opcode, left);
                }
            }
        }
    }

    fn begin(&mut self, opcode: u8, left: u64) {
        self.at = match left {
            0 => At::Frame(Vec::new()),
            _ => At::Payload(opcode, left),
        };
    }

    fn check(&mut self, head: &[u8], length: u64) {
        let opcode = head[0] & 0x0f;
        let whole = head[0] & 0x80 != 0;
        let masked = head[1] & 0x80 != 0;
        let fine = head[0] & 0x70 == 0
            && masked == self.masked
            && match opcode {
                0..=2 => true,
                8..=10 => whole && length <= 125,
                _ => false,
            };
        if !fine {
            self.wrong = Some(format!("{head:02x?} begins no frame"));
        }
        if self.closes > 0 {
            self.wrong = Some(format!("{head:02x?} follows a Close frame"));
        }
        self.closes += usize::from(opcode == 8);
    }

    pub fn wrong(&self) -> Option<String> {
        let side = if self.masked { "client" } else { "server" };
        Some(format!("from the {side}: {}", self.wrong.as_ref()?))
    }
}

/// The payload's length, once the head has come.
fn length(head: &[u8], masked: bool) -> Option<u64> {
    let short = u64::from(head.get(1)? & 0x7f);
    let extended = match short {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mask = if masked { 4 } else { 0 };
    if head.len() < 2 + extended + mask {
        return None;
    }
    let digits = &head[2..2 + extended];
    let long = digits.iter().fold(0, |n, &byte| n << 8 | u64::from(byte));
    Some(if extended == 0 { short } else { long })
}
