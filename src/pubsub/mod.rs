//! RTCBot's producers and consumers, on threads and channels.
//!
//! A [`Producer`] is what emits messages: it fans one stream out to queues, sinks and callbacks. A
//! [`Consumer`] is what takes them: direct puts and a source that can be replaced at any time, as
//! one stream. A [`Websocket`](crate::Websocket) is both. So can a sensor or a motor of your own
//! be, and then it plugs into a `Websocket` as RTCBot's own parts plug into each other:
//!
//! ```
//! use rtcbot_websocket::pubsub::{Consumer, Producer};
//!
//! // A sensor keeps the publisher and shows the producer.
//! let (mut publisher, sensor) = Producer::new();
//! // A motor keeps the inbox and shows the consumer.
//! let (motor, mut inbox) = Consumer::new(16);
//!
//! motor.put_subscription(sensor.subscribe());
//! publisher.put(7);
//! assert_eq!(inbox.get()?, 7);
//! # Ok::<(), rtcbot_websocket::Error>(())
//! ```
//!
//! Nothing in here knows what a network is.

mod callback_limit;
mod callbacks;
mod channel;
mod consumer;
mod fan_out;
mod forwarder;
mod hold;
mod inbox;
#[cfg(test)]
mod model;
mod producer;
mod queue;
mod ring;
mod sink;
mod space;
mod status;
mod subscriber;
mod subscribers;
mod subscription;
mod sync;
mod threads;
mod weight_limit;
mod worker_return;

pub use consumer::{Consumer, Source};
pub use fan_out::Publisher;
pub use inbox::Inbox;
pub use producer::Producer;
pub use queue::Queue;
pub use sink::Sink;
pub use status::SubscriptionId;
pub use subscription::Subscription;

pub(crate) use channel::{Channel, ExtraWork, IdleWorker};
pub(crate) use hold::Hold;
pub(crate) use sink::RoomWait;
pub(crate) use weight_limit::Weighing;
