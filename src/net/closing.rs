//! The closing handshake (RFC 6455, section 7) as a state machine: no I/O, no threads, no clock.
//!
//! The threads tell it what happened, and carry out what it answers. It decides who sends the one
//! Close frame and when the connection is cut.

use crate::error::CloseFrame;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}

/// What happened to a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// This program closes.
    Local(CloseFrame),
    /// The peer's Close frame arrived.
    Peer(Option<CloseFrame>),
    /// The peer broke the protocol: it is told so, and nothing it sends counts any more.
    Violation(CloseFrame),
    /// The Close frame, and all before it, has been written.
    Written,
    /// Nothing can be written any more.
    WriteFailed,
    /// The peer's stream has ended, or nothing can be read any more.
    ReadEnded,
    /// Closing takes too long.
    Timeout,
}

/// What is to be done about it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Todo {
    /// Send this Close frame. It is asked for at most once in a connection's life.
    pub(crate) send: Option<Send>,
    /// Cut the connection: it is over. It is asked for exactly once.
    pub(crate) cut: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Send {
    /// `None` is a Close frame without a body.
    pub(crate) frame: Option<CloseFrame>,
    /// Whether what is queued is sent first.
    pub(crate) after_the_queue: bool,
}

/// How far the closing of one connection has come.
#[derive(Debug)]
pub(crate) struct Closing {
    role: Role,
    /// The Close frame that was asked to be sent, and whether it answers the peer's.
    sent: Option<Option<CloseFrame>>,
    received: Option<Option<CloseFrame>>,
    write: Write,
    read_ended: bool,
    violated: bool,
    over: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Write {
    Open,
    Done,
    Failed,
}

impl Closing {
    pub(crate) fn new(role: Role) -> Self {
        Closing {
            role,
            sent: None,
            received: None,
            write: Write::Open,
            read_ended: false,
            violated: false,
            over: false,
        }
    }

    /// Takes note of an event. What comes after the end changes nothing.
    pub(crate) fn handle(&mut self, event: Event) -> Todo {
        if self.over {
            return Todo::default();
        }
        let send = match event {
            Event::Local(frame) => self.send(Some(frame), true),
            Event::Peer(_) if self.violated || self.received.is_some() => None,
            Event::Peer(frame) => {
                self.received = Some(frame.clone());
                self.send(answer(frame), true)
            }
            Event::Violation(frame) => {
                self.violated = true;
                self.send(Some(frame), false)
            }
            Event::Written => {
                if self.sent.is_some() && self.write == Write::Open {
                    self.write = Write::Done;
                }
                None
            }
            Event::WriteFailed => {
                if self.write == Write::Open {
                    self.write = Write::Failed;
                }
                None
            }
            Event::ReadEnded => {
                self.read_ended = true;
                None
            }
            Event::Timeout => {
                self.over = true;
                None
            }
        };
        self.over |= self.nothing_left();
        Todo {
            send,
            cut: self.over,
        }
    }

    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// Whether closing has begun, on either side.
    pub(crate) fn has_begun(&self) -> bool {
        self.sent.is_some() || self.received.is_some()
    }

    /// Whether both Close frames were exchanged: all that was sent before them has arrived.
    pub(crate) fn is_clean(&self) -> bool {
        self.received.is_some() && self.write == Write::Done
    }

    /// Whether this side's Close frame has been written.
    pub(crate) fn has_written(&self) -> bool {
        self.write == Write::Done
    }

    /// The Close frame that this side sent, or meant to send.
    pub(crate) fn sent(&self) -> Option<&Option<CloseFrame>> {
        self.sent.as_ref()
    }

    /// The peer's Close frame.
    pub(crate) fn received(&self) -> Option<&Option<CloseFrame>> {
        self.received.as_ref()
    }

    fn send(&mut self, frame: Option<CloseFrame>, after_the_queue: bool) -> Option<Send> {
        if self.sent.is_some() || self.write == Write::Failed {
            return None;
        }
        self.sent = Some(frame.clone());
        Some(Send {
            frame,
            after_the_queue,
        })
    }

    fn nothing_left(&self) -> bool {
        let writing = self.sent.is_some() && self.write == Write::Open;
        // The server ends the TCP connection, the client waits for that (section 7.1.1).
        let server_is_done =
            self.role == Role::Server && self.received.is_some() && self.write != Write::Open;
        server_is_done || (self.read_ended && !writing)
    }
}

/// The answer to a Close frame carries its code (section 5.5.1).
fn answer(frame: Option<CloseFrame>) -> Option<CloseFrame> {
    frame.map(|frame| CloseFrame {
        code: frame.code,
        reason: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(code: u16) -> CloseFrame {
        CloseFrame {
            code,
            reason: String::new(),
        }
    }

    fn send(code: u16, after_the_queue: bool) -> Option<Send> {
        Some(Send {
            frame: Some(frame(code)),
            after_the_queue,
        })
    }

    #[test]
    fn a_server_cuts_once_both_frames_have_passed() {
        let mut closing = Closing::new(Role::Server);
        let todo = closing.handle(Event::Peer(Some(frame(1001))));
        assert_eq!(
            todo,
            Todo {
                send: send(1001, true),
                cut: false
            }
        );
        assert_eq!(
            closing.handle(Event::Written),
            Todo {
                send: None,
                cut: true
            }
        );
        assert!(closing.is_clean());
    }

    #[test]
    fn a_client_waits_for_the_server_to_end_the_stream() {
        let mut closing = Closing::new(Role::Client);
        let todo = closing.handle(Event::Local(frame(1000)));
        assert_eq!(
            todo,
            Todo {
                send: send(1000, true),
                cut: false
            }
        );
        assert_eq!(closing.handle(Event::Written), Todo::default());
        assert_eq!(
            closing.handle(Event::Peer(Some(frame(1000)))),
            Todo::default()
        );
        assert_eq!(
            closing.handle(Event::ReadEnded),
            Todo {
                send: None,
                cut: true
            }
        );
        assert!(closing.is_clean());
    }

    #[test]
    fn a_violation_is_told_before_what_is_queued() {
        let mut closing = Closing::new(Role::Server);
        let todo = closing.handle(Event::Violation(frame(1002)));
        assert_eq!(
            todo,
            Todo {
                send: send(1002, false),
                cut: false
            }
        );
        assert_eq!(closing.handle(Event::Peer(None)), Todo::default());
        assert!(!closing.is_clean());
    }

    #[test]
    fn the_answer_is_written_though_the_peer_ended_its_stream() {
        let mut closing = Closing::new(Role::Client);
        assert!(closing.handle(Event::Peer(None)).send.is_some());
        assert_eq!(closing.handle(Event::ReadEnded), Todo::default());
        assert_eq!(
            closing.handle(Event::Written),
            Todo {
                send: None,
                cut: true
            }
        );
        assert!(closing.is_clean());
    }

    #[test]
    fn a_stream_that_ends_without_a_close_frame_is_not_clean() {
        let mut closing = Closing::new(Role::Client);
        closing.handle(Event::Local(frame(1000)));
        closing.handle(Event::Written);
        assert!(closing.handle(Event::ReadEnded).cut);
        assert!(!closing.is_clean());
    }

    fn any_event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (1000u16..1004).prop_map(|code| Event::Local(frame(code))),
            prop::option::of(1000u16..1004).prop_map(|code| Event::Peer(code.map(frame))),
            Just(Event::Violation(frame(1002))),
            Just(Event::Written),
            Just(Event::WriteFailed),
            Just(Event::ReadEnded),
            Just(Event::Timeout),
        ]
    }

    /// What the threads do: nothing is written before a frame was asked for, and what cannot go on
    /// times out.
    fn play(role: Role, events: Vec<Event>) -> (Closing, usize, usize) {
        let mut closing = Closing::new(role);
        let (mut sends, mut cuts) = (0, 0);
        let mut may_write = false;
        for event in events.into_iter().chain([Event::Timeout]) {
            if event == Event::Written && !may_write {
                continue;
            }
            let todo = closing.handle(event);
            may_write |= todo.send.is_some();
            sends += usize::from(todo.send.is_some());
            cuts += usize::from(todo.cut);
        }
        (closing, sends, cuts)
    }

    proptest! {
        #[test]
        fn every_interleaving_ends_cut_once_with_at_most_one_close_frame(
            events in prop::collection::vec(any_event(), 0..20),
            server: bool,
        ) {
            let role = if server { Role::Server } else { Role::Client };
            let (closing, sends, cuts) = play(role, events);
            prop_assert!(closing.over);
            prop_assert_eq!(cuts, 1);
            prop_assert!(sends <= 1);
            prop_assert_eq!(sends == 1, closing.sent().is_some());
        }

        #[test]
        fn exactly_one_close_frame_is_sent_once_anyone_closes_a_working_connection(
            first in prop_oneof![
                Just(Event::Local(frame(1000))),
                Just(Event::Peer(Some(frame(1000)))),
                Just(Event::Violation(frame(1002))),
            ],
            events in prop::collection::vec(any_event(), 0..20),
            server: bool,
        ) {
            let role = if server { Role::Server } else { Role::Client };
            let events = [first].into_iter().chain(events).collect();
            let (_, sends, cuts) = play(role, events);
            prop_assert_eq!((sends, cuts), (1, 1));
        }

        #[test]
        fn without_a_timeout_both_frames_and_the_streams_end_are_enough(
            order in Just(vec![
                Event::Local(frame(1000)),
                Event::Written,
                Event::Peer(Some(frame(1000))),
                Event::ReadEnded,
            ]).prop_shuffle(),
            server: bool,
        ) {
            // A frame is written after it was asked for, and a stream ends after its last frame.
            let place = |event: &Event| order.iter().position(|e| e == event).unwrap();
            let peer = place(&Event::Peer(Some(frame(1000))));
            let asked = place(&Event::Local(frame(1000))).min(peer);
            prop_assume!(place(&Event::Written) > asked && place(&Event::ReadEnded) > peer);
            let role = if server { Role::Server } else { Role::Client };
            let mut closing = Closing::new(role);
            let cuts = order.into_iter().filter(|event| closing.handle(event.clone()).cut).count();
            prop_assert_eq!(cuts, 1);
            prop_assert!(closing.is_clean());
        }
    }
}
