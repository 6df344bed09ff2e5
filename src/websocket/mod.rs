//! `Websocket`: what a program does with a connection.

mod accept;
mod connect;
mod control;
mod event_callback;
mod frame_writer;
mod handle;
mod keepalive;
mod lifecycle;
mod opened;
mod opening;
mod read_loop;
mod reader_thread;
pub(crate) mod request;
mod send_queue;
pub(crate) mod session;
mod shared;
pub(crate) mod slot;
mod stats;
mod writer_thread;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, bounded};

pub use self::control::Latency;
use self::control::MAX_UNANSWERED;
use self::event_callback::EventCallback;
pub use self::handle::{WeakWebsocket, Websocket};
pub use self::request::Request;
use self::session::{Phase, Session};
use self::shared::ConnectionInfo;
pub(crate) use self::shared::Shared;
pub use self::stats::Stats;
use crate::deadline::deadline_after;
use crate::error::{CloseFrame, Error, PutError, Result};
use crate::message::Message;
use crate::net::handshake::subprotocols;
#[cfg(doc)]
use crate::options::Options;
use crate::pubsub::{Queue, RoomWait, Sink, Source, Subscription, SubscriptionId};

/// Receiving.
impl Websocket {
    /// Takes the next message of the default subscription, which the first call makes. Waits until
    /// there is one or the connection has ended.
    ///
    /// **The default subscription is one like the others: when nobody takes from it any more, it fills
    /// up, and reading pauses.** A program that needs only the first message this way calls
    /// [`unsubscribe_default`](Self::unsubscribe_default) after it.
    ///
    /// # Errors
    ///
    /// After the end, once everything queued has been taken: the reason it ended, which is
    /// [`Error::Closed`] after an orderly closing. [`Error::Unsubscribed`] when another thread calls
    /// [`unsubscribe_default`](Self::unsubscribe_default) meanwhile. [`Error::OwnThread`] when it is called
    /// on the connection's own thread (from a function that the [`Options`] were given) and no message is
    /// there: none would come while it waits.
    pub fn get(&self) -> Result<Message> {
        match self.shared().is_reader_thread() {
            true => self.get_on_the_reader_thread(),
            false => self.shared().producer.get(),
        }
    }

    /// Nothing would come while it waits.
    fn get_on_the_reader_thread(&self) -> Result<Message> {
        self.try_get().map_err(|error| match error {
            Error::Empty => Error::OwnThread,
            other => other,
        })
    }

    /// As [`get`](Self::get), waiting for at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] when the time is over, else as [`get`](Self::get).
    pub fn get_timeout(&self, timeout: Duration) -> Result<Message> {
        match self.shared().is_reader_thread() {
            true => self.get_on_the_reader_thread(),
            false => self.shared().producer.get_timeout(timeout),
        }
    }

    /// As [`get`](Self::get), never waiting.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`] when no message is there, else as [`get`](Self::get).
    pub fn try_get(&self) -> Result<Message> {
        self.shared().producer.try_get()
    }

    /// A new, independent subscription with the queue that [`Options::receive_queue`] says: it gets
    /// every message from now on.
    pub fn subscribe(&self) -> Subscription<Message> {
        self.shared().producer.subscribe()
    }

    /// A new subscription with a queue of your choice: what a slow reader of it means.
    pub fn subscribe_with(&self, queue: Queue) -> Subscription<Message> {
        self.shared().producer.subscribe_with(queue)
    }

    /// Feeds a crossbeam `Sender<Message>`, another `Websocket` or your own [`Sink`] every message
    /// from now on: RTCBot's `subscribe(q)`. While a channel or a `Websocket` is full, reading
    /// pauses. Your own sink is called where callbacks are called: see [`Sink`].
    ///
    /// A channel without places (`bounded(0)`) gets messages only while a thread waits in its
    /// `recv`. Do not send from it with [`put_subscription`](Self::put_subscription): each side would
    /// look whether the other waits, and neither would.
    pub fn subscribe_to(&self, sink: impl Sink<Message>) -> SubscriptionId {
        self.shared().producer.subscribe_to(sink)
    }

    /// Calls `f` with every message from now on, in order, on the dispatch thread.
    ///
    /// All of a connection's callbacks share that thread, so a slow one delays the others; a panic
    /// is logged and ends nothing. When 1024 messages, or
    /// [`receive_queue_bytes`](Options::receive_queue_bytes), wait for callbacks (all of them
    /// together), reading pauses until half of them have been called. It does not pause while a
    /// callback itself waits for this connection, in [`get`](Self::get),
    /// [`get_timeout`](Self::get_timeout), a subscription's, or a `wait_…`. A callback that waits in
    /// another way, with [`receiver`](Subscription::receiver), `select!` or by polling
    /// [`try_get`](Self::try_get), may wait for a message that is not read before it returns. So may one
    /// that waits for something else that only this connection's messages bring about.
    ///
    /// Where the operating system starts no dispatch thread, it is tried again for a second, for
    /// which this call may wait, too. After that the connection fails with [`Error::Thread`], and
    /// the callbacks that are due are called on its reader thread; on a connection that has ended,
    /// on the thread that registers them. That holds for all callbacks of a connection.
    pub fn subscribe_callback(&self, f: impl FnMut(Message) + Send + 'static) -> SubscriptionId {
        self.shared().producer.subscribe_callback(f)
    }

    /// Calls `f` with every message from now on, on up to `workers` threads of its own at once:
    /// RTCBot's coroutine callbacks. A slow call does not hold back the next message.
    ///
    /// Calls start in the messages' order and may end in any.
    pub fn subscribe_concurrent(
        &self,
        workers: usize,
        f: impl Fn(Message) + Send + Sync + 'static,
    ) -> SubscriptionId {
        self.shared().producer.subscribe_concurrent(workers, f)
    }

    /// Removes a subscription, sink or callback, so that it gets nothing more; a message that is being handed
    /// over at this moment may still come. Returns whether it was there. Dropping a [`Subscription`] does the same.
    pub fn unsubscribe(&self, which: impl AsRef<SubscriptionId>) -> bool {
        self.shared().producer.unsubscribe(which)
    }

    /// Removes the default subscription, if `get` has made one; the next `get` makes a new one:
    /// RTCBot's `unsubscribe()` without an argument.
    pub fn unsubscribe_default(&self) {
        self.shared().producer.unsubscribe_default();
    }

    /// Removes all subscriptions, sinks and callbacks, the default subscription included.
    #[doc(alias = "unsubscribeAll")]
    pub fn unsubscribe_all(&self) {
        self.shared().producer.unsubscribe_all();
    }

    /// Lets messages come that [`Options::paused`] held back.
    pub fn resume(&self) {
        self.shared().producer.resume();
    }
}

/// Sending.
impl Websocket {
    /// Queues a message for sending; never waits, whatever the network does. Stops an active source
    /// ([`put_subscription`](Self::put_subscription)), as in RTCBot.
    ///
    /// ```no_run
    /// # let ws = rtcbot_websocket::Websocket::connect("ws://x")?;
    /// use rtcbot_websocket::{PutError, json};
    ///
    /// match ws.put_nowait(json!({"speed": 1})) {
    ///     Ok(()) => {}
    ///     Err(PutError::Full(order)) => println!("the network is too slow for {order}"),
    ///     Err(PutError::Closed(order)) => println!("closing, or closed: {order} is not sent"),
    /// }
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`PutError::Full`] when [`send_queue`](Options::send_queue) bytes are queued,
    /// [`PutError::Closed`] when the connection is closing or has ended. Both hand the message back.
    pub fn put_nowait(&self, data: impl Into<Message>) -> Result<(), PutError<Message>> {
        self.shared().send_queue.put_nowait(data.into())
    }

    /// Queues a message, waiting for room if need be. Stops an active source.
    ///
    /// # Errors
    ///
    /// [`PutError::Closed`], with the message, when the connection is closing or has ended, also
    /// when that happens during the wait.
    /// [`PutError::Full`], without a wait, on the connection's own thread (in a function that the
    /// [`Options`] were given), since that is what makes room.
    pub fn put(&self, data: impl Into<Message>) -> Result<(), PutError<Message>> {
        self.put_deadline(data.into(), None)
    }

    /// As [`put`](Self::put), waiting for at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`PutError::Full`] when the time is over, else as [`put`](Self::put).
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

    /// Sends everything that `source` yields from now on, in place of the source so far: a
    /// [`Subscription`] or a crossbeam `Receiver<Message>`.
    ///
    /// The writer thread takes from it as fast as the network takes the messages. Messages that were
    /// put directly are sent first. What has been taken from a source is sent, even if the source is
    /// replaced or stopped; what has not stays in it. When the source ends, it is let go of; so it is,
    /// with what is in it, when either side closes the connection. (To send on all that another
    /// connection received, closing included, use [`subscribe_to`](Self::subscribe_to) there.) Once
    /// the connection is closing, a source is not taken; returns whether it was.
    ///
    /// **Whatever is put stops the source**, as in RTCBot: by any handle, by a pipe into this `Websocket`, by
    /// [`broadcast`](crate::ServerHandle::broadcast). It is let go of, and what goes into it from then on goes
    /// nowhere. Who greets each connection before the orders puts the source again behind the greeting:
    ///
    /// ```
    /// # use rtcbot_websocket::{Message, Queue, Websocket, json, pubsub::Producer};
    /// # let (ws, robot) = Websocket::pair();
    /// let (mut orders, producer) = Producer::<Message>::new();
    /// let newest = producer.subscribe_with(Queue::Latest);
    /// let socket = ws.downgrade();
    /// ws.on_ready(move || {
    ///     if let Some(ws) = socket.upgrade() {
    ///         let _ = ws.put_nowait("hello");
    ///         ws.put_subscription(&newest);
    ///     }
    /// });
    /// # assert_eq!(robot.get()?, "hello");
    /// # orders.put(json!({"speed": 0.5}).into());
    /// # assert_eq!(robot.get()?, json!({"speed": 0.5}));
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    ///
    /// With a [`Queue::Latest`] as here, the newest order is taken whenever the network takes one. It cannot overtake
    /// those that lie in the sockets' buffers already, and one that was being written when a connection was lost
    /// is sent first on the [next](Options::reconnect): a robot that must not act on an old order looks at a
    /// time that is in it. The very last order is better put: a source that is let go of by a close may
    /// still have it.
    #[doc(alias = "putSubscription")]
    pub fn put_subscription(&self, source: impl Into<Source<Message>>) -> bool {
        let source = source.into().into_subscription();
        self.shared().send_queue.consumer().put_subscription(source)
    }

    /// The active source: equal (`==`) to the one that was given.
    pub fn subscription(&self) -> Option<Subscription<Message>> {
        self.shared().send_queue.consumer().subscription()
    }

    /// Stops reading the active source.
    #[doc(alias = "stopSubscription")]
    pub fn stop_subscription(&self) {
        self.shared().send_queue.consumer().stop_subscription();
    }
}

/// Where the connection is.
impl Websocket {
    /// Whether the connection is established and not closing; `false` while it is being made anew.
    #[doc(alias = "ready")]
    pub fn is_ready(&self) -> bool {
        self.shared().lifecycle.phase() == Phase::Ready
    }

    /// Whether the connection has ended, in order or by an error. (Messages that it brought may yet be on
    /// their way to a slow consumer: [`wait_closed`](Self::wait_closed) and [`on_close`](Self::on_close) wait for
    /// that as well, for at most [`close_timeout`](Options::close_timeout).)
    #[doc(alias = "closed")]
    pub fn is_closed(&self) -> bool {
        self.shared().lifecycle.phase() == Phase::Closed
    }

    /// Why the connection failed; `None` while it has not, and after an orderly closing.
    pub fn error(&self) -> Option<Error> {
        self.shared().lifecycle.end()?.failure()
    }

    /// Why the connection has ended, in order or not; `None` while it has not.
    pub fn end_reason(&self) -> Option<Error> {
        self.shared().lifecycle.end()
    }

    /// What went wrong last: why the last connection was lost or the last attempt to connect failed,
    /// also where another [follows](Options::reconnect). It stays when that one is ready. `None` while nothing
    /// went wrong.
    ///
    /// For good and for any reason: [`end_reason`](Self::end_reason). For good and a failure:
    /// [`error`](Self::error). For now: this.
    pub fn last_error(&self) -> Option<Error> {
        self.shared()
            .lifecycle
            .look(|session| session.last_error().cloned())
    }

    /// Calls `f` on the dispatch thread when the connection is ready; at once, if it is, or if it has ended and
    /// was ready before. With [`Options::reconnect`], again for each connection; callbacks and subscriptions that
    /// are behind may then have messages of the last one before them.
    #[doc(alias = "onReady")]
    pub fn on_ready(&self, mut f: impl FnMut() + Send + 'static) {
        let f = Arc::new(EventCallback::new(move |()| f()));
        if self.shared().lifecycle.on_ready(&f) {
            self.shared().producer.run(move || f.call(()));
        }
    }

    /// Calls `f` on the dispatch thread each time that a connection is lost and another is
    /// [to follow](Options::reconnect), with the reason. Messages that it brought may come after this call. What
    /// may be lost with it, `stats` has counted:
    ///
    /// ```no_run
    /// # let ws = rtcbot_websocket::Websocket::connect("ws://x")?;
    /// let (socket, mut before) = (ws.downgrade(), 0);
    /// ws.on_disconnect(move |why| {
    ///     if let Some(ws) = socket.upgrade() {
    ///         let all = ws.stats().unconfirmed;
    ///         println!("lost: {why}; and with it up to {} messages", all - before);
    ///         before = all;
    ///     }
    /// });
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    ///
    /// What fails without ever having been ready is
    /// told by [`last_error`](Self::last_error), and the end by [`on_error`](Self::on_error) and
    /// [`on_close`](Self::on_close).
    pub fn on_disconnect(&self, f: impl FnMut(Error) + Send + 'static) {
        let f = Arc::new(EventCallback::new(f));
        self.shared().lifecycle.on_disconnect(&f);
    }

    /// Calls `f` on the dispatch thread with the reason when the connection fails; at once, if it has.
    /// With [`Options::reconnect`], when it has failed for good.
    #[doc(alias = "onError")]
    pub fn on_error(&self, f: impl FnMut(Error) + Send + 'static) {
        let f = Arc::new(EventCallback::new(f));
        if let Some(error) = self.shared().lifecycle.on_error(&f) {
            self.shared().producer.run(move || f.call(error));
        }
    }

    /// Calls `f` on the dispatch thread when the connection has ended, in order or not, after the
    /// callbacks for all messages (those of [`subscribe_concurrent`](Self::subscribe_concurrent) may yet run); at
    /// once, if it has.
    ///
    /// Where the operating system starts no thread, it is called on another: see
    /// [`subscribe_callback`](Self::subscribe_callback).
    #[doc(alias = "onClose")]
    pub fn on_close(&self, mut f: impl FnMut() + Send + 'static) {
        let f = Arc::new(EventCallback::new(move |()| f()));
        if self.shared().lifecycle.on_close(&f) {
            self.shared().producer.run(move || f.call(()));
        }
    }

    /// Waits until the connection is ready, or has been: RTCBot's `await ws.onReady()`. Bounded by
    /// [`connect_timeout`](Options::connect_timeout). With [`Options::reconnect`], by nothing, and it is the present
    /// connection that counts; [`last_error`](Self::last_error) tells why there is none yet.
    ///
    /// # Errors
    ///
    /// Why it ended without ever being ready; [`Error::OwnThread`] when called on the connection's own thread: from
    /// a function that the [`Options`] were given; [`Error::Forked`] in a child of its process.
    pub fn wait_ready(&self) -> Result<()> {
        self.wait_ready_until(None)
    }

    /// As [`wait_ready`](Self::wait_ready), for at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] when the time is over, else as [`wait_ready`](Self::wait_ready).
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

    /// Waits until the connection has ended, and returns why it failed; `None` after an orderly
    /// closing. RTCBot's `await ws.onError()`, which there waits for ever if no error comes.
    ///
    /// # Errors
    ///
    /// [`Error::OwnThread`], as for [`wait_ready`](Self::wait_ready).
    pub fn wait_error(&self) -> Result<Option<Error>> {
        Ok(self.wait_closed_until(None)?.failure())
    }

    /// As [`wait_error`](Self::wait_error), for at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] when the time is over, else as [`wait_error`](Self::wait_error).
    pub fn wait_error_timeout(&self, timeout: Duration) -> Result<Option<Error>> {
        let deadline = Instant::now().checked_add(timeout);
        Ok(self.wait_closed_until(deadline)?.failure())
    }

    /// Waits until the connection has ended: RTCBot's `await ws`. Does not close it.
    ///
    /// # Errors
    ///
    /// Why it failed, if it has; [`Error::OwnThread`], as for [`wait_ready`](Self::wait_ready).
    pub fn wait_closed(&self) -> Result<()> {
        self.wait_closed_until(None)?.failure().map_or(Ok(()), Err)
    }

    /// As [`wait_closed`](Self::wait_closed), for at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] when the time is over, else as [`wait_closed`](Self::wait_closed).
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

    /// In a forked child, nobody would end a wait.
    fn in_owner_process(&self) -> Result<()> {
        match self.shared().process.is_current() {
            true => Ok(()),
            false => Err(Error::Forked),
        }
    }

    /// A wait on the connection's own thread would wait for itself: then it is over at once.
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

    /// A channel that never carries anything and is disconnected when the connection has ended; for
    /// [`crossbeam_channel::select!`] in a control loop.
    pub fn closed_signal(&self) -> &Receiver<Infallible> {
        self.shared().lifecycle.closed_signal()
    }

    /// Closes the connection with code 1000: sends what is queued, carries out the closing handshake,
    /// and returns when it is over, at the latest after [`close_timeout`](Options::close_timeout).
    ///
    /// From then on puts fail, a source is let go of with what is in it, and messages that find a
    /// subscription's queue full are dropped rather than waited for. Messages that are queued for
    /// sending while a connection is being made are still sent, if it becomes ready in time;
    /// without any, a client's attempt to connect is given up at once. Between two attempts
    /// ([`Options::reconnect`]) it does not try again: then what is queued is not sent, which the error and
    /// [`stats().unsent`](crate::Stats::unsent) tell.
    ///
    /// `Ok` says that all was written, and that the connection was closed in order; that the peer has taken all,
    /// `Ok` and a [`stats().unconfirmed`](crate::Stats::unconfirmed) of 0. (Its `Websocket`, that is: what its program
    /// makes of it, only an answer tells.) What was received can still be taken, and callbacks for it
    /// may yet run: [`on_close`](Self::on_close) comes after them.
    ///
    /// # Errors
    ///
    /// Why the connection failed, if it has, now or before: [`Error::CloseTimeout`] when the peer
    /// did not take what was queued, or did not answer, in time; it says how many messages were not sent.
    /// [`Error::Closed`] when the peer closed and did not take what was queued; it says how many, too.
    /// [`Error::OwnThread`], as for [`wait_ready`](Self::wait_ready): closing has begun, and goes on without it.
    /// [`Error::Timeout`] when a function that the [`Options`] were given does not return, a second after the
    /// connection was cut.
    ///
    /// A second call does nothing but wait for the same end.
    pub fn close(&self) -> Result<()> {
        self.close_with(CloseFrame::normal().code, "")
    }

    /// As [`close`](Self::close), with a code and a reason for the peer (RFC 6455, section 7.4).
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for a code that an endpoint may not send or a reason of more than 123
    /// bytes; then nothing has happened. Else as [`close`](Self::close).
    pub fn close_with(&self, code: u16, reason: &str) -> Result<()> {
        let frame = CloseFrame::checked(code, reason)?;
        self.in_owner_process()?;
        let shared = self.shared();
        let deadline = deadline_after(shared.options.close_timeout);
        let deadline = shared.begin_close(frame, deadline);
        if shared.is_own_thread() && shared.lifecycle.phase() != Phase::Closed {
            shared.spawn_close_watchdog();
            return Err(Error::OwnThread);
        }
        // The connection is shut down at the deadline. After that, only a function of the options
        // that does not return can hold the threads up.
        let end = self.wait_closed_until(Some(deadline + Duration::from_secs(1)))?;
        end.failure().map_or(Ok(()), Err)
    }
}

/// What is known about the connection.
impl Websocket {
    /// The URL that was connected to, or for an accepted connection, where it comes from. It is
    /// what logs and errors say: without the URL's user and password, fragment, and the text of its
    /// query, in which there may be a token (`ws://robot.local/drive?...`).
    pub fn name(&self) -> &str {
        &self.shared().name
    }

    /// The address at the other end; `None` before the connection is ready. This and the following
    /// tell of the last connection, where there was more than one.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.info()?.peer_addr
    }

    /// The address at this end; `None` before the connection is ready.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.info()?.local_addr
    }

    /// The head of the handshake request: on a server the client's, on a client its own. `None`
    /// before the connection is ready.
    ///
    /// Its `Debug` leaves out the values of headers that may hold a secret, and on a client of
    /// those that the program gave; it shows the query.
    pub fn request(&self) -> Option<Arc<http::Request<()>>> {
        Some(self.info()?.request)
    }

    /// The head of the handshake response: on a client the server's, on a server its own. `None`
    /// before the connection is ready. As [`request`](Self::request), its `Debug` shows no secrets.
    pub fn response(&self) -> Option<Arc<http::Response<()>>> {
        Some(self.info()?.response)
    }

    /// The subprotocol that the server chose, if any.
    pub fn subprotocol(&self) -> Option<String> {
        let response = self.response()?;
        subprotocols(response.headers()).next().map(str::to_owned)
    }

    fn info(&self) -> Option<ConnectionInfo> {
        self.shared().info.lock().clone()
    }

    /// Sends a ping (RFC 6455, section 5.5.2), ahead of what is queued. The channel that is returned
    /// gets the time that the answer took, or is disconnected if none comes before the connection ends.
    ///
    /// Never waits. What keeps the connection alive is [`Options::ping_interval`]; this is for who
    /// wants to know now. While a connection is being made it goes out on that, timed from then on; if the attempt
    /// fails, the channel is disconnected.
    ///
    /// A pong is told from another by its payload, and answers the pings before it as well. A peer
    /// may answer only the latest of several, so give each a payload of its own: with equal ones, an answer that is left
    /// out is made up for by the next, and they all seem late from then on.
    ///
    /// A pong is read as messages are: while a full subscription, or a callback that does not return, holds reading
    /// up, none is. So wait with a time limit, in a callback above all.
    ///
    /// ```
    /// # use rtcbot_websocket::Websocket;
    /// # use std::time::Duration;
    /// # let (ws, _peer) = Websocket::pair();
    /// # let n = 1;
    /// let answer = ws.ping(format!("ping {n}"))?;
    /// match answer.recv_timeout(Duration::from_secs(1)) {
    ///     Ok(time) => println!("there and back in {time:?}"),
    ///     Err(_) => println!("no answer"),
    /// }
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for a payload of more than 125 bytes, [`Error::TooManyPings`] when 64 have
    /// no answer yet, and the reason when the connection is closing or has ended.
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
        let (asker, answer) = bounded(1);
        // A copy, which has no destructor of the user's.
        let payload = Bytes::copy_from_slice(&payload);
        match shared.send_queue.ping_for(payload, asker) {
            // At the end what waits is forgotten; not what has come after that.
            true => match shared.lifecycle.end() {
                Some(end) => Err(end),
                None => Ok(answer),
            },
            false => Err(Error::TooManyPings {
                unanswered: MAX_UNANSWERED,
            }),
        }
    }

    /// How long the way to the peer and back takes, by the pings that were answered on this
    /// connection: those of [`Options::ping_interval`] and those of [`ping`](Self::ping). `None`
    /// before the first answer, by default 20 seconds after it is ready (`ping` asks at once), and when it
    /// has been lost or has ended.
    pub fn latency(&self) -> Option<Latency> {
        self.shared().send_queue.latency()
    }

    /// What has gone through this `Websocket`, and what waits in it. Takes a few short locks:
    /// cheap enough to be called a thousand times a second.
    ///
    /// ```
    /// # use rtcbot_websocket::Websocket;
    /// # let (ws, _peer) = Websocket::pair();
    /// let stats = ws.stats();
    /// println!("{} messages wait to be sent, {} were dropped", stats.send_queue, stats.dropped);
    /// ```
    pub fn stats(&self) -> Stats {
        Stats::of(self.shared())
    }

    /// The code and reason of the Close frame that this side has sent, or is about to send.
    pub fn sent_close(&self) -> Option<CloseFrame> {
        self.shared().lifecycle.look(Session::sent_close)
    }

    /// The code and reason of the peer's Close frame; `None` while there was none, or when it gave none.
    pub fn received_close(&self) -> Option<CloseFrame> {
        self.shared().lifecycle.look(Session::received_close)
    }
}

/// Piping into a `Websocket`: while its queue is full, the giver waits.
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
