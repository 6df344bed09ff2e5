//! The server's side of each scenario: the path of the request selects it.

use std::thread;
use std::time::{Duration, Instant};

use percent_encoding::percent_decode_str;
use rtcbot_websocket::{Message, Options, Request, Value, Websocket};

use super::client::{DEADLINE, FLOOD, FRAGMENT, parts, receive_flood, shown, start_reading};
use super::{Result, networktables, print, relay, ros};

/// Answers one request. The server has a thread for each.
pub(super) fn answer(request: Request, options: Options) {
    let path = request.path().to_owned();
    if let Err(error) = answer_path(&path, request, options.allow_origin_if(|_| true)) {
        eprintln!("{path}: {error}");
    }
}

fn answer_path(path: &str, request: Request, options: Options) -> Result<()> {
    match path.split('/').collect::<Vec<_>>()[..] {
        ["", "echo"] => echo(request, options),
        ["", "close", code, reason] => {
            let ws = options.accept(request);
            let reason = percent_decode_str(reason).decode_utf8()?;
            ws.wait_ready()?;
            Ok(ws.close_with(code.parse()?, &reason)?)
        }
        ["", "wait"] => wait(&options.accept(request)),
        ["", "abrupt"] => abrupt(&options.accept(request)),
        ["", "ping"] => ping(&options.accept(request)),
        ["", "headers"] => headers(request, options),
        ["", "subprotocol"] => {
            let ws = options.subprotocol("second").accept(request);
            ws.wait_ready()?;
            until_closed(&ws, ws.subprotocol().unwrap_or_default().into())
        }
        ["", "fragmented"] => {
            let ws = options.fragment_size(FRAGMENT).accept(request);
            let [text, bytes] = parts();
            ws.put(text)?;
            until_closed(&ws, bytes)
        }
        ["", "flood"] => flood(&options.paused(true).accept(request)),
        ["", "values"] => echo(request, options.json(true).fragment_size(FRAGMENT)),
        ["", "robot"] => relay::accept_robot(request, options),
        ["", "operator"] => relay::accept_operator(request, options),
        ["", "nt", _] => networktables::answer(request, options),
        ["", "ros"] => ros::answer(request, options),
        _ => Ok(request.respond(404, "there is no such path")?),
    }
}

/// Sends a message, and waits until the client closes.
fn until_closed(ws: &Websocket, message: Message) -> Result<()> {
    ws.put(message)?;
    match ws.get_timeout(DEADLINE) {
        Ok(message) => Err(format!("unexpected: {}", shown(&message)).into()),
        Err(error) if error.is_orderly() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn echo(request: Request, options: Options) -> Result<()> {
    let ws = options.paused(true).accept(request);
    ws.subscribe_to(ws.clone());
    ws.resume();
    Ok(())
}

fn wait(ws: &Websocket) -> Result<()> {
    // Nobody reads the messages, and there should be none.
    let ended = ws.wait_closed();
    match ws.received_close() {
        Some(frame) => print(&format!("closed {} {}", frame.code, frame.reason))?,
        None => print(&format!("closed 1006 {ended:?}"))?,
    }
    Ok(())
}

fn abrupt(ws: &Websocket) -> Result<()> {
    ws.put("last words")?;
    // What is still queued when the connection is aborted would not be sent.
    let deadline = Instant::now() + DEADLINE;
    while ws.stats().messages_out == 0 || ws.stats().send_queue > 0 {
        if Instant::now() > deadline {
            return Err("the last words are not sent".into());
        }
        thread::sleep(Duration::from_millis(1));
    }
    ws.abort();
    Ok(())
}

fn ping(ws: &Websocket) -> Result<()> {
    let pong = ws.ping("are you there")?;
    pong.recv_timeout(DEADLINE).map_err(|_| "no pong")?;
    until_closed(ws, "pong".into())
}

fn headers(request: Request, options: Options) -> Result<()> {
    let headers = request.head().headers().iter();
    let headers: Value = headers
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), Value::from(value))
        })
        .collect();
    until_closed(&options.accept(request), headers.into())
}

fn flood(ws: &Websocket) -> Result<()> {
    start_reading(ws);
    let sender = ws.clone();
    let sending = thread::spawn(move || (0..FLOOD).try_for_each(|n| sender.put(n.to_string())));
    if let Err(error) = receive_flood(ws) {
        // A reason has room for 123 bytes.
        let reason: String = error.to_string().chars().take(30).collect();
        ws.close_with(4000, &reason)?;
        return Err(error);
    }
    sending.join().map_err(|_| "the sender panicked")??;
    until_closed(ws, FLOOD.to_string().into())
}
