//! A connection's control frames (RFC 6455, section 5.5): pongs owed, pings asked for and what
//! their answers tell, and the Close frame.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::Sender;

use crate::error::CloseFrame;
use crate::pubsub::ExtraWork;

/// How many of a program's own pings may be without an answer.
pub(super) const MAX_UNANSWERED: usize = 64;

/// How many pongs wait to be sent at most. A peer that sends pings faster than it takes the answers
/// gets those to the latest, as section 5.5.3 allows.
const MAX_PONGS: usize = 16;

/// What one connection sends beside messages.
#[derive(Default)]
pub(crate) struct Control {
    pongs: VecDeque<Bytes>,
    pub(super) pings: Pings,
    stage: Stage,
}

/// A Close frame to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SendClose {
    /// `None` is a frame without a body.
    pub(crate) frame: Option<CloseFrame>,
    /// Whether the messages that are queued are sent first.
    pub(crate) after_queue: bool,
}

/// How far the sending side has come.
#[derive(Default)]
enum Stage {
    #[default]
    Open,
    /// This Close frame is to be sent.
    CloseRequested(SendClose),
    /// The Close frame is about to be written, and all before it has been.
    Closing,
    /// Nothing more is to be sent.
    Stopped,
}

/// Control frames to be written now.
pub(super) struct Frames {
    pub(super) pongs: VecDeque<Bytes>,
    pub(super) pings: Vec<Bytes>,
}

/// What follows the control frames of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SendPlan {
    Messages,
    MessagesThenClose,
    Close,
    /// Nothing, not even the control frames.
    Stop,
}

impl Control {
    /// Answers a ping.
    pub(super) fn pong(&mut self, payload: Bytes) {
        if self.pongs.len() == MAX_PONGS {
            self.pongs.pop_front();
        }
        self.pongs.push_back(payload);
    }

    /// Asks for a Close frame to be sent. There is one in a connection's life, and none after `stop`.
    pub(super) fn close(&mut self, send: SendClose) {
        if matches!(self.stage, Stage::Open) {
            self.stage = Stage::CloseRequested(send);
        }
    }

    /// Asks the writer thread to end.
    pub(super) fn stop(&mut self) {
        self.stage = Stage::Stopped;
    }

    /// Returns the Close frame that is to be written now; `None` if it is not to be sent any more.
    pub(super) fn begin_to_close(&mut self) -> Option<SendClose> {
        match std::mem::replace(&mut self.stage, Stage::Closing) {
            Stage::CloseRequested(send) => Some(send),
            other => {
                self.stage = other;
                None
            }
        }
    }

    /// Returns whether this side's Close frame may have reached the peer.
    pub(super) fn has_begun_to_close(&self) -> bool {
        matches!(self.stage, Stage::Closing)
    }

    pub(super) fn plan(&self) -> SendPlan {
        match &self.stage {
            Stage::Open | Stage::Closing => SendPlan::Messages,
            Stage::CloseRequested(send) if send.after_queue => SendPlan::MessagesThenClose,
            Stage::CloseRequested(_) => SendPlan::Close,
            Stage::Stopped => SendPlan::Stop,
        }
    }

    /// Returns the frames to be encoded now, behind `messages` messages.
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
            Stage::CloseRequested(_) | Stage::Stopped => true,
            Stage::Open | Stage::Closing => false,
        };
        has_to_end || !self.pongs.is_empty() || self.pings.are_waiting()
    }
}

/// How long the way to the peer and back takes: from when a ping has been written to its pong.
///
/// It includes the time that the peer takes to answer, and what lies before the pong in either
/// side's queues: it is what a message meets, not what the network alone needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Latency {
    /// The last round trip.
    pub last: Duration,
    /// The average of all, in which each new one has the weight of an eighth, as TCP has it (RFC
    /// 6298, section 2).
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

/// What a pong has answered.
#[derive(Default)]
pub(super) struct Answered {
    /// The keepalive's own ping was among it.
    pub(super) keepalive: bool,
    /// To whom to report how long it took.
    pub(super) replies: Vec<(Sender<Duration>, Duration)>,
    /// To be dropped when no lock is held: they are the program's.
    payloads: Vec<Bytes>,
}

impl Answered {
    /// To be called when no lock is held.
    pub(super) fn notify(self) {
        for (reply_to, time) in self.replies {
            // There is room for one, and one is all that ever comes.
            let _ = reply_to.try_send(time);
        }
    }
}

/// The pings of one connection.
#[derive(Default)]
pub(super) struct Pings {
    waiting: VecDeque<(Bytes, ReplyTo)>,
    /// In the order in which they were sent.
    in_flight: VecDeque<Ping>,
    latency: Option<Latency>,
    /// How many messages the peer has certainly taken: those sent before a ping that it answered.
    confirmed: u64,
}

/// Where the answer is reported; `None` for the keepalive's own ping.
type ReplyTo = Option<Sender<Duration>>;

struct Ping {
    payload: Bytes,
    reply_to: ReplyTo,
    /// When it was written, or before that is known, encoded.
    since: Instant,
    is_written: bool,
    /// How many messages were encoded before it.
    after: u64,
}

impl Pings {
    /// Asks for the keepalive's own ping. It has one at a time: an older one is forgotten.
    pub(super) fn queue_keepalive(&mut self, payload: Bytes) {
        self.waiting.retain(|(_, reply_to)| reply_to.is_some());
        self.in_flight.retain(|ping| ping.reply_to.is_some());
        self.waiting.push_back((payload, None));
    }

    /// Asks for a program's ping; returns `false` when too many are without an answer.
    pub(super) fn queue_for(&mut self, payload: Bytes, reply_to: Sender<Duration>) -> bool {
        let room = self.waiting.len() + self.in_flight.len() < MAX_UNANSWERED;
        if room {
            self.waiting.push_back((payload, Some(reply_to)));
        }
        room
    }

    /// Returns whether there are pings to be encoded.
    fn are_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Returns those to be encoded now, behind `messages` messages. From here on an answer may
    /// come, even before it is known that all was written.
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

    /// Takes note that all that was encoded has been written.
    pub(super) fn written(&mut self) {
        let now = Instant::now();
        for ping in self.in_flight.iter_mut().filter(|ping| !ping.is_written) {
            ping.since = now;
            ping.is_written = true;
        }
    }

    /// Returns for how long the keepalive's last ping has been written.
    pub(super) fn since_written(&self) -> Option<Duration> {
        let own = self.in_flight.iter().find(|ping| ping.reply_to.is_none());
        own.filter(|ping| ping.is_written)
            .map(|ping| ping.since.elapsed())
    }

    /// Takes note of a pong. It answers the pings sent before, too: a peer may answer only the
    /// latest.
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
    fn a_pong_answers_the_ping_it_belongs_to_and_all_before() {
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
    fn of_equal_pings_the_first_is_answered_first() {
        let mut pings = Pings::default();
        let answers = [ask(&mut pings, ""), ask(&mut pings, "")];
        pings.start(0);
        answer(&mut pings, "");
        assert!(answers[0].try_recv().is_ok());
        assert!(answers[1].try_recv().is_err());
    }

    #[test]
    fn a_ping_that_is_not_sent_yet_has_no_answer() {
        let mut pings = Pings::default();
        let waiting = ask(&mut pings, "a");
        answer(&mut pings, "a");
        assert_eq!(waiting.try_recv(), Err(TryRecvError::Empty));
    }

    #[test]
    fn unanswered_pings_do_not_pile_up() {
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
    fn the_average_follows_slowly() {
        let ms = Duration::from_millis;
        let first = Latency::with(None, ms(8));
        assert_eq!((first.last, first.smoothed), (ms(8), ms(8)));
        let second = Latency::with(Some(first), ms(16));
        assert_eq!((second.last, second.smoothed), (ms(16), ms(9)));
    }
}
