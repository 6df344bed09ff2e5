//! Feeds a sink that was too full for what came early.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{io, thread};

use crossbeam_channel::{Receiver, TryRecvError, never};

use super::dispatch::guarded;
use super::sink::{Patience, Sink};
use crate::error::PutError;

/// Starts a thread that hands what comes out of `items` over to `sink`. It ends when `items` is
/// disconnected and used up, when the sink is closed, or when `removed` is set and `wake` disconnected.
pub(super) fn start<T: Send + 'static>(
    items: Receiver<T>,
    sink: impl Sink<T>,
    wake: Receiver<()>,
    removed: Arc<AtomicBool>,
) -> io::Result<()> {
    thread::Builder::new()
        .name("ws-relay".into())
        .spawn(move || relay(&items, &sink, &wake, &removed))
        .map(drop)
}

/// Puts what fits; returns the rest.
pub(super) fn offer_all<T>(sink: &impl Sink<T>, mut items: VecDeque<T>) -> VecDeque<T> {
    while let Some(item) = items.pop_front() {
        let mut back = None;
        guarded(|| back = sink.put_nowait(item).err());
        match back {
            None => {}
            Some(PutError::Full(item)) => {
                items.push_front(item);
                return items;
            }
            Some(PutError::Closed(_)) => return VecDeque::new(),
        }
    }
    items
}

/// The relay thread. Like a publisher it waits for the sink: until there is room, the subscription is
/// removed, or the sink is closed. When the producer ends, what is left is still handed over.
fn relay<T: 'static>(
    items: &Receiver<T>,
    sink: &impl Sink<T>,
    wake: &Receiver<()>,
    removed: &AtomicBool,
) {
    let never = never();
    let mut wake = wake;
    for mut item in items {
        loop {
            if removed.load(Ordering::Acquire) {
                return;
            }
            if wake.try_recv() == Err(TryRecvError::Disconnected) {
                // The producer has ended: nobody will remove the subscription any more.
                wake = &never;
            }
            let patience = Patience::new(wake, None);
            let mut back = None;
            guarded(|| {
                back = match sink.put_nowait(item) {
                    Err(PutError::Full(item)) => sink.put(item, &patience).err(),
                    other => other.err(),
                }
            });
            item = match back {
                None => break,
                Some(PutError::Full(item)) if patience.used() => item,
                Some(PutError::Full(_)) => {
                    log::warn!("a sink was full and does not wait: a message for it is dropped");
                    break;
                }
                Some(PutError::Closed(_)) => return,
            };
        }
    }
}
