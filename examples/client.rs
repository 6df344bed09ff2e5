//! A WebSocket client for the terminal. Sends lines of standard input and prints received messages.
//!
//! Run it with `cargo run --example client URL [OPTION]...`. The URL is `ws://HOST/PATH`,
//! `wss://…`, or `ws+unix:/SOCKET:/PATH`. A line that is JSON is sent as that value, and any other
//! line as a string.
//!
//! ```text
//! --text               send every line as text, even if it is JSON
//! --deflate            compress messages, if the server does
//! --ca FILE            also trust the root certificates in this PEM file
//! --header 'K: V'      add a header to the request; may be repeated
//! --origin ORIGIN      send the origin of a page, as a browser does: https://robot.example
//! --subprotocol NAME   offer a subprotocol; may be repeated, in order of preference
//! --user NAME:PASSWORD Basic authentication
//! ```
//!
//! At the end of the input, the client sends the remaining messages, closes the connection, and
//! prints the messages that still arrive. If the connection ends for another reason, the client
//! prints the reason to standard error and exits with status 1.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;
use std::{env, thread};

use rtcbot_websocket::{Error, Message, Options, Queue, Side, Subscription, Value, Websocket};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const USAGE: &str = "usage: client URL [--text] [--deflate] [--ca FILE] [--header 'K: V']... \
                     [--origin ORIGIN] [--subprotocol NAME]... [--user NAME:PASSWORD]";

fn main() -> ExitCode {
    let done =
        parse(env::args().skip(1)).and_then(|(url, as_text, options)| run(&url, as_text, options));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("client: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns the URL, whether lines are sent as text, and all other settings.
fn parse(mut arguments: impl Iterator<Item = String>) -> Result<(String, bool, Options)> {
    let mut url = None;
    let mut as_text = false;
    let mut options = Options::new();
    while let Some(argument) = arguments.next() {
        let mut value = || {
            let value = arguments.next();
            value.ok_or_else(|| format!("{argument} needs a value\n{USAGE}"))
        };
        match argument.as_str() {
            "--text" => as_text = true,
            "--deflate" => options = compress(options)?,
            "--ca" => options = trust(options, &value()?)?,
            "--origin" => options = options.header("Origin", value()?),
            "--subprotocol" => options = options.subprotocol(value()?),
            "--header" => {
                let header = value()?;
                let parts = header.split_once(':');
                let (name, value) = parts.ok_or("--header needs a name, a colon and a value")?;
                options = options.header(name.trim(), value.trim());
            }
            "--user" => {
                let value = value()?;
                let parts = value.split_once(':');
                let (user, password) =
                    parts.ok_or("--user needs a name, a colon and a password")?;
                options = options.basic_auth(user, password);
            }
            option if option.starts_with('-') => {
                return Err(format!("there is no option {option}\n{USAGE}").into());
            }
            _ if url.is_some() => return Err(USAGE.into()),
            _ => url = Some(argument),
        }
    }
    Ok((url.ok_or(USAGE)?, as_text, options))
}

#[cfg(feature = "deflate")]
fn compress(options: Options) -> Result<Options> {
    Ok(options.deflate(rtcbot_websocket::Deflate::new()))
}

#[cfg(not(feature = "deflate"))]
fn compress(_: Options) -> Result<Options> {
    Err("--deflate: this program was built without the feature deflate".into())
}

#[cfg(feature = "native-tls")]
fn trust(options: Options, file: &str) -> Result<Options> {
    let pem = std::fs::read(file).map_err(|error| format!("--ca {file}: {error}"))?;
    Ok(options.root_certificate_pem(pem))
}

#[cfg(not(feature = "native-tls"))]
fn trust(_: Options, _: &str) -> Result<Options> {
    Err("--ca: this program was built without the feature native-tls".into())
}

fn run(url: &str, as_text: bool, options: Options) -> Result<()> {
    let ws = options
        .json(!as_text)
        // Reading starts after the subscription, because only some messages are kept before one.
        .paused(true)
        // A short queue and a long timeout, so that even a slow network can send the end of a long
        // input.
        .send_queue(1 << 20)
        .close_timeout(Duration::from_secs(20))
        .connect(url)?;
    // The queue has no limit. While a connection is closing, messages that do not fit into a queue
    // are dropped, and none must be lost, however slow the terminal is.
    let messages = ws.subscribe_with(Queue::Unbounded);
    ws.resume();

    // Reading from a terminal cannot be interrupted. A separate thread reads, so that the program
    // ends with the connection even while that thread waits for a line.
    let input = thread::spawn(move || {
        let sent = send_lines(&ws, as_text);
        // Sends the queued messages. The server's reply follows all of its messages.
        ws.close()?;
        sent
    });

    let reason = print_all(&messages)?;
    if !matches!(&reason, Error::Closed(close) if close.by == Side::Local) {
        return Err(reason.into());
    }
    // That thread closed the connection, and knows whether the whole input was sent.
    input.join().map_err(|_| "reading the input panicked")?
}

fn send_lines(ws: &Websocket, as_text: bool) -> Result<()> {
    // The input may be empty, and closing before the connection is ready would cancel it.
    ws.wait_ready()?;
    if let Some(name) = ws.subprotocol() {
        eprintln!("client: the server chose the subprotocol {name}");
    }
    for line in io::stdin().lines() {
        let line = line.map_err(|error| format!("standard input: {error}"))?;
        let message = match line.parse::<Value>() {
            Ok(value) if !as_text => Message::from(value),
            _ => Message::from(line),
        };
        // Waits while the queue is full, so a long input is read as fast as it is sent.
        ws.put(message)?;
    }
    Ok(())
}

/// Prints messages until the connection ends. Returns the reason.
fn print_all(messages: &Subscription<Message>) -> Result<Error> {
    let mut output = io::stdout().lock();
    loop {
        match messages.get() {
            Ok(message) => writeln!(output, "{message}")
                .map_err(|error| format!("standard output: {error}"))?,
            Err(reason) => return Ok(reason),
        }
    }
}
