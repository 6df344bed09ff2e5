use super::super::control_frames::Control;
use super::super::send_queue::{MESSAGES_PER_TURN, Progress, SendQueue};
use super::*;
use crate::backoff::Backoff;
use crate::pubsub::Take;
use parking_lot::Mutex;
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A size that the default fragment size divides.
const LONG: usize = 16 << 20;

fn plain() -> Options {
    Options::new().json(false)
}

/// The settings of a connection that keeps its messages for another one.
fn kept() -> Options {
    plain().reconnect(Backoff::new())
}

/// Returns the number of bytes on the wire of a message that a client sends.
fn wire_length(mut payload: usize, fragment_size: usize) -> usize {
    let mut length = 0;
    while payload > fragment_size {
        length += frame_length(fragment_size, WireRole::Client) as usize;
        payload -= fragment_size;
    }
    length + frame_length(payload, WireRole::Client) as usize
}

/// A frame on the wire.
#[derive(Debug)]
struct OnWire {
    first: u8,
    /// The position of its head.
    at: usize,
    payload: usize,
}

/// Parses what a server has sent.
fn frames(wire: &[u8]) -> Vec<OnWire> {
    let mut frames = Vec::new();
    let mut at = 0;
    while at < wire.len() {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
        let (payload, head) = match wire[at + 1] {
            126 => (number(&wire[at + 2..at + 4]), 4),
            127 => (number(&wire[at + 2..at + 10]), 10),
            length => (usize::from(length), 2),
        };
        frames.push(OnWire {
            first: wire[at],
            at,
            payload,
        });
        at += head + payload;
    }
    assert_eq!(at, wire.len(), "the last frame is not complete");
    frames
}

/// Takes the queued messages.
fn queued(send_queue: &SendQueue) -> VecDeque<Message> {
    let mut left = VecDeque::new();
    let count = send_queue.consumer().len();
    while left.len() < count {
        let before = left.len();
        let all = |_: &mut Control, _| ((), Take::All);
        let mut urgent = VecDeque::new();
        send_queue
            .consumer()
            .take(&mut urgent, &mut left, count, all);
        // They are taken before the others, and alone.
        left.append(&mut urgent);
        assert!(left.len() > before);
    }
    left
}

/// A transport that takes at most 10 000 bytes at a time, and then calls a function with the number
/// of bytes so far.
struct Watched<F> {
    wire: Arc<Mutex<Vec<u8>>>,
    after_write: F,
}

impl<F: FnMut(usize) + Send> Write for Watched<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(10_000);
        let written = {
            let mut wire = self.wire.lock();
            wire.extend_from_slice(&bytes[..taken]);
            wire.len()
        };
        (self.after_write)(written);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<F: FnMut(usize) + Send> WriteHalf for Watched<F> {
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write(bytes)
    }

    fn set_timeout(&mut self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends the messages, and calls `interrupt` when about a million bytes have been written. Returns
/// what is on the wire, how much of it was there at the interruption, and how the sending ended.
fn interrupted(
    options: &Options,
    messages: Vec<Message>,
    interrupt: impl Fn(&SendQueue) + Send + 'static,
) -> (Vec<u8>, usize, Progress, Arc<SendQueue>, Box<FrameWriter>) {
    let send_queue = Arc::new(SendQueue::new(1 << 30));
    let wire = Arc::new(Mutex::new(Vec::new()));
    let at = Arc::new(AtomicUsize::new(0));
    let half = Watched {
        wire: wire.clone(),
        after_write: {
            let (send_queue, at) = (send_queue.clone(), at.clone());
            move |written| {
                if written > 1_000_000 && at.load(Ordering::SeqCst) == 0 {
                    at.store(written, Ordering::SeqCst);
                    interrupt(&send_queue);
                }
            }
        },
    };
    let mut writer = FrameWriter::new(WireRole::Server, Box::new(half), options);
    for message in messages {
        send_queue.put_nowait(message).unwrap();
    }
    let progress = send_queue.write(&mut writer).unwrap();
    let wire = std::mem::take(&mut *wire.lock());
    let at = at.load(Ordering::SeqCst);
    assert!(at > 0, "there was no interruption");
    (wire, at, progress, send_queue, writer)
}

fn close_now() -> SendClose {
    SendClose {
        frame: None,
        first: SendFirst::Nothing,
    }
}

#[test]
fn a_control_frame_waits_for_at_most_one_frame_of_a_long_message() {
    type Interrupt = fn(&SendQueue);
    let cases: [(u8, Interrupt); 3] = [
        (0x8a, |send_queue| send_queue.pong("pong".into())),
        (0x89, |send_queue| send_queue.ping("ping".into())),
        (0x88, |send_queue| send_queue.send_close(close_now())),
    ];
    for fragment_size in [1000, 64 << 10] {
        let options = plain().fragment_size(fragment_size);
        for (first, interrupt) in cases {
            let long = vec![vec![0; LONG].into()];
            let (wire, at, progress, ..) = interrupted(&options, long, interrupt);
            let frames = frames(&wire);
            let control = frames.iter().find(|frame| frame.first == first).unwrap();
            // The longest frame has a head of 10 bytes.
            let passed = control.at.saturating_sub(at);
            assert!(
                passed <= fragment_size + 10,
                "{first:x} waited for {passed} bytes"
            );
            if first == 0x88 {
                assert_eq!(progress, Progress::Closed);
                assert_eq!(frames.last().unwrap().at, control.at);
            } else {
                assert_eq!(progress, Progress::Drained);
                let data = frames.iter().filter(|frame| frame.first != first);
                assert_eq!(data.map(|frame| frame.payload).sum::<usize>(), LONG);
                assert!(frames.last().unwrap().first == 0x80, "{:?}", frames.last());
            }
        }
    }
}

#[test]
fn a_pong_waits_for_about_a_fragment_of_short_messages() {
    for (fragment_size, size) in [(1000, 300), (64 << 10, 300), (64 << 10, 16_000)] {
        let options = plain().fragment_size(fragment_size);
        let messages = vec![Message::from(vec![0; size]); 3_000_000 / size];
        let pong = |send_queue: &SendQueue| send_queue.pong("pong".into());
        let (wire, at, ..) = interrupted(&options, messages, pong);
        let frames = frames(&wire);
        let pong = frames.iter().find(|frame| frame.first == 0x8a).unwrap();
        let passed = pong.at.saturating_sub(at);
        assert!(
            passed <= fragment_size + size + 10,
            "it waited for {passed} bytes"
        );
    }
}

#[test]
fn a_close_after_the_queue_follows_the_last_frame_of_a_message() {
    let messages = vec![vec![0; LONG].into(), "last".into()];
    let (wire, _, progress, ..) = interrupted(&plain(), messages, |send_queue| {
        send_queue.refuse_puts();
        send_queue.send_close(SendClose {
            frame: None,
            first: SendFirst::Queue,
        });
    });
    assert_eq!(progress, Progress::Closed);
    let frames = frames(&wire);
    let firsts: Vec<u8> = frames.iter().map(|frame| frame.first).collect();
    let [0x02, middle @ .., 0x80, 0x81, 0x88] = &firsts[..] else {
        panic!("{firsts:x?}");
    };
    assert_eq!(middle.len(), LONG / (64 << 10) - 2);
    assert!(middle.iter().all(|first| *first == 0));
}

#[test]
fn a_message_that_a_close_or_a_stop_has_cut_is_not_sent() {
    for (reconnects, stops) in [(false, false), (false, true), (true, false), (true, true)] {
        let options = if reconnects { kept() } else { plain() };
        let messages = vec!["first".into(), vec![1; LONG].into(), "last".into()];
        let (_, _, progress, send_queue, writer) =
            interrupted(&options, messages, move |send_queue| match stops {
                true => send_queue.stop(),
                false => send_queue.send_close(close_now()),
            });
        let expected = if stops {
            Progress::Stopped
        } else {
            Progress::Closed
        };
        assert_eq!(progress, expected);
        assert_eq!(writer.in_writer() + send_queue.consumer().len(), 2);
        assert_eq!(send_queue.take_back(writer.end(), false), 0);
        assert_eq!(send_queue.sent().messages.load(Ordering::Relaxed), 1);
        let left = queued(&send_queue);
        assert_eq!((left.len(), left[0].len()), (2, LONG));
        assert_eq!(left[1], "last");
    }
}

#[test]
fn a_ping_within_a_message_does_not_confirm_it() {
    let messages = vec!["first".into(), vec![0; LONG].into(), "last".into()];
    let (_, _, progress, send_queue, writer) = interrupted(&plain(), messages, |send_queue| {
        send_queue.ping("ping".into())
    });
    assert_eq!(progress, Progress::Drained);
    assert!(send_queue.ping_written().is_some());
    assert!(send_queue.answered(b"ping"));
    send_queue.take_back(writer.end(), false);
    assert_eq!(send_queue.sent().messages.load(Ordering::Relaxed), 3);
    assert_eq!(send_queue.sent().unconfirmed.load(Ordering::Relaxed), 2);
}

#[test]
fn a_thread_that_puts_a_message_writes_one_frame_of_another() {
    let send_queue = SendQueue::new(1 << 30);
    let wire = Arc::new(Mutex::new(Vec::new()));
    let half = Watched {
        wire: wire.clone(),
        after_write: |_| {},
    };
    let mut writer = FrameWriter::new(WireRole::Server, Box::new(half), &plain());
    send_queue.put_nowait(vec![0; LONG].into()).unwrap();
    assert!(!send_queue.write_now(&mut writer));
    assert_eq!(frames(&wire.lock()).len(), 1);
    assert_eq!((writer.encoded(), writer.in_writer()), (0, 1));
    assert_eq!(send_queue.write(&mut writer).unwrap(), Progress::Drained);
    assert_eq!((writer.encoded(), writer.in_writer()), (1, 0));
    assert!(send_queue.write_now(&mut writer));
}

#[test]
fn a_greeting_that_was_cut_is_not_sent_again() {
    for options in [plain(), kept()] {
        for broken_after in [0, 10, 100_000, 200_000, 400_000] {
            let send_queue = SendQueue::new(1 << 30);
            let half = Box::new(Breaks(broken_after));
            let mut writer = FrameWriter::new(WireRole::Client, half, &options);
            writer.greet(vec!["hello".into(), vec![0; 300_000].into()]);
            send_queue.put_nowait(vec![1; 300_000].into()).unwrap();
            send_queue.write(&mut writer).unwrap_err();
            assert_eq!(send_queue.take_back(writer.end(), false), 0);
            let left = queued(&send_queue);
            assert_eq!(left.len(), 1, "after {broken_after}");
            assert_eq!(left[0].as_bytes().unwrap()[0], 1);
        }
    }
}

#[test]
fn an_urgent_message_is_sent_before_all_but_the_rest_of_a_message() {
    let urgent = |send_queue: &SendQueue| {
        for text in ["urgent 1", "urgent 2"] {
            send_queue.put_urgent(text.into()).unwrap();
        }
    };
    let messages = vec![vec![0; LONG].into(), "after it".into()];
    let (wire, ..) = interrupted(&plain(), messages, urgent);
    let all = frames(&wire);
    let last: Vec<_> = all[all.len() - 4..].iter().map(|it| it.payload).collect();
    assert_eq!(last, [64 << 10, 8, 8, 8]);
    assert!(wire.ends_with(b"\x81\x08urgent 1\x81\x08urgent 2\x81\x08after it"));

    for (fragment_size, size) in [(1000, 300), (64 << 10, 300), (64 << 10, 16_000)] {
        let options = plain().fragment_size(fragment_size);
        let messages = vec![Message::from(vec![0; size]); 3_000_000 / size];
        let (wire, at, ..) = interrupted(&options, messages, urgent);
        let all = frames(&wire);
        let found = all.iter().position(|frame| frame.first == 0x81).unwrap();
        assert_eq!(all[found + 1].first, 0x81);
        let passed = all[found].at.saturating_sub(at);
        assert!(
            passed <= fragment_size + size + 10,
            "it waited for {passed} bytes"
        );
    }
}

#[test]
fn an_urgent_message_does_not_overtake_the_greeting() {
    let send_queue = SendQueue::new(1 << 20);
    let wire = Arc::new(Mutex::new(Vec::new()));
    let half = Watched {
        wire: wire.clone(),
        after_write: |_| {},
    };
    let mut writer = FrameWriter::new(WireRole::Server, Box::new(half), &plain());
    writer.greet(vec!["hello".into(), "token".into()]);
    send_queue.put_nowait("order".into()).unwrap();
    send_queue.put_urgent("stop".into()).unwrap();
    assert_eq!(send_queue.write(&mut writer).unwrap(), Progress::Drained);
    let expected = b"\x81\x05hello\x81\x05token\x81\x04stop\x81\x05order";
    assert_eq!(wire.lock()[..], expected[..]);
}

#[test]
fn an_urgent_message_of_a_lost_connection_is_urgent_on_the_next_one() {
    // In the first message, between the two, and in the second one.
    for broken_after in [0, 100, 70_018, 100_000] {
        let send_queue = SendQueue::new(1 << 20);
        let half = Box::new(Breaks(broken_after));
        let mut writer = FrameWriter::new(WireRole::Client, half, &kept());
        writer.greet(vec![vec![0; 70_000].into()]);
        send_queue.put_latest("key", "order 1".into()).unwrap();
        send_queue.put_urgent(vec![1; 70_000].into()).unwrap();
        send_queue.write(&mut writer).unwrap_err();
        send_queue.put_urgent("stop 2".into()).unwrap();
        send_queue.put_nowait("order 2".into()).unwrap();
        assert_eq!(send_queue.take_back(writer.end(), false), 0);
        // The order that comes back has its key again.
        send_queue.put_latest("key", "order 3".into()).unwrap();
        assert_eq!(send_queue.consumer().len(), 4);

        let wire = Arc::new(Mutex::new(Vec::new()));
        let half = Watched {
            wire: wire.clone(),
            after_write: |_| {},
        };
        let mut writer = FrameWriter::new(WireRole::Server, Box::new(half), &kept());
        assert_eq!(send_queue.write(&mut writer).unwrap(), Progress::Drained);
        let wire = wire.lock();
        assert_eq!(frames(&wire)[0].payload, 64 << 10);
        assert!(wire.ends_with(b"\x81\x06stop 2\x81\x07order 3\x81\x07order 2"));
    }
}

fn payloads() -> impl Strategy<Value = Vec<Message>> {
    let message = prop_oneof![
        "\\PC{0,80}".prop_map(Message::from),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(Message::from),
    ];
    prop::collection::vec(message, 0..20)
}

/// A stream of which the end has not come.
struct Received<'a>(&'a [u8]);

impl Read for Received<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer) {
            Ok(0) => Err(io::ErrorKind::WouldBlock.into()),
            other => other,
        }
    }
}

impl Write for Received<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

proptest! {
    #[test]
    fn messages_do_not_depend_on_the_fragment_size(
        messages in payloads(),
        fragment_size in prop_oneof![Just(0), 1usize..400],
        from_client: bool,
        pong_every in 1usize..500,
    ) {
        let (role, peer) = match from_client {
            true => (WireRole::Client, WireRole::Server),
            false => (WireRole::Server, WireRole::Client),
        };
        let send_queue = Arc::new(SendQueue::new(1 << 20));
        let wire = Arc::new(Mutex::new(Vec::new()));
        let half = Watched {
            wire: wire.clone(),
            after_write: {
                let send_queue = send_queue.clone();
                let mut next = pong_every;
                move |written| if written >= next {
                    next = written + pong_every;
                    send_queue.pong("pong".into());
                }
            },
        };
        let options = plain().fragment_size(fragment_size);
        let mut writer = FrameWriter::new(role, Box::new(half), &options);
        for message in &messages {
            send_queue.put_nowait(message.clone()).unwrap();
        }
        prop_assert_eq!(send_queue.write(&mut writer).unwrap(), Progress::Drained);
        let wire = wire.lock();
        let mut stream = Received(&wire);
        let mut codec = WebSocketContext::new(peer, None);
        let mut received = Vec::new();
        let end = loop {
            match codec.read(&mut stream) {
                Ok(tungstenite::Message::Pong(_)) => {}
                Ok(message) => received.push(message),
                Err(error) => break error,
            }
        };
        let at_end = matches!(&end, tungstenite::Error::Io(error) if is_timeout(error));
        prop_assert!(at_end, "{}", end);
        let sent: Vec<_> = messages.iter().map(|message| message.to_wire(false)).collect();
        prop_assert_eq!(received, sent);
    }
}

/// A transport that takes nothing without waiting.
struct Full(Arc<Mutex<Vec<u8>>>);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl WriteHalf for Full {
    fn try_write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn set_timeout(&mut self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn pings_and_pongs_are_sent_later_if_the_transport_is_full() {
    let send_queue = SendQueue::new(1 << 20);
    let wire = Arc::new(Mutex::new(Vec::new()));
    let half = Box::new(Full(wire.clone()));
    let mut writer = FrameWriter::new(WireRole::Server, half, &plain());
    for _ in 0..10 {
        send_queue.put_nowait(vec![0; 16_000].into()).unwrap();
    }
    // These are more bytes than are collected before they are written.
    assert!(!send_queue.write_now(&mut writer));
    let words = ["pong one", "pong two", "the ping"];
    send_queue.pong(words[0].into());
    send_queue.pong(words[1].into());
    send_queue.ping(words[2].into());
    assert!(!send_queue.write_now(&mut writer));
    assert_eq!(send_queue.ping_written(), None);
    assert_eq!(send_queue.write(&mut writer).unwrap(), Progress::Drained);
    assert!(send_queue.ping_written().is_some());
    let wire = wire.lock();
    for word in words {
        let found = wire.windows(word.len()).any(|part| part == word.as_bytes());
        assert!(found, "{word}");
    }
}

#[test]
fn a_thread_that_puts_a_message_writes_one_turn() {
    let send_queue = SendQueue::new(1 << 20);
    let half = Box::new(Full(Arc::default()));
    let mut writer = FrameWriter::new(WireRole::Server, half, &plain());
    for _ in 0..10 * MESSAGES_PER_TURN {
        send_queue.put_nowait("x".into()).unwrap();
    }
    assert!(!send_queue.write_now(&mut writer));
    assert_eq!(writer.encoded(), MESSAGES_PER_TURN as u64);
    assert_eq!(send_queue.write(&mut writer).unwrap(), Progress::Drained);
    assert_eq!(writer.written(), 10 * MESSAGES_PER_TURN as u64);
}

#[test]
fn a_close_frame_that_has_waited_until_its_time_passes_the_queued_messages() {
    const COUNT: u64 = 2 * MESSAGES_PER_TURN as u64;
    let now = Instant::now();
    let hour = Duration::from_secs(3600);
    for (first, sent) in [
        (SendFirst::Queue, COUNT),
        (SendFirst::QueueUntil(now + hour), COUNT),
        (SendFirst::QueueUntil(now), 0),
        (SendFirst::Nothing, 0),
    ] {
        let send_queue = SendQueue::new(1 << 20);
        let half = Box::new(Full(Arc::default()));
        let mut writer = FrameWriter::new(WireRole::Server, half, &Options::new());
        for _ in 0..COUNT {
            send_queue.put_nowait("x".into()).unwrap();
        }
        let frame = None;
        send_queue.send_close(SendClose { frame, first });
        assert_eq!(send_queue.write(&mut writer).unwrap(), Progress::Closed);
        assert_eq!(writer.written(), sent, "{first:?}");
    }
}

/// A transport that takes this many bytes and then fails.
struct Breaks(usize);

impl Write for Breaks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        match taken {
            0 => Err(io::ErrorKind::ConnectionReset.into()),
            _ => Ok(taken),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl WriteHalf for Breaks {
    fn set_timeout(&mut self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn messages_that_were_not_written_completely_are_left_for_the_next_connection() {
    const COUNT: usize = 200;
    let sizes = |n: usize| [100, 200, 70_000][n % 3];
    for fragment_size in [1000, 64 << 10, 1 << 20] {
        let ends: Vec<usize> = (0..COUNT)
            .scan(0, |end, n| {
                *end += wire_length(sizes(n), fragment_size);
                Some(*end)
            })
            .collect();
        let last = ends[2];
        for broken_after in [
            0,
            1,
            105,
            106,
            107,
            313,
            314,
            70_000,
            last - 1,
            last,
            1_000_000,
        ] {
            let send_queue = SendQueue::new(1 << 30);
            let half = Box::new(Breaks(broken_after));
            let options = kept().fragment_size(fragment_size);
            let mut writer = FrameWriter::new(WireRole::Client, half, &options);
            for n in 0..COUNT {
                let payload = vec![n as u8; sizes(n)];
                send_queue.put_nowait(payload.into()).unwrap();
            }
            send_queue.write(&mut writer).unwrap_err();
            assert_eq!(send_queue.take_back(writer.end(), false), 0);
            let written = ends.iter().filter(|end| **end <= broken_after).count();
            let left = queued(&send_queue);
            assert_eq!(left.len(), COUNT - written);
            for (n, message) in (written..).zip(left) {
                assert_eq!(message.as_bytes().unwrap(), vec![n as u8; sizes(n)]);
            }
            assert_eq!(
                send_queue.sent().unconfirmed.load(Ordering::Relaxed),
                written as u64
            );
        }
    }
}

#[test]
fn a_message_that_comes_back_has_its_key_again() {
    let send_queue = SendQueue::new(1 << 20);
    let half = Box::new(Breaks(0));
    let mut writer = FrameWriter::new(WireRole::Client, half, &kept());
    send_queue.put_latest("key", "old".into()).unwrap();
    send_queue.put_nowait("other".into()).unwrap();
    send_queue.write(&mut writer).unwrap_err();
    send_queue.take_back(writer.end(), false);
    send_queue.put_latest("key", "new".into()).unwrap();
    assert_eq!(queued(&send_queue), ["new", "other"]);
}
