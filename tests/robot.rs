//! The robot in the examples: its motors run only while orders keep arriving. The robot and its
//! operator are processes of their own.

mod testkit;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rtcbot_websocket::{Options, Queue, Value, Websocket, json};
use testkit::{DEADLINE, eventually};

/// How often an operator repeats its order.
const REPEAT: Duration = Duration::from_millis(20);

/// An example, which `cargo test` builds, or `cargo build --examples`.
fn example(name: &str) -> Command {
    let this = std::env::current_exe().unwrap();
    let target: PathBuf = this.ancestors().nth(2).unwrap().into();
    let path = target.join("examples").join(name);
    assert!(
        path.exists(),
        "{} is missing: cargo build --examples",
        path.display()
    );
    Command::new(path)
}

struct Process(Child);

impl Process {
    fn signal(&self, signal: &str) {
        let id = self.0.id().to_string();
        let status = Command::new("kill").args([signal, &id]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Robot {
    _process: Process,
    url: String,
    /// A page that watches and does nothing.
    watcher: Websocket,
}

impl Robot {
    fn start() -> Robot {
        let mut child = example("page_and_socket")
            .arg(format!("{}:0", testkit::own_address()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let process = Process(child);
        let line = lines.next().unwrap().unwrap();
        let url = line.strip_prefix("open http").unwrap();
        let url = format!("ws{url}/ws");
        // Its output is read, so that it need not wait.
        thread::spawn(move || lines.for_each(drop));
        let mut robot = Robot {
            _process: process,
            watcher: Websocket::connect(&url).unwrap(),
            url,
        };
        robot.watcher = robot.page();
        robot
    }

    fn page(&self) -> Websocket {
        let newest = Options::new().receive_queue(Queue::Latest);
        let page = newest.connect(&self.url).unwrap();
        page.wait_ready_timeout(DEADLINE).unwrap();
        page
    }

    /// The state that it reports to all pages ten times a second.
    fn state(&self) -> Value {
        let state = self.watcher.get_timeout(DEADLINE).unwrap();
        state.decode().unwrap()
    }

    /// The speed of its wheels.
    fn speeds(&self) -> [f64; 2] {
        let state = self.state();
        ["left", "right"].map(|wheel| state[wheel].as_f64().unwrap())
    }

    #[track_caller]
    fn is_seen_to_drive(&self) {
        // For longer than one order lasts, since orders keep arriving.
        let mut driving = 0;
        eventually("that it drives", || {
            driving += usize::from(self.speeds() == [0.5, 0.25]);
            driving == 6
        });
    }

    #[track_caller]
    fn is_seen_to_stop(&self) {
        eventually("that it stops", || self.speeds() == [0.0, 0.0]);
        // It does not continue by itself.
        for _ in 0..5 {
            assert_eq!(self.speeds(), [0.0, 0.0]);
        }
    }
}

/// Repeats an order until it is dropped; the connection stays open.
struct Driving {
    over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Driving {
    fn start(mut put: impl FnMut() + Send + 'static) -> Driving {
        let over = Arc::new(AtomicBool::new(false));
        let ends = over.clone();
        let thread = thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                put();
                thread::sleep(REPEAT);
            }
        });
        Driving {
            over,
            thread: Some(thread),
        }
    }

    fn by(page: &Websocket, left: f64, right: f64) -> Driving {
        let page = page.clone();
        Driving::start(move || page.put(json!({"left": left, "right": right})).unwrap())
    }
}

impl Drop for Driving {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

#[test]
fn a_robot_stops_when_no_order_comes_though_its_operator_is_connected() {
    let robot = Robot::start();
    let operator = robot.page();
    for _ in 0..2 {
        let driving = Driving::by(&operator, 0.5, 0.25);
        robot.is_seen_to_drive();
        drop(driving);
        robot.is_seen_to_stop();
    }
    assert!(operator.is_ready());
}

#[test]
fn a_robot_stops_when_its_operator_is_suspended_and_continues_with_it() {
    let robot = Robot::start();
    let mut operator = example("client")
        .arg(&robot.url)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut orders = operator.stdin.take().unwrap();
    let operator = Process(operator);
    let driving = Driving::start(move || {
        // It has ended at the end of the test.
        let _ = writeln!(orders, r#"{{"left":0.5,"right":0.25}}"#);
    });
    for _ in 0..2 {
        robot.is_seen_to_drive();
        operator.signal("-STOP");
        robot.is_seen_to_stop();
        operator.signal("-CONT");
    }
    drop(operator);
    drop(driving);
}

#[test]
fn messages_that_are_not_orders_do_not_keep_a_robot_moving() {
    let robot = Robot::start();
    let operator = robot.page();
    let driving = Driving::by(&operator, 0.5, 0.25);
    robot.is_seen_to_drive();
    drop(driving);
    let nonsense = Driving::start(move || {
        for order in [json!({}), json!({"left": 1.0}), json!(null), json!([1.0])] {
            operator.put(order).unwrap();
        }
    });
    robot.is_seen_to_stop();
    drop(nonsense);
}

/// Whether something held for ten states in succession, in one of several attempts: where the
/// machine pauses, the robot stops.
#[track_caller]
fn holds(robot: &Robot, what: &str, holds: impl Fn([f64; 2]) -> bool) {
    let attempt = |_| (0..10).all(|_| holds(robot.speeds()));
    assert!((0..5).any(attempt), "{what}: {:?}", robot.speeds());
}

#[test]
fn a_second_page_cannot_take_over_but_can_stop_the_robot() {
    let robot = Robot::start();
    let (first, second) = (robot.page(), robot.page());
    let driving = Driving::by(&first, 0.5, 0.25);
    robot.is_seen_to_drive();
    let other = Driving::by(&second, -1.0, -1.0);
    holds(&robot, "the first drives", |speeds| speeds == [0.5, 0.25]);
    drop(other);

    let mut stopped = false;
    for _ in 0..5 {
        second.put(json!({"left": 0.0, "right": 0.0})).unwrap();
        eventually("that it stops", || robot.speeds() == [0.0, 0.0]);
        stopped |= (0..10).all(|_| robot.speeds() == [0.0, 0.0]);
        if stopped {
            break;
        }
    }
    assert!(stopped, "it goes on, whoever stops it");

    // The page that drove has to stop first.
    drop(driving);
    eventually("that it is seen to let go", || {
        robot.state()["stopped"] == json!(false)
    });
    let _driving = Driving::by(&first, 0.5, 0.25);
    robot.is_seen_to_drive();
}
