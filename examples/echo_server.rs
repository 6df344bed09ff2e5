//! Sends every message back as it came, text and binary, to any number of clients at once.
//!
//! Run it with `cargo run --example echo_server [ADDRESS]`. It listens on `127.0.0.1:9001` unless told
//! otherwise, says so on standard output, and runs until it is killed. For each connection it writes
//! one line to standard error when it is over: where it came from and how it ended.

use std::env;
use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use rtcbot_websocket::{Options, Request, Server};

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let address = arguments
        .next()
        .unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    if address.starts_with('-') || arguments.next().is_some() {
        eprintln!("usage: echo_server [ADDRESS]");
        return ExitCode::FAILURE;
    }
    match serve(&address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo_server: {address}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(address: &str) -> Result<(), Box<dyn Error>> {
    let server = Server::bind(address)?;
    // With port 0, this is the port that the system has chosen.
    println!("listening on ws://{}", server.local_addr());
    io::stdout().flush()?;

    for request in server {
        if request.is_websocket() {
            echo(request);
        } else {
            // Fails when the client is gone already, which is no concern of the others.
            let _ = request.respond(400, "there is only a WebSocket here\n");
        }
    }
    Ok(())
}

/// Returns at once; the connection's own threads do the work.
fn echo(request: Request) {
    let (peer, came) = (request.peer_addr(), Instant::now());
    // Text is to stay text, even where it happens to be JSON. Paused, so that a client in a hurry
    // does not send more than is kept until the connection has been told where to.
    let ws = Options::new().json(false).paused(true).accept(request);

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
