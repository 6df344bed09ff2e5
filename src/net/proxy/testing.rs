//! Scripted proxies for the tests of this module.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use url::Host;

use super::Proxy;
use crate::error::Error;
use crate::net::handshake::Failure;

pub(super) const TIMEOUT: Duration = Duration::from_secs(20);

/// Returns the two ends of a loopback connection with timeouts.
pub(super) fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TIMEOUT)).unwrap();
        stream.set_nodelay(true).unwrap();
    }
    (client, server)
}

pub(super) fn host(text: &str) -> Host<String> {
    Host::parse(text).unwrap()
}

/// The result of asking a proxy, and the ends of the connection.
pub(super) struct Asked {
    pub(super) result: Result<(), Failure>,
    pub(super) client: TcpStream,
    pub(super) server: Option<TcpStream>,
}

/// Asks a proxy for `target:443`. `play` is the proxy; it returns `None` to disconnect.
pub(super) fn ask_within(
    time: Duration,
    proxy: &str,
    target: &str,
    play: impl FnOnce(TcpStream) -> Option<TcpStream> + Send + 'static,
) -> Asked {
    let (client, server) = connection();
    let playing = thread::spawn(move || play(server));
    let deadline = Instant::now() + time;
    let proxy = Proxy::parse(proxy).unwrap();
    let socket = client.try_clone().unwrap().into();
    let result = proxy.tunnel(&socket, &host(target), 443, deadline);
    if result.is_err() {
        // So that a proxy that is still playing fails.
        client.shutdown(std::net::Shutdown::Both).ok();
    }
    Asked {
        result,
        client,
        server: playing.join().unwrap(),
    }
}

pub(super) fn ask(
    proxy: &str,
    target: &str,
    play: impl FnOnce(TcpStream) -> Option<TcpStream> + Send + 'static,
) -> Asked {
    ask_within(TIMEOUT, proxy, target, play)
}

impl Asked {
    /// Asserts that the tunnel works in both directions.
    pub(super) fn leads_to_target(mut self, already_said: &[u8]) {
        assert!(self.result.is_ok(), "{}", self.reason());
        let mut server = self.server.take().unwrap();
        server.write_all(b"pong").unwrap();
        drop(server);
        let mut read = Vec::new();
        self.client.read_to_end(&mut read).unwrap();
        assert_eq!(read, [already_said, b"pong"].concat());
    }

    /// Returns why the proxy did not connect.
    pub(super) fn reason(self) -> String {
        match self.result {
            Err(Failure::Failed(Error::Proxy { proxy, reason, .. })) => {
                assert!(proxy.ends_with("://proxy:7"), "{proxy}");
                assert!(!reason.contains("secret"), "{reason}");
                reason
            }
            Err(Failure::Failed(error)) => panic!("{error}"),
            Err(Failure::TimedOut(stage)) => panic!("still waiting for {stage}"),
            Ok(()) => panic!("there is a tunnel"),
        }
    }
}

/// The bytes that the proxy expects and the bytes that it answers, turn by turn.
pub(super) type Script = Vec<(Vec<u8>, Vec<u8>)>;

pub(super) fn script(turns: &[(&[u8], &[u8])]) -> Script {
    let turns = turns.iter();
    turns.map(|(a, b)| (a.to_vec(), b.to_vec())).collect()
}

/// Plays the script and keeps the connection open.
pub(super) fn play(script: Script) -> impl FnOnce(TcpStream) -> Option<TcpStream> + Send + 'static {
    move |mut stream| {
        for (expected, answer) in script {
            let mut read = vec![0; expected.len()];
            stream.read_exact(&mut read).unwrap();
            let text = String::from_utf8_lossy(&read).into_owned();
            assert_eq!(read, expected, "{text:?}");
            stream.write_all(&answer).unwrap();
        }
        Some(stream)
    }
}

pub(super) const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

pub(super) fn connect_request(target: &str, more: &str) -> Vec<u8> {
    format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{more}\r\n").into_bytes()
}

pub(super) const SOCKS_HELLO: &[u8] = &[5, 1, 0];
pub(super) const SOCKS_HELLO_WITH_LOGIN: &[u8] = &[5, 2, 0, 2];
pub(super) const SOCKS_LOGIN: &[u8] = b"\x01\x02me\x06secret";
pub(super) const SOCKS_REQUEST: &[u8] = b"\x05\x01\x00\x03\x0bexample.com\x01\xbb";
pub(super) const SOCKS_OK: &[u8] = &[5, 0, 0, 1, 10, 0, 0, 1, 0x12, 0x34];

/// Plays a proxy without a login that gives this reply to the request.
pub(super) fn socks_replying(reply: &[u8]) -> Script {
    script(&[(SOCKS_HELLO, &[5, 0]), (SOCKS_REQUEST, reply)])
}

pub(super) fn socks_with_login() -> Script {
    script(&[
        (SOCKS_HELLO_WITH_LOGIN, &[5, 2]),
        (SOCKS_LOGIN, &[1, 0]),
        (SOCKS_REQUEST, SOCKS_OK),
    ])
}

/// Returns one successful conversation of each kind.
pub(super) fn conversations() -> [(&'static str, Script); 3] {
    let connect = connect_request("example.com:443", "");
    let interim = [b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n", ESTABLISHED].concat();
    [
        ("http://proxy:7", vec![(connect, interim)]),
        ("socks5h://proxy:7", socks_replying(SOCKS_OK)),
        ("socks5h://me:secret@proxy:7", socks_with_login()),
    ]
}
