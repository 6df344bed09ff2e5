//! The life of a `Websocket` as a state machine: any inputs, in any order, at any time.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::fuzzing::testkit::decisions::Decisions;
use crate::fuzzing::{
    Action, Hold, Input, PeerClose, Phase, ReconnectPolicy, Role, Schedule, Session,
};
use crate::{Backoff, CloseFrame, Error};

/// Two bytes for the settings, then one or two for each input.
pub fn session(input: &[u8]) {
    let mut decisions = Decisions::from_bytes(input);
    let role = match decisions.flag() {
        true => Role::Server,
        false => Role::Client,
    };
    let setting = decisions.byte();
    let policy = match (setting >> 1) % 4 {
        0 | 1 => ReconnectPolicy::Transient,
        2 => ReconnectPolicy::Always,
        _ => ReconnectPolicy::Ask,
    };
    let mut run = Run::new(role, (setting % 2 == 1).then_some(policy));
    while !decisions.is_empty() {
        let choice = decisions.byte();
        run.now += Duration::from_millis(u64::from(choice >> 5) * 100);
        let input = run.input(choice & 31, &mut decisions);
        run.step(input);
    }
    run.end();
}

/// What has been seen so far.
struct Run {
    session: Session,
    policy: Option<ReconnectPolicy>,
    now: Instant,
    requested: bool,
    /// Whether the program has asked for another connection, or decided for one.
    wants_another: bool,
    connection: Seen,
    end: Option<Error>,
    notified: bool,
}

/// What has been seen of the present connection.
#[derive(Default)]
struct Seen {
    opened: bool,
    close_frames: usize,
    shut_down: usize,
    peer_closed: bool,
    close_written: bool,
    replaced: bool,
    deadline: Option<Instant>,
}

impl Run {
    fn new(role: Role, policy: Option<ReconnectPolicy>) -> Self {
        let reconnect = policy.map(|policy| (Schedule::new(Backoff::new()), policy));
        Run {
            session: Session::new(role, Duration::from_millis(500), reconnect),
            policy,
            now: Instant::now(),
            requested: false,
            wants_another: false,
            connection: Seen::default(),
            end: None,
            notified: false,
        }
    }

    fn input(&self, choice: u8, decisions: &mut Decisions<'_>) -> Input {
        let lost = || Error::lost(io::ErrorKind::ConnectionReset.into());
        let frame = |decisions: &mut Decisions<'_>| CloseFrame {
            code: 1000 + u16::from(decisions.byte() % 4),
            reason: "why".into(),
        };
        match choice {
            0..=3 => Input::Opened,
            4 => Input::Failed(lost()),
            5 => Input::Failed(Error::Handshake("not a handshake".into())),
            6..=8 => Input::CloseRequested {
                frame: frame(decisions),
                deadline: self.now + Duration::from_millis(u64::from(decisions.byte()) * 10),
            },
            9..=11 => Input::PeerClosed(PeerClose {
                frame: decisions.flag().then(|| frame(decisions)),
                after_all: decisions.flag(),
            }),
            12 => {
                let reason = "a reserved bit".to_owned();
                Input::Violation(frame(decisions), Error::Protocol { code: 1002, reason })
            }
            13..=15 => Input::CloseWritten,
            16 => Input::WriteFailed(lost()),
            17 => Input::WriteFailed(Error::Internal("a panic".into())),
            18 => Input::Failed(Error::PingTimeout {
                after: Duration::from_millis(300),
            }),
            19 => Input::ReadEnded(None),
            20 => Input::ReadEnded(Some(lost())),
            21 => Input::Failed(Error::Thread(Arc::new(io::Error::other("none")))),
            22..=23 => Input::DeadlinePassed,
            24 => Input::NothingQueued,
            25..=26 => Input::ReadStopped,
            27..=29 => Input::ThreadsEnded {
                unsent: usize::from(decisions.byte() % 3),
                chance: 0.5,
                retry: decisions.flag(),
            },
            30 if decisions.one_in(4) => Input::Finished {
                unsent: usize::from(decisions.byte() % 3),
                backlog: decisions.flag(),
            },
            30 if decisions.one_in(2) => Input::Aborted,
            30 if decisions.one_in(2) => Input::ReconnectRequested,
            31 => Input::Drained,
            _ => Input::Opened,
        }
    }

    fn step(&mut self, input: Input) {
        let was_waiting = self.session.waiting().is_some();
        let was_shut_down = self.session.is_shut_down();
        let connections = self.session.connections();
        let actions = self.session.handle(self.now, &input);
        match &input {
            Input::CloseRequested { .. } | Input::Aborted => self.requested = true,
            Input::ReconnectRequested => {
                self.wants_another = true;
                self.connection.replaced = true;
            }
            Input::ThreadsEnded { retry: true, .. } => self.wants_another = true,
            _ => {}
        }
        self.connection.close_written |= self.session.has_written_close();
        if !was_shut_down {
            self.connection.peer_closed |= matches!(input, Input::PeerClosed(_));
        }
        let mut ready = 0;
        for action in &actions {
            assert!(
                !self.notified || matches!(action, Action::Hold),
                "{action:?} after the end"
            );
            match action {
                Action::SendClose(_) => {
                    self.connection.close_frames += 1;
                    assert_eq!(self.connection.shut_down, 0, "a frame after the shutdown");
                }
                Action::ShutDown => self.connection.shut_down += 1,
                Action::NotifyReady => ready += 1,
                Action::NotifyClosed(end) => {
                    assert_eq!(self.end.as_ref().map(text), Some(text(end)));
                    self.notified = true;
                }
                Action::RefusePuts | Action::Hold => {}
            }
        }
        assert_eq!(self.session.connections(), connections + ready);
        if ready > 0 {
            assert!(ready == 1 && !self.connection.opened, "it opens once");
            assert!(!was_shut_down);
            self.connection.opened = true;
        }
        if was_waiting && self.session.is_shut_down() && self.session.waiting().is_none() {
            // There was no connection to shut down.
            let fails = matches!(input, Input::Failed(_) | Input::WriteFailed(_));
            assert!(fails || self.requested || self.session.end().is_some());
            self.connection.shut_down = 1;
        }
        self.check_connection(was_waiting);
        self.check_deadline(&input);
        self.check_end(&input, was_waiting);
    }

    fn check_connection(&mut self, was_waiting: bool) {
        if let Some((_, reason)) = self.session.waiting() {
            assert!(!self.requested, "no other follows");
            match self.policy {
                None => panic!("no other follows"),
                Some(ReconnectPolicy::Transient) => {
                    let replaced = was_waiting || self.connection.replaced;
                    assert!(reason.is_transient() || replaced);
                }
                Some(ReconnectPolicy::Always) => {}
                Some(ReconnectPolicy::Ask) => assert!(self.wants_another),
            }
            assert!(was_waiting || self.connection.shut_down == 1);
            let opened = self.connection.opened;
            assert!(was_waiting || (self.session.attempt() == 1) == opened);
            self.connection = Seen::default();
            return;
        }
        assert!(self.connection.close_frames <= 1, "one Close frame");
        let shut_down = usize::from(self.session.is_shut_down());
        assert_eq!(self.connection.shut_down, shut_down, "one shutdown");
        assert_eq!(self.session.has_opened(), self.connection.opened);
        let phase = self.session.phase();
        if phase >= Phase::Ready && phase < Phase::Closed {
            assert!(self.connection.opened);
        }
        if self.requested {
            assert_eq!(self.session.hold(), Hold::Never);
            assert!(!self.session.is_connecting());
            assert!(self.session.why_closed().is_some());
        }
    }

    /// Each deadline stays or comes earlier, and ends the state that it is for.
    fn check_deadline(&mut self, input: &Input) {
        let deadline = self.session.deadline();
        if self.session.waiting().is_none() {
            if let (Some(before), Some(now)) = (self.connection.deadline, deadline) {
                assert!(now <= before, "{input:?} moves the deadline");
            }
            self.connection.deadline = deadline;
        }
        let Some(deadline) = deadline else {
            return;
        };
        let mut early = self.session.clone();
        let before = deadline - Duration::from_millis(1);
        assert!(early.handle(before, &Input::DeadlinePassed).is_empty());
        assert_eq!(early.deadline(), Some(deadline));
        let mut late = self.session.clone();
        late.handle(deadline, &Input::DeadlinePassed);
        assert_eq!(late.deadline(), None, "the state is left");
    }

    fn check_end(&mut self, input: &Input, was_waiting: bool) {
        assert_eq!(self.session.closed().is_some(), self.notified);
        let end = self.session.end().cloned();
        if let (None, Some(new)) = (&self.end, &end) {
            assert!(matches!(input, Input::Finished { .. }));
            if new.is_orderly() {
                let attempts = !self.connection.opened || self.connection.replaced;
                let given_up = self.requested && attempts;
                let told = self.requested && self.connection.close_written;
                // While it waits, it has the reason of the last connection.
                assert!(
                    self.connection.peer_closed || given_up || told || was_waiting,
                    "{new}"
                );
            } else {
                assert_eq!(self.session.last_error().map(text), Some(text(new)));
            }
        }
        if self.end.is_some() {
            assert_eq!(self.end.as_ref().map(text), end.as_ref().map(text));
        }
        self.end = end;
    }

    /// Whatever has happened, closing ends it.
    fn end(mut self) {
        let deadline = self.now + Duration::from_secs(1);
        self.step(Input::CloseRequested {
            frame: CloseFrame::NORMAL,
            deadline,
        });
        self.now = deadline;
        self.step(Input::DeadlinePassed);
        assert!(self.session.is_shut_down());
        for input in [
            Input::ThreadsEnded {
                unsent: 0,
                chance: 0.0,
                retry: true,
            },
            Input::Finished {
                unsent: 0,
                backlog: false,
            },
            Input::Drained,
            Input::ReadStopped,
            Input::Drained,
        ] {
            self.step(input);
        }
        assert!(self.notified);
    }
}

fn text(error: &Error) -> String {
    error.to_string()
}
