//! RTCBot's producers and consumers, on threads and channels.
//!
//! A [`Producer`] emits items: it passes one stream to any number of queues, sinks and callbacks. A
//! [`Consumer`] accepts items: direct puts and one replaceable source, as one stream. A
//! [`Websocket`](crate::Websocket) is both. With these types, your own sensors and motors connect
//! to a `Websocket` and to each other, as RTCBot's components do.
//!
//! # Examples
//!
//! ```
//! use rtcbot_websocket::pubsub;
//!
//! // A sensor keeps the publisher, and makes the producer public.
//! let (mut publisher, sensor) = pubsub::producer();
//! // A motor keeps the inbox, and makes the consumer public.
//! let (motor, mut inbox) = pubsub::consumer(16);
//!
//! motor.put_subscription(sensor.subscribe())?;
//! publisher.put(7);
//! assert_eq!(inbox.get()?, 7);
//! # Ok::<(), rtcbot_websocket::Error>(())
//! ```

// Nothing in this module knows about networks.

mod callback_limit;
mod callbacks;
mod channel;
mod consumer;
mod dropped;
mod end;
mod fan_out;
mod forwarder;
mod inbox;
mod keys;
mod latest;
#[cfg(test)]
mod model;
mod producer;
mod queue;
mod ring;
mod sink;
mod slow_consumer;
mod source;
mod space;
mod status;
mod subscriber;
mod subscribers;
mod subscription;
mod sync;
mod threads;
mod weight_limit;
mod worker_return;

pub use consumer::{Consumer, Source, consumer};
pub use fan_out::Publisher;
pub use inbox::Inbox;
pub use latest::Latest;
pub use producer::{Producer, producer, producer_with};
pub use sink::Sink;
pub use slow_consumer::Queue;
pub use status::SubscriptionId;
pub use subscription::{IntoIter, Iter, Subscription};

pub(crate) use channel::{Channel, ExtraWork, IdleWorker, Take};
pub(crate) use sink::RoomWait;
pub(crate) use slow_consumer::Hold;
pub(crate) use weight_limit::Weighing;
