//! Drives a robot over an unreliable network. Reconnects, sends the newest order fifty times a
//! second, and prints the state of the connection once a second.
//!
//! Run it with `cargo run --example operator [URL] [SECONDS]`, for example with `echo_server` as
//! the robot. Stop that server and start it again meanwhile.
//!
//! A robot that moves must stop when no more orders arrive, even if the connection stays open:
//! `page_and_socket` has one that does.

use std::time::{Duration, Instant};

use rtcbot_websocket::crossbeam_channel::{select, tick};
use rtcbot_websocket::pubsub;
use rtcbot_websocket::{Backoff, Message, Options, Queue, State, json};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or("ws://127.0.0.1:9001".to_owned());
    let seconds = arguments.next().map_or(Ok(10), |seconds| seconds.parse())?;
    let end = Instant::now() + Duration::from_secs(seconds);

    let ws = Options::new()
        .reconnect(Backoff::new().max(Duration::from_secs(1)))
        // Detects a lost robot within two seconds.
        .ping_interval(Duration::from_millis(500))
        .ping_timeout(Duration::from_millis(1500))
        .receive_queue(Queue::Latest)
        .connect(&url)?;
    ws.on_ready(|| println!("the robot is connected"));
    let (socket, mut before) = (ws.downgrade(), 0);
    ws.on_event(move |state| match (state, socket.upgrade()) {
        (
            State::Reconnecting {
                attempt: 1, reason, ..
            },
            Some(ws),
        ) => {
            let lost = ws.stats().unconfirmed - before;
            println!("lost the robot: {reason}; up to {lost} orders may be lost");
            before += lost;
        }
        (State::Reconnecting { reason, .. }, _) => println!("no robot: {reason}"),
        _ => {}
    });

    // After a reconnect, the robot receives only the newest of the orders that were not sent.
    let (mut orders, producer) = pubsub::producer::<Message>();
    ws.put_subscription(producer.subscribe_with(Queue::Latest))?;

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
                // The connection has ended permanently. `get` returns the reason.
                Err(_) => return Err(states.get().unwrap_err().into()),
            },
            recv(report) -> _ => {
                let stats = ws.stats();
                let state = newest.as_ref().map_or("nothing".to_owned(), Message::to_string);
                let sent = stats.messages_out;
                match (ws.state(), stats.latency) {
                    (State::Ready, Some(latency)) => {
                        println!("{state}, round trip {:?}, {sent} sent", latency.smoothed);
                    }
                    (State::Ready, None) => println!("{state}, {sent} sent"),
                    (
                        State::Reconnecting { reason, .. }
                        | State::Connecting { last_error: Some(reason), .. },
                        _,
                    ) => println!("no robot: {reason}"),
                    _ => println!("no robot: connecting"),
                }
            }
        }
    }
    ws.close()?;
    Ok(())
}
