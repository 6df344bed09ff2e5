//! Scenarios, and every order of inputs.

use std::io;

use super::*;
use crate::backoff::Backoff;
use crate::websocket::control_frames::SendFirst;
use proptest::prelude::*;

const TIMEOUT: Duration = Duration::from_secs(10);

struct Driver {
    session: Session,
    now: Instant,
}

impl Driver {
    fn new(role: Role, reconnect: Option<Backoff>) -> Self {
        Driver {
            session: Session::new(role, TIMEOUT, reconnect.map(by_transient_errors)),
            now: Instant::now(),
        }
    }

    fn open(role: Role, reconnect: Option<Backoff>) -> Self {
        let mut driver = Driver::new(role, reconnect);
        driver.step(Input::Opened);
        driver
    }

    /// Returns the Close frame to send, and whether to shut down.
    fn step(&mut self, input: Input) -> (Option<SendClose>, bool) {
        let actions = self.session.handle(self.now, &input);
        let close = actions.iter().find_map(|action| match action {
            Action::SendClose(close) => Some(close.clone()),
            _ => None,
        });
        let shut_down = actions
            .iter()
            .any(|action| matches!(action, Action::ShutDown));
        (close, shut_down)
    }

    fn close(&mut self) -> (Option<SendClose>, bool) {
        let (close, shut_down) = self.step(Input::CloseRequested {
            frame: frame(1000),
            deadline: self.now + TIMEOUT,
        });
        (close, self.step(Input::NothingQueued).1 || shut_down)
    }

    fn peer_closes(&mut self, code: u16, after_all: bool) -> (Option<SendClose>, bool) {
        let frame = Some(frame(code));
        self.step(Input::PeerClosed(PeerClose { frame, after_all }))
    }

    fn finish(&mut self, unsent: usize) -> Error {
        self.step(Input::ReadStopped);
        self.step(Input::ThreadsEnded {
            unsent,
            chance: 0.0,
            retry: false,
        });
        let backlog = false;
        self.step(Input::Finished { unsent, backlog });
        self.step(Input::Drained);
        self.session.closed().cloned().expect("it is closed")
    }
}

fn by_transient_errors(backoff: Backoff) -> (Schedule, ReconnectPolicy) {
    (Schedule::new(backoff), ReconnectPolicy::Transient)
}

fn frame(code: u16) -> CloseFrame {
    CloseFrame {
        code,
        reason: String::new(),
    }
}

fn send(code: u16, first: SendFirst) -> Option<SendClose> {
    let frame = Some(frame(code));
    Some(SendClose { frame, first })
}

fn lost() -> Error {
    Error::lost(io::ErrorKind::ConnectionReset.into())
}

#[test]
fn a_server_shuts_down_once_both_close_frames_are_exchanged() {
    let mut driver = Driver::open(Role::Server, None);
    assert_eq!(
        driver.peer_closes(1001, false),
        (send(1001, SendFirst::Queue), false)
    );
    assert_eq!(driver.step(Input::CloseWritten), (None, true));
    assert!(driver.finish(0).is_orderly());
}

#[test]
fn a_client_waits_for_the_server_to_end_the_stream() {
    let mut driver = Driver::open(Role::Client, None);
    assert_eq!(driver.close(), (send(1000, SendFirst::Queue), false));
    assert_eq!(driver.step(Input::CloseWritten), (None, false));
    assert_eq!(driver.peer_closes(1000, true), (None, false));
    assert_eq!(driver.step(Input::ReadEnded(None)), (None, true));
    assert!(driver.session.confirms_all());
    assert!(driver.finish(0).is_orderly());
}

#[test]
fn close_frames_that_cross_confirm_nothing() {
    for (code, after_all) in [(1000, false), (1001, true)] {
        let mut driver = Driver::open(Role::Client, None);
        driver.close();
        driver.step(Input::CloseWritten);
        driver.peer_closes(code, after_all);
        assert!(!driver.session.confirms_all());
    }
}

fn violation() -> Input {
    let reason = "a reserved bit".to_owned();
    let error = Error::Protocol { code: 1002, reason };
    Input::Violation(frame(1002), error)
}

#[test]
fn after_a_violation_the_queued_messages_have_half_of_the_time() {
    let mut driver = Driver::open(Role::Server, None);
    let half = SendFirst::QueueUntil(driver.now + LAST_WAIT / 2);
    assert_eq!(driver.step(violation()), (send(1002, half), false));
    assert_eq!(driver.session.deadline(), Some(driver.now + LAST_WAIT));
    assert_eq!(driver.peer_closes(1000, false), (None, false));
    assert!(matches!(driver.finish(0), Error::Protocol { .. }));
}

#[test]
fn after_a_violation_the_next_connection_sends_the_queued_messages() {
    let policy = (Schedule::new(Backoff::new()), ReconnectPolicy::Always);
    let mut driver = Driver::new(Role::Client, None);
    driver.session = Session::new(Role::Client, TIMEOUT, Some(policy));
    driver.step(Input::Opened);
    let close = send(1002, SendFirst::Nothing);
    assert_eq!(driver.step(violation()), (close, false));
}

#[test]
fn the_close_frame_is_answered_although_the_peer_has_ended_its_stream() {
    let mut driver = Driver::open(Role::Client, None);
    assert!(driver.peer_closes(1000, false).0.is_some());
    assert_eq!(driver.step(Input::ReadEnded(None)), (None, false));
    assert_eq!(driver.step(Input::CloseWritten), (None, true));
    assert!(driver.finish(0).is_orderly());
}

#[test]
fn a_stream_that_ends_without_a_close_frame_is_a_loss_until_this_side_has_closed() {
    let mut driver = Driver::open(Role::Client, None);
    driver.close();
    assert_eq!(driver.step(Input::ReadEnded(Some(lost()))), (None, false));
    driver.step(Input::WriteFailed(lost()));
    assert!(matches!(driver.finish(1), Error::Lost(_)));

    let mut driver = Driver::open(Role::Client, None);
    driver.close();
    driver.step(Input::CloseWritten);
    assert!(driver.step(Input::ReadEnded(Some(lost()))).1);
    let end = driver.finish(0);
    assert!(end.is_orderly());
    assert!(matches!(end, Error::Closed(close) if close.by == crate::Side::Local));
}

#[test]
fn a_code_of_the_peer_that_reports_an_error_is_a_failure() {
    for (code, is_orderly) in [(1000, true), (1001, true), (1008, false), (4001, false)] {
        let mut driver = Driver::open(Role::Server, None);
        driver.peer_closes(code, false);
        driver.step(Input::CloseWritten);
        assert_eq!(driver.finish(0).is_orderly(), is_orderly, "{code}");
        let mut driver = Driver::open(Role::Server, None);
        driver.step(Input::CloseRequested {
            frame: frame(code),
            deadline: driver.now + TIMEOUT,
        });
        driver.step(Input::CloseWritten);
        driver.peer_closes(code, true);
        assert!(driver.finish(0).is_orderly(), "this side sent {code}");
    }
}

#[test]
fn a_close_frame_of_the_peer_is_the_reason_although_something_was_not_written() {
    let mut driver = Driver::open(Role::Client, None);
    driver.step(Input::WriteFailed(lost()));
    driver.peer_closes(1008, false);
    driver.step(Input::ReadEnded(Some(lost())));
    match driver.finish(2) {
        Error::Closed(close) => {
            assert_eq!(close.frame.map(|frame| frame.code), Some(1008));
            assert_eq!(close.unsent, 2);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_earlier_deadline_of_a_second_close_shortens_the_first() {
    let mut driver = Driver::open(Role::Client, None);
    driver.close();
    for (deadline, expected) in [(2, 2), (1, 1), (3, 1)] {
        let request = |seconds| driver.now + Duration::from_secs(seconds);
        let (frame, deadline) = (frame(1000), request(deadline));
        let expected = request(expected);
        driver.step(Input::CloseRequested { frame, deadline });
        assert_eq!(driver.session.deadline(), Some(expected));
    }
}

#[test]
fn an_abort_shuts_down_whatever_the_state_and_no_connection_follows() {
    let states: [fn(&mut Driver); 4] = [
        |_| {},
        |driver| drop(driver.step(Input::Opened)),
        |driver| {
            driver.step(Input::Opened);
            driver.close();
        },
        |driver| {
            driver.step(Input::Failed(lost()));
            driver.step(Input::ThreadsEnded {
                unsent: 0,
                chance: 0.0,
                retry: true,
            });
        },
    ];
    use ReconnectPolicy::{Always, Ask, Transient};
    for (state, policy, unsent) in states
        .into_iter()
        .flat_map(|state| [Transient, Always, Ask].map(|policy| (state, policy)))
        .flat_map(|(state, policy)| [0, 3].map(|unsent| (state, policy, unsent)))
    {
        let mut driver = Driver::new(Role::Client, None);
        let reconnect = Some((Schedule::new(Backoff::new()), policy));
        driver.session = Session::new(Role::Client, TIMEOUT, reconnect);
        state(&mut driver);
        driver.step(Input::Aborted);
        assert!(driver.session.is_shut_down() && driver.session.waiting().is_none());
        let end = driver.finish(unsent);
        assert!(
            matches!(end, Error::Aborted { unsent: n } if n == unsent),
            "{end}"
        );
    }
}

#[test]
fn a_replaced_connection_is_followed_immediately_by_another() {
    let mut driver = Driver::open(Role::Client, Some(Backoff::new()));
    assert!(driver.step(Input::ReconnectRequested).1);
    driver.step(Input::ReadStopped);
    driver.step(Input::ThreadsEnded {
        unsent: 0,
        chance: 0.0,
        retry: false,
    });
    assert_eq!(driver.session.waiting().expect("it waits").0, driver.now);
    driver.step(Input::DeadlinePassed);
    assert!(driver.session.is_connecting());

    // While it waits, the attempt begins now.
    driver.step(Input::Failed(lost()));
    driver.step(Input::ThreadsEnded {
        unsent: 0,
        chance: 0.0,
        retry: false,
    });
    assert!(driver.session.waiting().is_some());
    driver.step(Input::ReconnectRequested);
    assert!(driver.session.is_connecting());

    // Without reconnecting, and after a close, it has no effect.
    let mut driver = Driver::open(Role::Client, None);
    driver.step(Input::ReconnectRequested);
    assert_eq!(driver.session.phase(), Phase::Ready);
    let mut driver = Driver::open(Role::Client, Some(Backoff::new()));
    driver.close();
    assert_eq!(driver.step(Input::ReconnectRequested), (None, false));
}

#[test]
fn the_policy_decides_whether_another_connection_follows() {
    use ReconnectPolicy::{Always, Ask, Transient};
    let follows = |policy, code, wanted| {
        let mut driver = Driver::new(Role::Client, Some(Backoff::new()));
        let schedule = Schedule::new(Backoff::new());
        driver.session = Session::new(Role::Client, TIMEOUT, Some((schedule, policy)));
        driver.step(Input::Opened);
        let (frame, after_all) = (Some(frame(code)), false);
        driver.step(Input::PeerClosed(PeerClose { frame, after_all }));
        driver.step(Input::ReadStopped);
        assert_eq!(driver.session.undecided().is_some(), policy == Ask);
        driver.step(Input::ThreadsEnded {
            unsent: 0,
            chance: 0.0,
            retry: wanted,
        });
        driver.session.waiting().is_some()
    };
    assert!(follows(Transient, 1012, true) && !follows(Transient, 1000, true));
    assert!(follows(Always, 1000, true));
    assert!(follows(Ask, 1000, true) && !follows(Ask, 1012, false));
}

#[test]
fn a_close_after_a_replacement_gives_it_up() {
    for unsent in [0, 2] {
        let mut driver = Driver::open(Role::Client, Some(Backoff::new()));
        driver.step(Input::ReconnectRequested);
        driver.close();
        let end = driver.finish(unsent);
        assert_eq!(end.is_orderly(), unsent == 0);
        let counts = matches!(end, Error::Aborted { unsent: 2 });
        assert_eq!(counts, unsent == 2, "{end}");
    }
}

#[test]
fn a_reason_of_an_earlier_connection_counts_the_messages_that_are_unsent_at_the_end() {
    let mut driver = Driver::open(Role::Client, Some(Backoff::new()));
    driver.peer_closes(1012, false);
    driver.step(Input::ReadStopped);
    driver.step(Input::ThreadsEnded {
        unsent: 3,
        chance: 0.0,
        retry: false,
    });
    driver.close();
    match driver.finish(3) {
        Error::Closed(close) => assert_eq!(close.unsent, 3),
        other => panic!("{other}"),
    }
}

#[test]
fn a_connection_that_is_being_lost_is_replaced_immediately() {
    let mut driver = Driver::open(Role::Client, Some(Backoff::new()));
    driver.peer_closes(1012, false);
    driver.step(Input::ReconnectRequested);
    assert!(driver.session.ends_for_good().is_none());
    driver.step(Input::ThreadsEnded {
        unsent: 0,
        chance: 0.0,
        retry: false,
    });
    assert_eq!(driver.session.waiting().expect("it waits").0, driver.now);

    // Nothing follows a close with code 1000.
    let mut driver = Driver::open(Role::Client, Some(Backoff::new()));
    driver.peer_closes(1000, false);
    driver.step(Input::ReconnectRequested);
    assert!(driver.session.ends_for_good().is_some());
}

#[test]
fn an_attempt_that_the_program_would_decide_on_counts_as_given_up_by_a_close() {
    let schedule = Schedule::new(Backoff::new());
    let mut driver = Driver::new(Role::Client, None);
    let policy = Some((schedule, ReconnectPolicy::Ask));
    driver.session = Session::new(Role::Client, TIMEOUT, policy);
    driver.step(Input::Failed(lost()));
    driver.close();
    assert!(driver.finish(0).is_orderly());
}

#[test]
fn attempts_are_counted_since_the_last_connection_that_was_ready() {
    let mut driver = Driver::new(Role::Client, Some(Backoff::new()));
    let mut attempts = Vec::new();
    for opens in [false, false, true, false] {
        if opens {
            driver.step(Input::Opened);
        }
        driver.step(Input::Failed(lost()));
        driver.step(Input::ThreadsEnded {
            unsent: 0,
            chance: 0.0,
            retry: false,
        });
        attempts.push(driver.session.attempt());
        driver.now += Duration::from_secs(60);
        driver.step(Input::DeadlinePassed);
    }
    assert_eq!(attempts, [2, 3, 1, 2]);
}

#[test]
fn closing_that_takes_too_long_is_a_failure_that_counts_unsent_messages() {
    let mut driver = Driver::open(Role::Client, None);
    driver.close();
    driver.now += TIMEOUT;
    assert!(driver.step(Input::DeadlinePassed).1);
    let end = driver.finish(3);
    let expected = Error::CloseTimeout {
        after: TIMEOUT,
        unsent: 3,
    };
    assert_eq!(end.to_string(), expected.to_string());
}

#[test]
fn a_peer_that_does_not_end_the_stream_after_both_frames_is_no_failure() {
    let mut driver = Driver::open(Role::Client, None);
    driver.close();
    driver.step(Input::CloseWritten);
    driver.peer_closes(1000, true);
    driver.now += LAST_WAIT;
    assert!(driver.step(Input::DeadlinePassed).1);
    assert!(driver.finish(0).is_orderly());
}

#[test]
fn closing_while_connecting_shuts_down_a_client_and_not_a_server() {
    let mut client = Driver::new(Role::Client, None);
    assert!(client.close().1);
    assert!(client.step(Input::Failed(lost())).0.is_none());
    assert!(client.finish(0).is_orderly());

    let mut server = Driver::new(Role::Server, None);
    assert_eq!(server.close(), (send(1000, SendFirst::Queue), false));
    server.step(Input::Opened);
    assert_eq!(server.session.phase(), Phase::Closing);
}

#[test]
fn a_client_that_reconnects_waits_and_connects_again_until_this_program_closes() {
    let mut driver = Driver::open(Role::Client, Some(Backoff::new()));
    driver.step(Input::ReadEnded(Some(lost())));
    driver.step(Input::ThreadsEnded {
        unsent: 1,
        chance: 0.0,
        retry: false,
    });
    let (until, reason) = driver.session.waiting().expect("it waits");
    assert!(matches!(reason, Error::Lost(_)));
    driver.now = until;
    driver.step(Input::DeadlinePassed);
    assert!(driver.session.is_connecting());
    driver.step(Input::Opened);
    assert_eq!(driver.session.connections(), 2);
    driver.close();
    driver.step(Input::ReadEnded(Some(lost())));
    assert!(matches!(driver.finish(0), Error::Lost(_)));
}

#[test]
fn closing_while_waiting_to_reconnect_is_a_failure_only_if_messages_are_unsent() {
    for unsent in [0, 2] {
        let mut driver = Driver::open(Role::Client, Some(Backoff::new()));
        driver.step(Input::ReadEnded(Some(lost())));
        driver.step(Input::ThreadsEnded {
            unsent,
            chance: 0.0,
            retry: false,
        });
        assert_eq!(driver.close(), (None, false));
        assert_eq!(driver.finish(unsent).is_orderly(), unsent == 0);
    }
}

#[test]
fn an_attempt_that_fails_when_this_program_closes_is_no_failure() {
    let mut driver = Driver::new(Role::Client, Some(Backoff::new()));
    driver.step(Input::Failed(lost()));
    driver.close();
    assert!(driver.finish(0).is_orderly());
}

#[test]
fn delivery_waits_until_this_program_closes_or_the_connection_must_end() {
    let mut driver = Driver::open(Role::Client, None);
    assert_eq!(driver.session.hold(), Hold::Forever);
    driver.peer_closes(1000, false);
    assert_eq!(driver.session.hold(), Hold::Forever);
    driver.close();
    assert_eq!(driver.session.hold(), Hold::Never);

    let mut driver = Driver::open(Role::Client, None);
    driver.step(Input::Failed(lost()));
    assert_eq!(driver.session.hold(), Hold::Never);

    let mut driver = Driver::open(Role::Client, Some(Backoff::new()));
    driver.step(Input::Failed(lost()));
    assert_eq!(driver.session.hold(), Hold::Spill);
    driver.step(Input::ThreadsEnded {
        unsent: 0,
        chance: 0.0,
        retry: false,
    });
    assert_eq!(driver.session.hold(), Hold::Forever);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4096,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_rules_hold_for_every_order_of_inputs(
        input in prop::collection::vec(any::<u8>(), 2..120),
    ) {
        crate::fuzzing::session(&input);
    }
}
