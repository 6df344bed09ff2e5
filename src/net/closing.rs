//! The closing handshake (RFC 6455, section 7) as a state machine: no I/O, no threads, no clock.
//!
//! The threads report events and carry out the resulting actions. The machine decides when this
//! side sends its one Close frame, and when the connection is shut down.

use crate::error::CloseFrame;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}

/// What happened to a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// This program closes the connection.
    Local(CloseFrame),
    /// The peer's Close frame arrived.
    Peer(Option<CloseFrame>),
    /// The peer violated the protocol. It receives a Close frame, and what it sends from now on is
    /// ignored.
    Violation(CloseFrame),
    /// The Close frame and everything before it have been written.
    Written,
    /// Nothing can be written any more.
    WriteFailed,
    /// The peer's stream has ended, or reading has failed.
    ReadEnded,
    /// The close timeout has passed.
    Timeout,
}

/// The actions that an event requires.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Todo {
    /// Send this Close frame. Returned at most once for a connection.
    pub(crate) send: Option<Send>,
    /// Shut the connection down. Returned exactly once.
    pub(crate) cut: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Send {
    /// The content of the frame. `None` is a Close frame without a body.
    pub(crate) frame: Option<CloseFrame>,
    /// Whether queued messages are sent first.
    pub(crate) after_the_queue: bool,
}

/// The progress of the closing handshake on one connection.
#[derive(Debug)]
pub(crate) struct Closing {
    role: Role,
    /// The Close frame of this side, and whether it has a body.
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

    /// Handles an event. Events after the end have no effect.
    pub(crate) fn handle(&mut self, event: Event) -> Todo {
        if self.over {
            return Todo::default();
        }
        let send = match event {
            Event::Local(frame) => self.send(Some(frame), true),
            Event::Peer(_) if self.violated || self.received.is_some() => None,
            Event::Peer(frame) => {
                self.received = Some(frame.clone());
                self.send(reply_to(frame), true)
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
        self.over |= self.is_complete();
        Todo {
            send,
            cut: self.over,
        }
    }

    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// Returns whether one of the sides has started to close.
    pub(crate) fn has_begun(&self) -> bool {
        self.sent.is_some() || self.received.is_some()
    }

    /// Returns whether both Close frames were exchanged. Then everything sent before them has
    /// arrived.
    pub(crate) fn is_clean(&self) -> bool {
        self.received.is_some() && self.write == Write::Done
    }

    /// Returns whether this side's Close frame has been written.
    pub(crate) fn has_written(&self) -> bool {
        self.write == Write::Done
    }

    /// Returns the Close frame that this side sent or was about to send.
    pub(crate) fn sent(&self) -> Option<&Option<CloseFrame>> {
        self.sent.as_ref()
    }

    /// Returns the peer's Close frame.
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

    fn is_complete(&self) -> bool {
        let writing = self.sent.is_some() && self.write == Write::Open;
        // The server ends the TCP connection and the client waits for that (section 7.1.1).
        let server_is_done =
            self.role == Role::Server && self.received.is_some() && self.write != Write::Open;
        server_is_done || (self.read_ended && !writing)
    }
}

/// Returns the reply to a Close frame, with the same code (section 5.5.1).
fn reply_to(frame: Option<CloseFrame>) -> Option<CloseFrame> {
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
    fn a_server_shuts_down_after_both_close_frames() {
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
    fn a_violation_is_reported_before_queued_messages() {
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
    fn the_reply_is_written_after_the_peer_ended_its_stream() {
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

    /// Feeds events as the threads do: `Written` comes only after a frame was requested, and a
    /// handshake that does not complete times out.
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
        fn every_order_of_events_ends_with_one_shutdown_and_at_most_one_close_frame(
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
        fn closing_a_working_connection_sends_exactly_one_close_frame(
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
        fn both_frames_and_the_end_of_the_stream_complete_the_handshake(
            order in Just(vec![
                Event::Local(frame(1000)),
                Event::Written,
                Event::Peer(Some(frame(1000))),
                Event::ReadEnded,
            ]).prop_shuffle(),
            server: bool,
        ) {
            // A frame is written after it was requested. A stream ends after its last frame.
            let place = |event: &Event| order.iter().position(|e| e == event).unwrap();
            let peer = place(&Event::Peer(Some(frame(1000))));
            let requested = place(&Event::Local(frame(1000))).min(peer);
            prop_assume!(place(&Event::Written) > requested && place(&Event::ReadEnded) > peer);
            let role = if server { Role::Server } else { Role::Client };
            let mut closing = Closing::new(role);
            let cuts = order.into_iter().filter(|event| closing.handle(event.clone()).cut).count();
            prop_assert_eq!(cuts, 1);
            prop_assert!(closing.is_clean());
        }
    }
}
