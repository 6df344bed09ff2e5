//! `Websocket`: the methods that a program calls on a connection.

mod accept;
pub(crate) mod broadcast;
mod connect;
mod connection_id;
mod control_frames;
mod event_callback;
mod fragments;
mod frame_writer;
mod handle;
mod json;
mod keepalive;
mod lifecycle;
mod messages;
mod opened;
mod pair;
mod ping_pong;
mod read_loop;
mod reader_thread;
pub(crate) mod request;
mod send_queue;
pub(crate) mod session;
mod shared;
pub(crate) mod slot;
mod state;
mod stats;
mod thread_end;
mod writer_thread;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, bounded};

pub use self::connection_id::ConnectionId;
pub use self::control_frames::Latency;
use self::control_frames::MAX_UNANSWERED;
use self::event_callback::EventCallback;
pub use self::handle::{WeakWebsocket, Websocket};
pub use self::messages::Messages;
pub use self::request::Request;
use self::session::{Input, Phase, Session};
use self::shared::ConnectionInfo;
pub(crate) use self::shared::Shared;
pub use self::state::State;
pub use self::stats::Stats;
use crate::deadline::deadline_after;
use crate::error::{CloseFrame, Error, PutError, Result};
use crate::message::Message;
use crate::net::handshake::subprotocols;
#[cfg(doc)]
use crate::options::Options;
use crate::pubsub::{
    Latest, Queue, RoomWait, Sink, Source, Subscription, SubscriptionId, producer_with,
};

/// The number of states that a subscription to the events keeps.
const MAX_EVENTS: usize = 64;

/// Receiving messages.
impl Websocket {
    /// Takes the next message of the default subscription, and waits until there is one.
    ///
    /// The first call makes the default subscription. The wait ends with the connection.
    ///
    /// **The default subscription is one like the others: if no one takes from it, it fills up, and
    /// reading pauses.** A program that needs only the first message calls
    /// [`unsubscribe_default`](Self::unsubscribe_default) after it.
    ///
    /// # Errors
    ///
    /// - After the end, once all queued messages have been taken: the reason for the end. This is
    ///   [`Error::Closed`] after an orderly closing.
    /// - [`Error::Unsubscribed`] if another thread calls
    ///   [`unsubscribe_default`](Self::unsubscribe_default) meanwhile.
    /// - [`Error::OwnThread`] on the connection's own thread (in a function given to [`Options`])
    ///   if no message is queued: none would arrive during the wait.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Websocket;
    ///
    /// let (operator, robot) = Websocket::pair();
    /// operator.put_nowait("forward")?;
    /// operator.close()?;
    /// assert_eq!(robot.get()?, "forward");
    /// assert!(robot.get().unwrap_err().is_orderly());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "recv")]
    #[doc(alias = "read")]
    pub fn get(&self) -> Result<Message> {
        match self.shared().is_reader_thread() {
            true => self.get_on_the_reader_thread(),
            false => self.shared().producer.get(),
        }
    }

    /// Takes a message that is queued. None would arrive during a wait.
    fn get_on_the_reader_thread(&self) -> Result<Message> {
        self.try_get().map_err(|error| match error {
            Error::Empty => Error::OwnThread,
            other => other,
        })
    }

    /// Takes the next message of the default subscription, and waits for at most `timeout`.
    ///
    /// # Errors
    ///
    /// - [`Error::Timeout`] if no message arrives in time.
    /// - The errors of [`get`](Self::get).
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Error, Websocket};
    /// use std::time::Duration;
    ///
    /// let (robot, _operator) = Websocket::pair();
    /// let result = robot.get_timeout(Duration::from_millis(10));
    /// assert!(matches!(result, Err(Error::Timeout)));
    /// ```
    #[doc(alias = "recv_timeout")]
    pub fn get_timeout(&self, timeout: Duration) -> Result<Message> {
        match self.shared().is_reader_thread() {
            true => self.get_on_the_reader_thread(),
            false => self.shared().producer.get_timeout(timeout),
        }
    }

    /// Takes the next message of the default subscription, without waiting.
    ///
    /// # Errors
    ///
    /// - [`Error::Empty`] if no message is queued.
    /// - The errors of [`get`](Self::get).
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Error, Websocket};
    ///
    /// let (robot, _operator) = Websocket::pair();
    /// assert!(matches!(robot.try_get(), Err(Error::Empty)));
    /// ```
    #[doc(alias = "try_recv")]
    pub fn try_get(&self) -> Result<Message> {
        self.shared().producer.try_get()
    }

    /// Returns a new subscription, which receives every message from now on, independently of the
    /// others.
    ///
    /// [`Options::receive_queue`] sets the kind of its queue.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Websocket;
    ///
    /// let (operator, robot) = Websocket::pair();
    /// let motors = robot.subscribe();
    /// let recorder = robot.subscribe();
    /// operator.put_nowait("forward")?;
    /// assert_eq!(motors.get()?, "forward");
    /// assert_eq!(recorder.get()?, "forward");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn subscribe(&self) -> Subscription<Message> {
        self.shared().producer.subscribe()
    }

    /// Returns a new subscription with a queue of this kind, which decides what happens when the
    /// reader of the subscription falls behind.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Queue, Websocket};
    ///
    /// let (operator, robot) = Websocket::pair();
    /// let orders = robot.subscribe_with(Queue::Latest); // keeps only the newest order
    /// operator.put_nowait("forward")?;
    /// assert_eq!(orders.get()?, "forward");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn subscribe_with(&self, queue: Queue) -> Subscription<Message> {
        self.shared().producer.subscribe_with(queue)
    }

    /// Returns the newest message and its age at any time, from now on.
    ///
    /// A full subscription does not affect it, unless it pauses reading: then no message arrives.
    /// [`Latest`] describes from when the age counts, and what happens after the end of the
    /// connection. Dropping the last handle unsubscribes.
    ///
    /// If this is the first subscription, the messages that arrived before are delivered now, and
    /// the last of them counts as new.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Websocket;
    /// use std::time::Duration;
    ///
    /// let (operator, robot) = Websocket::pair();
    /// let orders = robot.subscribe_latest();
    /// operator.put_nowait("forward")?;
    /// # while orders.newest().is_none() {}
    /// for _ in 0..3 {
    ///     // Every 10 ms: drive as the last order says, or stop if there was none for 300 ms.
    ///     match orders.fresh(Duration::from_millis(300)) {
    ///         Some(order) => println!("to the motors: {order}"),
    ///         None => println!("motors off"),
    ///     }
    ///     std::thread::sleep(Duration::from_millis(10));
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn subscribe_latest(&self) -> Latest<Message> {
        self.shared().producer.subscribe_latest()
    }

    /// Passes every message from now on to a crossbeam `Sender<Message>`, another `Websocket`, a
    /// [`Latest`], or your own [`Sink`]: RTCBot's `subscribe(q)`.
    ///
    /// While a channel or a `Websocket` is full, reading pauses. Your own sink is called where
    /// callbacks are called: see [`Sink`].
    ///
    /// A channel without capacity (`bounded(0)`) receives messages only while a thread waits in its
    /// `recv`. Do not send from it with [`put_subscription`](Self::put_subscription): each side
    /// would check whether the other waits, and neither would wait.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Websocket, crossbeam_channel::unbounded};
    ///
    /// let (operator, robot) = Websocket::pair();
    /// let (sender, orders) = unbounded();
    /// robot.subscribe_to(sender);
    /// operator.put_nowait("forward")?;
    /// assert_eq!(orders.recv()?, "forward");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "pipe")]
    #[doc(alias = "forward")]
    pub fn subscribe_to(&self, sink: impl Sink<Message>) -> SubscriptionId {
        self.shared().producer.subscribe_to(sink)
    }

    /// Calls `f` with every message from now on, in order, on the dispatch thread.
    ///
    /// All callbacks of a connection share that thread, so a slow one delays the others. A panic is
    /// logged, and the callback stays subscribed.
    ///
    /// Reading pauses when 1024 messages, or [`receive_queue_bytes`](Options::receive_queue_bytes),
    /// are queued for all callbacks together, until half of them have been called. It does not
    /// pause while a callback waits for this connection in [`get`](Self::get),
    /// [`get_timeout`](Self::get_timeout), the same methods of a subscription, or a `wait_…`
    /// method. A callback that waits in another way (with [`receiver`](Subscription::receiver),
    /// with `select!`, or by polling [`try_get`](Self::try_get)) may wait for a message that is not
    /// read before the callback returns. So may a callback that waits for something else that only
    /// a message of this connection causes.
    ///
    /// If the operating system cannot start the dispatch thread, this crate tries again for a
    /// second, and this call may wait as long. Then the connection fails with [`Error::Thread`],
    /// and the pending callbacks are called on its reader thread, or, if the connection has ended,
    /// on the thread that registers them. This applies to all callbacks of a connection.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Websocket, crossbeam_channel::unbounded};
    ///
    /// let (operator, robot) = Websocket::pair();
    /// let (log, lines) = unbounded();
    /// robot.subscribe_callback(move |order| log.send(format!("received {order}")).unwrap());
    /// operator.put_nowait(7)?;
    /// assert_eq!(lines.recv()?, "received 7");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "on_message")]
    pub fn subscribe_callback(&self, f: impl FnMut(Message) + Send + 'static) -> SubscriptionId {
        self.shared().producer.subscribe_callback(f)
    }

    /// Calls `f` with every message from now on, on up to `workers` threads at the same time:
    /// RTCBot's coroutine callbacks.
    ///
    /// A slow call does not delay the next message. Calls start in the order of the messages, and
    /// may end in any order.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Websocket;
    ///
    /// let (client, server) = Websocket::pair();
    /// let answers = server.downgrade();
    /// server.subscribe_concurrent(4, move |question| {
    ///     if let Some(server) = answers.upgrade() {
    ///         let _ = server.put(question); // after work that may take long
    ///     }
    /// });
    /// client.put_nowait("question")?;
    /// assert_eq!(client.get()?, "question");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn subscribe_concurrent(
        &self,
        workers: usize,
        f: impl Fn(Message) + Send + Sync + 'static,
    ) -> SubscriptionId {
        self.shared().producer.subscribe_concurrent(workers, f)
    }

    /// Removes a subscription, sink or callback. Returns whether it existed.
    ///
    /// It receives no more messages, except for one that is being delivered at this moment.
    /// Dropping a [`Subscription`] has the same effect.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Error, Websocket};
    ///
    /// let (_operator, robot) = Websocket::pair();
    /// let orders = robot.subscribe();
    /// assert!(robot.unsubscribe(&orders));
    /// assert!(matches!(orders.get(), Err(Error::Unsubscribed)));
    /// assert!(!robot.unsubscribe(&orders));
    /// ```
    pub fn unsubscribe(&self, which: impl AsRef<SubscriptionId>) -> bool {
        self.shared().producer.unsubscribe(which)
    }

    /// Removes the default subscription, if `get` has made one: RTCBot's `unsubscribe()` without an
    /// argument.
    ///
    /// The next `get` makes a new one.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Websocket;
    ///
    /// let (operator, robot) = Websocket::pair();
    /// operator.put_nowait("a greeting")?;
    /// assert_eq!(robot.get()?, "a greeting");
    /// robot.unsubscribe_default(); // its queue must not fill up
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn unsubscribe_default(&self) {
        self.shared().producer.unsubscribe_default();
    }

    /// Removes all subscriptions, sinks and callbacks, including the default subscription.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Error, Websocket};
    ///
    /// let (_operator, robot) = Websocket::pair();
    /// let orders = robot.subscribe();
    /// robot.subscribe_callback(|order| println!("received {order}"));
    /// robot.unsubscribe_all();
    /// assert!(matches!(orders.get(), Err(Error::Unsubscribed)));
    /// ```
    #[doc(alias = "unsubscribeAll")]
    pub fn unsubscribe_all(&self) {
        self.shared().producer.unsubscribe_all();
    }

    /// Delivers the messages that [`Options::paused`] has held back, and those that follow.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Error, Options};
    ///
    /// let (robot, operator) = Options::new().paused(true).pair();
    /// operator.put_nowait("forward")?;
    /// let orders = robot.subscribe();
    /// assert!(matches!(orders.try_get(), Err(Error::Empty)));
    /// robot.resume();
    /// assert_eq!(orders.get()?, "forward");
    /// # operator.resume();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn resume(&self) {
        self.shared().producer.resume();
    }
}

/// Sending messages.
impl Websocket {
    /// Queues a message for sending, without waiting, whatever the network does.
    ///
    /// It stops an active source ([`put_subscription`](Self::put_subscription)), as in RTCBot.
    ///
    /// # Errors
    ///
    /// Both errors contain the message.
    ///
    /// - [`PutError::Full`] if [`send_queue`](Options::send_queue) bytes are queued.
    /// - [`PutError::Closed`] if the connection is closing or has ended.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{PutError, Websocket, json};
    ///
    /// let (operator, _robot) = Websocket::pair();
    /// match operator.put_nowait(json!({"speed": 1})) {
    ///     Ok(()) => {}
    ///     Err(PutError::Full(order)) => println!("the network is too slow for {order}"),
    ///     Err(PutError::Closed(order)) => println!("not sent, the connection is closed: {order}"),
    /// }
    /// ```
    #[doc(alias = "try_send")]
    pub fn put_nowait(&self, data: impl Into<Message>) -> Result<(), PutError<Message>> {
        self.shared().send_queue.put_nowait(data.into())
    }

    /// Queues a message for sending, in place of the queued message with the same key. Does not
    /// wait.
    ///
    /// If the network is slow or interrupted, the peer receives only the newest message of each
    /// key: a robot puts its position with the key `"position"`, and its battery's state with the
    /// key `"battery"`. Keys stay on this side, and are not sent.
    ///
    /// The new message is sent when the replaced one would have been: it takes the place of that in
    /// the queue, so a message that is put often is not delayed by others. It may overtake messages
    /// that were put between the two. [`stats().replaced`](crate::Stats::replaced) counts the
    /// replaced messages.
    ///
    /// If no message with the key is queued, the new one is added to the end of the queue. A
    /// message that the writer has taken from the queue is not replaced, but sent before the new
    /// one. Nor can the new message overtake what is already in the sockets' buffers.
    ///
    /// A message that was being written when a connection was lost is queued again for the [next
    /// connection](Options::reconnect). It is sent before a newer one with its key. If there is
    /// none yet, it can be replaced until then, unless the program uses more than 64 keys.
    ///
    /// It stops an active source, as every put does.
    ///
    /// # Errors
    ///
    /// Both errors contain the message.
    ///
    /// - [`PutError::Full`] if [`send_queue`](Options::send_queue) bytes are queued, not counting
    ///   the message that would be replaced. That message stays queued.
    /// - [`PutError::Closed`] if the connection is closing or has ended.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Websocket, json};
    ///
    /// let (robot, operator) = Websocket::pair();
    /// for x in 0..=100 {
    ///     robot.put_latest("position", json!({"x": x}))?;
    /// }
    /// // Some of the positions between the first and the last may have been replaced.
    /// while operator.get()? != json!({"x": 100}) {}
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn put_latest(&self, key: &str, data: impl Into<Message>) -> Result<(), PutError<Message>> {
        self.shared().send_queue.put_latest(key, data.into())
    }

    /// Queues a message for sending ahead of all queued messages, as an emergency stop. Does not
    /// wait.
    ///
    /// Urgent messages are sent in the order in which they were put. They overtake the messages of
    /// `put`, `put_nowait` and `put_latest`, and those of sources. They do not overtake:
    ///
    /// - The rest of a message of which the beginning has been sent, because the frames of two
    ///   messages must not be mixed (RFC 6455, section 5.4). After a long message has begun, the
    ///   urgent one waits for all of it: send short messages if that matters.
    /// - What the system has accepted, which may be some megabytes, and up to
    ///   [`fragment_size`](Options::fragment_size) bytes that are being passed to it. Linux has a
    ///   setting for the former, which is described there.
    /// - The [greeting](Options::greeting), which may be a login.
    ///
    /// A full queue does not refuse an urgent message, as long as fewer than 16 of them are queued.
    /// They count for [`send_queue`](Options::send_queue) like all others.
    ///
    /// An urgent message replaces no message, and is not replaced: it has no key. Orders that were
    /// queued before it are sent after it. So the peer must ignore these after an emergency stop,
    /// for example by a number in each message.
    ///
    /// While there is no connection, it is queued for the [next one](Options::reconnect), which
    /// sends it first. `close` sends it before the other queued messages.
    ///
    /// It stops an active source, as every put does.
    ///
    /// # Errors
    ///
    /// Both errors contain the message.
    ///
    /// - [`PutError::Full`] if the queue is full, and 16 or more urgent messages are queued.
    /// - [`PutError::Closed`] if the connection is closing or has ended.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Websocket, json};
    ///
    /// let (operator, robot) = Websocket::pair();
    /// operator.put_urgent(json!({"stop": true}))?;
    /// assert_eq!(robot.get()?, json!({"stop": true}));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn put_urgent(&self, data: impl Into<Message>) -> Result<(), PutError<Message>> {
        self.shared().send_queue.put_urgent(data.into())
    }

    /// Queues a message for sending, and waits until the queue has space for it.
    ///
    /// It stops an active source. The wait ends with the connection.
    ///
    /// # Errors
    ///
    /// Both errors contain the message.
    ///
    /// - [`PutError::Closed`] if the connection is closing or has ended, also during the wait.
    /// - [`PutError::Full`], without a wait, on the connection's own thread (in a function given to
    ///   [`Options`]), because that thread makes the connection that makes space.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Websocket;
    ///
    /// let (camera, viewer) = Websocket::pair();
    /// camera.put(vec![0u8; 1000])?;
    /// assert_eq!(viewer.get()?.as_bytes().unwrap().len(), 1000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "send")]
    pub fn put(&self, data: impl Into<Message>) -> Result<(), PutError<Message>> {
        self.put_deadline(data.into(), None)
    }

    /// Queues a message for sending, and waits for at most `timeout` until the queue has space for
    /// it.
    ///
    /// # Errors
    ///
    /// - [`PutError::Full`] if there is no space in time.
    /// - The errors of [`put`](Self::put).
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Websocket;
    /// use std::time::Duration;
    ///
    /// let (camera, _viewer) = Websocket::pair();
    /// if let Err(error) = camera.put_timeout(vec![0u8; 1000], Duration::from_millis(40)) {
    ///     println!("an image is not sent: {error}");
    /// }
    /// ```
    #[doc(alias = "send_timeout")]
    pub fn put_timeout(
        &self,
        data: impl Into<Message>,
        timeout: Duration,
    ) -> Result<(), PutError<Message>> {
        self.put_deadline(data.into(), Instant::now().checked_add(timeout))
    }

    fn put_deadline(
        &self,
        message: Message,
        deadline: Option<Instant>,
    ) -> Result<(), PutError<Message>> {
        match self.shared().is_reader_thread() {
            // It makes the next connection, and so the room.
            true => self.shared().send_queue.put_nowait(message),
            false => self.shared().send_queue.put_deadline(message, deadline),
        }
    }

    /// Sends everything that `source` yields from now on, and replaces the previous source.
    ///
    /// A source is a [`Subscription`], a crossbeam `Receiver<Message>`, a function that is
    /// [called at a steady rate](Source::every), or an [iterator](Source::iter).
    ///
    /// The writer thread takes messages as fast as the network accepts them. Messages that were put
    /// directly are sent first. A message that was taken from a source is sent, even if the source
    /// is replaced or stopped; the others stay in it.
    ///
    /// The source is dropped when it is exhausted, and when either side closes the connection;
    /// messages still in it are not sent. (To send everything that another connection received,
    /// including the last messages before it closes, use its [`subscribe_to`](Self::subscribe_to).)
    ///
    /// **Any put stops the source**, as in RTCBot: through any handle, by a connection that is
    /// [piped](Self::subscribe_to) into this `Websocket`, or by
    /// [`broadcast`](crate::ServerHandle::broadcast). The source is then dropped, and messages that
    /// are put into it later are not sent. A [greeting](Options::greeting) stops no source.
    ///
    /// From a subscription with [`Queue::Latest`], the newest order is taken whenever the network
    /// accepts one. It cannot overtake orders that are already in the sockets' buffers. An order
    /// that was being written when a connection was lost is sent first on the [next
    /// connection](Options::reconnect), so a robot that must not follow an old order checks a time
    /// in the order. Put the very last order directly, because a source that is dropped by a close
    /// may still contain it.
    ///
    /// # Errors
    ///
    /// [`PutError::Closed`] if the connection is closing or has ended. It contains the source.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Websocket, crossbeam_channel::unbounded};
    ///
    /// let (operator, robot) = Websocket::pair();
    /// let (joystick, orders) = unbounded();
    /// operator.put_subscription(orders)?;
    /// joystick.send("forward".into())?;
    /// assert_eq!(robot.get()?, "forward");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "putSubscription")]
    pub fn put_subscription(
        &self,
        source: impl Into<Source<Message>>,
    ) -> Result<(), PutError<Subscription<Message>>> {
        let source = source.into().into_subscription();
        self.shared().send_queue.consumer().put_subscription(source)
    }

    /// Returns the active source, if any. It is equal (`==`) to the one that was put.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Message, Websocket, pubsub};
    ///
    /// let (ws, _peer) = Websocket::pair();
    /// let (_publisher, producer) = pubsub::producer::<Message>();
    /// let states = producer.subscribe();
    /// ws.put_subscription(&states)?;
    /// assert_eq!(ws.subscription(), Some(states));
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    #[must_use]
    pub fn subscription(&self) -> Option<Subscription<Message>> {
        self.shared().send_queue.consumer().subscription()
    }

    /// Stops reading from the active source, and drops it.
    ///
    /// A message that was taken from it is still sent.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Websocket, crossbeam_channel::unbounded};
    ///
    /// let (ws, _peer) = Websocket::pair();
    /// let (_joystick, orders) = unbounded();
    /// ws.put_subscription(orders)?;
    /// ws.stop_subscription();
    /// assert!(ws.subscription().is_none());
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    #[doc(alias = "stopSubscription")]
    pub fn stop_subscription(&self) {
        self.shared().send_queue.consumer().stop_subscription();
    }
}

/// The state of the connection.
impl Websocket {
    /// Returns whether the connection is established and not closing.
    ///
    /// It is `false` between two connections, with [`Options::reconnect`].
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Websocket;
    ///
    /// let (robot, _operator) = Websocket::pair();
    /// assert!(robot.is_ready());
    /// robot.close()?;
    /// assert!(!robot.is_ready());
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    #[doc(alias = "ready")]
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.shared().lifecycle.phase() == Phase::Ready
    }

    /// Returns whether the connection has ended, orderly or by an error.
    ///
    /// A slow consumer may not have received all of its messages yet.
    /// [`wait_closed`](Self::wait_closed) and [`on_close`](Self::on_close) wait for that too, for
    /// at most [`close_timeout`](Options::close_timeout).
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Websocket;
    ///
    /// let (robot, _operator) = Websocket::pair();
    /// assert!(!robot.is_closed());
    /// robot.close()?;
    /// assert!(robot.is_closed());
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    #[doc(alias = "closed")]
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared().lifecycle.phase() == Phase::Closed
    }

    /// Returns why the connection failed. Returns `None` while it has not ended, and after an
    /// orderly closing.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Error, Options};
    ///
    /// let (robot, operator) = Options::new().max_message_size(10).pair();
    /// operator.put_nowait("more than ten bytes")?;
    /// robot.wait_closed().unwrap_err();
    /// assert!(matches!(robot.error(), Some(Error::MessageTooBig { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn error(&self) -> Option<Error> {
        self.shared().lifecycle.end()?.failure()
    }

    /// Returns the state of the connection, with the reason why it is not ready.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{State, Websocket};
    ///
    /// let (robot, _operator) = Websocket::pair();
    /// assert!(matches!(robot.state(), State::Ready));
    /// robot.close()?;
    /// let State::Closed { reason, .. } = robot.state() else { panic!() };
    /// assert!(reason.is_orderly());
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    #[doc(alias = "end_reason")]
    #[must_use]
    pub fn state(&self) -> State {
        self.shared().lifecycle.look(State::of)
    }
}

/// Reporting changes of the state.
impl Websocket {
    /// Returns a subscription to the [`state`](Self::state): RTCBot's `onReady(queue)`.
    ///
    /// It receives the present state first, and then each new one: every connection, every lost
    /// one, every attempt that fails, and the end. After the end, it returns the reason. It keeps
    /// the newest 64 states.
    ///
    /// # Examples
    ///
    /// A client with a wrong port does not stay silent:
    ///
    /// ```
    /// use rtcbot_websocket::{Backoff, Error, Options, Server, State};
    ///
    /// let server = Server::bind("127.0.0.1:0")?;
    /// let url = server.url().to_owned();
    /// drop(server); // no one listens there any more
    /// let ws = Options::new().reconnect(Backoff::new()).connect(url)?;
    /// for event in &ws.events() {
    ///     if let State::Reconnecting { reason, .. } = event {
    ///         println!("not connected: {reason}");
    ///         assert!(matches!(reason, Error::Connect { .. }));
    ///         break;
    ///     }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn events(&self) -> Subscription<State> {
        let (publisher, producer) = producer_with(Queue::DropOldest(MAX_EVENTS));
        let subscription = producer.subscribe();
        let mut publisher = Some(publisher);
        let deliver = move |state: Option<State>| {
            let Some(mut open) = publisher.take() else {
                return false;
            };
            if let Some(state) = state.clone() {
                // Does not wait: the queue drops the oldest state.
                open.put(state);
            }
            match state {
                Some(State::Closed { reason }) => open.end(reason),
                _ if open.has_subscribers() => publisher = Some(open),
                _ => {}
            }
            publisher.is_some()
        };
        self.shared().lifecycle.observe(deliver);
        subscription
    }

    /// Calls `f` on the dispatch thread with the present [`state`](Self::state), and then with each
    /// new one.
    ///
    /// The end follows the callbacks for all messages. Messages of a lost connection may be
    /// delivered after its loss is reported.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use rtcbot_websocket::{Backoff, Options, State};
    ///
    /// let ws = Options::new().reconnect(Backoff::new()).connect("ws://robot.local/ws")?;
    /// ws.on_event(|state| match state {
    ///     State::Reconnecting { attempt: 1, reason, .. } => println!("connection lost: {reason}"),
    ///     State::Reconnecting { reason, .. } => println!("cannot connect: {reason}"),
    ///     _ => {}
    /// });
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    #[doc(alias = "on_disconnect")]
    pub fn on_event(&self, f: impl FnMut(State) + Send + 'static) {
        let shared = self.shared();
        let producer = shared.producer.clone();
        let mut f = Some(Arc::new(EventCallback::new(f)));
        shared.lifecycle.observe(move |state| {
            let Some(state) = state else {
                return true;
            };
            let is_end = matches!(state, State::Closed { .. });
            // The last one is moved, so that `f` is dropped on the dispatch thread.
            let f = if is_end { f.take() } else { f.clone() };
            if let Some(f) = f {
                producer.dispatcher().run(move || f.call(state));
            }
            !is_end
        });
        shared.producer.threads().wait();
    }

    /// Calls `f` on the dispatch thread when the connection is ready.
    ///
    /// The call follows immediately if the connection is ready, or if it was ready and has ended.
    /// With [`Options::reconnect`], `f` is called for each connection. Callbacks and subscriptions
    /// that are behind may then have messages of the previous connection before them.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Websocket, crossbeam_channel::unbounded};
    ///
    /// let (robot, _operator) = Websocket::pair();
    /// let (sender, ready) = unbounded();
    /// robot.on_ready(move || sender.send(()).unwrap());
    /// ready.recv()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "onReady")]
    pub fn on_ready(&self, mut f: impl FnMut() + Send + 'static) {
        let f = Arc::new(EventCallback::new(move |()| f()));
        if self.shared().lifecycle.on_ready(&f) {
            self.shared().producer.run(move || f.call(()));
        }
    }

    /// Calls `f` on the dispatch thread when the connection fails, with the reason.
    ///
    /// The call follows immediately if the connection has failed. With [`Options::reconnect`], `f`
    /// is called when the connection has failed for good.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Error, Options, crossbeam_channel::unbounded};
    ///
    /// let (robot, operator) = Options::new().max_message_size(10).pair();
    /// let (sender, errors) = unbounded();
    /// robot.on_error(move |error| sender.send(error).unwrap());
    /// operator.put_nowait("more than ten bytes")?;
    /// assert!(matches!(errors.recv()?, Error::MessageTooBig { .. }));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "onError")]
    pub fn on_error(&self, f: impl FnMut(Error) + Send + 'static) {
        let f = Arc::new(EventCallback::new(f));
        if let Some(error) = self.shared().lifecycle.on_error(&f) {
            self.shared().producer.run(move || f.call(error));
        }
    }

    /// Calls `f` on the dispatch thread when the connection has ended, orderly or by an error,
    /// after the callbacks for all messages.
    ///
    /// Callbacks of [`subscribe_concurrent`](Self::subscribe_concurrent) may still run. The call
    /// follows immediately if the connection has ended. [`on_event`](Self::on_event) also passes
    /// the reason, with `State::Closed`.
    ///
    /// If the operating system cannot start the dispatch thread, `f` is called on another thread:
    /// see [`subscribe_callback`](Self::subscribe_callback).
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Websocket, crossbeam_channel::unbounded};
    ///
    /// let (robot, operator) = Websocket::pair();
    /// let (sender, closed) = unbounded();
    /// robot.on_close(move || sender.send("motors off").unwrap());
    /// operator.close()?;
    /// assert_eq!(closed.recv()?, "motors off");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "onClose")]
    pub fn on_close(&self, mut f: impl FnMut() + Send + 'static) {
        let f = Arc::new(EventCallback::new(move |()| f()));
        if self.shared().lifecycle.on_close(&f) {
            self.shared().producer.run(move || f.call(()));
        }
    }
}

/// Waiting for changes of the state.
impl Websocket {
    /// Waits until the connection is ready, or has been ready: RTCBot's `await ws.onReady()`.
    ///
    /// The wait takes at most [`connect_timeout`](Options::connect_timeout). With
    /// [`Options::reconnect`], it has no limit, and only the present connection counts;
    /// [`state`](Self::state) returns why there is none yet.
    ///
    /// # Errors
    ///
    /// - The reason for the end, if the connection ended without ever being ready.
    /// - [`Error::OwnThread`] on the connection's own thread: in a function given to [`Options`].
    /// - [`Error::Forked`] in a forked child of the connection's process.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Server, Websocket};
    ///
    /// let mut server = Server::bind("127.0.0.1:0")?;
    /// let ws = Websocket::connect(server.url())?;
    /// let _robot = Websocket::accept(server.next().unwrap());
    /// ws.wait_ready()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_ready(&self) -> Result<()> {
        self.wait_ready_until(None)
    }

    /// Waits for at most `timeout` until the connection is ready, or has been ready.
    ///
    /// # Errors
    ///
    /// - [`Error::Timeout`] if it is not ready in time.
    /// - The errors of [`wait_ready`](Self::wait_ready).
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Error, Websocket};
    /// use std::time::Duration;
    ///
    /// let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let ws = Websocket::connect(format!("ws://{}/", silent.local_addr()?))?;
    /// let result = ws.wait_ready_timeout(Duration::from_millis(10));
    /// assert!(matches!(result, Err(Error::Timeout)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_ready_timeout(&self, timeout: Duration) -> Result<()> {
        self.wait_ready_until(Instant::now().checked_add(timeout))
    }

    fn wait_ready_until(&self, deadline: Option<Instant>) -> Result<()> {
        self.in_owner_process()?;
        let shared = self.shared();
        let deadline = self.unless_own_thread(deadline);
        let wait = || shared.wait(deadline, Session::has_been_ready);
        match shared.producer.blocking(wait) {
            Some(Ok(())) => Ok(()),
            Some(Err(end)) => Err(end),
            None => Err(self.not_yet()),
        }
    }

    /// Waits until the connection has ended: RTCBot's `await ws`. It does not close the connection.
    ///
    /// # Errors
    ///
    /// - The reason, if the connection failed.
    /// - [`Error::OwnThread`] and [`Error::Forked`], as for [`wait_ready`](Self::wait_ready).
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Websocket;
    ///
    /// let (robot, operator) = Websocket::pair();
    /// robot.subscribe_callback(|order| println!("received {order}"));
    /// operator.put_nowait("forward")?;
    /// operator.close()?;
    /// robot.wait_closed()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_closed(&self) -> Result<()> {
        self.wait_closed_until(None)?.failure().map_or(Ok(()), Err)
    }

    /// Waits for at most `timeout` until the connection has ended.
    ///
    /// # Errors
    ///
    /// - [`Error::Timeout`] if it has not ended in time.
    /// - The errors of [`wait_closed`](Self::wait_closed).
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Error, Websocket};
    /// use std::time::Duration;
    ///
    /// let (robot, _operator) = Websocket::pair();
    /// let result = robot.wait_closed_timeout(Duration::from_millis(10));
    /// assert!(matches!(result, Err(Error::Timeout)));
    /// ```
    pub fn wait_closed_timeout(&self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now().checked_add(timeout);
        self.wait_closed_until(deadline)?
            .failure()
            .map_or(Ok(()), Err)
    }

    fn wait_closed_until(&self, deadline: Option<Instant>) -> Result<Error> {
        self.in_owner_process()?;
        let shared = self.shared();
        let deadline = self.unless_own_thread(deadline);
        let end = shared.producer.blocking(|| shared.wait_closed(deadline));
        end.ok_or_else(|| self.not_yet())
    }

    /// Fails in a forked child, which has no thread that would end a wait.
    fn in_owner_process(&self) -> Result<()> {
        match self.shared().process.is_current() {
            true => Ok(()),
            false => Err(Error::Forked),
        }
    }

    /// Returns the deadline of a wait. On the connection's own thread, which would wait for itself,
    /// it is now.
    fn unless_own_thread(&self, deadline: Option<Instant>) -> Option<Instant> {
        if self.shared().is_own_thread() {
            return Some(Instant::now());
        }
        deadline
    }

    fn not_yet(&self) -> Error {
        if self.shared().is_own_thread() {
            return Error::OwnThread;
        }
        Error::Timeout
    }

    /// Returns a channel that carries no messages and is disconnected when the connection has
    /// ended. It is for [`crossbeam_channel::select!`], for example in a control loop.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Websocket, crossbeam_channel::select};
    ///
    /// let (robot, operator) = Websocket::pair();
    /// let orders = robot.subscribe();
    /// operator.close()?;
    /// loop {
    ///     select! {
    ///         recv(robot.closed_signal()) -> _ => break,
    ///         recv(orders.receiver()) -> order => println!("{order:?}"),
    ///     }
    /// }
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    #[doc(alias = "select")]
    #[must_use]
    pub fn closed_signal(&self) -> &Receiver<Infallible> {
        self.shared().lifecycle.closed_signal()
    }
}

/// Closing the connection, or replacing it.
impl Websocket {
    /// Closes the connection with code 1000: sends the queued messages, performs the closing
    /// handshake, and waits for its end.
    ///
    /// It returns after [`close_timeout`](Options::close_timeout) at the latest (5 seconds by
    /// default). A second call waits for the same end, and an earlier limit of it
    /// ([`close_timeout`](Self::close_timeout)) is the limit of both.
    ///
    /// From now on puts fail. A source is dropped, with the messages in it. Received messages that
    /// find a subscription's queue full are dropped. A received message that is queued can still be
    /// taken, and callbacks for it may still run: [`on_close`](Self::on_close) follows them.
    ///
    /// If the connection is not ready yet, messages that are queued for sending are still sent if
    /// it becomes ready in time. If none are queued, a client abandons its attempt to connect
    /// immediately. Between two attempts ([`Options::reconnect`]), there is no further attempt:
    /// queued messages are not sent, the error is the reason for the last failure, and
    /// [`stats().unsent`](crate::Stats::unsent) counts them.
    ///
    /// When this returns, the connection's reader and writer threads have ended, unless a function
    /// or a [`Transport`](crate::Transport) of the program still runs on them at the time limit.
    /// The threads of callbacks end after their last callback.
    ///
    /// Returns `Ok` if every queued message was written and the closing handshake completed. If
    /// [`stats().unconfirmed`](crate::Stats::unconfirmed) is also 0, the peer's WebSocket layer
    /// received all of them; only a reply of its application can tell whether that processed them.
    ///
    /// # Errors
    ///
    /// - The reason, if the connection failed, now or before.
    /// - [`Error::CloseTimeout`] if the peer did not accept the queued messages in time, or did not
    ///   reply. It contains the number of messages that were not sent.
    /// - [`Error::Closed`] if the peer closed and did not accept the queued messages. It contains
    ///   their number too.
    /// - [`Error::OwnThread`], as for [`wait_ready`](Self::wait_ready). Closing has begun and
    ///   continues.
    /// - [`Error::Forked`] in a forked child of the connection's process.
    /// - [`Error::Timeout`] if a function given to [`Options`] has not returned a second after the
    ///   connection was shut down.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Websocket;
    ///
    /// let (robot, operator) = Websocket::pair();
    /// robot.put_nowait("sent before the connection closes")?;
    /// robot.close()?;
    /// assert!(operator.get().is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "shutdown")]
    pub fn close(&self) -> Result<()> {
        self.close_within(CloseFrame::NORMAL, self.shared().options.close_timeout)
    }

    /// Closes the connection like [`close`](Self::close), with a time limit in place of
    /// [`close_timeout`](Options::close_timeout).
    ///
    /// If the connection is closing already, an earlier limit shortens that closing: for a second
    /// Ctrl-C.
    ///
    /// # Errors
    ///
    /// The errors of [`close`](Self::close).
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Websocket;
    /// use std::time::Duration;
    ///
    /// let (robot, _operator) = Websocket::pair();
    /// robot.put_nowait("sent before the connection closes")?;
    /// robot.close_timeout(Duration::from_secs(20))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close_timeout(&self, timeout: Duration) -> Result<()> {
        self.close_within(CloseFrame::NORMAL, timeout)
    }

    /// Closes the connection like [`close`](Self::close), with a code and a reason for the peer
    /// (RFC 6455, section 7.4).
    ///
    /// # Errors
    ///
    /// - [`Error::InvalidOption`] for a code that an endpoint may not send, or a reason of more
    ///   than 123 bytes. The connection is not affected.
    /// - The errors of [`close`](Self::close).
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Websocket;
    ///
    /// let (robot, operator) = Websocket::pair();
    /// robot.close_with(4001, "battery low")?;
    /// assert_eq!(operator.received_close().unwrap().code, 4001);
    /// assert!(robot.close_with(1005, "").is_err());
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    pub fn close_with(&self, code: u16, reason: &str) -> Result<()> {
        let frame = CloseFrame::checked(code, reason)?;
        self.close_within(frame, self.shared().options.close_timeout)
    }

    /// Begins to close the connection like [`close_with`](Self::close_with), and does not wait.
    ///
    /// The queued messages and the closing handshake follow in the background, within
    /// [`close_timeout`](Options::close_timeout). [`wait_closed`](Self::wait_closed),
    /// [`on_close`](Self::on_close) and [`error`](Self::error) report the end. If the connection is
    /// closing already, the earlier of the two limits is the limit of both.
    ///
    /// # Errors
    ///
    /// - [`Error::InvalidOption`], as for [`close_with`](Self::close_with).
    /// - [`Error::Forked`] in a forked child of the connection's process.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Websocket;
    ///
    /// let (robot, operator) = Websocket::pair();
    /// robot.close_nowait(4001, "battery low")?;
    /// operator.wait_closed().unwrap_err(); // 4001 reports an error to the peer
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    pub fn close_nowait(&self, code: u16, reason: &str) -> Result<()> {
        let frame = CloseFrame::checked(code, reason)?;
        self.in_owner_process()?;
        let shared = self.shared();
        shared.begin_close(frame, deadline_after(shared.options.close_timeout));
        if shared.lifecycle.phase() != Phase::Closed {
            shared.spawn_close_watchdog();
        }
        Ok(())
    }

    /// Shuts the connection down immediately, without a closing handshake, and does not wait.
    ///
    /// Queued messages are not sent. The connection ends with [`Error::Aborted`], which contains
    /// their number, and for the peer it is lost. In a forked child, this has no effect.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Error, Websocket};
    ///
    /// let (robot, operator) = Websocket::pair();
    /// robot.abort();
    /// assert!(matches!(robot.wait_closed(), Err(Error::Aborted { .. })));
    /// assert!(matches!(operator.wait_closed(), Err(Error::Lost(_))));
    /// ```
    pub fn abort(&self) {
        if self.in_owner_process().is_ok() {
            self.shared().abort();
        }
    }

    /// Replaces a connection that the program knows to be stale, for example after the machine has
    /// slept. Needs [`Options::reconnect`].
    ///
    /// A connection is shut down without a closing handshake, and the client connects again
    /// immediately. It also does so if it is waiting for its next attempt. While an attempt is
    /// under way, this has no effect. Queued messages are kept. Does not wait.
    ///
    /// A [`close`](Self::close) before the next connection is ready sends nothing of what is
    /// queued, as without a connection.
    ///
    /// # Errors
    ///
    /// - [`Error::InvalidOption`] without [`Options::reconnect`].
    /// - The reason, if the connection is closing or has ended.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Backoff, Options, Server, Websocket};
    ///
    /// let mut server = Server::bind("127.0.0.1:0")?;
    /// let ws = Options::new().reconnect(Backoff::new()).connect(server.url())?;
    /// let first = Websocket::accept(server.next().unwrap());
    /// ws.wait_ready()?;
    /// ws.reconnect_now()?;
    /// let second = Websocket::accept(server.next().unwrap());
    /// ws.put_nowait("hello again")?;
    /// assert_eq!(second.get()?, "hello again");
    /// # drop(first);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reconnect_now(&self) -> Result<()> {
        let shared = self.shared();
        if shared.options.reconnect.is_none() {
            return Err(Error::invalid_option("reconnect", "it is not set"));
        }
        self.in_owner_process()?;
        shared.step(Input::ReconnectRequested);
        shared
            .lifecycle
            .look(Session::ends_for_good)
            .map_or(Ok(()), Err)
    }

    fn close_within(&self, frame: CloseFrame, timeout: Duration) -> Result<()> {
        self.in_owner_process()?;
        let shared = self.shared();
        let deadline = shared.begin_close(frame, deadline_after(timeout));
        if shared.is_own_thread() && shared.lifecycle.phase() != Phase::Closed {
            shared.spawn_close_watchdog();
            return Err(Error::OwnThread);
        }
        // The connection is shut down at the deadline. After that, only a function of the options
        // that does not return can delay the threads.
        let limit = deadline + Duration::from_secs(1);
        let threads = shared.reader_end.wait();
        let end = self.wait_closed_until(Some(limit))?;
        if !shared.is_own_thread() {
            threads.until(limit);
        }
        end.failure().map_or(Ok(()), Err)
    }
}

/// Names, addresses, the handshake, pings and statistics.
impl Websocket {
    /// Returns the name of the connection, as logs and errors show it: the URL of a client, or
    /// "connection from" and the client's address for an accepted connection.
    ///
    /// The URL's user, password, fragment and query text are left out, because the query may
    /// contain a token (`ws://robot.local/drive?...`). The name has no control characters, and at
    /// most 100 characters; a longer URL ends with `...`.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use rtcbot_websocket::Websocket;
    ///
    /// let ws = Websocket::connect("ws://robot.local/drive?token=secret")?;
    /// assert_eq!(ws.name(), "ws://robot.local/drive?...");
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared().name
    }

    /// Returns the peer's address, or `None` before the connection is ready and for a Unix socket.
    ///
    /// This and the following methods describe the latest connection, if there was more than one.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Server, Websocket};
    ///
    /// let mut server = Server::bind("127.0.0.1:0")?;
    /// let ws = Websocket::connect(server.url())?;
    /// let robot = Websocket::accept(server.next().unwrap());
    /// ws.wait_ready()?;
    /// robot.wait_ready()?;
    /// assert_eq!(ws.peer_addr(), server.local_addr());
    /// assert_eq!(ws.peer_addr(), robot.local_addr());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "remote_addr")]
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.info()?.peer_addr
    }

    /// Returns the address of this side, or `None` before the connection is ready and for a Unix
    /// socket. [`peer_addr`](Self::peer_addr) has an example.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.info()?.local_addr
    }

    /// Returns the head of the handshake request: the client's on a server, its own on a client.
    /// Returns `None` before the connection is ready.
    ///
    /// Its `Debug` leaves out the values of headers that may be secret, and, on a client, of those
    /// that the program set. It shows the query.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Server, Websocket};
    ///
    /// let mut server = Server::bind("127.0.0.1:0")?;
    /// let ws = Websocket::connect(format!("{}/drive", server.url()))?;
    /// let robot = Websocket::accept(server.next().unwrap());
    /// robot.wait_ready()?;
    /// assert_eq!(robot.request().unwrap().uri().path(), "/drive");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn request(&self) -> Option<Arc<http::Request<()>>> {
        Some(self.info()?.request)
    }

    /// Returns the head of the handshake response: the server's on a client, its own on a server.
    /// Returns `None` before the connection is ready.
    ///
    /// Like that of [`request`](Self::request), its `Debug` shows no secrets.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Websocket;
    ///
    /// let (robot, _operator) = Websocket::pair();
    /// assert_eq!(robot.response().unwrap().status(), 101);
    /// ```
    #[must_use]
    pub fn response(&self) -> Option<Arc<http::Response<()>>> {
        Some(self.info()?.response)
    }

    /// Returns the subprotocol that the server chose, if any.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Options, Server};
    ///
    /// let mut server = Server::bind("127.0.0.1:0")?;
    /// let options = Options::new().subprotocol("drive.v1");
    /// let ws = options.connect(server.url())?;
    /// let _robot = options.accept(server.next().unwrap());
    /// ws.wait_ready()?;
    /// assert_eq!(ws.subprotocol().as_deref(), Some("drive.v1"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn subprotocol(&self) -> Option<String> {
        let response = self.response()?;
        subprotocols(response.headers()).next().map(str::to_owned)
    }

    fn info(&self) -> Option<ConnectionInfo> {
        self.shared().info.lock().clone()
    }

    /// Sends a ping (RFC 6455, section 5.5.2) to measure the round trip on demand. Does not wait.
    ///
    /// It is sent ahead of the queued messages, and between two frames of a [long
    /// message](Options::fragment_size).
    ///
    /// The returned channel receives the time until the pong. It is disconnected if no pong arrives
    /// before the connection ends. [`Options::ping_interval`] keeps the connection alive; this
    /// method is not needed for that.
    ///
    /// Before the connection is ready, the ping is queued, and its time starts when it is sent. If
    /// the attempt to connect fails, the channel is disconnected.
    ///
    /// Pongs are matched by payload, and a pong also answers the pings before it. A peer may answer
    /// only the most recent of several pings. So give concurrent pings different payloads: with
    /// equal ones, the next pong takes the place of the one that the peer left out, and all later
    /// ones seem late.
    ///
    /// Pongs are read in order with messages, so a full subscription or a callback that does not
    /// return delays them. Always wait with a timeout, above all in a callback.
    ///
    /// # Errors
    ///
    /// - [`Error::InvalidOption`] for a payload of more than 125 bytes.
    /// - [`Error::TooManyPings`] if 64 pings are unanswered.
    /// - The reason, if the connection is closing or has ended.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Websocket;
    /// use std::time::Duration;
    ///
    /// let (ws, _peer) = Websocket::pair();
    /// let pong = ws.ping("ping 1")?;
    /// match pong.recv_timeout(Duration::from_secs(1)) {
    ///     Ok(time) => println!("the round trip took {time:?}"),
    ///     Err(_) => println!("no answer"),
    /// }
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    pub fn ping(&self, payload: impl Into<Bytes>) -> Result<Receiver<Duration>> {
        let payload = payload.into();
        if payload.len() > 125 {
            return Err(Error::InvalidOption {
                setting: "ping payload",
                reason: format!("it has at most 125 bytes, this one has {}", payload.len()),
            });
        }
        let shared = self.shared();
        if let Some(reason) = shared.lifecycle.look(Session::why_closed) {
            return Err(reason);
        }
        let (pong, answer) = bounded(1);
        // A copy, because the original may have a destructor of the user.
        let payload = Bytes::copy_from_slice(&payload);
        match shared.send_queue.ping_for(payload, pong) {
            // The end removes the pings that wait, but not one that is added after it.
            true => match shared.lifecycle.end() {
                Some(end) => Err(end),
                None => Ok(answer),
            },
            false => Err(Error::TooManyPings {
                unanswered: MAX_UNANSWERED,
            }),
        }
    }

    /// Returns the numbers of messages and bytes that this `Websocket` has transferred, and of
    /// those that are queued.
    ///
    /// It locks a few locks for a short time, so a thousand calls a second are cheap.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Websocket;
    ///
    /// let (ws, _peer) = Websocket::pair();
    /// let stats = ws.stats();
    /// println!("{} messages are queued, {} were dropped", stats.send_queue, stats.dropped);
    /// ```
    #[doc(alias = "metrics")]
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats::of(self.shared())
    }

    /// Returns the code and reason of the peer's Close frame. Returns `None` if none was received,
    /// or if it had neither.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Websocket;
    ///
    /// let (robot, operator) = Websocket::pair();
    /// operator.close_with(4001, "battery low")?;
    /// robot.wait_closed().unwrap_err(); // 4001 reports an error
    /// assert_eq!(robot.received_close().unwrap().reason, "battery low");
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    #[must_use]
    pub fn received_close(&self) -> Option<CloseFrame> {
        self.shared().lifecycle.look(Session::received_close)
    }
}

/// Sends messages of another connection. While the send queue is full, the other connection stops
/// reading.
impl Sink<Message> for Websocket {
    fn put_nowait(&self, item: Message) -> Result<(), PutError<Message>> {
        self.shared().send_queue.put_nowait(item)
    }

    fn room_wait(&self) -> Option<RoomWait<'_, Message>> {
        Some(RoomWait::in_queue(
            self.shared().send_queue.consumer().space(),
        ))
    }
}
