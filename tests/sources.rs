//! Sources that call a function or an iterator of the program.

mod testkit;

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rtcbot_websocket::{Error, Message, Options, Server, Source, Websocket, json};
use testkit::{DEADLINE, alone, eventually, own_address, pair, threads_named, within};

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

/// A function that returns 1, 2, 3, ..., and the number of its calls.
fn counter() -> (impl FnMut() -> Message + Send + 'static, Arc<AtomicU64>) {
    let calls = Arc::new(AtomicU64::new(0));
    let count = calls.clone();
    let f = move || (count.fetch_add(1, Ordering::SeqCst) + 1).into();
    (f, calls)
}

fn number(message: &Message) -> u64 {
    message.decode().unwrap()
}

/// Waits until all threads of sources have ended. Only Linux reports them.
#[track_caller]
fn no_thread_is_left() {
    if cfg!(target_os = "linux") {
        eventually("the threads have ended", || threads_named("ws-source") == 0);
    }
}

#[test]
fn a_sampler_sends_again_and_again_until_a_message_is_put() {
    let (robot, operator) = pair();
    let (f, calls) = counter();
    robot
        .put_subscription(Source::every(MS, f).unwrap())
        .unwrap();
    let mut last = 0;
    for _ in 0..50 {
        let n = number(&operator.get_timeout(DEADLINE).unwrap());
        assert!(n > last);
        last = n;
    }
    robot.put_nowait(json!("over")).unwrap();
    assert!(robot.subscription().is_none());
    while operator.get_timeout(DEADLINE).unwrap() != json!("over") {}
    // The function is dropped, and with it its counter.
    eventually("it is dropped", || Arc::strong_count(&calls) == 1);
}

#[test]
fn the_first_sample_after_an_interruption_is_new() {
    let mut listener = Server::bind((own_address(), 0)).unwrap();
    let robot = Websocket::connect(listener.url()).unwrap();
    let (f, calls) = counter();
    robot
        .put_subscription(Source::every(MS, f).unwrap())
        .unwrap();
    eventually("some samples", || calls.load(Ordering::SeqCst) > 20);
    let operator = Websocket::accept(listener.next_timeout(DEADLINE).unwrap());
    assert!(number(&operator.get_timeout(DEADLINE).unwrap()) > 19);
}

#[test]
fn a_period_of_zero_is_rejected() {
    let error = Source::<Message>::every(Duration::ZERO, || 1.into()).unwrap_err();
    assert!(matches!(
        error,
        Error::InvalidOption {
            setting: "period",
            ..
        }
    ));
}

#[test]
fn an_iterator_is_sent_completely_and_in_order() {
    let (robot, operator) = pair();
    let (sender, dropped) = crossbeam_channel::bounded::<()>(0);
    let items = (0..5000u64).map(move |n| {
        let _ = &sender;
        Message::from(n)
    });
    robot
        .put_subscription(Source::iter(items).unwrap())
        .unwrap();
    for n in 0..5000 {
        assert_eq!(number(&operator.get_timeout(DEADLINE).unwrap()), n);
    }
    eventually("it has ended", || robot.subscription().is_none());
    within(DEADLINE, move || dropped.recv().unwrap_err());
}

#[test]
fn an_iterator_is_called_as_fast_as_the_connection_takes_items() {
    // This peer does not answer, so nothing is sent.
    let listener = TcpListener::bind((own_address(), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let robot = Websocket::connect(format!("ws://{address}/")).unwrap();
    let (f, calls) = counter();
    robot
        .put_subscription(Source::iter(std::iter::repeat_with(f)).unwrap())
        .unwrap();
    eventually("two are taken", || calls.load(Ordering::SeqCst) == 2);
    let _ = robot.close();
    eventually("it is dropped", || Arc::strong_count(&calls) == 1);
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[test]
fn an_iterator_that_waits_delays_neither_pongs_nor_other_messages() {
    let (robot, operator) = pair();
    let (go_on, wait) = crossbeam_channel::unbounded::<Message>();
    robot.put_subscription(Source::iter(wait).unwrap()).unwrap();
    for n in 0..3u64 {
        let pong = operator.ping("").unwrap();
        within(DEADLINE, move || pong.recv().unwrap());
        go_on.send(n.into()).unwrap();
        assert_eq!(number(&operator.get_timeout(DEADLINE).unwrap()), n);
    }
    robot.put(json!("other")).unwrap();
    assert_eq!(operator.get_timeout(DEADLINE).unwrap(), json!("other"));
}

#[test]
fn a_panic_ends_the_source_and_nothing_else() {
    let (robot, operator) = pair();
    for kind in 0..2 {
        let mut n = 0u64;
        let f = move || {
            n += 1;
            assert!(n < 3, "on purpose");
            Message::from(n)
        };
        let source = match kind {
            0 => Source::iter(std::iter::repeat_with(f)),
            _ => Source::every(MS, f),
        };
        robot.put_subscription(source.unwrap()).unwrap();
        eventually("it has ended", || robot.subscription().is_none());
        robot.put(json!("alive")).unwrap();
        while operator.get_timeout(DEADLINE).unwrap() != json!("alive") {}
    }
}

/// Starts a sampler whose next sample is due in an hour.
fn seldom() -> Source<Message> {
    Source::every(HOUR, || 1.into()).unwrap()
}

/// Starts a source with an iterator that has always another item.
fn endless() -> Source<Message> {
    Source::iter(std::iter::repeat_with(|| 1.into())).unwrap()
}

#[test]
fn the_thread_of_a_source_ends_with_its_last_handle() {
    alone("the_thread_of_a_source_ends_with_its_last_handle", || {
        for make in [seldom, endless] {
            // It is never put.
            drop(make());
            no_thread_is_left();

            // It is replaced, stopped, and superseded by a message.
            let (robot, operator) = pair();
            operator.subscribe_callback(|_| {});
            robot.put_subscription(make()).unwrap();
            robot.put_subscription(make()).unwrap();
            if cfg!(target_os = "linux") {
                eventually("one is left", || threads_named("ws-source") == 1);
            }
            robot.stop_subscription();
            no_thread_is_left();
            robot.put_subscription(make()).unwrap();
            robot.put(1).unwrap();
            no_thread_is_left();

            // Either side closes.
            robot.put_subscription(make()).unwrap();
            robot.close().unwrap();
            no_thread_is_left();
            assert!(robot.put_subscription(make()).is_err());
            no_thread_is_left();
            let (robot, operator) = pair();
            operator.subscribe_callback(|_| {});
            robot.put_subscription(make()).unwrap();
            operator.close().unwrap();
            no_thread_is_left();
            drop(robot);

            // The last handle is dropped, and the connection is lost.
            let (robot, operator) = pair();
            operator.subscribe_callback(|_| {});
            robot.put_subscription(make()).unwrap();
            drop(robot);
            no_thread_is_left();
            let (robot, raw) = testkit::client_and_raw(&Options::new());
            robot.put_subscription(make()).unwrap();
            drop(raw);
            robot.wait_closed_timeout(DEADLINE).unwrap_err();
            no_thread_is_left();
        }
    });
}

#[test]
fn a_source_that_is_replaced_a_thousand_times_leaves_no_thread() {
    alone(
        "a_source_that_is_replaced_a_thousand_times_leaves_no_thread",
        || {
            let (robot, operator) = Options::new().pair();
            operator.subscribe_callback(|_| {});
            thread::scope(|scope| {
                for make in [seldom, endless] {
                    let robot = &robot;
                    scope.spawn(move || {
                        for _ in 0..1000 {
                            robot.put_subscription(make()).unwrap();
                        }
                    });
                }
            });
            robot.stop_subscription();
            no_thread_is_left();
        },
    );
}
