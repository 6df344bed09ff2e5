//! The closing handshake: any events, in any order.

use crate::CloseFrame;
use crate::fuzzing::testkit::decisions::Decisions;
use crate::fuzzing::{Closing, Event, Role, Todo};

/// One event a byte, after one for the role.
pub fn closing(input: &[u8]) {
    let mut decisions = Decisions::from_bytes(input);
    let role = match decisions.flag() {
        true => Role::Server,
        false => Role::Client,
    };
    let mut story = Story::new(role);
    while !decisions.is_empty() {
        story.tell(event(decisions.byte()));
    }
    story.tell(Event::Timeout);
    assert!(story.is_over);
    // However often it is told.
    story.tell(Event::Timeout);
    story.tell(Event::ReadEnded);
}

fn event(byte: u8) -> Event {
    let frame = |code: u8| CloseFrame {
        code: 1000 + u16::from(code),
        reason: "why".repeat(usize::from(code % 4)),
    };
    match byte % 8 {
        0 => Event::Local(frame(byte >> 3)),
        1 => Event::Peer(None),
        2 => Event::Peer(Some(frame(byte >> 3))),
        3 => Event::Violation(frame(byte >> 3)),
        4 => Event::Written,
        5 => Event::WriteFailed,
        6 => Event::ReadEnded,
        // Rare: it ends the story.
        _ if byte >> 3 == 0 => Event::Timeout,
        _ => Event::Written,
    }
}

/// What has happened so far, in other words than the state machine's own.
struct Story {
    closing: Closing,
    role: Role,
    sends: usize,
    cuts: usize,
    sent: Option<Option<CloseFrame>>,
    received: Option<Option<CloseFrame>>,
    violated: bool,
    written: bool,
    write_failed: bool,
    read_ended: bool,
    is_over: bool,
}

impl Story {
    fn new(role: Role) -> Self {
        Story {
            closing: Closing::new(role),
            role,
            sends: 0,
            cuts: 0,
            sent: None,
            received: None,
            violated: false,
            written: false,
            write_failed: false,
            read_ended: false,
            is_over: false,
        }
    }

    fn tell(&mut self, event: Event) {
        // The threads write what they are asked to, and nothing before.
        if event == Event::Written && self.sent.is_none() {
            return;
        }
        let was_over = self.is_over;
        let todo = self.closing.handle(event.clone());
        if was_over {
            assert_eq!(todo, Todo::default(), "what comes after the end");
        } else {
            let frame = self.note(event.clone());
            self.check_send(&todo, frame, &event);
            self.check_cut(&todo, &event);
        }
        self.sends += usize::from(todo.send.is_some());
        self.cuts += usize::from(todo.cut);
        self.check();
    }

    /// Takes note; returns the Close frame that is called for.
    fn note(&mut self, event: Event) -> Option<Option<CloseFrame>> {
        match event {
            Event::Local(frame) => return Some(Some(frame)),
            Event::Peer(_) if self.violated || self.received.is_some() => {}
            Event::Peer(frame) => {
                self.received = Some(frame.clone());
                let code = frame.map(|frame| frame.code);
                return Some(code.map(|code| CloseFrame {
                    code,
                    reason: String::new(),
                }));
            }
            Event::Violation(frame) => {
                self.violated = true;
                return Some(Some(frame));
            }
            Event::Written => self.written |= !self.write_failed,
            Event::WriteFailed => self.write_failed |= !self.written,
            Event::ReadEnded => self.read_ended = true,
            Event::Timeout => {}
        }
        None
    }

    fn check_send(&mut self, todo: &Todo, called_for: Option<Option<CloseFrame>>, event: &Event) {
        let due = called_for.filter(|_| self.sent.is_none() && !self.write_failed);
        match (&todo.send, due) {
            (Some(send), Some(frame)) => {
                assert_eq!(send.frame, frame);
                let urgent = matches!(event, Event::Violation(_));
                assert_eq!(send.after_the_queue, !urgent);
                self.sent = Some(frame);
            }
            (None, None) => {}
            (send, due) => panic!("{send:?} where {due:?} is due"),
        }
    }

    fn check_cut(&mut self, todo: &Todo, event: &Event) {
        let said = self.written || self.write_failed;
        let over = match self.role {
            _ if *event == Event::Timeout => true,
            // Both sides have said all.
            Role::Server if self.received.is_some() && said => true,
            // Nothing comes any more, and nothing is on its way.
            _ => self.read_ended && (said || self.sent.is_none()),
        };
        assert_eq!(todo.cut, over, "after {event:?}");
        self.is_over = over;
    }

    fn check(&self) {
        assert!(self.sends <= 1, "one Close frame");
        assert_eq!(self.cuts, usize::from(self.is_over), "one cut");
        assert_eq!(self.closing.sent(), self.sent.as_ref());
        assert_eq!(self.closing.received(), self.received.as_ref());
        assert_eq!(self.closing.has_written(), self.written);
        assert_eq!(
            self.closing.has_begun(),
            self.sent.is_some() || self.received.is_some()
        );
        assert_eq!(
            self.closing.is_clean(),
            self.received.is_some() && self.written
        );
    }
}
