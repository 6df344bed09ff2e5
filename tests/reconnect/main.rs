//! A client that loses its connection makes another, and loses no more messages than it says.

mod attempts;
mod closing;
mod headers;
mod sending;
mod sending_back;
mod slow_consumers;
#[path = "../testkit/mod.rs"]
mod testkit;

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use crossbeam_channel::{Receiver, unbounded};
use rtcbot_websocket::{Backoff, Message, Options, Queue, Websocket};
use tungstenite::protocol::CloseFrame;

use testkit::{DEADLINE, eventually, on_loss, own_address, pump, read_head};

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

type Raw = tungstenite::WebSocket<TcpStream>;

/// Tries again almost immediately.
fn soon() -> Backoff {
    Backoff::new().initial(MS).max(20 * MS)
}

/// Tries again long after the test.
fn never() -> Backoff {
    Backoff::new().initial(HOUR).max(HOUR).jitter(0.0)
}

fn options(backoff: Backoff) -> Options {
    Options::new()
        .json(false)
        .reconnect(backoff)
        .close_timeout(DEADLINE)
}

/// A server that does what the test says, one connection after the other.
struct Host(TcpListener);

impl Host {
    fn new() -> Self {
        Host(TcpListener::bind((own_address(), 0)).unwrap())
    }

    fn url(&self) -> String {
        format!("ws://{}/", self.0.local_addr().unwrap())
    }

    fn stream(&self) -> TcpStream {
        self.0.set_nonblocking(true).unwrap();
        let mut accepted = None;
        eventually("another connection", || {
            accepted = self.0.accept().ok();
            accepted.is_some()
        });
        let (stream, _) = accepted.unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    fn accept(&self) -> Raw {
        tungstenite::accept(self.stream()).unwrap()
    }

    /// Sends this response to the next request, and ends the connection.
    fn answer(&self, response: &str) {
        use std::io::Write;
        let mut stream = self.stream();
        read_head(&mut stream);
        stream.write_all(response.as_bytes()).unwrap();
    }
}

fn text(raw: &mut Raw) -> String {
    loop {
        if let tungstenite::Message::Text(text) = raw.read().unwrap() {
            return text.to_string();
        }
    }
}

fn close(raw: &mut Raw, code: u16) {
    let reason = "".into();
    let code = code.into();
    raw.close(Some(CloseFrame { code, reason })).unwrap();
    // Until the client has answered, and ended the stream.
    pump(raw);
}

fn events(ws: &Websocket) -> Receiver<String> {
    let (tell, events) = unbounded();
    let told = tell.clone();
    ws.on_ready(move || told.send("ready".to_owned()).unwrap());
    let told = tell.clone();
    on_loss(ws, move |_| told.send("lost".to_owned()).unwrap());
    let told = tell.clone();
    ws.on_error(move |_| told.send("failed".to_owned()).unwrap());
    ws.on_close(move || tell.send("closed".to_owned()).unwrap());
    events
}

/// A message with a number, so long that few of them fill the buffers between two sockets.
fn numbered(n: u32) -> Message {
    let mut bytes = vec![0; 1024];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    bytes.into()
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}

/// A client whose slow consumer has taken none of the 10 messages that arrived before its
/// connection was lost.
fn behind(host: &Host, options: &Options) -> (Websocket, rtcbot_websocket::Subscription<Message>) {
    let ws = options.connect(host.url()).unwrap();
    let slow = ws.subscribe_with(Queue::Block(1));
    let mut raw = host.accept();
    // In one piece, which is read as one: between two messages, reading would wait for the
    // consumer.
    for n in 0..10 {
        raw.write(n.to_string().into()).unwrap();
    }
    raw.flush().unwrap();
    eventually("that reading pauses", || ws.stats().messages_in == 10);
    drop(raw);
    (ws, slow)
}
