//! Sources that call a function or an iterator of the program, on a thread of their own.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::consumer::Source;
use super::ring::Ring;
use super::subscription::Subscription;
use super::sync::wait_until_disconnected;
use crate::deadline;
use crate::error::{Error, Result};
use crate::panics::{catch_panic, drop_caught};
use crate::thread::spawn;

impl<T: Send + 'static> Source<T> {
    /// Returns a source that calls `f` immediately, and then once in every `period`.
    ///
    /// The times do not drift: they are `period` apart, counted from the first call. If a call
    /// takes longer than that, or the system is late, the times that have passed are skipped and
    /// not made up for.
    ///
    /// If a sample has not been taken when the next one is ready, the next one replaces it. So a
    /// slow connection sends fewer samples, and the first one after an interruption is new.
    ///
    /// `f` is called on a thread named `ws-source`, which is started here. The thread ends, and
    /// drops `f`, when the last handle to the source has been dropped: the consumer drops its
    /// handle when the source is replaced or stopped, and when it is closed. A call that runs at
    /// that time is not interrupted. A panic in `f` is logged and ends the source.
    ///
    /// # Errors
    ///
    /// - [`Error::InvalidOption`] if `period` is 0.
    /// - [`Error::Thread`] if the system does not start a thread.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Source, Websocket, json};
    /// use std::time::Duration;
    ///
    /// let (robot, operator) = Websocket::pair();
    /// let mut x = 0;
    /// let position = Source::every(Duration::from_millis(20), move || {
    ///     x += 1;
    ///     json!({"x": x}).into()
    /// })?;
    /// robot.put_subscription(position)?;
    /// assert_eq!(operator.get()?, json!({"x": 1}));
    /// assert_eq!(operator.get()?, json!({"x": 2}));
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    pub fn every(period: Duration, f: impl FnMut() -> T + Send + 'static) -> Result<Self> {
        if period.is_zero() {
            return Err(Error::InvalidOption {
                setting: "period",
                reason: "it must be longer than 0".to_owned(),
            });
        }
        let (sender, receiver) = bounded(1);
        let newest = Ring::new(sender, receiver.clone());
        let (handle, dropped) = bounded(0);
        let operation_lock = Some(newest.operation_lock());
        let subscription = Subscription::of_thread(receiver, operation_lock, handle);
        start(subscription, move || {
            run(f, newest, |f, newest| sample(period, f, newest, &dropped));
        })
    }

    /// Returns a source of the items of an iterator. The source ends with the iterator.
    ///
    /// The iterator is called only as fast as the consumer takes items: it is at most two items
    /// ahead. When the source is replaced or stopped, these are dropped.
    ///
    /// The iterator is called on a thread named `ws-source`, which is started here. It may wait.
    /// The thread ends, and drops the iterator, with the last item, or when the last handle to the
    /// source has been dropped: the consumer drops its handle when the source is replaced or
    /// stopped, and when it is closed. A call that runs at that time is not interrupted. A panic in
    /// the iterator is logged and ends the source.
    ///
    /// # Errors
    ///
    /// [`Error::Thread`] if the system does not start a thread.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Message, Source, Websocket};
    ///
    /// let (robot, operator) = Websocket::pair();
    /// let log = ["started", "driving", "stopped"];
    /// robot.put_subscription(Source::iter(log.map(Message::from))?)?;
    /// for line in log {
    ///     assert_eq!(operator.get()?, line);
    /// }
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    pub fn iter<I>(items: I) -> Result<Self>
    where
        I: IntoIterator<Item = T>,
        I::IntoIter: Send + 'static,
    {
        let items = items.into_iter();
        let (sender, receiver) = bounded(1);
        let subscription = Subscription::of_thread(receiver, None, ());
        start(subscription, move || run(items, sender, send_all))
    }
}

fn start<T>(
    subscription: Subscription<T>,
    body: impl FnOnce() + Send + 'static,
) -> Result<Source<T>> {
    spawn("ws-source", body).map_err(|error| Error::Thread(Arc::new(error)))?;
    Ok(subscription.into())
}

/// Runs a source's loop. Afterwards, drops the values that belong to the program.
fn run<F, S>(mut f: F, to: S, body: impl FnOnce(&mut F, &S)) {
    if let Err(text) = catch_panic(|| body(&mut f, &to)) {
        crate::logging::error!("a source panicked and has ended: {text}");
    }
    // This ends the source. Items that nobody takes are dropped here.
    drop_caught(to);
    drop_caught(f);
}

/// Puts the results of `f`, until all handles to the source have been dropped.
fn sample<T>(
    period: Duration,
    f: &mut impl FnMut() -> T,
    newest: &Ring<T>,
    dropped: &Receiver<Infallible>,
) {
    let mut tick = Instant::now();
    loop {
        drop_caught(newest.put(f()));
        tick = next_tick(tick, period, Instant::now());
        // The wait ends at the tick, or when the last handle is dropped.
        if wait_until_disconnected(dropped, Some(tick)) {
            return;
        }
    }
}

/// Returns the first time after `now` that is a multiple of the period after `tick`.
fn next_tick(tick: Instant, period: Duration, now: Instant) -> Instant {
    let late = now.saturating_duration_since(tick);
    if late < period {
        return deadline::after(tick, period);
    }
    let since_last = late.as_nanos() % period.as_nanos();
    // It is shorter than the period, which is not longer than the process has run.
    let since_last = Duration::from_nanos(u64::try_from(since_last).unwrap_or_default());
    now + (period - since_last)
}

/// Sends the items, until all handles to the source have been dropped.
fn send_all<T>(items: &mut impl Iterator<Item = T>, sender: &Sender<T>) {
    for item in items {
        // The wait ends when the item before is taken, or when the last handle is dropped.
        if let Err(refused) = sender.send(item) {
            return drop_caught(refused);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_do_not_drift_and_missed_ones_are_skipped() {
        let start = Instant::now();
        let ms = |ms| start + Duration::from_millis(ms);
        let period = Duration::from_millis(10);
        assert_eq!(next_tick(start, period, start), ms(10));
        // The call took 3 ms.
        assert_eq!(next_tick(ms(10), period, ms(13)), ms(20));
        assert_eq!(next_tick(ms(20), period, ms(30)), ms(40));
        assert_eq!(next_tick(ms(20), period, ms(59)), ms(60));
        // The clock has a finer resolution than the sleep.
        let early = ms(60) - Duration::from_nanos(1);
        assert_eq!(next_tick(ms(60), period, early), ms(70));
    }

    #[test]
    fn a_very_long_or_short_period_is_valid() {
        let start = Instant::now();
        let later = start + Duration::from_secs(3600);
        assert!(next_tick(start, Duration::MAX, later) > later);
        let nanosecond = Duration::from_nanos(1);
        assert_eq!(next_tick(start, nanosecond, later), later + nanosecond);
    }
}
