//! A WebSocket for programs without an async runtime.
//!
//! This crate brings the `Websocket` of [RTCBot](https://rtcbot.readthedocs.io/), a library for
//! robots, to Rust. Any thread can put messages into a [`Websocket`] and get messages from it, at
//! any time. Each connection has two threads over blocking sockets, one that reads and one that
//! writes, so that neither direction waits for the other.
//!
//! # Hello, world!
//!
//! A client connects to a URL, and a server accepts requests:
//!
//! ```
//! use rtcbot_websocket::{Server, Websocket, json};
//!
//! let mut server = Server::bind("127.0.0.1:0")?;
//! let ws = Websocket::connect(server.url())?; // returns immediately
//! ws.put_nowait(json!({"hello": "robot"}))?; // is queued until the connection is ready
//!
//! let robot = Websocket::accept(server.next().unwrap());
//! assert_eq!(robot.get()?, json!({"hello": "robot"}));
//!
//! ws.close()?; // sends queued messages first
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Messages
//!
//! A [`Message`] is JSON, text or bytes. Sending methods accept `impl Into<Message>`: [`json!`]
//! values, numbers, `bool`, strings, and bytes:
//!
//! ```
//! use rtcbot_websocket::{Message, json};
//!
//! let order = Message::from(json!({"motor": 1}));
//! let text = Message::from("hello");
//! let bytes = Message::from(vec![1u8, 2, 3]);
//! assert_eq!(text.as_str(), Some("hello"));
//! # assert!(matches!(order, Message::Json(_)) && matches!(bytes, Message::Binary(_)));
//! ```
//!
//! In JSON mode, the default as in RTCBot, text that is JSON arrives as JSON. Everything but bytes
//! is sent as JSON: the text `hello` is sent as `"hello"`. [`Options::json`]`(false)` sends and
//! receives text unchanged.
//!
//! # Typed messages
//!
//! [`Message::json`] serialises any value, and [`Message::decode`] reads one.
//! [`put_json`](Websocket::put_json) and [`get_as`](Websocket::get_as) send and receive them:
//!
//! ```
//! use rtcbot_websocket::{Websocket, json};
//!
//! #[derive(serde::Serialize, serde::Deserialize)]
//! struct Pose { x: f64, y: f64 }
//!
//! let (robot, operator) = Websocket::pair(); // two connected sockets
//! robot.put_json(&Pose { x: 1.0, y: 2.0 })?;
//! let pose: Pose = operator.get_as()?;
//! operator.put_nowait(json!({"x": pose.x + 1.0, "y": pose.y}))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Receiving
//!
//! [`get`](Websocket::get) waits for the next message, [`get_timeout`](Websocket::get_timeout)
//! waits for a limited time, and [`try_get`](Websocket::try_get) does not wait. A loop takes all
//! messages until the connection ends:
//!
//! ```
//! use rtcbot_websocket::Websocket;
//!
//! let (operator, robot) = Websocket::pair();
//! operator.put_nowait("forward")?;
//! assert_eq!(robot.get()?, "forward");
//! operator.put_nowait("stop")?;
//! operator.close()?;
//! for order in &robot {
//!     assert_eq!(order, "stop");
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Subscriptions
//!
//! Every subscription receives every message, independently of the others:
//!
//! * [`subscribe`](Websocket::subscribe) returns a [`Subscription`], which is a queue.
//! * [`subscribe_callback`](Websocket::subscribe_callback) calls a function for one message after
//!   the other, and [`subscribe_concurrent`](Websocket::subscribe_concurrent) for several at once.
//! * [`subscribe_to`](Websocket::subscribe_to) fills a channel, another `Websocket`, a
//!   [`Latest`], or any [`Sink`].
//! * [`get`](Websocket::get) reads from a default subscription, which its first call makes.
//!
//! ```
//! use rtcbot_websocket::Websocket;
//!
//! let (operator, robot) = Websocket::pair();
//! let orders = robot.subscribe();
//! robot.subscribe_callback(|order| println!("received {order}"));
//! robot.subscribe_to(robot.clone()); // an echo
//!
//! operator.put_nowait("forward")?;
//! assert_eq!(orders.get()?, "forward");
//! assert_eq!(operator.get()?, "forward");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Slow readers
//!
//! A subscription's [`Queue`] decides what happens when its reader falls behind. By default the
//! connection stops reading once 1024 messages are queued, so TCP flow control slows the peer down
//! and nothing is lost. A subscription that is no longer read has the same effect: drop it. A
//! control loop uses [`Queue::Latest`], which keeps only the newest message:
//!
//! ```
//! use rtcbot_websocket::{Error, Queue, Websocket};
//! use std::time::Duration;
//!
//! let (operator, robot) = Websocket::pair();
//! let orders = robot.subscribe_with(Queue::Latest);
//! operator.put_nowait("forward")?;
//! operator.close()?;
//! let reason = loop {
//!     match orders.get_timeout(Duration::from_millis(300)) {
//!         Ok(order) => println!("to the motors: {order}"),
//!         Err(Error::Timeout) => println!("motors off: no order arrived"),
//!         Err(reason) => break reason,
//!     }
//! };
//! println!("motors off: {reason}");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The timeout makes the robot safe. An open connection does not mean that an operator is at the
//! other end: a program that hangs keeps its connections until a ping times out, and a browser
//! answers pings for its pages.
//!
//! # Control loops
//!
//! A loop with a clock of its own asks for the newest message and its age.
//! [`subscribe_latest`](Websocket::subscribe_latest) returns a [`Latest`], which several
//! connections can feed:
//!
//! ```
//! use rtcbot_websocket::Websocket;
//! use std::time::Duration;
//!
//! let (_operator, robot) = Websocket::pair();
//! let orders = robot.subscribe_latest();
//! match orders.fresh(Duration::from_millis(300)) {
//!     Some(order) => println!("to the motors: {order}"),
//!     None => println!("motors off: no order for 300 ms"),
//! }
//! ```
//!
//! # Sending
//!
//! [`put_nowait`](Websocket::put_nowait) never waits. When 16 MiB are queued, it returns the
//! message in an error. [`put`](Websocket::put) and [`put_timeout`](Websocket::put_timeout) wait
//! until the queue has space:
//!
//! ```
//! use rtcbot_websocket::{PutError, Websocket};
//!
//! let (robot, _operator) = Websocket::pair();
//! match robot.put_nowait("a state") {
//!     Ok(()) => {}
//!     Err(PutError::Full(state)) => println!("not sent: {state}"),
//!     Err(PutError::Closed(_)) => println!("the connection has ended"),
//! }
//! ```
//!
//! # Sources
//!
//! [`put_subscription`](Websocket::put_subscription) sends everything from a channel or a
//! subscription, until another message is put:
//!
//! ```
//! use rtcbot_websocket::{Websocket, crossbeam_channel};
//!
//! let (operator, robot) = Websocket::pair();
//! let (joystick, orders) = crossbeam_channel::unbounded();
//! operator.put_subscription(orders)?;
//! joystick.send("forward".into())?;
//! assert_eq!(robot.get()?, "forward");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Source::every`] calls a function at a steady rate, and [`Source::iter`] sends the items of an
//! iterator:
//!
//! ```
//! use rtcbot_websocket::{Source, Websocket, json};
//! use std::time::Duration;
//!
//! let (robot, operator) = Websocket::pair();
//! let battery = || json!({"battery": 0.8}).into();
//! robot.put_subscription(Source::every(Duration::from_millis(100), battery)?)?;
//! assert_eq!(operator.get()?, json!({"battery": 0.8}));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Waiting for several things
//!
//! [`Subscription::receiver`] returns a channel for
//! [`select!`](crossbeam_channel::select), and [`closed_signal`](Websocket::closed_signal) one that
//! reports the connection's end:
//!
//! ```
//! use rtcbot_websocket::{Websocket, crossbeam_channel::{after, select}};
//! use std::time::Duration;
//!
//! let (operator, robot) = Websocket::pair();
//! let orders = robot.subscribe();
//! operator.put_nowait("forward")?;
//! select! {
//!     recv(orders.receiver()) -> order => println!("{order:?}"),
//!     recv(after(Duration::from_millis(300))) -> _ => println!("no order arrived"),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The end of a connection
//!
//! A connection ends when either side calls [`close`](Websocket::close), when the last handle is
//! dropped, or after an error. Then every blocked call returns the reason, an [`Error`], after the
//! messages that are still queued:
//!
//! ```
//! use rtcbot_websocket::{Error, Websocket};
//!
//! let (robot, operator) = Websocket::pair();
//! robot.close_with(4001, "battery low")?;
//! match operator.get() {
//!     Err(Error::Closed(close)) => assert_eq!(close.frame.unwrap().reason, "battery low"),
//!     other => panic!("{other:?}"),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`on_ready`](Websocket::on_ready), [`on_error`](Websocket::on_error) and
//! [`on_close`](Websocket::on_close) call a function. [`wait_ready`](Websocket::wait_ready) and
//! [`wait_closed`](Websocket::wait_closed) wait. [`events`](Websocket::events) and
//! [`on_event`](Websocket::on_event) report every change of the [`state`](Websocket::state).
//!
//! # Staying connected
//!
//! With [`Options::reconnect`], a client that loses its connection makes another, for as long as it
//! takes. Subscriptions, callbacks and queued messages stay. Messages that were written to the lost
//! connection may be lost; [`stats`](Websocket::stats) counts them.
//!
//! By default, some ends are final: a server that closes with code 1000, or answers 401 or 404.
//! [`Backoff::until_closed`] connects again after every end, and [`Options::reconnect_if`] decides
//! by the reason. [`Options::greeting`] is sent first on every connection.
//!
//! ```
//! use rtcbot_websocket::{Backoff, Options, Server, Websocket};
//!
//! let mut server = Server::bind("127.0.0.1:0")?;
//! let ws = Options::new().reconnect(Backoff::new()).connect(server.url())?;
//! let robot = Websocket::accept(server.next().unwrap());
//! robot.wait_ready()?;
//! robot.close_with(1012, "restarting")?;
//!
//! ws.put("hello")?; // is sent over the next connection
//! let robot = Websocket::accept(server.next().unwrap());
//! assert_eq!(robot.get()?, "hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Sending only the newest
//!
//! Messages queued while disconnected are sent after reconnecting, so a robot may receive a
//! minute's worth of stale orders at once. If only the latest order matters, use
//! [`put_latest`](Websocket::put_latest). It replaces a message with the same key that is still
//! queued:
//!
//! ```
//! use rtcbot_websocket::{Websocket, json};
//!
//! let (ws, robot) = Websocket::pair();
//! ws.put_latest("speed", json!({"speed": 0.5}))?;
//! assert_eq!(robot.get()?, json!({"speed": 0.5}));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A source can do the same: a [`Queue::Latest`] subscription of a [`pubsub::Producer`].
//!
//! # Urgent messages
//!
//! [`put_urgent`](Websocket::put_urgent) sends a message ahead of all that are queued, such as an
//! emergency stop. Pings and the Close frame overtake them too, and even a long message that is
//! being sent, since that consists of [several frames](Options::fragment_size).
//!
//! # Detecting a lost peer
//!
//! Pings detect a peer that has vanished, by default within 40 seconds, as long as its messages are
//! taken from the subscriptions: see [`Options::ping_interval`] and [`Options::ping_timeout`].
//! [`ping`](Websocket::ping) sends one on demand, and [`stats`](Websocket::stats) returns the round
//! trip.
//!
//! # Serving
//!
//! A [`Server`] is an iterator of [`Request`]s that needs no thread of its own.
//! [`serve`](Server::serve) calls a function for each request on a separate thread. Accept a
//! request as a WebSocket, or answer it with a page or a status:
//!
//! ```
//! use rtcbot_websocket::{Server, Websocket};
//!
//! let mut server = Server::bind("127.0.0.1:0")?.max_connections(100);
//! let ws = Websocket::connect(server.url().to_owned() + "/state")?;
//! let request = server.next().unwrap();
//! match request.path() {
//!     "/drive" => {
//!         let robot = Websocket::accept(request);
//!         robot.subscribe_callback(|order| println!("received {order}"));
//!         robot.detach(); // stays open for its callback; a dropped `Websocket` closes
//!     }
//!     _ => request.respond(404, "the WebSocket is at /drive")?,
//! }
//! assert!(ws.wait_ready().unwrap_err().to_string().contains("404"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Browsers let any page connect to any WebSocket. By default a server accepts only its own pages:
//! see [`Options::allow_origin`].
//!
//! # Broadcasting
//!
//! [`broadcast`] sends one message to any connections. A [`ServerHandle`] reaches all connections
//! of its server from any thread, and shuts the server down:
//!
//! ```
//! use rtcbot_websocket::{Server, Websocket, json};
//! use std::time::Duration;
//!
//! let mut server = Server::bind("127.0.0.1:0")?;
//! let ws = Websocket::connect(server.url())?;
//! let _robot = Websocket::accept(server.next().unwrap());
//! ws.wait_ready()?;
//! server.handle().broadcast(json!({"battery": 0.8})); // does not wait
//! server.handle().shutdown(Duration::from_secs(5))?; // sends queued messages and code 1001
//! assert_eq!(ws.get()?, json!({"battery": 0.8}));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # TLS, Unix sockets, proxies, other streams
//!
//! * `wss://` URLs use TLS, and [`Server::tls`] serves them. `Options` sets the
//!   [trusted certificates](Options::root_certificate_pem) beyond those of the system.
//! * `ws+unix:/path` URLs connect to a Unix socket, and [`Server::bind_unix`] serves one.
//! * [`Options::proxy`] connects through an HTTP or SOCKS5 proxy.
//! * [`Options::connect_over`] and [`Request::from_parts`] use an existing stream: any
//!   [`Transport`].
//!
//! # Compression
//!
//! With the feature `deflate`, [`Options::deflate`] compresses messages (permessage-deflate, RFC
//! 7692) if the peer does so too. [`Deflate`] says what that costs, and has the settings.
//! `Message::uncompressed` is for images.
//!
//! # Testing
//!
//! [`Websocket::pair`] returns two connected sockets, so that a control loop can be
//! tested without a network.
//!
//! # Your own components
//!
//! A `Websocket` consists of a [`pubsub::Producer`] and a [`pubsub::Consumer`]. A sensor or a motor
//! can be made of them too, and then connects to a `Websocket`: see [`pubsub`].
//!
//! # Features
//!
//! | feature | default | effect |
//! | --- | --- | --- |
//! | `native-tls` | yes | TLS by the system's library: OpenSSL on Linux |
//! | `native-tls-vendored` | no | builds OpenSSL from source |
//! | `deflate` | no | compression of messages, in Rust: needs no C compiler |
//!
//! To compile, `native-tls` needs OpenSSL's headers on Linux: `apt install libssl-dev pkg-config`.
//! `native-tls-vendored` needs a C compiler, make and perl instead, and takes a few minutes.
//! Without `native-tls`, a `wss` URL is rejected with an error that names the feature, and
//! everything else works.
//!
//! # Threads
//!
//! | thread | number | task |
//! | --- | --- | --- |
//! | `ws-read` | 1 per connection | connects, reads, and delivers messages |
//! | `ws-write` | 1 per connection | sends messages, pongs and Close frames |
//! | `ws-dispatch` | 1 per connection with callbacks | calls them one after the other |
//! | `ws-worker` | up to `workers` | calls a function given to `subscribe_concurrent` |
//! | `ws-serve` | 1 per request | calls the handler of [`Server::serve`] |
//! | `ws-source` | 1 per [`Source`] of a function or an iterator | calls it |
//! | `ws-forward` | temporary | delivers to a sink that was full |
//! | `ws-linger` | temporary | enforces the close timeout if the closing thread must not block |
//! | `ws-resolve` | temporary | resolves a host name |
//! | `ws-respond` | temporary | sends a page to a slow client |
//!
//! Your code runs on these threads: callbacks on `ws-dispatch` and `ws-worker`, a [`Sink`] of your
//! own on `ws-dispatch`, functions and iterators given to [`Source`] on `ws-source`, functions
//! given to [`Options`] on `ws-read`, a [`Transport`] of your own on `ws-read` and `ws-write`, and
//! the handler on `ws-serve`.
//!
//! [`Options::thread_stack_size`] sets the stacks of a connection's threads.
//!
//! A callback may call any method; the connection's other callbacks wait meanwhile. If the writer
//! thread is idle, a small message is written on the calling thread, without blocking; the writer
//! thread sends whatever the socket does not accept immediately. Returning from `main` ends the
//! process, whatever is connected.
//!
//! # Logging
//!
//! The crate `log` receives lost connections and new attempts at `info`, opening and closing at
//! `debug`, and full subscriptions, dropped messages and a full server at `warn`. tungstenite logs
//! too. Keep its target, `tungstenite`, below `trace`, which contains every message and every
//! header of the handshake.

#![forbid(unsafe_code)]
// Some links lead to items that exist only with TLS or compression.
#![cfg_attr(
    not(all(feature = "native-tls", feature = "deflate")),
    allow(rustdoc::broken_intra_doc_links)
)]

#[cfg(not(unix))]
compile_error!("rtcbot-websocket runs on Unix (Linux, macOS, the BSDs)");

mod backoff;
mod capacity;
mod catch_panic;
mod deadline;
mod descriptors;
mod error;
// The testkit that it shares with the tests knows the crate by its name.
#[cfg(any(test, fuzzing))]
extern crate self as rtcbot_websocket;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod hidden;
mod hooks;
mod logging;
mod message;
mod net;
mod options;
mod os_limits;
mod panics;
mod process;
pub mod pubsub;
mod server;
mod shown;
mod thread;
mod websocket;

pub use bytes::Bytes;
pub use crossbeam_channel;
pub use http;
#[cfg(feature = "native-tls")]
pub use native_tls;
pub use serde_json::{Value, json};

pub use backoff::Backoff;
pub use error::{Close, CloseFrame, Error, PutError, Result, Side};
pub use message::{Binary, Json, Message, Text};
pub use net::basic_auth::BasicAuth;
#[cfg(feature = "deflate")]
pub use net::deflate::Deflate;
pub use net::transport::{self, Transport};
pub use options::Options;
pub use pubsub::{Latest, Queue, Sink, Source, Subscription, SubscriptionId};
pub use server::{Server, ServerHandle};
pub use websocket::broadcast::broadcast;
pub use websocket::{
    ConnectionId, Latency, Messages, Request, State, Stats, WeakWebsocket, Websocket,
};

/// Compiles the README's programs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// Compiles the page's programs.
#[cfg(doctest)]
#[doc = include_str!("../docs/scaling.md")]
struct Scaling;

/// Compiles the page's programs.
#[cfg(doctest)]
#[doc = include_str!("../docs/embedding.md")]
struct Embedding;

/// Compiles the page's programs.
#[cfg(doctest)]
#[doc = include_str!("../docs/strangers.md")]
struct Strangers;

/// Runs the page's programs.
#[cfg(doctest)]
#[doc = include_str!("../docs/from-rtcbot.md")]
struct FromRtcbot;
