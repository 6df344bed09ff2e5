//! Reads a feed and does not stop: it connects again when the server restarts, when the network
//! fails, and when the feed is silent.
//!
//! Run it with `cargo run --example feed [URL]`. Without a URL it starts a server of its own, which
//! is restarted once and then hangs, and it ends after 20 readings. Ctrl-C closes the connection,
//! and a second Ctrl-C no longer waits for the server.

use std::time::Duration;
use std::{env, mem, thread};

use rtcbot_websocket::crossbeam_channel::tick;
use rtcbot_websocket::{
    Backoff, Error, Options, Request, Server, ServerHandle, State, Websocket, json,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(serde::Serialize, serde::Deserialize)]
struct Reading {
    number: u32,
    volts: f64,
}

fn main() -> Result<()> {
    if let Some(url) = env::args().nth(1) {
        return read(&url, usize::MAX);
    }
    // Port 0 is any free port. The URL has the port that the system chose.
    let server = Server::bind("127.0.0.1:0")?;
    let url = server.url().to_owned();
    let restart = thread::spawn(|| restart_once(server));
    read(&url, 20)?;
    let server = restart.join().map_err(|_| "the server panicked")??;
    Ok(server.shutdown(Duration::from_secs(1))?)
}

/// Prints this number of readings.
fn read(url: &str, readings: usize) -> Result<()> {
    let ws = Options::new()
        // Every connection begins with this message, also after a reconnect.
        .greeting(|| [json!({"subscribe": "battery"})])
        // A feed that sends five readings per second is stale after a second without one.
        .receive_timeout(Duration::from_secs(1))
        // Each ping measures the latency. A server that does not answer is lost.
        .ping_interval(Duration::from_millis(500))
        .ping_timeout(Duration::from_secs(2))
        // Connect again after every end, until this program closes. To decide for each reason, use
        // `reconnect_if` instead.
        .reconnect(Backoff::new().max(Duration::from_secs(1)).until_closed())
        .connect(url)?;
    ws.on_event(|state| match state {
        State::Connecting { attempt, .. } => println!("connecting, attempt {attempt}"),
        State::Ready => println!("connected"),
        State::Reconnecting { reason, .. } => println!("not connected: {reason}"),
        _ => {}
    });
    let (closing, mut pressed) = (ws.clone(), false);
    ctrlc::set_handler(move || {
        let _ = match mem::replace(&mut pressed, true) {
            // Does not wait. The loop below ends when the server has answered.
            false => closing.close_nowait(1000, ""),
            // Shortens the closing that is under way.
            true => closing.close_timeout(Duration::ZERO),
        };
    })?;

    for _ in 0..readings {
        // Waits, also while there is no connection.
        match ws.get_as::<Reading>() {
            Ok(Reading { number, volts }) => match ws.stats().latency {
                Some(latency) => println!("{number}: {volts:.2} V, latency {:?}", latency.last),
                None => println!("{number}: {volts:.2} V"),
            },
            // This message is not a reading. The next one may be.
            Err(error @ Error::Json { .. }) => println!("not a reading: {error}"),
            // The connection has been closed by Ctrl-C.
            Err(_) => break,
        }
    }
    ws.close()?;
    let stats = ws.stats();
    println!(
        "{} messages, {} reconnects",
        stats.messages_in, stats.reconnects
    );
    Ok(())
}

/// Serves for a second, and starts again on the same port a second later.
fn restart_once(server: Server) -> Result<ServerHandle> {
    let address = server.local_addr().ok_or("the server has no port")?;
    let first = start(server);
    thread::sleep(Duration::from_secs(1));
    first.shutdown(Duration::from_secs(1))?;
    thread::sleep(Duration::from_secs(1));
    Ok(start(Server::bind(address)?))
}

fn start(server: Server) -> ServerHandle {
    let handle = server.handle();
    thread::spawn(|| server.serve(|request| drop(send_readings(request))));
    handle
}

/// Sends ten readings, and then nothing, as if the sensor hung.
fn send_readings(request: Request) -> Result<()> {
    let ws = Websocket::accept(request);
    println!("    the server receives {}", ws.get()?);
    for (number, _) in (1..=10).zip(tick(Duration::from_millis(200))) {
        let volts = 12.6 - f64::from(number) / 100.0;
        ws.put_json(&Reading { number, volts })?;
    }
    Ok(ws.wait_closed()?)
}
