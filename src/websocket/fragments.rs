//! Divides a message into frames (RFC 6455, section 5.4), and compresses it (RFC 7692, section 6).
//!
//! Control frames may be sent between two frames of a message. So they need not wait for the end of
//! a long one.

use std::io;

use bytes::Bytes;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::frame::{Frame, FrameHeader};

use crate::message::{Compression, Message};
use crate::net::deflate::Deflater;

/// The number of bytes that are compressed at a time. Control frames may be sent in between.
const PART: usize = 64 << 10;

/// The maximum length of a message that is compressed once for all connections of a broadcast. The
/// others wait meanwhile, and send no control frames.
const MAX_SHARED: usize = 1 << 20;

/// The frames of one message that have not been encoded yet.
pub(super) struct Fragments {
    /// The kind of the next frame. After the first frame, it is [`Data::Continue`].
    kind: Data,
    is_compressed: bool,
    /// The part of the message that has to be compressed.
    input: Bytes,
    /// The payload of the next frames. More follows while `input` is not empty.
    ready: Bytes,
    /// The maximum payload of a frame, which is at least 1.
    size: usize,
}

/// A message as it is sent.
pub(super) enum WireForm {
    /// The codec sends it in one frame.
    Whole(tungstenite::Message),
    Fragments(Fragments),
}

impl Fragments {
    /// Returns the frames of a message. `size` is the maximum payload of each, and at least 1.
    pub(super) fn of(
        message: &Message,
        json: bool,
        size: usize,
        deflater: &mut Option<Deflater>,
    ) -> io::Result<WireForm> {
        let wire = message.to_wire(json);
        let compression = message.compression();
        let deflater = deflater
            .as_mut()
            .filter(|deflater| deflater.is_worthwhile(wire.len()) && !compression.is_off());
        if deflater.is_none() && wire.len() <= size {
            return Ok(WireForm::Whole(wire));
        }
        let (kind, payload) = parts(wire);
        let is_compressed = deflater.is_some();
        let (input, ready) = match deflater {
            None => (Bytes::new(), payload),
            Some(deflater) => match shared_form(compression, &payload, json, deflater)? {
                None => (payload, Bytes::new()),
                Some(form) => (Bytes::new(), form),
            },
        };
        Ok(WireForm::Fragments(Fragments {
            kind,
            is_compressed,
            input,
            ready,
            size,
        }))
    }

    /// Returns the next frame, or `None` if more of the message has to be compressed first: then
    /// call it again. The last frame has the final bit, and must not be followed by another call.
    pub(super) fn next_frame(
        &mut self,
        deflater: &mut Option<Deflater>,
    ) -> io::Result<Option<Frame>> {
        if let (Some(deflater), false) = (deflater, self.input.is_empty()) {
            if self.ready.len() <= self.size {
                self.compress(deflater)?;
            }
            // A frame that is not the last one is full.
            if self.ready.len() <= self.size && !self.input.is_empty() {
                return Ok(None);
            }
        }
        let payload = self.ready.split_to(self.size.min(self.ready.len()));
        let is_first = self.kind != Data::Continue;
        let kind = std::mem::replace(&mut self.kind, Data::Continue);
        let header = FrameHeader {
            is_final: self.ready.is_empty() && self.input.is_empty(),
            rsv1: is_first && self.is_compressed,
            opcode: OpCode::Data(kind),
            ..FrameHeader::default()
        };
        // A part of a character may be at the end: only whole messages have to be UTF-8.
        Ok(Some(Frame::from_payload(header, payload)))
    }

    fn compress(&mut self, deflater: &mut Deflater) -> io::Result<()> {
        let part = self.input.split_to(PART.min(self.input.len()));
        let mut out = Vec::from(std::mem::take(&mut self.ready));
        deflater.compress(&part, self.input.is_empty(), &mut out)?;
        self.ready = out.into();
        Ok(())
    }
}

/// Returns the compressed form of a broadcast's message that connections share, if they can.
fn shared_form(
    compression: &Compression,
    payload: &Bytes,
    json: bool,
    deflater: &mut Deflater,
) -> io::Result<Option<Bytes>> {
    let (Some(shared), Some(settings)) = (compression.shared(), deflater.shared_settings()) else {
        return Ok(None);
    };
    if payload.len() > MAX_SHARED {
        return Ok(None);
    }
    let form = shared.get_or_compress((settings, json), || {
        let mut out = Vec::new();
        deflater.compress(payload, true, &mut out)?;
        // It is kept until the last connection has sent the message.
        out.shrink_to_fit();
        Ok(out.into())
    })?;
    Ok(Some(form))
}

/// Returns the kind and the payload of a message that is text or binary.
fn parts(message: tungstenite::Message) -> (Data, Bytes) {
    match message {
        tungstenite::Message::Text(text) => (Data::Text, text.into()),
        other => (Data::Binary, other.into_data()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames_of(message: Message, size: usize) -> WireForm {
        Fragments::of(&message, false, size, &mut None).unwrap()
    }

    fn frames(message: Message, size: usize) -> Vec<Frame> {
        let WireForm::Fragments(mut fragments) = frames_of(message, size) else {
            panic!("one frame");
        };
        let mut next = || fragments.next_frame(&mut None).unwrap().unwrap();
        let mut frames = vec![next()];
        while !frames.last().unwrap().header().is_final {
            frames.push(next());
        }
        frames
    }

    #[test]
    fn a_message_of_the_maximum_length_is_not_divided() {
        let whole = frames_of(vec![0; 10].into(), 10);
        let WireForm::Whole(tungstenite::Message::Binary(bytes)) = whole else {
            panic!("several frames");
        };
        assert_eq!(bytes, [0; 10][..]);
        assert!(matches!(frames_of("".into(), 1), WireForm::Whole(_)));
    }

    proptest! {
        #[test]
        fn the_frames_are_the_message(text in "\\PC{1,40}", size in 1usize..50, is_text: bool) {
            prop_assume!(text.len() > size);
            let (message, kind) = match is_text {
                true => (Message::from(text.clone()), Data::Text),
                false => (Message::from(text.clone().into_bytes()), Data::Binary),
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

    #[cfg(feature = "deflate")]
    mod compressed {
        use super::*;
        use crate::net::deflate::Deflate;
        use flate2::{Decompress, FlushDecompress};
        use tungstenite::protocol::Role;

        fn deflater(no_context: bool) -> Option<Deflater> {
            let settings = Deflate::new().server_no_context_takeover(no_context);
            let offer = settings.offer();
            let (agreed, _) = settings.choose([offer.as_bytes()]).unwrap().unwrap();
            agreed.deflater(Role::Server)
        }

        /// Returns the frames, and how often more had to be compressed before the next one.
        fn frames(
            message: &Message,
            size: usize,
            deflater: &mut Option<Deflater>,
        ) -> (Vec<Frame>, usize) {
            let form = Fragments::of(message, false, size, deflater).unwrap();
            let WireForm::Fragments(mut fragments) = form else {
                panic!("it is not compressed");
            };
            let (mut frames, mut delays) = (Vec::<Frame>::new(), 0);
            while frames.last().is_none_or(|frame| !frame.header().is_final) {
                match fragments.next_frame(deflater).unwrap() {
                    Some(frame) => frames.push(frame),
                    None => delays += 1,
                }
            }
            (frames, delays)
        }

        fn inflated(frames: &[Frame], inflater: &mut Decompress) -> Vec<u8> {
            let mut data: Vec<u8> = frames.iter().flat_map(|it| it.payload()).copied().collect();
            data.extend([0, 0, 0xff, 0xff]);
            let mut out = Vec::with_capacity(2 << 20);
            inflater
                .decompress_vec(&data, &mut out, FlushDecompress::Sync)
                .unwrap();
            out
        }

        proptest! {
            #![proptest_config(ProptestConfig::with_cases(30))]

            #[test]
            fn the_frames_are_the_message(
                messages in prop::collection::vec(
                    prop::collection::vec(any::<u8>(), 64..100_000), 1..4),
                size in 1_usize..20_000,
            ) {
                let mut deflater = deflater(false);
                let mut inflater = Decompress::new(false);
                for message in messages {
                    let (frames, _) = frames(&message.clone().into(), size, &mut deflater);
                    for (index, frame) in frames.iter().enumerate() {
                        let header = frame.header();
                        let kind = if index == 0 { Data::Binary } else { Data::Continue };
                        prop_assert_eq!(header.opcode, OpCode::Data(kind));
                        prop_assert_eq!(header.rsv1, index == 0);
                        prop_assert!(header.is_final || frame.payload().len() == size);
                        prop_assert!((1..=size).contains(&frame.payload().len()));
                    }
                    prop_assert!(inflated(&frames, &mut inflater) == message);
                }
            }
        }

        #[test]
        fn a_message_that_becomes_very_short_is_compressed_in_parts_too() {
            let message = vec![7; 1 << 20];
            let (frames, delays) = frames(&message.clone().into(), 64 << 10, &mut deflater(false));
            assert_eq!(delays + 1, message.len() / PART);
            assert_eq!(frames.len(), 1);
            assert!(inflated(&frames, &mut Decompress::new(false)) == message);
        }

        #[test]
        fn a_broadcast_is_compressed_once_without_context_takeover() {
            let message = Message::from(vec![7; 5000]).compressed_once();
            for _ in 0..2 {
                let mut first = deflater(true);
                let (once, _) = frames(&message, 1000, &mut first);
                let (again, _) = frames(&message, 1000, &mut deflater(true));
                let address = |frames: &[Frame]| frames[0].payload().as_ptr();
                assert_eq!(address(&once), address(&again));
                // It is left alone by the others.
                let (own, _) = frames(&message, 1000, &mut deflater(false));
                assert_ne!(address(&once), address(&own));
                for frames in [once, again, own] {
                    assert_eq!(inflated(&frames, &mut Decompress::new(false)), [7; 5000]);
                }
            }
        }

        #[test]
        fn the_choice_of_a_message_counts() {
            let message = Message::from(vec![7; 5000]).uncompressed();
            let form = Fragments::of(&message, false, 5000, &mut deflater(false)).unwrap();
            assert!(matches!(form, WireForm::Whole(_)));
        }
    }
}
