//! A tiny rosbridge, for clients of ROS: the operations of its protocol that a robot's topics and
//! services need.

use std::collections::HashSet;

use rtcbot_websocket::{Options, Request, Value, Websocket, json};

use super::{Result, print};

/// Published to whoever subscribes to it.
const STATE: &str = "/robot/state";
/// Each message that a client publishes here is published on the other topic.
const ORDERS: &str = "/robot/orders";
const SEEN: &str = "/robot/orders/seen";
/// The service, which adds two numbers.
const ADD: &str = "/robot/add";

/// The number of messages on the topic `STATE`.
const STATES: usize = 10;

pub(super) fn answer(request: Request, options: Options) -> Result<()> {
    let ws = options.json(true).accept(request);
    match serve(&ws) {
        Err(error) if ws.error().is_none() => {
            ws.close_with(
                4000,
                &error.to_string().chars().take(100).collect::<String>(),
            )?;
            Err(error)
        }
        Ok(()) => Ok(print("the client of ROS has closed")?),
        done => done,
    }
}

/// Answers a client's operations until it closes.
fn serve(ws: &Websocket) -> Result<()> {
    let mut advertised = HashSet::new();
    let mut subscribed = HashSet::new();
    loop {
        let message = match ws.get() {
            Ok(message) => message,
            Err(end) if end.is_orderly() => return Ok(()),
            Err(end) => return Err(end.into()),
        };
        let operation = message.as_json().ok_or("a message is not JSON")?;
        let text = |name: &str| operation[name].as_str().unwrap_or_default();
        let topic = text("topic").to_owned();
        match text("op") {
            "advertise" if text("type") == "std_msgs/String" => {
                advertised.insert(topic);
            }
            "unadvertise" if advertised.remove(&topic) => {}
            "subscribe" => {
                if topic == STATE {
                    for n in 0..STATES {
                        publish(ws, STATE, json!({"data": format!("state {n}")}))?;
                    }
                }
                subscribed.insert(topic);
            }
            "unsubscribe" if subscribed.remove(&topic) => {}
            "publish" if topic == ORDERS && advertised.contains(ORDERS) => {
                if subscribed.contains(SEEN) {
                    publish(ws, SEEN, operation["msg"].clone())?;
                }
            }
            "call_service" if text("service") == ADD => {
                let number = |name: &str| operation["args"][name].as_i64().unwrap_or_default();
                ws.put(json!({
                    "op": "service_response",
                    "id": operation["id"],
                    "service": ADD,
                    "values": {"sum": number("a") + number("b")},
                    "result": true,
                }))?;
            }
            _ => return Err(format!("unexpected: {operation}").into()),
        }
    }
}

fn publish(ws: &Websocket, topic: &str, message: Value) -> Result<()> {
    Ok(ws.put(json!({"op": "publish", "topic": topic, "msg": message}))?)
}
