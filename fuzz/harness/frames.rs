//! A real connection with both of its threads, and a peer that sends anything.

use std::time::{Duration, Instant};

use http::HeaderValue;
use http::header::{self, HeaderName};

use super::inflate::Inflater;
use super::meaning::{self, Ending, Meaning};
use super::peer::talk;
use crate::fuzzing::Role;
use crate::fuzzing::testkit::decisions::Decisions;
use crate::fuzzing::testkit::frames::Data;
use crate::fuzzing::testkit::script::{ACCEPT, Peer, Receives, Script, Then};
use crate::{Error, Message, Options, Queue, Request, Side, Websocket};

/// Far longer than anything in here takes: a test that exceeds it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long closing may take where the peer is known not to answer.
const MOMENT: Duration = Duration::from_millis(5);

/// A client that sends anything to this crate's server.
pub fn frames_from_a_client(input: &[u8]) {
    converse(Role::Server, input);
}

/// A server that sends anything to this crate's client.
pub fn frames_from_a_server(input: &[u8]) {
    converse(Role::Client, input);
}

/// What this side does meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// Nothing: the peer has to end the connection.
    Listen,
    /// Closes at some time.
    Close(u16),
    /// Drops its handle at some time.
    Drop,
}

/// What the first bytes of the input decide.
struct Scene {
    role: Role,
    json: bool,
    /// Whether messages may be compressed. This side does not compress its own.
    deflates: bool,
    max_message: usize,
    options: Options,
    /// Messages that are put immediately.
    puts: Vec<Message>,
    act: Act,
    says: Vec<u8>,
    then: Then,
    receives: Receives,
}

fn converse(role: Role, input: &[u8]) {
    let mut decisions = Decisions::from_bytes(input);
    let bits = decisions.byte();
    let json = bits & 1 == 0;
    let deflates = cfg!(feature = "deflate") && bits & 64 != 0;
    const MANY: usize = 16 << 20;
    let max_message = decisions.pick(&[MANY, MANY, MANY, 0, 1, 100, 125, 126, 70_000]);
    let then = match decisions.byte() {
        0..220 => Then::End,
        220..250 => Then::Reset,
        _ => Then::Silence,
    };
    let receives = match decisions.byte() {
        0..230 => Receives::All,
        230..250 => Receives::GoneAfter(decisions.below(200)),
        _ => Receives::NothingAfter(decisions.below(200)),
    };
    let accepts = decisions.pick(&[usize::MAX, usize::MAX, usize::MAX, 1, 5, 1000]);
    let act = match decisions.byte() {
        0..230 => Act::Listen,
        230..250 => Act::Close(decisions.pick(&[1000, 1001, 1011, 4000])),
        _ => Act::Drop,
    };
    let piece = decisions.pick(&[usize::MAX, 1, 2, 3, 5, 14, 100, 1024, 4096]);
    let puts = (0..decisions.byte() % 4)
        .map(|_| put(&mut decisions))
        .collect();
    let says = match decisions.flag() {
        true => talk(&mut decisions, role, max_message, deflates),
        false => decisions.rest().to_vec(),
    };

    let mut options = Options::new()
        .json(json)
        .max_message_size(max_message)
        .ping_interval(None)
        .close_timeout(PATIENCE)
        .linger(PATIENCE)
        .paused(true);
    #[cfg(feature = "deflate")]
    if deflates {
        options = options.deflate(crate::Deflate::new().threshold(usize::MAX));
    }
    if bits & 2 != 0 {
        options.read_buffer = 1 << 10;
    }
    let is_stuck = then == Then::Silence || matches!(receives, Receives::NothingAfter(_));
    if is_stuck {
        options = options.close_timeout(MOMENT).linger(MOMENT);
        // Either of the two may end it first.
        if bits & 4 != 0 {
            options = options.ping_interval(MOMENT / 2).ping_timeout(MOMENT / 2);
        }
    }
    let scene = Scene {
        role,
        json,
        deflates,
        max_message,
        options,
        puts,
        act,
        then,
        receives,
        says,
    };
    let script = Script {
        // More pieces take time and test nothing new.
        piece: piece.max(scene.says.len() / 512),
        interrupted: bits & 8 != 0,
        then,
        accepts: accepts.max(scene.puts.iter().map(Message::len).sum::<usize>() / 64),
        refuses: bits & 16 != 0,
        receives,
        ..Script::client(Vec::new())
    };
    scene.play(script, bits & 32 != 0);
}

fn put(decisions: &mut Decisions<'_>) -> Message {
    match decisions.byte() % 4 {
        0 => Message::from(serde_json::json!({"battery": 0.5})),
        1 => Message::from(decisions.text()),
        2 => Message::from(decisions.bytes()),
        _ => Message::from(vec![
            7;
            decisions
                .pick(&[125, 126, 20_000, 65_535, 65_536, 100_000])
        ]),
    }
}

impl Scene {
    /// Runs the scene and checks the outcome. With `early`, the first bytes come in the same piece
    /// as the end of the handshake.
    fn play(self, script: Script, early: bool) {
        let (ws, peer) = self.open(script, early);
        let received = ws.subscribe_with(Queue::Unbounded);
        let mut accepted = Vec::new();
        for message in &self.puts {
            if ws.put_nowait(message.clone()).is_ok() {
                accepted.push(message.clone());
            }
        }
        ws.resume();
        let acted = self.act(&ws, &peer);
        let ws = (self.act != Act::Drop).then_some(ws);
        let mut messages = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        let reason = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match received.get_timeout(left) {
                Ok(message) => messages.push(message),
                Err(Error::Timeout) => panic!("it hangs"),
                Err(reason) => break reason,
            }
        };
        if let Some(ws) = &ws {
            let end = ws.wait_closed_timeout(PATIENCE);
            assert!(!matches!(end, Err(Error::Timeout)), "it hangs");
            assert!(ws.is_closed());
        }
        let inflater = self.deflates.then(|| Inflater::new(true, 15));
        let meaning = meaning::read(&self.says, self.role, self.max_message, inflater);
        self.check_messages(&messages, &meaning);
        self.check_reason(&reason, &meaning, acted, ws.as_ref());
        self.check_written(&peer, &accepted, &reason, &meaning, acted);
    }

    fn open(&self, script: Script, early: bool) -> (Websocket, Peer) {
        match self.role {
            Role::Server => {
                let (rest, says) = match early {
                    true => self.says.split_at(self.says.len().min(script.piece)),
                    false => (&[][..], &self.says[..]),
                };
                let sends = says.to_vec();
                let (transport, peer) = Script { sends, ..script }.connect();
                let request = Request::from_parts(self.request_head(), transport, rest);
                (self.options.accept(request), peer)
            }
            Role::Client => {
                let extensions = match self.deflates {
                    true => "Sec-WebSocket-Extensions: permessage-deflate\r\n",
                    false => "",
                };
                let mut says = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                     Connection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n{extensions}\r\n"
                )
                .into_bytes();
                let piece = match early {
                    true => script.piece.max(says.len() + 20),
                    // A piece that ends where the head ends.
                    false if script.piece > says.len() => says.len(),
                    false => script.piece,
                };
                says.extend_from_slice(&self.says);
                let script = Script {
                    is_client: false,
                    sends: says,
                    piece,
                    ..script
                };
                let (transport, peer) = script.connect();
                let ws = self.options.connect_over(transport, "ws://peer/");
                (ws.expect("a good URL"), peer)
            }
        }
    }

    /// Does what this side does. Returns whether it may have been the first to end the connection.
    fn act(&self, ws: &Websocket, peer: &Peer) -> bool {
        match self.act {
            Act::Listen if self.then == Then::Silence => {
                // The peer never ends it. All that it sends has been read by now.
                assert!(
                    peer.observer
                        .wait_until_all_is_read(Instant::now() + PATIENCE),
                    "it hangs"
                );
                let _ = ws.close();
                true
            }
            Act::Listen => false,
            Act::Close(code) => {
                // A client that is not ready yet would give up without a closing handshake.
                let _ = ws.wait_ready_timeout(PATIENCE);
                let _ = ws.close_with(code, "that is all");
                true
            }
            Act::Drop => {
                let _ = ws.wait_ready_timeout(PATIENCE);
                true
            }
        }
    }

    fn is_cooperative(&self) -> bool {
        self.receives == Receives::All && self.then != Then::Silence
    }

    fn check_messages(&self, messages: &[Message], meaning: &Meaning) {
        let expected = meaning.messages.iter().map(|data| match data {
            Data::Text(text) => Message::from_wire_text(text.as_str().into(), self.json),
            Data::Binary(bytes) => Message::from(&bytes[..]),
        });
        let expected: Vec<_> = expected.collect();
        assert_eq!(
            messages.len(),
            expected.len(),
            "{messages:?} for {expected:?}"
        );
        for (message, expected) in messages.iter().zip(&expected) {
            assert_eq!(message.to_wire(false), expected.to_wire(false));
            assert_eq!(message.as_json().is_some(), expected.as_json().is_some());
            assert!(message.len() <= self.max_message);
        }
    }

    fn check_reason(&self, reason: &Error, meaning: &Meaning, acted: bool, ws: Option<&Websocket>) {
        let text = reason.to_string();
        assert!(!text.chars().any(char::is_control), "{text:?}");
        let excused = match reason {
            Error::Internal(_) | Error::Thread(_) => false,
            // The peer did not accept what it was sent, or nobody sent a Close frame first.
            Error::Lost(_) | Error::CloseTimeout { .. } | Error::PingTimeout { .. } => {
                !self.is_cooperative()
            }
            Error::Closed(_) => acted,
            _ => false,
        };
        let expected = |ending: &Ending| match ending {
            Ending::Close(frame) => {
                if let Some(ws) = ws.filter(|_| self.is_cooperative()) {
                    assert_eq!(ws.received_close(), *frame);
                }
                let by_peer = match reason {
                    Error::Closed(close) if close.by == Side::Peer => Some(&close.frame),
                    _ => None,
                };
                by_peer == Some(frame)
            }
            Ending::Violation(deserved) => {
                matches!(reason, Error::Protocol { code, .. } if code == deserved)
            }
            Ending::TooBig => matches!(reason, Error::MessageTooBig { .. }),
            Ending::NotDeflated => matches!(reason, Error::Protocol { code: 1007, .. }),
            Ending::Lost => matches!(reason, Error::Lost(_)),
        };
        assert!(
            excused || expected(&meaning.ending) || meaning.others.iter().any(expected),
            "{reason:?} for {:?} or {:?}",
            meaning.ending,
            meaning.others
        );
    }

    fn check_written(
        &self,
        peer: &Peer,
        accepted: &[Message],
        reason: &Error,
        meaning: &Meaning,
        acted: bool,
    ) {
        let written = peer.observer.take_written();
        assert!(written.head.is_some());
        assert_eq!(written.wrong, None);
        let accepted: Vec<_> = accepted
            .iter()
            .map(|put| on_the_wire(put, self.json))
            .collect();
        assert!(
            accepted.starts_with(&written.messages),
            "what was put, in its order"
        );
        assert!(
            is_subsequence(&written.pongs, &meaning.pings),
            "answers to pings"
        );
        if !self.is_cooperative() || acted {
            return;
        }
        match &meaning.ending {
            Ending::Close(frame) => {
                assert!(matches!(reason, Error::Closed(_)), "{reason:?}");
                assert!(written.is_whole());
                let code = frame.as_ref().map(|frame| frame.code);
                assert_eq!(written.close, Some(code), "its own code is the answer");
                assert_eq!(written.messages.len(), accepted.len(), "all that was put");
                // Only a slow peer has more of them waiting.
                let kept = written.pongs.len().min(16);
                assert!(written.pongs.len() >= meaning.pings.len().min(16), "{kept}");
            }
            Ending::Lost => assert_eq!(written.close, None),
            _ => match reason {
                Error::Protocol { code, .. } => assert_eq!(written.close, Some(Some(*code))),
                Error::MessageTooBig { .. } => assert_eq!(written.close, Some(Some(1009))),
                _ => panic!("{reason:?}"),
            },
        }
    }

    fn request_head(&self) -> http::Request<()> {
        let mut head = http::Request::new(());
        let known: [(HeaderName, &str); 6] = [
            (header::HOST, "peer"),
            (header::UPGRADE, "websocket"),
            (header::CONNECTION, "Upgrade"),
            (header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="),
            (header::SEC_WEBSOCKET_VERSION, "13"),
            (header::SEC_WEBSOCKET_EXTENSIONS, "permessage-deflate"),
        ];
        for (name, value) in known {
            if name != header::SEC_WEBSOCKET_EXTENSIONS || self.deflates {
                head.headers_mut()
                    .insert(name, HeaderValue::from_static(value));
            }
        }
        head
    }
}

fn on_the_wire(message: &Message, json: bool) -> Data {
    match message.to_wire(json) {
        tungstenite::Message::Text(text) => Data::Text(text.as_str().to_owned()),
        other => Data::Binary(other.into_data().to_vec()),
    }
}

fn is_subsequence<T: PartialEq>(part: &[T], whole: &[T]) -> bool {
    let mut whole = whole.iter();
    part.iter().all(|item| whole.any(|other| other == item))
}
