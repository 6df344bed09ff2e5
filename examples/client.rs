//! A WebSocket at the terminal: lines of standard input are sent, messages that come are printed.
//!
//! Run it with `cargo run --example client URL [OPTION]...`. The URL is `ws://HOST/PATH`, `wss://…`, or
//! `ws+unix:/SOCKET:/PATH`. A line that is JSON is sent as that value and any other as a string.
//!
//! ```text
//! --text               every line is sent as the text that it is
//! --ca FILE            trust the root certificates in this PEM file, too
//! --header 'K: V'      a header for the request; may be repeated
//! --origin ORIGIN      what a browser would say of its page: https://robot.example
//! --subprotocol NAME   offer a subprotocol; may be repeated, most wanted first
//! --user NAME:PASSWORD Basic authentication
//! ```
//!
//! At the end of the input, what was sent is delivered, what the server still has to say is printed,
//! and the connection is closed. If it ends for any other reason, that is said on standard error and
//! the exit status is 1.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;
use std::{env, thread};

use rtcbot_websocket::{Error, Message, Options, Queue, Side, Subscription, Value, Websocket};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const USAGE: &str = "usage: client URL [--text] [--ca FILE] [--header 'K: V']... [--origin ORIGIN] \
                     [--subprotocol NAME]... [--user NAME:PASSWORD]";

fn main() -> ExitCode {
    let done = parse(env::args().skip(1))
        .and_then(|(url, as_text, mut options)| talk(&url, as_text, &mut options));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("client: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The URL, whether lines are text, and all other settings.
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
            "--ca" => trust(&mut options, &value()?)?,
            "--origin" => _ = options.origin(value()?),
            "--subprotocol" => _ = options.subprotocol(value()?),
            "--header" => {
                let header = value()?;
                let parts = header.split_once(':');
                let (name, value) = parts.ok_or("--header needs a name, a colon and a value")?;
                options.header(name.trim(), value.trim());
            }
            "--user" => {
                let value = value()?;
                let parts = value.split_once(':');
                let (user, password) =
                    parts.ok_or("--user needs a name, a colon and a password")?;
                options.basic_auth(user, password);
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

#[cfg(feature = "native-tls")]
fn trust(options: &mut Options, file: &str) -> Result<()> {
    let pem = std::fs::read(file).map_err(|error| format!("--ca {file}: {error}"))?;
    options.root_certificate_pem(pem);
    Ok(())
}

#[cfg(not(feature = "native-tls"))]
fn trust(_: &mut Options, _: &str) -> Result<()> {
    Err("--ca: this was built without the feature native-tls".into())
}

fn talk(url: &str, as_text: bool, options: &mut Options) -> Result<()> {
    let ws = options
        .json(!as_text)
        // Until it is known where messages go: only so many are kept that come before that.
        .paused(true)
        // Little is left to send at the end of a long input, and a slow network has time for it.
        .send_queue(1 << 20)
        .close_timeout(Duration::from_secs(20))
        .connect(url)?;
    // Without a limit: while a connection is closing, messages that find a queue full are dropped,
    // and none is to be missing however slow the terminal is.
    let messages = ws.subscribe_with(Queue::Unbounded);
    ws.resume();

    // Reading from a terminal cannot be interrupted. It has a thread of its own, so that the end of
    // the connection is the end of the program even while that thread waits for a line.
    let input = thread::spawn(move || {
        let sent = send_lines(&ws, as_text);
        // Sends what is queued; the server answers after all that it has sent before.
        ws.close()?;
        sent
    });

    let reason = print_all(&messages)?;
    if !matches!(&reason, Error::Closed(close) if close.by == Side::Local) {
        return Err(reason.into());
    }
    // It was closed by that thread, which knows whether all of the input was sent.
    input.join().map_err(|_| "reading the input panicked")?
}

fn send_lines(ws: &Websocket, as_text: bool) -> Result<()> {
    // To close a connection that is not there yet is to give it up, and the input may be empty.
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
        // Waits while the queue is full, so a long input is read only as fast as it is sent.
        ws.put(message)?;
    }
    Ok(())
}

/// Prints messages until there are no more, and returns why.
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
