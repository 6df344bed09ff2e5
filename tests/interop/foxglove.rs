//! A client of Foxglove's protocol, which shows the data of a robot: JSON for what channels there
//! are, and binary messages for their data.

use rtcbot_websocket::{Error, Message, Options, Value, Websocket, json};

use super::Result;
use super::client::{DEADLINE, shown};

const STATES: usize = 10;

/// The first byte of a binary message, in both directions: data of a channel.
const DATA: u8 = 1;

/// The numbers that the client gives to its subscriptions and to its channel.
const STATE: u32 = 70;
const ANSWERS: u32 = 71;
const ORDERS: u32 = 3;

/// Subscribes, sends orders, and receives their answers. Returns the open connection.
fn exchange(url: &str, options: Options) -> Result<Websocket> {
    let ws = options
        .json(true)
        .subprotocol("foxglove.sdk.v1")
        .connect(url)?;
    let info = operation(&ws, "serverInfo")?;
    if ws.subprotocol().as_deref() != Some("foxglove.sdk.v1") || info["name"] != "robot" {
        return Err(format!("the server is {info}, with {:?}", ws.subprotocol()).into());
    }
    let advertised = operation(&ws, "advertise")?;
    let channel = |topic: &str| {
        let channels = advertised["channels"].as_array()?;
        let channel = channels.iter().find(|channel| channel["topic"] == topic)?;
        (channel["encoding"] == "json").then(|| channel["id"].clone())
    };
    let (state, answers) = channel("/robot/state")
        .zip(channel("/robot/answers"))
        .ok_or_else(|| format!("these channels are advertised: {advertised}"))?;
    ws.put(json!({"op": "subscribe", "subscriptions": [
        {"id": STATE, "channelId": state},
        {"id": ANSWERS, "channelId": answers},
    ]}))?;
    ws.put(json!({"op": "advertise", "channels": [
        {"id": ORDERS, "topic": "/robot/orders", "encoding": "json", "schemaName": ""},
    ]}))?;
    order(&ws, json!("begin"))?;
    for n in 0..STATES {
        expect(&ws, STATE, &json!({"state": n}))?;
    }
    for n in 0..STATES {
        let content = json!({"motor": n});
        order(&ws, content.clone())?;
        expect(&ws, ANSWERS, &json!({"answer to": content.to_string()}))?;
    }
    Ok(ws)
}

/// The client closes.
pub(super) fn close(url: &str, options: Options) -> Result<()> {
    Ok(exchange(url, options)?.close()?)
}

/// The server stops.
pub(super) fn stop(url: &str, options: Options) -> Result<()> {
    let ws = exchange(url, options)?;
    order(&ws, json!("stop"))?;
    match ws.get_timeout(DEADLINE) {
        Err(end) if end.is_orderly() => Ok(()),
        other => Err(format!("after the server's stop: {other:?}").into()),
    }
}

/// The server's program ends without stopping the server.
pub(super) fn exit(url: &str, options: Options) -> Result<()> {
    let ws = exchange(url, options)?;
    order(&ws, json!("exit"))?;
    match ws.get_timeout(DEADLINE) {
        Err(Error::Lost(_)) => Ok(()),
        other => Err(format!("after the program's end: {other:?}").into()),
    }
}

/// Takes the next message, which is JSON with this operation.
fn operation(ws: &Websocket, name: &str) -> Result<Value> {
    let message = ws.get_timeout(DEADLINE)?;
    match message.as_json() {
        Some(operation) if operation["op"] == name => Ok(operation.clone()),
        _ => Err(format!("expected {name}, received {}", shown(&message)).into()),
    }
}

fn order(ws: &Websocket, content: Value) -> Result<()> {
    let mut message = vec![DATA];
    message.extend(ORDERS.to_le_bytes());
    message.extend(content.to_string().bytes());
    Ok(ws.put(message)?)
}

/// Takes the next message, which is data of this subscription.
fn expect(ws: &Websocket, subscription: u32, content: &Value) -> Result<()> {
    let message = ws.get_timeout(DEADLINE)?;
    // After the kind and the subscription comes the time.
    let data = match &message {
        Message::Binary(bytes) => match bytes.split_first_chunk::<13>() {
            Some((head, data))
                if head[..5] == [&[DATA], &subscription.to_le_bytes()[..]].concat() =>
            {
                Message::from(data).decode::<Value>().ok()
            }
            _ => None,
        },
        _ => None,
    };
    match data.as_ref() == Some(content) {
        true => Ok(()),
        false => Err(format!("expected {content}, received {message:?}").into()),
    }
}
