//! The state of a `Websocket` as a program sees it, and who is told when it changes.

use std::collections::VecDeque;
use std::time::Instant;

use super::session::{Phase, Session};
use crate::error::Error;

/// The state of a [`Websocket`](crate::Websocket).
///
/// [`Websocket::state`](crate::Websocket::state) returns it, and
/// [`Websocket::events`](crate::Websocket::events) and
/// [`Websocket::on_event`](crate::Websocket::on_event) report its changes.
///
/// # Examples
///
/// Why is there no connection?
///
/// ```
/// use rtcbot_websocket::{State, Websocket};
///
/// let (robot, _operator) = Websocket::pair();
/// match robot.state() {
///     State::Connecting { last_error: Some(reason), .. } => println!("trying again: {reason}"),
///     State::Connecting { attempt, .. } => println!("attempt {attempt}"),
///     State::Ready => println!("connected"),
///     State::Reconnecting { reason, .. } => println!("not connected: {reason}"),
///     State::Closing => println!("closing"),
///     State::Closed { reason, .. } => println!("closed: {reason}"),
///     _ => {}
/// }
/// # assert!(matches!(robot.state(), State::Ready));
/// ```
///
/// So the last error is in the state as long as there is no connection. To have it afterwards too,
/// keep the `reason` of each [`Reconnecting`](Self::Reconnecting) that the events report.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum State {
    /// A connection is being made.
    #[non_exhaustive]
    Connecting {
        /// The number of this attempt since the last connection that was ready, from 1.
        attempt: u32,
        /// Why the last connection was lost, or the last attempt failed.
        last_error: Option<Error>,
    },
    /// The connection is established.
    Ready,
    /// The connection was lost, or the attempt failed, and the client waits to connect again
    /// ([`Options::reconnect`](crate::Options::reconnect)).
    #[non_exhaustive]
    Reconnecting {
        /// The number of the next attempt, from 1. After a connection that was ready it is 1, and
        /// after a failed attempt it is more.
        attempt: u32,
        /// The time of the next attempt.
        at: Instant,
        /// Why the connection was lost, or the attempt failed.
        reason: Error,
    },
    /// The connection is ending, or has been lost a moment ago. Received messages may still be
    /// delivered.
    Closing,
    /// The connection has ended for good.
    #[non_exhaustive]
    Closed {
        /// Why it ended. [`Error::is_orderly`] returns whether that is a failure.
        reason: Error,
    },
}

/// The kind of a state, and the attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Connecting(u32),
    Ready,
    Reconnecting(u32),
    Closing,
    Closed,
}

impl Kind {
    fn of(session: &Session) -> Kind {
        let attempt = session.attempt();
        match session.phase() {
            _ if session.waiting().is_some() => Kind::Reconnecting(attempt),
            Phase::Connecting => Kind::Connecting(attempt),
            Phase::Ready => Kind::Ready,
            Phase::Closed if session.closed().is_some() => Kind::Closed,
            Phase::Closing | Phase::Closed => Kind::Closing,
        }
    }
}

impl State {
    pub(super) fn of(session: &Session) -> State {
        if let Some(reason) = session.end().cloned() {
            return State::Closed { reason };
        }
        if let Some((at, reason)) = session.waiting() {
            return State::Reconnecting {
                attempt: session.attempt(),
                at,
                reason: reason.clone(),
            };
        }
        match Kind::of(session) {
            Kind::Ready => State::Ready,
            Kind::Connecting(attempt) | Kind::Reconnecting(attempt) => State::Connecting {
                attempt,
                last_error: session.last_error().cloned(),
            },
            Kind::Closing | Kind::Closed => State::Closing,
        }
    }

    /// Returns the state for observers. The end follows all messages.
    pub(super) fn for_observers(session: &Session) -> State {
        match Kind::of(session) {
            Kind::Closing => State::Closing,
            _ => State::of(session),
        }
    }

    /// Returns whether the state differs.
    pub(super) fn has_changed(before: &Session, now: &Session) -> bool {
        Kind::of(before) != Kind::of(now)
    }
}

/// Passes a state on, without waiting. `None` asks only for the answer: whether there is still
/// someone to pass states to.
type Deliver = Box<dyn FnMut(Option<State>) -> bool + Send>;

/// The observers of one `Websocket`.
///
/// The states are queued under the lifecycle's lock, and delivered without it. A thread that
/// delivers to an observer takes its function out of the list, so that an observer receives the
/// states one after the other, in their order.
#[derive(Default)]
pub(super) struct Observers(Vec<Observer>);

#[derive(Default)]
struct Observer {
    /// `None` while a thread delivers, and once the observer wants no further states.
    deliver: Option<Deliver>,
    queued: VecDeque<Option<State>>,
    is_done: bool,
}

/// A state to deliver to an observer.
pub(super) struct Delivery {
    index: usize,
    deliver: Deliver,
    state: Option<State>,
}

impl Observers {
    /// Adds an observer, and returns the delivery of its first state. The others are asked whether
    /// they are still in use, so that those of a long connection are removed.
    pub(super) fn add(&mut self, deliver: Deliver, state: State) -> Delivery {
        let idle = |other: &&mut Observer| !other.is_done && other.queued.is_empty();
        for other in self.0.iter_mut().filter(idle) {
            other.queued.push_back(None);
        }
        let free = self.0.iter().position(|observer| observer.is_done);
        let index = free.unwrap_or(self.0.len());
        match self.0.get_mut(index) {
            Some(free) => *free = Observer::default(),
            None => self.0.push(Observer::default()),
        }
        Delivery {
            index,
            deliver,
            state: Some(state),
        }
    }

    /// Queues a state for all observers.
    pub(super) fn queue(&mut self, state: impl Fn() -> State) {
        for observer in self.0.iter_mut().filter(|observer| !observer.is_done) {
            observer.queued.push_back(Some(state()));
        }
    }

    /// Takes the next state to deliver. `None` if there is none that another thread will not
    /// deliver.
    pub(super) fn take(&mut self) -> Option<Delivery> {
        let mut observers = self.0.iter_mut().enumerate();
        observers.find_map(|(index, observer)| {
            if observer.queued.is_empty() {
                return None;
            }
            let deliver = observer.deliver.take()?;
            let state = observer.queued.pop_front()?;
            Some(Delivery {
                index,
                deliver,
                state,
            })
        })
    }

    /// Puts back the function of an observer, or removes the observer. The caller drops what this
    /// returns without the lock.
    pub(super) fn put_back(
        &mut self,
        index: usize,
        deliver: Option<Deliver>,
    ) -> impl Sized + use<> {
        let observer = &mut self.0[index];
        observer.is_done = deliver.is_none();
        observer.deliver = deliver;
        match observer.is_done {
            true => std::mem::take(&mut observer.queued),
            false => VecDeque::new(),
        }
    }
}

impl Delivery {
    /// Delivers the state. Returns the values for [`Observers::put_back`].
    pub(super) fn run(self) -> (usize, Option<Deliver>) {
        let Delivery {
            index,
            mut deliver,
            state,
        } = self;
        let goes_on = deliver(state);
        (index, goes_on.then_some(deliver))
    }
}
