//! The traits that the public types implement.

use std::collections::HashSet;

use rtcbot_websocket::pubsub::{Consumer, Inbox, IntoIter, Iter, Producer, Publisher, Source};
use rtcbot_websocket::transport::Halves;
use rtcbot_websocket::{
    Backoff, BasicAuth, Close, CloseFrame, ConnectionId, Error, Json, Latency, Message, Options,
    PutError, Queue, Request, Server, ServerHandle, Side, Stats, Subscription, SubscriptionId,
    Text, WeakWebsocket, Websocket,
};

macro_rules! assert_each {
    ($bounds:path: $($public:ty),+ $(,)?) => {
        const _: () = {
            const fn holds<T: $bounds>() {}
            $(holds::<$public>();)+
        };
    };
}

trait SendSync: Send + Sync {}
impl<T: Send + Sync> SendSync for T {}

assert_each!(
    SendSync: Backoff, BasicAuth, Close, CloseFrame, ConnectionId, Consumer<Message>, Error,
    Inbox<Message>, IntoIter<Message>, Iter<'static, Message>, Json, Latency, Message, Options,
    Producer<Message>, PutError<Message>, Queue, ServerHandle, Side, Source<Message>, Stats,
    Subscription<Message>, SubscriptionId, Text, WeakWebsocket, Websocket,
);

// One thread uses each of these at a time. They contain transports, or calls of a user's callback,
// which need not be `Sync`.
assert_each!(Send: Halves, Publisher<Message>, Request, Server);

#[test]
fn clones_and_weak_handles_of_a_websocket_have_one_identity() {
    let (one, other) = Websocket::pair();
    assert_eq!(one.id(), one.clone().id());
    assert_ne!(one.id(), other.id());
    assert_eq!(HashSet::from([one.clone(), one.clone(), other]).len(), 2);
    let weak = one.downgrade();
    assert_eq!(HashSet::from([weak.clone(), one.downgrade()]).len(), 1);
    drop(one);
    assert!(weak.upgrade().is_none());
    assert_eq!(weak, weak.clone());
}

#[test]
fn a_later_websocket_has_a_greater_id() {
    let ids = [(); 3].map(|()| Websocket::pair().0.id());
    assert!(ids.is_sorted());
    assert!(ids[0].to_string().parse::<u64>().is_ok());
}
