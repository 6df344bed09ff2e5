//! Drives a robot that comes and goes: reconnects, sends the newest order fifty times a second, and says
//! once a second how the connection is.
//!
//! Run it with `cargo run --example operator [URL] [SECONDS]`; with `echo_server` for a robot, for example. Stop
//! that and start it again meanwhile.
//!
//! A robot that moves has to stop when the orders stop, whatever the connection says:
//! `page_and_socket` has one that does.

use std::time::{Duration, Instant};

use rtcbot_websocket::crossbeam_channel::{select, tick};
use rtcbot_websocket::pubsub::Producer;
use rtcbot_websocket::{Backoff, Message, Options, Queue, json};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or("ws://127.0.0.1:9001".to_owned());
    let seconds = arguments.next().map_or(Ok(10), |seconds| seconds.parse())?;
    let end = Instant::now() + Duration::from_secs(seconds);

    let ws = Options::new()
        .reconnect(Backoff {
            max: Duration::from_secs(1),
            ..Backoff::default()
        })
        // A robot that vanishes is noticed after two seconds at the latest.
        .ping_interval(Duration::from_millis(500))
        .ping_timeout(Duration::from_millis(1500))
        .receive_queue(Queue::Latest)
        .connect(&url)?;
    ws.on_ready(|| println!("the robot is there"));
    let (socket, mut before) = (ws.downgrade(), 0);
    ws.on_disconnect(move |why| {
        let Some(ws) = socket.upgrade() else { return };
        let all = ws.stats().unconfirmed;
        println!("lost the robot: {why}; perhaps {} orders too", all - before);
        before = all;
    });

    // Of the orders that could not be sent, the robot gets only the newest when it is back.
    let (mut orders, producer) = Producer::<Message>::new();
    ws.put_subscription(producer.subscribe_with(Queue::Latest));

    let states = ws.subscribe();
    let (steer, report) = (
        tick(Duration::from_millis(20)),
        tick(Duration::from_secs(1)),
    );
    let mut newest = None;
    let mut step = 0;
    while Instant::now() < end {
        select! {
            recv(steer) -> _ => {
                step += 1;
                orders.put(json!({"step": step, "speed": 0.5}).into());
            }
            recv(states.receiver()) -> state => match state {
                Ok(state) => newest = Some(state),
                // For good: its end says why.
                Err(_) => return Err(states.get().unwrap_err().into()),
            },
            recv(report) -> _ => {
                let stats = ws.stats();
                let state = newest.as_ref().map_or("nothing".to_owned(), Message::to_string);
                match (ws.is_ready(), ws.latency()) {
                    (true, Some(latency)) => println!("{state}, {:?} away, {} sent", latency.smoothed, stats.messages_out),
                    (true, None) => println!("{state}, {} sent", stats.messages_out),
                    (false, _) => println!("no robot: {}", ws.last_error().map_or("not yet".to_owned(), |why| why.to_string())),
                }
            }
        }
    }
    ws.close()?;
    Ok(())
}
