//! A web page and its WebSocket on one port. One of any number of browsers drives a simulated
//! robot.
//!
//! The robot moves only while it receives orders: an order is valid for 300 ms. An open connection
//! does not mean that the operator is attentive or that the operator's program still runs.
//!
//! Run it with `cargo run --example page_and_socket [ADDRESS] [--tls CERT KEY]` and open the
//! printed address, in several windows to see that all pages show the same state. The address is a
//! host and port (by default `127.0.0.1:8080`). `CERT` and `KEY` are PEM files as for
//! `echo_server`.

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

/// The time for which an order is valid. The page repeats it three times as often.
const ORDER_VALID: Duration = Duration::from_millis(300);

/// An order, and the page that sent it.
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
    Err("this program was built without the feature native-tls".into())
}

fn run(server: Server) -> Result<()> {
    println!("open {}", server.url().replacen("ws", "http", 1));
    io::stdout().flush()?;

    let (orders, robot_orders) = bounded(16);
    let pages = server.handle();
    thread::spawn(move || robot(&robot_orders, &pages));

    // Each request has its own thread, so that its steps can be written in order.
    server.serve(move |request| {
        let peer = request.peer_addr().map(|address| address.to_string());
        let peer = peer.unwrap_or_default();
        if let Err(reason) = respond(request, &peer, &orders) {
            println!("{peer}: {reason}");
        }
    });
    Ok(())
}

fn respond(request: Request, peer: &str, orders: &Sender<Order>) -> Result<()> {
    match (request.head().method().as_str(), request.path()) {
        (_, "/ws") => relay_orders(request, peer, orders),
        // The library does not send the body in reply to HEAD.
        ("GET" | "HEAD", "/") => Ok(request.respond_html(PAGE)?),
        (_, "/") => {
            let response = http::Response::builder().status(405);
            Ok(request.respond_with(response.header("Allow", "GET, HEAD").body("")?)?)
        }
        _ => Ok(request.respond(404, "there is only the page / and its WebSocket /ws\n")?),
    }
}

/// Passes the orders of one page to the robot. Returns the error of `get` when the page is closed.
fn relay_orders(request: Request, peer: &str, orders: &Sender<Order>) -> Result<()> {
    // Browsers let pages of any site connect, so the server must check the page's origin. By
    // default only pages from this host and port may connect; others receive status 403.
    // `allow_origin` allows a page from another server.
    let ws = Options::new()
        // Only the current position of the sliders matters.
        .receive_queue(Queue::Latest)
        // A slow page misses states instead of showing old ones.
        .send_queue(4 << 10)
        .accept(request);
    ws.wait_ready()?;
    println!("{peer}: a page has connected");
    let mut before = None;
    loop {
        let order = ws.get()?;
        // The page repeats an order while it is valid. Only changes are printed.
        if before.as_ref() != Some(&order) {
            println!("{peer}: {order}");
        }
        before = Some(order.clone());
        orders.send((peer.to_owned(), order))?;
    }
}

/// Simulates a robot with two wheels, 1 m apart. Sends its state to all pages ten times a second.
fn robot(orders: &Receiver<Order>, pages: &ServerHandle) {
    const PERIOD: Duration = Duration::from_millis(100);
    let clock = tick(PERIOD);
    // Becomes readable when the driver's last order is no longer valid.
    let mut silence = never();
    let (mut left, mut right) = (0.0, 0.0);
    // The page that drives, and whether another page has stopped the robot.
    let (mut driver, mut stopped) = (None, false);
    let (mut x, mut y, mut heading) = (0.0_f64, 0.0_f64, 0.0_f64);
    loop {
        select! {
            recv(orders) -> order => {
                let Ok((page, order)) = order else { return };
                // Messages that are not orders have no effect.
                let Some((l, r)) = speeds(&order) else { continue };
                // The first page drives until its orders end. Others can only stop the robot.
                if *driver.get_or_insert_with(|| page.clone()) == page {
                    (left, right) = (l, r);
                    silence = after(ORDER_VALID);
                } else if (l, r) == (0.0, 0.0) {
                    stopped = true;
                }
                if stopped {
                    (left, right) = (0.0, 0.0);
                }
            }
            // No valid order is left.
            recv(silence) -> _ => {
                (left, right) = (0.0, 0.0);
                (driver, stopped) = (None, false);
            }
            recv(clock) -> _ => {
                let distance = (left + right) / 2.0 * PERIOD.as_secs_f64();
                heading = (heading + (right - left) * PERIOD.as_secs_f64()).rem_euclid(TAU);
                // The robot stays within the picture on the page.
                x = (x + distance * heading.cos()).clamp(-5.0, 5.0);
                y = (y + distance * heading.sin()).clamp(-5.0, 5.0);
                pages.broadcast(json!({
                    "left": left, "right": right, "stopped": stopped,
                    "x": x, "y": y, "heading": heading,
                }));
            }
        }
    }
}

/// Returns the wheel speeds of an order.
fn speeds(order: &Message) -> Option<(f64, f64)> {
    let speed = |side| order.as_json()?.get(side)?.as_f64();
    Some((
        speed("left")?.clamp(-1.0, 1.0),
        speed("right")?.clamp(-1.0, 1.0),
    ))
}
