//! A connection's control frames (RFC 6455, section 5.5): the pongs to send, pings with their
//! answers, and the Close frame.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::Sender;

use crate::error::CloseFrame;
use crate::pubsub::ExtraWork;

/// The maximum number of a program's unanswered pings.
pub(super) const MAX_UNANSWERED: usize = 64;

/// The maximum number of queued pongs. If a peer sends pings faster than it takes the pongs, only
/// the latest are answered, as section 5.5.3 allows.
const MAX_PONGS: usize = 16;

/// The control frames that one connection has to send.
#[derive(Default)]
pub(crate) struct Control {
    pongs: VecDeque<Bytes>,
    pub(super) pings: Pings,
    stage: SendStage,
}

/// A Close frame to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SendClose {
    /// `None` for a frame without a body.
    pub(crate) frame: Option<CloseFrame>,
    pub(crate) first: SendFirst,
}

/// What is sent before a Close frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendFirst {
    /// The queued messages.
    Queue,
    /// The queued messages, as far as they are sent until this time.
    QueueUntil(Instant),
    /// Nothing: the queued messages are for the next connection.
    Nothing,
}

/// The stage of sending.
#[derive(Default)]
enum SendStage {
    #[default]
    Open,
    /// This Close frame has to be sent.
    CloseRequested(SendClose),
    /// Everything before the Close frame has been written, and the frame itself is being written or
    /// has been.
    Closing,
    /// Nothing more may be sent.
    Stopped,
}

/// The control frames to write now.
pub(super) struct Frames {
    pub(super) pongs: VecDeque<Bytes>,
    pub(super) pings: Vec<Bytes>,
}

/// What to write in a turn after the pongs and pings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SendPlan {
    Messages,
    /// The Close frame, once there are no more messages.
    MessagesThenClose,
    Close,
    /// Nothing. The pongs and pings are not written either.
    Stop,
}

impl Control {
    /// Queues the answer to a ping.
    pub(super) fn pong(&mut self, payload: Bytes) {
        if self.pongs.len() == MAX_PONGS {
            self.pongs.pop_front();
        }
        self.pongs.push_back(payload);
    }

    /// Requests a Close frame. A connection sends at most one, and none after `stop`.
    pub(super) fn close(&mut self, send: SendClose) {
        if matches!(self.stage, SendStage::Open) {
            self.stage = SendStage::CloseRequested(send);
        }
    }

    /// Makes the writer thread end.
    pub(super) fn stop(&mut self) {
        self.stage = SendStage::Stopped;
    }

    /// Returns the Close frame to write now. `None` after `stop`.
    pub(super) fn begin_to_close(&mut self) -> Option<SendClose> {
        match std::mem::replace(&mut self.stage, SendStage::Closing) {
            SendStage::CloseRequested(send) => Some(send),
            other => {
                self.stage = other;
                None
            }
        }
    }

    /// Returns whether this side's Close frame may have reached the peer.
    pub(super) fn has_begun_to_close(&self) -> bool {
        matches!(self.stage, SendStage::Closing)
    }

    /// Returns what to write after the pongs and pings.
    pub(super) fn plan(&self) -> SendPlan {
        match &self.stage {
            SendStage::Open | SendStage::Closing => SendPlan::Messages,
            SendStage::CloseRequested(send) => match send.first {
                SendFirst::Queue => SendPlan::MessagesThenClose,
                SendFirst::QueueUntil(time) if Instant::now() < time => SendPlan::MessagesThenClose,
                SendFirst::QueueUntil(_) | SendFirst::Nothing => SendPlan::Close,
            },
            SendStage::Stopped => SendPlan::Stop,
        }
    }

    /// Returns the pongs and pings to encode now, after the connection's first `messages` messages.
    pub(super) fn frames(&mut self, messages: u64) -> Frames {
        Frames {
            pongs: std::mem::take(&mut self.pongs),
            pings: self.pings.start(messages),
        }
    }
}

impl ExtraWork for Control {
    fn is_pending(&self, _closed: bool) -> bool {
        let has_to_end = match &self.stage {
            SendStage::CloseRequested(_) | SendStage::Stopped => true,
            SendStage::Open | SendStage::Closing => false,
        };
        has_to_end || !self.pongs.is_empty() || self.pings.are_waiting()
    }
}

/// The round-trip time: from the time at which a ping has been written until its pong arrives.
///
/// It includes the time that the peer takes to answer, and the time that the pong waits in either
/// side's queues. So it is the delay of a message, not that of the network alone.
///
/// # Examples
///
/// ```
/// use rtcbot_websocket::Websocket;
///
/// let (robot, _operator) = Websocket::pair();
/// robot.ping("")?.recv()?;
/// let latency = robot.stats().latency.unwrap();
/// assert_eq!(latency.last, latency.smoothed); // after one ping
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Latency {
    /// The last round-trip time.
    pub last: Duration,
    /// The moving average, in which each new value has a weight of one eighth, as in TCP (RFC 6298,
    /// section 2).
    pub smoothed: Duration,
}

impl Latency {
    fn with(before: Option<Latency>, last: Duration) -> Latency {
        let smoothed = match before {
            None => last,
            Some(before) => (before.smoothed * 7 + last) / 8,
        };
        Latency { last, smoothed }
    }
}

/// The pings that a pong has answered.
#[derive(Default)]
pub(super) struct Answered {
    /// Whether the keepalive's ping is one of them.
    pub(super) keepalive: bool,
    /// The round-trip times to report.
    pub(super) replies: Vec<(Sender<Duration>, Duration)>,
    /// The program's payloads. They must be dropped where no lock is held.
    payloads: Vec<Bytes>,
}

impl Answered {
    /// Reports the round-trip times. Call it where no lock is held.
    pub(super) fn notify(self) {
        for (reply_to, time) in self.replies {
            // Does not wait: the channel has room for one value, and only one is sent.
            let _ = reply_to.try_send(time);
        }
    }
}

/// The pings of one connection.
#[derive(Default)]
pub(super) struct Pings {
    /// The pings that have not been encoded yet.
    waiting: VecDeque<(Bytes, ReplyTo)>,
    /// The encoded pings without an answer, in the order in which they were sent.
    in_flight: VecDeque<Ping>,
    latency: Option<Latency>,
    /// The number of messages that the peer is known to have received, because they were sent
    /// before a ping that it has answered.
    confirmed: u64,
}

/// The channel for the round-trip time. `None` for the keepalive's ping.
type ReplyTo = Option<Sender<Duration>>;

struct Ping {
    payload: Bytes,
    reply_to: ReplyTo,
    /// The time at which it was written. Until that is known, the time at which it was encoded.
    since: Instant,
    is_written: bool,
    /// The number of messages that were encoded before it.
    after: u64,
}

impl Pings {
    /// Queues the keepalive's ping, which replaces an older one without an answer.
    pub(super) fn queue_keepalive(&mut self, payload: Bytes) {
        self.waiting.retain(|(_, reply_to)| reply_to.is_some());
        self.in_flight.retain(|ping| ping.reply_to.is_some());
        self.waiting.push_back((payload, None));
    }

    /// Queues a program's ping. Returns `false` if too many are unanswered.
    pub(super) fn queue_for(&mut self, payload: Bytes, reply_to: Sender<Duration>) -> bool {
        let room = self.waiting.len() + self.in_flight.len() < MAX_UNANSWERED;
        if room {
            self.waiting.push_back((payload, Some(reply_to)));
        }
        room
    }

    /// Returns whether there are pings to encode.
    fn are_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Returns the pings to encode now, after the connection's first `messages` messages. From here
    /// on they may be answered, even before it is known that they have been written.
    fn start(&mut self, messages: u64) -> Vec<Bytes> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let since = Instant::now();
        let started = self.waiting.drain(..).map(|(payload, reply_to)| Ping {
            payload,
            reply_to,
            since,
            is_written: false,
            after: messages,
        });
        let first = self.in_flight.len();
        self.in_flight.extend(started);
        let payloads = self.in_flight.iter().skip(first);
        payloads.map(|ping| ping.payload.clone()).collect()
    }

    /// Records that all encoded pings have been written.
    pub(super) fn written(&mut self) {
        let now = Instant::now();
        for ping in self.in_flight.iter_mut().filter(|ping| !ping.is_written) {
            ping.since = now;
            ping.is_written = true;
        }
    }

    /// Returns the time since the keepalive's ping was written. `None` if it is not written or has
    /// been answered.
    pub(super) fn since_written(&self) -> Option<Duration> {
        let own = self.in_flight.iter().find(|ping| ping.reply_to.is_none());
        own.filter(|ping| ping.is_written)
            .map(|ping| ping.since.elapsed())
    }

    /// Handles a pong. It also answers the earlier pings, because a peer may answer only the latest
    /// (section 5.5.3).
    #[must_use]
    pub(super) fn answered(&mut self, payload: &[u8]) -> Answered {
        let mut answered = Answered::default();
        let meant = |ping: &Ping| ping.payload == payload;
        let Some(index) = self.in_flight.iter().position(meant) else {
            // A pong without a ping is allowed (section 5.5.3).
            return answered;
        };
        let mut last = Duration::ZERO;
        for ping in self.in_flight.drain(..=index) {
            last = ping.since.elapsed();
            self.confirmed = ping.after;
            answered.payloads.push(ping.payload);
            match ping.reply_to {
                Some(reply_to) => answered.replies.push((reply_to, last)),
                None => answered.keepalive = true,
            }
        }
        self.latency = Some(Latency::with(self.latency, last));
        answered
    }

    pub(super) fn latency(&self) -> Option<Latency> {
        self.latency
    }

    pub(super) fn confirmed(&self) -> u64 {
        self.confirmed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::{Receiver, TryRecvError, bounded};

    fn ask(pings: &mut Pings, payload: &'static str) -> Receiver<Duration> {
        let (reply_to, answer) = bounded(1);
        assert!(pings.queue_for(payload.into(), reply_to));
        answer
    }

    fn answer(pings: &mut Pings, payload: &'static str) -> bool {
        let answered = pings.answered(payload.as_bytes());
        let own = answered.keepalive;
        answered.notify();
        own
    }

    #[test]
    fn a_pong_answers_its_ping_and_all_earlier_ones() {
        let mut pings = Pings::default();
        let answers = ["a", "b", "c"].map(|payload| ask(&mut pings, payload));
        assert_eq!(pings.start(7), ["a", "b", "c"]);
        assert!(!answer(&mut pings, "unasked") && !answer(&mut pings, "b"));
        assert!(answers[0].try_recv().is_ok() && answers[1].try_recv().is_ok());
        assert_eq!(answers[2].try_recv(), Err(TryRecvError::Empty));
        assert_eq!(pings.confirmed(), 7);
    }

    #[test]
    fn an_answer_to_a_later_ping_answers_the_keepalive_too() {
        let mut pings = Pings::default();
        pings.queue_keepalive("own".into());
        let _answer = ask(&mut pings, "mine");
        pings.start(0);
        assert_eq!(pings.since_written(), None);
        pings.written();
        assert!(pings.since_written().is_some());
        assert!(answer(&mut pings, "mine"));
        assert_eq!(pings.since_written(), None);
    }

    #[test]
    fn a_pong_answers_the_first_of_equal_pings() {
        let mut pings = Pings::default();
        let answers = [ask(&mut pings, ""), ask(&mut pings, "")];
        pings.start(0);
        answer(&mut pings, "");
        assert!(answers[0].try_recv().is_ok());
        assert!(answers[1].try_recv().is_err());
    }

    #[test]
    fn a_ping_that_has_not_been_sent_is_not_answered() {
        let mut pings = Pings::default();
        let waiting = ask(&mut pings, "a");
        answer(&mut pings, "a");
        assert_eq!(waiting.try_recv(), Err(TryRecvError::Empty));
    }

    #[test]
    fn the_number_of_unanswered_pings_is_limited() {
        let mut pings = Pings::default();
        let answers: Vec<_> = (0..MAX_UNANSWERED).map(|_| ask(&mut pings, "x")).collect();
        pings.start(0);
        let (reply_to, _answer) = bounded(1);
        assert!(!pings.queue_for("one more".into(), reply_to.clone()));
        for _ in 0..1000 {
            pings.queue_keepalive("own".into());
            pings.start(0);
        }
        assert_eq!(pings.in_flight.len(), MAX_UNANSWERED + 1);
        answer(&mut pings, "x");
        assert!(answers[0].try_recv().is_ok());
        assert!(!pings.queue_for("one more".into(), reply_to.clone()));
        answer(&mut pings, "x");
        assert!(pings.queue_for("one more".into(), reply_to));
    }

    #[test]
    fn a_new_round_trip_counts_one_eighth_of_the_average() {
        let ms = Duration::from_millis;
        let first = Latency::with(None, ms(8));
        assert_eq!((first.last, first.smoothed), (ms(8), ms(8)));
        let second = Latency::with(Some(first), ms(16));
        assert_eq!((second.last, second.smoothed), (ms(16), ms(9)));
    }
}
