//! A tiny server of NetworkTables 4, for robots of the FIRST competitions: JSON for what topics
//! there are, and MessagePack in binary messages for their values.

use rtcbot_websocket::{Message, Options, Request, Value, Websocket, json};

use super::client::shown;
use super::{Result, print};

const PROTOCOL: &str = "v4.1.networktables.first.wpi.edu";

/// The client publishes this topic, and subscribes to the other one.
const SPEED: &str = "/robot/speed";
const ORDER: &str = "/robot/order";

/// The server's numbers of these topics.
const SPEED_ID: i64 = 1;
const ORDER_ID: i64 = 2;

/// The number that stands for measuring the time.
const TIME_ID: i64 = -1;

/// The types of values.
const DOUBLE: i64 = 1;
const INTEGER: i64 = 2;
const STRING: i64 = 4;

pub(super) fn answer(request: Request, options: Options) -> Result<()> {
    let host = request.header("Host").map(str::to_owned);
    let ws = options.json(true).subprotocol(PROTOCOL).accept(request);
    ws.wait_ready()?;
    if ws.subprotocol().as_deref() != Some(PROTOCOL) {
        return Err("the client does not offer the protocol".into());
    }
    print(&format!(
        "a client of NetworkTables, with the Host {host:?}"
    ))?;
    let mut speed_uid = None;
    loop {
        match ws.get() {
            Ok(Message::Json(json)) => {
                for each in json.value().as_array().ok_or("a text is not an array")? {
                    announce(&ws, each, &mut speed_uid)?;
                }
            }
            Ok(Message::Binary(bytes)) => {
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    answer_value(&ws, Update::read(&mut rest)?, speed_uid)?;
                }
            }
            Ok(other) => return Err(format!("unexpected: {}", shown(&other)).into()),
            Err(end) => {
                let kind = match end.is_orderly() {
                    true => "orderly",
                    false => "not orderly",
                };
                return Ok(print(&format!("an end that is {kind}: {end}"))?);
            }
        }
    }
}

/// Answers a message about topics.
fn announce(ws: &Websocket, message: &Value, speed_uid: &mut Option<i64>) -> Result<()> {
    let params = &message["params"];
    let announced = match message["method"].as_str() {
        Some("publish") if params["name"] == SPEED && params["type"] == "double" => {
            *speed_uid = params["pubuid"].as_i64();
            json!({"name": SPEED, "id": SPEED_ID, "type": "double", "pubuid": speed_uid,
                "properties": {}})
        }
        Some("subscribe") if params["topics"] == json!([ORDER]) => {
            json!({"name": ORDER, "id": ORDER_ID, "type": "string", "properties": {}})
        }
        Some("unpublish" | "unsubscribe") => return Ok(()),
        _ => return Err(format!("unexpected: {message}").into()),
    };
    ws.put(json!([{"method": "announce", "params": announced}]))?;
    if announced["name"] == ORDER {
        order(ws, 0, "begin")?;
    }
    Ok(())
}

/// Answers the client's clock, and each speed with an order.
fn answer_value(ws: &Websocket, update: Update, speed_uid: Option<i64>) -> Result<()> {
    match update.value {
        Scalar::Integer(_) if update.id == TIME_ID => {
            let answer = Update {
                time: 1,
                kind: INTEGER,
                ..update
            };
            Ok(ws.put(answer.bytes())?)
        }
        Scalar::Double(speed) if Some(update.id) == speed_uid && update.kind == DOUBLE => {
            order(ws, update.time, &format!("after the speed {speed}"))
        }
        other => Err(format!("unexpected: {other:?} of {}", update.id).into()),
    }
}

fn order(ws: &Websocket, time: i64, order: &str) -> Result<()> {
    let update = Update {
        id: ORDER_ID,
        time,
        kind: STRING,
        value: Scalar::String(order.to_owned()),
    };
    Ok(ws.put(update.bytes())?)
}

/// One value of a topic.
#[derive(Debug)]
struct Update {
    id: i64,
    /// In microseconds.
    time: i64,
    kind: i64,
    value: Scalar,
}

/// The part of MessagePack that is needed here.
#[derive(Debug)]
enum Scalar {
    Integer(i64),
    Double(f64),
    String(String),
}

impl Update {
    fn read(rest: &mut &[u8]) -> Result<Update> {
        if take::<1>(rest)? != [0x94] {
            return Err("an update is not an array of four".into());
        }
        let mut integer = || -> Result<i64> {
            match Scalar::read(rest)? {
                Scalar::Integer(number) => Ok(number),
                other => Err(format!("{other:?} is not an integer").into()),
            }
        };
        Ok(Update {
            id: integer()?,
            time: integer()?,
            kind: integer()?,
            value: Scalar::read(rest)?,
        })
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0x94];
        for number in [self.id, self.time, self.kind] {
            Scalar::Integer(number).write(&mut bytes);
        }
        self.value.write(&mut bytes);
        bytes
    }
}

impl Scalar {
    fn read(rest: &mut &[u8]) -> Result<Scalar> {
        let [first] = take(rest)?;
        Ok(match first {
            0x00..=0x7f => Scalar::Integer(first.into()),
            0xe0..=0xff => Scalar::Integer((first as i8).into()),
            0xcc => Scalar::Integer(u8::from_be_bytes(take(rest)?).into()),
            0xcd => Scalar::Integer(u16::from_be_bytes(take(rest)?).into()),
            0xce => Scalar::Integer(u32::from_be_bytes(take(rest)?).into()),
            0xcf => Scalar::Integer(i64::try_from(u64::from_be_bytes(take(rest)?))?),
            0xd0 => Scalar::Integer(i8::from_be_bytes(take(rest)?).into()),
            0xd1 => Scalar::Integer(i16::from_be_bytes(take(rest)?).into()),
            0xd2 => Scalar::Integer(i32::from_be_bytes(take(rest)?).into()),
            0xd3 => Scalar::Integer(i64::from_be_bytes(take(rest)?)),
            0xca => Scalar::Double(f32::from_be_bytes(take(rest)?).into()),
            0xcb => Scalar::Double(f64::from_be_bytes(take(rest)?)),
            _ => return Err(format!("a value begins with {first:#x}").into()),
        })
    }

    /// A string has to be shorter than 256 bytes.
    fn write(&self, bytes: &mut Vec<u8>) {
        match self {
            Scalar::Integer(number) => {
                bytes.push(0xd3);
                bytes.extend(number.to_be_bytes());
            }
            Scalar::Double(number) => {
                bytes.push(0xcb);
                bytes.extend(number.to_be_bytes());
            }
            Scalar::String(text) => {
                bytes.extend([0xd9, text.len() as u8]);
                bytes.extend(text.bytes());
            }
        }
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N]> {
    let (taken, after) = rest
        .split_first_chunk()
        .ok_or("an update ends in the middle")?;
    *rest = after;
    Ok(*taken)
}
