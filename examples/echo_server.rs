//! Sends every message back unchanged, text and binary, to any number of clients at once.
//!
//! Run it with `cargo run --example echo_server [ADDRESS] [--tls CERT KEY] [--deflate]`. The
//! address is a host and port (by default `127.0.0.1:9001`) or the path of a Unix socket. `CERT`
//! and `KEY` are PEM files: the certificate, followed by its intermediate certificates, and its key
//! (PKCS#8). `--deflate` compresses messages for clients that support it.
//!
//! The server prints its URL to standard output and runs until it is killed. When a connection
//! ends, it prints one line to standard error, with the client's address and the reason.

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use rtcbot_websocket::{Options, Request, Server};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (flags, arguments): (Vec<&str>, Vec<&str>) = arguments
        .iter()
        .map(String::as_str)
        .partition(|argument| *argument == "--deflate");
    let (address, tls) = match arguments[..] {
        [] => ("127.0.0.1:9001", None),
        [address] if !address.starts_with('-') => (address, None),
        ["--tls", cert, key] => ("127.0.0.1:9001", Some((cert, key))),
        [address, "--tls", cert, key] | ["--tls", cert, key, address] => {
            (address, Some((cert, key)))
        }
        _ => {
            eprintln!("usage: echo_server [HOST:PORT | /PATH] [--tls CERT KEY] [--deflate]");
            return ExitCode::FAILURE;
        }
    };
    let options = options(!flags.is_empty());
    match options.and_then(|options| serve(listen(address, tls)?, &options)) {
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
    Err("this program was built without the feature native-tls".into())
}

fn options(deflate: bool) -> Result<Options> {
    // Text stays text, even if it is JSON. Reading starts after `subscribe_to`, because only some
    // messages are kept before that.
    let options = Options::new()
        .json(false)
        .paused(true)
        // As much as clients of this crate accept. A server accepts less by default.
        .max_message_size(16 << 20)
        // This server has nothing to hide from pages of other sites.
        .allow_origin_if(|_| true);
    match deflate {
        true => with_deflate(options),
        false => Ok(options),
    }
}

#[cfg(feature = "deflate")]
fn with_deflate(options: Options) -> Result<Options> {
    Ok(options.deflate(rtcbot_websocket::Deflate::new()))
}

#[cfg(not(feature = "deflate"))]
fn with_deflate(_: Options) -> Result<Options> {
    Err("this program was built without the feature deflate".into())
}

fn serve(server: Server, options: &Options) -> Result<()> {
    // With port 0, the URL has the port that the system chose.
    println!("listening on {}", server.url());
    io::stdout().flush()?;

    for request in server {
        // A request that is not a valid WebSocket upgrade is rejected with an HTTP status (426,
        // 405, 400) and a text that gives the reason.
        echo(request, options);
    }
    Ok(())
}

/// Returns immediately. The connection's own threads do the work.
fn echo(request: Request, options: &Options) {
    let start = Instant::now();
    let peer = match request.peer_addr() {
        Some(address) => address.to_string(),
        None => "a local client".to_owned(),
    };
    let ws = options.accept(request);

    // The connection is its own sink: each message is queued for sending before the next one is
    // read. So every message before the client's Close frame is sent back before the reply to it.
    // If a client sends but does not read, the queue fills up, and the server stops reading.
    ws.subscribe_to(ws.clone());
    ws.resume();

    let ended = ws.clone();
    ws.on_close(move || {
        // No message is left, so this returns the reason for the end.
        if let Err(reason) = ended.get() {
            eprintln!("{peer}: {reason}, after {:.1?}", start.elapsed());
        }
    });
}
