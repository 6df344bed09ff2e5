//! A web page and its WebSocket on one port: any number of browsers, one of which drives a pretend
//! robot.
//!
//! The robot moves only while it goes on being told to: an order holds for 300 ms. A connection
//! that is open says nothing about whoever is at the other end, who may have fallen asleep, or
//! whose program may hang.
//!
//! Run it with `cargo run --example page_and_socket [ADDRESS] [--tls CERT KEY]` and open the address that
//! it prints; more than once, to see that all pages are told the same. The address is a host and port,
//! `127.0.0.1:8080` unless told otherwise; `CERT` and `KEY` are PEM files as for `echo_server`.

use std::env;
use std::f64::consts::TAU;
use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use rtcbot_websocket::crossbeam_channel::{Receiver, Sender, after, bounded, never, select, tick};
use rtcbot_websocket::{Message, Options, Queue, Request, Server, ServerHandle, http, json};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const PAGE: &str = include_str!("page_and_socket.html");

/// How long an order holds. The page repeats it three times as often.
const ORDER_HOLDS: Duration = Duration::from_millis(300);

/// An order, and the page that it comes from.
type Order = (String, Message);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (address, tls) = match arguments[..] {
        [] => ("127.0.0.1:8080", None),
        [address] if !address.starts_with('-') => (address, None),
        ["--tls", cert, key] => ("127.0.0.1:8080", Some((cert, key))),
        [address, "--tls", cert, key] | ["--tls", cert, key, address] => {
            (address, Some((cert, key)))
        }
        _ => {
            eprintln!("usage: page_and_socket [HOST:PORT] [--tls CERT KEY]");
            return ExitCode::FAILURE;
        }
    };
    match listen(address, tls).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("page_and_socket: {address}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn listen(address: &str, tls: Option<(&str, &str)>) -> Result<Server> {
    let server = Server::bind(address)?;
    match tls {
        None => Ok(server),
        Some((cert, key)) => with_tls(server, cert, key),
    }
}

#[cfg(feature = "native-tls")]
fn with_tls(server: Server, cert: &str, key: &str) -> Result<Server> {
    use rtcbot_websocket::native_tls::Identity;

    let read = |path: &str| std::fs::read(path).map_err(|error| format!("{path}: {error}"));
    let identity = Identity::from_pkcs8(&read(cert)?, &read(key)?)
        .map_err(|error| format!("{cert} and {key}: {error}"))?;
    Ok(server.tls(identity)?)
}

#[cfg(not(feature = "native-tls"))]
fn with_tls(_: Server, _: &str, _: &str) -> Result<Server> {
    Err("this was built without the feature native-tls".into())
}

fn run(server: Server) -> Result<()> {
    println!("open {}", server.url().replacen("ws", "http", 1));
    io::stdout().flush()?;

    let (orders, robot_orders) = bounded(16);
    let pages = server.handle();
    thread::spawn(move || robot(&robot_orders, &pages));

    // A thread for each request, so that what happens with one can be written down in order.
    server.serve(move |request| {
        let peer = request.peer_addr().map(|address| address.to_string());
        let peer = peer.unwrap_or_default();
        if let Err(reason) = answer(request, &peer, &orders) {
            println!("{peer}: {reason}");
        }
    });
    Ok(())
}

fn answer(request: Request, peer: &str, orders: &Sender<Order>) -> Result<()> {
    match (request.method().as_str(), request.path()) {
        (_, "/ws") => obey(request, peer, orders),
        // To HEAD, the body is not sent.
        ("GET" | "HEAD", "/") => {
            let response = http::Response::builder().header("Content-Type", "text/html");
            Ok(request.respond_with(response.body(PAGE)?)?)
        }
        (_, "/") => {
            let response = http::Response::builder().status(405);
            Ok(request.respond_with(response.header("Allow", "GET, HEAD").body("")?)?)
        }
        _ => Ok(request.respond(404, "there is only the page / and its WebSocket /ws\n")?),
    }
}

/// Hands the orders of one page to the robot, until the page is closed: then `get` says so.
fn obey(request: Request, peer: &str, orders: &Sender<Order>) -> Result<()> {
    // Browsers let any page of any site connect to here, so it must be looked at whose page it is. The
    // default does: only pages from this host and port may, others are answered 403. For a page that
    // is served elsewhere, there is `allow_origin`.
    let ws = Options::new()
        // Where the sliders are counts, not where they have been.
        .receive_queue(Queue::Latest)
        // A page that cannot keep up is to miss states rather than to show old ones.
        .send_queue(4 << 10)
        .accept(request);
    ws.wait_ready()?;
    println!("{peer}: a page has connected");
    let mut before = None;
    loop {
        let order = ws.get()?;
        // It is repeated for as long as it is meant.
        if before.as_ref() != Some(&order) {
            println!("{peer}: {order}");
        }
        before = Some(order.clone());
        orders.send((peer.to_owned(), order))?;
    }
}

/// Two wheels on the floor, 1 m apart. Tells all pages ten times a second how it is.
fn robot(orders: &Receiver<Order>, pages: &ServerHandle) {
    const PERIOD: Duration = Duration::from_millis(100);
    let clock = tick(PERIOD);
    // Becomes readable when the driver's last order is too old.
    let mut silence = never();
    let (mut left, mut right) = (0.0, 0.0);
    // Who drives, and whether another has stopped the robot meanwhile.
    let (mut driver, mut stopped) = (None, false);
    let (mut x, mut y, mut heading) = (0.0_f64, 0.0_f64, 0.0_f64);
    loop {
        select! {
            recv(orders) -> order => {
                let Ok((page, order)) = order else { return };
                // What is no order, from whoever, changes nothing.
                let Some((l, r)) = speeds(&order) else { continue };
                // Who begins drives until it lets go. Any other can only stop the robot.
                if *driver.get_or_insert_with(|| page.clone()) == page {
                    (left, right) = (l, r);
                    silence = after(ORDER_HOLDS);
                } else if (l, r) == (0.0, 0.0) {
                    stopped = true;
                }
                if stopped {
                    (left, right) = (0.0, 0.0);
                }
            }
            // Nobody goes on ordering: nobody is there, or nobody means it any more.
            recv(silence) -> _ => {
                (left, right) = (0.0, 0.0);
                (driver, stopped) = (None, false);
            }
            recv(clock) -> _ => {
                let way = (left + right) / 2.0 * PERIOD.as_secs_f64();
                heading = (heading + (right - left) * PERIOD.as_secs_f64()).rem_euclid(TAU);
                // The room ends where the page's picture of it does.
                x = (x + way * heading.cos()).clamp(-5.0, 5.0);
                y = (y + way * heading.sin()).clamp(-5.0, 5.0);
                pages.broadcast(json!({
                    "left": left, "right": right, "stopped": stopped,
                    "x": x, "y": y, "heading": heading,
                }));
            }
        }
    }
}

/// How fast an order wants the wheels to turn.
fn speeds(order: &Message) -> Option<(f64, f64)> {
    let speed = |side| order.as_json()?.get(side)?.as_f64();
    Some((
        speed("left")?.clamp(-1.0, 1.0),
        speed("right")?.clamp(-1.0, 1.0),
    ))
}
