//! Divides a message into frames (RFC 6455, section 5.4).
//!
//! Control frames may be sent between two frames of a message. So they need not wait for the end of
//! a long one.

use bytes::Bytes;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::frame::{Frame, FrameHeader};

/// The frames of one message that have not been encoded yet.
pub(super) struct Fragments {
    /// The kind of the next frame. After the first frame, it is [`Data::Continue`].
    kind: Data,
    /// The payload of the frames.
    rest: Bytes,
    /// The maximum payload of a frame.
    size: usize,
}

impl Fragments {
    /// Divides a message if its payload is longer than `size`, which is at least 1. Returns other
    /// messages in `Err`.
    pub(super) fn divide(
        message: tungstenite::Message,
        size: usize,
    ) -> Result<Fragments, tungstenite::Message> {
        let (kind, rest) = match message {
            tungstenite::Message::Text(text) if text.len() > size => (Data::Text, text.into()),
            tungstenite::Message::Binary(bytes) if bytes.len() > size => (Data::Binary, bytes),
            other => return Err(other),
        };
        Ok(Fragments { kind, rest, size })
    }

    /// Returns the next frame. The last one has the final bit, and must not be followed by another
    /// call.
    pub(super) fn next_frame(&mut self) -> Frame {
        let payload = self.rest.split_to(self.size.min(self.rest.len()));
        let kind = std::mem::replace(&mut self.kind, Data::Continue);
        let header = FrameHeader {
            is_final: self.rest.is_empty(),
            opcode: OpCode::Data(kind),
            ..FrameHeader::default()
        };
        // A part of a character may be at the end: only whole messages have to be UTF-8.
        Frame::from_payload(header, payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tungstenite::Message;

    fn frames(message: Message, size: usize) -> Vec<Frame> {
        let mut fragments = Fragments::divide(message, size).ok().unwrap();
        let mut frames = vec![fragments.next_frame()];
        while !frames.last().unwrap().header().is_final {
            frames.push(fragments.next_frame());
        }
        frames
    }

    #[test]
    fn a_message_of_the_maximum_length_is_not_divided() {
        let message = Message::binary(vec![0; 10]);
        assert_eq!(Fragments::divide(message.clone(), 10).err(), Some(message));
        let message = Message::text("");
        assert_eq!(Fragments::divide(message.clone(), 1).err(), Some(message));
    }

    proptest! {
        #[test]
        fn the_frames_are_the_message(text in "\\PC{1,40}", size in 1usize..50, is_text: bool) {
            prop_assume!(text.len() > size);
            let (message, kind) = match is_text {
                true => (Message::text(text.clone()), Data::Text),
                false => (Message::binary(text.clone()), Data::Binary),
            };
            let frames = frames(message, size);
            let (first, others) = frames.split_first().unwrap();
            prop_assert_eq!(first.header().opcode, OpCode::Data(kind));
            for frame in others {
                prop_assert_eq!(frame.header().opcode, OpCode::Data(Data::Continue));
            }
            let (last, others) = frames.split_last().unwrap();
            prop_assert!(!last.payload().is_empty() && last.payload().len() <= size);
            for frame in others {
                prop_assert_eq!(frame.payload().len(), size);
            }
            let payload: Vec<&[u8]> = frames.iter().map(Frame::payload).collect();
            prop_assert_eq!(payload.concat(), text.into_bytes());
        }
    }
}
