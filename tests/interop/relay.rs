//! The parts of RTCBot's tutorial "Connecting over 4G": a robot and its operator that reach each
//! other through a server, to which both have connected. Messages are JSON values.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rtcbot_websocket::{Options, Request, Value, Websocket, json};

use super::client::DEADLINE;
use super::{Result, print};

/// The robot that has connected to the server.
static ROBOT: Mutex<Option<Websocket>> = Mutex::new(None);
static ROBOT_CHANGED: Condvar = Condvar::new();

/// The number of orders after the first.
const ORDERS: usize = 100;

/// The server's part, for a request of the robot.
pub(super) fn accept_robot(request: Request, options: Options) -> Result<()> {
    let robot = options.json(true).accept(request);
    robot.wait_ready()?;
    *ROBOT.lock() = Some(robot.clone());
    ROBOT_CHANGED.notify_all();
    orderly(robot.wait_closed())
}

/// The server's part, for a request of the operator. It closes the robot's connection after the
/// operator's.
pub(super) fn accept_operator(request: Request, options: Options) -> Result<()> {
    let operator = options.json(true).paused(true).accept(request);
    let robot = robot().ok_or("there is no robot")?;
    robot.subscribe_to(operator.clone());
    operator.subscribe_to(robot.clone());
    operator.resume();
    let ended = operator.wait_closed();
    robot.close()?;
    orderly(ended)
}

fn robot() -> Option<Websocket> {
    let mut robot = ROBOT.lock();
    ROBOT_CHANGED.wait_while_for(&mut robot, |robot| robot.is_none(), DEADLINE);
    robot.take()
}

fn orderly(ended: rtcbot_websocket::Result<()>) -> Result<()> {
    match ended {
        Err(error) if !error.is_orderly() => Err(error.into()),
        _ => Ok(()),
    }
}

/// The robot's part: answers each message until the server closes.
pub(super) fn robot_client(ws: &Websocket) -> Result<()> {
    ws.wait_ready_timeout(DEADLINE)?;
    print("connected")?;
    let mut answered = 0;
    loop {
        match ws.get_timeout(DEADLINE) {
            Ok(message) => {
                let order = message.as_json().ok_or("an order is not JSON")?.clone();
                ws.put_nowait(json!({"type": "answer", "to": order}))?;
                answered += 1;
            }
            Err(end) if end.is_orderly() && answered == ORDERS + 1 => return Ok(()),
            Err(end) => return Err(format!("after {answered} orders: {end}").into()),
        }
    }
}

/// The operator's part: sends an offer as WebRTC has it, and then many orders.
pub(super) fn operator_client(ws: &Websocket) -> Result<()> {
    let offer = json!({"type": "offer", "sdp": "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=é 🤖\r\n"});
    ws.put_nowait(offer.clone())?;
    answer(ws, &offer)?;
    let order = |n: usize| json!({"order": n, "speed": n as f64 / 8.0, "stop": null});
    for n in 0..ORDERS {
        ws.put_nowait(order(n))?;
    }
    for n in 0..ORDERS {
        answer(ws, &order(n))?;
    }
    Ok(ws.close()?)
}

fn answer(ws: &Websocket, to: &Value) -> Result<()> {
    let message = ws.get_timeout(Duration::from_secs(15))?;
    match message.as_json() == Some(&json!({"type": "answer", "to": to})) {
        true => Ok(()),
        false => Err(format!("the answer to {to} is {message}").into()),
    }
}
