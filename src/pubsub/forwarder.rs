//! Delivers early items to a sink that has just subscribed.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use super::sink::Sink;
use super::slow_consumer::{Delivered, Delivery, Waiter, WhenFull};
use super::status::Status;
use super::subscriber::{Output, SinkOutput, Subscriber};
use super::subscribers::Subscribers;
use super::threads::{EndOrder, MayWait, Start};
use crate::panics::drop_each;

/// The early items of one sink. The sink has already subscribed, and the publisher treats it as
/// full until it has received all of these.
pub(super) struct Forwarder<T> {
    items: VecDeque<T>,
    weigh: fn(&T) -> usize,
    to: Arc<Subscriber<T>>,
    sink: Arc<SinkOutput<T>>,
    delivery: Arc<Delivery>,
    /// Weak, so that a wait for the sink ends when there are no other references to the producer.
    subscribers: Weak<Subscribers<T>>,
}

impl<T: Send + 'static> Forwarder<T> {
    /// Subscribes a sink of this crate, and delivers the early items to it. If it does not have
    /// room for all of them, a thread delivers the rest.
    pub(super) fn attach(
        subscribers: &Arc<Subscribers<T>>,
        status: Arc<Status>,
        sink: impl Sink<T>,
    ) {
        let mut state = subscribers.state.lock();
        let items = state.take_early();
        let sink = SinkOutput::new(sink, items.len());
        let listed = Subscriber::new(status.clone(), Output::Sink(sink.clone()));
        let drop_later = subscribers.insert(&mut state, Arc::new(listed));
        drop(state);
        drop(drop_later);
        let mut forwarder = Forwarder {
            items,
            weigh: subscribers.weighing.weigh,
            to: Arc::new(Subscriber::new(status, Output::EarlySink(sink.clone()))),
            sink: sink.clone(),
            delivery: subscribers.delivery.clone(),
            subscribers: Arc::downgrade(subscribers),
        };
        if forwarder.deliver(Waiter::Nobody(WhenFull::Keep)) {
            return;
        }
        let body = move |may_wait| {
            forwarder.deliver(match may_wait {
                MayWait::Yes => Waiter::Thread,
                MayWait::No => Waiter::Nobody(WhenFull::Drop),
            });
        };
        let start = Start::new("ws-forward", EndOrder::Last, &sink.needs_thread, body);
        drop(sink);
        subscribers.delivery.threads.start(start);
        subscribers.delivery.threads.wait();
    }

    /// Delivers the items. Returns `false` if some have been kept.
    fn deliver(&mut self, waiter: Waiter) -> bool {
        while let Some(item) = self.items.pop_front() {
            let weight = (self.weigh)(&item);
            match self.to.deliver(item, weight, waiter, &self.delivery) {
                Delivered::Taken | Delivered::Dropped => {}
                Delivered::Kept(item) => {
                    self.items.push_front(item);
                    return false;
                }
                Delivered::Gone(item) => {
                    self.items.push_front(item);
                    self.give_back();
                }
            }
            // Release: if the publisher reads 0, the sink has all early items.
            self.sink.early.store(self.items.len(), Ordering::Release);
        }
        // The publisher may wait for it.
        self.delivery.wake_waiters();
        true
    }

    /// Returns the items for the next subscriber if the sink is closed. Drops them if it has been
    /// removed.
    fn give_back(&mut self) {
        let items = std::mem::take(&mut self.items);
        match self.subscribers.upgrade() {
            Some(subscribers) if !self.to.status.is_removed() => {
                subscribers.give_back_early(self.to.status.id, items);
            }
            _ => drop_each(items),
        }
    }
}
