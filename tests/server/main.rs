//! A server and its clients.

mod broadcasts;
mod limits;
mod requests;
mod responses;
mod shutdown;
#[path = "../testkit/mod.rs"]
mod testkit;

use std::io::Read;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use rtcbot_websocket::{Error, Server, ServerHandle, Side, Websocket};
use testkit::{DEADLINE, end_reason, eventually};

fn server() -> Server {
    Server::bind((testkit::own_address(), 0)).unwrap()
}

fn stream_to(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn read_all(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Runs the server until `done`.
fn serve_until(server: &mut Server, mut done: impl FnMut() -> bool) {
    eventually("what the server is to do", || {
        assert!(server.next_timeout(Duration::from_millis(1)).is_err());
        done()
    });
}

fn is_going_away(ws: &Websocket) -> bool {
    match end_reason(ws) {
        Some(Error::Closed(close)) => {
            close.by == Side::Peer && close.frame.is_some_and(|frame| frame.code == 1001)
        }
        _ => false,
    }
}

/// A server that runs a handler, its handle, and the thread that serves.
fn serving(
    handler: impl Fn(rtcbot_websocket::Request) + Send + Sync + 'static,
) -> (String, ServerHandle, thread::JoinHandle<()>) {
    let server = server();
    let (url, handle) = (server.url().to_owned(), server.handle());
    (url, handle, thread::spawn(move || server.serve(handler)))
}
