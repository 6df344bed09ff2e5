//! A robot and its operator in one process: JSON in both directions, a subscription, a callback and
//! a source.
//!
//! Run it with `cargo run --example quickstart`; it prints the conversation and ends by itself.

use std::error::Error;
use std::thread;
use std::time::Duration;

use rtcbot_websocket::{Server, State, Websocket, crossbeam_channel, json};

fn main() -> Result<(), Box<dyn Error>> {
    // Port 0 is any free port.
    let mut server = Server::bind("127.0.0.1:0")?;
    let url = format!("{}/drive", server.url());

    // The robot waits for one operator.
    let robot = thread::spawn(move || robot(&mut server));

    // The operator connects. This returns immediately. Messages that are put before the connection
    // is ready are queued and sent later.
    let ws = Websocket::connect(&url)?;
    ws.on_ready(|| println!("operator: connected"));
    ws.put_nowait(json!({"hello": "robot"}))?;

    // A source: everything in this channel is sent, until another message is put.
    let (joystick, orders) = crossbeam_channel::unbounded();
    ws.put_subscription(orders)?;
    for speed in [0.2, 0.7, 1.0] {
        joystick.send(json!({"speed": speed}).into())?;
    }

    // `get` reads the default subscription.
    println!("operator: the robot says {}", ws.get()?);
    for _ in 0..3 {
        println!(
            "operator: the robot says {}",
            ws.get_timeout(Duration::from_secs(5))?
        );
    }

    // A direct put detaches the source. Then close, and wait for the robot to end.
    ws.put_nowait("that is all")?;
    ws.close()?;
    if let State::Closed { reason, .. } = ws.state() {
        println!("operator: {reason}");
    }

    robot.join().map_err(|_| "the robot panicked")??;
    Ok(())
}

fn robot(server: &mut Server) -> Result<(), rtcbot_websocket::Error> {
    let Some(request) = server.next() else {
        return Ok(());
    };
    println!("robot:    a client requests {}", request.path());
    let ws = Websocket::accept(request);

    // The connection calls the function on its own thread. The function may use the connection.
    let answers = ws.clone();
    ws.subscribe_callback(move |message| {
        println!("robot:    the operator says {message}");
        if let Some(order) = message.as_json().filter(|order| order.is_object()) {
            // This fails only when the connection is closing. Then no answer is needed.
            let _ = answers.put_nowait(json!({"done": order}));
        }
    });

    ws.wait_closed()?;
    println!("robot:    the operator has disconnected");
    Ok(())
}
