//! The client's side of each scenario.

use std::thread;
use std::time::Duration;

use rtcbot_websocket::{CloseFrame, Error, Message, Options, Value, Websocket, json};

use super::{Result, foxglove, libwebsockets, relay};

/// How long a client waits for one message. It is less than the driver's deadline, so that the
/// client can say what it waited for.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);

/// How long a client waits for a long message, or one of many.
const LONG_DEADLINE: Duration = Duration::from_secs(50);

/// The number of messages of the scenario `flood`, each way.
pub(super) const FLOOD: usize = 10_000;

/// The bytes in each frame of a message that is sent in several. Each character that is not ASCII
/// is divided between two.
pub(super) const FRAGMENT: usize = 4;

const MIB: usize = 1 << 20;

fn at(url: &str, path: &str) -> String {
    match url.starts_with("ws+unix:") {
        true => format!("{url}:{path}"),
        false => format!("{url}{path}"),
    }
}

pub(super) fn run(scenario: &str, url: &str, options: Options) -> Result<()> {
    let at = |path: &str| at(url, path);
    let echo = at("/echo");
    match scenario {
        "json" => json_texts(&echo, &options),
        "unicode" => all_come_back(&options.connect(echo)?, UNICODE.iter().copied()),
        "sizes" => all_come_back(&options.connect(echo)?, sizes()),
        // One frame. By default, the longer message has many.
        "binary-1MiB" => all_come_back(&options.fragment_size(0).connect(echo)?, [bytes(MIB)]),
        "binary-16MiB" => all_come_back(&options.connect(echo)?, [bytes(16 * MIB)]),
        "fragments" => all_come_back(&options.fragment_size(FRAGMENT).connect(echo)?, parts()),
        "fragmented" => fragmented(&options.connect(at("/fragmented"))?),
        "empty" => all_come_back(&options.connect(echo)?, [Message::from(""), vec![].into()]),
        "ping" => ping(&options.connect(echo)?),
        "pinged" => expect(&options.connect(at("/ping"))?, "pong"),
        "close-by-server" => close_by_server(&options.connect(at("/close/4001/bye%20%E2%9C%93"))?),
        "close-by-client" => close_by_client(&options.connect(at("/wait"))?),
        "abrupt" => abrupt(&options.connect(at("/abrupt"))?),
        "subprotocol" => subprotocol(&at("/subprotocol"), options),
        "headers" => headers(&options.header("X-Robot", "7").connect(at("/headers"))?),
        "flood" => flood(&options.paused(true).connect(at("/flood"))?),
        "foxglove-close" => foxglove::close(url, options),
        "foxglove-exit" => foxglove::exit(url, options),
        "foxglove-stop" => foxglove::stop(url, options),
        "values" => {
            let options = options.json(true).fragment_size(FRAGMENT);
            values(&options.connect(at("/values"))?)
        }
        "robot" => relay::robot_client(&options.json(true).connect(at("/robot"))?),
        "operator" => relay::operator_client(&options.json(true).connect(at("/operator"))?),
        _ if scenario.starts_with("lws-") => libwebsockets::run(scenario, url, options),
        _ => Err(format!("there is no scenario {scenario}").into()),
    }
}

/// Checks that both sides compress, with these parameters.
pub(super) fn is_compressed(url: &str, options: &Options, names: &str) -> Result<()> {
    // The compressed text is sent in several frames.
    let options = options.clone().fragment_size(16);
    let ws = options.connect(at(url, "/echo"))?;
    ws.wait_ready_timeout(DEADLINE)?;
    let response = ws.response().ok_or("there is no response")?;
    let extension = match response.headers().get("Sec-WebSocket-Extensions") {
        Some(value) => value.to_str()?,
        None => return Err("the server does not compress".into()),
    };
    let has = |parameter: &str| extension.split(';').any(|each| each.trim() == parameter);
    for name in names.split(',') {
        // What the client offers for its own messages, the server need not repeat.
        let required = match name {
            "no-context" => "server_no_context_takeover",
            "window-9" => "server_max_window_bits=9",
            _ => "permessage-deflate",
        };
        if !has(required) {
            return Err(format!("{required} is not in the response: {extension}").into());
        }
    }
    let text = "compress me ".repeat(1000);
    comes_back(&ws, text.as_str().into())?;
    let (sent, received) = (ws.stats().bytes_out, ws.stats().bytes_in);
    if sent > 1000 || received > 1000 {
        let size = text.len();
        return Err(format!("{size} bytes were {sent} when sent, {received} received").into());
    }
    Ok(ws.close()?)
}

/// Takes the next message, which has to be this text.
pub(super) fn expect(ws: &Websocket, text: &str) -> Result<()> {
    match ws.get_timeout(DEADLINE)? {
        Message::Text(received) if received == text => Ok(()),
        other => Err(format!("expected {text:?}, received {}", shown(&other)).into()),
    }
}

/// The beginning of a message.
pub(super) fn shown(message: &Message) -> String {
    message.to_string().chars().take(60).collect()
}

fn all_come_back<M: Into<Message>>(
    ws: &Websocket,
    messages: impl IntoIterator<Item = M>,
) -> Result<()> {
    for message in messages {
        comes_back(ws, message.into())?;
    }
    Ok(ws.close()?)
}

fn comes_back(ws: &Websocket, message: Message) -> Result<()> {
    ws.put_timeout(message.clone(), DEADLINE)?;
    let answer = ws.get_timeout(LONG_DEADLINE)?;
    // Text and binary are not equal, so this compares the kind as well.
    match answer == message {
        true => Ok(()),
        false => Err(format!(
            "sent {} bytes, {}; received {} bytes, {}",
            message.len(),
            shown(&message),
            answer.len(),
            shown(&answer)
        )
        .into()),
    }
}

const JSON: &[&str] = &[
    "{}",
    "1.0",
    "-0",
    "1e400",
    "0.1e-7",
    "18446744073709551616",
    "123456789012345678901234567890",
    "{\"a\":1,\"a\":2}",
    "{ \"b\" : 1.0,\t\"a\":[ ] }",
    " [1]\r\n",
    "\"\\ud800\"",
    "\"\\u0000\\/\\u00e9\"",
    "\"a\u{2028}b\"",
    "NaN",
    "{\"not\": JSON",
];

/// Texts come back to the byte. Values come back as equal values in JSON mode.
fn json_texts(url: &str, options: &Options) -> Result<()> {
    let nested = format!("{}{}", "[".repeat(100), "]".repeat(100));
    all_come_back(
        &options.connect(url)?,
        JSON.iter().copied().chain([nested.as_str()]),
    )?;
    values(&options.clone().json(true).connect(url)?)
}

/// Values come back equal, in JSON mode.
fn values(ws: &Websocket) -> Result<()> {
    for value in [
        json!("Hello"),
        json!({"foo": "bar"}),
        json!({"motor": 1, "speed": 0.5, "lights": [true, false, null]}),
        json!([-1, 0.1, 1.5e300, u64::MAX, "é\u{0}\"\\🚀", [[], {}]]),
        json!(null),
    ] {
        ws.put_nowait(value.clone())?;
        let answer = ws.get_timeout(DEADLINE)?;
        if answer.as_json() != Some(&value) {
            return Err(format!("sent {value}, received {answer}").into());
        }
    }
    Ok(ws.close()?)
}

const UNICODE: &[&str] = &[
    "¡hola! 你好 привет",
    "👩🏽\u{200d}🚀",
    "e\u{301}",
    "\u{0}",
    "\u{feff}after a byte order mark",
    "\u{202e}right to left",
    "\u{d7ff}\u{e000}\u{ffff}\u{10000}\u{10ffff}",
    "\r\n\t\u{7f}\u{85}",
];

fn sizes() -> Vec<Message> {
    let mut messages = Vec::new();
    for size in [0, 1, 125, 126, 65_535, 65_536] {
        let text: String = (b'a'..=b'z').map(char::from).cycle().take(size).collect();
        messages.push(text.into());
        messages.push(bytes(size).into());
    }
    messages
}

/// Bytes that differ from those 256 places before.
fn bytes(size: usize) -> Vec<u8> {
    (0..size).map(|n| (n ^ (n >> 8)) as u8).collect()
}

/// The messages that are sent in several frames.
pub(super) fn parts() -> [Message; 2] {
    let bytes: Vec<u8> = (0..=255).collect();
    ["in several frames: é 你 🚀".into(), bytes.into()]
}

fn fragmented(ws: &Websocket) -> Result<()> {
    for expected in parts() {
        let message = ws.get_timeout(DEADLINE)?;
        if message != expected {
            let (expected, received) = (shown(&expected), shown(&message));
            return Err(format!("expected {expected}, received {received}").into());
        }
    }
    Ok(ws.close()?)
}

fn ping(ws: &Websocket) -> Result<()> {
    for payload in ["", "are you there", &"x".repeat(125)] {
        let pong = ws.ping(payload.to_owned())?;
        pong.recv_timeout(DEADLINE)
            .map_err(|_| format!("no pong for a ping of {} bytes", payload.len()))?;
    }
    comes_back(ws, "after the pongs".into())?;
    Ok(ws.close()?)
}

fn close_by_server(ws: &Websocket) -> Result<()> {
    ws.wait_closed_timeout(DEADLINE).ok();
    let frame = ws.received_close();
    let expected = CloseFrame {
        code: 4001,
        reason: "bye ✓".to_owned(),
    };
    match frame == Some(expected) {
        true => Ok(()),
        false => Err(format!("received {frame:?}, and ended with {:?}", ws.error()).into()),
    }
}

fn close_by_client(ws: &Websocket) -> Result<()> {
    ws.wait_ready()?;
    Ok(ws.close_with(4002, "done ✓")?)
}

fn abrupt(ws: &Websocket) -> Result<()> {
    expect(ws, "last words")?;
    match ws.get_timeout(DEADLINE) {
        Err(Error::Lost(_)) => Ok(()),
        other => Err(format!("after the last words: {other:?}").into()),
    }
}

fn subprotocol(url: &str, options: Options) -> Result<()> {
    let offer = options.subprotocol("first").subprotocol("second");
    let ws = offer.connect(url)?;
    expect(&ws, "second")?;
    match ws.subprotocol().as_deref() {
        Some("second") => Ok(ws.close()?),
        other => Err(format!("the server's response chose {other:?}").into()),
    }
}

fn headers(ws: &Websocket) -> Result<()> {
    let message = ws.get_timeout(DEADLINE)?;
    let headers: Value = message.decode()?;
    match headers["x-robot"] == "7" {
        true => Ok(ws.close()?),
        false => Err(format!("the server received {message}").into()),
    }
}

fn flood(ws: &Websocket) -> Result<()> {
    start_reading(ws);
    let sender = ws.clone();
    let sending = thread::spawn(move || {
        (0..FLOOD).try_for_each(|n| sender.put_timeout(n.to_string(), LONG_DEADLINE))
    });
    receive_flood(ws)?;
    expect(ws, &FLOOD.to_string())?;
    sending.join().map_err(|_| "the sender panicked")??;
    Ok(ws.close()?)
}

/// Lets the messages of a paused connection come. `get` has a queue then; before its first call,
/// only the last 1024 messages are kept.
pub(super) fn start_reading(ws: &Websocket) {
    ws.try_get().ok();
    ws.resume();
}

/// Takes the numbered messages of a flood.
pub(super) fn receive_flood(ws: &Websocket) -> Result<()> {
    for n in 0..FLOOD {
        match ws.get_timeout(LONG_DEADLINE)? {
            Message::Text(text) if text == n.to_string() => {}
            other => return Err(format!("message {n} is {}", shown(&other)).into()),
        }
    }
    Ok(())
}
