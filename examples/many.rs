//! Many connections that each echo one message per second. Measures answers, delays and memory, and
//! shows which limit ends the test.
//!
//! Run it with `cargo run --release --example many [N] [--seconds S] [--subscribe]`. The default is
//! 5000 connections for 10 seconds. With `--subscribe`, the server also keeps a subscription to
//! each connection, as a program does that waits in `get`. The program ends by itself. It fails
//! unless all messages were answered and all connections ended in order.
//!
//! This process is the server, which sends everything back. It starts itself once more for the
//! clients, so that the measured memory is that of one side. The clients share one thread that puts
//! messages, evenly over each second, and a sink that records the answers.

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Lines, Write};
use std::process::{self, Child, ChildStdout, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use rtcbot_websocket::{
    Message, Options, Request, Server, ServerHandle, Subscription, Value, Websocket,
    crossbeam_channel as channel, json,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The number of connections that are made at the same time.
const AT_A_TIME: usize = 100;

/// The time limit for one step on a busy machine.
const STEP_LIMIT: Duration = Duration::from_secs(60);

/// The first argument of the clients' process. The server's URL and the plan follow it.
const CLIENTS: &str = "--clients-of";

fn main() -> ExitCode {
    log::set_max_level(log::LevelFilter::Warn);
    let _ = log::set_logger(&StderrLogger);
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        [CLIENTS, url, ref plan @ ..] => Plan::read(plan).and_then(|plan| clients(url, plan)),
        _ => Plan::read(&arguments).and_then(|plan| serve(&plan)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("many: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Plan {
    connections: usize,
    seconds: usize,
    subscribe: bool,
}

impl Plan {
    fn read(arguments: &[&str]) -> Result<Plan> {
        let mut plan = Plan {
            connections: 5000,
            seconds: 10,
            subscribe: false,
        };
        let mut arguments = arguments.iter();
        while let Some(&argument) = arguments.next() {
            match argument {
                "--subscribe" => plan.subscribe = true,
                "--seconds" => {
                    let seconds = arguments.next().ok_or("--seconds needs a number")?;
                    // An unread subscription holds one message per second, at most 1024.
                    plan.seconds = seconds.parse::<usize>()?.clamp(1, 1000);
                }
                connections => {
                    let usage = "usage: many [N] [--seconds S] [--subscribe]";
                    plan.connections = connections.parse().map_err(|_| usage)?;
                }
            }
        }
        plan.connections = plan.connections.max(1);
        Ok(plan)
    }

    /// Returns the number of messages of all connections together.
    fn messages(&self) -> usize {
        self.connections * self.seconds
    }

    /// Returns when a message is due. All connections send their first message, then their second,
    /// and so on.
    fn due(&self, number: usize) -> Duration {
        Duration::from_secs(1).mul_f64(number as f64 / self.connections as f64)
    }
}

// The server.

fn serve(plan: &Plan) -> Result<()> {
    end_after(4 * STEP_LIMIT + Duration::from_secs(plan.seconds as u64));
    // The test should meet the system's limits, so the server reserves nothing.
    let server = Server::bind("127.0.0.1:0")?
        .handshake_timeout(STEP_LIMIT)
        .max_connections(usize::MAX);
    let (url, handle) = (server.url().to_owned(), server.handle());
    let (accepted, connections) = channel::unbounded();
    let accepting = thread::spawn(move || {
        for request in server {
            let _ = accepted.send(echo(request));
        }
    });
    let before = Usage::now();

    let mut clients = Clients::start(&url, plan)?;
    let made = clients.receive("made")?.as_u64().unwrap_or_default() as usize;
    let mut subscriptions = Vec::new();
    for _ in 0..made {
        let ws: Websocket = connections.recv_timeout(STEP_LIMIT)?;
        // The answers of a failed connection are missing in the report.
        let _ = ws.wait_ready_timeout(STEP_LIMIT);
        if plan.subscribe {
            subscriptions.push(ws.subscribe());
        }
    }
    println!("{made} connections");
    println!("idle, server side: {}", before.since(made));
    if made < plan.connections {
        // The limit may also affect closing.
        if let Err(error) = end(&handle, clients, subscriptions) {
            eprintln!("many: {error}");
        }
        return Err(format!("stopped after {made} of {} connections", plan.connections).into());
    }

    clients.send("go")?;
    let report = clients.receive("report")?;
    println!("echoing, server side: {}", before.since(made));
    println!(
        "echoing, client side: {}",
        report["usage"].as_str().unwrap_or_default()
    );
    let (answered, all) = (report["answered"].as_u64(), plan.messages());
    println!("answered: {} of {all}", report["answered"]);
    let (p50, p99, max) = (&report["p50"], &report["p99"], &report["max"]);
    println!("took: p50 {p50} ms, p99 {p99} ms, max {max} ms");
    end(&handle, clients, subscriptions)?;
    accepting.join().map_err(|_| "the server panicked")?;
    match answered == Some(all as u64) {
        true => Ok(()),
        false => Err("not all messages were answered".into()),
    }
}

/// Sends everything back. The connection is its own sink.
fn echo(request: Request) -> Websocket {
    let ws = Options::new().connect_timeout(STEP_LIMIT).accept(request);
    ws.subscribe_to(ws.clone());
    ws
}

/// Closes all connections, and checks that all of them closed in order.
fn end(
    handle: &ServerHandle,
    mut clients: Clients,
    subscriptions: Vec<Subscription<Message>>,
) -> Result<()> {
    handle.shutdown(STEP_LIMIT)?;
    drop(subscriptions);
    let in_order = clients.receive("closed")?;
    println!("all closed in order: {in_order}");
    let status = clients.process.wait()?;
    match in_order == true && status.success() {
        true => Ok(()),
        false => Err("not all connections ended in order".into()),
    }
}

/// The process of the clients.
struct Clients {
    process: Child,
    output: Lines<BufReader<ChildStdout>>,
}

impl Clients {
    fn start(url: &str, plan: &Plan) -> io::Result<Clients> {
        let mut process = Command::new(env::current_exe()?)
            .args([CLIENTS, url, &plan.connections.to_string()])
            .args(["--seconds", &plan.seconds.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = process.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let output = BufReader::new(output).lines();
        Ok(Clients { process, output })
    }

    fn send(&mut self, word: &str) -> io::Result<()> {
        let input = self.process.stdin.as_mut();
        writeln!(input.ok_or(io::ErrorKind::BrokenPipe)?, "{word}")
    }

    /// Waits for a report of the clients and returns its value for this key.
    fn receive(&mut self, key: &str) -> Result<Value> {
        let line = self.output.next().ok_or("the clients have ended")??;
        let mut report: Value = serde_json::from_str(&line)?;
        match report.get_mut(key) {
            Some(value) => Ok(value.take()),
            None => Err(format!("unexpected output of the clients: {line}").into()),
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        // The process has ended by itself, except after an error.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

// The clients.

fn clients(url: &str, plan: Plan) -> Result<()> {
    end_after(4 * STEP_LIMIT + Duration::from_secs(plan.seconds as u64));
    let before = Usage::now();
    let arrivals = Arc::new(Arrivals {
        plan,
        start: OnceLock::new(),
        took: Mutex::default(),
    });
    let (sink, answers) = channel::unbounded();
    let connections = connect(url, &arrivals.plan, &sink)?;
    drop(sink);
    let receiving = arrivals.clone();
    thread::spawn(move || receive(&answers, &receiving));
    report(&json!({"made": connections.len()}))?;
    if connections.len() == arrivals.plan.connections {
        wait_for("go")?;
        send_all(&connections, &arrivals);
        let usage = before.since(connections.len());
        report(&json!({"report": arrivals.report(&usage)}))?;
    }
    let mut in_order = true;
    for ws in connections {
        in_order &= ws.wait_closed_timeout(2 * STEP_LIMIT).is_ok();
    }
    report(&json!({"closed": in_order}))
}

fn report(what: &Value) -> Result<()> {
    println!("{what}");
    Ok(io::stdout().flush()?)
}

fn wait_for(word: &str) -> Result<()> {
    match io::stdin().lock().lines().next() {
        Some(Ok(line)) if line == word => Ok(()),
        _ => Err("the server has ended".into()),
    }
}

/// Makes all connections, or as many as possible.
fn connect(url: &str, plan: &Plan, answers: &channel::Sender<Message>) -> Result<Vec<Websocket>> {
    let all = plan.connections;
    let options = Options::new().connect_timeout(STEP_LIMIT);
    let mut connections = Vec::with_capacity(all);
    let mut ready = 0;
    while ready < all {
        if connections.len() < all.min(ready + AT_A_TIME) {
            let ws = options.connect(url)?;
            ws.subscribe_to(answers.clone());
            connections.push(ws);
        } else if let Err(error) = connections[ready].wait_ready() {
            eprintln!("many: connection {}: {error}", ready + 1);
            // Later ones may succeed or not.
            connections.retain(|ws| ws.wait_ready().is_ok());
            break;
        } else {
            ready += 1;
        }
    }
    Ok(connections)
}

/// Sends each message when it is due, and waits for all answers.
fn send_all(connections: &[Websocket], arrivals: &Arrivals) {
    let (plan, start) = (&arrivals.plan, Instant::now());
    let _ = arrivals.start.set(start);
    for number in 0..plan.messages() {
        let due = start + plan.due(number);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if let Err(error) = connections[number % connections.len()].put_nowait(number) {
            eprintln!("many: message {number}: {error}");
        }
    }
    let deadline = Instant::now() + STEP_LIMIT;
    while arrivals.count() < plan.messages() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
}

/// The answers that have arrived.
struct Arrivals {
    plan: Plan,
    start: OnceLock<Instant>,
    /// The time from when a message was due until its answer arrived. So a delay on this side
    /// counts.
    took: Mutex<Vec<Duration>>,
}

impl Arrivals {
    fn count(&self) -> usize {
        self.took.lock().map_or(0, |took| took.len())
    }

    fn record(&self, number: usize) {
        let start = self.start.get().copied().unwrap_or_else(Instant::now);
        let took = start.elapsed().saturating_sub(self.plan.due(number));
        if let Ok(mut all) = self.took.lock() {
            all.push(took);
        }
    }

    fn report(&self, usage: &str) -> Value {
        let mut took = match self.took.lock() {
            Ok(took) => took.clone(),
            Err(_) => Vec::new(),
        };
        took.sort_unstable();
        let millis = |per_cent: usize| {
            let index = took.len() * per_cent / 100;
            let took = took.get(index.min(took.len().saturating_sub(1)));
            took.map(|took| took.as_micros() as f64 / 1000.0)
        };
        json!({
            "answered": took.len(), "p50": millis(50), "p99": millis(99), "max": millis(100),
            "usage": usage,
        })
    }
}

/// Receives the answers of all connections, until these have ended.
fn receive(answers: &channel::Receiver<Message>, arrivals: &Arrivals) {
    let connections = arrivals.plan.connections;
    // For each connection, the number of its next answer.
    let mut next: Vec<usize> = (0..connections).collect();
    for message in answers {
        match message.decode::<usize>() {
            Ok(number) if next[number % connections] == number => {
                next[number % connections] += connections;
                arrivals.record(number);
            }
            _ => eprintln!("many: {message} arrived out of order"),
        }
    }
}

// Both sides.

/// The resources of this process.
#[derive(Clone, Copy)]
struct Usage {
    /// In KiB. `None` on systems without /proc.
    memory: Option<f64>,
    threads: Option<f64>,
}

impl Usage {
    fn now() -> Usage {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let figure = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        Usage {
            memory: figure("VmRSS:"),
            threads: figure("Threads:"),
        }
    }

    /// Describes the current usage, and the growth per connection.
    fn since(self, connections: usize) -> String {
        let now = Usage::now();
        match (now.memory, self.memory, now.threads) {
            (Some(now), Some(before), Some(threads)) => {
                let each = (now - before) / connections.max(1) as f64;
                let mib = now / 1024.0;
                format!("{each:.1} KiB resident per connection ({mib:.0} MiB), {threads} threads")
            }
            _ => "memory and threads are unknown on this system".to_owned(),
        }
    }
}

/// Ends this process after a time limit, even if it hangs.
fn end_after(limit: Duration) {
    thread::spawn(move || {
        thread::sleep(limit);
        eprintln!("many: still not done after {limit:?}");
        process::exit(1);
    });
}

/// Prints the library's warnings and errors. A server reports some of them only in the log.
struct StderrLogger;

impl log::Log for StderrLogger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        // In one write, because the other process writes to the same output.
        let line = format!("{}: {}\n", record.level(), record.args());
        eprint!("{line}");
    }

    fn flush(&self) {}
}
