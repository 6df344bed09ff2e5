//! Sends every message back as it came, text and binary, to any number of clients at once.
//!
//! Run it with `cargo run --example echo_server [ADDRESS] [--tls CERT KEY]`. The address is a host and
//! port, `127.0.0.1:9001` unless told otherwise, or the path of a Unix socket. `CERT` and `KEY` are PEM
//! files: the certificate, with those that vouch for it behind it, and its key (PKCS#8).
//!
//! It says on standard output what it listens on, and runs until it is killed. For each connection it
//! writes one line to standard error when it is over: where it came from and how it ended.

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use rtcbot_websocket::{Options, Request, Server};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (address, tls) = match arguments[..] {
        [] => ("127.0.0.1:9001", None),
        [address] if !address.starts_with('-') => (address, None),
        ["--tls", cert, key] => ("127.0.0.1:9001", Some((cert, key))),
        [address, "--tls", cert, key] | ["--tls", cert, key, address] => {
            (address, Some((cert, key)))
        }
        _ => {
            eprintln!("usage: echo_server [HOST:PORT | /PATH] [--tls CERT KEY]");
            return ExitCode::FAILURE;
        }
    };
    match listen(address, tls).and_then(serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo_server: {address}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn listen(address: &str, tls: Option<(&str, &str)>) -> Result<Server> {
    let server = match address.contains('/') {
        true => Server::bind_unix(address)?,
        false => Server::bind(address)?,
    };
    match tls {
        None => Ok(server),
        Some((cert, key)) => with_tls(server, cert, key),
    }
}

#[cfg(feature = "native-tls")]
fn with_tls(server: Server, cert: &str, key: &str) -> Result<Server> {
    use rtcbot_websocket::native_tls::Identity;

    let read = |path: &str| std::fs::read(path).map_err(|error| format!("{path}: {error}"));
    let identity = Identity::from_pkcs8(&read(cert)?, &read(key)?)
        .map_err(|error| format!("{cert} and {key}: {error}"))?;
    Ok(server.tls(identity)?)
}

#[cfg(not(feature = "native-tls"))]
fn with_tls(_: Server, _: &str, _: &str) -> Result<Server> {
    Err("this was built without the feature native-tls".into())
}

fn serve(server: Server) -> Result<()> {
    // With port 0, this is the port that the system has chosen.
    println!("listening on {}", server.url());
    io::stdout().flush()?;

    for request in server {
        // Whatever it is: what asks for no WebSocket, or not properly, is told so in HTTP, with the
        // status for it (426, 405, 400) and a text that says why.
        echo(request);
    }
    Ok(())
}

/// Returns at once; the connection's own threads do the work.
fn echo(request: Request) {
    let came = Instant::now();
    let peer = match request.peer_addr() {
        Some(address) => address.to_string(),
        None => "a local client".to_owned(),
    };
    // Text is to stay text, even where it happens to be JSON. Paused, so that a client in a hurry
    // does not send more than is kept until the connection has been told where to.
    let ws = Options::new()
        .json(false)
        .paused(true)
        // There is nothing here that a page from elsewhere should not see.
        .allow_origin_if(|_| true)
        .accept(request);

    // The connection feeds itself: each message is queued for sending before the next one is read.
    // So all that came before the client's Close frame goes out before the answer to it, and a
    // client that sends but does not read is not read from any more once the queue is full.
    ws.subscribe_to(ws.clone());
    ws.resume();

    let ended = ws.clone();
    ws.on_close(move || {
        // Nothing is left to get: this is the reason.
        if let Err(reason) = ended.get() {
            eprintln!("{peer}: {reason}, after {:.1?}", came.elapsed());
        }
    });
}
