//! Feeds a sink that was too full for what came early.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Instant;

use crossbeam_channel::Receiver;

use super::fan_out::is_over;
use super::sink::{Patience, Sink};
use super::subscribers::{Forwarder, Subscribers};
use super::threads::Stay;
use super::weight_limit::Taken;
use crate::error::PutError;
use crate::panics::{drop_caught, log_panic};

/// What a thread does that hands over to `sink` what comes out of `items`.
///
/// Like a publisher it waits for the sink until there is room, the subscription is removed, the
/// sink is closed, or the producer's patience is over. The producer's end does not end it: what is
/// left is still handed over, for as long as anybody holds the producer. Where it is not to stay,
/// it waits for nothing.
pub(super) fn hand_over_all<T: Send + 'static>(
    subscribers: &Weak<Subscribers<T>>,
    forwarder: &Forwarder,
    (items, taken): (Receiver<T>, Arc<Taken>),
    sink: impl Sink<T>,
    stay: Stay,
) {
    let mut truncated = false;
    let next = || match stay {
        Stay::Yes => items.recv().ok(),
        Stay::No => items.try_recv().ok(),
    };
    while let Some(item) = next() {
        taken.tell();
        if !hand_over(subscribers, forwarder, item, &sink, &mut truncated, stay) {
            break;
        }
    }
    // Who waits for room finds that nobody is there.
    drop(items);
    taken.tell();
    // In this order: who waits for the sink to be dropped finds no thread left.
    drop_caught(sink);
}

/// `false` when nothing more is to be handed over.
fn hand_over<T: Send + 'static>(
    subscribers: &Weak<Subscribers<T>>,
    forwarder: &Forwarder,
    mut item: T,
    sink: &impl Sink<T>,
    truncated: &mut bool,
    stay: Stay,
) -> bool {
    loop {
        if forwarder.removed.load(Ordering::Acquire) {
            drop_caught(item);
            return false;
        }
        // Not kept during the wait: it would keep the producer.
        let until = match subscribers.upgrade() {
            Some(subscribers) if stay == Stay::Yes => subscribers.state.lock().patience,
            _ => Some(Instant::now()),
        };
        let over = is_over(until);
        *truncated &= over;
        if *truncated {
            drop_caught(item);
            count_dropped(subscribers);
            return true;
        }
        let patience = Patience::new(&forwarder.wake.1, until);
        let mut back = None;
        log_panic(|| {
            back = match sink.put_nowait(item) {
                Err(PutError::Full(item)) => sink.put(item, &patience).err(),
                other => other.err(),
            }
        });
        item = match back {
            None => return true,
            Some(PutError::Full(item)) if patience.used() && !over => item,
            Some(PutError::Full(item)) => {
                drop_caught(item);
                crate::logging::warn!(
                    "a sink is full and the stream goes on: messages for it are dropped"
                );
                // As for a publisher: what was handed over has an end and no gaps.
                *truncated = patience.used();
                count_dropped(subscribers);
                return true;
            }
            Some(PutError::Closed(item)) => {
                drop_caught(item);
                return false;
            }
        };
    }
}

fn count_dropped<T>(subscribers: &Weak<Subscribers<T>>) {
    if let Some(subscribers) = subscribers.upgrade() {
        subscribers.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// What [`offer_all`] came to.
pub(super) enum Offered<T> {
    All,
    /// There was no room for these.
    Full(VecDeque<T>),
    /// The sink is closed: these are for somebody else.
    Closed(VecDeque<T>),
}

/// Puts what fits.
pub(super) fn offer_all<T>(sink: &impl Sink<T>, mut items: VecDeque<T>) -> Offered<T> {
    while let Some(item) = items.pop_front() {
        let mut back = None;
        log_panic(|| back = sink.put_nowait(item).err());
        match back {
            None => {}
            Some(PutError::Full(item)) => {
                items.push_front(item);
                return Offered::Full(items);
            }
            Some(PutError::Closed(item)) => {
                items.push_front(item);
                return Offered::Closed(items);
            }
        }
    }
    Offered::All
}
