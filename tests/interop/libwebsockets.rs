//! The test server of libwebsockets, which has protocols of its own.

use rtcbot_websocket::{CloseFrame, Error, Message, Options, Side, Websocket};

use super::Result;
use super::client::{DEADLINE, expect, shown};

pub(super) fn run(scenario: &str, url: &str, options: Options) -> Result<()> {
    match scenario {
        "lws-increment" => increment(&connect(url, options, "dumb-increment-protocol")?),
        "lws-mirror" => {
            let url = format!("{url}/?mirror=interop");
            mirror(
                &connect(&url, options.clone(), "lws-mirror-protocol")?,
                &connect(&url, options, "lws-mirror-protocol")?,
            )
        }
        "lws-status" => status(&connect(url, options.json(true), "lws-status")?),
        "lws-unknown" => unknown(url, options),
        _ => Err(format!("there is no scenario {scenario}").into()),
    }
}

fn connect(url: &str, options: Options, protocol: &str) -> Result<Websocket> {
    let ws = options.subprotocol(protocol).connect(url)?;
    ws.wait_ready()?;
    match ws.subprotocol() {
        Some(chosen) if chosen == protocol => Ok(ws),
        other => Err(format!("the server chose {other:?}").into()),
    }
}

/// The server sends a number every 50 ms, the next one each time. It starts again after "reset",
/// and closes after "closeme".
fn increment(ws: &Websocket) -> Result<()> {
    let first = number(ws)?;
    for next in first + 1..first + 5 {
        let received = number(ws)?;
        if received != next {
            return Err(format!("{received} follows {}", next - 1).into());
        }
    }
    // The server's buffer for this protocol has 10 bytes, and a longer payload comes back cut off.
    ws.ping("a robot")?
        .recv_timeout(DEADLINE)
        .map_err(|_| "no pong")?;
    ws.put("reset\n")?;
    // It takes about five messages to get beyond the number that was the last before.
    while number(ws)? != 0 {}
    expect(ws, "1")?;
    ws.put("closeme\n")?;
    loop {
        match ws.get_timeout(DEADLINE) {
            Ok(_) => {}
            Err(Error::Closed(end)) if end.by == Side::Peer => break,
            Err(other) => return Err(other.into()),
        }
    }
    received_close(ws, 1001, "seeya")
}

fn number(ws: &Websocket) -> Result<u32> {
    match ws.get_timeout(DEADLINE)? {
        Message::Text(text) => Ok(text.parse()?),
        other => Err(format!("expected a number, received {}", shown(&other)).into()),
    }
}

fn received_close(ws: &Websocket, code: u16, reason: &str) -> Result<()> {
    let frame = ws.received_close();
    let expected = CloseFrame {
        code,
        reason: reason.to_owned(),
    };
    match frame == Some(expected) {
        true => Ok(()),
        false => Err(format!("received {frame:?}").into()),
    }
}

/// Each text comes back to both connections, in its order. The server's buffer has 4096 bytes.
fn mirror(one: &Websocket, other: &Websocket) -> Result<()> {
    for size in [0, 1, 125, 126, 4000] {
        let text: String = ('a'..='z').cycle().take(size).collect();
        one.put(text.as_str())?;
        expect(one, &text)?;
        expect(other, &text)?;
    }
    for n in 0..20 {
        one.put(format!("{n}"))?;
    }
    for n in 0..20 {
        expect(other, &n.to_string())?;
        expect(one, &n.to_string())?;
    }
    one.close_with(4002, "done ✓")?;
    received_close(one, 4002, "done ✓")?;
    Ok(other.close()?)
}

/// The server sends a JSON object about itself.
fn status(ws: &Websocket) -> Result<()> {
    let message = ws.get_timeout(DEADLINE)?;
    match message.as_json() {
        Some(status) if status["version"].is_string() => Ok(ws.close()?),
        _ => Err(format!("received {}", shown(&message)).into()),
    }
}

/// The server hangs up without a response.
fn unknown(url: &str, options: Options) -> Result<()> {
    let ws = options.subprotocol("unknown").connect(url)?;
    match ws.wait_ready() {
        Err(Error::Lost(_)) => Ok(()),
        other => Err(format!("an unknown protocol: {other:?}").into()),
    }
}
