//! A WebSocket at the terminal: lines of standard input are sent, messages that come are printed.
//!
//! Run it with `cargo run --example client URL [--text]`. A line that is JSON is sent as that value and
//! any other as a string; with `--text`, every line is sent as the text that it is.
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

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (url, as_text) = match arguments[..] {
        [url, "--text"] | ["--text", url] if !url.starts_with('-') => (url, true),
        [url] if !url.starts_with('-') => (url, false),
        _ => {
            eprintln!("usage: client URL [--text]");
            return ExitCode::FAILURE;
        }
    };
    match talk(url, as_text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("client: {error}");
            ExitCode::FAILURE
        }
    }
}

fn talk(url: &str, as_text: bool) -> Result<()> {
    let ws = Options::new()
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
