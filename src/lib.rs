//! The WebSocket for programs that have no async runtime.
//!
//! [RTCBot](https://rtcbot.readthedocs.io/)'s `Websocket`, which robots are driven with, in Rust:
//! give it a URL, or the request of an incoming connection, and you have an object that any thread
//! can put messages into and get messages from, at any time. Under it run two threads over blocking
//! sockets, one that reads and one that writes, so that neither ever waits for the other.
//!
//! # Hello, world!
//!
//! ```
//! use rtcbot_websocket::{Server, Websocket, json};
//!
//! // Both ends in one program, for the show.
//! let mut server = Server::bind("127.0.0.1:0")?;
//!
//! let ws = Websocket::connect(server.url())?; // returns at once,
//! ws.put_nowait(json!({"hello": "robot"}))?; // and works before it is connected
//!
//! let robot = Websocket::accept(server.next().unwrap());
//! assert_eq!(robot.get()?, json!({"hello": "robot"}));
//!
//! ws.close()?; // sends what is queued, and says goodbye
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Messages
//!
//! A [`Message`] is JSON, text or bytes. What can be turned `into()` one can be put: [`json!`] values,
//! numbers, `bool`, strings, byte vectors and slices. In JSON
//! mode, RTCBot's default, text that is JSON arrives as JSON, and everything but bytes is sent as
//! JSON: the text `hello` as `"hello"`. [`Options::json`]`(false)` sends and receives text as it is.
//!
//! ```
//! use rtcbot_websocket::{Message, json};
//!
//! #[derive(serde::Serialize, serde::Deserialize)]
//! struct Pose { x: f64, y: f64 }
//!
//! let message = Message::json(&Pose { x: 1.0, y: 2.0 })?; // the typed way in,
//! let pose: Pose = message.decode()?;                    // and out
//! assert_eq!(message, json!({"x": pose.x, "y": pose.y}));
//! # Ok::<(), rtcbot_websocket::Error>(())
//! ```
//!
//! # Receiving
//!
//! Each of these gets every message, independently of the others:
//!
//! * [`get`](Websocket::get), [`get_timeout`](Websocket::get_timeout) and
//!   [`try_get`](Websocket::try_get) take from a default subscription, which the first call makes.
//! * [`subscribe`](Websocket::subscribe) makes a [`Subscription`]: a queue of its own, and with
//!   [`receiver`](Subscription::receiver) a channel for [`select!`](crossbeam_channel::select).
//! * [`subscribe_callback`](Websocket::subscribe_callback) calls a function, message after message;
//!   [`subscribe_concurrent`](Websocket::subscribe_concurrent) several at once.
//! * [`subscribe_to`](Websocket::subscribe_to) feeds a channel, another `Websocket`, or any [`Sink`].
//!
//! What a slow reader means, its [`Queue`] says; a forgotten one is a slow one. By default reading pauses when 1024 messages wait,
//! and TCP holds the peer back: nothing is lost. A control loop wants [`Queue::Latest`] instead:
//!
//! ```
//! # use rtcbot_websocket::{Server, Websocket};
//! # let mut server = Server::bind("127.0.0.1:0")?;
//! # let ws = Websocket::connect(server.url())?;
//! # let robot = Websocket::accept(server.next().unwrap());
//! use rtcbot_websocket::{Queue, crossbeam_channel::{after, select}};
//! use std::time::Duration;
//!
//! const ORDER_HOLDS: Duration = Duration::from_millis(300);
//! let orders = robot.subscribe_with(Queue::Latest);
//! let mut silence = after(ORDER_HOLDS);
//! # ws.put_nowait("forward")?;
//! loop {
//!     select! {
//!         recv(orders.receiver()) -> order => match order {
//!             Ok(order) => {
//!                 println!("to the motors: {order}");
//!                 silence = after(ORDER_HOLDS);
//! #               ws.close()?;
//!             }
//!             Err(_) => {
//!                 println!("motors off: {}", orders.get().unwrap_err());
//!                 break;
//!             }
//!         },
//!         recv(silence) -> _ => println!("motors off: no order has come"),
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The last branch makes it safe. An open connection does not mean that somebody is at the other
//! end: a program that hangs keeps its connections for as long as pings may be missed, and a
//! browser answers them for its pages.
//!
//! # Sending
//!
//! * [`put_nowait`](Websocket::put_nowait) never waits; when 16 MiB are queued it hands the message back.
//! * [`put`](Websocket::put) and [`put_timeout`](Websocket::put_timeout) wait for room.
//! * [`put_subscription`](Websocket::put_subscription) sends everything that a channel or a
//!   subscription yields, until anything else is put.
//! * A `Websocket` is a [`Sink`], too, so an echo is one line:
//!
//! ```
//! # use rtcbot_websocket::{Server, Websocket};
//! # let mut server = Server::bind("127.0.0.1:0")?;
//! # let ws = Websocket::connect(server.url())?;
//! # let robot = Websocket::accept(server.next().unwrap());
//! robot.subscribe_to(robot.clone());
//! # ws.put_nowait("x")?;
//! # assert_eq!(ws.get()?, "x");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The end
//!
//! A connection ends by [`close`](Websocket::close) on either side, by dropping the last handle, or by
//! an error. Then every blocked call returns and says why: an [`Error`]. What is queued can still be
//! taken first. [`on_ready`](Websocket::on_ready), [`on_error`](Websocket::on_error) and
//! [`on_close`](Websocket::on_close) call a function; [`wait_ready`](Websocket::wait_ready),
//! [`wait_error`](Websocket::wait_error) and [`wait_closed`](Websocket::wait_closed) wait;
//! [`closed_signal`](Websocket::closed_signal) is for `select!`.
//!
//! ```
//! # use rtcbot_websocket::{Error, Server, Websocket};
//! # let mut server = Server::bind("127.0.0.1:0")?;
//! # let ws = Websocket::connect(server.url())?;
//! # let robot = Websocket::accept(server.next().unwrap());
//! # ws.wait_ready()?;
//! ws.close_with(4001, "battery low")?;
//! match robot.get() {
//!     Err(Error::Closed(close)) => assert_eq!(close.frame.unwrap().reason, "battery low"),
//!     other => panic!("{other:?}"),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Staying connected
//!
//! With [`Options::reconnect`] a client whose connection is lost makes another, for as long as it takes.
//! Subscriptions, callbacks and what is queued stay as they are. What had been written to the
//! connection that was lost may be lost with it; [`stats`](Websocket::stats) counts it.
//!
//! ```
//! # use rtcbot_websocket::{Server, Websocket};
//! # let mut server = Server::bind("127.0.0.1:0")?;
//! # let url = server.url();
//! use rtcbot_websocket::{Backoff, Options};
//!
//! let ws = Options::new().reconnect(Backoff::default()).connect(url)?;
//! ws.on_disconnect(|why| println!("lost: {why}"));
//! # let robot = Websocket::accept(server.next().unwrap());
//! # robot.wait_ready()?;
//! # robot.close_with(1012, "restarting")?;
//! # ws.put("hello")?;
//! # let robot = Websocket::accept(server.next().unwrap());
//! # assert_eq!(robot.get()?, "hello");
//! assert_eq!(ws.stats().reconnects, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What is queued while there is no connection is sent when there is one again. A robot would get all the orders of
//! the last minute at once; where only the newest counts, let the `Websocket` read from a queue that
//! keeps only that:
//!
//! ```
//! # use rtcbot_websocket::{Message, Websocket, json};
//! # let (ws, robot) = Websocket::pair();
//! use rtcbot_websocket::{Queue, pubsub::Producer};
//!
//! let (mut orders, producer) = Producer::<Message>::new();
//! ws.put_subscription(producer.subscribe_with(Queue::Latest));
//! // Fifty times a second: it takes the place of one that has not been sent yet.
//! orders.put(json!({"speed": 0.5}).into());
//! # assert_eq!(robot.get()?, json!({"speed": 0.5}));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A peer that has vanished without a word is noticed by pings, by default after 40 seconds at the latest, as
//! long as messages are taken: see [`Options::ping_interval`] and [`Options::ping_timeout`].
//! [`ping`](Websocket::ping) sends one when you want to know, and [`latency`](Websocket::latency) tells how far
//! away the peer is.
//!
//! # Serving
//!
//! A [`Server`] is an iterator of [`Request`]s, which waits for all clients at once and needs no thread;
//! [`serve`](Server::serve) gives each request a thread. A request is accepted as a WebSocket, or
//! answered with a page, a 401 or whatever it deserves. From any other thread, a [`ServerHandle`]
//! reaches all connections and shuts the server down.
//!
//! ```
//! use rtcbot_websocket::{Server, Websocket, json};
//! use std::time::Duration;
//!
//! let server = Server::bind("127.0.0.1:0")?.max_connections(100);
//! let (url, handle) = (server.url().to_owned(), server.handle());
//! let serving = std::thread::spawn(move || {
//!     server.serve(|request| {
//!         let ws = Websocket::accept(request);
//!         while let Ok(order) = ws.get() {
//!             println!("{order}");
//!         }
//!     });
//! });
//!
//! let ws = Websocket::connect(url)?;
//! ws.wait_ready()?;
//! handle.broadcast(json!({"battery": 0.8})); // serialised once; waits for nobody
//! assert_eq!(ws.get()?, json!({"battery": 0.8}));
//!
//! handle.shutdown(Duration::from_secs(5))?; // all get code 1001 and what is queued for them
//! serving.join().unwrap();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Browsers let any page connect to any WebSocket, so by default only pages that came from this very
//! server may: see [`Options::allow_origin`].
//!
//! # TLS, Unix sockets, proxies, streams of your own
//!
//! * `wss://` URLs are connected to with TLS, and [`Server::bind_tls`] serves them; `Options` has
//!   [what to trust](Options::root_certificate_pem) beyond the system's certificates.
//! * `ws+unix:/path` URLs lead to a Unix socket, and [`Server::bind_unix`] serves one.
//! * [`Options::proxy`] connects through an HTTP or SOCKS5 proxy.
//! * [`Options::connect_over`] and [`Request::from_parts`] take a stream that is there already: anything
//!   that is a [`Transport`].
//!
//! # Features
//!
//! | feature | default | |
//! | --- | --- | --- |
//! | `native-tls` | yes | TLS by the system's own library. On Linux that is OpenSSL, whose headers have to be there to compile: `apt install libssl-dev pkg-config`, or the feature `vendored`. |
//! | `vendored` | no | Compiles OpenSSL along, instead; takes a C compiler, make, perl, and some minutes. |
//!
//! Without `native-tls` everything else works, and a `wss` URL is refused with an error that says so.
//!
//! # Which thread does what
//!
//! | thread | there is one | does | runs your code |
//! | --- | --- | --- | --- |
//! | `ws-read` | per connection | connects, reads, decodes, delivers messages | functions that [`Options`] were given, a [`Transport`] of your own |
//! | `ws-write` | per connection | sends what is queued, pongs, the Close frame | a [`Transport`] of your own |
//! | `ws-dispatch` | per connection with callbacks, or with a [`Sink`] of your own | calls them, one after the other | callbacks, that [`Sink`] |
//! | `ws-worker` | up to `workers` per `subscribe_concurrent` | calls it | that callback |
//! | `ws-serve` | per request, with [`Server::serve`] | calls the handler | your handler |
//! | `ws-linger`, `ws-forward`, `ws-resolve`, `ws-respond` | now and then | enforce the time of a close that nobody can wait for; hand over what came before a channel or a `Websocket` subscribed that was full then; look up a name; send a page to a client that is slow to take it | |
//!
//! Any method may be called in any callback; the connection's other callbacks wait meanwhile. When a thread puts a small message into an idle
//! connection, it writes it to the socket itself, as far as that does not block, which saves waking
//! the writer. Returning from `main` ends the process, whatever is connected.
//!
//! # Logging
//!
//! Through the crate `log`: what is lost and when it is tried again at `info`, opening and closing
//! at `debug`, full subscriptions, dropped messages and a server that is full at `warn`.
//! tungstenite logs too; keep its target, `tungstenite`, below `trace`, which has every message in
//! it, and every header of the handshake.
//!
//! # Testing
//!
//! [`Websocket::pair`] makes two connected sockets in memory: a control loop can be tested without a
//! network.
//!
//! # Your own parts
//!
//! [`pubsub::Producer`] and [`pubsub::Consumer`] are what a `Websocket` is made of. A sensor or a
//! motor made of them plugs into it: see [`pubsub`].

#![forbid(unsafe_code)]
// Links to what is only there with TLS.
#![cfg_attr(not(feature = "native-tls"), allow(rustdoc::broken_intra_doc_links))]

#[cfg(not(unix))]
compile_error!("rtcbot-websocket runs on Unix (Linux, macOS, the BSDs)");

mod capacity;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod logging;
mod message;
mod net;
mod os_limits;
mod panics;
mod process;
pub mod pubsub;
mod server;
mod thread;
mod websocket;

pub use bytes::Bytes;
pub use crossbeam_channel;
pub use http;
#[cfg(feature = "native-tls")]
pub use native_tls;
pub use serde_json::{Value, json};
pub use tungstenite::Utf8Bytes;

pub use error::{Close, CloseFrame, Error, PutError, Result, Side};
pub use message::{Json, Message};
pub use net::basic_auth::BasicAuth;
pub use net::request::Request;
pub use net::transport::{self, Transport};
pub use pubsub::{Queue, Sink, Source, Subscription, SubscriptionId};
pub use server::{Server, ServerHandle};
pub use websocket::{Backoff, Latency, Options, Stats, WeakWebsocket, Websocket};

/// The README's samples, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// As above.
#[cfg(doctest)]
#[doc = include_str!("../docs/scaling.md")]
struct Scaling;

/// As above.
#[cfg(doctest)]
#[doc = include_str!("../docs/embedding.md")]
struct Embedding;
