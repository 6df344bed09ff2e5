//! A control loop at a real-time priority that preempts, on the same processor, the thread that
//! fills its queue.
//!
//! Needs Linux, root, and chrt and taskset (util-linux). Where these are missing, the tests report
//! that they are skipped.
#![cfg(target_os = "linux")]

mod testkit;

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rtcbot_websocket::pubsub;
use rtcbot_websocket::{Latest, Message, Queue, Sink, Subscription};
use testkit::{DEADLINE, pair};

const MS: Duration = Duration::from_millis(1);

/// The number that the system has for this thread.
fn thread_id() -> String {
    let link = std::fs::read_link("/proc/thread-self").unwrap();
    link.file_name().unwrap().to_str().unwrap().to_owned()
}

fn done(command: &str, arguments: &[&str]) -> bool {
    let status = Command::new(command)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// The last processor that this process may run on.
fn processor() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let last = list.unwrap().trim().rsplit([',', '-']).next().unwrap();
    last.to_owned()
}

/// Keeps this thread on one processor.
fn stay(processor: &str) -> bool {
    done("taskset", &["-pc", processor, &thread_id()])
}

/// Gives this thread the lowest real-time priority.
fn be_urgent() -> bool {
    done("chrt", &["-f", "-p", "1", &thread_id()])
}

/// Calls `poll` as a control loop does, for this time, at a real-time priority, while `flood` is
/// called on the same processor at normal priority. Returns how long the longest call took; `None`
/// where the priority cannot be set.
fn longest(
    time: Duration,
    poll: impl Fn() + Sync,
    mut flood: impl FnMut() + Send,
) -> Option<Duration> {
    let (ready, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let processor = processor();
    thread::scope(|scope| {
        scope.spawn(|| {
            if stay(&processor) {
                ready.store(true, Ordering::SeqCst);
                while !over.load(Ordering::SeqCst) {
                    flood();
                }
            }
        });
        let polling = scope.spawn(|| {
            let able = stay(&processor) && be_urgent();
            let begun = Instant::now();
            let mut longest = Duration::ZERO;
            while able && begun.elapsed() < time {
                let before = Instant::now();
                poll();
                longest = longest.max(before.elapsed());
                // Without a pause it would use the whole processor.
                thread::sleep(MS);
            }
            over.store(true, Ordering::SeqCst);
            (able && ready.load(Ordering::SeqCst)).then_some(longest)
        });
        polling.join().unwrap()
    })
}

// crossbeam 997: a receiver that has preempted the sender spins until the system lets the sender
// run, which takes 0.95 s.
#[test]
fn a_poll_at_a_real_time_priority_does_not_wait_for_a_sender_that_it_has_preempted() {
    for queue in [Queue::Latest, Queue::DropOldest(4)] {
        for poll in [
            |items: &Subscription<u64>| drop(items.try_get()),
            |items: &Subscription<u64>| drop(items.get_timeout(Duration::ZERO)),
            |items: &Subscription<u64>| drop(items.get_timeout(MS)),
        ] {
            let (mut publisher, producer) = pubsub::producer();
            let items = producer.subscribe_with(queue);
            let longest = longest(2000 * MS, || poll(&items), || publisher.put(1));
            let Some(longest) = longest else {
                return testkit::skip("no real-time priority is to be had");
            };
            eprintln!("{queue:?}: {longest:?}");
            assert!(longest < 500 * MS, "{queue:?}: {longest:?}");
        }
    }
}

#[test]
fn a_latest_at_a_real_time_priority_does_not_wait_for_a_feeder_that_it_has_preempted() {
    let latest = Latest::new();
    let poll = || assert_ne!(latest.fresh(MS), Some(0));
    let Some(longest) = longest(2000 * MS, poll, || latest.put_nowait(1).unwrap()) else {
        return testkit::skip("no real-time priority is to be had");
    };
    eprintln!("Latest: {longest:?}");
    assert!(longest < 500 * MS, "{longest:?}");
}

#[test]
fn a_put_at_a_real_time_priority_does_not_wait_for_a_writer_that_it_has_preempted() {
    // Made on a thread that stays on one processor, so that its own threads do too.
    let made = thread::spawn(|| stay(&processor()).then(pair));
    let Some((client, server)) = made.join().unwrap() else {
        return testkit::skip("no thread can be kept on a processor");
    };
    let reading = thread::spawn(move || while server.get().is_ok() {});
    // Too long to be written by the thread that puts it: each one has to wake the writer.
    let message = Message::from(vec![0; 17 << 10]);
    let longest = longest(
        5000 * MS,
        || drop(client.put_nowait(message.clone())),
        || {
            drop(client.put_timeout(message.clone(), DEADLINE));
            thread::yield_now();
        },
    );
    let _ = client.close();
    reading.join().unwrap();
    let Some(longest) = longest else {
        return testkit::skip("no real-time priority is to be had");
    };
    eprintln!("put_nowait: {longest:?}");
    assert!(longest < 500 * MS, "{longest:?}");
}
